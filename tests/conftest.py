"""What most tests need: accounts, ledgers, nodes. See processes.py for the processes."""

import contextlib
import dataclasses
import io
import sys

import pytest
from processes import ROOT, Connection, Process, patience, start_node

import __main__

sys.path.insert(0, str(ROOT))

import blockchain_client
import blockchain_server

# The client's class travels under the name that it has when the client runs as a script.
__main__.Transaction = blockchain_client.Transaction
blockchain_client.Transaction.__module__ = "__main__"


class Account:
    """A pair of keys that signs transactions. The client makes them unless they are given."""

    def __init__(self, *keys):
        self.address, self.private = keys or blockchain_client.generate_address()

    def sign(self, transaction):
        return blockchain_client.sign_transaction(transaction, self.private)

    def pay(self, receiver="bob", amounts=1, fee=0, message=""):
        """Return a transaction and its signature, the arguments of `add_transaction`."""
        payment = blockchain_server.Transaction(self.address, receiver, amounts, fee, message)
        return payment, self.sign(payment)

    def request(self, *payment, **fields):
        """Return the request that the client sends for a transaction."""
        payment, signature = self.pay(*payment, **fields)
        data = blockchain_client.initialize_transaction(*dataclasses.astuple(payment))
        return {"request": "transaction", "data": data, "signature": signature}


def quiet():
    """Hide what is printed. Pages of `Hash found` would hide why a test fails."""
    return contextlib.redirect_stdout(io.StringIO())


def mine(ledger, miner="miner", blocks=1):
    with quiet():
        for _ in range(blocks):
            ledger.mine_block(miner)


def pend(ledger, account, *payment, **fields):
    """Make a transaction pending without the rules of Day 05. Return it."""
    transaction, _signature = account.pay(*payment, **fields)
    with ledger.lock:
        ledger.add_pending_transactions([transaction])
    return transaction


@pytest.fixture(autouse=True)
def fresh_start(tmp_path, monkeypatch):
    """Give each test its patience, and a folder of its own for what it starts and saves."""
    patience.seconds = patience.normal
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def ledger():
    """A ledger with its genesis block, in the test's own process."""
    ledger = blockchain_server.BlockChain()
    with quiet():
        ledger.create_genesis_block()
    return ledger


@pytest.fixture(scope="session")
def alice():
    """An account. All tests share it, because making keys takes longer than most tests."""
    return Account()


@pytest.fixture
def rich_alice(ledger, alice):
    """An account that has mined 100 coins on the ledger."""
    mine(ledger, alice.address, 10)
    return alice


@pytest.fixture
def server(ledger):
    """A ledger that answers on a port, in the test's own process; it does not mine."""
    ledger.start_socket_server()
    with contextlib.ExitStack() as open_ones:
        ledger.connect = lambda: open_ones.enter_context(Connection(ledger.socket_port))
        yield ledger


@pytest.fixture
def run():
    """A function that runs a script until the test ends."""
    with contextlib.ExitStack() as stack:
        closing = contextlib.closing
        yield lambda *words, **options: stack.enter_context(closing(Process(*words, **options)))


@pytest.fixture
def node(run):
    """A real node, in a process of its own."""
    return start_node(run, Account)
