"""Day 06: a node on a port, a menu client on a terminal, and pickles between them."""

import os
import re
import socket
import subprocess
import sys
import time

import pytest
from conftest import (
    PATIENCE,
    ROOT,
    Account,
    Connection,
    free_port,
    handlers,
    posix,
    start_node,
    wait_until_handlers_end,
)

import blockchain_client

WINDOW = (24, 80)  # rows, columns


@pytest.fixture
def client(node, run):
    """The menu client on a terminal of its own, connected to a node, at its first prompt."""
    client = run("blockchain_client.py", node.port, window=WINDOW)
    client.wait_for("1. generate_address\n2. get_balance\n3. transaction\nCommand: ")
    return client


def choose(client, command, **answers):
    """Choose from the menu and answer the prompts, in the order given."""
    client.type(command)
    for prompt, answer in answers.items():
        client.wait_for(f"{prompt}: ")
        client.type(answer)


def pay(client, account, receiver, amount="50", fee="1", comment="Thank you"):
    choose(
        client, "3", Address=account.address, Private_key=account.private, Receiver=receiver,
        Amount=amount, Fee=fee, Comment=comment,
    )  # fmt: skip


@posix
def test_the_walkthrough_of_the_article(node, client):
    client.type("1")
    address = client.wait_for(r"Address: (\S+)\n")[1]
    client.wait_for(r"Private key: (\S+)\n")

    for _ in range(6):  # sixty coins
        node.wait_for("Hash found: ")
    choose(client, "2", Address=node.miner.address)
    answer = client.wait_for(
        r"\[\*\] Message from node: \{'address': '(\S+)', 'balance': (\d+)\}\n"
    )
    assert answer[1] == node.miner.address
    assert int(answer[2]) >= 60

    choose(client, "2", Address=address)
    client.wait_for(r"\[\*\] Message from node: .*'balance': 0\}\n")
    pay(client, node.miner, address)
    client.wait_for(
        r"\[\*\] Message from node: "
        r"\{'result': True, 'result_message': 'Authorized successfully!'\}\n"
        r"The payment counts as soon as a block with it is mined\.\n"
    )
    node.seen = len(node.output)
    for _ in range(2):  # the block being mined does not have it, the next one does
        node.wait_for("Hash found: ")
    choose(client, "2", Address=address)
    client.wait_for(r"\[\*\] Message from node: .*'balance': 50\}\n")


@posix
def test_the_node_says_what_the_tutorial_says(run):
    port = free_port()
    node = run("blockchain_server.py", port, window=(24, 200))
    node.wait_for(r"^Miner address: \S+\nMiner private: \S+\nCreate genesis block\.\.\.\n")
    for _ in range(10):
        node.wait_for(r"Hash found: 0[0-9a-f]{39} @ difficulty 1, time cost: \d+\.\d+s\n")
    node.wait_for(r"Average block time:\d+\.\d+s\. High up the difficulty\n")
    node.wait_for(r"Hash found: 00[0-9a-f]{38} @ difficulty 2, time cost: ")
    client = Connection(port)
    own_address = client.socket.getsockname()
    node.wait_for(rf"Connected by: \('127\.0\.0\.1', {own_address[1]}\)\n")
    client.ask({"request": "get_balance", "address": "bob"})
    node.wait_for(r"\[\*\] Received: b'.*get_balance.*bob.*'\n")
    node.wait_for(r"Start to get the balance for client\.\.\.\n")
    client.ask({"request": "transaction", "data": 1, "signature": b""})
    node.wait_for(r"Start to transaction for client\.\.\.\n")


@posix
def test_the_keys_stay_in_sight_on_a_small_screen(run):
    node = start_node(run, window=WINDOW)
    for _ in range(40):
        node.wait_for("Hash found: ")
    for _ in range(10):
        node.connect().ask({"request": "get_balance", "address": "x" * 60})
        node.wait_for("get the balance for client...\n")
    keys = f"Miner address: {node.miner.address}\nMiner private: {node.miner.private}\n"
    for end in [match.end() for match in re.finditer("\n", node.output) if match.end() > 5000]:
        rows = [
            line[start : start + 80]
            for line in node.output[:end].splitlines()
            for start in range(0, len(line), 80)
        ]
        if node.output[:end].splitlines()[-1].startswith("Miner address: "):
            continue  # half of the keys is on its way
        assert keys.replace("\n", "") in "".join(rows[-23:])  # the cursor has the last row
    # Nothing is lost or reordered: without the keys the log is what it would have been.
    assert node.output.startswith(keys)
    lines = node.output.replace(keys, "").splitlines()
    assert lines[0] == "Create genesis block..."
    found = [line for line in lines if line.startswith("Hash found: ")]
    assert [int(line.split("difficulty ")[1].split(",")[0]) for line in found[:40]] == [
        *[1] * 10, *[2] * 10, *[3] * 10, *[4] * 10
    ]  # fmt: skip


@posix
def test_a_terminal_of_unknown_size_is_a_terminal(run):
    node = start_node(run, window=(0, 0))
    for _ in range(20):
        node.wait_for("Hash found: ")


def test_a_log_in_a_file_is_there_at_once_and_shows_the_keys_once(node):
    assert len(node.first_piece) < 8000  # a buffer would have held back as much
    for _ in range(40):
        node.wait_for("Hash found: ")
    assert node.output.count("Miner private: ") == 1


@posix
def test_ten_questions_in_a_row_are_answered_at_once(client):
    start = time.monotonic()
    for _ in range(10):
        choose(client, "2", Address="bob")
        client.wait_for(r"\[\*\] Message from node: \{'address': 'bob', 'balance': 0\}\n")
        client.wait_for("Command: ")
    assert time.monotonic() - start < 5  # the tutorial's client sleeps for ten seconds


@posix
def test_spaces_around_what_is_pasted_do_not_matter(client, node):
    choose(client, " 2 ", Address=f"  {node.miner.address}\t ")
    client.wait_for(rf"\{{'address': '{re.escape(node.miner.address)}', 'balance': [1-9]")


@posix
def test_no_payment_without_coins(client, node):
    pay(client, Account(), "bob", amount="1", fee="0")
    client.wait_for(r"\{'result': False, 'result_message': 'Balance not enough!'\}\nCommand list:")


@posix
def test_no_payment_with_the_key_of_somebody_else(client, node):
    thief = Account()
    thief.address = node.miner.address
    pay(client, thief, "bob", amount="1", fee="0")
    client.wait_for(r"\{'result': False, 'result_message': 'RSA Verified wrong!'\}\nCommand list:")


def test_a_pipe_asks_and_ends(node, run):
    reader, writer = os.pipe()
    os.write(writer, f"2\n{node.miner.address}\n".encode())
    os.close(writer)
    client = run("blockchain_client.py", node.port, stdin=reader)
    client.wait_for(r"\[\*\] Message from node: \{'address': .*, 'balance': \d+\}\n")
    assert client.status() == 0


def test_what_the_node_says_is_shown_at_once_even_in_a_pipe(run):
    with socket.create_server(("127.0.0.1", 0)) as talkative:
        reader, writer = os.pipe()
        client = run("blockchain_client.py", talkative.getsockname()[1], stdin=reader)
        client.wait_for("Command: ")
        connection, _ = talkative.accept()
        connection.sendall(b"{'message': 'one'}{'message': 'two'}")
        client.wait_for(r"\[\*\] Message from node: \{'message': 'one'\}\n")
        client.wait_for(r"\[\*\] Message from node: \{'message': 'two'\}\n")
        os.close(writer)
        assert client.status() == 0


def test_a_client_whose_screen_has_gone_ends(node):
    client = subprocess.Popen(
        [sys.executable, "blockchain_client.py", str(node.port)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    client.stdout.close()
    _, error = client.communicate(b"4\n" * 1000, timeout=PATIENCE)
    assert client.returncode == 1
    assert b"Traceback" not in error


# Either half works with the other half of the published pair.


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_published_client_is_served(node, run, protocol):
    client = run(
        "tests/published_client.py", node.port, protocol, node.miner.address, node.miner.private
    )
    client.wait_for(rf"\{{'address': '{re.escape(node.miner.address)}', 'balance': \d+\}}\n")
    client.wait_for(r"\{'result': True, 'result_message': 'Authorized successfully!'\}\n")
    client.wait_for(r"\{'message': 'Unknown command.'\}\n")
    assert client.status() == 0


@posix
def test_the_client_works_with_the_published_node(run, alice):
    port = free_port()
    node = run("tests/published_node.py", port)
    node.wait_for("listening")
    client = run("blockchain_client.py", port, window=WINDOW)
    choose(client, "2", Address=alice.address)
    client.wait_for(
        rf"\{{'address': '{re.escape(alice.address)}', 'balance': 620\}}\nCommand list:"
    )
    pay(client, alice, "bob", comment="謝謝")
    client.wait_for("'Authorized successfully!'")
    node.wait_for(
        r"\[\('amounts', 50\), \('fee', 1\), \('message', '謝謝'\), \('receiver', 'bob'\), "
        rf"\('sender', '{re.escape(alice.address)}'\)\] 64\n"
    )


# The threads


def test_each_connection_has_a_thread_until_its_client_leaves(server):
    connections = [server.connect() for _ in range(5)]
    for connection in connections:
        assert connection.ask({"request": "get_balance", "address": "bob"})["balance"] == 0
    assert len(handlers()) == 5
    for connection in connections:
        connection.socket.close()
    wait_until_handlers_end()


def test_200_clients_at_once_are_all_answered(node):
    connections = [node.connect() for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.send({"request": "get_balance", "address": f"client {number}"})
    for number, connection in enumerate(connections):
        assert connection.receive() == {"address": f"client {number}", "balance": 0}


# The keyboard: a slip costs one line, an end has its status.

USAGE = r"^usage: blockchain_(server|client)\.py \[-h\] port\n.*: error: .*\n$"


@pytest.mark.parametrize("script", ["blockchain_server.py", "blockchain_client.py"])
@pytest.mark.parametrize(
    "ports", [[], ["abc"], ["0"], ["-1"], ["65536"], ["1e3"], [""], ["1", "2"]]
)
def test_a_port_that_cannot_be_one_is_refused(run, script, ports):
    process = run(script, *ports)
    assert process.status() == 2
    process.wait_for(USAGE)
    assert ("is not a port from 1 to 65535" in process.output) is (len(ports) == 1)
    assert "Traceback" not in process.output


@pytest.mark.parametrize("script", ["blockchain_server.py", "blockchain_client.py"])
def test_help_has_an_example(run, script):
    process = run(script, "--help")
    assert process.status() == 0
    process.wait_for(f"example: python {script} 1111")


def test_a_port_in_use_is_said_before_any_key_is_made(node, run):
    second = run("blockchain_server.py", node.port)
    assert second.status() == 1
    assert re.fullmatch(f"blockchain_server.py: .*{node.port}.*\n", second.output)


def test_a_client_without_a_node_names_the_port(run):
    port = free_port()
    client = run("blockchain_client.py", port)
    assert client.status() == 1
    assert re.fullmatch(f"blockchain_client.py: .*{port}.*\n", client.output)


@posix
def test_ctrl_c_ends_the_node_with_clients_connected(node, run):
    connections = [node.connect() for _ in range(5)]
    connections[0].ask({"request": "get_balance", "address": "bob"})
    connections[1].send(b"\x80")
    node.interrupt()
    assert node.status() == 0
    assert node.output.endswith("\nGoodbye! The chain ends with its node.\n")
    assert "Traceback" not in node.output
    again = run("blockchain_server.py", node.port)
    again.wait_for("Hash found: ")


@posix
def test_ctrl_c_ends_the_node_on_a_terminal(run):
    node = start_node(run, window=WINDOW)
    node.press("C")
    assert node.status() == 0
    node.wait_for(r"\nGoodbye! ")


def test_a_log_that_nobody_reads_ends_the_node(run):
    reader, writer = os.pipe()
    node = subprocess.Popen(
        [sys.executable, "blockchain_server.py", str(free_port())],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    _, error = node.communicate(timeout=PATIENCE)
    assert node.returncode == 1
    assert error.startswith(b"blockchain_server.py: ") and error.count(b"\n") == 1


PROMPTS = ["Address", "Private_key", "Receiver", "Amount", "Fee", "Comment"]


@posix
@pytest.mark.parametrize("key, status", [("C", 130), ("D", 0)])
@pytest.mark.parametrize("prompts", range(len(PROMPTS) + 1))
def test_ctrl_c_and_ctrl_d_end_the_client_at_any_prompt(node, run, key, status, prompts):
    client = run("blockchain_client.py", node.port, window=WINDOW)
    answers = [node.miner.address, node.miner.private, "bob", "1", "0"]
    client.wait_for("Command: ")
    if prompts:
        client.type("3")
        for prompt, answer in zip(PROMPTS, answers[: prompts - 1]):
            client.wait_for(f"{prompt}: ")
            client.type(answer)
        client.wait_for(f"{PROMPTS[prompts - 1]}: ")
    while not client.ended:
        # Python misses a Ctrl-C between showing a prompt and reading: a person presses again.
        client.press(key)
        with client.news:
            client.news.wait_for(lambda: client.ended, 1)
    assert client.status() == status
    assert "Traceback" not in client.output


@posix
def test_a_slip_names_its_field_and_gives_the_menu_back(client, node):
    good = dict(Address=node.miner.address, Private_key=node.miner.private, Receiver="bob")
    good.update(Amount="1", Fee="0")
    half = len(node.miner.private) // 8 * 4
    slips = dict(
        Address=["", "alice", node.miner.address[:40], "é", "A" * 96, node.miner.private],
        Private_key=["", "secret", node.miner.private[:half], node.miner.address, "é", "="],
        Receiver=["", "   "],
        Amount=["", "ten", "1.5", "-5", "0", "nan", "1e3", "0x10"],
        Fee=["", "ten", "1.5", "-1"],
    )
    for field, typed in slips.items():
        before = dict(list(good.items())[: list(good).index(field)])
        for slip in typed:
            choose(client, "3", **before, **{field: slip})
            said = client.wait_for(r"\n(.*)\nCommand list:\n")[1]
            assert re.fullmatch(f"{field}: .*\\.", said), (field, slip, said)
            assert not slip.strip() or slip not in said
            client.wait_for("Command: ")
    choose(client, "2", Address="")
    assert client.wait_for(r"\n(.*)\nCommand list:\n")[1] == "Address: nothing was typed."
    assert "Traceback" not in client.output


@posix
def test_a_key_with_a_letter_changed_is_a_slip_or_is_refused(client, node):
    for place in range(20, len(node.miner.private), 40):
        thief = Account.__new__(Account)
        thief.address = node.miner.address
        letter = "A" if node.miner.private[place] != "A" else "B"
        thief.private = node.miner.private[:place] + letter + node.miner.private[place + 1 :]
        client.type("3")
        client.wait_for("Address: ")
        client.type(thief.address)
        client.wait_for("Private_key: ")
        client.type(thief.private)
        if client.wait_for(r"Private_key: this is not .*\.|Receiver: ")[0] == "Receiver: ":
            client.type("bob")
            client.type("1")
            client.type("0")
            client.type("")
            client.wait_for(r"RSA Verified wrong!|Private_key: this is not .*\.|Authorized")
        client.wait_for("Command: ")
    assert "Traceback" not in client.output
    assert "Warning" not in client.output


@posix
@pytest.mark.parametrize("nonsense", ["", "4", "generate_address", "é", "１", "\x1b[A", "1 2"])
def test_nonsense_for_a_command_is_an_unknown_command(client, nonsense):
    client.type(nonsense)
    client.wait_for(r"Unknown command\.\nCommand list:\n")


@posix
def test_bytes_that_are_no_text_do_not_end_the_session(client):
    os.write(client.terminal, b"\xff\xfe\n")
    client.wait_for(r"Unknown command\.\nCommand list:\n")
    os.write(client.terminal, b"2\n\xff\xfe\n")
    client.wait_for("'balance': 0")


@posix
@pytest.mark.parametrize("at", ["Command", "Address"])
def test_a_node_that_goes_away_is_noticed_at_once(node, client, at):
    if at == "Address":
        client.type("3")
        client.wait_for("Address: ")
    node.interrupt()
    client.wait_for(r"The connection to the node has ended\.\n")
    assert client.status() == 1


@posix
def test_a_node_that_never_answers_does_not_keep_the_menu(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = run("blockchain_client.py", silent.getsockname()[1], window=WINDOW)
        choose(client, "2", Address="bob")
        client.wait_for(r"No answer from the node\.\nCommand list:\n")


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_an_answer_is_whole_when_it_can_be_read(pieces):
    answers = [
        {"address": "a } brace, a ' quote and a \\", "balance": 5},
        {"result": False, "result_message": "謝謝 }{"},
    ]
    data = "".join(map(str, answers)).encode("utf8")
    received, found = b"", []
    for start in range(0, len(data), pieces):
        received += data[start : start + pieces]
        answer, received = blockchain_client.split_answer(received)
        while answer is not None:
            found.append(answer)
            answer, received = blockchain_client.split_answer(received)
    assert found == answers
    assert received == b""
