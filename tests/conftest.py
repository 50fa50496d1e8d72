"""What most tests need: accounts, ledgers, nodes. See processes.py for the processes."""

import contextlib
import dataclasses
import faulthandler
import io
import os
import sys
import threading
import traceback

import pytest
from processes import (
    DEBUGGED,
    ROOT,
    Connection,
    Process,
    handlers,
    remember_failure,
    thread_failure,
    thread_failures,
)

import blockchain_client
import blockchain_server

BALANCE = {"request": "get_balance", "address": "bob"}
BALANCE_ANSWER = {"address": "bob", "balance": 0}
AUTHORIZED = {"result": True, "result_message": "Authorized successfully!"}


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


class Lock:
    """Stands in for `ledger.lock`, so that a race is let happen, and not waited for.

    `before` is called just before the lock is taken, and `after` just after it was released. Each
    does what another thread might do at that moment, and may take the lock itself.
    """

    def __init__(self, before=lambda: None, after=lambda: None):
        self.before, self.after = before, after
        self.lock, self.owner = threading.Lock(), None
        self.locked = self.lock.locked

    def let_happen(self, event):
        events = self.before, self.after
        self.before = self.after = lambda: None
        event()
        self.before, self.after = events

    def acquire(self):
        assert self.owner != threading.get_ident(), "this thread already holds the lock"
        self.let_happen(self.before)
        self.lock.acquire()
        self.owner = threading.get_ident()

    def release(self, *_):
        self.owner = None
        self.lock.release()
        self.let_happen(self.after)

    __enter__, __exit__ = acquire, release


def quiet():
    """Hide what is printed. Pages of `Hash found` would hide why a test fails."""
    return contextlib.redirect_stdout(io.StringIO())


def is_refusal(answer):
    """Return True if an answer says what is wrong with the request, in whatever words."""
    return answer is not None and answer.keys() == {"message"} and len(answer["message"]) > 0


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


def give_up(request):
    """End the run, and show where the threads are in this project. Often, a lock is taken twice.

    If even this cannot run, the timeout of pytest's faulthandler comes five seconds later.
    """
    request.config.pluginmanager.getplugin("capturemanager").suspend_global_capture(in_=True)
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    frames[0] = frames.pop(threading.main_thread().ident)  # the last one to be shown
    folders = str(ROOT), str(ROOT / "tests")
    print("\n", file=sys.stderr)
    for frame in frames.values():
        stack = traceback.extract_stack(frame)
        ours = [place for place in stack if os.path.dirname(place.filename) in folders]
        print(*traceback.format_list(ours), sep="", file=sys.stderr)
    where = f"It is in {ours[-1].name}: {ours[-1].line}"
    print(f"{request.node.nodeid} does not end. {where}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(1)


@pytest.fixture(autouse=True)
def a_test_alone(request, tmp_path, monkeypatch):
    """Give a test a folder of its own, and fail it if an exception ends one of its threads.

    After 50 seconds, it ends the run.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threading, "excepthook", remember_failure)
    thread_failures.clear()
    timer = threading.Timer(50, give_up, [request])
    if DEBUGGED:
        faulthandler.cancel_dump_traceback_later()
    elif float(request.config.getini("faulthandler_timeout") or 0):
        timer.start()
    yield
    timer.cancel()
    if handlers(5):  # it may be a loop without an end, which would make all other tests slow
        pytest.exit("receive_socket_message goes on, although its client has left.", returncode=1)
    assert not thread_failures, thread_failure()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    """Show the end of what a test has printed, which may be megabytes."""
    report.sections = [(title, text[-3000:]) for title, text in report.sections]


@pytest.fixture
def ledger():
    """A ledger with its genesis block, in the test's own process."""
    ledger = blockchain_server.BlockChain()
    ledger.lock = Lock()
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

        def connect():
            return open_ones.enter_context(Connection(ledger.socket_port, thread_failure))

        ledger.connect = connect
        yield ledger


@pytest.fixture
def run():
    """A function that runs a program until the test ends."""
    with contextlib.ExitStack() as stack:
        closing = contextlib.closing
        yield lambda *words, **options: stack.enter_context(closing(Process(*words, **options)))


@pytest.fixture
def start_node(run):
    """A function that starts a real node, and waits until it mines.

    The process knows its port and its miner's keys. `change` is one of changed.py.
    """
    with contextlib.ExitStack() as open_ones:

        def start_node(change=None, **options):
            changed = ["tests/changed.py", change] if change else []
            node = run(*changed, "blockchain_server.py", 0, **options)
            keys = r"Miner address: (\S+) *\nMiner private: (\S+) *\nListening on port (\d+)"
            address, private, port = node.wait_for(keys).groups()
            node.miner, node.port = Account(address, private), int(port)
            node.wait_for_blocks(1)
            node.connect = lambda: open_ones.enter_context(Connection(node.port, node.failure))
            return node

        yield start_node


@pytest.fixture
def node(start_node):
    """A real node, in a process of its own."""
    return start_node()
