"""Day 06: the menu client, with a person's mistakes and pastes, and with nodes that misbehave.

Most sessions use pipes, which do not show what is typed; only `isatty` says that a person types.
Some tests use a terminal.
"""

import os
import re
import signal
import socket
import types
import unicodedata

import pytest
import rsa
from conftest import Account, mine
from processes import posix, wait_until

import blockchain_client
from blockchain_client import address_or_text, no_key, private_key_of, whole_address, whole_number

MENU = r"Command list:\n1\. generate_address\n2\. get_balance\n3\. transaction\n(.*\n)*?.*Command: "
FIELDS = ["Address", "Private_key", "Receiver", "Amount", "Fee", "Comment"]
PART_OF_KEY = "^this looks like a (key, or a part of a key|part of an address)"
LOOKS_LIKE_A_KEY = r"this looks like a key, or a part of a key\. It is not sent\.\n"
AUTHORIZED = "{'result': True, 'result_message': 'Authorized successfully!'}"
NOT_ENOUGH = "{'result': False, 'result_message': 'Balance not enough!'}"
COUNTS = "The transaction counts as soon as a block with it is mined.\n"
LATE = "A late answer, to an earlier request:\n[*] Message from node: "
NO_ANSWER = "No answer from the node.\n"
SAFE = "It may have been accepted. Sent again with all fields the same, it counts once.\n"


@pytest.fixture
def client(server, run):
    """A person at the menu client, connected to a node, at its first prompt."""
    client = run("tests/changed.py", "person", "blockchain_client.py", server.socket_port)
    client.wait_for("Command: ")
    return client


@pytest.fixture
def silent():
    """A port in place of a node. It takes what is sent, and does not answer by itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield types.SimpleNamespace(port=server.getsockname()[1], accept=server.accept)


def good_answers(account, **others):
    """Return an answer to every prompt of a transaction."""
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


def test_the_menu_is_the_tutorials_and_comes_after_the_answer(client):
    hello = r"An empty line leads back to the menu \(not at Comment\)\. Ctrl-C ends the client\.\n"
    assert re.match(hello + MENU, client.output)
    for _ in range(10):
        client.type("2", then="Address: ")
        balance = r"\] Message from node: \{'address': 'bob', 'balance': 0\}\nCommand list"
        client.type("bob", then=balance)


def test_an_address_and_its_private_key_are_made_here(client):
    address, private = client.type("1", then=r"Address: (\S+)\nPrivate key: (\S+)\n").groups()
    assert private_key_of(whole_address(address), private) == private


# ---- Each answer belongs to its request
def test_a_late_answer_is_shown_as_late_and_never_taken_for_the_next_one(run, silent, alice):
    """Both answers come in one piece, when the second one is awaited."""
    client = run("tests/changed.py", "impatient_once", "blockchain_client.py", silent.port)
    fill_in(client, alice, Receiver="bob", Amount="5")
    client.wait_for(re.escape(NO_ANSWER + SAFE) + "Command list")
    fill_in(client, alice, Receiver="carol", Amount="999999")
    with silent.accept()[0] as connection:
        connection.sendall((AUTHORIZED + NOT_ENOUGH).encode())
        shown = f"{LATE}{AUTHORIZED}\n[*] Message from node: {NOT_ENOUGH}\nCommand list"
        client.wait_for("^" + re.escape(shown))
    assert COUNTS not in client.output


def test_a_late_answer_is_shown_with_the_next_menu_and_over_no_prompt(run, silent):
    client = run("tests/changed.py", "impatient_once", "blockchain_client.py", silent.port)
    client.type("2\nbob", then=re.escape(NO_ANSWER) + MENU)
    with silent.accept()[0] as connection:
        connection.sendall(b"{'address': 'bob', 'balance': 1}")

        def another_menu():
            client.type("2", then="Address: $")  # nothing lands on this prompt, nor on the next
            client.type("", then=r"^Nothing was sent\.\n((?:.*\n)*?)Command list(.*\n)+Command: $")
            return LATE in client.output

        wait_until(another_menu, "the late answer, with a menu")
        shown = f"{LATE}{{'address': 'bob', 'balance': 1}}\nCommand list"
        assert client.output.count(LATE) == client.output.count(shown) == 1
        client.type("2\ncarol")
        connection.sendall(b"{'address': 'carol', 'balance': 2}")
        own = r"Address: \[\*\] Message from node: \{'address': 'carol', 'balance': 2\}\n"
        client.wait_for(own)
    assert SAFE not in client.output  # that is for transactions


@posix
def test_a_node_that_was_held_up_answers_late_and_counts_once(start_node, run):
    """As with Ctrl-S in its window. What is sent again with all fields the same counts once."""
    node = start_node("never_found")
    client = run("tests/changed.py", "impatient_once", "blockchain_client.py", node.port)
    node.popen.send_signal(signal.SIGSTOP)
    fill_in(client, node.miner, Receiver="bob", Amount="5")
    client.wait_for(re.escape(NO_ANSWER + SAFE))
    fill_in(client, node.miner, until="Comment", Receiver="bob", Amount="5")
    node.popen.send_signal(signal.SIGCONT)
    client.type("", then=re.escape(f"{LATE}{AUTHORIZED}\n[*] Message from node: "))
    client.wait_for(r"^\{'result': False, 'result_message': 'Accepted before! To pay a second .*\n")
    client.wait_for("^Command list")
    fill_in(client, node.miner, Receiver="carol", Amount="999999")
    client.wait_for("^" + re.escape(f"[*] Message from node: {NOT_ENOUGH}\nCommand list"))
    assert COUNTS not in client.output


STRANGE = "{'message': '\x1b[2J\u202e\\p謝'}".encode()
ANSWERS = {
    "whole": (["{'address': '謝', 'balance': 0}".encode()], r"\{'address': '謝', 'balance': 0\}"),
    "byte by byte": ([bytes([b]) for b in "{'謝': '}{', 'b': {1: [{}]}}".encode()],
                     r"\{'謝': '}{', 'b': \{1: \[\{\}\]\}\}"),
    "with control characters": ([STRANGE], r"\{'message': '\\x1b\[2J\\u202e\\p謝'\}"),
    "cut off": ([b"{'address': '\xe8", None], r"\{'address': '\\xe8"),
    "no answer": ([b"HTTP/1.1 400 Bad Request\r\n", None], r"HTTP/1\.1 400 Bad Request\\r\\n"),
    "without an end": ([b"a" * 10**6], "a{1000}"),
    "small dicts without an end": ([b"{" + b"1:{1:2}," * 20_000], r"\{1:\{1:2\}.*"),
}  # fmt: skip


@pytest.mark.parametrize("pieces, shown", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_shown_whole_wherever_it_was_cut(run, silent, pieces, shown):
    """It steers no terminal. What is no answer ends the connection, which is cheap."""
    client = run("tests/changed.py", "person", "blockchain_client.py", silent.port)
    client.type("2", then="Address: ")
    with silent.accept()[0] as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.type("bob")
        assert connection.recv(1)  # the client is waiting for an answer now
        for piece in pieces:
            if piece is None:
                connection.shutdown(socket.SHUT_WR)
            else:
                connection.sendall(piece)
        client.wait_for(r"^\[\*\] Message from node: " + shown + r"\n")
    assert client.status() != 0  # the node has gone
    assert "\x1b" not in client.output and not client.failure()
    assert client.output.count("Message from node") == 1


@pytest.mark.parametrize("cut", [40, 83], ids=["cut off", "whole"])
def test_only_the_whole_answer_to_a_transaction_says_that_it_counts(run, silent, alice, cut):
    client = run("tests/changed.py", "person", "blockchain_client.py", silent.port)
    fill_in(client, alice)
    with silent.accept()[0] as connection:
        assert connection.recv(1)
        connection.sendall(AUTHORIZED[:cut].encode())
        if cut < len(AUTHORIZED):
            connection.shutdown(socket.SHUT_WR)
        client.wait_for(r"^\[\*\] Message from node: " + re.escape(AUTHORIZED[:cut]) + "\n")
        client.wait_for("ended" if cut < len(AUTHORIZED) else f"^{re.escape(COUNTS)}Command list")
    assert (COUNTS in client.output) == (cut >= len(AUTHORIZED))


def test_the_answer_to_a_question_never_says_that_a_transaction_counts(run, silent):
    client = run("tests/changed.py", "person", "blockchain_client.py", silent.port)
    client.type("2\nbob")
    with silent.accept()[0] as connection:
        assert connection.recv(1)
        connection.sendall(AUTHORIZED.encode())
        client.wait_for(re.escape(AUTHORIZED) + "\nCommand list")


def test_an_output_that_cannot_show_a_character_shows_its_number(run, silent):
    client = run("tests/changed.py", "ascii_only", "blockchain_client.py", silent.port)
    client.type("2\nbob")
    with silent.accept()[0] as connection:
        connection.sendall("{'address': '謝'}".encode())
        client.wait_for(r"\[\*\] Message from node: \{'address': '\\u8b1d'\}\n")


def test_an_answer_that_nobody_asked_for_does_not_shift_the_others(run, silent):
    client = run("tests/changed.py", "person", "blockchain_client.py", silent.port)
    with silent.accept()[0] as connection:
        connection.sendall(b"{'message': 'hello'}")

        def another_menu():
            client.type("2", then="Address: $")
            client.type("", then=r"^Nothing was sent\.\n(.*\n)*.*Command: $")
            return "{'message': 'hello'}" in client.output

        wait_until(another_menu, "the answer that nobody asked for, with a menu")
        client.type("2\nbob")
        assert connection.recv(1)
        connection.sendall(b"{'address': 'bob', 'balance': 0}")
        client.wait_for(r"^Address: \[\*\] Message from node: \{'address': 'bob', 'balance': 0\}\n")


def test_answers_that_nobody_asked_for_take_no_memory_without_end(run, silent):
    """They wait in the socket, and those who sent them wait, too."""
    run("tests/changed.py", "person", "blockchain_client.py", silent.port).wait_for("Command: ")
    with silent.accept()[0] as connection:
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                connection.sendall(b"{'balance': '" + b"9" * 60_000 + b"'}")


def columns_of(row):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in row)


@posix
@pytest.mark.parametrize("filler", ["x", "謝"])
@pytest.mark.parametrize("columns", [80, 60, 0])
def test_an_answer_cannot_pass_for_a_prompt(run, silent, columns, filler):
    """All rows of it are indented below the first one, so a row never begins with `Command: `."""
    client = run("blockchain_client.py", silent.port, terminal=True)
    client.resize(columns)
    client.type("2", then="Address: ")
    client.type("bob")
    fields = {"a": filler * 57 + "Command: session expired. Enter your private key" + " " * 80}
    with silent.accept()[0] as connection:
        connection.sendall(str(fields).encode())
        client.wait_for("Message from node: ")
        client.wait_for("Command list")
    answer = client.output.partition("[*] Message")[2].partition("\nCommand list")[0]
    first, *rows = f"[*] Message{answer}".split("\n")
    assert len(rows) >= 2
    assert all(row.startswith(" " * 23) for row in rows)
    longest = max(columns_of(row.rstrip()) for row in [first, *rows])
    assert longest == (columns or 80) - (3 if filler == "x" else 2)  # the last column is free
    assert "".join([first, *(row[23:] for row in rows)]) == f"[*] Message from node: {fields}"


@pytest.mark.parametrize("command", ["get_balance", "transaction"])
def test_a_node_that_never_answers_does_not_keep_the_menu(run, silent, alice, command):
    client = run("tests/changed.py", "impatient", "blockchain_client.py", silent.port)
    for _ in range(2):  # the second one is not taken for the answer to the first
        if command == "transaction":
            fill_in(client, alice)
        else:
            client.type("2\nbob")
        hint = SAFE if command == "transaction" else ""
        client.wait_for(re.escape(NO_ANSWER + hint) + "Command list:\n")


# ---- Keys: a private key stays at home, and an address arrives whole
def spaced(key, between, width=20):
    return between.join(key[start : start + width] for start in range(0, len(key), width))


def ordinary_private_key():
    """Return one that has a digit in each row of 50. One in two thousand has a row without any.

    The client guesses what is part of a key, and lets such a row pass.
    """
    while True:
        private = Account().private
        if all(re.search("[0-9]", private[n : n + 50]) for n in range(len(private) - 50)):
            return private


SECRET = ordinary_private_key()


def test_a_private_key_is_never_sent(run, silent, alice):
    """No part of it is sent, whatever a person pastes at any prompt."""
    secret = SECRET
    lines = [secret[start : start + 64] for start in range(0, len(secret), 64)]
    pastes = [secret, f"Private key: {secret}", secret[:-1], secret[10:70], *lines[:-1]]
    pastes += [spaced(secret, " "), spaced(secret, ", "), f"'{spaced(secret, chr(0x200B))}'."]
    client = run("tests/changed.py", "person", "blockchain_client.py", silent.port)
    client.type(secret, then=r"Unknown command\.\n")
    client.type("2")
    good = {"get_balance": "", **good_answers(alice)}
    for field, text in good.items():
        if field == "Address":
            client.wait_for("Command: ")
            client.type("3")
        prompt = "Address" if field == "get_balance" else field
        client.wait_for(f"{prompt}: ")
        if field == "Comment":
            break
        for paste in pastes:
            client.type(paste, then=rf"{prompt}: th.*\.\)?\n{prompt}: ")
        client.type(text)
    for number, paste in enumerate(pastes):
        if number:
            fill_in(client, alice, until="Comment")
        client.type(paste, then=rf"Comment: {LOOKS_LIKE_A_KEY}Nothing was sent\.\nCommand list")
    client.end_input()
    assert client.status() == 0
    with silent.accept()[0] as connection:
        assert connection.recv(1) == b""
    assert secret[10:40] not in client.output


@pytest.mark.parametrize("check", [no_key, address_or_text])
def test_a_private_key_is_found_whatever_stands_between_its_letters(check):
    for between in (" ", ",", "\n", "\u200b", " - ", "\u3000", "'", "謝", ":"):
        for width in (1, 7, 20, 23, 64):
            secret = spaced(Account().private if width == 20 else SECRET, between, width)
            around = ("{}", "Private key: {}", "<{}>", '"{}".', "my key {}", "{} :)", "{} thanks")
            for typed in (form.format(secret) for form in around):
                with pytest.raises(ValueError, match=LOOKS_LIKE_A_KEY.strip("\\n")):
                    check(typed)


def wrapped(key, columns, label=""):
    """Return a key as a terminal shows it, with its label and line breaks."""
    return spaced(label + key, "\n", columns)


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


def test_part_of_an_address_is_refused():
    # Always the same one: with other letters, one part in a thousand looks like a word.
    address = "MEgCQQCAHAwlP5hETYNmY4XbRHFvj0nFEDriYZptK8pcLaXDLMBymCgrcBzLCiAzBAKbg+t3AFK8Kv0D"
    address += "STCKwo1g99dRAgMBAAE="
    assert whole_address(address) == address
    for part in (
        *(address[:-1], address[:30] + address[31:], address[20:], address[6:50]),
        *(address[-9:], "=", f"Address: {address[:-1]}", wrapped(address[:80], 60)),
        address[:-2] + chr(ord(address[-2]) + 1) + "=",  # another spelling of the same key
        f"{address} {address}",
        "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANrG/HiSL6M41EaDsmpVKW+E4QZKaiW2",  # the article's format
    ):
        with pytest.raises(ValueError, match=PART_OF_KEY):
            address_or_text(part)


@pytest.mark.parametrize("bits", [360, 504])
def test_an_address_must_be_valid_for_the_node(bits):
    """The node refuses keys of less than 512 bits, too."""
    public = rsa.newkeys(bits)[0].save_pkcs1()
    with pytest.raises(ValueError, match=r"^this is not a valid address"):
        whole_address(blockchain_client.get_address_from_public(public))


def test_any_other_text_is_a_receiver_or_a_comment():
    for text in (
        *("test123", "小明", "True", "MIKE", "M", "é", "2+2=4", "antidisestablishmentarianism"),
        *("a" * 24, "1" * 24, "a1" * 20, "http://a.b/c", "/home/anna/projects/report2024"),
        *("Thank you for the lunch yesterday", "happy birthday my dear friend"),
        *("謝謝你昨天的午餐" * 9, "I keep my PRIVATE KEY in a book", "50 = 51 (MIIBOgIBAAJBAM)"),
        *("see https://github.com/dvf/blockchain/issues/123", "my FAMILY of 5 says MII: " * 12),
    ):
        assert address_or_text(text) == no_key(text) == text
    for comment in ("", "2+2=", "謝謝\u3000你", "👨\u200d👩\u200d👧", "two\nlines"):
        assert no_key(comment) == comment


@pytest.mark.parametrize("text", ["bob\u200b", "caf\ufffd", "bob\tjones", "bob\x1b[A", "\udce9"])
def test_a_receiver_has_no_character_that_cannot_be_seen_or_was_not_read(text):
    """Otherwise, two accounts look the same, and the coins go to the wrong one."""
    with pytest.raises(ValueError) as mistake:
        address_or_text(text)
    assert str(mistake.value) == f"{text!r} has an invisible or unreadable character."


@pytest.mark.filterwarnings("ignore:You have provided a malformed keyfile")
def test_a_private_key_must_be_complete_and_belong_to_the_address(alice):
    address, key = alice.address, alice.private
    for text in ("", "é", "=", "MII", "q", address, key[:-1]):
        with pytest.raises(ValueError, match=r"^this is not a valid key\.$"):
            private_key_of(address, text)
    other = r"^this key belongs to another address\. An empty line leads to the menu\.$"
    with pytest.raises(ValueError, match=other):
        private_key_of(address, Account().private)
    for place, old in enumerate(key):
        with pytest.raises(ValueError):
            private_key_of(address, key[:place] + ("A" if old != "A" else "B") + key[place + 1 :])


def test_a_number_has_digits_only():
    assert [whole_number(0, typed) for typed in ("0", "007", "５０", "٣")] == [0, 7, 50, 3]
    for typed in ("ten", "1.5", "-5", "+5", "nan", "1e3", "0x10", "1_0", "", "²", "9" * 5000):
        with pytest.raises(ValueError, match=r"^this must be a whole number, 0 or more\.$"):
            whole_number(0, typed)
    with pytest.raises(ValueError, match="1 or more"):
        whole_number(1, "0")


# ---- Slips
def test_after_a_mistake_the_same_field_is_asked_again(client, server, rich_alice):
    """Digits may be full-width, and spaces around an answer do not matter."""
    damaged = rich_alice.private[:-9] + "AAAAAAA" + rich_alice.private[-2:]  # rsa warns about it
    mistakes = {
        "Address": ["alice", "é", "A" * 96],
        "Private_key": ["secret", "é", "=", damaged],
        "Receiver": ["aB3" * 8, "\u200b"],
        "Amount": ["ten", "-5", "0", "1_0"],
        "Fee": ["ten", "-1"],
        "Comment": [],
    }
    client.type(" ３ ", then="Address: ")
    good = good_answers(rich_alice, Amount="１", Fee="０", Comment="謝謝")
    for number, (field, text) in enumerate(good.items()):
        for mistake in mistakes[field]:
            said = client.type(mistake, then=rf"^{field}: (.*\.\)?)\n{field}: ")[1]
            assert mistake not in said
        client.type(f"  {text}  ")
        client.wait_for(f"{FIELDS[number + 1]}: " if field != "Comment" else "Authorized success")
    client.wait_for(COUNTS)
    assert "Warning" not in client.output
    assert server.pending_transactions == [rich_alice.pay("bob", 1, 0, "謝謝")[0]]


def test_an_empty_line_leads_back_to_the_menu(client, alice):
    for field in FIELDS[:-1]:
        fill_in(client, alice, field)
        client.type("  ", then=rf"^Nothing was sent\.\n{MENU}")


def test_an_unknown_command_shows_which_commands_there_are(client):
    hint = r"^Unknown command\.\nType 1, 2 or 3; Ctrl-C ends the client\.\nCommand list(.*\n)*.*: "
    for unknown in ("0", "generate_address", "é", "1 2", "\uff10", ""):
        client.type(unknown, then=hint)


def test_bytes_that_are_not_text_do_not_end_the_session(client):
    client.type("\udcff\udcfe", then=r"Unknown command\.\n")  # the bytes FF and FE
    client.type("2\ncaf\udce9")
    client.wait_for(r"Address: 'caf\ufffd' has an invisible or unreadable character\.\nAddress: ")


def test_the_last_row_of_a_key_does_not_become_a_comment(client, server, rich_alice):
    """A paste that the terminal does not mark comes row by row."""
    fill_in(client, rich_alice, until="Comment")
    rows = wrapped(SECRET, 60).split("\n")
    client.type("\n".join(rows), then=rf"Comment: {LOOKS_LIKE_A_KEY}Nothing was sent\.\n")
    client.type("2", then="Address: ")
    assert server.pending_transactions == []


def test_a_request_that_is_too_long_is_not_sent(client, server, rich_alice):
    for letter, length in ("x", 17_000), ("謝", 6_000):
        fill_in(client, rich_alice, Comment=letter * length)
        client.wait_for(r"^Nothing was sent\. A request may have 16384 bytes at most\.\nCommand")
    fill_in(client, rich_alice, Comment="x" * 15_000)
    client.wait_for(re.escape(AUTHORIZED))
    assert len(server.pending_transactions) == 1


# ---- Pipes
def test_input_that_ends_ends_the_client_after_the_last_answer(server, run):
    client = run("blockchain_client.py", server.socket_port)
    fill_in(client, Account())
    client.end_input()
    assert client.status() == 0
    assert f"[*] Message from node: {NOT_ENOUGH}\n" in client.output


REFUSED_LINES = {
    "part of a key": {"Receiver": "aB3" * 8, "Amount": "50", "Fee": "1", "Comment": "0"},
    "empty receiver": {"Receiver": ""},
    "letters": {"Amount": "ten"},
    "wrong key": {"Private_key": "secret"},
    "key as a comment": {"Comment": SECRET},
    "12 MB": {"Comment": "x" * 12_000_000},
}


@pytest.mark.parametrize("field", REFUSED_LINES.values(), ids=REFUSED_LINES)
def test_a_refused_line_of_a_pipe_ends_the_client_and_nothing_is_sent(
    server, run, rich_alice, tmp_path, field
):
    """Otherwise, the lines after it become another transaction, here of 1 coin to `50`."""
    mine(server, rich_alice.address)
    lines = ["3", *good_answers(rich_alice, **field).values(), "3", "50", "1", "1", ""]
    client = run("blockchain_client.py", server.socket_port)
    client.type("\n".join(lines))
    assert client.status() == 1
    assert "\nNothing was sent." in client.output.replace(": Nothing", ":\nNothing")
    assert server.pending_transactions == []


def test_an_unknown_command_of_a_pipe_ends_the_client(server, run):
    client = run("blockchain_client.py", server.socket_port)
    client.type("9\n1")
    assert client.status() == 1
    assert "Unknown command." in client.output and "Private key" not in client.output


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
    on_terminal.type("", then=MENU)
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
    on_terminal.paste(wrapped(private[20:], 80), then=f"Receiver: {LOOKS_LIKE_A_KEY}")
    on_terminal.paste(wrapped(address, 40))
    on_terminal.type("1\n0\npasted", then="'Authorized")
    assert "\x1b[?2004h" in on_terminal.output  # this asks the terminal to mark pastes


@posix
@pytest.mark.parametrize("locale", ["C", "xx_YY.UTF-8"])
def test_chinese_arrives_whole_in_a_locale_that_is_not_there(server, run, locale):
    """Left to itself, readline drops it: the coins for 店shop go to shop."""
    client = run("blockchain_client.py", server.socket_port, terminal=True, LC_ALL=locale)
    client.type("2", then="Address: ")
    client.type("店鋪\x7fshop", then="'address': '店shop'")  # \x7f deletes a character, not a byte


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
        client.wait_for(r"\nThe connection to the node has ended\.\n")
    else:
        client.press_until_it_ends(how[-1])
    assert client.status() == (1 if how == "the node goes" else 0)
    assert "Traceback" not in client.output
    fresh = os.openpty()
    assert termios.tcgetattr(client.output_end) == termios.tcgetattr(fresh[0])
    for descriptor in fresh:
        os.close(descriptor)


@pytest.mark.parametrize("change", ["person", pytest.param("in_the_background", marks=posix)])
def test_a_node_that_goes_away_is_noticed_at_once_on_a_pipe_too(node, run, change):
    client = run("tests/changed.py", change, "blockchain_client.py", node.port)
    client.wait_for("Command: ")
    node.popen.kill()
    client.wait_for(r"\nThe connection to the node has ended\.\n")
    assert client.status() in ((1,) if os.name == "posix" else (1, 2))  # no such Ctrl-C on Windows
    assert "Traceback" not in client.output


def test_the_answer_of_a_node_that_then_goes_is_shown_first(run, silent):
    """The node that refuses a request answers, and ends the connection at once."""
    for _ in range(2):
        client = run("tests/changed.py", "person", "blockchain_client.py", silent.port)
        client.type("2\nbob")
        with silent.accept()[0] as connection:
            assert connection.recv(1)
            connection.sendall(b"{'message': 'no'}")
            connection.shutdown(socket.SHUT_WR)
            client.wait_for(r"^(.*\n)*.*\[\*\] Message from node: \{'message': 'no'\}\n")
            client.wait_for(r"The connection to the node has ended\.\n")
            assert client.status() != 0


def test_a_node_that_goes_at_once_leaves_no_traceback(run, silent):
    """As a node does that can start no thread. The client may still be starting its own."""
    for _ in range(6):
        client = run("blockchain_client.py", silent.port)
        silent.accept()[0].close()
        client.wait_for(r"The connection to the node has ended\.\n")
        assert client.status() in ((1,) if os.name == "posix" else (1, 2))


@posix
def test_ctrl_c_ends_the_client_while_it_waits_for_an_answer(run, silent):
    client = run("tests/changed.py", "patient", "blockchain_client.py", silent.port)
    client.type("2\nbob")
    with silent.accept()[0] as connection:
        assert connection.recv(1)
        client.interrupt()
        assert client.status() == 0


@posix
@pytest.mark.parametrize("typed", ["2\n", "2\nbob\n", "3\n"])
def test_output_that_nobody_reads_any_more_ends_the_client_without_a_word(server, run, typed):
    """As in `python blockchain_client.py 1111 | head -n 1`."""
    script = '{ "$0" "$1/blockchain_client.py" "$2"; echo "status $?" >&2; } | head -n 1'
    python, root = blockchain_client.sys.executable, os.path.dirname(blockchain_client.__file__)
    client = run("sh", "-c", script, python, root, server.socket_port)
    client.wait_for(r"Ctrl-C ends the client\.\n")
    client.type(typed)
    client.wait_for(r"^status 1\n")
