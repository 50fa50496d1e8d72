"""Day 04: difficulty, balances, and the verification of a chain."""

import builtins
import dataclasses
import hashlib
import re
import types

import pytest
from conftest import Lock, mine, pend

from blockchain_server import Block, BlockChain, Refused, Transaction

NOT_MATCHED = "Error:Hash not matched!"
NOT_MATCHED_TO_PREVIOUS = "Error:Hash not matched to previous_hash"


def ledger_with_blocks_of(seconds, difficulty=5, blocks=11):
    """Return a ledger with so many seconds between the timestamps of its blocks."""
    ledger = BlockChain()
    ledger.difficulty = difficulty
    ledger.chain = [Block("", difficulty, "", 10, timestamp=n * seconds) for n in range(blocks)]
    return ledger


@pytest.mark.parametrize(
    "seconds, difficulty, verdict",
    [
        (0, 6, ["High up the difficulty"]),
        (1.8, 6, ["High up the difficulty"]),  # times 16 is 28.8
        (1.9, 5, []),
        (30, 5, []),
        (30.5, 4, ["Lower the difficulty"]),
        (-5, 5, []),  # the clock was set back
    ],
)
def test_difficulty_follows_the_time_that_blocks_take(seconds, difficulty, verdict, capsys):
    ledger = ledger_with_blocks_of(seconds)
    result = ledger.adjust_difficulty()
    said = capsys.readouterr().out
    case = f"timestamps {[block.timestamp for block in ledger.chain]}: {said!r}"
    assert (result, ledger.difficulty) == (difficulty, difficulty), case
    average = re.match(r"Average block time:(-?[\d.]+)s\. ", said)
    assert average and float(average[1]) == pytest.approx(seconds, abs=0.1), case
    article = "High up the difficulty", "Lower the difficulty"
    assert [line for line in article if line in said] == verdict, case
    assert ledger_with_blocks_of(1000, difficulty=1).adjust_difficulty() == 1  # never below


def test_a_second_adjustment_changes_nothing():
    """The difficulty follows from the last block. One that is set by hand counts until then."""
    for seconds, difficulty in (0, 6), (10, 5), (1000, 4):
        ledger = ledger_with_blocks_of(seconds)
        assert [ledger.adjust_difficulty() for _ in range(3)] == [difficulty] * 3, seconds
    ledger = ledger_with_blocks_of(0, blocks=12)
    ledger.difficulty = 9
    assert ledger.adjust_difficulty() == 9


def test_the_difficulty_is_adjusted_after_every_tenth_mined_block(capsys):
    """Only the last ten blocks count."""
    fitted = [n for n in range(35) if ledger_with_blocks_of(0, blocks=n).adjust_difficulty() == 6]
    assert fitted == [11, 21, 31]
    assert capsys.readouterr().out.count("\n") == 3
    ledger = ledger_with_blocks_of(1000, blocks=11)
    begun = ledger.chain[-1].timestamp
    ledger.chain += [Block("", 5, "", 10, timestamp=begun + n) for n in range(1, 11)]
    assert ledger.adjust_difficulty() == 6


def test_a_miner_gets_the_rewards_and_the_fees(ledger, rich_alice):
    pend(ledger, rich_alice, "bob", 50, fee=3)
    pend(ledger, rich_alice, "bob", 40, fee=4)
    mine(ledger)
    balances = {"miner": 17, "bob": 90, rich_alice.address: 3, "lkm543": 10}
    assert {account: ledger.get_balance(account) for account in balances} == balances


def test_paying_oneself_costs_the_fee(ledger, rich_alice):
    """If the payer mines the block, the fee comes back."""
    pend(ledger, rich_alice, rich_alice.address, 50, fee=1)
    mine(ledger)
    assert ledger.get_balance(rich_alice.address) == 99
    pend(ledger, rich_alice, "bob", 50, fee=5)
    mine(ledger, rich_alice.address)
    assert ledger.get_balance(rich_alice.address) == 99 - 50 + 10


def test_a_transaction_counts_when_its_block_is_mined(ledger, rich_alice):
    pend(ledger, rich_alice, "bob", 50, fee=1)
    assert (ledger.get_balance("bob"), ledger.get_balance(rich_alice.address)) == (0, 100)
    mine(ledger)
    assert ledger.get_balance("bob") == 50


class NotToBeWalked:
    """A chain on which nobody may look."""

    def __getattr__(self, name):
        raise AssertionError("get_balance looks at the chain, though append_block keeps balances")

    __iter__ = __len__ = __getitem__ = lambda self, *_: self.look


def test_a_balance_does_not_walk_the_chain(ledger, rich_alice):
    ledger.chain = NotToBeWalked()
    assert (ledger.get_balance(rich_alice.address), ledger.get_balance("nobody")) == (100, 0)
    assert "nobody" not in ledger.balances


@pytest.mark.parametrize("method, right", [("get_balance", 10), ("verify_blockchain", True)])
def test_the_ledger_is_read_under_the_lock(ledger, method, right):
    """A block comes just before the lock is taken, and one just after it was released."""
    ledger.lock = Lock(lambda: mine(ledger, "bob"), lambda: mine(ledger, "bob"))
    result = getattr(ledger, method)(*["bob"] * (method == "get_balance"))
    assert len(ledger.chain) == 3, f"{method} does not take the lock, or not once"
    assert result == right, f"{method} reads before or after it holds the lock"


def test_nothing_is_hashed_or_printed_under_the_lock(ledger, alice, monkeypatch):
    """Clients would have to wait."""
    seen = set()

    def watch(module, name):
        function = getattr(module, name)

        def watched(*arguments, **options):
            seen.add((name, "under the lock" if ledger.lock.locked() else "without it"))
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, watched)

    watch(hashlib, "sha1")
    watch(builtins, "print")
    pend(ledger, alice)
    ledger.mine_block("miner")
    assert ledger.verify_blockchain()
    assert seen == {("sha1", "without it"), ("print", "without it")}


@pytest.fixture
def honest(ledger, rich_alice):
    """A chain of real work, with transactions in blocks 11 and 13 of its blocks 0 to 14."""
    ledger.difficulty = 3
    for message in ("first", "second"):
        pend(ledger, rich_alice, "5", 10, 1, message)
        mine(ledger, "miner", 2)
    return ledger


@pytest.mark.parametrize("blocks", [0, 1, 25])
def test_an_honest_chain_is_correct(blocks, ledger, capsys):
    for _ in range(blocks):
        ledger.mine_block("miner")
        ledger.adjust_difficulty()
    capsys.readouterr()
    assert ledger.verify_blockchain() is True
    assert capsys.readouterr().out == "Hash correct!\n"
    ledger.difficulty = 2  # set by hand: that is honest, too
    mine(ledger)
    assert ledger.verify_blockchain()


def test_check_block_looks_at_one_block_alone(honest):
    """A block that is valid alone passes, wherever it stands, also with more zeros than asked."""
    for block in honest.chain:
        honest.check_block(block)
    block = honest.chain[7]
    BlockChain().check_block(block)
    block.previous_hash, block.difficulty = "another", 1
    with pytest.raises(Refused, match=f"^{NOT_MATCHED}"):
        honest.check_block(block)
    block.hash = ""
    while not block.hash.startswith("00"):
        block.nonce += 1
        block.hash = honest.get_hash(block, block.nonce)
    honest.check_block(block)
    block.difficulty = -1
    block.hash = honest.get_hash(block, block.nonce)
    with pytest.raises(Refused):
        honest.check_block(block)


def refuted(ledger, capsys, changed="the chain"):
    """Return what verify_blockchain prints when it returns False. `changed` is shown if not."""
    capsys.readouterr()
    result = ledger.verify_blockchain()
    said = capsys.readouterr().out
    assert result is False and said.strip() and "Hash correct!" not in said, (changed, said)
    return said


def check_fault(ledger, capsys, height, text="", changed="the chain"):
    """See that verify_blockchain prints this text, and the number of this block."""
    said = refuted(ledger, capsys, changed)
    assert said.startswith(text) and f"{height}" in re.findall(r"\d+", said), (changed, said)


def test_the_demonstration_of_the_article(ledger, capsys):
    ledger.mine_block("lkm543")
    assert ledger.verify_blockchain() is True
    ledger.chain[1].transactions.append(Transaction("test123", "test456", 1, 1, "Test"))
    check_fault(ledger, capsys, 1, NOT_MATCHED)


def test_any_change_of_any_field_of_any_block_is_found(honest, capsys):
    for height, block in enumerate(honest.chain):
        for name, old in list(vars(block).items()):
            more = Transaction("a", "b", 1, 0, "")
            a_little = [*old, more] if type(old) is list else old + type(old)(1)
            its_like = {int: float, str: list, list: tuple}[type(old)](old)
            for changed in (a_little, its_like, [old], None, "?"):
                setattr(block, name, changed)
                check_fault(honest, capsys, height, changed=(name, changed))
                setattr(block, name, old)
    assert honest.verify_blockchain()
    for nothing in ((), {}, "", b"", 0):  # block 5 has no transactions, but they are in a list
        honest.chain[5].transactions = nothing
        check_fault(honest, capsys, 5, changed=f"transactions = {nothing!r}")
    look_alike = types.SimpleNamespace(**vars(honest.chain[11].transactions[0]))
    honest.chain[5].transactions, honest.chain[11].transactions = [], [look_alike]
    check_fault(honest, capsys, 11, NOT_MATCHED, "no Transaction, but the same text")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Transaction)])
def test_any_change_of_any_field_of_a_transaction_is_found(honest, name, capsys):
    for height in (11, 13):
        transactions = honest.chain[height].transactions
        transaction, old = transactions[0], getattr(transactions[0], name)
        for changed in (old + type(old)(1), [old], None, 5):  # the receiver is "5"
            transactions[0] = dataclasses.replace(transaction, **{name: changed})
            check_fault(honest, capsys, height, NOT_MATCHED, changed)
        transactions[0] = transaction
    assert honest.verify_blockchain()


@pytest.mark.parametrize("first, last", [(0, 0), (5, 5), (14, 14), (0, 14), (1, 14)])
def test_blocks_that_were_removed_are_found(honest, first, last, capsys):
    del honest.chain[first : last + 1]
    refuted(honest, capsys)


def hash_again(ledger, height, find_nonce=lambda block: block.nonce):
    """Compute the links and hashes again from this height on."""
    previous_hash = ledger.chain[height].previous_hash
    for block in ledger.chain[height:]:
        block.previous_hash = previous_hash
        block.nonce = find_nonce(block)
        block.hash = previous_hash = ledger.get_hash(block, block.nonce)


@pytest.mark.parametrize("height", [0, 1, 11, 14])
def test_a_chain_hashed_again_without_the_work_is_found(honest, height, capsys):
    honest.difficulty = 4
    mine(honest)  # one that hardly any accident gives: one in 65,536
    honest.chain[height].miner = "mallory"
    hash_again(honest, height)
    assert not refuted(honest, capsys).startswith(NOT_MATCHED_TO_PREVIOUS)


def test_another_beginning_or_order_is_found(honest, capsys):
    honest.chain[5], honest.chain[6] = honest.chain[6], honest.chain[5]
    check_fault(honest, capsys, 5, NOT_MATCHED_TO_PREVIOUS)
    honest.chain[0].previous_hash = "Goodbye World!"
    hash_again(honest, 0)
    check_fault(honest, capsys, 0, NOT_MATCHED_TO_PREVIOUS)


@pytest.mark.parametrize("difficulty", [-1, 0.5, float("nan"), None, "1", 41, True], ids=repr)
def test_a_difficulty_that_is_not_valid_is_found_in_a_chain_hashed_again(
    honest, difficulty, capsys
):
    for block in honest.chain:
        block.difficulty = difficulty
    hash_again(honest, 0)
    refuted(honest, capsys)


@pytest.mark.parametrize("difficulty", [0, 1])
def test_a_chain_mined_again_with_less_work_is_found(honest, difficulty, capsys):
    honest.chain[11].miner = "mallory"
    for block in honest.chain[11:]:
        block.difficulty = difficulty
    hash_again(honest, 11, honest.find_nonce if difficulty else lambda block: 0)
    refuted(honest, capsys)


def test_a_forged_block_behind_an_honest_chain_is_found(honest, capsys):
    forged = Block(honest.chain[-1].hash, 1, "mallory", 10)
    honest.chain.append(forged)  # not with append_block
    hash_again(honest, len(honest.chain) - 1, honest.find_nonce)
    refuted(honest, capsys)


def test_a_block_that_is_mined_again_is_found_at_the_next_one(honest, capsys):
    """The central sentence of the series: blocks hang together."""
    block = honest.chain[11]
    block.miner = "mallory"
    block.nonce = honest.find_nonce(block)
    block.hash = honest.get_hash(block, block.nonce)
    check_fault(honest, capsys, 12, NOT_MATCHED_TO_PREVIOUS)
