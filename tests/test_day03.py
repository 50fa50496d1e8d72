"""Day 03: hashing, the genesis block, packing by fee, and mining."""

import collections
import copy
import dataclasses
import doctest
import hashlib
import re

import pytest
from conftest import Lock, mine, pend

import blockchain_client
import blockchain_server
from blockchain_server import Block, BlockChain, Refused, Transaction

A_PAYMENT = Transaction("alice", "bob", 50, 1, "Thank you")


def test_both_scripts_sign_the_same_string(ledger):
    quotes = Transaction("it's", 'a "quote"', 10**30, 0, "\\ and \n")
    for transaction in (A_PAYMENT, quotes, Transaction("愛麗絲", "鮑伯", 1, 0, "謝謝 🙂 \udc80")):
        text = blockchain_client.transaction_to_string(transaction)
        assert text == ledger.transaction_to_string(transaction) == str(vars(transaction))


def test_a_hash_is_the_sha1_of_the_strings_in_order_and_the_nonce(ledger):
    other = Transaction("bob", "alice", 2, 0, "")
    block = Block("", 1, "", 10, transactions=[A_PAYMENT, other])
    texts = ledger.transaction_to_string(A_PAYMENT) + ledger.transaction_to_string(other)
    assert ledger.get_transactions_string(block) == texts
    data = ledger.get_block_bytes(block)
    assert ledger.get_hash(block, 42) == hashlib.sha1(data + b"42").hexdigest()
    for length in range(130):  # what stands before the nonce ends on a step of SHA-1
        assert len(ledger.get_block_bytes(Block("x" * length, 1, "", 10))) % 64 == 0, length


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Block)])
def test_a_hash_covers_every_field_but_itself(ledger, name):
    ledger.mine_block("miner")
    block = ledger.chain[1]
    before, old = ledger.get_hash(block, block.nonce), getattr(block, name)
    setattr(block, name, [A_PAYMENT] if type(old) is list else old + type(old)(1))
    after = ledger.get_hash(block, block.nonce)
    assert after == before if name == "hash" else after != before


def test_a_digit_cannot_move_from_one_field_to_the_next(ledger):
    def hash_of(previous_hash="a", timestamp=1, difficulty=1, miner="m", rewards=1, nonce=1):
        block = Block(previous_hash, difficulty, miner, rewards, timestamp=timestamp)
        return ledger.get_hash(block, nonce)

    assert hash_of(timestamp=11, nonce=1) != hash_of(timestamp=1, nonce=11)
    assert hash_of(previous_hash="a1", timestamp=1) != hash_of(previous_hash="a", timestamp=11)
    assert hash_of(timestamp=11, difficulty=1) != hash_of(timestamp=1, difficulty=11)
    assert hash_of(miner="m1", rewards=1) != hash_of(miner="m", rewards=11)
    assert hash_of(miner="m', 1") != hash_of(miner="m")


def test_the_genesis_block(capsys):
    ledger = BlockChain()
    with pytest.raises(Refused):
        ledger.mine_block("miner")  # on what?
    ledger.create_genesis_block()
    assert capsys.readouterr().out == "Create genesis block...\n"
    (genesis,) = ledger.chain
    assert (genesis.previous_hash, genesis.miner, genesis.nonce) == ("Hello World!", "lkm543", 0)
    assert genesis.hash == ledger.get_hash(genesis, 0)
    assert (genesis.difficulty, genesis.miner_rewards, genesis.transactions) == (0, 10, [])
    another = BlockChain().get_genesis_block()  # as on Day 07: all nodes need the same one
    another.timestamp = genesis.timestamp
    assert ledger.get_hash(another, 0) == genesis.hash


def test_the_highest_fees_are_packed_first_and_all_stay_pending(ledger, alice):
    fees = [*range(20), *range(20)]
    pending = [pend(ledger, alice, "bob", 1, fee, f"{n}") for n, fee in enumerate(fees)]
    block = Block("", 1, "", 10)
    ledger.add_transaction_to_block(block)
    packed = block.transactions
    assert [transaction.fee for transaction in packed] == sorted(fees, reverse=True)[:32]
    assert [t.message for t in packed[:4]] == ["19", "39", "18", "38"]  # the oldest first
    assert ledger.pending_transactions == pending


def test_what_is_pending_is_read_under_the_lock(ledger, alice):
    """A transaction comes just before the lock is taken, and one just after it was released."""

    def comes():
        pend(ledger, alice, "bob", 1 + len(ledger.pending_transactions))

    ledger.lock = Lock(comes, comes)
    block = Block("", 1, "", 10)
    ledger.add_transaction_to_block(block)
    assert ledger.pending_transactions, "add_transaction_to_block does not take the lock"
    assert [transaction.amounts for transaction in block.transactions] == [1]


def test_a_mined_block_hangs_on_the_last_one_and_shows_its_work(ledger, capsys):
    ledger.difficulty = 3
    ledger.mine_block("miner")
    genesis, block = ledger.chain
    assert (block.previous_hash, block.miner) == (genesis.hash, "miner")
    assert (block.difficulty, block.miner_rewards) == (3, 10)
    assert block.hash == ledger.get_hash(block, block.nonce) and block.hash.startswith("000")
    found = f"Hash found: {block.hash} @ difficulty 3, time cost: "
    assert re.fullmatch(re.escape(found) + r"\d+\.\d\d?s\n", capsys.readouterr().out)


@pytest.mark.parametrize("difficulty", [0, 1, 2, 3, 4])
def test_the_fast_search_finds_the_nonce_of_the_plain_one(ledger, difficulty):
    block = Block("a hash", difficulty, "miner", 10)
    for block.timestamp in range(30 if difficulty < 3 else 2):
        nonce = 0
        while not ledger.get_hash(block, nonce).startswith("0" * difficulty):
            nonce += 1
        assert ledger.find_nonce(block) == nonce, block


def test_an_interrupted_block_loses_no_transaction(ledger, alice):
    pending = [pend(ledger, alice, "bob", 10, 1, message) for message in ("first", "second")]
    outgoing = ledger.outgoing.copy()
    assert outgoing[alice.address] == 22

    def interrupt(block):
        assert block.transactions == pending
        raise InterruptedError

    find_nonce, ledger.find_nonce = ledger.find_nonce, interrupt
    with pytest.raises(InterruptedError):
        ledger.mine_block("miner")
    assert (ledger.pending_transactions, ledger.outgoing) == (pending, outgoing)
    assert len(ledger.chain) == 1
    ledger.find_nonce = find_nonce
    mine(ledger)
    assert (ledger.chain[-1].transactions, ledger.pending_transactions) == (pending, [])
    assert ledger.balances["bob"] == 20 and not any(ledger.outgoing.values())


def test_append_block_brings_up_to_date_what_follows_from_the_chain(ledger, alice):
    """Day 04 looks at balances and work, Day 05 at what was accepted and at what is outgoing."""
    first, mined, last = (pend(ledger, alice, "bob", amounts, fee=2) for amounts in (20, 30, 40))
    foreign = Transaction(alice.address, "carol", 5, 1, "accepted by another node, and not here")
    block = Block(ledger.chain[0].hash, 3, "miner", 10, transactions=[mined, foreign])
    ledger.append_block(block)
    assert ledger.chain[1:] == [block]
    assert ledger.chain_work == 16**0 + 16**3  # of the genesis block and of this one
    balances = {"lkm543": 10, "miner": 13, alice.address: -38, "bob": 30, "carol": 5}
    assert ledger.balances == collections.Counter(balances)
    assert ledger.pending_transactions == [first, last]
    assert ledger.outgoing == collections.Counter({alice.address: 22 + 42})
    assert ledger.accepted_transactions == {first, mined, last, foreign}


def test_append_block_changes_everything_under_the_lock(ledger, alice):
    """Somebody looks just before the lock is taken, and just after it was released."""
    names = "chain chain_work balances pending_transactions outgoing accepted_transactions".split()
    seen = []

    def look():
        seen.append({name: copy.copy(getattr(ledger, name)) for name in names})

    mined, foreign = pend(ledger, alice, "bob", 1), Transaction(alice.address, "carol", 2, 0, "")
    look()
    ledger.lock = Lock(look, look)
    ledger.append_block(Block("", 1, "miner", 10, transactions=[mined, foreign]))
    look()
    assert len(seen) == 4, "append_block takes the lock, and only once"
    for name in names:
        before, taken, released, after = (state[name] for state in seen)
        assert before == taken and released == after, f"{name} changes outside of the lock"
        assert taken != released, name


def test_the_examples_in_the_docstrings_are_true(capsys):
    result = doctest.testmod(blockchain_server)
    assert result.failed == 0, capsys.readouterr().out
    assert result.attempted >= 3
