"""Day 06: a node on a port, a menu client on a terminal, and pickles between them."""

import os
import subprocess
import sys
import threading

import pytest
from conftest import Connection, ROOT, free_port

posix = pytest.mark.skipif(os.name != "posix", reason="a terminal of this kind is POSIX's")
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
    answer = client.wait_for(r"\[\*\] Message from node: \{'address': '(\S+)', 'balance': (\d+)\}\n")
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
def test_the_node_says_what_the_tutorial_says(run_node, run):
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
def test_ten_questions_in_a_row_are_answered_at_once(client):
    for _ in range(10):
        client.type("2\nbob")
    for _ in range(10):
        client.wait_for(r"\[\*\] Message from node: \{'address': 'bob', 'balance': 0\}\n")
    client.wait_for("Command: ")
    assert "No answer" not in client.output


@posix
def test_spaces_around_what_is_pasted_do_not_matter(client, node):
    choose(client, " 2 ", Address=f"  {node.miner.address}\t ")
    client.wait_for(rf"\{{'address': '{node.miner.address.replace('+', '.')}', 'balance': [1-9]")


@posix
def test_a_node_that_never_answers_does_not_keep_the_menu(run):
    with __import__("socket").create_server(("127.0.0.1", 0)) as silent:
        client = run("blockchain_client.py", silent.getsockname()[1], window=WINDOW)
        choose(client, "2", Address="bob")
        client.wait_for(r"No answer from the node\.\nCommand list:\n")
