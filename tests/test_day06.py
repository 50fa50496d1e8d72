"""Day 06: a node on a port, pickles on the wire, and an end that always comes."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import Account
from processes import (
    PATIENCE,
    ROOT,
    WINDOW,
    Connection,
    free_port,
    handlers,
    posix,
    running,
    start_node,
    wait_until_handlers_end,
)

BALANCE = {"request": "get_balance", "address": "bob"}
SCRIPTS = ["blockchain_server.py", "blockchain_client.py"]


@posix
def test_the_node_says_what_the_tutorial_says(run):
    port = free_port()
    node = run("blockchain_server.py", port, window=(24, 200))
    node.wait_for(r"^Miner address: \S+\nMiner private: \S+\n")
    node.wait_for(r"Create genesis block\.\.\.\n")
    for _ in range(10):
        node.wait_for(r"Hash found: 0[0-9a-f]{39} @ difficulty 1, time cost: \d+\.\d+s\n")
    node.wait_for(r"Average block time:\d+\.\d+s\. High up the difficulty\n")
    node.wait_for(r"Hash found: 00[0-9a-f]{38} @ difficulty 2, time cost: ")
    client = Connection(port)
    own_address = client.socket.getsockname()
    node.wait_for(rf"Connected by: \('127\.0\.0\.1', {own_address[1]}\)\n")
    client.ask(BALANCE)
    node.wait_for(r"\[\*\] Received: b'.*get_balance.*bob.*'\n")
    node.wait_for(r"Start to get the balance for client\.\.\.\n")
    client.ask({"request": "transaction", "data": 1, "signature": b""})
    node.wait_for(r"Start to transaction for client\.\.\.\n")
    node.wait_for(r"cannot be parsed: transaction needs data, a Transaction, and a signature\.\n")


def test_the_node_says_where_it_listens_and_what_to_type(node):
    type_this = re.escape(f"{sys.executable} blockchain_client.py {node.port}")
    listening = f"Listening on port {node.port}. In another terminal, type: "
    assert re.search(f"\n{re.escape(listening)}{type_this}\n", node.output)


def test_a_log_in_a_file_is_there_at_once_and_shows_what_stays(node):
    assert len(node.first_piece) < 8000  # a buffer would have held back as much
    node.wait_for_blocks(45)
    assert node.output.count("Miner private: ") == 1
    assert b"\r" not in node.raw and b"\x1b" not in node.raw


# Either half works with the other half of the published pair.


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_published_client_is_served(node, run, protocol):
    client = run(
        "tests/published_client.py", node.port, protocol, node.miner.address, node.miner.private
    )
    client.wait_for(rf"\{{'address': '{re.escape(node.miner.address)}', 'balance': \d+\}}\n")
    client.wait_for(r"\{'result': True, 'result_message': 'Authorized successfully!'\}\n")
    client.wait_for(r"\{'message': 'Unknown command.'\}\n")
    assert client.status() == 0


@posix
def test_the_client_works_with_the_published_node(run, alice):
    port = free_port()
    node = run("tests/published_node.py", port)
    node.wait_for("listening")
    client = run("blockchain_client.py", port, window=WINDOW)
    for line in ("2", alice.address):
        client.type(line)
    client.wait_for(rf"\{{'address': '{re.escape(alice.address)}', 'balance': 620\}}\n")
    for line in ("3", alice.address, alice.private, "bob", "50", "1", "謝謝"):
        client.type(line)
    client.wait_for("'Authorized successfully!'")
    node.wait_for(
        r"\[\('amounts', 50\), \('fee', 1\), \('message', '謝謝'\), \('receiver', 'bob'\), "
        rf"\('sender', '{re.escape(alice.address)}'\)\] 64\n"
    )


# The threads


def test_each_connection_has_a_thread_until_its_client_leaves(server):
    connections = [server.connect() for _ in range(5)]
    for connection in connections:
        assert connection.ask(BALANCE)["balance"] == 0
    assert len(handlers()) == 5
    for connection in connections:
        connection.socket.close()
    wait_until_handlers_end()


def test_a_thread_that_answers_waits_no_5_milliseconds_for_the_miner(server):
    assert sys.getswitchinterval() < 0.0001


def test_200_clients_at_once_are_all_answered(node):
    connections = [node.connect() for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.send({**BALANCE, "address": f"client {number}"})
    for number, connection in enumerate(connections):
        assert connection.receive() == {"address": f"client {number}", "balance": 0}


# The command line


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "ports", [[], ["abc"], ["0"], ["-1"], ["65536"], ["1e3"], [""], ["1", "2"]]
)
def test_a_port_that_cannot_be_one_is_refused(run, script, ports):
    process = run(script, *ports)
    assert process.status() == 2
    process.wait_for(rf"^usage: {script} \[-h\] port\n.*: error: .*\n$")
    assert ("is not a port from 1 to 65535" in process.output) is (len(ports) == 1)
    assert "Traceback" not in process.output


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_an_example(run, script):
    process = run(script, "--help")
    assert process.status() == 0
    process.wait_for(f"example: python {script} 1111")


def test_a_port_in_use_is_said_before_any_key_is_made(node, run):
    second = run("blockchain_server.py", node.port)
    assert second.status() == 1
    assert re.fullmatch(f"blockchain_server.py: port {node.port}: .+\n", second.output)


def test_a_client_without_a_node_names_the_port(run):
    port = free_port()
    client = run("blockchain_client.py", port)
    assert client.status() == 1
    assert re.fullmatch(f"blockchain_client.py: .*{port}.*\n", client.output)


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_rsa_one_line_says_what_to_type(run, script):
    """-S leaves out the folder of installed packages."""
    process = run(script, 1111, python=("-S",))
    assert process.status() == 1
    assert process.output.count("\n") == 1
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    command = process.output.split(": ", 1)[1].strip()
    assert command.endswith("pip install -qr requirements.txt") and command in readme


def test_a_mistake_in_the_mining_shows_its_place():
    """As when Day 07 tells a peer that has gone: that is an OSError, and none of the port's."""
    code = (
        "import sys, blockchain_server as node\n"
        "def tell_the_peers(self, block): raise ConnectionRefusedError('a peer that is gone')\n"
        "node.BlockChain.find_nonce = tell_the_peers\n"
        f"sys.argv[1:] = ['{free_port()}']\n"
        "node.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "in mine_block" in done.stderr
    assert done.stderr.endswith("ConnectionRefusedError: a peer that is gone\n")


# The end of the node: at Ctrl-C, at the first press, whatever it is doing.

GOODBYE = "\nGoodbye! The chain ends with its node.\n"


@posix
def test_ctrl_c_ends_the_node_with_clients_connected(node, run):
    connections = [node.connect() for _ in range(5)]
    connections[0].ask(BALANCE)
    connections[1].send(b"\x80")
    node.interrupt()
    assert node.status() == 0
    assert GOODBYE in node.output
    assert "Traceback" not in node.output
    again = run("blockchain_server.py", node.port)
    again.wait_for("Hash found: ")


@posix
def test_ctrl_c_ends_the_node_on_a_terminal(run):
    node = start_node(run, Account, window=WINDOW)
    node.press("C")
    assert node.status() == 0
    assert GOODBYE in node.output


@posix
def test_sigterm_ends_the_node_as_quietly(node):
    node.popen.terminate()
    assert node.status() == 0
    assert node.output.endswith(GOODBYE)


@posix
def test_ctrl_c_at_any_moment_ends_the_node():
    """CTRL_C_PRESSES=200 presses that often.

    With an exception in place of the signal handler, 9 of 18 runs were stuck on Python 3.14.
    """
    chance = random.Random(14)
    for _ in range(int(os.environ.get("CTRL_C_PRESSES", "12"))):
        with running() as start:
            press_at_random(start_node(start, Account), chance)


def press_at_random(node, chance):
    asking = threading.Event()

    def keep_asking():
        connection = node.connect()
        with contextlib.suppress(OSError, AssertionError):  # until the node has ended
            while True:
                connection.ask(BALANCE)
                asking.set()

    clients = [threading.Thread(target=keep_asking) for _ in range(3)]
    for client in clients:
        client.start()
    assert asking.wait(PATIENCE)
    time.sleep(chance.random() * 0.2)  # no wait for anything: this is the random moment
    node.interrupt()
    assert node.status() == 0
    assert GOODBYE in node.output
    assert "Traceback" not in node.output
    for client in clients:
        client.join()


def ended_by_signal(preparation, number=signal.SIGINT):
    """Run `main` with a signal that strikes where the preparation puts it; return how it ended.

    `strike()` in the preparation is the signal.
    """
    code = (
        "import os, signal, sys, threading, blockchain_server as node\n"
        f"def strike(*_, **__): os.kill(os.getpid(), {int(number)})\n"
        f"{preparation}\n"
        f"sys.argv[1:] = ['{free_port()}']\n"
        "node.main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )


@posix
@pytest.mark.parametrize(
    "moment",
    [
        "node.socket.create_server = strike",  # before the port is open
        "node.rsa.newkeys = strike",
        "node.BlockChain.create_genesis_block = strike",
        "node.BlockChain.append_block = strike",
        # while the screen's lock is held, and in the middle of a print
        "node.shutil.get_terminal_size = strike",
        "node.print = strike",
        # while the ledger's lock is held
        "class Struck(node.collections.Counter): __getitem__ = strike\n"
        "node.collections.Counter = Struck",
    ],
)
def test_ctrl_c_wherever_it_strikes_ends_the_node(moment):
    done = ended_by_signal(moment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(GOODBYE)


@pytest.mark.skipif(sys.platform != "linux", reason="it fills a pipe to the last byte")
def test_ctrl_c_ends_a_node_whose_output_nobody_reads():
    """The pipe is full: whatever is printed waits for ever."""
    reader, writer = os.pipe()
    port = free_port()
    node = subprocess.Popen(
        [sys.executable, ROOT / "blockchain_server.py", str(port)], stdout=writer
    )
    connection = None
    while not connection:
        try:
            connection = Connection(port)
        except ConnectionRefusedError:
            time.sleep(0.01)  # until the port is open
    connection.socket.settimeout(0.5)
    try:
        while True:  # until the node waits for its pipe
            connection.ask({**BALANCE, "address": "x" * 200})
    except TimeoutError:
        pass
    rest = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:  # until there is no room for a goodbye either
            os.write(rest, b".")
    node.send_signal(signal.SIGINT)
    assert node.wait(PATIENCE) == 0
    for descriptor in (rest, reader, writer):
        os.close(descriptor)


@posix
def test_ctrl_c_ends_a_node_whose_terminal_has_gone(run):
    node = start_node(run, Account, window=WINDOW)
    os.kill(node.popen.pid, signal.SIGSTOP)  # so that it does not print while the terminal goes
    os.kill(node.popen.pid, signal.SIGINT)
    terminal, node.terminal = node.terminal, os.dup(2)
    os.close(terminal)
    os.kill(node.popen.pid, signal.SIGCONT)
    assert node.popen.wait(PATIENCE) in (0, -signal.SIGHUP)


@posix
def test_a_node_in_the_background_of_a_terminal_goes_on():
    """It wants to read the keyboard, which would stop it: SIGTTIN."""
    port = free_port()
    command = f"{sys.executable} {ROOT / 'blockchain_server.py'} {port}"
    code = f"import pty; pty.spawn(['/bin/bash', '-ic', 'set -m; {command} & sleep 60'])"
    shell = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        for _ in range(15):
            while b"Hash found: " not in shell.stdout.readline():
                pass
        assert Connection(port).ask(BALANCE)["balance"] == 0
    finally:
        shell.kill()
        shell.wait()
        shell.stdin.close()
        shell.stdout.close()


# Streams that are closed, full, or read by nobody


def test_a_log_that_nobody_reads_any_more_ends_the_node():
    reader, writer = os.pipe()
    node = subprocess.Popen(
        [sys.executable, ROOT / "blockchain_server.py", str(free_port())],
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    _, error = node.communicate(timeout=PATIENCE)
    assert node.returncode == 1
    assert error.startswith(b"blockchain_server.py: ") and error.count(b"\n") == 1


@posix
def test_a_node_without_output_mines_and_answers():
    port = free_port()
    command = f"exec {sys.executable} {ROOT / 'blockchain_server.py'} {port} >&-"
    node = subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE)
    miner = None
    deadline = time.monotonic() + PATIENCE
    while not miner and time.monotonic() < deadline:
        try:
            miner = Connection(port).ask({**BALANCE, "address": "lkm543"})["balance"]
        except ConnectionRefusedError:
            time.sleep(0.01)  # until the port is open
    assert miner == 10
    node.send_signal(signal.SIGINT)
    _, error = node.communicate(timeout=PATIENCE)
    assert (node.returncode, error) == (0, b"")


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk to write on")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_full_disk_ends_a_script_in_one_line(node, script):
    port = free_port() if "server" in script else node.port
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, ROOT / script, str(port)],
            input=b"2\nbob\n" * 10,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert re.fullmatch(rb"blockchain_\w+\.py: .+\n", done.stderr)


@posix
@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_client_with_a_closed_stream_ends_in_one_line(node, closed):
    command = f"{sys.executable} {ROOT / 'blockchain_client.py'} {node.port} {closed}"
    done = subprocess.run(
        ["sh", "-c", command], input=b"2\nbob\n", stderr=subprocess.PIPE, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert re.fullmatch(rb"blockchain_client\.py: .+\n", done.stderr)


@posix
def test_an_error_in_any_language_does_not_end_the_listener():
    """A strict ASCII output, and a system whose error texts are Chinese."""
    code = (
        "import os, sys, blockchain_server as node\n"
        "class Crowd:\n"
        "    def accept(self):\n"
        "        raise OSError(24, '開啟的檔案過多')\n"
        "    def getsockname(self):\n"
        "        return '127.0.0.1', 1\n"
        "node.socket.create_server = lambda *_, **__: Crowd()\n"
        "node.time.sleep = lambda _: os.write(1, b'\\nThe listener goes on.\\n') and os._exit(0)\n"
        "sys.argv[1:] = ['1']\n"
        "node.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.stdout.endswith(b"\nThe listener goes on.\n")
    assert rb"Too many connections: [Errno 24] \u958b\u555f" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize("pause", [0, 0.01])
def test_a_port_is_free_again_at_once(run, pause):
    port = free_port()
    for _ in range(3):
        node = run("blockchain_server.py", port)
        node.wait_for("Hash found: ")
        with socket.create_connection(("127.0.0.1", port)):
            time.sleep(pause)
            node.popen.kill()
            node.popen.wait()
