"""Day 06, from the other side: what strangers send to own, crash, stall, fill or confuse a node."""

import io
import itertools
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
from conftest import Account
from processes import (
    Connection,
    Process,
    free_port,
    start_node,
    wait_until_handlers_end,
)

import blockchain_client
import blockchain_server
from blockchain_server import Refused, read_pickle

BALANCE = {"request": "get_balance", "address": "bob"}
BALANCE_ANSWER = {"address": "bob", "balance": 0}


@pytest.fixture(scope="module")
def victim():
    """One real node that all the attacks of this file hit, and that must not mind."""
    node = start_node(Process, Account)
    node.wait_for_blocks(45)  # coins for every test
    yield node
    assert node.popen.poll() is None
    assert "Traceback" not in node.output
    node.close()


@pytest.fixture
def node(victim):
    """The victim, which after each attack serves the next honest client at once."""
    yield victim
    check_that_it_serves(victim)


def check_that_it_serves(node, payment=None):
    """See that a client gets a balance, and pays; with a payment of before, that it is known."""
    honest = node.connect()
    assert honest.ask(BALANCE)["balance"] >= 0
    again = payment is not None
    answer = honest.ask(payment or node.miner.request("bob", 1, 0, str(random.random())))
    assert answer["result"] is not again, answer
    assert answer["result_message"].startswith("Accepted before!" if again else "Authorized")


def refused(answer):
    """Return whether an answer is a sentence of the node about a request that is none."""
    return answer.keys() == {"message"} and answer["message"].endswith(".")


def check_refusal(node, attack):
    """See that the node refuses this in a sentence, and then ends the connection."""
    connection = node.connect()
    answer = connection.ask(attack)
    assert refused(answer), (attack, answer)
    assert connection.receive() is None


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
        check_refusal(node, pickle.dumps(attack, protocol))
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
    check_refusal(node, FETCHING[name])


@pytest.mark.parametrize(
    "name", ["__new__", "__init__", "__setstate__", "__getattribute__", "sender"]
)
@pytest.mark.parametrize("class_name", ["Transaction", "Refused", "BlockChain"])
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
        check_refusal(node, attack)
    # The fixture's honest payment finds the classes as they were.


# Frames that lie. FRAME says how many bytes follow in one piece. If an argument crosses the end of
# a frame, CPython's own unpickler (3.10 to 3.12) drops the rest of the frame and reads the argument
# from behind it (python/cpython#154848); `genops` does not. What looks like bytes to the one is a
# program to the other.

EVIL = {
    "endless hashing": b"})" + b"2\x86" * 60 + b"Ns.",
    "an attribute of the class": b"c__main__\nTransaction\nN}\x8c\x0c__setstate__K\x05s\x86b.",
    "four gigabytes": b"Nr\xff\xff\xff\x0f.",
}
CROSSING = {  # an instruction, and how long the length is that stands in front of its argument
    "LONG1": (b"\x8a\x0cabcdefghijkl", 1),
    "LONG4": (b"\x8b\x0c\0\0\0abcdefghijkl", 4),
    "BININT": (b"Jabcd", 0),
    "BININT2": (b"Mab", 0),
    "BINFLOAT": (b"Gabcdefgh", 0),
    "SHORT_BINUNICODE": (b"\x8c\x0cabcdefghijkl", 1),
    "BINUNICODE": (b"X\x0c\0\0\0abcdefghijkl", 4),
    "SHORT_BINBYTES": (b"C\x0cabcdefghijkl", 1),
    "BINBYTES": (b"B\x0c\0\0\0abcdefghijkl", 4),
    "BINUNICODE8": (b"\x8d\x0c\0\0\0\0\0\0\0abcdefghijkl", 8),
    "BINBYTES8": (b"\x8e\x0c\0\0\0\0\0\0\0abcdefghijkl", 8),
    "BYTEARRAY8": (b"\x96\x0c\0\0\0\0\0\0\0abcdefghijkl", 8),
    "FRAME": (b"\x95\x0c\0\0\0\0\0\0\0", 0),
    "GLOBAL": (b"c__main__\nTransaction\n", 0),
    "GLOBAL, its second line": (b"c__main__\nTransaction\n", 9),
}


def frame_attacks(crossing, length, evil):
    """Yield pickles whose frame ends at each byte of an instruction in turn.

    The deceived reader drops what the frame holds of the argument, and reads as many bytes more
    behind the instruction: so it goes on right where `evil` stands, which `genops` takes for bytes.
    """
    for inside in range(1, len(crossing)):
        frame = b"\x80\x04\x95" + struct.pack("<Q", inside)
        for dropped in {inside - 1, inside - 1 - length}:
            for header in (b"C" + bytes([len(evil)]), b"B" + struct.pack("<I", len(evil))):
                if dropped >= len(header):
                    filler = b"N" * (dropped - len(header))
                    yield frame + crossing + filler + header + evil + b"."


def reported_attack(evil):
    """Return the attack of the report, to the letter."""
    start = b"\x80\x04\x95" + struct.pack("<Q", 7) + b"\x8a\x06abcde" + b"f"
    return start + b"B" + struct.pack("<I", len(evil)) + evil + b"."


@pytest.mark.parametrize("evil", EVIL)
def test_the_reported_attack_deceives_nobody(node, evil):
    before = memory(node)
    check_refusal(node, reported_attack(EVIL[evil]))
    assert memory(node) < before + 20


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("crossing", CROSSING)
def test_a_frame_that_lies_deceives_nobody(node, crossing, evil):
    before = memory(node)
    payment = node.miner.request("bob", 1, 0, str(random.random()))
    assert node.connect().ask(payment)["result"] is True
    for attack in frame_attacks(*CROSSING[crossing], EVIL[evil]):
        check_refusal(node, attack)
        check_that_it_serves(node, payment)
    assert memory(node) < before + 20


# Honest requests, whoever wrote them


class Fast:
    """A pickler that does without a memo."""

    def __init__(self, pickler):
        self.pickler = pickler

    def __call__(self, file, protocol):
        pickler = self.pickler(file, protocol)
        pickler.fast = True
        return pickler


PICKLERS = [pickle.Pickler, pickle._Pickler, Fast(pickle.Pickler), Fast(pickle._Pickler)]
VALUES = [
    None, True, False, 0, 1, -1, 255, 256, 65_535, 65_536, -(2**31), 2**31, 10**30, 10**1000, 1.5,
    "", "a", "a" * 255, "a" * 256, "謝謝 🙂", "\udc80", b"", b"a" * 255,
    b"a" * 256, {}, {"a": {"b": 1}},
]  # fmt: skip


def plain(value):
    """Return a request as dicts alone, to compare what two classes of Transaction hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "sender"):
        return {"Transaction": vars(value)}
    return value


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("pickler", PICKLERS)
def test_an_honest_request_is_read_as_pickle_reads_it(alice, pickler, protocol):
    requests = [{"request": value} for value in VALUES]
    requests += [{"request": "get_balance", "address": text, text: text} for text in ("a", "謝")]
    for comment in ("", "Thank you", "謝謝 🙂", "a" * 9000, alice.address):
        payment = alice.request(alice.address, 50, 1, comment)
        requests.append(payment)
        for names in itertools.islice(itertools.permutations(vars(payment["data"])), 0, 120, 7):
            shuffled = transaction_with(**{name: vars(payment["data"])[name] for name in names})
            requests.append({**payment, "data": shuffled})
    for request in requests:
        file = io.BytesIO()
        pickler(file, protocol).dump(request)
        data = file.getvalue()
        read = read_pickle(io.BytesIO(data))
        assert plain(read) == plain(pickle.loads(data)) == plain(request)
        if "data" in request:
            assert type(read["data"]) is blockchain_server.Transaction
            assert list(vars(read["data"])) == list(blockchain_server.Transaction.__annotations__)


@pytest.mark.parametrize(
    "attack",
    [
        b"}NNs.", b"}K\x01Ns.", b"}(\x8c\x01aNC\x01aNu.", b"}}Ns.", b"})Ns.",  # no text for a key
        b"Ns.", b"}s.", b"u.", b"}(u", b"}(Nu.", b"(.", b".", b"\x94.", b"h\x00.", b"b.", b"Nb.",
        b"c__main__\nTransaction\n}b.", b"c__main__\nTransaction\nN\x81.", b"N\x93.", b")\x81.",
        b"c__main__ Transaction\n\n.", b"c__main__\nBlock\n.", b"c__main__\ntransaction\n.",
        b"c__main__\nTransaction\n)\x81}(\x8c\x06senderNub.",
        b"\x8c\x01a\x8c\x01aNs.", b"N\x8c\x01aNs.", b"]\x8c\x01aNs.",
    ],
)  # fmt: skip
def test_a_program_that_makes_no_sense_is_refused(attack):
    with pytest.raises(Refused):
        read_pickle(io.BytesIO(attack))


def test_the_memo_is_filled_in_the_order_that_the_program_says():
    program = b"}q\x05\x8c\x07requestq\x03h\x03s."
    assert read_pickle(io.BytesIO(program)) == pickle.loads(program) == {"request": "request"}


def test_the_result_of_a_program_is_on_top_of_the_stack():
    assert read_pickle(io.BytesIO(b"N\x88.")) is True


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
    for shapeless in SHAPELESS:
        check_refusal(node, pickle.dumps(shapeless, protocol))


def test_a_request_that_nobody_knows_is_an_unknown_command(node):
    connection = node.connect()
    for request in ["hello", "generate_address", "", None, 5, 1.5, True, b"get_balance", 10**400]:
        assert connection.ask({"request": request}) == {"message": "Unknown command."}
    assert connection.ask(BALANCE)["address"] == "bob"


def test_any_value_in_any_field_of_a_payment_gets_an_answer(node):
    for field in FIVE:
        for value in ANYTHING:
            data = transaction_with(**{**FIVE, "sender": node.miner.address, field: value})
            request = {"request": "transaction", "data": data, "signature": b""}
            answer = node.connect().ask(request)
            assert refused(answer) or answer["result"] is False
    for signature in ANYTHING:
        data = transaction_with(**{**FIVE, "sender": node.miner.address})
        request = {"request": "transaction", "data": data, "signature": signature}
        answer = node.connect().ask(request)
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
    some = {**BALANCE, **dict.fromkeys(map(str, range(20)))}
    many = {**BALANCE, **dict.fromkeys(map(str, range(200)))}
    assert connection.ask(some)["address"] == "bob"
    check_refusal(node, many)


def test_many_that_send_nothing_but_dicts_fill_no_memory(node):
    before = memory(node)
    crowd = [node.connect() for _ in range(50)]
    for connection in crowd:
        connection.send(b"\x80\x04" + b"}" * 60_000)
    for connection in crowd:
        assert refused(connection.receive())
    assert memory(node) < before + 20


GARBAGE = [b"GET / HTTP/1.1\r\n\r\n", b"\xff", b"hello\n", b"\0" * 100, b"\x80\x04\xff", b"I1x\n."]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_after_garbage_the_connection_ends(node, garbage):
    check_refusal(node, garbage)


def test_a_request_that_is_cut_short_is_answered_if_somebody_listens(node):
    data = pickle.dumps(node.miner.request())
    for length in range(1, len(data), 37):
        connection = node.connect()
        connection.send(data[:length])
        connection.socket.shutdown(socket.SHUT_WR)
        assert refused(connection.receive())
        assert connection.receive() is None


def mutated_requests(node, chance):
    """Yield honest requests and attacks with some of their bytes changed, for ever."""
    seeds = [
        pickle.dumps(request, protocol)
        for request in (BALANCE, Account().request(), node.miner.request("bob", 10**6))
        for protocol in range(6)
    ] + list(FETCHING.values())
    everything = b"".join(seeds)
    while True:
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice([1, 1, 2, 5, 20])):
            start = chance.randrange(len(data) + 1)
            end = min(len(data), start + chance.choice([0, 1, 1, 2, 10]))
            source = chance.randrange(len(everything))
            part = everything[source : source + chance.choice([0, 1, 1, 2, 10])]
            data[start:end] = chance.choice([part, chance.randbytes(len(part))])
        yield bytes(data)


def random_argument(opcode, chance):
    """Return the bytes of an argument that this instruction of pickle can have."""
    text = chance.choice(
        [b"request", b"get_balance", b"address", b"__main__", b"Transaction", b"sender", b"os", b""]
    )
    name = opcode.arg.name if opcode.arg else "none"
    if name == "none":
        return b""
    if name == "stringnl_noescape_pair":
        return chance.choice([b"__main__\nTransaction\n", b"os\nsystem\n", b"__main__\nBlock\n"])
    if name in ("decimalnl_short", "decimalnl_long", "floatnl"):
        return b"%d\n" % chance.randrange(300)
    if name == "stringnl":
        return b"'" + text + b"'\n"
    if name in ("stringnl_noescape", "unicodestringnl"):
        return text + b"\n"
    sizes = {"1": 1, "2": 2, "4": 4, "8": 8}
    size = sizes.get(name[-1], 4)
    if name.startswith(("string", "unicodestring", "bytes", "bytearray", "long")):
        return len(text).to_bytes(size, "little") + text
    if opcode.name == "FRAME":  # frames that lie
        return struct.pack("<Q", chance.randrange(40))
    return chance.choice([chance.randbytes(size), chance.randrange(4).to_bytes(size, "little")])


def random_programs(node, chance):
    """Yield programs of valid instructions of pickle, in any order, for ever."""
    ours = (
        "PROTO FRAME MARK EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL EMPTY_TUPLE NEWOBJ BUILD"
    )
    ours += " BINUNICODE SHORT_BINUNICODE BINBYTES LONG1 BININT1 NONE BINPUT BINGET MEMOIZE"
    some = [opcode for opcode in pickletools.opcodes if opcode.name in ours.split()]
    while True:
        program = b"\x80\x04"
        for _ in range(chance.choice([3, 10, 30, 100])):
            opcode = chance.choice(some if chance.random() < 0.9 else pickletools.opcodes)
            program += opcode.code.encode("latin-1") + random_argument(opcode, chance)
        yield program + b"."


@pytest.mark.parametrize("source", [mutated_requests, random_programs])
def test_random_requests_get_answers(node, source):
    """Fuzz: FUZZ_SECONDS=600 makes it go on for ten minutes, FUZZ_SEED=7 starts it elsewhere."""
    chance = random.Random(int(os.environ.get("FUZZ_SEED", "6")))
    deadline = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "0"))
    before = memory(node)
    for sent, data in enumerate(source(node, chance)):
        if sent >= 2000 and time.monotonic() >= deadline:
            break
        connection = node.connect()
        connection.send(data)
        connection.socket.shutdown(socket.SHUT_WR)
        answers = 0
        while (answer := connection.receive()) is not None:
            answers += 1
            kinds = {"message"}, {"address", "balance"}, {"result", "result_message"}
            assert answer.keys() in kinds
        assert answers or not data, data
        connection.socket.close()
        if sent % 1000 == 0:
            assert "Traceback" not in node.output
            node.output, node.raw = "", bytearray()
    assert memory(node) < before + 20
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
    # Each request has its own time: this one is too long to come in one piece.
    assert idle.ask({**BALANCE, "address": "b" * 20_000})["balance"] == 0


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
    assert 4096 % len(data) == 0
    with pytest.raises(ConnectionError):
        while True:
            connection.send(data)
    wait_until_handlers_end()


def test_an_answer_arrives_although_more_was_sent_than_was_read(node):
    """A node that closed without reading the rest would break off who is still sending."""
    for _ in range(3):
        connection = node.connect()
        connection.send(b"garbage" * 10**6)  # more than the system keeps for the node
        assert refused(connection.receive())
        assert connection.receive() is None


def test_a_refused_client_that_leaves_lets_its_thread_end_at_once(server):
    connection = server.connect()
    assert refused(connection.ask(b"garbage"))
    connection.socket.close()
    wait_until_handlers_end()


def test_an_answer_must_be_taken_in_time(monkeypatch):
    monkeypatch.setattr(blockchain_server, "REQUEST_SECONDS", 0.2)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # with this, it would be another error
    with ours, theirs, pytest.raises(TimeoutError):
        blockchain_server.ClientConnection(ours).answer({"message": "a" * 10**7})


def test_300_clients_that_send_two_bytes_and_wait_disturb_nobody(node):
    crowd = [node.connect() for _ in range(300)]
    for connection in crowd:
        connection.send(b"\x80\x04")
    honest = node.connect()
    for _ in range(10):
        assert honest.ask(BALANCE)["address"] == "bob"


LIMITS = {
    "descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))",
    # Room for a dozen threads, as each asks for so much; and always enough for everything else.
    "threads": "resource.setrlimit(resource.RLIMIT_AS, (2**32,) * 2); threading.stack_size(2**28)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="not every system keeps these limits")
@pytest.mark.parametrize("limit", LIMITS)
def test_when_a_crowd_leaves_the_node_hears_again(run, limit):
    port = free_port()
    code = (
        f"import resource, runpy, sys, threading; {LIMITS[limit]}; sys.argv.pop(0);"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    node = run("blockchain_server.py", port, python=("-c", code))
    node.wait_for_blocks(1)
    crowd = [Connection(port) for _ in range(50)]
    node.wait_for("Too many connections: ")
    for connection in crowd:  # who waits has a turn when others have left
        assert connection.ask(BALANCE) == BALANCE_ANSWER
        connection.socket.close()
    assert Connection(port).ask(BALANCE) == BALANCE_ANSWER
    assert node.output.count("Too many connections") == 1
    assert "Traceback" not in node.output


class Listener:
    """A socket that gives its errors first, and then waits as a listening one does."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.asked = 0

    def accept(self):
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        raise SystemExit  # ends its thread


@pytest.mark.parametrize("error", [ConnectionAbortedError, ConnectionResetError])
def test_a_client_that_left_before_it_was_accepted_is_no_crowd(ledger, error, capsys):
    listener = Listener(*[error("gone")] * 20)
    with pytest.raises(SystemExit):
        ledger.wait_for_socket_connection(listener)
    assert listener.asked == 21
    assert "Too many" not in capsys.readouterr().out


@pytest.mark.parametrize("error", [OSError, RuntimeError, MemoryError])
def test_when_there_is_no_room_the_listener_says_so_and_goes_on(ledger, error, capsys):
    listener = Listener(error("no room"), error("no room"))
    with pytest.raises(SystemExit):
        ledger.wait_for_socket_connection(listener)
    assert listener.asked == 3
    assert capsys.readouterr().out.count("Too many connections: no room\n") == 1


def test_the_log_shows_a_bounded_part_of_a_request_on_one_line(node):
    node.skip()
    forged = "\r\n[*] Hash found: forged \x1b[2J"
    node.connect().ask({"request": "get_balance", "address": forged * 1000})
    node.connect().ask(forged.encode() * 1000)
    node.wait_for(r"\[\*\] Received: .*\.\.\.\n")
    node.wait_for(r"cannot be parsed: A request is made of .*\n")
    news = node.output[-5000:]
    assert "\n[*] Hash found" not in news
    assert "\x1b" not in news
    assert max(map(len, news.splitlines())) < 1000
