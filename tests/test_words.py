"""The node's own sentences, word for word, each with something that leads to it.

This is for maintainers. All other tests accept any words but those of the articles.
"""

import contextlib
import dataclasses
import io
import pickle
from unittest import mock

import pytest
from conftest import mine, pend
from test_day04 import ledger_with_blocks_of

from blockchain_server import BlockChain, Refused, read_request


def refusal(function, *arguments):
    """Return the text of the Refused that a function raises."""
    with pytest.raises(Refused) as raised:
        function(*arguments)
    return str(raised.value)


def printed(function, *arguments):
    """Return the last line that a function prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        function(*arguments)
    return output.getvalue().splitlines()[-1]


def fields(**changes):
    """Return what happens to a transaction that has these fields."""

    def check(ledger, alice):
        return refusal(ledger.check_fields, dataclasses.replace(alice.pay()[0], **changes))

    return check


def accepted_before(ledger, alice):
    return ledger.add_transaction(pend(ledger, alice), b"")[1]


def two_in_a_block(ledger, alice):
    pend(ledger, alice, "bob", 1)
    pend(ledger, alice, "bob", 2)
    return printed(ledger.mine_block, "miner")


def chain(work=17, **changes):
    """Return what is said of a chain whose second block has these fields, hashed again."""

    def verify(ledger, alice):
        mine(ledger)
        block, ledger.chain_work = ledger.chain[1], work
        vars(block).update(changes)
        block.hash = changes.get("hash", ledger.get_hash(block, block.nonce))
        return printed(ledger.verify_blockchain)

    return verify


def retarget(seconds):
    """Return what is said when blocks take so long on average."""
    return lambda ledger, alice: printed(ledger_with_blocks_of(seconds).adjust_difficulty)


def request(data):
    """Return what happens to a request: bytes, or the error that reading them raises."""

    def respond(ledger, alice):
        broken = mock.Mock(**{"read.side_effect": data})
        file = io.BytesIO(data) if type(data) is bytes else broken
        return refusal(lambda: ledger.respond(read_request(file)))

    return respond


SENTENCES = {
    "The chain has no block. Call create_genesis_block() first.": (
        lambda ledger, alice: refusal(BlockChain().mine_block, "miner")
    ),
    "Transactions in block 1: 2": two_in_a_block,
    "Average block time:1.88s. High up the difficulty": retarget(1.875),
    "Average block time:1.9s. Keep the difficulty": retarget(1.9),
    "Average block time:30.5s. Lower the difficulty": retarget(30.5),
    "Error:Hash not matched! Its content is not what was hashed. (Block 1)": chain(hash="?"),
    "Its hash does not show the work. (Block 1)": chain(difficulty=40),
    "Error:Hash not matched to previous_hash. The link is broken. (Block 1)": (
        chain(previous_hash="?", difficulty=0)
    ),
    "The chain shows less work than was done!": chain(work=18),
    "The chain shows more work than was done!": chain(work=16),
    "This must be a Transaction of blockchain_server.py!": (
        lambda ledger, alice: refusal(ledger.check_fields, None)
    ),
    "Amounts must be a whole number above 0!": fields(amounts=0),
    "Fee must be a whole number, 0 or more!": fields(fee=-1),
    "Sender must be a string!": fields(sender=5),
    "Receiver must be a string!": fields(receiver=5),
    "Message must be a string!": fields(message=5),
    "Receiver must not be empty!": fields(receiver=""),
    "Sender must be an address made by generate_address!": fields(sender="alice"),
    "Accepted before! To pay a second time, change the comment.": accepted_before,
    "Allowed: strings, bytes, whole numbers and a Transaction.": request(b"\xff"),
    "A request may have at most 16384 bytes.": request(b"}" * 16_385),
    "The request ends in the middle.": request(b"}"),
    "10 seconds of silence in the middle of the request.": request(TimeoutError),
    "The connection was lost in the middle of the request.": request(ConnectionResetError),
    'A request is a dict with the key "request".': request(pickle.dumps({})),
    'get_balance needs an "address", which is a string.': request(
        pickle.dumps({"request": "get_balance"})
    ),
    'transaction needs "data" (a Transaction) and "signature".': request(
        pickle.dumps({"request": "transaction"})
    ),
}


@pytest.mark.maintainers
@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_is_said(ledger, alice, sentence):
    assert SENTENCES[sentence](ledger, alice) == sentence
