"""Day 06: what a person sees of a node on a terminal, and what a log file holds."""

import io
import re
import sys
import threading
import time

import pytest
from conftest import Account
from processes import WINDOW, Connection, never_found, posix, running, start_node

import blockchain_server

pytestmark = posix
PROGRESS = r"\[Enter: keys\] Block 2 @ difficulty 40: \d+s \(average [\d,]+s, [\d,]+ hashes/s\)"


def rows(output, width=80):
    """Return the rows of a terminal of this width after all that was written to it."""
    screen, column = [[]], 0
    for character in output:
        if character == "\n":
            screen.append([])
            column = 0
        elif character == "\r":
            column = 0
        else:
            if column == width:
                screen.append([])
                column = 0
            screen[-1][column : column + 1] = [character]
            column += 1
    return ["".join(row).rstrip() for row in screen]


@pytest.fixture(scope="module")
def slow():
    """A node that never finds its second block, on a terminal that is wide enough."""
    with running() as start:
        yield never_found(start, window=(24, 200))


def test_a_slow_block_shows_how_the_mining_goes_on_one_line(slow):
    slow.skip()
    for _ in range(5):
        slow.wait_for(r"\r" + PROGRESS)
    assert re.fullmatch(PROGRESS, rows(slow.output, 200)[-1])
    shown = [row for row in rows(slow.output, 200) if row.startswith("[Enter")]
    assert len(shown) == 1


def test_a_line_that_stays_takes_the_place_of_the_one_that_changes(slow):
    slow.skip()
    slow.wait_for("hashes/s")
    Connection(slow.port).ask({"request": "get_balance", "address": "bob"})
    slow.wait_for("Start to get the balance for client...\n")
    slow.wait_for("hashes/s")
    written = rows(slow.output, 200)
    assert "Start to get the balance for client..." in written
    assert not any("hashes/s" in row and "Start" in row for row in written)
    assert not any("hashes/s" in row and "Connected" in row for row in written)


def test_a_line_that_changes_never_wraps(run):
    node = never_found(run, window=(24, 40))
    for _ in range(5):
        node.wait_for(r"\r\[Enter: keys\] Block 2 @ difficu")
    assert max(map(len, node.output.split("\r")[-3:])) == 39
    assert len([row for row in rows(node.output, 40) if "[Enter" in row]) == 1


def test_ctrl_d_ends_the_offer_of_the_keys_and_not_the_node(run):
    node = never_found(run, window=(24, 200))
    node.wait_for(PROGRESS)
    node.press("D")
    for _ in range(2):
        node.wait_for(r"\rBlock 2 @ difficulty 40: ")
    assert node.popen.poll() is None


def test_in_a_python_shell_the_keyboard_stays_with_the_shell(run):
    plain_shell = {"python": ("-i", "-c", "pass"), "PYTHON_BASIC_REPL": "1"}
    shell = run("blockchain_server.py", window=WINDOW, **plain_shell)
    shell.type("from blockchain_server import BlockChain")
    shell.type("BlockChain().start()")
    shell.wait_for_blocks(3)
    shell.press("C")
    shell.wait_for(r"KeyboardInterrupt\n>>> ")
    shell.type("6 * 7")
    shell.wait_for(r"\n42\n")
    assert "[Enter: keys]" not in shell.output


def test_enter_shows_the_keys_again(run):
    node = start_node(run, Account, window=WINDOW)
    for times in (2, 3):
        node.wait_for_blocks(3)
        assert node.output.count(node.miner.private) == times - 1
        node.type("")
        node.wait_for(rf"Miner address: {re.escape(node.miner.address)}\nMiner private: ")
        node.wait_for_blocks(1)
        assert node.output.count(node.miner.private) == times


def test_a_block_with_payments_says_so(run):
    node = start_node(run, Account, window=WINDOW)
    node.wait_for_blocks(10)
    node.connect().ask(node.miner.request("bob", 5))
    node.wait_for(r"Hash found: .*\nPayments in block \d+: 1\n")


@pytest.mark.parametrize("window", [(0, 0), (1, 1), (24, 2)])
def test_a_terminal_of_any_size_is_a_terminal(run, window):
    node = never_found(run, window=window)
    connection = Connection(node.port)
    for _ in range(20):
        connection.ask({"request": "get_balance", "address": "bob"})
    node.type("")
    node.wait_for("Miner private: ")
    assert "Traceback" not in node.output


def test_a_dumb_terminal_gets_lines_that_stay(run):
    node = never_found(run, speed=10**6, window=WINDOW, TERM="dumb")
    connection = Connection(node.port)
    for _ in range(50):
        connection.ask({"request": "get_balance", "address": "bob"})
    node.wait_for("Start to get the balance for client...\n")
    assert "Block 2 @" not in node.output


def test_a_log_file_never_holds_the_line_that_changes(run):
    node = never_found(run, speed=10**6)
    connection = Connection(node.port)
    for _ in range(50):
        connection.ask({"request": "get_balance", "address": "bob"})
    assert "Block 2 @" not in node.output
    assert b"\r" not in node.raw


class Slow(io.StringIO):
    """An output that lets another thread run after each character."""

    def write(self, text):
        for character in text:
            super().write(character)
            time.sleep(0)


def test_two_threads_never_mix_their_lines_on_a_slow_output(monkeypatch):
    screen = blockchain_server.Screen()
    monkeypatch.setattr(sys, "stdout", Slow())
    threads = [
        threading.Thread(target=lambda line=letter * 20: [screen.say(line) for _ in range(20)])
        for letter in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sys.stdout.getvalue().split()) == sorted(letter * 20 for letter in "abcd" * 20)


def test_two_threads_never_mix_their_lines_on_a_terminal(run):
    node = start_node(run, Account, window=(24, 200))
    connections = [node.connect() for _ in range(8)]
    for _ in range(20):
        for connection in connections:
            connection.send({"request": "get_balance", "address": "bob"})
        for connection in connections:
            connection.receive()
    whole = re.compile(
        r"Miner \w+: \S+|Listening on .*|Create genesis block\.\.\.|Hash found: .*s"
        r"|Average block time:.*difficulty|Connected by: \(.*\)|\[\*\] Received: b'.*'"
        r"|Start to get the balance for client\.\.\.|(\r *\r|\[Enter.*)*"
    )
    for line in node.output.split("\n")[:-1]:
        line = re.sub(r"^(\[Enter[^\r]*)?(\r *\r(\[Enter[^\r]*)?)*", "", line)
        assert whole.fullmatch(line), line
