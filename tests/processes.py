"""The scripts as processes, on pipes and on terminals, and sockets to a node."""

import ast
import codecs
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
import tempfile
import threading

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PATIENCE = 30  # seconds until what should happen counts as not happening
WINDOW = (24, 80)  # rows, columns of a terminal

posix = pytest.mark.skipif(os.name != "posix", reason="terminals and signals are POSIX's here")

# A shell that starts the tests in the background lets them, and their nodes, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Process:
    """A script that runs in a folder of its own: what it has written so far, and how it ends."""

    def __init__(self, *command, stdin=subprocess.DEVNULL, window=None, python=(), **environment):
        script, *arguments = map(str, command)
        command = [*python, str(ROOT / script), *arguments]
        reader, writer = os.openpty() if window else os.pipe()
        if window:
            import fcntl  # not on Windows, as terminals of this kind
            import termios

            fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", *window, 0, 0))
            stdin = writer
            # In control of the script, so that its Ctrl-C arrives as a person's does.
            take_control = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
            run = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
            command = ["-c", f"{take_control}; {run}", *command]
        # As in a plain shell, where nothing helps the scripts and a wrong byte is an error.
        helpers = ("COLUMNS", "LINES", "PYTHONUNBUFFERED", "PYTHONWARNINGS")
        plain = {name: value for name, value in os.environ.items() if name not in helpers}
        plain.update(PYTHONIOENCODING="utf8:strict", TERM="xterm")
        self.folder = tempfile.TemporaryDirectory()
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            stdin=stdin,
            stdout=writer,
            stderr=writer,
            cwd=self.folder.name,
            env={**plain, **environment},
            start_new_session=bool(window),
        )
        os.close(writer)
        self.terminal = reader
        self.raw = bytearray()  # every byte, as it came
        self.output = ""  # the text, without what steers a terminal
        self.first_piece = b""
        self.ended = False
        self.seen = 0  # how much of the output `wait_for` has found
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        decoder = codecs.getincrementaldecoder("utf8")("replace")
        rest = ""  # the beginning of a sequence that steers the terminal
        data = b"..."
        while data:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:  # the end, on a terminal
                data = b""
            text = (rest + decoder.decode(data)).replace("\r\n", "\n")
            text = re.sub(r"\x1b\[\?2004l\r|\x1b\[[?0-9;]*[A-Za-z]", "", text)
            text, escape, rest = text.partition("\x1b")
            rest = escape + rest
            with self.news:
                self.first_piece = self.first_piece or data
                self.raw += data
                self.output += text
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

    def skip(self):
        """Let `wait_for` find only what is written from now on."""
        with self.news:
            self.seen = len(self.output)

    def type(self, text):
        """Type something, and Enter; on a terminal only."""
        os.write(self.terminal, text.encode("utf8") + b"\n")

    def press(self, key):
        """Press Ctrl and a letter."""
        os.write(self.terminal, bytes([ord(key) - ord("A") + 1]))

    def interrupt(self):
        self.popen.send_signal(signal.SIGINT)

    def wait_for_blocks(self, number):
        """Wait until a node has found so many blocks more."""
        for _ in range(number):
            self.wait_for("Hash found: ")

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
        self.folder.cleanup()


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


def free_port():
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def running():
    """Give a function that starts scripts: start("blockchain_client.py", port, window=WINDOW)."""
    with contextlib.ExitStack() as processes:

        def start(*command, **options):
            process = Process(*command, **options)
            processes.callback(process.close)
            return process

        yield start


def start_node(start, account, **options):
    """Start a node, wait until it mines, and know its port and its miner's keys."""
    port = free_port()
    node = start("blockchain_server.py", port, **options)
    node.port = port
    address = node.wait_for(r"Miner address: (\S+)\n")[1]
    node.miner = account(address, node.wait_for(r"Miner private: (\S+)\n")[1])
    node.wait_for_blocks(1)
    node.connect = lambda: Connection(port)
    return node


def never_found(start, speed=100, **options):
    """Start a node whose second block is never found, and whose clock runs so many times faster."""
    code = (
        "import os, sys, time\n"
        "sys.argv.pop(0)\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "import blockchain_server as node\n"
        "perf_counter = time.perf_counter\n"
        f"time.perf_counter = lambda: {speed} * perf_counter()\n"
        "node.BlockChain.adjust_difficulty = lambda self: setattr(self, 'difficulty', 40)\n"
        "node.main()\n"
    )
    node = start("blockchain_server.py", free_port(), python=("-c", code), **options)
    node.port = int(node.popen.args[-1])
    node.keys = node.wait_for(r"Miner address: \S+\nMiner private: \S+\n")[0]
    node.wait_for_blocks(1)
    return node


def handlers():
    """Return the threads in this process that serve a client."""
    return [t for t in threading.enumerate() if "receive_socket_message" in t.name]


def wait_until_handlers_end():
    for thread in handlers():
        thread.join(PATIENCE)
    assert handlers() == []
