"""Day 06, from the other side: what strangers send to own, crash, stall, fill or confuse a node."""

import os
import pickle
import pickletools
import random
import re
import socket
import struct
import sys
import threading
import time

import pytest
import rsa
from conftest import Account, Connection, Process, free_port, start_node, wait_until_handlers_end

import blockchain_client
import blockchain_server

BALANCE = {"request": "get_balance", "address": "bob"}
BALANCE_ANSWER = {"address": "bob", "balance": 0}


@pytest.fixture(scope="module")
def victim():
    """One real node that all the attacks of this file hit, and that must not mind."""
    node = start_node(Process)
    for _ in range(10):
        node.wait_for("Hash found: ")
    yield node
    assert node.popen.poll() is None
    assert "Traceback" not in node.output
    node.close()


@pytest.fixture
def node(victim):
    """The victim, which after each attack serves the next honest client at once."""
    yield victim
    honest = victim.connect()
    assert honest.ask(BALANCE)["balance"] >= 0
    message = str(random.random())
    answer = honest.ask(victim.miner.request("bob", 1, 0, message))
    assert answer == {"result": True, "result_message": "Authorized successfully!"}


def refused(answer):
    """Return whether an answer is a sentence of the node about a request that is none."""
    return answer.keys() == {"message"} and answer["message"].endswith(".")


# Pickles that call, or fetch


def text(value, protocol=4):
    """Return the instructions that put a text on the stack."""
    data = value.encode("utf8")
    if protocol >= 4:
        return b"\x8c" + bytes([len(data)]) + data
    return b"X" + struct.pack("<I", len(data)) + data


class Caller:
    """Pickles as a call of open(path, "w")."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_a_function_calls_nothing(node, tmp_path, protocol):
    for attack in (
        Caller(tmp_path / "owned"),
        {"request": Caller(tmp_path / "owned")},
        {"request": "get_balance", "address": Caller(tmp_path / "owned")},
    ):
        assert refused(node.connect().ask(pickle.dumps(attack, protocol)))
    assert not (tmp_path / "owned").exists()


FETCHING = {
    "GLOBAL": b"cos\nsystem\n.",
    "GLOBAL, dotted": b"c__main__\nTransaction.__init__.__globals__\n.",
    "GLOBAL, the node": b"c__main__\nBlockChain\n.",
    "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93.",
    "STACK_GLOBAL, dotted": b"\x80\x04"
    + text("__main__")
    + text("Transaction.__init__")
    + b"\x93.",
    "STACK_GLOBAL, no text": b"\x80\x04NN\x93.",
    "INST": b"(S'touch owned'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch owned'\no.",
    "REDUCE": b"cos\nsystem\n(S'touch owned'\ntR.",
    "REDUCE of the class": b"c__main__\nTransaction\n)R.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x01.",
    "EXT4": b"\x80\x02\x84\x01\x01\x01\x01.",
    "PERSID": b"Pan id\n.",
    "BINPERSID": b"K\x01Q.",
    "NEWOBJ of a text": b"\x80\x02X\x01\x00\x00\x00a)\x81.",
    "NEWOBJ_EX": b"\x80\x04c__main__\nTransaction\n)}\x92.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("name", FETCHING)
def test_a_pickle_that_fetches_something_gets_nothing(node, name):
    connection = node.connect()
    assert refused(connection.ask(FETCHING[name]))
    assert connection.ask(BALANCE)["address"] == "bob"  # it ended where a pickle ends


@pytest.mark.parametrize(
    "name", ["__new__", "__init__", "__setstate__", "__getattribute__", "sender"]
)
@pytest.mark.parametrize("class_name", ["Transaction", "ReceivedTransaction", "BlockChain"])
def test_a_pickle_cannot_change_a_class(node, name, class_name):
    the_class = b"c__main__\n" + class_name.encode() + b"\n"
    slots = b"}" + text(name, 3) + b"Ns"
    for attack in (
        b"\x80\x02" + the_class + b"N" + slots + b"\x86b.",  # a slot state: setattr
        b"\x80\x02" + the_class + b"(N" + slots + b"tb.",
        b"\x80\x02" + the_class + slots + b"b.",  # a state: its dict
        b"\x80\x02" + the_class + b")\x81N" + slots + b"\x86b.",
        # An instance whose own __setstate__ is the class: the next BUILD would call it.
        b"\x80\x02" + the_class + b")\x81}" + text("__setstate__", 3) + the_class + b"sbNb.",
    ):
        assert refused(node.connect().ask(attack))
    # The fixture's honest payment finds the classes as they were.


def test_the_instructions_allowed_are_those_that_values_and_a_payment_need(alice):
    values = [
        None,
        True,
        False,
        1,
        300,
        10**6,
        10**30,
        10**1000,
        1.5,
        "a",
        "a" * 300,
        b"a",
        b"a" * 300,
    ]
    honest = [{"request": value} for value in values]
    honest.append(alice.request(alice.address, 50, 1, "Thank you"))
    needed = {
        opcode.name
        for request in honest
        for protocol in (3, 4, 5)
        for opcode, _, _ in pickletools.genops(pickle.dumps(request, protocol))
    }
    assert needed == blockchain_server.REQUEST_OPCODES


# Hungry ones


def memory(node):
    """Return the most memory that the node has held so far, in megabytes; 0 off Linux."""
    try:
        with open(f"/proc/{node.popen.pid}/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) / 1024
    except FileNotFoundError:
        return 0


def doubling(opener, times=28):
    """Return a list, or a dict, that holds the one before twice, and so on."""
    if opener == b"]":
        step = b"](" + b"h%c" + b"h%c" + b"eq%c"
    else:
        step = b"}(K\x00h%cK\x01h%cuq%c"
    return opener + b"q\x00" + b"".join(step % (n, n, n + 1) for n in range(times))


HUNGRY = {
    "a large memo index": b"\x80\x02Nr\xff\xff\xff\x0f.",
    "a large memo index, as text": b"Np268435455\n.",
    "a text of an exabyte": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0f.",
    "a text of four gigabytes": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of an exabyte": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",
    "a bytearray of an exabyte": b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.",
    "a frame of an exabyte": b"\x80\x04\x95" + b"\xff" * 7 + b"\x0f.",
    "a number of two gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a number of a negative length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "a number of 200,000 digits": b"\x80\x02\x8b\x69\x44\x01\x00" + b"\x7f" * 83_049 + b".",
    "a number of 200,000 digits, as text": b"L" + b"9" * 200_000 + b"L\n.",
    "a line without an end": b"S'" + b"a" * 30 * 10**6,
    "500,000 lists in each other": b"]" * 500_000 + b"a" * 499_999 + b".",
    "500,000 marks": b"(" * 500_000,
    "10,000 dicts in each other": b"\x80\x02" + b"}K\x00" * 10_000,
    "megabytes of text": b"\x80\x02X" + struct.pack("<I", 5 * 10**6) + b"a" * 5 * 10**6 + b".",
    "lists that double": doubling(b"]") + b".",
    "dicts that double": doubling(b"}", 10) + b".",
    "keys with one hash": b"\x80\x02}(" + b"".join(
        b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 4000)
    ) + b"u.",
}  # fmt: skip


@pytest.mark.parametrize("name", HUNGRY)
def test_a_hungry_pickle_stays_hungry(node, name):
    before = memory(node)
    connection = node.connect()
    try:
        answer = connection.ask(HUNGRY[name])
    except ConnectionError:  # the node took no more of it
        answer = {"message": "."}
    assert refused(answer)
    assert memory(node) < before + 20


@pytest.mark.parametrize("field", ["address", "request", "signature", "data", "sender", "amounts"])
@pytest.mark.parametrize("opener", [b"]", b"}"])
def test_what_doubles_in_a_field_is_never_printed(node, field, opener):
    bomb = doubling(opener, 28 if opener == b"]" else 12)
    fields = {"request": text("transaction"), "data": b"N", "signature": b"C\x01a", "address": b"N"}
    if field in fields:
        fields[field] = bomb
    else:
        fields["data"] = b"c__main__\nTransaction\n)\x81}" + b"".join(
            text(name) + (bomb if name == field else b"K\x01") + b"s"
            for name in ("sender", "receiver", "amounts", "fee", "message")
        ) + b"b"  # fmt: skip
    attack = b"\x80\x04}" + b"".join(text(k) + v + b"s" for k, v in fields.items()) + b"."
    answer = node.connect().ask(attack)
    assert refused(answer) or answer["result"] is False


def test_a_key_of_absurd_size_is_refused_by_its_size(node):
    huge = blockchain_client.get_address_from_public(
        rsa.PublicKey(2**60_000 - 1, 65537).save_pkcs1()
    )
    data = blockchain_client.Transaction(huge, "bob", 1, 0, "")
    answer = node.connect().ask({"request": "transaction", "data": data, "signature": b"1" * 7500})
    assert answer["result_message"].startswith("Sender must be an address")


# Requests of the wrong shape


def transaction_with(**fields):
    """Return a pickled class that carries any fields under the name of Transaction."""
    transaction = blockchain_client.Transaction.__new__(blockchain_client.Transaction)
    vars(transaction).update(fields)
    return transaction


FIVE = dict(sender="a", receiver="b", amounts=1, fee=0, message="")
FOUR = {name: value for name, value in FIVE.items() if name != "message"}
ANYTHING = [
    None, 5, 1.5, True, "text", b"bytes", (), (1,), [], [1], {}, {1: 2}, {1}, transaction_with()
]  # fmt: skip

SHAPELESS = [
    *ANYTHING,
    {"address": "bob"},
    {"request": "get_balance"},
    {"request": "transaction"},
    {"request": "transaction", "data": transaction_with(**FIVE)},
    {"request": "transaction", "signature": b""},
    {"request": "transaction", "data": transaction_with(**FOUR), "signature": b""},
    {"request": "transaction", "data": transaction_with(**FIVE, more=1), "signature": b""},
    {"request": "transaction", "data": transaction_with(**FOUR, massage=""), "signature": b""},
    *[{"request": "transaction", "data": thing, "signature": b""} for thing in ANYTHING],
    *[{"request": "get_balance", "address": thing} for thing in ANYTHING if thing != "text"],
]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_request_of_the_wrong_shape_gets_a_sentence(node, protocol):
    connection = node.connect()
    for shapeless in SHAPELESS:
        answer = connection.ask(pickle.dumps(shapeless, protocol))
        assert refused(answer), (shapeless, answer)
    assert connection.ask(BALANCE)["address"] == "bob"


def test_a_request_that_nobody_knows_is_an_unknown_command(node):
    connection = node.connect()
    for request in ["hello", "generate_address", "", None, 5, 1.5, True, b"get_balance", 10**400]:
        assert connection.ask({"request": request}) == {"message": "Unknown command."}


def test_any_value_in_any_field_of_a_payment_gets_an_answer(node):
    connection = node.connect()
    for field in FIVE:
        for value in ANYTHING:
            data = transaction_with(**{**FIVE, "sender": node.miner.address, field: value})
            answer = connection.ask({"request": "transaction", "data": data, "signature": b""})
            assert refused(answer) or answer["result"] is False
    for signature in ANYTHING:
        data = transaction_with(**{**FIVE, "sender": node.miner.address})
        answer = connection.ask({"request": "transaction", "data": data, "signature": signature})
        assert refused(answer) or answer["result_message"] == "RSA Verified wrong!"


# Streams


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_request_may_come_byte_by_byte(node, protocol):
    connection = node.connect()
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    payment = node.miner.request("bob", 1, 0, f"in pieces {protocol}")
    for byte in pickle.dumps(payment, protocol):
        connection.send(bytes([byte]))
    assert connection.receive()["result"] is True


def test_several_requests_in_one_piece_are_answered_in_order(node):
    connection = node.connect()
    connection.send(
        b"".join(pickle.dumps({**BALANCE, "address": str(n)}, 3 + n % 3) for n in range(100))
    )
    assert [connection.receive()["address"] for _ in range(100)] == [str(n) for n in range(100)]


@pytest.mark.parametrize("letter", ["a", "ñ", "謝", "🙂"])
def test_a_comment_may_have_thousands_of_letters_in_any_script(node, letter):
    answer = node.connect().ask(node.miner.request("bob", 1, 0, letter * 9000))
    assert answer["result_message"] == "Authorized successfully!"


def test_a_request_has_as_many_bytes_as_allowed_and_no_more(node):
    def balance_of(length):
        frame = len(pickle.dumps({"request": "get_balance", "address": "a" * 60_000}, 3)) - 60_000
        return pickle.dumps({"request": "get_balance", "address": "a" * (length - frame)}, 3)

    limit = blockchain_server.MAX_REQUEST_BYTES
    assert len(balance_of(limit)) == limit
    assert node.connect().ask(balance_of(limit))["balance"] == 0
    connection = node.connect()
    assert refused(connection.ask(balance_of(limit + 1)))
    assert connection.receive() is None


def test_a_request_has_a_bounded_number_of_instructions(node):
    connection = node.connect()
    some = {**BALANCE, **dict.fromkeys(range(20))}
    many = {**BALANCE, **dict.fromkeys(range(200))}
    assert connection.ask(some)["address"] == "bob"
    assert refused(connection.ask(many))
    assert connection.receive() is None


GARBAGE = [b"GET / HTTP/1.1\r\n\r\n", b"\xff", b"hello\n", b"\0" * 100, b"\x80\x04\xff", b"I1x\n."]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_after_garbage_the_connection_ends(node, garbage):
    connection = node.connect()
    assert refused(connection.ask(garbage))
    assert connection.receive() is None


def test_a_request_that_is_cut_short_is_answered_if_somebody_listens(node):
    data = pickle.dumps(node.miner.request())
    for length in range(1, len(data), 37):
        connection = node.connect()
        connection.send(data[:length])
        connection.socket.shutdown(socket.SHUT_WR)
        assert refused(connection.receive())
        assert connection.receive() is None


def test_mutated_requests_get_answers(node):
    """Fuzz: FUZZ_SECONDS=600 makes it go on for ten minutes, FUZZ_SEED=7 starts it elsewhere."""
    chance = random.Random(int(os.environ.get("FUZZ_SEED", "6")))
    deadline = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "0"))
    seeds = [
        pickle.dumps(request, protocol)
        for request in (BALANCE, Account().request(), node.miner.request("bob", 10**6))
        for protocol in range(6)
    ] + list(FETCHING.values())
    everything = b"".join(seeds)
    sent = 0
    while sent < 1500 or time.monotonic() < deadline:
        sent += 1
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice([1, 1, 2, 5, 20])):
            start = chance.randrange(len(data) + 1)
            end = min(len(data), start + chance.choice([0, 1, 1, 2, 10]))
            source = chance.randrange(len(everything))
            part = everything[source : source + chance.choice([0, 1, 1, 2, 10])]
            data[start:end] = chance.choice([part, chance.randbytes(len(part))])
        connection = node.connect()
        connection.send(bytes(data))
        connection.socket.shutdown(socket.SHUT_WR)
        answers = 0
        while (answer := connection.receive()) is not None:
            answers += 1
            kinds = {"message"}, {"address", "balance"}, {"result", "result_message"}
            assert answer.keys() in kinds
        assert answers or not data, bytes(data)
        connection.socket.close()
        if sent % 1000 == 0:
            assert "Traceback" not in node.output
            node.output = ""
    print(f"\n{sent:,} requests")


# Crowds, and those who wait


@pytest.fixture
def hasty_server(server, monkeypatch):
    """A server whose clients have 0.2 seconds for a request."""
    monkeypatch.setattr(blockchain_server, "REQUEST_SECONDS", 0.2)
    return server


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x04\x95", pickle.dumps(BALANCE)[:-1]])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_leaves_nothing_behind(server, data, reset, capsys):
    connection = server.connect()
    assert connection.ask(BALANCE) == BALANCE_ANSWER
    connection.send(data)
    if reset:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.socket.close()
    wait_until_handlers_end()
    assert len(capsys.readouterr().out.splitlines()) <= 6


def test_a_request_once_begun_must_be_complete_in_time(hasty_server):
    idle, slow = hasty_server.connect(), hasty_server.connect()
    assert idle.ask(BALANCE) == BALANCE_ANSWER
    slow.send(b"\x80\x04")
    assert slow.receive() == {"message": "A request takes 0.2 seconds at most."}
    assert slow.receive() is None
    assert idle.ask(BALANCE) == BALANCE_ANSWER  # an idle connection may stay


def test_a_request_that_drips_must_be_complete_in_time_too(hasty_server):
    connection = hasty_server.connect()
    dripping = threading.Event()

    def drip():
        connection.send(b"\x80\x04")
        while not dripping.wait(0.02):
            connection.send(b"}")

    thread = threading.Thread(target=drip)
    thread.start()
    assert connection.receive() == {"message": "A request takes 0.2 seconds at most."}
    dripping.set()
    thread.join()


def test_a_client_that_does_not_take_its_answers_is_left(hasty_server):
    connection = hasty_server.connect()
    # Pieces that the node takes whole, so that it never waits in the middle of a request.
    data = pickle.dumps({"request": "get_balance", "address": "\0" * 963}, 3)
    assert blockchain_server.CHUNK_BYTES % len(data) == 0
    with pytest.raises(ConnectionError):
        while True:
            connection.send(data)
    wait_until_handlers_end()


def test_300_clients_that_send_two_bytes_and_wait_disturb_nobody(node):
    crowd = [node.connect() for _ in range(300)]
    for connection in crowd:
        connection.send(b"\x80\x04")
    honest = node.connect()
    for _ in range(10):
        assert honest.ask(BALANCE)["address"] == "bob"


@pytest.mark.skipif(sys.platform != "linux", reason="not every system keeps these limits")
@pytest.mark.parametrize("limit", ["NOFILE, (30, 30)", "AS, (2**29, 2**29)"])
def test_when_a_crowd_leaves_the_node_hears_again(run, limit):
    port = free_port()
    node = run(
        "blockchain_server.py",
        port,
        command_prefix=(
            "-c",
            f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_{limit});"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
        ),
    )
    node.wait_for("Hash found: ")
    crowd = [Connection(port) for _ in range(300)]
    node.wait_for("Too many connections: ")
    for connection in crowd:
        connection.socket.close()
    assert Connection(port).ask(BALANCE) == BALANCE_ANSWER
    assert node.output.count("Too many connections") == 1
    assert "Traceback" not in node.output


def test_the_log_shows_a_bounded_part_of_a_request_on_one_line(node):
    node.seen = len(node.output)
    forged = "\r\n[*] Hash found: forged \x1b[2J"
    node.connect().ask({"request": "get_balance", "address": forged * 1000})
    node.connect().ask(forged.encode() * 1000)
    node.wait_for(r"\[\*\] Received: .*\.\.\.\n")
    node.wait_for(r"cannot be parsed\n")
    news = node.output[-5000:]
    assert "\n[*] Hash found" not in news
    assert "\x1b" not in news
    assert max(map(len, news.splitlines())) < 1000


# A hostile node

NONSENSE = {
    "a number of thousands of digits": b"{'balance': 0x" + b"f" * 6000 + b"}",
    "a sum of thousands of terms": b"{1:" + b"+".join([b"1"] * 120_000) + b"}",
    "a set": b"{1}",
    "braces": b"{" * 100_000,
    "brackets": b"{'a': " + b"[" * 100_000,
    "quotes": b"{'" * 100_000,
    "a text without an end": b"{'" + b"a" * 10**6,
    "a call": b"{'a': print('owned')}",
    "a strange escape": b"{'a': '\\p'}",
    "half an escape": b"{'a': '\\x1'}",
    "a line feed in a text": b"{'a': '\n'}",
    "no text": b"{'a': '\xff'}",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_from_a_node_is_never_shown(name):
    try:
        answer, _ = blockchain_client.split_answer(NONSENSE[name])
    except (ValueError, SyntaxError):
        answer = None
    assert answer is None


def test_an_answer_behind_nonsense_is_found():
    answer, rest = blockchain_client.split_answer(b"{1} {'balance': 0x5} {'message': 'hi'} and")
    assert (answer, rest) == ({"message": "hi"}, b" and")


def test_what_a_node_hides_in_a_text_stays_in_one_line():
    answer, _ = blockchain_client.split_answer(b"{'message': '\x1b[2J\xe2\x80\xae'}")
    assert str(answer) == r"{'message': '\x1b[2J\u202e'}"


@pytest.mark.parametrize("speech", [b"a" * 10**7, b"{'a': '\\x1'}"])
def test_a_node_that_talks_nonsense_is_left(run, speech):
    with socket.create_server(("127.0.0.1", 0)) as hostile:
        reader, _ = os.pipe()
        client = run("blockchain_client.py", hostile.getsockname()[1], stdin=reader)
        connection, _ = hostile.accept()
        try:
            connection.sendall(speech)
        except ConnectionError:
            pass  # the client took no more of it
        client.wait_for(r"\nThe connection to the node has ended\.\n")
        assert client.status() == 1
        assert "Traceback" not in client.output
