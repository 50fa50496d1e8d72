"""Day 04: difficulty, balances, and the verification of a chain."""

import dataclasses
from unittest import mock

import pytest
from conftest import mine, pend

from blockchain_server import Block, BlockChain, Refused, Transaction


def ledger_with_blocks_of(seconds, difficulty=5, blocks=11):
    """Return a ledger with so many seconds between the timestamps of its blocks."""
    ledger = BlockChain()
    ledger.difficulty = difficulty
    ledger.chain = [Block("", difficulty, "", 10, timestamp=n * seconds) for n in range(blocks)]
    return ledger


@pytest.mark.parametrize(
    "seconds, difficulty, verdict",
    [
        (0, 6, "0.0s. High up the difficulty"),
        (1.875, 6, "1.88s. High up the difficulty"),  # times 16 is 30
        (1.9, 5, "1.9s. Keep the difficulty"),
        (30, 5, "30.0s. Keep the difficulty"),
        (30.5, 4, "30.5s. Lower the difficulty"),
        (-5, 5, "-5.0s. Keep the difficulty"),  # the clock was set back
    ],
)
def test_difficulty_follows_the_time_that_blocks_take(seconds, difficulty, verdict, capsys):
    ledger = ledger_with_blocks_of(seconds)
    assert ledger.adjust_difficulty() == ledger.difficulty == difficulty
    assert capsys.readouterr().out == f"Average block time:{verdict}\n"
    assert ledger_with_blocks_of(1000, difficulty=1).adjust_difficulty() == 1  # never below


def test_a_second_adjustment_changes_nothing():
    """The difficulty follows from the last block. One that is set by hand counts until then."""
    for seconds, difficulty in (0, 6), (10, 5), (1000, 4):
        ledger = ledger_with_blocks_of(seconds)
        assert [ledger.adjust_difficulty() for _ in range(3)] == [difficulty] * 3
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


@pytest.mark.parametrize("method", ["get_balance", "verify_blockchain"])
def test_the_ledger_is_read_under_the_lock(ledger, method, capsys):
    """Meanwhile, the miner may be in the middle of append_block."""
    ledger.lock = mock.MagicMock()
    getattr(ledger, method)(*["bob"] * (method == "get_balance"))
    assert ledger.lock.mock_calls, f"{method} does not take the lock"


@pytest.fixture
def honest(ledger, rich_alice):
    """A chain of real work, with transactions in blocks 11 and 13 of its blocks 0 to 14."""
    ledger.difficulty = 3
    for message in ("first", "second"):
        pend(ledger, rich_alice, "bob", 10, 1, message)
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
    """A block that is valid alone passes, wherever it stands."""
    for block in honest.chain:
        honest.check_block(block)
    BlockChain().check_block(honest.chain[7])
    honest.chain[7].previous_hash = "another"
    with pytest.raises(Refused, match="its content is not what was hashed!"):
        honest.check_block(honest.chain[7])


def faulty_block(ledger, capsys):
    """Return the number of the block in which an error is found, and the message."""
    capsys.readouterr()
    assert ledger.verify_blockchain() is False
    block, said = capsys.readouterr().out.removeprefix("Block ").split(": ", 1)
    return int(block), said


def test_the_demonstration_of_the_article(ledger, capsys):
    ledger.mine_block("lkm543")
    assert ledger.verify_blockchain() is True
    ledger.chain[1].transactions.append(Transaction("test123", "test456", 1, 1, "Test"))
    assert faulty_block(ledger, capsys) == (1, "its content is not what was hashed!\n")


def test_any_change_of_any_field_of_any_block_is_found(honest, capsys):
    for height, block in enumerate(honest.chain):
        for name, old in list(vars(block).items()):
            more = Transaction("a", "b", 1, 0, "")
            a_little = [*old, more] if type(old) is list else old + type(old)(1)
            its_like = float(old) if type(old) is int else [old]
            for changed in (a_little, its_like, None, "?"):
                setattr(block, name, changed)
                assert faulty_block(honest, capsys)[0] == height, (name, changed)
                setattr(block, name, old)
    assert honest.verify_blockchain()
    for nothing in ((), {}, "", b"", 0):  # block 5 has no transactions, but they are a list
        honest.chain[5].transactions = nothing
        assert faulty_block(honest, capsys)[0] == 5


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Transaction)])
def test_any_change_of_any_field_of_a_transaction_is_found(honest, name, capsys):
    for height in (11, 13):
        transactions = honest.chain[height].transactions
        payment, old = transactions[0], getattr(transactions[0], name)
        for changed in (old + type(old)(1), [old], None):
            transactions[0] = dataclasses.replace(payment, **{name: changed})
            assert faulty_block(honest, capsys)[0] == height
        transactions[0] = payment
    assert honest.verify_blockchain()


def test_a_number_in_place_of_its_string_is_found(ledger, alice):
    pend(ledger, alice, "5", 1)
    mine(ledger)
    transactions = ledger.chain[-1].transactions
    transactions[0] = dataclasses.replace(transactions[0], receiver=5)
    assert not ledger.verify_blockchain()


REMOVED = {
    "the genesis block": [0],
    "one in the middle": [5],
    "the last one": [14],
    "all": range(15),
    "all but the genesis block": range(1, 15),
}


@pytest.mark.parametrize("blocks", REMOVED.values(), ids=REMOVED)
def test_blocks_that_were_removed_are_found(honest, blocks):
    honest.chain = [block for height, block in enumerate(honest.chain) if height not in blocks]
    assert not honest.verify_blockchain()


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
    assert faulty_block(honest, capsys)[1] == "its hash does not show the work!\n"


def test_another_beginning_or_order_is_found(honest, capsys):
    honest.chain[5], honest.chain[6] = honest.chain[6], honest.chain[5]
    assert faulty_block(honest, capsys) == (5, "it does not follow the block before it!\n")
    honest.chain[0].previous_hash = "Goodbye World!"
    hash_again(honest, 0)
    assert faulty_block(honest, capsys) == (0, "it does not follow the block before it!\n")


@pytest.mark.parametrize("difficulty", [-1, 0.5, float("nan"), None, "1", 10**9, True], ids=repr)
def test_a_difficulty_that_is_not_valid_is_found_in_a_chain_hashed_again(honest, difficulty):
    for block in honest.chain:
        block.difficulty = difficulty
    hash_again(honest, 0)
    assert honest.verify_blockchain() is False


@pytest.mark.parametrize("difficulty", [0, 1])
def test_a_chain_mined_again_with_less_work_is_found(honest, difficulty, capsys):
    honest.chain[11].miner = "mallory"
    for block in honest.chain[11:]:
        block.difficulty = difficulty
    hash_again(honest, 11, honest.find_nonce if difficulty else lambda block: 0)
    assert not honest.verify_blockchain() and "less work" in capsys.readouterr().out


def test_a_forged_block_behind_an_honest_chain_is_found(honest, capsys):
    forged = Block(honest.chain[-1].hash, 1, "mallory", 10)
    honest.chain.append(forged)  # not with append_block
    hash_again(honest, len(honest.chain) - 1, honest.find_nonce)
    assert not honest.verify_blockchain() and "more work" in capsys.readouterr().out


def test_a_block_that_is_mined_again_is_found_at_the_next_one(honest, capsys):
    """The central sentence of the series: blocks hang together."""
    block = honest.chain[11]
    block.miner = "mallory"
    block.nonce = honest.find_nonce(block)
    block.hash = honest.get_hash(block, block.nonce)
    assert faulty_block(honest, capsys) == (12, "it does not follow the block before it!\n")
