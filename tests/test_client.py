"""Day 06: the menu client, with a person's mistakes and pastes, and with nodes that misbehave.

Most sessions use pipes, which do not show what is typed. Some tests use a terminal.
"""

import os
import re
import signal
import socket
import threading

import pytest
import rsa
from conftest import Account
from processes import patience, posix, run_unread

import blockchain_client
from blockchain_client import address_or_text, no_key, private_key_of, whole_address, whole_number

MENU = r"Command list:\n1\. generate_address\n2\. get_balance\n3\. transaction\n(.*\n)*?.*Command: "
FIELDS = ["Address", "Private_key", "Receiver", "Amount", "Fee", "Comment"]
ANSWER_SECONDS = "script.ANSWER_SECONDS = %d"
PART_OF_KEY = "^this looks like a (key, or a part of a key|part of an address)"
STRANGE = "{'message': '\x1b[2J\n\u202e\\p謝'}".encode()
SHOWN = {
    b"{'message': 'one'}": r"\{'message': 'one'\}",
    STRANGE: r"\{'message': '\\x1b\[2J\\n\\u202e\\p\\u8b1d'\}",
    b"\xff{[(": r"\\xff\{\[\(",
    b"a" * 10**6: "a{1000}",
}


@pytest.fixture
def client(node, run):
    """The menu client on pipes, connected to a node, at its first prompt."""
    client = run("blockchain_client.py", node.port)
    client.wait_for("Command: ")
    return client


def good_answers(account, **others):
    """Return an answer to every prompt of a transaction."""
    good = {"Address": account.address, "Private_key": account.private, "Receiver": "bob"}
    return {**good, "Amount": "1", "Fee": "0", "Comment": "", **others}


def fill_in(client, account, until=None):
    """Begin a transaction, and answer every prompt before the field `until`."""
    client.type("3")
    for prompt, text in good_answers(account).items():
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


def test_input_that_ends_ends_the_client_after_the_last_answer(client):
    fill_in(client, Account())
    client.end_input()
    assert client.status() == 0
    assert "{'result': False, 'result_message': 'Balance not enough!'}\n" in client.output


# ---- Keys: a private key stays at home, and an address arrives whole
@pytest.fixture
def silent():
    """A socket in place of a node. It takes what is sent, and does not answer by itself."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent


def test_a_private_key_is_never_sent(run, silent, alice):
    """No part of it is sent, whatever a person pastes at any prompt."""
    secret = Account().private
    lines = [secret[start : start + 64] for start in range(0, len(secret), 64)]
    pastes = [secret, f"Private key: {secret}", secret[:-1], secret[10:70], *lines[:-1]]
    client = run("blockchain_client.py", silent.getsockname()[1])
    client.type(secret, then=r"Unknown command\.\n")
    client.type("2")
    good = {"get_balance": "", **good_answers(alice, Comment=secret)}
    for field, text in good.items():
        if field == "Address":
            client.wait_for("Command: ")
            client.type("3")
        prompt = "Address" if field == "get_balance" else field
        client.wait_for(f"{prompt}: ")
        for paste in pastes:
            client.type(paste, then=rf"{prompt}: this .*\.\)?\n{prompt}: ")
        client.type(text)
    client.end_input()
    assert client.status() == 0
    with silent.accept()[0] as connection:
        assert connection.recv(1) == b""
    assert secret[10:40] not in client.output


def wrapped(key, columns, label=""):
    """Return a key as a terminal shows it, with its label and line breaks."""
    text = label + key
    return "\n".join(text[start : start + columns] for start in range(0, len(text), columns))


def test_a_key_is_taken_as_people_copy_it(alice):
    """With its label, with the line breaks of a terminal, and with spaces."""
    for label in ("", "Miner address: ", "Address: ", "Miner address:"):
        for paste in (wrapped(alice.address, 80, label), wrapped(alice.address, 60, label) + "\n"):
            assert whole_address(paste) == address_or_text(paste) == alice.address
    labels = ["", "Miner private: ", "Private key: ", f"Address: {alice.address}\nPrivate key: "]
    for label in labels:
        for paste in (wrapped(alice.private, 80, label), f" {label}  {alice.private} \n"):
            assert private_key_of(alice.address, paste) == alice.private


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


def test_an_address_must_be_valid_for_the_node():
    """The node refuses keys of less than 512 bits, too."""
    for bits in (360, 504):
        public = rsa.newkeys(bits)[0].save_pkcs1()
        with pytest.raises(ValueError, match=r"^this is not a valid address"):
            whole_address(blockchain_client.get_address_from_public(public))


def test_any_other_text_is_a_receiver_or_a_comment():
    for text in (
        *("test123", "小明", "True", "MIKE", "M", "é", "2+2=4", "antidisestablishmentarianism"),
        *("a" * 24, "1" * 24, "a1" * 20, "http://a.b/c", "/home/anna/projects/report2024"),
        *("Thank you for the lunch yesterday", "happy birthday my dear friend"),
        *("謝謝你昨天的午餐" * 9, "I keep my PRIVATE KEY in a book", "50 = 51 (MIIBOgIBAAJBAM)"),
        "see https://github.com/dvf/blockchain/issues/123",
    ):
        assert address_or_text(text) == no_key(text) == text
    for comment in ("", "2+2=", "謝謝\u3000你", "👨\u200d👩\u200d👧", "two\nlines"):
        assert no_key(comment) == comment


def test_a_receiver_has_no_character_that_cannot_be_seen_or_was_not_read():
    """Otherwise, two accounts look the same, and the coins go to the wrong one."""
    for text in ("bob\u200b", "caf\ufffd", "bob\tjones", "bob\x1b[A", "\udce9"):
        with pytest.raises(ValueError, match=r"^the character '.*' is invisible or unreadable\.$"):
            address_or_text(text)


@pytest.mark.filterwarnings("ignore:You have provided a malformed keyfile")
def test_a_private_key_must_be_complete_and_belong_to_the_address(alice):
    address, key, menu = alice.address, alice.private, r" Press Enter for the menu\.$"
    for text in ("", "é", "=", "MII", "q", address, key[:-1]):
        with pytest.raises(ValueError, match=r"^this is not a valid private key\." + menu):
            private_key_of(address, text)
    with pytest.raises(ValueError, match=r"^this key belongs to another address\." + menu):
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


def test_after_a_mistake_the_same_field_is_asked_again(client, node):
    """Digits may be full-width, and spaces around an answer do not matter."""
    damaged = node.miner.private[:-9] + "AAAAAAA" + node.miner.private[-2:]  # rsa warns about it
    mistakes = {
        "Address": ["alice", "é", "A" * 96],
        "Private_key": ["secret", "é", "=", damaged],
        "Receiver": ["aB3" * 8, "\u200b"],
        "Amount": ["ten", "-5", "0", "1_0"],
        "Fee": ["ten", "-1"],
        "Comment": ["aB3" * 8],
    }
    client.type(" ３ ", then="Address: ")
    good = good_answers(node.miner, Amount="１", Fee="０", Comment="謝謝")
    for number, (field, text) in enumerate(good.items()):
        for mistake in mistakes[field]:
            said = client.type(mistake, then=rf"{field}: (th.*\.\)?)\n{field}: ")[1]
            assert mistake not in said
        client.type(f"  {text}  ")
        client.wait_for(f"{FIELDS[number + 1]}: " if field != "Comment" else "Authorized success")
    client.wait_for("The transaction counts as soon as a block with it is mined")
    assert "Warning" not in client.output


def test_an_empty_line_leads_back_to_the_menu(client, node):
    for field in FIELDS[:-1]:
        fill_in(client, node.miner, field)
        client.type("  ", then=rf"Back to the menu\. Nothing was sent\.\n{MENU}")


def test_an_unknown_command_shows_which_commands_there_are(client):
    hint = r"Unknown command\.\nType 1 to \d; Ctrl-C ends the client\.\nCommand list"
    for unknown in ("0", "generate_address", "é", "1 2", "\uff10", ""):
        client.type(unknown, then=hint)


def test_bytes_that_are_not_text_do_not_end_the_session(client):
    client.type("\udcff\udcfe", then=r"Unknown command\.\n")  # the bytes FF and FE
    client.type("2\ncaf\udce9")
    client.wait_for(r"Address: the character '\\ufffd' is invisible or unreadable\.\nAddress: ")


@pytest.fixture
def on_terminal(node, run):
    """The client on a terminal of its own."""
    client = run("blockchain_client.py", node.port, terminal=True)
    client.wait_for("Command: ")
    return client


@posix
def test_arrows_edit_a_line_and_up_brings_no_private_key_back(on_terminal, node):
    fill_in(on_terminal, node.miner, "Receiver")
    on_terminal.type("", then=MENU)
    before = len(on_terminal.output)
    on_terminal.type("2", then="Address: ")
    up, left = "\x1b[A", "\x1b[D"
    on_terminal.type(up * 3 + "bo" + left + "X", then=r"'address': 'bXo'")
    assert node.miner.private[40:70] not in on_terminal.output[before:]


@posix
def test_a_paste_with_line_breaks_is_one_answer(on_terminal, node):
    """The label and a last line break come with it, as when somebody selects the lines."""
    address, private = node.miner.address, node.miner.private
    on_terminal.type("3", then="Address: ")
    on_terminal.paste(wrapped(address, 80, "Miner address: ") + "\n", then="Private_key: ")
    on_terminal.paste(wrapped(private, 80, "Miner private: ") + "\n", then="Receiver: ")
    refusal = r"Receiver: this looks like a key, or a part of a key\. It is not sent\.\n"
    on_terminal.paste(wrapped(private[20:], 80), then=refusal)
    on_terminal.paste(wrapped(address, 40))
    on_terminal.type("1\n0\npasted", then="'Authorized successfully!'")
    assert "\x1b[?2004h" in on_terminal.output  # this asks the terminal to mark pastes


@posix
@pytest.mark.parametrize("locale", ["C", "xx_YY.UTF-8"])
def test_chinese_arrives_whole_in_a_locale_that_is_not_there(node, run, locale):
    """Left to itself, readline drops it: the coins for 店shop go to shop."""
    client = run("blockchain_client.py", node.port, terminal=True, LC_ALL=locale)
    client.type("2", then="Address: ")
    client.type("店鋪\x7fshop", then="'address': '店shop'")  # \x7f deletes a character, not a byte


@posix
@pytest.mark.parametrize("how, status", [("C", 130), ("D", 0), ("the node goes", 1)])
@pytest.mark.parametrize("prompt", ["Command", "Private_key", "Comment"])
def test_the_client_ends_at_any_prompt_and_leaves_the_terminal_as_it_was(
    on_terminal, node, prompt, how, status
):
    import termios  # not on Windows

    fresh = os.openpty()
    if prompt != "Command":
        fill_in(on_terminal, node.miner, prompt)
    if how == "the node goes":
        node.interrupt()
        on_terminal.wait_for(r"\nThe connection to the node has ended\.\n")

    def press():
        """Python misses a Ctrl-C just before it reads. A person presses again, and so does this."""
        if not on_terminal.ended:
            on_terminal.press(how)
        return on_terminal.ended

    if how in "CD":
        patience.wait(threading.Event(), press)
    assert on_terminal.status() == status
    assert "Traceback" not in on_terminal.output
    assert termios.tcgetattr(on_terminal.output_end) == termios.tcgetattr(fresh[0])
    for descriptor in fresh:
        os.close(descriptor)


# ---- The end of the client, and nodes that misbehave
@posix
def test_output_that_nobody_reads_any_more_ends_the_client_without_a_word(node, silent):
    """This may be noticed at a prompt, at the end, or when an answer comes."""
    for number, keys in (node.port, "2\n"), (silent.getsockname()[1], ""), (node.port, "2\nbob\n"):
        client = run_unread("blockchain_client.py", number)
        if not keys:  # it waits at its first prompt
            client.send_signal(signal.SIGINT)
        _, error = client.communicate(keys.encode(), timeout=patience.seconds)
        assert (client.returncode, error) == (1, b"")


@pytest.mark.parametrize("place", ["foreground", pytest.param("background", marks=posix)])
def test_a_node_that_goes_away_is_noticed_at_once_on_a_pipe_too(node, run, place):
    """A shell lets a process in the background of a script ignore SIGINT."""
    ignore = "script.signal.signal(script.signal.SIGINT, script.signal.SIG_IGN)"
    client = run("blockchain_client.py", node.port, before=ignore * (place == "background"))
    client.wait_for("Command: ")
    node.popen.kill()
    client.wait_for(r"\nThe connection to the node has ended\.\n")
    assert client.status() in ((1,) if os.name == "posix" else (1, 2))  # no such Ctrl-C on Windows
    assert "Traceback" not in client.output


@posix
def test_ctrl_c_ends_the_client_while_it_waits_for_an_answer(run, silent):
    client = run("blockchain_client.py", silent.getsockname()[1], before=ANSWER_SECONDS % 10**6)
    client.type("2\nbob")
    with silent.accept()[0] as connection:
        assert connection.recv(1)
        client.interrupt()
        assert client.status() == 130


@pytest.mark.parametrize("command", ["get_balance", "transaction"])
def test_a_node_that_never_answers_does_not_keep_the_menu(run, silent, alice, command):
    """A transaction without an answer may count."""
    client = run("blockchain_client.py", silent.getsockname()[1], before=ANSWER_SECONDS % 1)
    hint = r"The node may have accepted it\. Sending it again with the same comment is safe\.\n"
    if command == "transaction":
        fill_in(client, alice)
    else:
        client.type("2\nbob")
        hint = ""
    client.wait_for(rf"No answer from the node\.\n{hint}Command list:\n")


@pytest.mark.parametrize("said, shown", SHOWN.items())
def test_whatever_a_node_says_is_shown_at_once_and_steers_no_terminal(run, silent, said, shown):
    ascii_only = "script.sys.stdout.reconfigure(encoding='ascii', errors='strict')"
    client = run("blockchain_client.py", silent.getsockname()[1], before=ascii_only)
    with silent.accept()[0] as connection:
        connection.sendall(said)
        client.wait_for(r"\[\*\] Message from node: " + shown)
        assert "The transaction counts" not in client.output
        client.end_input()
        assert client.status() == 0
    assert "\x1b" not in client.output and "Traceback" not in client.output
