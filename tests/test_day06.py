"""Day 06: what a node prints, its connections and threads, its command line, and how it ends."""

import ast
import contextlib
import errno
import os
import pickle
import re
import signal
import socket
import struct
import sys
import threading
import time
from unittest import mock

import pytest
from conftest import AUTHORIZED, BALANCE, BALANCE_ANSWER, Account, is_refusal, quiet
from processes import PATIENCE, Connection, free_port, handlers, posix, wait_until
from processes import ROOT as PROJECT

import blockchain_server
from blockchain_server import MAX_REQUEST_BYTES as LIMIT

SCRIPTS = ["blockchain_server.py", "blockchain_client.py"]


# ---- What the node prints
def test_the_node_says_what_the_tutorial_says(run):
    node = run("blockchain_server.py", free_port())
    keys = node.wait_for(r"^Miner address: (\S+)\nMiner private: (\S+)\n").groups()
    port = int(node.wait_for(r"^Listening on port (\d+).*\n")[1])
    node.wait_for(r"^Create genesis block\.\.\.\n")
    for _ in range(10):
        node.wait_for(r"^Hash found: 0[0-9a-f]{39} @ difficulty 1, time cost: \d+\.\d+s\n")
    node.wait_for(r"^Average block time:\d+\.\d+s\. High up the difficulty\n")
    node.wait_for(r"^Hash found: 00[0-9a-f]{38} @ difficulty 2, time cost: ")
    with Connection(port, node.failure) as client:
        node.wait_for(rf"Connected by: \('127\.0\.0\.1', {client.socket.getsockname()[1]}\)\n")
        client.ask(BALANCE)
        node.wait_for(r"\[\*\] Received: b'.*get_balance.*bob.*'\n")
        node.wait_for(r"Start to get the balance for client\.\.\.\n")
        client.ask(Account(*keys).request())
        node.wait_for(r"Start to transaction for client\.\.\.\n")
        client.ask({"request": "transaction", "data": 1, "signature": b""})
        node.wait_for(r"cannot be parsed: .+\n")


def test_a_character_that_the_output_cannot_show_does_not_stop_the_node(run):
    node = run("tests/changed.py", "speaks_chinese", "blockchain_server.py", 0)
    node.wait_for(r"^(?:.+\n)+\\u6c92\\u6709\\u7a7a\\u9593\n")


@posix
def test_the_keys_are_on_the_screen_when_blocks_become_slow(start_node):
    """A screen has 24 rows here, and the first fifty blocks fill more than that."""
    node = start_node("never_found_after_50", terminal=True)
    node.wait_for("Block 51 @ difficulty 12: ")
    keys = re.search(r"Miner address: .+\nMiner private: .+\nListening .+\n", node.output)[0]
    lines = node.output.split("\n")
    rows = [row for line in lines for row in re.findall(".{1,70}", line) or [""]]
    assert keys.replace("\n", "") in "".join(rows[-24:])
    assert node.output.count(keys) == 2


def screen_rows(output):
    """Return the rows that a terminal shows: what comes after "\\r" is written over the row."""
    for row in output.split("\n"):
        shown = ""
        for part in row.split("\r"):
            shown = part + shown[len(part) :]
        yield shown


@posix
def test_a_slow_block_shows_on_a_terminal_how_the_mining_goes_on_one_line(start_node):
    """A narrow terminal cuts the end, and not what is pending. 0 columns count as 80."""
    node = start_node("waits_for_a_transaction", terminal=True)
    connection = node.connect()
    for number, columns in (1, 60), (2, 200), (3, 0):
        node.resize(columns)
        assert connection.ask(node.miner.request("bob", 1, 0, f"{number}")) == AUTHORIZED
        counted = f"Block 2 @ difficulty 12: {number} pending, 1 in this block; "
        line = node.wait_for(counted + r"\d+s \([^\r]*\r")[0]
        whole = re.search(r"\(expected [\d,]+s, [\d,]{5,} hashes/s\)\r$", line)
        assert whole if columns == 200 else len(line) == (columns or 80)  # with the "\r"
        assert "\n" not in line
    assert connection.ask(BALANCE) == BALANCE_ANSWER
    node.wait_for(r"Start to get the balance for client\.\.\.\n")
    node.wait_for(counted)
    node.press_until_it_ends("C")
    assert node.status() == -signal.SIGINT
    *rows, last = screen_rows(node.output)
    known = r"Miner .+|Listening .+|Create .+|Hash .+|Average .+"
    known += r"|Connected by: \('127.0.0.1', \d+\) *|\[\*\] Received: b'.+' *|Start .+\.\.\. *"
    for row in rows:
        assert re.fullmatch(known, row)  # nothing is left of the line that was written over
        assert len(row.rstrip()) == len(row) or len(row) <= 200 - 1
    assert re.fullmatch(counted + r".*\^C *", last)  # what was written does not hide the ^C
    assert len(last.rstrip()) <= 80 - 1 + len("^C")
    assert " \n" not in node.output.split("Block 2 @")[0]  # nothing to write over: no spaces


def test_a_log_is_there_at_once_and_never_holds_the_line_that_changes(start_node):
    node = start_node("never_found")
    for _ in range(20):
        node.connect().ask(BALANCE)
    node.wait_for(r"Start to get the balance for client\.\.\.\n")
    assert "Block 2 @" not in node.output and "\r" not in node.output


def test_the_lines_of_two_threads_never_mix(monkeypatch):
    """While one thread is in the middle of its line, another one wants to print, too."""
    pieces = []
    other = threading.Thread(target=blockchain_server.say, args=["another line"])

    def write(piece):
        pieces.append(piece)
        if piece == "a line":
            other.start()
            other.join(0.1)

    monkeypatch.setattr(sys, "stdout", mock.Mock(write=write))
    blockchain_server.say("a line")
    other.join()
    assert "".join(pieces) == "a line\nanother line\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="it stands in for a full disk")
def test_a_full_disk_loses_lines_of_the_log_and_not_the_node(run):
    port = free_port()
    with open("/dev/full", "wb") as full:
        node = run("blockchain_server.py", port, stdout=full.fileno())

    def ask():
        with contextlib.suppress(ConnectionError), Connection(port, node.failure) as connection:
            return connection.ask({**BALANCE, "address": "lkm543"})["balance"]

    assert wait_until(ask, "the coins of the genesis block") == 10


# ---- Either script works with the other half of the published pair
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_published_client_is_served(server, run, rich_alice, protocol):
    keys = rich_alice.address, rich_alice.private
    client = run("tests/published_client.py", server.socket_port, protocol, *keys)
    client.wait_for(rf"\{{'address': '{re.escape(keys[0])}', 'balance': 100\}}\n")
    client.wait_for(r"\{'result': True, 'result_message': 'Authorized successfully!'\}\n")
    client.wait_for(r"\{'message': 'Unknown command.'\}\n")
    assert client.status() == 0


def test_the_client_works_with_the_published_node(run, alice):
    port = free_port()
    node = run("tests/published_node.py", port)
    node.wait_for("listening")
    client = run("blockchain_client.py", port)
    sender = re.escape(alice.address)
    client.type(f"2\n{alice.address}", then=rf"\{{'address': '{sender}', 'balance': 620\}}\n")
    payment = "\n".join(["3", alice.address, alice.private, "bob", "50", "1", "謝謝"])
    client.type(payment, then="'Authorized successfully!'")
    fields = r"\('amounts', 50\), \('fee', 1\), \('message', '謝謝'\), \('receiver', 'bob'\)"
    node.wait_for(rf"\[{fields}, \('sender', '{sender}'\)\] 64\n")


# ---- Requests in a stream of bytes
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_request_may_come_byte_by_byte(server, rich_alice, protocol):
    connection = server.connect()
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in pickle.dumps(rich_alice.request("bob", 1, 0, "in pieces"), protocol):
        connection.send(bytes([byte]))
    assert connection.receive() == AUTHORIZED


def test_several_requests_in_one_piece_are_answered_in_order(server):
    connection = server.connect()
    requests = [pickle.dumps({**BALANCE, "address": str(n)}, 3 + n % 3) for n in range(100)]
    connection.send(b"".join(requests))
    answers = [connection.receive() for _ in requests]
    assert answers == [{"address": str(n), "balance": 0} for n in range(100)]


@pytest.mark.parametrize("letter", ["a", "ñ", "謝", "🙂"])
def test_a_comment_may_have_thousands_of_letters_in_any_script(server, rich_alice, letter):
    request = rich_alice.request("bob", 1, 0, letter * 3900)
    assert server.connect().ask(request) == AUTHORIZED


def test_a_request_has_as_many_bytes_as_allowed_and_no_more(server):
    def balance_of(length):
        frame = len(pickle.dumps({**BALANCE, "address": "a" * 9000}, 3)) - 9000
        return pickle.dumps({**BALANCE, "address": "a" * (length - frame)}, 3)

    assert len(balance_of(LIMIT)) == LIMIT == 16_384
    connection = server.connect()
    for _ in range(3):  # each request is counted from its own first byte
        assert connection.ask(balance_of(LIMIT))["balance"] == 0
    assert is_refusal(connection.ask(balance_of(LIMIT + 1)))
    assert connection.receive() is None


GARBAGE = {"a byte": b"\xff", "a line": b"hello\n", "megabytes": b"garbage" * 10**6}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_gets_a_sentence_and_then_the_connection_ends(server, garbage):
    """The sentence arrives, although the node has not read everything that was sent."""
    connection = server.connect()
    assert is_refusal(connection.ask(garbage))
    assert connection.receive() is None
    connection.socket.close()
    assert handlers(PATIENCE) == []


def test_a_request_that_is_cut_short_is_answered_if_somebody_listens(server, alice):
    data = pickle.dumps(alice.request())
    for length in range(1, len(data), 37):
        connection = server.connect()
        connection.send(data[:length])
        connection.socket.shutdown(socket.SHUT_WR)
        assert is_refusal(connection.receive())
        assert connection.receive() is None


LAST_BYTES = {
    "nothing": b"",
    "a beginning": b"\x80\x04\x95",
    "half a request": pickle.dumps(BALANCE)[:-1],
    "garbage": b"\xff",
}


@pytest.mark.parametrize("data", LAST_BYTES.values(), ids=LAST_BYTES)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_leaves_nothing_behind(server, data, how, capsys):
    connection = server.connect()
    assert connection.ask(BALANCE) == BALANCE_ANSWER
    connection.send(data)
    if how == "reset":
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.socket.close()
    assert handlers(PATIENCE) == []
    assert len(capsys.readouterr().out.splitlines()) <= 6


def test_a_connection_that_breaks_in_the_middle_of_a_request_is_logged(server, capsys):
    connection, said = server.connect(), []

    def reads():
        said.append(capsys.readouterr().out)
        return "Received" in "".join(said)

    connection.send(pickle.dumps(BALANCE)[:-1])
    wait_until(reads, "the node reads half a request")
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.socket.close()
    assert handlers(PATIENCE) == []
    assert re.fullmatch(r"b'.+' cannot be parsed: .+\n", capsys.readouterr().out)


def test_a_client_that_is_silent_at_the_end_holds_no_thread(server):
    """It has taken its last answer, and does not close its half of the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"rest")
        blockchain_server.close_gently(ours, seconds=0.05)
        assert theirs.recv(1) == b""
    assert blockchain_server.close_gently.__defaults__ == (5,)


def test_the_log_shows_a_bounded_part_of_a_request_on_one_line(server, capsys):
    forged = "\r\n[*] Hash found: forged \x1b[2J"
    server.connect().ask({"request": "get_balance", "address": forged * 100})
    server.connect().ask(forged.encode() * 1000)
    said = capsys.readouterr().out
    excerpts = re.findall(r"^(?:\[\*\] Received: )?(b'.*')(?: cannot be parsed: .*)?$", said, re.M)
    assert [len(ast.literal_eval(excerpt)) for excerpt in excerpts] == [100, 100, 100]
    assert "\n[*] Hash found" not in said and "\x1b" not in said


# ---- Threads
def test_each_connection_has_a_thread_until_its_client_leaves(server):
    """The thread gets the GIL before the 5 milliseconds that Python lets it wait by default."""
    assert sys.getswitchinterval() < 0.0001
    connections = [server.connect() for _ in range(5)]
    assert [connection.ask(BALANCE) for connection in connections] == [BALANCE_ANSWER] * 5
    assert len(handlers()) == 5
    for connection in connections:
        connection.socket.close()
    assert handlers(PATIENCE) == []


@pytest.mark.skipif(sys.platform != "linux", reason="not every system keeps these limits")
@pytest.mark.parametrize("limit", ["few_descriptors", "few_threads"])
def test_when_a_crowd_leaves_the_node_hears_again(start_node, limit):
    node = start_node(limit)
    crowd = [node.connect() for _ in range(50)]
    node.wait_for("Too many connections: ")
    for connection in crowd:
        connection.socket.close()

    def ask():
        with contextlib.suppress(ConnectionError):  # the node has not yet seen that they left
            connection = node.connect()
            connection.send(BALANCE)
            return connection.receive()

    assert wait_until(ask, "an answer") == BALANCE_ANSWER


@pytest.mark.parametrize("log", ["a log", "a full disk"])
def test_a_lack_of_room_or_a_client_that_has_gone_ends_no_listener(
    ledger, monkeypatch, capsys, log
):
    kinds = [ConnectionAbortedError, ConnectionResetError, OSError, MemoryError]
    listener = mock.Mock()
    listener.accept.side_effect = [kind("no room") for kind in kinds]
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    if log == "a full disk":
        monkeypatch.setattr(sys, "stdout", mock.Mock(write=mock.Mock(side_effect=OSError(28))))
    with pytest.raises(StopIteration):
        ledger.wait_for_socket_connection(listener)
    assert pauses == [1, 1]
    assert log != "a log" or capsys.readouterr().out == "Too many connections: no room\n" * 2


def test_a_client_for_whom_there_is_no_thread_is_turned_away(ledger, monkeypatch, capsys):
    listener, connection = mock.Mock(), mock.Mock()
    listener.accept.side_effect = [(connection, ("127.0.0.1", 1))]
    failing = mock.Mock(start=mock.Mock(side_effect=RuntimeError("no thread")))
    monkeypatch.setattr(threading, "Thread", lambda **_: failing)
    with pytest.raises(StopIteration):
        ledger.wait_for_socket_connection(listener)
    connection.close.assert_called_once_with()
    assert capsys.readouterr().out == "Too many connections: no thread\n"


# ---- The command line
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("ports", [[], ["abc"], ["1e3"], [""], ["1", "2"]], ids=repr)
def test_what_is_no_port_is_refused(run, script, ports):
    process = run(script, *ports)
    assert process.status() == 2
    process.wait_for(rf"^usage: {script} \[-h\].* port\n.*: error: .*\n$")


def test_a_port_that_cannot_serve_is_named_in_one_line(server, run):
    """One that does not exist; one in use, for the node; one without a node, for the client."""
    lines = r"port %d: .+[^.]\. Choose another port\.", r"no node on port %d: .+\. Is it running\?"
    for script, line, last in zip(SCRIPTS, lines, [server.socket_port, free_port()]):
        for port in (server.socket_port + 65536, -1, last):
            process = run(script, port)
            assert process.status() == 1
            assert re.fullmatch(f"{script}: {line % port}\n", process.output)
            assert "[Errno" not in process.output and "while" not in process.output
        if os.name == "posix":
            reason = errno.EADDRINUSE if script == "blockchain_server.py" else errno.ECONNREFUSED
            assert f"port {port}: {os.strerror(reason)}. " in process.output


@pytest.mark.skipif(sys.platform != "linux", reason="there, all of 127.0.0.0/8 is this computer")
def test_the_port_is_open_on_127_0_0_1_only(server):
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", server.socket_port))


# ---- Mistakes in the code show their place
def test_a_mistake_in_the_mining_shows_its_place(run):
    """On Day 07, a peer that has gone is an OSError. It must not look like one of the port.

    It ends the node, also if clients are connected. It happens after the first request.
    """
    change = ["tests/changed.py", "mistake_in_the_mining"]
    node = run(*change, "blockchain_server.py", 0, traceback=True)
    port = int(node.wait_for(r"Listening on port (\d+)")[1])
    with Connection(port, node.failure) as connection:
        connection.send(BALANCE)  # the node may end before it answers
        assert node.status() == 1 and "in mine_block" in node.output
    assert node.output.endswith("ConnectionRefusedError: a peer that is gone\n")


def test_a_mistake_in_a_request_shows_its_place_and_ends_one_connection(start_node):
    """An OSError that does not come from the connection must not be hidden."""
    node = start_node("mistake_in_a_request", traceback=True)
    connection = node.connect()
    connection.send(BALANCE)
    assert connection.receive() is None
    traceback = node.wait_for(r"Traceback(.*\n)+?\w+Error.*\n")[0]
    assert "in respond" in traceback and "a peer that is gone\n" in traceback
    assert node.connect().ask({"request": "hello"}) == {"message": "Unknown command."}


@pytest.mark.parametrize("mistake", [NameError, AttributeError, NotImplementedError])
def test_a_mistake_in_the_reader_is_not_taken_for_one_in_the_request(monkeypatch, mistake):
    def read(self, size):
        raise mistake("a wrong name")

    monkeypatch.setattr(blockchain_server.RequestBytes, "read", read)
    with pytest.raises(mistake, match="a wrong name"):
        blockchain_server.read_request(mock.Mock())


@pytest.mark.parametrize("mistake", [NameError, AttributeError, NotImplementedError])
def test_a_mistake_in_a_check_is_not_taken_for_a_fault_in_the_chain(ledger, monkeypatch, mistake):
    def check_block(self, block):
        raise mistake("a wrong name")

    monkeypatch.setattr(blockchain_server.BlockChain, "check_block", check_block)
    with pytest.raises(mistake, match="a wrong name"), quiet():
        ledger.verify_blockchain()


# ---- The end
@posix
@pytest.mark.parametrize("change", [None, "in_the_background"])
def test_ctrl_c_ends_the_node_at_once_and_its_port_is_free_again(start_node, run, change):
    """Clients are connected, and ask: on Python 3.14, an exception could leave the lock taken."""
    node = start_node(change)
    connections = [node.connect() for _ in range(5)]
    connections[0].send(b"\x80")
    asking = threading.Event()

    def keep_asking(connection):
        with contextlib.suppress(OSError, AssertionError):  # until the node has ended
            while connection.ask(BALANCE):
                asking.set()

    clients = [threading.Thread(target=keep_asking, args=[each]) for each in connections[1:]]
    for client in clients:
        client.start()
    assert asking.wait(PATIENCE) and not node.failure(), node.failure()
    node.interrupt()
    assert node.status() == -signal.SIGINT
    assert "Traceback" not in node.output
    for client in clients:
        client.join(PATIENCE)
    run("blockchain_server.py", node.port).wait_for("Hash found: ")


@posix
def test_a_log_that_nobody_reads_any_more_ends_the_node_without_a_word(run):
    """As in `python blockchain_server.py 1111 | head -n 3`."""
    script = '{ "$0" "$1" 0; echo "status $?" >&2; } | head -n 3'
    node = run("sh", "-c", script, sys.executable, PROJECT / "blockchain_server.py")
    node.wait_for("Listening on port .+\n")
    node.wait_for("^status 1\n")


@posix
def test_ctrl_c_ends_a_node_whose_output_is_stuck(run):
    """As in `python blockchain_server.py 1111 | less`, when the pipe is full."""
    (reader, writer), port = os.pipe(), free_port()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 65536):  # until the pipe is full to the last byte
            pass
    os.set_blocking(writer, True)
    node = run("blockchain_server.py", port, stdout=writer)

    def connect():  # when its port is open, the node wants to print
        with contextlib.suppress(ConnectionError):
            return Connection(port, node.failure)

    with wait_until(connect, "the port is open"):
        node.interrupt()
        assert node.status() == -signal.SIGINT
    os.close(reader)
    os.close(writer)
