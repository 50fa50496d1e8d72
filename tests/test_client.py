"""Day 06: the menu client, with a person's slips and pastes, and with nodes that misbehave.

Most sessions go through pipes, where nothing echoes what is typed; a terminal has its own section.
"""

import os
import re
import socket

import pytest
from conftest import Account
from processes import posix

from blockchain_client import any_text, private_key_of, whole_address

MENU = r"Command list:\n1\. generate_address\n2\. get_balance\n3\. transaction\n(.*\n)*?Command: "
FIELDS = ["Address", "Private_key", "Receiver", "Amount", "Fee", "Comment"]
PART_OF_KEY = "this looks like a key, or part of one. Here goes a whole address, never a private"


@pytest.fixture
def client(node, run):
    """The menu client on pipes, connected to a node, at its first prompt."""
    client = run("blockchain_client.py", node.port)
    client.wait_for("Command: ")
    return client


def answer(client, **answers):
    """Answer the prompts, in the order given."""
    for prompt, text in answers.items():
        client.wait_for(f"{prompt}: ")
        client.type(text)


def good_answers(account, **others):
    """Return an answer to every prompt of a payment."""
    good = dict(Address=account.address, Private_key=account.private, Receiver="bob")
    return {**good, "Amount": "1", "Fee": "0", "Comment": "", **others}


def test_the_menu_is_the_tutorials_and_comes_after_the_answer(client):
    hello = r"An empty line leads back to the menu\. Ctrl-C ends the client\.\n"
    assert re.match(hello + MENU, client.output)
    for _ in range(10):
        client.type("2")
        answer(client, Address="bob")
        client.wait_for(r"\] Message from node: \{'address': 'bob', 'balance': 0\}\nCommand list")


def test_input_that_ends_ends_the_client_after_the_last_answer(client):
    client.type("3")
    answer(client, **good_answers(Account()))
    client.end_input()
    assert client.status() == 0
    assert "{'result': False, 'result_message': 'Balance not enough!'}\n" in client.output


# Keys: a private key stays at home, and an address arrives whole.


@pytest.fixture
def silent():
    """A socket in place of a node. It takes what is sent, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent


def test_a_private_key_is_never_sent(run, silent, alice):
    """Nor is a part of it, whatever is pasted wherever."""
    secret = Account().private
    lines = [secret[start : start + 64] for start in range(0, len(secret), 64)]
    pastes = [secret, f"Private key: {secret}", secret[:-1], secret[10:40], *lines]
    client = run("blockchain_client.py", silent.getsockname()[1])
    client.wait_for("Command: ")
    client.type(secret)
    client.wait_for(r"Unknown command\.\n")
    client.type("2")
    good = {"get_balance": "", **good_answers(alice, Comment=secret)}
    for field, text in good.items():
        if field == "Address":
            client.wait_for("Command: ")
            client.type("3")
        prompt = "Address" if field == "get_balance" else field
        client.wait_for(f"{prompt}: ")
        for paste in pastes if field != "Private_key" else pastes[1:]:
            client.type(paste)
            client.wait_for(rf"{prompt}: this .*\.\n{prompt}: ")
        client.type(text)
    client.end_input()
    assert client.status() == 0
    with silent.accept()[0] as connection:
        assert connection.recv(1) == b""
    assert secret[10:40] not in client.output


def test_part_of_an_address_is_refused(alice):
    address = alice.address
    for part in (
        *(address[:-1], address[:30] + address[31:], address[20:], address[10:34]),
        *(address[-9:], "="),
        address[:-2] + chr(ord(address[-2]) + 1) + "=",  # another spelling of the same key
        f"Address: {address}",  # a triple click takes the label along
        f"{address} {address}",
        "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANrG",  # the article's format
    ):
        with pytest.raises(ValueError, match=PART_OF_KEY):
            any_text(part)
    assert any_text(address) == whole_address(address) == address


def test_any_other_text_is_a_receiver_or_a_comment():
    for text in (
        *("test123", "小明", "True", "MIKE", "M", "bob\tjones", "é", "", "a" * 23, "1" * 23),
        *("Thank you for the lunch yesterday", "happy birthday my dear friend"),
        *("謝謝你昨天的午餐" * 9, "I keep my PRIVATE KEY in a book", "50 = 51 (MIIBOgIBAAJBAM)"),
    ):
        assert any_text(text) == text


@pytest.mark.filterwarnings("ignore:You have provided a malformed keyfile")
def test_a_private_key_must_be_the_addresss_and_whole(alice):
    assert private_key_of(alice.address, alice.private) == alice.private
    others = [Account().private, "", "é", "=", "MII", alice.address, alice.private[:-1]]
    for place, old in enumerate(alice.private):
        changed = "A" if old != "A" else "B"
        others.append(alice.private[:place] + changed + alice.private[place + 1 :])
    for other in others:
        with pytest.raises(ValueError, match="^this is not the whole private key of the address"):
            private_key_of(alice.address, other)


# Slips

SLIPS = dict(
    Address=["alice", "é", "A" * 96],
    Private_key=["secret", "é", "="],
    Receiver=["A" * 24],
    Amount=["ten", "1.5", "-5", "0", "nan", "1e3", "0x10", "9" * 5000],
    Fee=["ten", "1.5", "-1"],
    Comment=["A" * 24],
)


def test_a_slip_costs_one_line(client, node):
    """Digits may be full-width, and blanks around do not matter."""
    client.type(" ３ ")
    client.wait_for("Address: ")
    good = good_answers(node.miner, Amount="１", Fee="０", Comment="謝謝")
    for number, (field, text) in enumerate(good.items()):
        for slip in SLIPS[field]:
            client.type(slip)
            said = client.wait_for(rf"{field}: (this .*\.)\n{field}: ")[1]
            assert slip not in said
        client.type(f"  {text}  ")
        client.wait_for(f"{FIELDS[number + 1]}: " if field != "Comment" else "Authorized success")
    client.wait_for("The transaction counts as soon as a block with it is mined")


def test_an_empty_line_leads_back_to_the_menu(client, node):
    for field in range(len(FIELDS) - 1):
        client.type("3")
        answer(client, **dict(list(good_answers(node.miner).items())[:field]))
        client.wait_for(f"{FIELDS[field]}: ")
        client.type("  ")
        client.wait_for(MENU)


def test_nonsense_for_a_command_says_what_there_is(client):
    for nonsense in ("0", "generate_address", "é", "1 2", "\uff10"):
        client.type(nonsense)
        client.wait_for(
            r"Unknown command\.\nType a number from 1 to \d; Ctrl-C ends the client\.\nCommand list"
        )


def test_bytes_that_are_no_text_do_not_end_the_session(client):
    os.write(client.input_end, b"\xff\xfe\n")
    client.wait_for(r"Unknown command\.\n")
    os.write(client.input_end, b"2\n\xff\xfe\n")
    client.wait_for("'balance': 0")


# On a terminal

UP, LEFT = "\x1b[A", "\x1b[D"


@pytest.fixture
def on_terminal(node, run):
    """The client on a terminal of its own."""
    client = run("blockchain_client.py", node.port, terminal=True)
    client.wait_for("Command: ")
    return client


@posix
def test_arrows_edit_a_line_and_up_brings_no_private_key_back(on_terminal, node):
    on_terminal.type("3")
    answer(on_terminal, Address=node.miner.address, Private_key=node.miner.private)
    on_terminal.wait_for("Receiver: ")
    on_terminal.type("")
    on_terminal.wait_for(MENU)
    before = len(on_terminal.output)
    on_terminal.type("2")
    on_terminal.wait_for("Address: ")
    on_terminal.type(UP * 3 + "bo" + LEFT + "X")
    on_terminal.wait_for(r"'address': 'bXo'")
    assert node.miner.private[40:70] not in on_terminal.output[before:]


@posix
@pytest.mark.parametrize("how, status", [("C", 130), ("D", 0), ("the node goes", 1)])
@pytest.mark.parametrize("prompt", ["Command", "Private_key", "Comment"])
def test_the_client_ends_at_any_prompt_and_leaves_the_terminal_as_it_was(
    on_terminal, node, prompt, how, status
):
    import termios  # not on Windows

    fresh = os.openpty()
    if prompt != "Command":
        on_terminal.type("3")
        before = list(good_answers(node.miner).items())[: FIELDS.index(prompt)]
        answer(on_terminal, **dict(before))
        on_terminal.wait_for(f"{prompt}: ")
    if how == "the node goes":
        node.interrupt()
        on_terminal.wait_for(r"\nThe connection to the node has ended\.\n")
    while how in "CD" and not on_terminal.ended:
        # Python misses a Ctrl-C between showing a prompt and reading: a person presses again.
        on_terminal.press(how)
        with on_terminal.news:
            on_terminal.news.wait_for(lambda: on_terminal.ended, 1)
    assert on_terminal.status() == status
    assert "Traceback" not in on_terminal.output
    assert termios.tcgetattr(on_terminal.output_end) == termios.tcgetattr(fresh[0])
    for descriptor in fresh:
        os.close(descriptor)


# Nodes that go, are silent, or misbehave


def test_a_node_that_goes_away_is_noticed_at_once_on_a_pipe_too(client, node):
    node.popen.kill()
    client.wait_for(r"\nThe connection to the node has ended\.\n")
    assert client.status() in (1, 2)  # on Windows, which knows no Ctrl-C of this kind, 2
    assert "Traceback" not in client.output


@posix
def test_ctrl_c_ends_the_client_while_it_waits_for_an_answer(run, silent):
    client = run("blockchain_client.py", silent.getsockname()[1], before=LONG)
    client.type("2\nbob")
    connection, _ = silent.accept()
    assert connection.recv(1)
    client.interrupt()
    assert client.status() == 130
    connection.close()


def test_a_node_that_never_answers_does_not_keep_the_menu(run, silent):
    client = run("blockchain_client.py", silent.getsockname()[1], before=SHORT)
    client.type("2\nbob")
    client.wait_for(r"No answer from the node\.\nCommand list:\n")


ASCII = "script.sys.stdout.reconfigure(encoding='ascii', errors='strict')"
SHORT, LONG = (f"script.ANSWER_SECONDS = {seconds}" for seconds in (1, 10**6))


@pytest.mark.parametrize(
    "said, shown",
    [
        (b"{'message': 'one'}", r"\{'message': 'one'\}"),
        (
            "{'message': '\x1b[2J\n\u202e\\p謝'}".encode(),
            r"\{'message': '\\x1b\[2J\\n\\u202e\\p\\u8b1d'\}",
        ),
        (b"\xff{[(", r"\\xff\{\[\("),
        (b"a" * 10**6, "a{1000}"),
    ],
)
def test_whatever_a_node_says_is_shown_at_once_and_steers_no_terminal(run, said, shown):
    with socket.create_server(("127.0.0.1", 0)) as talkative:
        client = run("blockchain_client.py", talkative.getsockname()[1], before=ASCII)
        connection, _ = talkative.accept()
        with connection:
            connection.sendall(said)
            client.wait_for(r"\[\*\] Message from node: " + shown)
            assert "The payment counts" not in client.output
            client.end_input()
            assert client.status() == 0
        assert "\x1b" not in client.output and "Traceback" not in client.output
