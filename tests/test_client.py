"""Day 06: the menu client on a terminal, with a person's slips and pastes, and hostile nodes."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest
from conftest import Account
from processes import PATIENCE, ROOT, WINDOW, posix

import blockchain_client
from blockchain_client import read_answers

MENU = r"Command list:\n1\. generate_address\n2\. get_balance\n3\. transaction\n(.*\n)*?Command: "
FIELDS = ["Address", "Private_key", "Receiver", "Amount", "Fee", "Comment"]


@pytest.fixture
def client(node, run):
    """The menu client on a terminal of its own, connected to a node, at its first prompt."""
    client = run("blockchain_client.py", node.port, window=WINDOW)
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


@posix
def test_the_walkthrough_of_the_article(node, client):
    client.type("1")
    address = client.wait_for(r"Address: (\S+)\n")[1]
    client.wait_for(r"Private key: (\S+)\n")

    node.wait_for_blocks(6)  # sixty coins
    client.type("2")
    answer(client, Address=node.miner.address)
    said = client.wait_for(r"\[\*\] Message from node: \{'address': '(\S+)', 'balance': (\d+)\}\n")
    assert said[1] == node.miner.address
    assert int(said[2]) >= 60

    client.type("2")
    answer(client, Address=address)
    client.wait_for(r"\[\*\] Message from node: .*'balance': 0\}\n")
    client.type("3")
    answer(client, **good_answers(node.miner, Receiver=address, Amount="50", Fee="1"))
    client.wait_for(
        r"\[\*\] Message from node: "
        r"\{'result': True, 'result_message': 'Authorized successfully!'\}\n"
        r"The payment counts as soon as a block with it is mined\.\n"
    )
    node.skip()
    node.wait_for_blocks(2)  # the block being mined does not have it, the next one does
    client.type("2")
    answer(client, Address=address)
    client.wait_for(r"\[\*\] Message from node: .*'balance': 50\}\n")


@posix
def test_the_menu_is_the_tutorials(client):
    assert re.match(r"An empty line leads back to the menu\..*\n", client.output)
    assert re.search(MENU, client.output)


@posix
def test_ten_questions_in_a_row_are_answered_at_once(client):
    start = time.monotonic()
    for _ in range(10):
        client.type("2")
        answer(client, Address="bob")
        client.wait_for(r"\[\*\] Message from node: \{'address': 'bob', 'balance': 0\}\n")
        client.wait_for("Command: ")
    assert time.monotonic() - start < 5  # the tutorial's client sleeps for ten seconds


@posix
def test_no_payment_without_coins(client):
    client.type("3")
    answer(client, **good_answers(Account()))
    client.wait_for(r"\{'result': False, 'result_message': 'Balance not enough!'\}\nCommand list:")


# Pastes


class Listening:
    """A socket in place of a node: it keeps every byte, and answers without reading."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.received = b""
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
        connection, _ = self.server.accept()
        with connection:
            while data := connection.recv(65536):
                self.received += data
                connection.sendall(b"{'message': 'received'}")

    def everything(self):
        """Wait until the client has gone; return all that it sent."""
        self.thread.join(PATIENCE)
        self.server.close()
        return self.received


def pieces_of(secret):
    """Return the parts of a secret that must not stand in what is sent."""
    return [secret[start : start + 24].encode() for start in range(0, len(secret) - 24)]


@posix
@pytest.mark.parametrize("field", ["Command", "get_balance", *FIELDS])
@pytest.mark.parametrize(
    "shape", ["a line", "with its label", "lines", "lines, marked", "its beginning", "PEM"]
)
def test_a_private_key_is_never_sent(run, alice, field, shape):
    if field == "Private_key":
        return  # there it belongs
    secret = Account().private
    lines = [secret[start : start + 64] for start in range(0, len(secret), 64)]
    pasted = {
        "a line": secret,
        "with its label": f"Private key: {secret}",
        "lines": "\n".join(lines),
        "lines, marked": "\x1b[200~" + "\n".join(lines) + "\x1b[201~",
        "its beginning": secret[:200],
        "PEM": "-----BEGIN RSA PRIVATE KEY-----\n" + "\n".join(lines),
    }[shape]
    node = Listening()
    client = run("blockchain_client.py", node.port, window=WINDOW)
    client.wait_for("Command: ")
    if field == "get_balance":
        client.type("2")
    elif field != "Command":
        client.type("3")
        before = list(good_answers(alice).items())[: FIELDS.index(field)]
        answer(client, **dict(before))
    if field != "Command":
        client.wait_for(f"{'Address' if field == 'get_balance' else field}: ")
    client.type(pasted)
    client.wait_for(r"this is a private key! Paste it at Private_key only\.\n")
    for _ in range(12):  # whatever is asked by now
        client.type("")
    client.press("D")
    while not client.ended:
        client.press("D")
        with client.news:
            client.news.wait_for(lambda: client.ended, 0.5)
    received = node.everything()
    assert not [piece for piece in pieces_of(secret) if piece in received]
    said = re.findall(r"this is a private key!.*", client.output)
    assert not any(secret[:20] in line for line in said)


PARTS_OF_AN_ADDRESS = {
    "its end is missing": lambda address: address[:60],
    "only its beginning": lambda address: address[:9],
    "one character is missing": lambda address: address[:50] + address[51:],
    "its beginning is missing": lambda address: address[20:],
    "24 characters of its middle": lambda address: address[30:54],
    "another spelling": lambda address: address.replace("AAE=", "AAF="),
    "the beginning of one of 1024 bits": lambda address: "MIGJAoGBAK",
    "the beginning of one of 2048 bits": lambda address: "MIIBCgKCAQ",
    "the article's format": lambda address: (
        "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANrG/HiSL6M41EaDsmpVKW"
    ),
}


@posix
@pytest.mark.parametrize("part", PARTS_OF_AN_ADDRESS)
@pytest.mark.parametrize("field", ["get_balance", "Receiver"])
def test_part_of_an_address_is_questioned(client, node, part, field):
    part = PARTS_OF_AN_ADDRESS[part](node.miner.address)
    prompt = "Address" if field == "get_balance" else field
    if field == "get_balance":
        client.type("2")
    else:
        client.type("3")
        answer(client, Address=node.miner.address, Private_key=node.miner.private)
    answer(client, **{prompt: part})
    client.wait_for(r"This looks like a part of a key, and is not a whole address\.\n")
    client.wait_for(r"Use it all the same\? \(y/n\): ")
    client.type("n")
    client.wait_for(rf"{prompt}: type it again\.\n{prompt}: ")
    client.type(part)
    client.wait_for(r"Use it all the same\? \(y/n\): ")
    assert "[*] Received" not in node.output
    client.type("Y")
    if field == "get_balance":
        client.wait_for(rf"\{{'address': '{re.escape(part)}', 'balance': 0\}}")
    else:
        answer(client, Amount="1", Fee="0", Comment="")
        client.wait_for("Authorized successfully!")


@posix
@pytest.mark.parametrize("name", ["test123", "小明", "True", "MIKE", "M", "bob\tjones", "é"])
def test_any_other_text_is_an_account(client, name):
    client.type("2")
    answer(client, Address=name.replace("\t", " "))
    client.wait_for(r"'balance': 0\}")
    client.wait_for("Command: ")
    assert "Use it" not in client.output
    assert "The payment counts" not in client.output


@posix
@pytest.mark.parametrize("marked", [True, False])
def test_keys_with_line_breaks_are_taken_whole_where_the_terminal_marks_pastes(
    client, node, marked
):
    def lines(key):
        broken = " \n".join(key[start : start + 38] for start in range(0, len(key), 38))
        return f"\x1b[200~{broken}\x1b[201~" if marked else key

    client.type("3")
    answer(
        client,
        Address=lines(node.miner.address),
        Private_key=lines(node.miner.private),
        Receiver=lines(Account().address),
        Amount="1",
        Fee="0",
        Comment="",
    )
    client.wait_for("Authorized successfully!")
    assert b"\x1b[?2004h" in client.raw  # asks the terminal to mark pastes


@posix
def test_spaces_around_what_is_pasted_do_not_matter(client, node):
    client.type(" 2 ")
    answer(client, Address=f"  {node.miner.address}  ")
    client.wait_for(rf"\{{'address': '{re.escape(node.miner.address)}', 'balance': [1-9]")


@posix
def test_a_key_that_is_not_the_addresss_is_said_at_once(client, node):
    client.type("3")
    answer(client, Address=node.miner.address, Private_key=Account().private)
    client.wait_for(r"Private_key: this is not the key of the address above\.\nPrivate_key: ")
    client.type(node.miner.private)
    client.wait_for("Receiver: ")


def test_a_key_with_any_character_changed_is_noticed(alice):
    assert blockchain_client.private_key_of(alice.address, alice.private) == alice.private
    for place, old in enumerate(alice.private[:-3]):  # the last ones may be padding
        changed = alice.private[:place] + ("A" if old != "A" else "B") + alice.private[place + 1 :]
        with pytest.raises(ValueError, match=r"^this is not .*\.$"):
            blockchain_client.private_key_of(alice.address, changed)


# Slips

SLIPS = dict(
    Address=["alice", "é", "A" * 96],
    Private_key=["secret", "é", "=", "MII"],
    Amount=["ten", "1.5", "-5", "0", "nan", "1e3", "0x10"],
    Fee=["ten", "1.5", "-1"],
)


@posix
def test_a_slip_costs_one_line(client, node):
    good = good_answers(node.miner, Comment="after all the slips")
    half = len(node.miner.private) // 8 * 4
    more = dict(
        Address=[node.miner.address[:40], node.miner.private],
        Private_key=[node.miner.private[:half], node.miner.address],
    )
    client.type("3")
    client.wait_for("Address: ")
    for field in FIELDS:
        for slip in SLIPS.get(field, []) + more.get(field, []):
            client.type(slip)
            said = client.wait_for(rf"\n({field}: .*\.)\n{field}: ")[1]
            assert slip not in said
        client.type(good[field])
        if field != "Comment":
            client.wait_for(f"{FIELDS[FIELDS.index(field) + 1]}: ")
    client.wait_for("Authorized successfully!")


@posix
@pytest.mark.parametrize("field", FIELDS[:-1])
def test_an_empty_line_leads_back_to_the_menu(client, node, field):
    client.type("3")
    before = list(good_answers(node.miner).items())[: FIELDS.index(field)]
    answer(client, **dict(before))
    client.wait_for(f"{field}: ")
    client.type("  ")
    client.wait_for(MENU)
    assert client.output.count("An empty line leads back to the menu.") == 1


@posix
@pytest.mark.parametrize("nonsense", ["0", "generate_address", "é", "1 2", "\uff10"])
def test_nonsense_for_a_command_says_what_there_is(client, nonsense):
    client.type(nonsense)
    client.wait_for(
        r"Unknown command\.\nType a number from 1 to \d; Ctrl-C ends the client\.\nCommand list:\n"
    )


@posix
def test_full_width_digits_are_digits(client, node):
    client.type("３")
    good = good_answers(node.miner, Amount="１", Fee="０")
    answer(client, **good)
    client.wait_for("Authorized successfully!")


@posix
def test_bytes_that_are_no_text_do_not_end_the_session(client):
    os.write(client.terminal, b"\xff\xfe\n")
    client.wait_for(r"Unknown command\.\n")
    os.write(client.terminal, b"2\n\xff\xfe\n")
    client.wait_for("'balance': 0")


# Editing

UP, LEFT = "\x1b[A", "\x1b[D"


@posix
def test_arrows_edit_and_bring_back_lines_but_no_private_key(client, node):
    client.type("3")
    answer(client, Address=node.miner.address, Private_key=node.miner.private)
    client.wait_for("Receiver: ")
    client.type("")
    client.wait_for(MENU)
    client.type("2")
    client.wait_for("Address: ")
    client.type("bo" + LEFT + "X")
    client.wait_for(r"'address': 'bXo'")
    client.type("2")
    client.wait_for("Address: ")
    client.type(UP + UP)
    client.wait_for(r"'address': 'bXo'")
    before = len(client.output)
    for _ in range(8):  # further up than there are lines
        client.wait_for("Command: ")
        client.type("2")
        client.wait_for("Address: ")
        client.type(UP * 20)
        client.wait_for("Message from node")
    assert node.miner.private[40:70] not in client.output[before:]


@posix
def test_no_line_is_kept_in_a_file(client, node):
    client.type("2")
    answer(client, Address="bob")
    client.wait_for("Command: ")
    client.press("D")
    assert client.status() == 0
    assert os.listdir(client.folder.name) == []


# The end


@posix
@pytest.mark.parametrize("key, status", [("C", 130), ("D", 0)])
@pytest.mark.parametrize("prompts", range(len(FIELDS) + 1))
def test_ctrl_c_and_ctrl_d_end_the_client_at_any_prompt(client, node, key, status, prompts):
    if prompts:
        client.type("3")
        before = list(good_answers(node.miner).items())[: prompts - 1]
        answer(client, **dict(before))
        client.wait_for(f"{FIELDS[prompts - 1]}: ")
    while not client.ended:
        # Python misses a Ctrl-C between showing a prompt and reading: a person presses again.
        client.press(key)
        with client.news:
            client.news.wait_for(lambda: client.ended, 1)
    assert client.status() == status
    assert "Traceback" not in client.output


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
@pytest.mark.parametrize("end", ["Ctrl-C", "Ctrl-D", "the node goes"])
def test_the_terminal_is_left_as_it_was(node, run, end):
    import termios

    reader, writer = os.openpty()
    before = termios.tcgetattr(writer)
    client = subprocess.Popen(
        [sys.executable, ROOT / "blockchain_client.py", str(node.port)],
        stdin=writer,
        stdout=writer,
        stderr=writer,
        env={**os.environ, "TERM": "xterm"},
    )
    shown = b""
    while b"Command: " not in shown:
        shown += os.read(reader, 65536)
    while termios.tcgetattr(writer) == before:
        time.sleep(0.01)  # until readline has the terminal
    if end == "the node goes":
        node.interrupt()
    while client.poll() is None:
        if end == "Ctrl-C":
            client.send_signal(signal.SIGINT)
        elif end == "Ctrl-D":
            os.write(reader, b"\x04")
        time.sleep(0.05)  # between two presses
    assert termios.tcgetattr(writer) == before
    os.close(writer)
    with contextlib.suppress(OSError):  # the end, on a terminal
        while data := os.read(reader, 65536):
            shown += data
    assert shown.rfind(b"\x1b[?2004l") > shown.rfind(b"\x1b[?2004h")  # pastes are not marked now
    os.close(reader)


@posix
def test_a_node_that_never_answers_does_not_keep_the_menu(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = run("blockchain_client.py", silent.getsockname()[1], window=WINDOW)
        client.type("2")
        answer(client, Address="bob")
        client.wait_for(r"No answer from the node\.\nCommand list:\n")


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
        [sys.executable, ROOT / "blockchain_client.py", str(node.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    client.stdout.close()
    _, error = client.communicate(b"4\n" * 1000, timeout=PATIENCE)
    assert client.returncode == 1
    assert re.fullmatch(rb"blockchain_client\.py: .+\n", error)


# Answers: text of a dict, without a mark at its end


def answers_to(*pieces):
    """Return the answers that the client finds in what a node sends, piece by piece."""
    node, client = socket.socketpair()
    found = []

    def read():
        try:
            found.extend(read_answers(client))
        except (OSError, UnicodeDecodeError):
            pass
        client.close()  # as a client that leaves

    thread = threading.Thread(target=read)
    thread.start()
    with node:
        try:
            for piece in pieces:
                node.sendall(piece)
        except ConnectionError:
            pass  # the client took no more of it
    thread.join(PATIENCE)
    return found


HONEST = [
    {"address": "a } brace, a ' quote and a \\", "balance": 5},
    {"result": False, "result_message": "謝謝 }{ [\"'] \n \x1b"},
    {"address": "", "balance": -(10**30)},
    {"block": {"hash": "00", "transactions": [{"sender": "a", "fee": 0}, {}], "mined": None}},
    {"numbers": [1, -2.5, [3, []], ()], "true": True, "'": '"', "bytes": b"'}"},
]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_is_whole_when_its_first_brace_is_closed(size):
    data = "".join(map(str, HONEST)).encode("utf8")
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert answers_to(*pieces) == list(map(str, HONEST))


def test_answers_may_be_longer_together_than_one_may_be():
    assert answers_to(*[b"{'balance': 50}" * 1000] * 30) == ["{'balance': 50}"] * 30_000


NONSENSE = {
    "a number of thousands of digits": b"{'balance': 0x" + b"f" * 6000 + b"}",
    "a sum of thousands of terms": b"{1:" + b"+".join([b"1"] * 120_000) + b"}",
    "a sum behind a key": b"{'a':" + b"+".join([b"1"] * 120_000) + b"}",
    "a set": b"{1}",
    "a list": b"['a', 1]",
    "braces": b"{" * 100_000,
    "brackets": b"{'a': " + b"[" * 100_000,
    "quotes": b"{'" * 100_000,
    "a text without an end": b"{'" + b"a" * 10**6,
    "a call": b"{'a': print('owned')}",
    "no text": b"{'a': '\xff'}",
    "letters": b"a" * 10**7,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_from_a_node_is_never_shown(name):
    assert answers_to(NONSENSE[name]) == []


def test_an_answer_behind_nonsense_is_found():
    assert answers_to(b"{1} {'balance': 0x5} {'message': 'hi'} and") == ["{'message': 'hi'}"]


def test_reading_costs_the_same_for_each_byte_however_they_come():
    """Beside the same bytes in one piece, not in seconds."""
    drip = [b"{'a': '"] + [b"\\n"] * 20_000

    def seconds(*pieces):
        start = time.process_time()
        answers_to(*pieces)
        return time.process_time() - start

    one_piece = min(seconds(b"".join(drip)) for _ in range(3))
    assert seconds(*drip) < 50 * one_piece  # in the square of the bytes, it would be thousands


def test_a_long_answer_takes_memory_of_its_own_size():
    longest = str({"address": "\x01" * 65_000, "balance": 0}).encode("utf8")
    tracemalloc.start()
    try:
        assert answers_to(longest) == [longest.decode()]
        assert tracemalloc.get_traced_memory()[1] < 20 * len(longest)
        tracemalloc.reset_peak()
        endless = [b"{'a': 0}, " * 100] * 10_000
        assert answers_to(b"{'a': [", *endless) == []
        assert tracemalloc.get_traced_memory()[1] < 20 * len(longest)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("speech", [b"a" * 10**7, b"{'a': '\xff'}"], ids=["endless", "no text"])
def test_a_node_that_talks_nonsense_is_left(run, speech):
    with socket.create_server(("127.0.0.1", 0)) as hostile:
        reader, writer = os.pipe()
        client = run("blockchain_client.py", hostile.getsockname()[1], stdin=reader)
        connection, _ = hostile.accept()
        try:
            connection.sendall(speech)
        except ConnectionError:
            pass  # the client took no more of it
        client.wait_for(r"\nThe connection to the node has ended\.\n")
        assert client.status() == 1
        assert "Traceback" not in client.output
        os.close(writer)


def test_what_a_node_hides_in_a_text_stays_in_one_line(run):
    with socket.create_server(("127.0.0.1", 0)) as hostile:
        reader, writer = os.pipe()
        client = run("blockchain_client.py", hostile.getsockname()[1], stdin=reader)
        connection, _ = hostile.accept()
        connection.sendall("{'message': '\x1b[2J\n\u202e\\p'}".encode())
        client.wait_for(r"node: \{'message': '\\x1b\[2J\\n\\u202e\\p'\}\n")
        os.close(writer)
        assert client.status() == 0
