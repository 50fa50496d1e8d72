"""The scripts as processes, on pipes or on a terminal, and sockets to a node.

A test that waits in vain fails, and says what it awaited, for how long, and what was written
instead. A traceback makes it fail at once, because nothing good comes after it.
"""

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
import time
import traceback

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DEBUGGED = {"debugpy", "pydevd"} & sys.modules.keys()  # somebody may be at a breakpoint for long
PATIENCE = 3600 if DEBUGGED else 15  # seconds that a test waits for what should happen
KINDS = "[Ee]rror|Exception|Interrupt|Refused|BackToMenu"
TRACEBACK = re.compile(rf"Traceback \(most.*\n(?:.*\n)*?[\w.]+(?:{KINDS})\b.*\n")
posix = pytest.mark.skipif(os.name != "posix", reason="terminals and signals are POSIX's here")

# A shell that starts the tests in the background makes them, and their nodes, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# This makes the terminal that of the script. Then Ctrl-C reaches the script, as a person's does.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)

thread_failures = []  # the tracebacks of threads of this process that an exception has ended


def remember_failure(args):
    """Stand in for `threading.excepthook`."""
    lines = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
    thread_failures.append("".join(lines))


def thread_failure():
    """Return the first of these tracebacks, or an empty string."""
    return "".join(thread_failures[:1])


def wait_until(happened, what):
    """Ask `happened` again and again, until it returns something true. Return that."""
    deadline = time.monotonic() + PATIENCE
    while not (result := happened()):
        assert not thread_failures, thread_failure()
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain: {what}"
        time.sleep(0.02)
    return result


class Process:
    """A program in a folder of its own: what it has written so far, and how it ends.

    The program is a script of this project, or anything else with its arguments. `terminal` gives
    it a terminal of 70 columns, `stdout` another output than the one that is read here. A test that
    expects a `traceback` goes on waiting after one.
    """

    def __init__(self, *command, terminal=False, stdout=None, traceback=False, **environment):
        self.name, self.traceback = " ".join(map(str, command))[:80], traceback
        if str(command[0]).endswith(".py"):
            command = [sys.executable, ROOT / command[0], *command[1:]]
        if terminal:
            command = [sys.executable, "-c", TAKE_TERMINAL, *command]
        self.output_end, writer = os.openpty() if terminal else os.pipe()
        if terminal:
            self.resize(70)
        # As in a plain shell: nothing helps the scripts, a wrong byte is an error, and a traceback
        # has no colours.
        helpers = "COLUMNS LINES FORCE_COLOR PYTHON_COLORS PYTHONUNBUFFERED PYTHONWARNINGS"
        helpers += " PYTHONDEVMODE PYTHONTRACEMALLOC"
        plain = {name: os.environ[name] for name in os.environ if name not in helpers.split()}
        self.folder = tempfile.TemporaryDirectory()
        self.popen = subprocess.Popen(
            list(map(str, command)),
            stdin=writer if terminal else subprocess.PIPE,
            stdout=stdout or writer,
            stderr=writer,
            cwd=self.folder.name,
            env={**plain, "PYTHONIOENCODING": "utf8:strict", "TERM": "xterm", **environment},
            start_new_session=terminal,
        )
        os.close(writer)
        self.input_end = self.output_end if terminal else self.popen.stdin.fileno()
        self.output, self.seen = "", 0  # `seen`: how much of the output `wait_for` has found
        self.ended = False
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
                self.news.notify_all()

    def failure(self):
        """Return a traceback that the test does not expect: of the program, or of a thread here."""
        match = None if self.traceback else TRACEBACK.search(self.output)
        return match[0] if match else thread_failure()

    def _wait(self, happened, what):
        deadline = time.monotonic() + PATIENCE
        with self.news:
            while not (result := happened()):
                if self.ended or self.failure() or time.monotonic() > deadline:
                    break
                self.news.wait(0.2)
        if not result:
            why = "it ended" if self.ended else f"waited {PATIENCE} s in vain"
            why = self.failure() or f"{why}. What it wrote:\n{self.output[self.seen :][-3000:]}"
            raise AssertionError(f"{self.name}: no {what}. {why}")
        return result

    def wait_for(self, pattern):
        """Wait until the pattern is in what was written after the last match. Return the match."""
        search = re.compile(pattern).search
        match = self._wait(lambda: search(self.output[self.seen :]), repr(pattern))
        self.seen += match.end()
        return match

    def type(self, text, then=""):
        """Type something, and Enter. Wait for the pattern that comes `then`. Return the match."""
        with contextlib.suppress(OSError):  # it has ended, and what is awaited will not come
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
        with contextlib.suppress(OSError):  # it has ended
            os.write(self.input_end, bytes([ord(key) - ord("A") + 1]))

    def press_until_it_ends(self, key):
        """Python misses a Ctrl-C just before it reads. A person presses again, and so does this."""

        def press_and_wait():
            self.press(key)
            with self.news:
                return self.news.wait_for(lambda: self.ended, 0.5)

        wait_until(press_and_wait, f"{self.name} ends after Ctrl-{key}")

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
        self._wait(lambda: self.ended, "end")
        return self.popen.wait(PATIENCE)

    def close(self):
        self.popen.kill()
        self.popen.wait()
        self.reader.join(PATIENCE)
        os.close(self.output_end)
        if self.popen.stdin:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()
        self.folder.cleanup()


class Connection(contextlib.ExitStack):
    """A socket to a node, also for requests that no client would send.

    `failure` is a function that returns a traceback of the node, or an empty string.
    """

    def __init__(self, port, failure):
        super().__init__()
        self.failure = failure
        self.socket = self.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))

    def send(self, data):
        """Send bytes as they are, anything else as a pickle."""
        self.socket.sendall(data if isinstance(data, bytes) else pickle.dumps(data, 4))

    def receive(self):
        """Return the next answer as soon as it can be read as Python; None at the end."""
        received = b""
        deadline = time.monotonic() + PATIENCE
        self.socket.settimeout(0.1)
        while True:
            try:
                byte = self.socket.recv(1)
            except TimeoutError:
                failure = self.failure()
                if not failure and time.monotonic() < deadline:
                    continue
                failure = failure or f"waited {PATIENCE} s in vain"
                raise AssertionError(f"no answer, only {received!r}: {failure}") from None
            received += byte
            if byte == b"}":
                with contextlib.suppress(SyntaxError):
                    return ast.literal_eval(received.decode("utf8"))
            if not byte:
                assert received == b"", f"the connection ended after {received!r}"
                return None

    def ask(self, data):
        """Send a request, and return its answer. There has to be one."""
        self.send(data)
        answer = self.receive()
        if answer is None:
            deadline = time.monotonic() + 2  # a handler closes first, and then shows its traceback
            while not (failure := self.failure()) and time.monotonic() < deadline:
                time.sleep(0.02)
            failure = failure or "there was no traceback, either"
            raise AssertionError(f"the connection ended without an answer: {failure}")
        return answer


def free_port():
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def handlers(seconds=0):
    """Return the threads in this process that serve a client, and still do after these seconds."""
    deadline = time.monotonic() + seconds
    while True:
        threads = [t for t in threading.enumerate() if "receive_socket_message" in t.name]
        if not threads or time.monotonic() >= deadline:
            return threads
        time.sleep(0.01)
