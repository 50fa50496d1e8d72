"""What most tests need: accounts that sign, ledgers, real nodes and real terminals."""

import ast
import contextlib
import os
import pathlib
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest

import __main__

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import blockchain_client  # noqa: E402
import blockchain_server  # noqa: E402

posix = pytest.mark.skipif(os.name != "posix", reason="terminals and signals are POSIX's here")
PATIENCE = 30  # seconds until what should happen counts as not happening

# A shell that starts the tests in the background lets them, and their nodes, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The client's class travels under the name that it has when the client runs as a script.
__main__.Transaction = blockchain_client.Transaction
blockchain_client.Transaction.__module__ = "__main__"


class Account:
    """A pair of keys, made by the client, that signs its payments."""

    def __init__(self):
        self.address, self.private = blockchain_client.generate_address()

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


class Connection:
    """A socket to a node, for requests that no client would send as well."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)

    def send(self, data):
        """Send bytes as they are, anything else as a pickle."""
        self.socket.sendall(data if isinstance(data, bytes) else pickle.dumps(data, 4))

    def receive(self):
        """Return the next answer: whole when it can be read as Python; None at the end."""
        received = b""
        while byte := self.socket.recv(1):
            received += byte
            if byte == b"}":
                with contextlib.suppress(SyntaxError):
                    return ast.literal_eval(received.decode("utf8"))
        assert received == b"", received
        return None

    def ask(self, data):
        self.send(data)
        return self.receive()


class Process:
    """A script that runs: what it has written so far, and how it ends."""

    def __init__(self, *command, stdin=subprocess.DEVNULL, window=None, command_prefix=()):
        reader, writer = os.openpty() if window else os.pipe()
        if window:
            import fcntl  # not on Windows, as terminals of this kind
            import termios

            fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", *window, 0, 0))
            stdin = writer
            # In control of the script, so that its Ctrl-C arrives as a person's does.
            take_control = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
            run = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
            command_prefix = ("-c", f"{take_control}; {run}")
        # As in a plain shell, where nothing helps the scripts and a wrong byte is an error.
        helpers = ("COLUMNS", "LINES", "PYTHONUNBUFFERED")
        environment = {k: v for k, v in os.environ.items() if k not in helpers}
        environment["PYTHONIOENCODING"] = "utf8:strict"
        self.popen = subprocess.Popen(
            [sys.executable, *command_prefix, *map(str, command)],
            stdin=stdin,
            stdout=writer,
            stderr=writer,
            cwd=ROOT,
            env=environment,
            start_new_session=bool(window),
        )
        os.close(writer)
        self.terminal = reader
        self.output = ""
        self.first_piece = b""
        self.ended = False
        self.seen = 0
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        data = b"..."
        while data:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:  # the end, on a terminal
                data = b""
            with self.news:
                self.first_piece = self.first_piece or data
                self.output += data.decode("utf8", "replace").replace("\r\n", "\n")
                self.ended = not data
                self.news.notify_all()

    def wait_for(self, pattern):
        """Wait until the pattern stands in what was written since the last match; return it."""
        match = None

        def found():
            nonlocal match
            match = re.compile(pattern).search(self.output, self.seen)
            return match or self.ended

        with self.news:
            self.news.wait_for(found, PATIENCE)
            unseen = self.output[self.seen :]
            assert match, f"no {pattern!r} in:\n{unseen[-3000:]}"
            self.seen = match.end()
        return match

    def type(self, text):
        """Type something, and Enter; on a terminal only."""
        os.write(self.terminal, text.encode("utf8") + b"\n")

    def press(self, key):
        """Press Ctrl and a letter."""
        os.write(self.terminal, bytes([ord(key) - ord("A") + 1]))

    def interrupt(self):
        self.popen.send_signal(signal.SIGINT)

    def status(self):
        """Wait for the end; return the exit status, when all output is there."""
        status = self.popen.wait(PATIENCE)
        with self.news:
            assert self.news.wait_for(lambda: self.ended, PATIENCE)
        return status

    def close(self):
        self.popen.kill()
        self.popen.wait()
        self.reader.join(PATIENCE)
        os.close(self.terminal)


def free_port():
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def run():
    """Run a script until the test ends: run("blockchain_client.py", port, window=(24, 80))."""
    with contextlib.ExitStack() as processes:

        def start(*command, **options):
            process = Process(*command, **options)
            processes.callback(process.close)
            return process

        yield start


def start_node(run, **options):
    """Start a node, wait until it mines, and know its port and its miner's keys."""
    port = free_port()
    node = run("blockchain_server.py", port, **options)
    node.port = port
    node.miner = Account.__new__(Account)
    node.miner.address = node.wait_for(r"Miner address: (\S+)\n")[1]
    node.miner.private = node.wait_for(r"Miner private: (\S+)\n")[1]
    node.wait_for("Hash found: ")
    node.connect = lambda: Connection(port)
    return node


@pytest.fixture
def node(run):
    """A real node, in a process of its own."""
    return start_node(run)


@pytest.fixture
def ledger():
    """A ledger with its genesis block, in the test's own process."""
    ledger = blockchain_server.BlockChain()
    ledger.create_genesis_block()
    return ledger


@pytest.fixture
def server(ledger):
    """A ledger that answers on a port, in the test's own process; it does not mine."""
    ledger.start_socket_server()
    ledger.connect = lambda: Connection(ledger.socket_port)
    return ledger


def handlers():
    """Return the threads in this process that serve a client."""
    return [t for t in threading.enumerate() if "receive_socket_message" in t.name]


def wait_until_handlers_end():
    for thread in handlers():
        thread.join(PATIENCE)
    assert handlers() == []


@pytest.fixture(scope="session")
def alice():
    """An account. Making its keys takes longer than most tests, so they share it."""
    return Account()


@pytest.fixture
def rich_alice(ledger, alice):
    """An account that has mined 100 coins on the ledger."""
    mine(ledger, alice.address, 10)
    return alice


def mine(ledger, miner="miner", blocks=1):
    for _ in range(blocks):
        ledger.mine_block(miner)
