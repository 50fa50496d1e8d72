"""How fast the node is, beside the floor and the tutorial's way: `python tests/benchmark.py`.

The floor is what the same thing costs at the least, in the same run; the tutorial's way is
written anew here, in a few lines each. All sides take turns, and the table shows the medians
of the rounds, so a machine that slows down slows them all. It takes about twenty seconds.
"""

import contextlib
import functools
import hashlib
import io
import pathlib
import pickle
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc

import rsa

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from blockchain_server import (  # noqa: E402
    Block,
    BlockChain,
    RequestBytes,
    RequestReader,
    Transaction,
)

ROUNDS = 9


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


def tutorial_payment(ledger, transaction, signature):
    pem = f"-----BEGIN RSA PUBLIC KEY-----\n{transaction.sender}\n-----END RSA PUBLIC KEY-----\n"
    key = rsa.PublicKey.load_pkcs1(pem.encode("utf-8"))
    if tutorial_balance(ledger, transaction.sender) >= transaction.amounts + transaction.fee:
        rsa.verify(ledger.transaction_to_string(transaction).encode("utf-8"), signature, key)


def tutorial_packing(transactions):
    transactions.sort(key=lambda transaction: transaction.fee, reverse=True)
    return transactions[:32], transactions[32:]


def tutorial_handler(ledger, connection):
    print("Connected", flush=True)
    while message := connection.recv(1024):
        print(f"[*] Received: {message}", flush=True)
        request = pickle.loads(message)
        print("Start to get the balance for client...", flush=True)
        address = request["address"]
        response = {"address": address, "balance": ledger.get_balance(address)}
        print(f"Response: {response}", flush=True)
        connection.sendall(str(response).encode("utf8"))


# Measuring


def medians(*actions, rounds=ROUNDS):
    """Return the median seconds of each action, done in turns."""
    seconds = []
    for _ in range(rounds):
        seconds.append([])
        for action in actions:
            start = time.perf_counter()
            action()
            seconds[-1].append(time.perf_counter() - start)
    return [statistics.median(column) for column in zip(*seconds)]


def medians_of_batches(batches, *actions):
    """Return the median seconds of each action, done in turns, on a new batch each round."""
    seconds = [
        medians(*(functools.partial(action, batch) for action in actions), rounds=1)
        for batch in batches
    ]
    return [statistics.median(column) for column in zip(*seconds)]


def show(what, seconds, times):
    """Print a row of the table: seconds for so many times of this, the floor, the tutorial."""
    this, floor, *tutorial = [total / count * 1e6 for total, count in zip(seconds, times)]

    def short(number):
        return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"

    cells = [what, f"{short(this)} µs", f"{short(floor)} µs", f"{this / floor:.2f}"]
    cells += [f"{short(tutorial[0])} µs", short(tutorial[0] / this)] if tutorial else ["", ""]
    print(f"| {' | '.join(cells)} |", flush=True)


def quietly(action, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return action(*arguments)


def ledger_of(blocks, miner):
    """Return a ledger of so many blocks whose miner has coins for everything here."""
    ledger = BlockChain()
    ledger.miner_rewards = 10**6
    quietly(ledger.create_genesis_block)
    for _ in range(blocks):
        quietly(ledger.mine_block, miner)
    return ledger


def signed_payments(address, private, numbers):
    for number in numbers:
        transaction = Transaction(address, "bob", 1, number % 7, f"payment {number}")
        text = BlockChain.transaction_to_string(transaction).encode("utf-8")
        yield transaction, rsa.sign(text, private, "SHA-1"), text


def measure_hashing(what, transactions):
    ledger = BlockChain()
    block = Block("0" * 40, 4, "M" * 96, 10, transactions=transactions)
    while not 60_000 < (tries := ledger.find_nonce(block) + 1) < 80_000:
        block.timestamp += 1  # until there is one to measure: the nonce tells the work
    state = hashlib.sha1(b"x" * 640)

    def floor():
        for _ in range(tries):
            attempt = state.copy()
            attempt.update(b"123456")
            attempt.digest()

    few = 500
    seconds = medians(
        lambda: ledger.find_nonce(block),
        floor,
        lambda: tutorial_mining(ledger, block, few),
        rounds=61,
    )
    show(what, seconds, (tries, tries, few))


def measure_ledger(address, public, private):
    short, long = ledger_of(20, address), ledger_of(20_000, address)

    def ask(ledger):
        for _ in range(1000):
            ledger.get_balance(address)

    seconds = medians(
        lambda: ask(long), lambda: ask(short), lambda: tutorial_balance(long, address)
    )
    show("a balance on 20,000 blocks; floor: on 20", seconds, (1000, 1000, 1))

    def batches(first):
        """Yield payments that no ledger has seen, 200 for each round."""
        for start in range(first, first + 200 * ROUNDS, 200):
            yield list(signed_payments(address, private, range(start, start + 200)))

    def pay(ledger, batch):
        for transaction, signature, _ in batch:
            ledger.add_transaction(transaction, signature)

    def verify(batch):
        for _, signature, text in batch:
            rsa.verify(text, signature, public)

    def pay_as_the_tutorial(batch):
        for transaction, signature, _ in batch[:2]:
            tutorial_payment(long, transaction, signature)

    def pay_with_none_waiting(batch):
        short.pending_transactions.clear()
        pay(short, batch)

    pay_on_long = functools.partial(pay, long)
    seconds = medians_of_batches(batches(5_000), pay_on_long, verify, pay_as_the_tutorial)
    show("a payment on 20,000 blocks; floor: rsa.verify alone", seconds, (200, 200, 2))

    pay(long, signed_payments(address, private, range(5_000)))
    seconds = medians_of_batches(batches(10_000), pay_on_long, pay_with_none_waiting)
    show("a payment with 5,000 waiting; floor: with none", seconds, (200, 200))
    measure_blocks(address, short, long)


def measure_blocks(address, short, long):
    """Pack and append on a short and a long chain, with what waits on the long one."""
    waiting = list(long.pending_transactions)

    def pack(ledger, transactions):
        ledger.pending_transactions = list(transactions)
        ledger.add_transaction_to_block(Block("", 1, "", 10))

    seconds = medians(
        lambda: pack(long, waiting),
        lambda: sorted(waiting, key=lambda transaction: transaction.fee),
        lambda: tutorial_packing(list(waiting)),
    )
    show("packing 32 of 5,000 waiting; floor: sorting them", seconds, (1, 1, 1))

    full = Block("", 1, address, 10, transactions=waiting[::150][:32])

    def append(ledger, transactions):
        ledger.pending_transactions = transactions
        ledger.append_block(full)

    seconds = medians(lambda: append(long, []), lambda: append(short, []), rounds=61)
    show("appending a full block on 20,000; floor: on 20", seconds, (1, 1))
    append_with_5_000, append_with_none = medians(
        lambda: append(long, waiting), lambda: append(long, []), rounds=61
    )
    removal = append_with_5_000 - append_with_none
    (sorting,) = medians(lambda: sorted(waiting, key=lambda transaction: transaction.fee))
    show("removing 32 of 5,000 waiting; floor: sorting them", (removal, sorting), (1, 1))


def measure_reading(address, private):
    """Read the request of a payment, as it comes from a client."""
    transaction, signature, _ = next(signed_payments(address, private, [1]))
    request = {"request": "transaction", "data": transaction, "signature": signature}
    transaction.__class__.__module__ = "__main__"
    sys.modules["__main__"].Transaction = Transaction
    data = pickle.dumps(request)

    def read():
        fields = RequestReader(RequestBytes(io.BytesIO(data))).load()["data"]
        return Transaction(**fields)

    def often(action):
        return lambda: [action() for _ in range(200)]

    seconds = medians(
        often(read),
        often(lambda: pickle._Unpickler(io.BytesIO(data)).load()),
        often(lambda: pickle.loads(data)),
    )
    show("reading a payment's request; floor: pickle._Unpickler", seconds, (200, 200, 200))


def measure_answers():
    """Ask nodes for a balance again and again, each in a process that has the machine alone."""
    seconds = [[], [], []]
    for _ in range(5):
        for kind, questions, taken in zip(("mining", "idle", "tutorial"), (100, 100, 50), seconds):
            taken += answer_times(kind, questions)
    show("an answer while mining; floor: not mining", map(statistics.median, seconds), (1, 1, 1))


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


def measure_memory(address, private):
    ledger = ledger_of(1, address)
    payments = [pickle.dumps(p[:2]) for p in signed_payments(address, private, range(500))]

    def taken_by(action, times):
        before = tracemalloc.get_traced_memory()[0]
        quietly(action)
        return round((tracemalloc.get_traced_memory()[0] - before) / times)

    tracemalloc.start()
    payment = taken_by(lambda: [ledger.add_transaction(*pickle.loads(p)) for p in payments], 500)
    ledger.pending_transactions.clear()
    block = taken_by(lambda: [ledger.mine_block(address) for _ in range(1000)], 1000)
    tracemalloc.stop()
    print(f"\nMemory: {block:,} bytes an empty block, {payment:,} bytes a waiting payment.")


def main():
    public, private = rsa.newkeys(512)
    address = BlockChain.get_address_from_public(public.save_pkcs1())
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}\n")
    print("| what | this | floor | this / floor | the tutorial's way | tutorial / this |")
    print("| --- | --: | --: | --: | --: | --: |")
    measure_hashing("a hash, empty block; floor: copy, update, digest", [])
    payments = [transaction for transaction, *_ in signed_payments(address, private, range(32))]
    measure_hashing("a hash, 32 transactions; floor: the same", payments)
    measure_answers()
    measure_reading(address, private)
    measure_ledger(address, public, private)
    measure_memory(address, private)


if __name__ == "__main__":
    be_a_node(*sys.argv[1:]) if sys.argv[1:] else main()
