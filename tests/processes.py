"""The scripts as processes, on pipes and on a terminal, and sockets to a node."""

import ast
import codecs
import contextlib
import os
import pathlib
import pickle
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="terminals and signals are POSIX's here")

# A shell that starts the tests in the background lets them, and their nodes, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# This makes the terminal that of the script. Then Ctrl-C reaches the script, as a person's does.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Patience:
    """How many seconds a test waits for what should happen.

    A traceback, or something that did not happen, makes a test impatient. So somebody whose code
    is half done does not wait long for the message that says what is missing.
    """

    def __init__(self):
        self.normal = self.seconds = 15

    def lose(self):
        """Be impatient until the end of this test."""
        self.seconds = 0.5

    def lose_for_good(self):
        """Be impatient in all later tests, too."""
        self.normal = self.seconds = 0.5

    def wait(self, news, happened):
        """Wait until `happened` returns something true, asking at all `news`. Return it."""
        start, seconds = time.monotonic(), self.seconds
        while not (result := happened()):
            if seconds != self.seconds:  # lost meanwhile
                start, seconds = time.monotonic(), self.seconds
            left = start + seconds - time.monotonic()
            if left <= 0:
                if seconds == self.normal:
                    self.lose_for_good()
                break
            news.wait(min(left, 0.5))
        return result


patience = Patience()


class Process:
    """A script that runs in a folder of its own: what it has written so far, and how it ends.

    `before` is code that runs before its `main`. There, the script has the name `script`. If the
    test expects a `traceback`, it stays patient after one.
    """

    def __init__(
        self, script, *words, terminal=False, before=None, python=(), traceback=False, **environment
    ):
        command = [*python, ROOT / script, *words]
        if before:
            module = script.removesuffix(".py")
            command = ["-c", f"import {module} as script\n{before}\nscript.main()", *words]
        self.output_end, writer = os.openpty() if terminal else os.pipe()
        if terminal:
            self.resize(70)
        # As in a plain shell, where nothing helps the scripts and a wrong byte is an error.
        helpers = ("COLUMNS", "LINES", "PYTHONUNBUFFERED", "PYTHONWARNINGS")
        plain = {name: value for name, value in os.environ.items() if name not in helpers}
        self.folder = tempfile.TemporaryDirectory()
        environment = {**plain, "PYTHONIOENCODING": "utf8:strict", "TERM": "xterm", **environment}
        options = {"cwd": self.folder.name, "env": environment, "start_new_session": terminal}
        stdin = writer if terminal else subprocess.PIPE
        command = [sys.executable, *["-c", TAKE_TERMINAL] * terminal, *map(str, command)]
        self.popen = subprocess.Popen(command, stdin=stdin, stdout=writer, stderr=writer, **options)
        os.close(writer)
        self.input_end = self.output_end if terminal else self.popen.stdin.fileno()
        self.output, self.seen = "", 0  # `seen`: how much of the output `wait_for` has found
        self.traceback, self.ended = traceback, False
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        decoder = codecs.getincrementaldecoder("utf8")("replace")
        while not self.ended:
            data = b""
            with contextlib.suppress(OSError):  # the end, on a terminal
                data = os.read(self.output_end, 65536)
            with self.news:
                self.output = (self.output + decoder.decode(data)).replace("\r\n", "\n")
                self.ended = not data
                if "Traceback" in self.output[-9999:] and not self.traceback:
                    patience.lose()
                self.news.notify_all()

    def wait_for(self, pattern):
        """Wait until the pattern is in what was written after the last match. Return the match."""
        search = re.compile(pattern).search
        with self.news:
            match = patience.wait(self.news, lambda: search(self.output, self.seen) or self.ended)
            if not isinstance(match, re.Match):
                raise AssertionError(f"no {pattern!r} in:\n{self.output[self.seen :][-3000:]}")
            self.seen = match.end()
        return match

    def type(self, text, then=""):
        """Type something, and Enter. Wait for the pattern that comes `then`. Return the match."""
        os.write(self.input_end, text.encode("utf8", "surrogateescape") + b"\n")
        return self.wait_for(then)

    def paste(self, text, then=""):
        """Do the same, but paste, as a terminal does that marks a paste."""
        text = text.replace("\n", "\r")  # what terminals send for a line break
        return self.type(f"\x1b[200~{text}\x1b[201~", then)

    def resize(self, columns):
        """Give the terminal 24 rows of so many columns."""
        import fcntl  # not on Windows
        import termios

        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.output_end, termios.TIOCSWINSZ, size)

    def press(self, key):
        """Press Ctrl and a letter; on a terminal only."""
        os.write(self.input_end, bytes([ord(key) - ord("A") + 1]))

    def end_input(self):
        """Let the script read all that was typed, and then the end of its input."""
        self.popen.stdin.close()

    def interrupt(self):
        self.popen.send_signal(signal.SIGINT)

    def wait_for_blocks(self, number):
        """Wait until a node has found so many blocks more."""
        for _ in range(number):
            self.wait_for("Hash found: ")

    def status(self):
        """Wait for the end, and for all output. Return the exit status."""
        with self.news:
            if not patience.wait(self.news, lambda: self.ended):
                raise AssertionError(f"it does not end. It wrote:\n{self.output[-3000:]}")
        return self.popen.wait(patience.normal)

    def close(self):
        self.popen.kill()
        self.popen.wait()
        self.reader.join(patience.normal)
        os.close(self.output_end)
        if self.popen.stdin:
            self.popen.stdin.close()
        self.folder.cleanup()


class Connection(contextlib.ExitStack):
    """A socket to a node, for requests that no client would send as well."""

    def __init__(self, port):
        super().__init__()
        self.socket = socket.create_connection(("127.0.0.1", port), patience.seconds)
        self.enter_context(self.socket)

    def send(self, data):
        """Send bytes as they are, anything else as a pickle."""
        self.socket.sendall(data if isinstance(data, bytes) else pickle.dumps(data, 4))

    def receive(self):
        """Return the next answer, when it can be read as Python; None at the end."""
        received = b""
        self.socket.settimeout(patience.seconds)
        try:
            while byte := self.socket.recv(1):
                received += byte
                if byte == b"}":
                    with contextlib.suppress(SyntaxError):
                        return ast.literal_eval(received.decode("utf8"))
        except TimeoutError:
            patience.lose_for_good()
            raise AssertionError(f"no answer from the node, only {received!r}") from None
        assert received == b"", received
        return None

    def ask(self, data):
        self.send(data)
        return self.receive()


def free_port():
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start_node(start, account, **options):
    """Start a node, wait until it mines, and know its port and its miner's keys."""
    node = start("blockchain_server.py", 0, **options)
    keys = r"Miner address: (\S+) *\nMiner private: (\S+) *\nListening on port (\d+)"
    address, private, port = node.wait_for(keys).groups()
    node.miner, node.port = account(address, private), int(port)
    node.wait_for_blocks(1)
    node.connect = lambda: Connection(node.port)
    return node


def run_unread(script, port):
    """Start a script. When it has begun to print, close the pipe that it prints into."""
    reader, writer = os.pipe()
    pipes = {"stdin": subprocess.PIPE, "stdout": writer, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, ROOT / script, str(port)], **pipes)
    os.close(writer)
    assert select.select([reader], [], [], patience.seconds)[0]
    os.close(reader)
    return process


def handlers(seconds=0):
    """Return the threads in this process that serve a client, and still do after these seconds."""
    threads = [t for t in threading.enumerate() if "receive_socket_message" in t.name]
    for thread in threads:
        thread.join(seconds)
    return [thread for thread in threads if thread.is_alive()]
