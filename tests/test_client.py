"""Day 06: the menu client, with a person's slips and pastes, and with nodes that misbehave.

Most sessions use pipes, which do not show what is typed; only `isatty` says that a person types.
Some tests use a terminal. The node is a ledger in the test's own process (the fixture `server`), or
a socket on which the test itself answers (`silent`).
"""

import contextlib
import os
import pathlib
import re
import signal
import socket
import sys
import time
import types
from unittest import mock

import pytest
import rsa
from conftest import AUTHORIZED, Account, mine
from processes import posix, wait_until

import blockchain_client
from blockchain_client import (
    address_or_text,
    has_private_key,
    private_key_of,
    read_answers,
    whole_address,
    whole_number,
)

MENU = r"Command list:\n1\. generate_address\n2\. get_balance\n3\. transaction\nCommand: "
FIELDS = ["Address", "Private_key", "Receiver", "Amount", "Fee", "Comment"]
NOT_ENOUGH = {"result": False, "result_message": "Balance not enough!"}
SAYS = r"\[\*\] Message from node: "
A_LINE = r".*\w.*\n"  # our own sentence; only the last test of this file knows its words
FAILED = (1,) if os.name == "posix" else (1, 2)  # on Windows, a signal to oneself ends the process


@pytest.fixture
def person(run):
    """A function that starts a person's client on a port, and waits for its first prompt."""

    def start(port, change="person", **options):
        client = run("tests/changed.py", change, "blockchain_client.py", port, **options)
        client.wait_for("Command: ")
        return client

    return start


@pytest.fixture
def client(server, person):
    """A person at the menu client, connected to a ledger."""
    return person(server.socket_port)


@pytest.fixture
def silent():
    """A port in place of a node. It takes what is sent, and does not answer by itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(15)
        yield types.SimpleNamespace(port=server.getsockname()[1], accept=lambda: server.accept()[0])


@pytest.fixture
def asked(person, silent):
    """A function: a person has asked for a balance. It returns the client and the connection."""
    with contextlib.ExitStack() as stack:

        def ask(change="person"):
            client = person(silent.port, change)
            client.type("2", then="Address: ")
            client.type("bob")
            return client, stack.enter_context(silent.accept())

        yield ask


def answer(connection, *answers):
    """Wait for a request, and then send these answers in one piece. Return the request."""
    request = connection.recv(100_000)
    assert request, "the client has gone"
    connection.sendall("".join(map(str, answers)).encode())
    return request


def shown(*answers, counts=False):
    """Return the pattern of these answers on the screen, perhaps a line more, and then the menu."""
    lines = [SAYS + re.escape(str(each)) + r"\n" for each in answers]
    return "".join([*lines, A_LINE if counts else "", "Command list"])


def said(client, before):
    """Return what was said since then, without answers and prompts."""
    return re.sub(rf"{SAYS}.*\n|.*: $", "", client.output[before:]).strip()


def good_answers(account, **others):
    """Return what to type at every prompt of a transaction."""
    good = {"Address": account.address, "Private_key": account.private, "Receiver": "bob"}
    return {**good, "Amount": "1", "Fee": "0", "Comment": "", **others}


def fill_in(client, account, until=None, **others):
    """Begin a transaction, and answer every prompt before the field `until`."""
    client.type("3")
    for prompt, text in good_answers(account, **others).items():
        client.wait_for(f"{prompt}: ")
        if prompt == until:
            break
        client.type(text)


def begin(client, account, command):
    """Let a person send a request. The account is needed for a transaction."""
    if command == "transaction":
        fill_in(client, account)
    else:
        client.type("2", then="Address: ")
        client.type("bob")


def test_the_menu_is_the_tutorials_and_comes_after_the_answer(client):
    hello = r"An empty line leads back to the menu \(not at Comment\)\. Ctrl-C ends the client\.\n"
    assert re.match(hello + MENU, client.output)
    for _ in range(10):
        client.type("2", then="Address: ")
        client.type("bob", then="^" + shown({"address": "bob", "balance": 0}))


def test_an_address_and_its_private_key_are_made_here(client):
    address, private = client.type("1", then=r"Address: (\S+)\nPrivate key: (\S+)\n").groups()
    assert private_key_of(whole_address(address), private) == private


# ---- One request, one answer
ANSWERS = {
    "whole": ["{'address': '謝', 'balance': 0}"],
    "byte by byte": [*"{'}{': ', }{', 'b': {1: [{}]}}"],
    "long": [str({"a": "x" * 60_000})],
    "a list": ["[1, 2, {'a': None}]"],
}


@pytest.mark.parametrize("pieces", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_shown_on_one_line_wherever_it_was_cut(asked, pieces):
    client, connection = asked()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer(connection, pieces[0])
    for piece in pieces[1:]:
        connection.sendall(piece.encode())
    client.wait_for("^" + shown("".join(pieces)))


@pytest.mark.parametrize("text", ["\x1b[2J\u202e謝", "\nPrivate_key: "])
def test_an_answer_does_not_control_the_terminal(asked, text):
    client, connection = asked()
    answer(connection, f'["""{text}"""]')  # raw, where `str` would have escapes
    client.wait_for(shown([text]))
    assert "\x1b" not in client.output and "\u202e" not in client.output


def test_an_output_that_cannot_show_a_character_shows_its_number(asked):
    client, connection = asked("ascii_only")
    answer(connection, {"address": "謝"})
    client.wait_for(SAYS + r"\{'address': '\\u8b1d'\}\n")


def test_nothing_is_sent_while_an_answer_is_owed(asked):
    """So an answer that comes late belongs to its request. Until then, the client says so once."""
    client, connection = asked("impatient")
    client.type("2\ncarol", then=f"^{A_LINE}")
    assert b"bob" in connection.recv(100_000)
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(15)
    connection.sendall(b"{'balance': 1}")
    client.wait_for("^" + shown({"balance": 1}))
    assert b"carol" in answer(connection, {"balance": 2})
    client.wait_for(shown({"balance": 2}))


@posix
def test_a_node_that_was_held_up_answers_late_and_counts_once(start_node, person):
    """As with Ctrl-S in its window. What is sent again with all fields the same counts once."""
    node = start_node("never_found")
    client = person(node.port, "impatient")
    node.popen.send_signal(signal.SIGSTOP)
    fill_in(client, node.miner, Receiver="bob", Amount="5")
    client.wait_for(f"^{A_LINE}")
    node.popen.send_signal(signal.SIGCONT)
    client.wait_for("^" + shown(AUTHORIZED, counts=True))
    fill_in(client, node.miner, Receiver="bob", Amount="5")
    client.wait_for(SAYS + r"\{'result': False, 'result_message': .*\nCommand")
    fill_in(client, node.miner, Receiver="carol", Amount="999999")
    client.wait_for(shown(NOT_ENOUGH))


def test_an_answer_that_nobody_asked_for_is_shown_when_it_comes(person, silent, alice):
    """The published node answers twice what was sent in two pieces."""
    client = person(silent.port)
    fill_in(client, alice)
    with silent.accept() as connection:
        answer(connection, AUTHORIZED)
        client.wait_for(shown(AUTHORIZED, counts=True))
        connection.sendall(str(AUTHORIZED).encode())
        client.wait_for(SAYS + re.escape(f"{AUTHORIZED}\n"))
        fill_in(client, alice, Receiver="carol")
        answer(connection, NOT_ENOUGH)
        client.wait_for("^" + shown(NOT_ENOUGH))


@pytest.mark.parametrize(
    "command, answers, counts",
    [
        ("transaction", [AUTHORIZED], True),
        ("transaction", [NOT_ENOUGH], False),
        ("transaction", [{"result": True, "result_message": "Perhaps."}], False),
        ("transaction", [AUTHORIZED, AUTHORIZED], False),  # perhaps to the request before
        ("get_balance", [AUTHORIZED], False),
    ],
)
def test_only_the_answer_to_a_transaction_says_that_it_counts(
    person, silent, alice, command, answers, counts
):
    """Two answers in one piece are both shown."""
    client = person(silent.port)
    begin(client, alice, command)
    with silent.accept() as connection:
        answer(connection, *answers)
        client.wait_for(shown(*answers, counts=counts))


def test_an_answer_runs_nothing(asked):
    client, connection = asked()
    with connection:
        answer(connection, "{'a': open('owned', 'w')}")
    assert client.status() in FAILED
    assert os.listdir(client.folder.name) == [] and "Message" not in client.output


NO_ANSWERS = {
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "the beginning of an answer": b"{'address': '\xe8",
    "what cannot be written": b"0x" + b"f" * 5000,
    "small dicts": b"{" + b"1:{1:2}," * 9000,
    "a string of }{": b"[" + b"1," * 12_000 + b"'" + b"}{" * 17_999,
}


@pytest.mark.parametrize("data", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_is_cheap(data):
    """It is tried twice for each piece that comes, and not for each place where it may end."""
    with mock.patch("ast.literal_eval", wraps=blockchain_client.ast.literal_eval) as tries:
        assert read_answers(data) == []
    assert tries.call_count <= 2


def test_what_never_becomes_an_answer_ends_the_connection(asked):
    client, connection = asked()
    answer(connection, "{" + "1:{1:2}," * 12_000)
    client.wait_for(f"^\n{A_LINE}")
    assert client.status() in FAILED


@posix
@pytest.mark.parametrize("command", ["get_balance", "transaction"])
def test_who_leaves_before_the_answer_is_told_what_became_of_a_transaction(
    run, silent, alice, command
):
    client = run("blockchain_client.py", silent.port)
    begin(client, alice, command)
    with silent.accept() as connection:
        assert connection.recv(1)
        before = len(client.output)
        client.interrupt()
        assert client.status() == 1
    assert bool(said(client, before)) == (command == "transaction")


def test_the_client_waits_five_seconds_before_it_says_that_there_is_no_answer(asked):
    client, connection = asked()
    assert connection.recv(1)
    begun = time.monotonic()
    client.wait_for(f"^{A_LINE}")
    assert time.monotonic() - begun > 4


# ---- Keys: a private key stays at home, and an address arrives whole
def spaced(key, between, width=20):
    return between.join(key[start : start + width] for start in range(0, len(key), width))


def wrapped(key, columns, label=""):
    """Return a key as a terminal shows it, with its label and line breaks."""
    return spaced(label + key, "\n", columns)


def test_a_private_key_is_known_by_its_head():
    """Whatever its size, and whatever stands around it or between its characters."""
    privates = [Account().private for _ in range(20)]
    for bits in (512, 1024, 2048):
        p, q = 2 ** (bits // 2) - 1, 2 ** (bits // 2) - 3
        key = rsa.PrivateKey(p * q, 65537, p * q // 3, p, q)
        privates.append(blockchain_client.extract_from_private(key.save_pkcs1()))
    for private in privates:
        for between in (" ", "\n", "\u200b", " - ", "\u3000", "'", "謝"):
            for around in ("{}", "Private key: {}", "<{}>: mine", '"{}".', "{} thanks"):
                assert has_private_key(around.format(spaced(private, between)))
        assert has_private_key(private[1:]) and has_private_key(private[:64])
    for text in (
        *("", "MIIT rules for the telecommunication industry, please read them soon"),
        *("order 2026/11/29/TaipeiMainStation/Platform3", "I keep my PRIVATE KEY in a book"),
        *("https://github.com/dvf/blockchain/issues/123", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"),
        *(Account().address for _ in range(20)),
    ):
        assert not has_private_key(text), text


@pytest.mark.parametrize("field", ["Command", "2: Address", *FIELDS])
def test_a_private_key_is_not_sent(person, silent, alice, field):
    """At Private_key, it may belong to another address: then the same field is asked again."""
    client, secret = person(silent.port), Account().private
    if field == "Command":
        client.type(secret, then=r"Unknown command\.\n(.*\n)?Command list")
    else:
        if field == "2: Address":
            client.type("2", then="Address: ")
        else:
            fill_in(client, alice, until=field)
        then = "Private_key: " if field == "Private_key" else "Command list"
        client.type(f"my key: <{secret}>!", then=f"^{A_LINE}{then}")
    client.end_input()
    client.status()
    with silent.accept() as connection:
        assert connection.recv(1) == b""
    assert secret[10:40] not in client.output


def test_what_is_sent_holds_no_private_key(person, silent, alice):
    client = person(silent.port)
    fill_in(client, alice)
    with silent.accept() as connection:
        request = answer(connection, AUTHORIZED)
    key = blockchain_client.load_private_key(alice.private)
    secrets = [line.encode() for line in spaced(alice.private, "\n").splitlines()]
    for number in (key.d, key.p, key.q, key.exp1, key.exp2, key.coef):
        size = (number.bit_length() + 7) // 8
        secrets += [number.to_bytes(size, order) for order in ("big", "little")]
        secrets += [str(number).encode(), b"%x" % number]
    assert b"signature" in request and alice.address.encode() in request
    assert [secret for secret in secrets if secret in request] == []


def test_a_key_is_taken_as_people_copy_it(alice):
    """With its label, with the line breaks of a terminal, in quotes, and with spaces."""
    labels = ["", "Miner address: ", "Address: ", "Miner address:"]
    marks = ["%s", '"%s"', "'%s'", "`%s`", "<%s>", "%s.", "\u200b%s\u200b", "%s,\n", "  %s  "]
    for label in labels:
        for columns in (60, 80):
            for mark in marks:
                paste = mark % wrapped(alice.address, columns, label)
                assert whole_address(paste) == address_or_text(paste) == alice.address
    labels = ["", "Miner private: ", "Private key: ", f"Address: {alice.address}\nPrivate key: "]
    for label in labels:
        for mark in marks:
            for key in (wrapped(alice.private, 80, label), f" {label}  {alice.private} \n"):
                assert private_key_of(alice.address, mark % key) == alice.private


def test_a_part_of_an_address_is_no_receiver(alice):
    address = alice.address
    for part in (
        *(address[:-1], address[:30] + address[31:], address[20:], address[:40], address[-9:]),
        *("=", f"Address: {address[:-1]}", wrapped(address[:80], 60), f"{address} {address}"),
        *(spaced(address[:80], " ", 3), str({"address": address, "balance": 153})),
        *("7AgMBAAE=', 'balance': 153}", "AgMBAAE='", f"{address[-50:]}', 'balance': 153}}"),
        address[:-2] + chr(ord(address[-2]) + 1) + "=",  # another spelling of the same key
    ):
        with pytest.raises(ValueError, match=r"^this looks like a part of an address\."):
            address_or_text(part)


@pytest.mark.parametrize("bits", [360, 504])
def test_an_address_must_be_valid_for_the_node(bits):
    """The node refuses keys of less than 512 bits, too."""
    public = rsa.newkeys(bits)[0].save_pkcs1()
    with pytest.raises(ValueError, match=r"^this is not a valid address"):
        whole_address(blockchain_client.get_address_from_public(public))


def test_any_other_text_is_a_receiver_but_no_number():
    for text in (
        *("test123", "小明", "True", "MIKE", "é", "a=b", "Alexander Hamilton Schuyler", "Bob 2"),
        *("a" * 24, "a1" * 20, "/home/anna/projects/report2024", "1.5 coins"),
        *("1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "https://github.com/dvf/blockchain/issues/123"),
    ):
        assert address_or_text(text) == text
    for number in ("50", "1", "５０", "-5", "5.0", "1,000", "$ 50"):
        with pytest.raises(ValueError, match="this is a number"):
            address_or_text(number)


@pytest.mark.parametrize("text", ["bob\u200b", "caf\ufffd", "bob\tjones", "bob\x1b[A", "\udce9"])
def test_a_receiver_has_no_character_that_cannot_be_seen_or_was_not_read(text):
    """Otherwise, two accounts look the same, and the coins go to the wrong one."""
    with pytest.raises(ValueError) as mistake:
        address_or_text(text)
    assert str(mistake.value) == f"{text!r} has an invisible or unreadable character."


def test_a_private_key_must_be_complete_and_belong_to_the_address(alice):
    address, key = alice.address, alice.private
    for text in ("", "é", "=", "MII", "q", address, key[:-1], key[1:]):
        with pytest.raises(ValueError, match=r"^this is not a valid key\.$"):
            private_key_of(address, text)
    other = r"^this key belongs to another address\. An empty line leads to the menu\.$"
    with pytest.raises(ValueError, match=other):
        private_key_of(address, Account().private)
    passed = 0  # rsa does not look at a few bits, and the node refuses what such a key signs
    for place, old in enumerate(key):
        changed = key[:place] + ("A" if old != "A" else "B") + key[place + 1 :]
        try:
            private_key_of(address, changed)
            passed += 1
        except ValueError:
            pass
    assert passed <= 3


def test_a_number_has_digits_only():
    assert [whole_number(0, typed) for typed in ("0", "007", "５０", "٣")] == [0, 7, 50, 3]
    for typed in ("ten", "1.5", "-5", "+5", "nan", "1e3", "0x10", "1_0", "", "²", "9" * 5000):
        with pytest.raises(ValueError, match=r"^this must be a whole number, 0 or more\.$"):
            whole_number(0, typed)
    with pytest.raises(ValueError, match="1 or more"):
        whole_number(1, "0")


# ---- Slips
def test_after_a_slip_the_same_field_is_asked_again(client, server, rich_alice):
    """Digits may be full-width, and spaces around an answer do not matter."""
    damaged = rich_alice.private[:-9] + "AAAAAAA" + rich_alice.private[-2:]  # rsa warns about it
    slips = {
        "Address": ["alice", "é", "A" * 96],
        "Private_key": ["secret", "é", "=", damaged],
        "Receiver": [rich_alice.address[:50], "50"],
        "Amount": ["ten", "-5", "0", "1_0"],
        "Fee": ["ten", "-1"],
        "Comment": [],
    }
    client.type(" ３ ", then="Address: ")
    good = good_answers(rich_alice, Amount="１", Fee="０", Comment="謝謝")
    for number, (field, text) in enumerate(good.items()):
        for slip in slips[field]:
            said = client.type(slip, then=rf"^{field}: (.*)\n{field}: ")[1]
            assert slip not in said
        client.type(f"  {text}  ")
        client.wait_for(
            f"{FIELDS[number + 1]}: " if field != "Comment" else shown(AUTHORIZED, counts=True)
        )
    assert "Warning" not in client.output
    assert server.pending_transactions == [rich_alice.pay("bob", 1, 0, "謝謝")[0]]


def test_an_empty_line_leads_back_to_the_menu(client, alice):
    for field in FIELDS[:-1]:
        fill_in(client, alice, field)
        client.type("  ", then=f"^{A_LINE}{MENU}")


def test_an_unknown_command_shows_which_commands_there_are(client):
    for unknown in ("0", "generate_address", "é", "1 2", "\uff10", ""):
        client.type(unknown, then=rf"^Unknown command\.\n{A_LINE}{MENU}")


def test_bytes_that_are_not_text_do_not_end_the_session(client):
    client.type("\udcff\udcfe", then=r"Unknown command\.\n")  # the bytes FF and FE
    client.type("2\ncaf\udce9")
    client.wait_for(r"Address: 'caf\ufffd' has an invisible or unreadable character\.\nAddress: ")


def test_lines_of_a_paste_that_is_not_marked_pay_nothing(client, server, rich_alice):
    """They come row by row: a part of an address, an amount; or a private key at Comment."""
    address, private = rich_alice.address, rich_alice.private
    lines = ["3", address, private, address[:40], "50", "1", "1", ""]
    client.type("\n".join(lines), then=f"Receiver: {A_LINE}{MENU}")
    fill_in(client, rich_alice, until="Comment")
    client.type(wrapped(private, 60), then=f"^{A_LINE}{MENU}")
    client.type("2", then="Address: ")
    assert server.pending_transactions == []


def test_a_request_that_is_too_long_is_not_sent(client, server, rich_alice):
    for letter, length in ("x", 17_000), ("謝", 6_000):
        fill_in(client, rich_alice, Comment=letter * length)
        client.wait_for(f"^{A_LINE}{MENU}")
    fill_in(client, rich_alice, Comment="x" * 15_000)
    client.wait_for(re.escape(str(AUTHORIZED)))
    assert len(server.pending_transactions) == 1


# ---- Pipes
def test_input_that_ends_ends_the_client_after_the_last_answer(server, run, alice):
    client = run("blockchain_client.py", server.socket_port)
    fill_in(client, alice)
    client.end_input()
    assert client.status() == 0
    assert f"[*] Message from node: {NOT_ENOUGH}\n" in client.output


REFUSED_LINES = {
    "a part of a key": {"Receiver": "MEgCQQCAHAwlP5hETYNm", "Amount": "50", "Fee": "1"},
    "an empty receiver": {"Receiver": ""},
    "letters": {"Amount": "ten"},
    "a wrong key": {"Private_key": "secret"},
    "a key as a comment": {"Comment": Account().private},
    "12 MB": {"Comment": "x" * 12_000_000},
}


@pytest.mark.parametrize("field", REFUSED_LINES.values(), ids=REFUSED_LINES)
def test_a_refused_line_of_a_pipe_ends_the_client_and_nothing_is_sent(
    server, run, rich_alice, field
):
    """Otherwise, the lines after it become another transaction, here of 1 coin to `50`."""
    mine(server, rich_alice.address)
    lines = ["3", *good_answers(rich_alice, **field).values(), "3", "50", "1", "1", ""]
    client = run("blockchain_client.py", server.socket_port)
    client.type("\n".join(lines))
    assert client.status() == 1
    assert server.pending_transactions == []


@pytest.mark.parametrize("typed", ["9\n1", "3", "2", "3\n{}\n{}\nbob\n5"])
def test_a_pipe_that_breaks_off_ends_the_client_and_nothing_is_sent(server, run, alice, typed):
    """An unknown command does, too."""
    client = run("blockchain_client.py", server.socket_port)
    client.type(typed.format(alice.address, alice.private))
    client.end_input()
    assert client.status() == 1
    assert "Private key: " not in client.output


# ---- The terminal
@pytest.fixture
def on_terminal(server, run):
    """The client on a terminal of its own."""
    client = run("blockchain_client.py", server.socket_port, terminal=True)
    client.wait_for("Command: ")
    return client


@posix
def test_arrows_edit_a_line_and_up_brings_no_private_key_back(on_terminal, alice):
    fill_in(on_terminal, alice, "Receiver")
    on_terminal.type("", then="Command: ")
    before = len(on_terminal.output)
    on_terminal.type("2", then="Address: ")
    up, left = "\x1b[A", "\x1b[D"
    on_terminal.type(up * 3 + "bo" + left + "X", then=r"'address': 'bXo'")
    assert alice.private[40:70] not in on_terminal.output[before:]


@posix
def test_a_paste_with_line_breaks_is_one_answer(on_terminal, rich_alice):
    """The label and a last line break come with it, as when somebody selects the lines."""
    address, private = rich_alice.address, rich_alice.private
    on_terminal.type("3", then="Address: ")
    on_terminal.paste(wrapped(address, 80, "Miner address: ") + "\n", then="Private_key: ")
    on_terminal.paste(wrapped(private, 80, "Miner private: ") + "\n", then="Receiver: ")
    on_terminal.paste(wrapped(address[20:], 80), then="Receiver: this looks like a part of an")
    on_terminal.paste(wrapped(address, 40))
    on_terminal.type("1\n0\npasted", then="'Authorized")
    assert "\x1b[?2004h" in on_terminal.output  # this asks the terminal to mark pastes


@posix
@pytest.mark.parametrize("setting", ["LC_ALL=C", "LC_ALL=xx_YY.UTF-8", "INPUTRC=inputrc"])
def test_chinese_arrives_whole_whatever_is_set(server, run, tmp_path, setting):
    """Left to itself, readline drops it: the coins for 店shop go to shop."""
    (tmp_path / "inputrc").write_text("set convert-meta on\nset input-meta off\n")
    name, value = setting.replace("inputrc", str(tmp_path / "inputrc")).split("=")
    client = run("blockchain_client.py", server.socket_port, terminal=True, **{name: value})
    client.type("2", then="Address: ")
    client.type("店shop", then="'address': '店shop'")


# ---- The end
@posix
@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-D", "the node goes"])
@pytest.mark.parametrize("prompt", ["Command", "Private_key", "Comment"])
def test_the_client_ends_at_any_prompt_and_leaves_the_terminal_as_it_was(
    node, run, alice, prompt, how
):
    import termios  # not on Windows

    client = run("blockchain_client.py", node.port, terminal=True)
    client.wait_for("Command: ")
    if prompt != "Command":
        fill_in(client, alice, prompt)
    if how == "the node goes":
        node.interrupt()
    else:
        client.press_until_it_ends(how[-1])
    assert client.status() == (0 if prompt == "Command" and how != "the node goes" else 1)
    assert "Traceback" not in client.output
    fresh = os.openpty()
    assert termios.tcgetattr(client.output_end) == termios.tcgetattr(fresh[0])
    for descriptor in fresh:
        os.close(descriptor)


@pytest.mark.parametrize("change", ["person", pytest.param("in_the_background", marks=posix)])
@pytest.mark.parametrize("waits_for", ["a line", "an answer", "nothing yet"])
def test_a_node_that_goes_ends_the_client_at_once(run, silent, alice, change, waits_for):
    """It may go with the last answer, or before the client has started its second thread."""
    client = run("tests/changed.py", change, "blockchain_client.py", silent.port)
    with silent.accept() as connection:
        if waits_for == "a line":
            client.type("2\nbob")
            answer(connection, {"message": "no"})
            client.wait_for(SAYS + r"\{'message': 'no'\}\n")
        elif waits_for == "an answer":
            fill_in(client, alice)
            assert connection.recv(1)
        before = len(client.output)
    assert client.status() in FAILED
    assert said(client, before), "the client does not say why it ends"
    assert "Traceback" not in client.output


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/net/tcp shows who is connecting")
def test_ctrl_c_while_connecting_ends_the_client_without_a_traceback(run):
    """The node's queue of those who want to connect is full."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for other in (first, second):
            other.setblocking(False)
            other.connect_ex(server.getsockname())
        port = server.getsockname()[1]
        client = run("blockchain_client.py", port)
        connecting = f":{port:04X} 02 "  # the kernel's table of connections; 02 is SYN_SENT
        table = pathlib.Path("/proc/net/tcp")
        wait_until(lambda: table.read_text().count(connecting) == 2, "the client connects, too")
        client.interrupt()
        assert client.status() == -signal.SIGINT
        assert client.output == ""


@posix
@pytest.mark.parametrize("request_lines", [["2", ""], ["2", "bob"], ["3"]])
def test_output_that_nobody_reads_any_more_ends_the_client(server, run, alice, request_lines):
    """As in `python blockchain_client.py 1111 | head`: without a word, but for a transaction.

    When its answer comes, nobody can see it.
    """
    lines = request_lines + [*good_answers(alice).values()] * (request_lines == ["3"])
    reader, writer = os.pipe()
    client = run("blockchain_client.py", server.socket_port, stdout=writer)
    os.close(writer)
    client.type("\n".join(lines[:-1]))
    read = b""
    while not read.endswith(b"Comment: " if lines[0] == "3" else b"Address: "):
        piece = os.read(reader, 65536)
        assert piece, f"the client has ended: {client.output}"
        read += piece
    os.close(reader)
    client.type(lines[-1])
    assert client.status() == 1
    assert bool(client.output) == (lines[0] == "3"), client.output


@posix
@pytest.mark.maintainers
def test_our_own_sentences(person, silent, alice):
    """A learner's may be others. What a check says is in the tests above."""
    client = person(silent.port, "impatient")
    unknown = r"Unknown command\.\nNothing was sent\. Type 1, 2 or 3; Ctrl-C ends the client\.\n"
    client.type("9", then=f"^{unknown}")
    client.type("2\n", then=r"Address: Nothing was sent\.\n")
    client.type(f"2\n{alice.private}", then=r"A private key is for Private_key only\. Nothing was")
    fill_in(client, alice, Comment="x" * 17_000)
    client.wait_for(r"Nothing was sent\. A request may have 16384 bytes at most\.\n")
    with silent.accept() as connection:
        fill_in(client, alice)
        client.wait_for(r"^No answer yet\. Ctrl-C ends the client\.\n")
        answer(connection, AUTHORIZED)
        client.wait_for(r"\nThe transaction counts as soon as a block with it is mined\.\n")
        fill_in(client, alice)
        assert connection.recv(1)
    client.wait_for(r"\nThe connection to the node has ended\.\n")
    client.wait_for(r"\nIt may have been accepted\. Sent again with all fields the same, it counts")
    client = person(silent.port)
    client.type("2", then="Address: ")
    client.end_input()
    client.wait_for(r"^\nNothing was sent\.\n")
