"""What most tests need: accounts that sign, and ledgers. Processes are in processes.py."""

import sys

import pytest
from processes import ROOT, Connection, running, start_node

import __main__

sys.path.insert(0, str(ROOT))

import blockchain_client  # noqa: E402
import blockchain_server  # noqa: E402

# The client's class travels under the name that it has when the client runs as a script.
__main__.Transaction = blockchain_client.Transaction
blockchain_client.Transaction.__module__ = "__main__"


class Account:
    """A pair of keys, made by the client unless given, that signs its payments."""

    def __init__(self, address=None, private=None):
        if not address:
            address, private = blockchain_client.generate_address()
        self.address, self.private = address, private

    def payment(self, receiver="bob", amounts=1, fee=0, message=""):
        """Return a transaction and its signature, as `add_transaction` takes them."""
        transaction = blockchain_client.initialize_transaction(
            self.address, receiver, amounts, fee, message
        )
        return transaction, blockchain_client.sign_transaction(transaction, self.private)

    def request(self, *payment, **fields):
        """Return a payment as the request that the client sends."""
        transaction, signature = self.payment(*payment, **fields)
        return {"request": "transaction", "data": transaction, "signature": signature}


def public_key(address):
    """Return the PEM of an address, in bytes."""
    return f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n".encode()


def private_key(private):
    """Return the PEM of a private key, in bytes."""
    return f"-----BEGIN RSA PRIVATE KEY-----\n{private}\n-----END RSA PRIVATE KEY-----\n".encode()


def mine(ledger, miner="miner", blocks=1):
    for _ in range(blocks):
        ledger.mine_block(miner)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """What a test starts, and what it may save, is in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def ledger():
    """A ledger with its genesis block, in the test's own process."""
    ledger = blockchain_server.BlockChain()
    ledger.create_genesis_block()
    return ledger


@pytest.fixture(scope="session")
def alice():
    """An account. Making its keys takes longer than most tests, so they share it."""
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
    ledger.connect = lambda: Connection(ledger.socket_port)
    return ledger


@pytest.fixture
def run():
    """A function that runs a script until the test ends."""
    with running() as start:
        yield start


@pytest.fixture
def node(run):
    """A real node, in a process of its own."""
    return start_node(run, Account)
