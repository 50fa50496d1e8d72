"""Day 06: what a node prints, its threads, its command line, and how it ends."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest
from conftest import Account
from processes import ROOT, Connection, free_port, handlers, patience, posix, run_unread, start_node

import blockchain_server

BALANCE = {"request": "get_balance", "address": "bob"}
BALANCE_ANSWER = {"address": "bob", "balance": 0}
SCRIPTS = ["blockchain_server.py", "blockchain_client.py"]
TELL_THE_PEERS = "def tell_the_peers(*_): raise ConnectionRefusedError('a peer that is gone')\n"
GOODBYE = "\nGoodbye! The chain ends with its node.\n"
STRUCK = "socket.create_server BlockChain.generate_address collections.Counter.__getitem__"
# Room for a dozen threads, as each asks for so much; and always enough for everything else.
ROOM = "resource.setrlimit(resource.RLIMIT_AS, (2**32,) * 2)\nscript.threading.stack_size(2**28)"
LIMITS = {"descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))", "threads": ROOM}


# ---- What the node prints
def test_the_node_says_what_the_tutorial_says(run):
    node = run("blockchain_server.py", free_port())
    node.wait_for(r"Miner address: \S+\nMiner private: \S+\n")
    listening = r"Listening on port (\d+)\. Ctrl-C ends the node and its chain\.\n"
    port = int(node.wait_for(listening + r"In another terminal, type: .+\n")[1])
    node.wait_for(r"Create genesis block\.\.\.\n")
    for _ in range(10):
        node.wait_for(r"Hash found: 0[0-9a-f]{39} @ difficulty 1, time cost: \d+\.\d+s\n")
    node.wait_for(r"Average block time:\d+\.\d+s\. High up the difficulty\n")
    node.wait_for(r"Hash found: 00[0-9a-f]{38} @ difficulty 2, time cost: ")
    client = Connection(port)
    node.wait_for(rf"Connected by: \('127\.0\.0\.1', {client.socket.getsockname()[1]}\)\n")
    client.ask(BALANCE)
    node.wait_for(r"\[\*\] Received: b'.*get_balance.*bob.*'\n")
    node.wait_for(r"Start to get the balance for client\.\.\.\n")
    client.ask({"request": "transaction", "data": 1, "signature": b""})
    node.wait_for(r"Start to transaction for client\.\.\.\n")
    node.wait_for(r"cannot be parsed: transaction needs .*\.\n")


def test_the_node_shows_a_command_that_works_for_the_client(run, tmp_path):
    """Here the node was started from another folder, and the name of the scripts' has a space."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for script in SCRIPTS:
        shutil.copy(ROOT / script, folder)
    node = run(folder / "blockchain_server.py", 0)
    command = node.wait_for(r"In another terminal, type: (.+)\n")[1]
    assert f'"{folder / "blockchain_client.py"}"' in command
    client = subprocess.run(command, shell=True, input="", capture_output=True, text=True)
    assert client.returncode == 0 and client.stdout.startswith("An empty line leads back")


def test_the_node_shows_what_was_typed_for_python(run):
    """A character that the output cannot show does not stop the node."""
    typed = "script.sys.orig_argv[0] = '.venv/謝'; script.sys.argv[0] = 'blockchain_server.py'"
    ascii_only = "script.sys.stdout.reconfigure(encoding='ascii', errors='strict')"
    node = run("blockchain_server.py", 0, before=f"{typed}\n{ascii_only}")
    node.wait_for(r"In another terminal, type: \.venv/\\u8b1d blockchain_client\.py \d+\n")


def difficulty(rule):
    """Return code that gives a node another difficulty after each block. 12 is never found."""
    return f"script.BlockChain.adjust_difficulty = lambda self: setattr(self, 'difficulty', {rule})"


@posix
def test_the_keys_are_on_the_screen_when_blocks_become_slow(run):
    """A screen has 24 rows here, and the first fifty blocks fill more than that."""
    slow = difficulty("12 if len(self.chain) > 50 else 1")
    node = run("blockchain_server.py", 0, terminal=True, before=slow)
    keys = node.wait_for(r"Miner address: \S+\nMiner private: \S+\nListening .+\n.+type: .+\n")[0]
    node.wait_for("Block 51 @ difficulty 12: ")
    lines = node.output.split("\n")
    rows = [row for line in lines for row in re.findall(".{1,70}", line) or [""]]
    assert keys.replace("\n", "") in "".join(rows[-24:])
    assert node.output.count(keys) == 2


def screen_rows(output):
    """Return the rows that a terminal shows: what comes after "\\r" is written over the row."""
    for row in output.split("\n"):
        shown = ""
        for part in row.split("\r"):
            shown = part + shown[len(part) :]
        yield shown


@posix
@pytest.mark.parametrize("columns", [70, 200, 0])
def test_a_slow_block_shows_on_a_terminal_how_the_mining_goes_on_one_line(run, columns):
    """Block 2 is never found. A terminal that reports 0 columns gets lines of 79."""
    node = run("blockchain_server.py", 0, terminal=True, before=difficulty(12))
    node.resize(columns)
    port = int(node.wait_for(r"Listening on port (\d+)")[1])
    progress = r"Block 2 @ difficulty 12: (\d+)s \(average [\d,]+s, [\d,]{6,} hashes[^\r]*"
    for seconds in (r"(\d+)s", r"[1-9]\d*s"):
        line = node.wait_for(progress.replace(r"(\d+)s", seconds) + r"\r")[0]
        assert "\n" not in line and (columns < 200 or ", 0 of 0 pending" in line)
    assert Connection(port).ask(BALANCE) == BALANCE_ANSWER
    node.wait_for(r"Start to get the balance for client\.\.\.\n")
    node.wait_for(progress)
    node.press("C")
    assert node.status() == 0
    *rows, last = screen_rows(node.output[: node.output.index(GOODBYE)])
    known = r"Miner .+|Listening .+|In another .+|Create .+|Hash .+|Average .+"
    known += r"|Connected by: \('127.0.0.1', \d+\) *|\[\*\] Received: b'.+' *|Start .+\.\.\. *"
    for row in rows:
        assert re.fullmatch(known, row)
        assert len(row.rstrip()) == len(row) or len(row) <= (columns or 80) - 1
    assert re.fullmatch(progress + r"\^C *", last)  # what was written does not hide the ^C
    assert len(last.rstrip()) <= (columns or 80) - 1 + len("^C")
    assert " \n" not in node.output.split("Block 2 @")[0]  # nothing to write over: no spaces


@posix
def test_the_line_that_changes_counts_the_transactions(run):
    """Block 2 begins when a transaction is pending, and is never found."""
    wait = "while not self.pending_transactions: script.time.sleep(0.01)\n    self.difficulty = 12"
    wait = f"def wait(self):\n    {wait}\nscript.BlockChain.adjust_difficulty = wait"
    node = start_node(run, Account, terminal=True, before=wait)
    node.resize(120)
    for number in (1, 2):
        payment = node.miner.request("bob", 1, 0, f"{number}")
        assert node.connect().ask(payment)["result"] is True
        node.wait_for(rf"Block 2 @ difficulty 12: .*hashes/s\), 1 of {number} pending\r")


def test_a_log_is_there_at_once_and_never_holds_the_line_that_changes(run):
    node = start_node(run, Account, before=difficulty(12))
    for _ in range(20):
        node.connect().ask(BALANCE)
    node.wait_for(r"Start to get the balance for client\.\.\.\n")
    assert "Block 2 @" not in node.output and "\r" not in node.output


def test_the_lines_of_two_threads_never_mix(monkeypatch):
    """While one thread is in the middle of its line, another one wants to print, too."""
    pieces = []
    other = threading.Thread(target=blockchain_server.say, args=["another line"])

    def write(piece):
        pieces.append(piece)
        if piece == "a line":
            other.start()
            other.join(0.1)

    monkeypatch.setattr(sys, "stdout", mock.Mock(write=write))
    blockchain_server.say("a line")
    other.join()
    assert "".join(pieces) == "a line\nanother line\n"


# ---- Either script works with the other half of the published pair
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_published_client_is_served(node, run, protocol):
    keys = node.miner.address, node.miner.private
    client = run("tests/published_client.py", node.port, protocol, *keys)
    client.wait_for(rf"\{{'address': '{re.escape(keys[0])}', 'balance': \d+\}}\n")
    client.wait_for(r"\{'result': True, 'result_message': 'Authorized successfully!'\}\n")
    client.wait_for(r"\{'message': 'Unknown command.'\}\n")
    assert client.status() == 0


def test_the_client_works_with_the_published_node(run, alice):
    port = free_port()
    node = run("tests/published_node.py", port)
    node.wait_for("listening")
    client = run("blockchain_client.py", port)
    sender = re.escape(alice.address)
    client.type(f"2\n{alice.address}", then=rf"\{{'address': '{sender}', 'balance': 620\}}\n")
    payment = "\n".join(["3", alice.address, alice.private, "bob", "50", "1", "謝謝"])
    client.type(payment, then="'Authorized successfully!'")
    fields = r"\('amounts', 50\), \('fee', 1\), \('message', '謝謝'\), \('receiver', 'bob'\)"
    node.wait_for(rf"\[{fields}, \('sender', '{sender}'\)\] 64\n")


def test_each_connection_has_a_thread_until_its_client_leaves(server):
    """The thread gets its turn before the 5 milliseconds that Python lets it wait by default."""
    assert sys.getswitchinterval() < 0.0001
    connections = [server.connect() for _ in range(5)]
    assert [connection.ask(BALANCE) for connection in connections] == [BALANCE_ANSWER] * 5
    assert len(handlers()) == 5
    for connection in connections:
        connection.socket.close()
    assert handlers(patience.seconds) == []


@pytest.mark.skipif(sys.platform != "linux", reason="not every system keeps these limits")
@pytest.mark.parametrize("limit", LIMITS)
def test_when_a_crowd_leaves_the_node_hears_again(run, limit):
    node = start_node(run, Account, before=f"import resource\n{LIMITS[limit]}")
    crowd = [node.connect() for _ in range(50)]
    node.wait_for("Too many connections: ")
    for connection in crowd:
        connection.socket.close()

    def ask():
        with contextlib.suppress(ConnectionError):  # the node has not yet seen that they left
            return node.connect().ask(BALANCE)

    assert patience.wait(threading.Event(), ask) == BALANCE_ANSWER
    assert "Traceback" not in node.output


def test_a_lack_of_room_or_a_client_that_has_gone_ends_no_listener(ledger, monkeypatch, capsys):
    kinds = [ConnectionAbortedError, ConnectionResetError, OSError, RuntimeError, MemoryError]
    listener = mock.Mock()
    listener.accept.side_effect = [kind("no room") for kind in kinds]
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(StopIteration):
        ledger.wait_for_socket_connection(listener)
    assert capsys.readouterr().out == "Too many connections: no room\n" * 3
    assert pauses == [1, 1, 1]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("ports", [[], ["abc"], ["1e3"], [""], ["1", "2"]])
def test_what_is_no_port_is_refused(run, script, ports):
    process = run(script, *ports)
    assert process.status() == 2
    process.wait_for(rf"^usage: {script} \[-h\].* port\n.*: error: .*\n$")


def test_a_port_that_cannot_serve_is_named_in_one_line(server, run):
    """One that does not exist; one in use, for the node; one without a node, for the client."""
    lines = r"port %d: .+[^.]\. Choose another port", r"no node on port %d: .+[^.]\. Start the node"
    for script, line, last in zip(SCRIPTS, lines, [server.socket_port, free_port()]):
        for port in (server.socket_port + 65536, -1, last):
            process = run(script, port)
            assert process.status() == 1
            assert re.fullmatch(f"{script}: {line % port}\\.\n", process.output)
            assert "[Errno" not in process.output and "while" not in process.output


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_rsa_one_line_says_where_to_look(run, script):
    process = run(script, 1111, python=["-S"])  # which leaves out the installed packages
    assert process.status() == 1
    assert process.output == "The package rsa is missing. README.md explains how to install it.\n"


def test_a_mistake_in_the_mining_shows_its_place(run):
    """On Day 07, a peer that has gone is an OSError. It must not look like one of the port."""
    mistake = f"{TELL_THE_PEERS}script.BlockChain.find_nonce = tell_the_peers"
    node = run("blockchain_server.py", 0, before=mistake, traceback=True)
    assert node.status() == 1 and "in mine_block" in node.output
    assert node.output.endswith("ConnectionRefusedError: a peer that is gone\n")


def test_a_mistake_in_a_request_shows_its_place_and_ends_one_connection(run):
    """An OSError that does not come from the connection must not be hidden."""
    mistake = f"{TELL_THE_PEERS}script.BlockChain.get_balance = tell_the_peers"
    node = start_node(run, Account, before=mistake, traceback=True)
    assert node.connect().ask(BALANCE) is None
    traceback = node.wait_for(r"Traceback(.*\n)+?\w+Error.*\n")[0]
    assert "in respond" in traceback and "a peer that is gone\n" in traceback
    assert node.connect().ask({"request": "hello"}) == {"message": "Unknown command."}


@posix
def test_ctrl_c_ends_the_node_with_clients_connected_and_its_port_is_free_again(node, run):
    connections = [node.connect() for _ in range(5)]
    connections[0].ask(BALANCE)
    connections[1].send(b"\x80")
    node.interrupt()
    assert node.status() == 0 and GOODBYE in node.output
    run("blockchain_server.py", node.port).wait_for("Hash found: ")


@posix
def test_ctrl_c_at_any_moment_ends_the_node(run):
    """CTRL_C_PRESSES=200 presses that often.

    With an exception in place of the signal handler, 9 of 18 runs were stuck on Python 3.14.
    """
    chance = random.Random(14)
    for _ in range(int(os.environ.get("CTRL_C_PRESSES", "6"))):
        node = start_node(run, Account)
        asking = threading.Event()

        def keep_asking(connection, asking=asking):
            with contextlib.suppress(OSError, AssertionError):  # until the node has ended
                while connection.ask(BALANCE):
                    asking.set()

        clients = [threading.Thread(target=keep_asking, args=[node.connect()]) for _ in range(3)]
        for client in clients:
            client.start()
        assert patience.wait(asking, asking.is_set)
        time.sleep(chance.random() * 0.2)  # no wait for anything: this is the random moment
        node.interrupt()
        assert node.status() == 0
        assert GOODBYE in node.output and "Traceback" not in node.output
        for client in clients:
            client.join()


@posix
@pytest.mark.parametrize("struck", STRUCK.split())
def test_ctrl_c_wherever_it_strikes_ends_the_node(run, struck):
    """It strikes before the port is open, while keys are made, and while the lock is held."""
    strike = f"lambda *_, **__: script.os.kill(script.os.getpid(), {int(signal.SIGINT)})"
    node = run("blockchain_server.py", 0, before=f"script.{struck} = {strike}")
    assert node.status() == 0
    assert node.output.endswith(GOODBYE) and "Traceback" not in node.output


@posix
def test_a_log_that_nobody_reads_any_more_ends_the_node_without_a_word():
    """As in `python blockchain_server.py 1111 | head -3`."""
    node = run_unread("blockchain_server.py", 0)
    _, error = node.communicate(timeout=patience.seconds)
    assert (node.returncode, error) == (1, b"")


@posix
def test_a_second_ctrl_c_ends_a_node_whose_output_is_stuck():
    """As in `python blockchain_server.py 1111 | less`, when the pipe is full."""
    (reader, writer), port = os.pipe(), free_port()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 65536):  # until the pipe is full to the last byte
            pass
    os.set_blocking(writer, True)
    command = [sys.executable, ROOT / "blockchain_server.py", str(port)]
    node = subprocess.Popen(command, stdout=writer)

    def connect():  # when its port is open, the node knows what Ctrl-C means, and wants to print
        with contextlib.suppress(ConnectionError):
            return Connection(port)

    with patience.wait(threading.Event(), connect):
        for _ in range(20):
            node.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(0.1)
        node.kill()
    assert node.wait() == -signal.SIGINT
    os.close(reader)
    os.close(writer)
