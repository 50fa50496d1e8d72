"""How fast the node is: `python tests/benchmark.py`. It takes about twenty seconds.

Each row compares the node with the floor and with the tutorial's way. The floor is the least that
the same thing can cost. All sides take turns in the same run, and a row shows the medians of their
times. So a machine that becomes slower makes all sides slower.
"""

import contextlib
import hashlib
import io
import itertools
import pathlib
import pickle
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time

import rsa

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from blockchain_server import Block, BlockChain, Transaction, read_request

PUBLIC, PRIVATE = rsa.newkeys(512)
ADDRESS = BlockChain.get_address_from_public(PUBLIC.save_pkcs1())
NUMBERS = itertools.count()


def row(what, times, *actions, rounds=9):
    """Do the actions in turns, and print a row: this, the floor, and the tutorial's way.

    An action is called with the number of the round, and does its thing so many `times`.
    """
    seconds = [[] for _ in actions]
    for number in range(rounds):
        for action, column in zip(actions, seconds):
            start = time.perf_counter()
            action(number)
            column.append(time.perf_counter() - start)
    show(what, *(statistics.median(column) / n for column, n in zip(seconds, times)))


def show(what, this, floor, tutorial=None):
    """Print a row of the table, in microseconds."""

    def short(number):
        return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"

    cells = [what, f"{short(this * 1e6)} µs", f"{short(floor * 1e6)} µs", f"{this / floor:.2f}"]
    cells += [f"{short(tutorial * 1e6)} µs", short(tutorial / this)] if tutorial else ["", ""]
    print(f"| {' | '.join(cells)} |", flush=True)


def ledger_of(blocks):
    """Return a ledger of so many blocks. The address has coins for everything here."""
    ledger = BlockChain()
    ledger.miner_rewards = 10**6
    with contextlib.redirect_stdout(io.StringIO()):
        ledger.create_genesis_block()
        for _ in range(blocks):
            ledger.mine_block(ADDRESS)
    return ledger


def payments(count):
    """Yield so many new transactions, with their signatures and the strings that were signed."""
    for number in itertools.islice(NUMBERS, count):
        transaction = Transaction(ADDRESS, "bob", 1, number % 7, f"payment {number}")
        text = BlockChain.transaction_to_string(transaction).encode("utf-8")
        yield transaction, rsa.sign(text, PRIVATE, "SHA-1"), text


def measure_hashing(what, transactions):
    ledger = BlockChain()
    block = Block("0" * 40, 4, "M" * 96, 10, transactions=transactions)
    while not 60_000 < (tries := ledger.find_nonce(block) + 1) < 80_000:
        block.timestamp += 1  # until there is one to measure: the nonce tells the work
    state = hashlib.sha1(b"x" * 640)

    def floor(_):
        for _ in range(tries):
            attempt = state.copy()
            attempt.update(b"123456")
            attempt.digest()

    def tutorial(_):
        for nonce in range(500):
            texts = "".join(ledger.transaction_to_string(t) for t in block.transactions)
            text = block.previous_hash + str(block.timestamp) + texts + str(nonce)
            if hashlib.sha1(text.encode("utf-8")).hexdigest()[:40] == "0" * 40:
                break

    row(what, (tries, tries, 500), lambda _: ledger.find_nonce(block), floor, tutorial, rounds=61)


def answer_times(kind, questions):
    """Yield the seconds of so many answers from a node of this kind, a process of its own."""
    request = pickle.dumps({"request": "get_balance", "address": "M" * 96})
    command = [sys.executable, __file__, kind]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as node:
        try:
            client = socket.create_connection(("127.0.0.1", int(node.stderr.readline())), 10)
            with client:
                for _ in range(questions):
                    time.sleep(0.01)  # back to back, the questions would leave the miner no time
                    start = time.perf_counter()
                    client.sendall(request)
                    client.recv(4096)
                    yield time.perf_counter() - start
        finally:
            node.kill()


def be_a_node(kind):
    """Answer on any port, and mine unless the kind is `idle`."""
    ledger = ledger_of(0)
    ledger.difficulty = 40  # never found

    def tutorial_handler(connection, _):
        print("Connected", flush=True)
        while message := connection.recv(1024):
            print(f"[*] Received: {message}", flush=True)
            address = pickle.loads(message)["address"]
            print("Start to get the balance for client...", flush=True)
            response = {"address": address, "balance": ledger.get_balance(address)}
            connection.sendall(str(response).encode("utf8"))

    ledger.start_socket_server()
    if kind == "tutorial":
        ledger.receive_socket_message = tutorial_handler
        sys.setswitchinterval(0.005)  # Python's own
    print(ledger.socket_port, file=sys.stderr, flush=True)
    if kind == "idle":
        threading.Event().wait()
    ledger.mine_block("miner")


def measure_reading():
    ((transaction, signature, _),) = payments(1)
    data = pickle.dumps({"request": "transaction", "data": transaction, "signature": signature})

    def read():
        return Transaction(**read_request(io.BytesIO(data))["data"])

    row(
        "reading a transaction's request; floor: pickle._Unpickler",
        (200, 200, 200),
        lambda _: [read() for _ in range(200)],
        lambda _: [pickle._Unpickler(io.BytesIO(data)).load() for _ in range(200)],
        lambda _: [pickle.loads(data) for _ in range(200)],
    )


def append(ledger, pending, transactions):
    """Append a block while these are pending."""
    ledger.pending_transactions = pending
    ledger.append_block(Block(ledger.chain[-1].hash, 1, ADDRESS, 10, transactions=transactions))


def measure_ledger():
    def balances(ledger):
        return lambda _: [ledger.get_balance(ADDRESS) for _ in range(1000)]

    def tutorial(_):
        balance = 0
        for block in long.chain:
            if block.miner == ADDRESS:
                balance += block.miner_rewards + sum(t.fee for t in block.transactions)
            for transaction in block.transactions:
                if transaction.sender == ADDRESS:
                    balance -= transaction.amounts + transaction.fee
                elif transaction.receiver == ADDRESS:
                    balance += transaction.amounts

    short, long = ledger_of(20), ledger_of(20_000)
    what = "a balance on 20,000 blocks; floor: on 20"
    row(what, (1000, 1000, 1), balances(long), balances(short), tutorial)
    batches = [list(payments(200)) for _ in range(9)]
    row(
        "a transaction on 20,000 blocks; floor: rsa.verify alone",
        (200, 200),
        lambda n: [long.add_transaction(*payment[:2]) for payment in batches[n]],
        lambda n: [rsa.verify(text, signature, PUBLIC) for _, signature, text in batches[n]],
    )
    for payment in payments(5000 - len(long.pending_transactions)):
        long.add_transaction(*payment[:2])
    waiting = list(long.pending_transactions)
    full = waiting[::150][:32]
    what = "appending a full block on 20,000; floor: on 20"
    row(
        what, (1, 1), lambda _: append(long, [], full), lambda _: append(short, [], full), rounds=61
    )
    row(
        "appending it with 5,000 pending; floor: sorting them",
        (1, 1),
        lambda _: append(long, list(waiting), full),
        lambda _: sorted(waiting, key=lambda transaction: transaction.fee),
    )


def check():
    """End with a sentence if a change of the rules has taken away what is measured here."""
    ((transaction, signature, _),) = payments(1)
    data = pickle.dumps({"request": "transaction", "data": transaction})
    try:
        ledger = ledger_of(1)
        accepted, reason = ledger.add_transaction(transaction, signature)
        assert accepted, reason
        append(ledger, [], [transaction])
        assert read_request(io.BytesIO(data))["data"] == vars(transaction)
    except Exception as error:
        sys.exit(f"The benchmark needs the node as it was, with its pickles and keys: {error!r}")


def main():
    check()
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}\n")
    print("| what | this | floor | this / floor | the tutorial's way | tutorial / this |")
    print("| --- | --: | --: | --: | --: | --: |")
    measure_hashing("a hash, empty block; floor: copy, update, digest", [])
    measure_hashing("a hash, 32 transactions; floor: the same", [t for t, *_ in payments(32)])
    seconds = [[], [], []]
    for _ in range(5):
        for kind, questions, taken in zip(("mining", "idle", "tutorial"), (100, 100, 50), seconds):
            taken.extend(answer_times(kind, questions))
    show("an answer while mining; floor: not mining", *map(statistics.median, seconds))
    measure_reading()
    measure_ledger()


if __name__ == "__main__":
    be_a_node(*sys.argv[1:]) if sys.argv[1:] else main()
