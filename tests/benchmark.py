"""How fast the node is, beside the floor and the tutorial's way: `python tests/benchmark.py`.

The floor is what the same thing costs at the least, in the same run; the tutorial's way is
written anew here, in a few lines each. All sides take turns, and the table shows the medians
of the rounds, so a machine that slows down slows them all. It takes about twenty seconds.
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

from blockchain_server import Block, BlockChain, RequestBytes, RequestReader, Transaction

# The tutorial's way


def tutorial_mining(ledger, block, tries):
    for nonce in range(tries):
        texts = "".join(ledger.transaction_to_string(t) for t in block.transactions)
        text = block.previous_hash + str(block.timestamp) + texts + str(nonce)
        if hashlib.sha1(text.encode("utf-8")).hexdigest()[:40] == "0" * 40:
            break


def tutorial_balance(ledger, account):
    balance = 0
    for block in ledger.chain:
        if block.miner == account:
            balance += block.miner_rewards + sum(t.fee for t in block.transactions)
        for transaction in block.transactions:
            if transaction.sender == account:
                balance -= transaction.amounts + transaction.fee
            elif transaction.receiver == account:
                balance += transaction.amounts
    return balance


def tutorial_handler(ledger, connection):
    print("Connected", flush=True)
    while message := connection.recv(1024):
        print(f"[*] Received: {message}", flush=True)
        address = pickle.loads(message)["address"]
        print("Start to get the balance for client...", flush=True)
        response = {"address": address, "balance": ledger.get_balance(address)}
        connection.sendall(str(response).encode("utf8"))


# Measuring


def row(what, *actions, times, rounds=9):
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


def ledger_of(blocks, miner):
    """Return a ledger of so many blocks whose miner has coins for everything here."""
    ledger = BlockChain()
    ledger.miner_rewards = 10**6
    with contextlib.redirect_stdout(io.StringIO()):
        ledger.create_genesis_block()
        for _ in range(blocks):
            ledger.mine_block(miner)
    return ledger


class Payer:
    """Signs transactions that are new to every ledger."""

    def __init__(self):
        self.public, self.private = rsa.newkeys(512)
        self.address = BlockChain.get_address_from_public(self.public.save_pkcs1())
        self.numbers = itertools.count()

    def payments(self, count):
        """Return so many transactions with their signatures and the texts that were signed."""
        payments = []
        for number in itertools.islice(self.numbers, count):
            transaction = Transaction(self.address, "bob", 1, number % 7, f"payment {number}")
            text = BlockChain.transaction_to_string(transaction).encode("utf-8")
            payments.append((transaction, rsa.sign(text, self.private, "SHA-1"), text))
        return payments


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

    row(
        what,
        lambda _: ledger.find_nonce(block),
        floor,
        lambda _: tutorial_mining(ledger, block, 500),
        times=(tries, tries, 500),
        rounds=61,
    )


def measure_answers():
    """Ask nodes for a balance again and again, each in a process that has the machine alone."""
    seconds = [[], [], []]
    for _ in range(5):
        for kind, questions, taken in zip(("mining", "idle", "tutorial"), (100, 100, 50), seconds):
            taken.extend(answer_times(kind, questions))
    show("an answer while mining; floor: not mining", *map(statistics.median, seconds))


def answer_times(kind, questions):
    """Return the seconds that each of so many answers took from a node of this kind."""
    request = pickle.dumps({"request": "get_balance", "address": "M" * 96})
    command = [sys.executable, __file__, kind]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as node:
        seconds = []
        with socket.create_connection(("127.0.0.1", int(node.stderr.readline()))) as client:
            for _ in range(questions):
                time.sleep(0.01)  # back to back, the questions would leave the miner no time
                start = time.perf_counter()
                client.sendall(request)
                client.recv(4096)
                seconds.append(time.perf_counter() - start)
        node.kill()
    return seconds


def be_a_node(kind):
    """Answer on any port, and mine unless the kind is `idle`."""
    ledger = ledger_of(0, "")
    ledger.difficulty = 40  # never found
    if kind == "tutorial":
        ledger.receive_socket_message = lambda client, address: tutorial_handler(ledger, client)
    ledger.start_socket_server()
    if kind == "tutorial":
        sys.setswitchinterval(0.005)  # Python's own
    print(ledger.socket_port, file=sys.stderr, flush=True)
    if kind == "idle":
        threading.Event().wait()
    ledger.mine_block("miner")


def measure_reading(payer):
    """Read the request that a client sends for a transaction."""
    ((transaction, signature, _),) = payer.payments(1)
    Transaction.__module__ = "__main__"
    sys.modules["__main__"].Transaction = Transaction
    data = pickle.dumps({"request": "transaction", "data": transaction, "signature": signature})

    def read():
        return Transaction(**RequestReader(RequestBytes(io.BytesIO(data), 16_384)).load()["data"])

    row(
        "reading a payment's request; floor: pickle._Unpickler",
        lambda _: [read() for _ in range(200)],
        lambda _: [pickle._Unpickler(io.BytesIO(data)).load() for _ in range(200)],
        lambda _: [pickle.loads(data) for _ in range(200)],
        times=(200, 200, 200),
    )


def measure_ledger(payer):
    short, long = ledger_of(20, payer.address), ledger_of(20_000, payer.address)
    row(
        "a balance on 20,000 blocks; floor: on 20",
        lambda _: [long.get_balance(payer.address) for _ in range(1000)],
        lambda _: [short.get_balance(payer.address) for _ in range(1000)],
        lambda _: tutorial_balance(long, payer.address),
        times=(1000, 1000, 1),
    )
    batches = [payer.payments(200) for _ in range(9)]
    row(
        "a payment on 20,000 blocks; floor: rsa.verify alone",
        lambda n: [long.add_transaction(*payment[:2]) for payment in batches[n]],
        lambda n: [rsa.verify(text, signature, payer.public) for _, signature, text in batches[n]],
        times=(200, 200),
    )
    for payment in payer.payments(5000 - len(long.pending_transactions)):
        long.add_transaction(*payment[:2])
    waiting = list(long.pending_transactions)
    measure_blocks(payer, short, long, waiting)


def measure_blocks(payer, short, long, waiting):
    """Append to a short and to a long chain, and with 5,000 pending transactions."""

    def sort(_):
        sorted(waiting, key=lambda transaction: transaction.fee)

    def append(ledger, transactions):
        ledger.pending_transactions = transactions
        ledger.append_block(full)

    full = Block("", 1, payer.address, 10, transactions=waiting[::150][:32])
    what = "appending a full block on 20,000; floor: on 20"
    row(what, lambda _: append(long, []), lambda _: append(short, []), times=(1, 1), rounds=61)
    what = "appending it with 5,000 waiting; floor: sorting them"
    row(what, lambda _: append(long, list(waiting)), sort, times=(1, 1))


def main():
    payer = Payer()
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}\n")
    print("| what | this | floor | this / floor | the tutorial's way | tutorial / this |")
    print("| --- | --: | --: | --: | --: | --: |")
    measure_hashing("a hash, empty block; floor: copy, update, digest", [])
    transactions = [transaction for transaction, *_ in payer.payments(32)]
    measure_hashing("a hash, 32 transactions; floor: the same", transactions)
    measure_answers()
    measure_reading(payer)
    measure_ledger(payer)


if __name__ == "__main__":
    be_a_node(*sys.argv[1:]) if sys.argv[1:] else main()
