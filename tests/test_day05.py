"""Day 05: keys and signatures, and the rules for transactions."""

import concurrent.futures
import dataclasses
import itertools
import random
import sys
import threading
import time

import pytest
import rsa
from conftest import Account, Lock, mine
from processes import PATIENCE

import blockchain_client
import blockchain_server
from blockchain_server import BlockChain, Refused, Transaction

ARTICLE = "Authorized successfully!", "Balance not enough!", "RSA Verified wrong!"
ACCEPTED = (True, "Authorized successfully!")
NOT_ENOUGH = (False, "Balance not enough!")
WRONG_SIGNATURE = (False, "RSA Verified wrong!")
# These behave like an int and a str. They could say that they equal another one.
Five, Text = type("Five", (int,), {}), type("Text", (str,), {})
NO_NUMBERS = [1.5, float("nan"), float("inf"), True, False, "5", None, b"5", [5], Five(5)]


def check_refused(answer, what=None):
    """See that this is False and a reason, in whatever words but those of the article."""
    result, reason = answer
    assert result is False and reason, (answer, what)
    assert reason not in ARTICLE, f"refused for another reason than {reason!r}, please: {what}"


def public_key(address):
    pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
    return rsa.PublicKey.load_pkcs1(pem.encode())


@pytest.mark.parametrize(
    "maker", [blockchain_server.BlockChain(), blockchain_client], ids=["node", "client"]
)
def test_a_pair_of_keys_is_two_lines_of_512_bits(ledger, maker):
    address, private = maker.generate_address()
    public, secret = public_key(address), blockchain_client.load_private_key(private)
    assert (public.n.bit_length(), public.n, public.e) == (512, secret.n, secret.e)
    assert maker.get_address_from_public(public.save_pkcs1()) == address
    assert maker.extract_from_private(secret.save_pkcs1()) == private
    assert ledger.get_public_from_address(address) == public


def test_the_client_signs_with_sha1(alice):
    transaction, signature = alice.pay()
    text = blockchain_client.transaction_to_string(transaction).encode()
    assert rsa.verify(text, signature, public_key(alice.address)) == "SHA-1"


def test_a_signed_transaction_is_accepted(ledger, rich_alice):
    transaction, signature = rich_alice.pay("bob", 50, fee=0)
    assert ledger.add_transaction(transaction, signature) == ACCEPTED
    assert ledger.pending_transactions == [transaction]


BAD_FIELDS = {
    "no amount": ("amounts", [-5, 0, -(10**400), *NO_NUMBERS]),
    "no fee": ("fee", [-1, -(10**400), *NO_NUMBERS]),
    "a receiver of another type": ("receiver", [None, 5, b"x", Text("x")]),
    "no receiver": ("receiver", [""]),
    "a comment of another type": ("message", [None, 5, b"hi", Text("hi")]),
    "a sender of another type": ("sender", [None, 5, b"a", Text("a")]),
}


@pytest.mark.parametrize("field, values", BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_a_field_that_is_not_valid_is_refused(ledger, rich_alice, field, values):
    for value in values:
        forged = dataclasses.replace(rich_alice.pay("bob", 1)[0], **{field: value})
        answer = ledger.add_transaction(forged, rich_alice.sign(forged))
        check_refused(answer, value)
    assert (ledger.pending_transactions, any(ledger.outgoing.values())) == ([], False)


@pytest.mark.parametrize("field, too_much", [("amounts", 101), ("fee", 100)])
def test_more_coins_than_one_has_are_not_enough(ledger, rich_alice, field, too_much):
    for value in (too_much, 10**18, 10**400, 10**5000):
        transaction, signature = rich_alice.pay("bob", 1)
        transaction = dataclasses.replace(transaction, **{field: value})
        if value < 10**5000:  # which has too many digits to be signed
            signature = rich_alice.sign(transaction)
        assert ledger.add_transaction(transaction, signature) == NOT_ENOUGH, value
    assert (ledger.pending_transactions, any(ledger.outgoing.values())) == ([], False)


def address_of(n, e=65537):
    """Return the address that a public key of these numbers would have."""
    return blockchain_client.get_address_from_public(rsa.PublicKey(n, e).save_pkcs1())


def test_a_sender_is_an_address_in_its_one_spelling(ledger, rich_alice):
    """It is a public key of 512 to 4096 bits."""
    for n in (2**511, 2**512 - 1, 2**4096 - 1):
        assert ledger.get_public_from_address(address_of(n, 3)) == rsa.PublicKey(n, 3)
    assert ledger.get_public_from_address.cache_info().maxsize == 1024  # not all for ever
    address = rich_alice.address
    n = public_key(address).n
    no_keys = ["", "alice", "A" * 96, "\udc80", "=" * 50, "\0", Text(address)]
    bad_keys = [
        address_of(2**511 - 1), address_of(2**4096), address_of(2**60_000 + 1), address_of(-n),
        address_of(n, 1), address_of(n, 2), address_of(n, -3), address_of(n, 2**32),
        address_of(n, n), address_of(0),
    ]  # fmt: skip
    respelled = [  # base64 and the reader of keys take them for the same key
        address[:10] + "\n" + address[10:], address[:10] + " " + address[10:],
        address[:10] + "é" + address[10:], address[:10] + "!" + address[10:],
        address + "=", address + "\n", " " + address, address + "AAAA",
        address.rstrip("="), address.replace("AAE=", "AAF="),
    ]  # fmt: skip
    for sender in no_keys + bad_keys + respelled:
        transaction, signature = rich_alice.pay("bob", 1)
        forged = dataclasses.replace(transaction, sender=sender)
        answer = ledger.add_transaction(forged, signature)
        check_refused(answer, sender)
        with pytest.raises(Refused):
            ledger.check_fields(forged)
    assert ledger.pending_transactions == []


class Lookalike(Transaction):
    """A transaction that is never equal to another one."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@pytest.mark.parametrize("other", [blockchain_client.Transaction, Lookalike], ids=["client", "own"])
def test_a_transaction_of_another_class_is_refused(ledger, rich_alice, other):
    """The ledger would not know it again when it comes for the second time."""
    transaction, signature = rich_alice.pay("bob", 1)
    ledger.add_transaction(transaction, signature)
    for again in (other(*dataclasses.astuple(transaction)), None):
        answer = ledger.add_transaction(again, signature)
        check_refused(answer, again)


def test_only_a_signature_of_the_owner_moves_money(ledger, rich_alice):
    transaction, signature = rich_alice.pay("bob", 1)
    wrong = [
        Account().sign(transaction), b"", b"\0", signature[:-1], signature + b"\0",
        b"\0" + signature, b"\xff" * 64, b"\xff" * 10**6,
        None, 5, "text", signature.hex(), bytearray(signature), [signature], True,
    ]  # fmt: skip
    for bad_signature in wrong:
        answer = ledger.add_transaction(transaction, bad_signature)
        assert answer == WRONG_SIGNATURE, repr(bad_signature)[:99]
    assert ledger.pending_transactions == []
    assert ledger.add_transaction(transaction, signature) == ACCEPTED


def test_a_signature_is_valid_for_the_signed_string_only(ledger, rich_alice):
    transaction, signature = rich_alice.pay("bob", 1, fee=1, message="hi")
    for change in ({"receiver": "mallory"}, {"amounts": 2}, {"fee": 2}, {"message": "ho"}):
        forged = dataclasses.replace(transaction, **change)
        assert ledger.add_transaction(forged, signature) == WRONG_SIGNATURE, change


def test_a_signature_with_another_hash_is_refused(ledger, rich_alice):
    transaction, _ = rich_alice.pay("bob", 1)
    key = blockchain_client.load_private_key(rich_alice.private)
    text = ledger.transaction_to_string(transaction).encode()
    claim = b"\0" * 20 + rsa.pkcs1.HASH_ASN1["SHA-512"] + b"\0" * 20  # too long for the key
    too_long = pow(int.from_bytes(claim, "big"), key.d, key.n).to_bytes(64, "big")
    for signature in [*(rsa.sign(text, key, h) for h in ("MD5", "SHA-224", "SHA-256")), too_long]:
        assert ledger.add_transaction(transaction, signature) == WRONG_SIGNATURE


def test_of_several_reasons_the_first_one_is_told(ledger, rich_alice):
    """The fields, accepted before, the balance, the signature: this is the order."""
    transaction, signature = rich_alice.pay("bob", 100)
    check_refused(ledger.add_transaction(dataclasses.replace(transaction, amounts=-1), b""))
    assert ledger.add_transaction(transaction, signature) == ACCEPTED
    check_refused(ledger.add_transaction(transaction, b""))
    assert ledger.add_transaction(rich_alice.pay("carol")[0], b"") == NOT_ENOUGH


def test_no_signature_is_verified_under_the_lock(ledger, rich_alice, monkeypatch):
    verify, locked = rsa.verify, []

    def watched(*arguments):
        locked.append(ledger.lock.locked())
        return verify(*arguments)

    monkeypatch.setattr(rsa, "verify", watched)
    assert ledger.add_transaction(*rich_alice.pay()) == ACCEPTED
    assert locked == [False], "a signature is verified once, and without the lock"


RIVALS = {"the same": ("bob", 40, 0), "another": ("carol", 90, 0), "a mined one": ("carol", 90, 1)}


@pytest.mark.parametrize("receiver, amounts, blocks", RIVALS.values(), ids=RIVALS)
@pytest.mark.parametrize("moment", [0, 1], ids=["the first time", "the second time"])
def test_only_one_counts_if_a_rival_comes_just_before_the_lock_is_taken(
    ledger, rich_alice, receiver, amounts, blocks, moment
):
    """The same transaction again, or one that needs the same coins. Only one of them may count."""
    transaction, rival = rich_alice.pay("bob", 40), rich_alice.pay(receiver, amounts)
    answers, moments = [], itertools.count()

    def comes():
        if next(moments) == moment:
            answers.append(ledger.add_transaction(*rival))
            mine(ledger, blocks=blocks)

    ledger.lock = Lock(comes)
    answers.append(ledger.add_transaction(*transaction))
    assert next(moments) > 0, "add_transaction does not take the lock"
    accepted = [answer for answer in answers if answer == ACCEPTED]
    assert accepted == [ACCEPTED], (
        "check and set aside under one lock, with add_pending_transactions"
    )
    mine(ledger)
    assert sum(len(block.transactions) for block in ledger.chain) == 1


def test_what_is_pending_or_mined_is_spent_and_the_rest_is_not(ledger, rich_alice):
    assert ledger.add_transaction(*rich_alice.pay("bob", 59, fee=1)) == ACCEPTED
    assert ledger.add_transaction(*rich_alice.pay("carol", 40)) == ACCEPTED
    assert ledger.add_transaction(*rich_alice.pay("dave", 1)) == NOT_ENOUGH
    mine(ledger)
    assert ledger.add_transaction(*rich_alice.pay("dave", 1)) == NOT_ENOUGH
    assert ledger.get_balance("carol") == 40
    assert not any(ledger.outgoing.values())


def test_what_is_in_the_block_being_mined_is_spent(ledger, rich_alice):
    assert ledger.add_transaction(*rich_alice.pay("bob", 99, fee=1)) == ACCEPTED
    answers, find_nonce = [], ledger.find_nonce

    def pay_meanwhile(block):
        assert len(block.transactions) == 1
        answers.append(ledger.add_transaction(*rich_alice.pay("carol", 1)))
        return find_nonce(block)

    ledger.find_nonce = pay_meanwhile
    mine(ledger)
    assert answers == [NOT_ENOUGH]


def test_the_receiver_of_pending_coins_cannot_spend_them(ledger, rich_alice):
    bob = Account()
    ledger.add_transaction(*rich_alice.pay(bob.address, 50))
    assert ledger.add_transaction(*bob.pay("carol", 1)) == NOT_ENOUGH
    mine(ledger)
    assert ledger.add_transaction(*bob.pay("carol", 1)) == ACCEPTED


def test_a_signed_transaction_counts_once_for_ever(ledger, rich_alice):
    payment = rich_alice.pay("bob", 100)
    assert ledger.add_transaction(*payment) == ACCEPTED
    check_refused(ledger.add_transaction(*payment))
    mine(ledger, rich_alice.address, 12)
    check_refused(ledger.add_transaction(*payment))
    assert ledger.add_transaction(*rich_alice.pay("bob", 100, message="again")) == ACCEPTED


def test_a_refused_transaction_may_come_again(ledger, rich_alice):
    payment = rich_alice.pay("bob", 105)
    assert ledger.add_transaction(*payment) == NOT_ENOUGH
    mine(ledger, rich_alice.address)
    assert ledger.add_transaction(*payment) == ACCEPTED


def taken_over(ledger):
    """Take a ledger's chain over, block by block, into a new ledger; return that one."""
    copy = BlockChain()
    copy.lock = Lock()
    for block in ledger.chain:
        copy.append_block(dataclasses.replace(block, transactions=list(block.transactions)))
    return copy


def test_a_chain_taken_over_block_by_block_gives_the_same_ledger(ledger):
    """append_block updates everything that follows from a block, whoever mined it."""
    chance = random.Random(4)
    payers = [Account() for _ in range(4)]
    for payer in payers:
        mine(ledger, payer.address, 3)
    accepted = []
    for number in range(60):
        receiver, fee = chance.choice(payers).address, chance.randint(0, 2)
        payment = chance.choice(payers).pay(receiver, chance.randint(1, 9), fee, f"{number}")
        if ledger.add_transaction(*payment)[0]:
            accepted.append(payment)
        if number % 7 == 0:
            mine(ledger, chance.choice(payers).address)
    mine(ledger, blocks=3)
    assert len(accepted) > 30
    copy = taken_over(ledger)
    assert copy.verify_blockchain()
    for name in ("balances", "chain_work", "accepted_transactions"):
        assert getattr(copy, name) == getattr(ledger, name)
    for payment in accepted:
        check_refused(copy.add_transaction(*payment), payment)
    for payer in payers:  # no coin is frozen
        balance = copy.get_balance(payer.address)
        assert copy.outgoing[payer.address] == 0
        assert balance == 0 or copy.add_transaction(*payer.pay("bob", balance))[0]


def test_a_block_of_another_node_mines_what_is_pending_here_and_nothing_more(ledger, rich_alice):
    """Of 100 coins, the other block spends 70. It holds one of the two transactions here."""
    waits, settled = rich_alice.pay("bob", 30), rich_alice.pay("carol", 20)
    elsewhere, others = rich_alice.pay("dave", 50), taken_over(ledger)
    assert [others.add_transaction(*payment)[0] for payment in (elsewhere, settled)] == [True] * 2
    mine(others, "another miner")
    assert [ledger.add_transaction(*payment)[0] for payment in (waits, settled)] == [True] * 2
    ledger.append_block(others.chain[-1])
    assert ledger.pending_transactions == [waits[0]]
    assert ledger.outgoing[rich_alice.address] == ledger.get_balance(rich_alice.address) == 30
    assert not ledger.add_transaction(*rich_alice.pay("mallory", 1))[0]
    check_refused(ledger.add_transaction(*elsewhere))  # it was accepted before
    mine(ledger)
    assert ledger.chain[-1].transactions == [waits[0]]
    assert ledger.get_balance(rich_alice.address) == 0
    assert ledger.verify_blockchain()


@pytest.fixture
def restless_threads():
    """Let threads take turns in the middle of the methods, at random steps."""
    chance = random.Random(1)
    functions = {"add_transaction", "mine_block", "append_block", "add_transaction_to_block"}
    functions |= {"verify_blockchain", "get_balance"}

    def trace(frame, event, argument):
        if frame.f_code.co_name not in functions:
            return None
        frame.f_trace_opcodes = True  # also in the middle of a line
        if chance.random() < 0.05:
            time.sleep(1e-6)  # lets go of the interpreter, so that another thread takes it
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    yield
    threading.settrace(None)
    sys.settrace(None)


def test_the_storm(ledger, restless_threads):
    """Eight threads pay while the miner mines. No coin and no transaction is lost or made."""
    accounts = [Account() for _ in range(8)]
    for account in accounts:
        mine(ledger, account.address, 5)
    accepted = []
    barrier = threading.Barrier(len(accounts) + 1, timeout=PATIENCE)

    def storm(payments):
        barrier.wait()
        for payment in payments:
            # Every thread sends every transaction: only one of the eight may count.
            if ledger.add_transaction(*payment)[0]:
                accepted.append(payment[0])

    def watch():
        while not all(payer.done() for payer in payers):
            assert ledger.verify_blockchain(), "it sees the middle of append_block"

    chance = random.Random(6)
    everything = []
    for number in range(300):
        payer, receiver = chance.choice(accounts), chance.choice(accounts).address
        amounts, fee = chance.randint(1, 30), chance.randint(0, 3)
        everything.append(payer.pay(receiver, amounts, fee, f"{number}"))
    # Half of them send the same transactions at the same moments, the others in any order.
    orders = [chance.sample(everything, len(everything)) for _ in accounts[::2]]
    orders += [everything] * len(orders)
    with concurrent.futures.ThreadPoolExecutor(len(orders) + 1) as threads:
        payers = [threads.submit(storm, order) for order in orders]
        watcher = threads.submit(watch)
        barrier.wait()
        while not all(payer.done() for payer in payers):
            mine(ledger)
        mine(ledger, blocks=20)  # which hold all that is still pending
        [thread.result() for thread in (*payers, watcher)]  # raises what was raised there
    mined = [transaction for block in ledger.chain for transaction in block.transactions]
    for what, transactions in ("mined", mined), ("accepted", accepted):
        twice = len(transactions) - len(set(transactions))
        assert twice == 0, (
            f"{what} twice: check and set aside under one lock, with add_pending_transactions"
        )
    overdrawn = [balance for balance in ledger.balances.values() if balance < 0]
    assert overdrawn == [], (
        "coins were spent twice: check and set aside under one lock, with add_pending_transactions"
    )
    assert set(mined) == set(accepted)
    assert 50 < len(mined) < 300
    assert sum(ledger.balances.values()) == sum(block.miner_rewards for block in ledger.chain)
    assert not any(ledger.outgoing.values())
    assert ledger.verify_blockchain()
