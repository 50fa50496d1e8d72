"""A blockchain node in one file: the ledger of Days 02 to 05, put on a socket on Day 06.

    python blockchain_server.py 1111

The node mines until Ctrl-C. Meanwhile, `blockchain_client.py` asks it for balances and sends it
signed transactions. From top to bottom, this file follows the series:

    Day 02  Transaction, Block, BlockChain          what a chain is made of
    Day 03  transaction_to_string ... append_block  hashing and mining
    Day 04  adjust_difficulty ... check_block       difficulty, balances, verification
    Day 05  generate_address ... add_transaction    keys, signatures, the rules of money
    Day 06  start ... main                          threads, sockets, requests from outside

All parts print with the function `say`, near the end. In a Python shell, `BlockChain()` is the
ledger alone, without a node. README.md lists what is simplified.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import pickle
import signal
import socket
import sys
import threading
import time
from typing import Any, ClassVar, NoReturn

try:
    import rsa
except ModuleNotFoundError:
    sys.exit("The package rsa is missing. README.md explains how to install it.")


# ---- Day 02: the shapes. A chain is a list of blocks, a block holds a list of transactions.


@dataclasses.dataclass(frozen=True)
class Transaction:
    """Coins that one account sends to another (Day 02). It cannot change after it was made."""

    sender: str  # an address: the public key that checks the signature
    receiver: str  # an address, or any other string
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner of the block, in addition to the amounts
    message: str  # a comment by the sender


@dataclasses.dataclass
class Block:
    """A list of transactions, and the proof that work was done to mine them (Day 02)."""

    previous_hash: str  # the hash of the block before: this makes the blocks a chain
    difficulty: int  # number of zeros that the hash must begin with
    miner: str  # the address that gets the rewards and the fees
    miner_rewards: int  # coins that this block creates
    hash: str = ""  # empty until the block is mined
    nonce: int = 0  # the number that gives the hash its zeros
    timestamp: int = dataclasses.field(default_factory=lambda: int(time.time()))  # start of mining
    transactions: list[Transaction] = dataclasses.field(default_factory=list)


class Refused(Exception):
    """Raised to refuse something. The text can be shown to whoever asked."""


class BlockChain:
    """The ledger. `start()` turns it into a node.

    The main thread mines. A thread for each client calls `get_balance` and `add_transaction`.
    One lock guards the data that both use. While a thread holds the lock, it does not hash blocks,
    check signatures, print, or use the network.
    """

    def __init__(self, socket_port: int = 0) -> None:
        """Make an empty ledger. `start()` will listen on `socket_port`; 0 means any free port."""
        self.adjust_difficulty_blocks = 10  # blocks between two adjustments of the difficulty
        self.difficulty = 1  # number of zeros that the hash of the next block must begin with
        self.block_time = 30  # seconds that mining one block should take
        self.miner_rewards = 10  # coins that a block creates
        self.block_limitation = 32  # a block holds at most this many transactions
        self.chain: list[Block] = []  # the oldest block is first; only append_block adds blocks
        self.pending_transactions: list[Transaction] = []  # accepted, and not yet mined

        # The rest follows from these two lists, and is kept up to date.
        self.lock = threading.Lock()
        # A Counter returns 0 for an account that it does not know.
        self.balances: collections.Counter[str] = collections.Counter()  # coins of each account
        self.outgoing: collections.Counter[str] = collections.Counter()  # coins it has pending
        self.accepted_transactions: set[Transaction] = set()  # pending or mined
        self.chain_work = 0  # how many hashes it takes, on average, to mine this chain

        self.socket_host = "127.0.0.1"
        self.socket_port = socket_port

    # ---- Day 03: hashing and mining. A hash is a fingerprint; the work makes it costly to forge.

    GENESIS_PREVIOUS_HASH = "Hello World!"

    @staticmethod
    def transaction_to_string(transaction: Transaction) -> str:
        """Return a transaction as text. The sender signs this text, and a block hashes it (Day 03).

        The client has the same function. If one character differs, every signature is invalid.

        >>> BlockChain.transaction_to_string(Transaction("alice", "bob", 50, 1, "Thank you"))
        "{'sender': 'alice', 'receiver': 'bob', 'amounts': 50, 'fee': 1, 'message': 'Thank you'}"
        """
        return str(vars(transaction))

    def get_transactions_string(self, block: Block) -> str:
        """Return the texts of all transactions in a block, one after the other (Day 03)."""
        return "".join(map(self.transaction_to_string, block.transactions))

    def get_block_bytes(self, block: Block) -> bytes:
        """Return the bytes that are hashed before the nonce: all other fields, as a dict's text.

        SHA-1 reads its input in pieces of 64 bytes. Spaces fill up the last piece here. So the
        nonce starts a new piece, and each try hashes only this one.
        """
        fields = {**vars(block), "transactions": self.get_transactions_string(block)}
        del fields["hash"], fields["nonce"]
        data = str(fields).encode("utf-8")
        return data + b" " * (-len(data) % 64)

    def get_hash(self, block: Block, nonce: int) -> str:
        """Return the SHA-1 of the block with this nonce, as 40 hex digits (Day 03).

        Each nonce gives another hash, and nobody can know it without computing it:

        >>> block = Block("Hello World!", 1, "alice", 10, timestamp=1571000000)
        >>> [BlockChain().get_hash(block, nonce)[:8] for nonce in (0, 1, 2)]
        ['2ca5184b', '3c52216a', '32da2b45']
        """
        data = self.get_block_bytes(block) + repr(nonce).encode("utf-8")
        return hashlib.sha1(data).hexdigest()

    def get_genesis_block(self) -> Block:
        """Return a first block for a chain. It took no work (Day 03)."""
        # lkm543 wrote the series.
        block = Block(self.GENESIS_PREVIOUS_HASH, 0, "lkm543", self.miner_rewards)
        return dataclasses.replace(block, hash=self.get_hash(block, block.nonce))

    def create_genesis_block(self) -> None:
        """Begin the chain with its first block (Day 03)."""
        say("Create genesis block...")
        self.append_block(self.get_genesis_block())

    def add_transaction_to_block(self, block: Block) -> None:
        """Copy the pending transactions with the highest fees into the block (Day 03).

        They stay pending until the block is on the chain. So nothing is lost if mining is
        interrupted. Among equal fees, the oldest transaction goes first.
        """
        with self.lock:
            best_first = sorted(self.pending_transactions, key=lambda t: t.fee, reverse=True)
        block.transactions = best_first[: self.block_limitation]

    def mine_block(self, miner: str) -> None:
        """Fill a block with pending transactions, find its nonce, and append it (Day 03).

        `miner` is the address that gets the coins. Raises Refused if there is no genesis block.
        """
        if not self.chain:
            raise Refused("There is no block to build on. Call create_genesis_block() first.")
        block = Block(self.chain[-1].hash, self.difficulty, miner, self.miner_rewards)
        self.add_transaction_to_block(block)
        start = time.perf_counter()
        block.nonce = self.find_nonce(block)
        block.hash = self.get_hash(block, block.nonce)
        seconds = round(time.perf_counter() - start, 2)
        self.append_block(block)
        say(f"Hash found: {block.hash} @ difficulty {block.difficulty}, time cost: {seconds}s")
        if block.transactions:
            say(f"Transactions in block {len(self.chain) - 1}: {len(block.transactions)}")

    THREE_DIGITS = tuple(b"%03d" % number for number in range(1000))  # b"000" to b"999"

    def find_nonce(self, block: Block) -> int:
        """Return the lowest nonce whose hash begins with `block.difficulty` zeros.

        A hash cannot be computed backwards, so a miner can only try one nonce after the other.
        Each further zero takes sixteen times as many tries, because a hex digit has sixteen
        values. In its plainest form, the search is this loop:

            nonce = 0
            while not self.get_hash(block, nonce).startswith("0" * block.difficulty):
                nonce += 1

        The code below finds the same nonce, almost as fast as hashlib can hash. SHA-1 reads the
        bytes before the nonce once, and each try continues from a copy of its state. A hash
        begins with enough zeros if it is not higher than a target: both are compared as bytes.
        """
        target = (16 ** (40 - block.difficulty) - 1).to_bytes(20, "big")
        beginning = hashlib.sha1(self.get_block_bytes(block))
        start = time.perf_counter()
        for nonce in range(1000):
            attempt = beginning.copy()
            attempt.update(b"%d" % nonce)
            if attempt.digest() <= target:
                return nonce
        # From 1000 on, a thousand nonces share their first digits. The last three come from a
        # list, because formatting a number takes as long as hashing it.
        thousands = 0
        while True:
            thousands += 1
            state = beginning.copy()
            state.update(b"%d" % thousands)
            for last_digits in self.THREE_DIGITS:
                attempt = state.copy()
                attempt.update(last_digits)
                if attempt.digest() <= target:
                    return thousands * 1000 + int(last_digits)
            if thousands % 1000 == 0 and os.isatty(1):  # after each million, on a terminal only
                self.show_progress(block, thousands * 1000, time.perf_counter() - start)

    def show_progress(self, block: Block, tries: int, seconds: float) -> None:
        """Show on a terminal how the mining of this block goes.

        Mining has no memory. However long it has taken so far, the average time from now on is
        the same.
        """
        rate = tries / seconds
        average = 16**block.difficulty / rate
        so_far = f"Block {len(self.chain)} @ difficulty {block.difficulty}: {seconds:.0f}s"
        packed = f"{len(block.transactions)} of {len(self.pending_transactions)} pending"
        line = f"{so_far} (average {average:,.0f}s, {rate:,.0f} hashes/s), {packed}"
        # Some terminals report 0 columns. A full row may begin a new one, so one column stays free.
        say(line[: (os.get_terminal_size().columns or 80) - 1], changing=True)

    def append_block(self, block: Block) -> None:
        """Append a block to the chain, and update everything that follows from the chain.

        Every block enters the chain here, whoever mined it. Nothing is checked here.
        """
        mined = set(block.transactions)
        with self.lock:
            self.chain.append(block)
            self.chain_work += 16**block.difficulty
            self.balances[block.miner] += block.miner_rewards
            for transaction in block.transactions:
                self.balances[transaction.sender] -= transaction.amounts + transaction.fee
                self.balances[transaction.receiver] += transaction.amounts
                self.balances[block.miner] += transaction.fee
            self.accepted_transactions |= mined
            pending, self.pending_transactions = self.pending_transactions, []
            self.outgoing.clear()
            for transaction in pending:
                if transaction not in mined:
                    self.add_pending_transaction(transaction)

    def add_pending_transaction(self, transaction: Transaction) -> None:
        """Let an accepted transaction wait for its block. The caller must hold the lock."""
        self.pending_transactions.append(transaction)
        self.outgoing[transaction.sender] += transaction.amounts + transaction.fee
        self.accepted_transactions.add(transaction)

    # ---- Day 04: difficulty, balances, verification. Trust nobody: compute everything again.

    def adjust_difficulty(self) -> int:
        """Adjust the difficulty to the time that blocks took, after every tenth mined block.

        Returns the difficulty for the next block (Day 04). One more zero is sixteen times the
        work. So it is added only if blocks would still take at most `block_time`, here 30 s:

            average  1 s    16 times this is 16 s: one more zero
            average  5 s    16 times this is 80 s: keep the difficulty
            average 40 s    too slow: one zero less, but never less than one zero
        """
        span = self.adjust_difficulty_blocks
        mined = len(self.chain) - 1  # the genesis block was not mined
        if mined == 0 or mined % span:
            return self.difficulty
        # A timestamp says when mining began. So the time for the newest block is not included.
        average = (self.chain[-1].timestamp - self.chain[-1 - span].timestamp) / span
        if average > self.block_time and self.chain[-1].difficulty > 1:
            step, verdict = -1, "Lower the difficulty"
        elif 0 <= average * 16 <= self.block_time:  # below 0 if the clock was set back
            step, verdict = 1, "High up the difficulty"
        else:
            step, verdict = 0, "Keep the difficulty"
        self.difficulty = self.chain[-1].difficulty + step
        say(f"Average block time:{round(average, 2)}s. {verdict}")
        return self.difficulty

    def get_balance(self, account: str) -> int:
        """Return the coins of an account after the newest block; 0 if it is unknown (Day 04)."""
        with self.lock:
            return self.balances[account]

    def verify_blockchain(self) -> bool:
        """Check the whole chain; print the first error, or `Hash correct!` (Day 04).

        Returns True if no change was found. A changed block cannot be found if this block and
        all later ones were mined again with as much work as before.
        """
        with self.lock:
            chain, chain_work = list(self.chain), self.chain_work
        for height, block in enumerate(chain):
            previous_hash = chain[height - 1].hash if height else self.GENESIS_PREVIOUS_HASH
            try:
                self.check_block(block)
                if block.previous_hash != previous_hash:
                    raise Refused("it does not follow the block before it!")
            except Exception as fault:  # Refused, or any error that a wrong value in a field causes
                say(f"Block {height}: {fault}")
                return False
        # Each block alone may be right, although the last blocks were cut off, or some blocks were
        # mined again at a lower difficulty. The sum of their work shows it.
        work = sum(16**block.difficulty for block in chain)
        if work != chain_work:
            more = "more" if work > chain_work else "less"
            say(f"The chain shows {more} work than was done for it!")
            return False
        say("Hash correct!")
        return True

    def check_block(self, block: Block) -> None:
        """Raise Refused if the hash of this block is wrong, or does not show the work.

        This looks at one block alone. It does not check the link to the block before, or the
        rules for difficulty and rewards. It does not check whether the senders had the coins,
        whether they signed, and whether a transaction was mined before.
        """
        # An empty tuple or dict would give the same text as an empty list.
        if type(block.transactions) is not list or block.hash != self.get_hash(block, block.nonce):
            raise Refused("its content is not what was hashed!")
        if not 0 <= block.difficulty <= len(block.hash) - len(block.hash.lstrip("0")):
            raise Refused("its hash does not show the work!")

    # ---- Day 05: keys and signatures. An address is a public key; its private key moves coins.

    def generate_address(self) -> tuple[str, str]:
        """Make a pair of keys. Return the address, which is the public key, and the private key.

        Both are one line of base64 (Day 05). Keys of 512 bits are short enough to copy and paste,
        and too short to protect real coins: see README.md, "Limits".
        """
        public, private = rsa.newkeys(512)
        address = self.get_address_from_public(public.save_pkcs1())
        return address, self.extract_from_private(private.save_pkcs1())

    @staticmethod
    def get_address_from_public(public: bytes) -> str:
        """Return a public key in PEM as one line, without its first and last line (Day 05)."""
        return "".join(public.decode("ascii").splitlines()[1:-1])

    @staticmethod
    def extract_from_private(private: bytes) -> str:
        """Return a private key in PEM as one line, without its first and last line (Day 05)."""
        return "".join(private.decode("ascii").splitlines()[1:-1])

    @staticmethod
    @functools.lru_cache(maxsize=1024)  # reading a key takes longer than checking a signature
    def get_public_from_address(address: str) -> rsa.PublicKey:
        """Return the public key in an address. Raises Refused if the address is not valid.

        The senders choose these keys. With a key of 60,000 bits, one signature check would take
        minutes. The base64 decoder ignores unknown characters. So one key could be written in
        many ways, and each would be another account.
        """
        pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
        with contextlib.suppress(Exception):  # after any exception, the `raise` below comes next
            key = rsa.PublicKey.load_pkcs1(pem.encode("ascii"))
            spelling = BlockChain.get_address_from_public(key.save_pkcs1())
            if 2**511 <= key.n < 2**4096 and 3 <= key.e < 2**32 and spelling == address:
                return key
        raise Refused("Sender must be an address made by generate_address!")

    def check_fields(self, transaction: Transaction) -> None:
        """Raise Refused if this is not a Transaction, or if a field is not valid.

        `isinstance` is too weak here: True is an int, and a subclass can define how it compares.
        NaN, which makes every comparison false, is not an int.
        """
        # An object of another class is never equal to a Transaction, so it could be paid twice.
        if type(transaction) is not Transaction:
            raise Refused("This must be a Transaction of blockchain_server.py!")
        if type(transaction.amounts) is not int or transaction.amounts <= 0:
            raise Refused("Amounts must be a whole number above 0!")
        if type(transaction.fee) is not int or transaction.fee < 0:
            raise Refused("Fee must be a whole number, 0 or more!")
        # No account will ever own so much, and `str` fails for numbers of thousands of digits.
        if transaction.amounts + transaction.fee > 10**18:
            raise Refused("Balance not enough!")
        for name in ("sender", "receiver", "message"):
            if type(getattr(transaction, name)) is not str:
                raise Refused(f"{name.capitalize()} must be a string!")
        if not transaction.receiver:
            raise Refused("Receiver must not be empty!")
        self.get_public_from_address(transaction.sender)

    def check_signature(self, transaction: Transaction, signature: bytes) -> bool:
        """Return True if the sender of the transaction signed it, with SHA-1 (Day 05)."""
        data = self.transaction_to_string(transaction).encode("utf-8")
        key = self.get_public_from_address(transaction.sender)
        # OverflowError: the signature names a hash that is too long for the key, like SHA-512.
        with contextlib.suppress(rsa.VerificationError, OverflowError):
            return type(signature) is bytes and rsa.verify(data, signature, key) == "SHA-1"
        return False

    def add_transaction(self, transaction: Transaction, signature: bytes) -> tuple[bool, str]:
        """Accept a signed transaction, so that it will be mined, or refuse it (Day 05).

        Returns whether it was accepted, and a message. Never raises an exception, even if the
        fields are wrong.
        """
        try:
            self.check_fields(transaction)
            signed = self.check_signature(transaction, signature)  # slow, so before the lock
            cost = transaction.amounts + transaction.fee
            with self.lock:
                if transaction in self.accepted_transactions:
                    raise Refused("Accepted before! To pay the same again, change the comment.")
                # This checks the coins, and add_pending_transaction reserves them. Without the
                # lock, two threads could both check before one of them reserves.
                if cost > self.balances[transaction.sender] - self.outgoing[transaction.sender]:
                    raise Refused("Balance not enough!")
                if not signed:  # said after the balance, as in the article
                    raise Refused("RSA Verified wrong!")
                self.add_pending_transaction(transaction)
        except Refused as refusal:
            return False, str(refusal)
        return True, "Authorized successfully!"

    # ---- Day 06: the node. One thread mines, one waits for clients, and each client has its own.

    def start(self) -> NoReturn:
        """Run the node: listen, show the miner's keys, mine (Day 06). Never returns.

        Raises Refused if the port cannot be used.
        """
        self.start_socket_server()
        address, private = self.generate_address()
        # Show the interpreter and the script's folder as the user typed them for the node.
        paths = sys.orig_argv[0], os.path.join(os.path.dirname(sys.argv[0]), "blockchain_client.py")
        python, client = (f'"{path}"' if " " in path else path for path in paths)
        keys = f"Miner address: {address}\nMiner private: {private}\n"
        keys += f"Listening on port {self.socket_port}. Ctrl-C ends the node and its chain.\n"
        keys += f"In another terminal, type: {python} {client} {self.socket_port}"
        say(keys)
        self.create_genesis_block()
        while True:
            self.mine_block(address)
            self.adjust_difficulty()
            if len(self.chain) == 51:
                # The first fifty blocks came fast, and the keys are no longer on the screen.
                say(keys)

    def start_socket_server(self) -> None:
        """Open the port, and wait for connections in a thread (Day 06).

        Raises Refused if the port cannot be used.
        """
        # The miner never waits, so other threads must ask it for a turn. By default, they ask
        # after 5 ms, several times for each answer. Here they ask after 20 microseconds.
        sys.setswitchinterval(0.00002)
        try:
            # The article's socket, bind and listen in one call, with the options of each system.
            server = socket.create_server((self.socket_host, self.socket_port), backlog=1024)
        except (OSError, OverflowError) as error:
            reason = str(getattr(error, "strerror", error)).partition(" (while ")[0]
            raise Refused(f"port {self.socket_port} failed ({reason}). Choose another.") from error
        self.socket_port = server.getsockname()[1]
        threading.Thread(target=self.wait_for_socket_connection, args=[server], daemon=True).start()

    def wait_for_socket_connection(self, server: socket.socket) -> NoReturn:
        """Give each new connection a thread of its own (Day 06). Never returns."""
        while True:
            try:
                threading.Thread(
                    target=self.receive_socket_message, args=server.accept(), daemon=True
                ).start()
            except ConnectionError:  # the client left before it was accepted
                continue
            except (OSError, RuntimeError, MemoryError) as error:
                # If no file descriptor is free, the client waits. If no thread can start, its
                # connection is closed.
                say(f"Too many connections: {error}")
                time.sleep(1)

    def receive_socket_message(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Answer one client until it leaves, or sends something that is not a request (Day 06)."""
        say(f"Connected by: {address}")
        with connection, connection.makefile("rb") as received:
            refusal = ""
            # A pickle ends with its own STOP, so nothing has to stand between two requests.
            # There is no time limit: the person at the other end may be slow.
            while not refusal and (beginning := wait_for_bytes(received)):
                say(f"[*] Received: {beginning!r}")
                try:
                    request = RequestReader(RequestBytes(received, MAX_REQUEST_BYTES)).load()
                    answer = self.respond(request)
                except Refused as refused:
                    refusal = str(refused)
                # Here the `except` has ended, and the memory of a refused request is free again.
                if refusal:
                    say(f"{beginning!r} cannot be parsed: {refusal}")
                    answer = {"message": refusal}
                with contextlib.suppress(OSError):  # the client has left
                    connection.sendall(str(answer).encode("utf8"))
            # If we close before we have read all bytes, the client may lose the answer.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

    def respond(self, request: Any) -> dict[str, Any]:
        """Return the answer to a request. Raises Refused if it is not a request."""
        if type(request) is not dict or "request" not in request:
            raise Refused('A request is a dict with the key "request".')
        if request["request"] == "get_balance":
            say("Start to get the balance for client...")
            address = request.get("address")
            if type(address) is not str:
                raise Refused('get_balance needs an "address", which is a string.')
            return {"address": address, "balance": self.get_balance(address)}
        if request["request"] == "transaction":
            say("Start to transaction for client...")
            try:  # `data` arrives as the dict of its fields: see RequestReader
                transaction, signature = Transaction(**request["data"]), request["signature"]
            except (KeyError, TypeError):
                raise Refused('transaction needs "data" (a Transaction) and "signature".') from None
            result, result_message = self.add_transaction(transaction, signature)
            return {"result": result, "result_message": result_message}
        return {"message": "Unknown command."}


# ---- Day 06: requests from outside. A pickle is a program: only harmless ones may run here.

MAX_REQUEST_BYTES = 16_384  # a transaction takes about 400; the rest is for a long comment


def wait_for_bytes(file: io.BufferedReader) -> bytes:
    """Wait for the next request. Return its first bytes, or b"" if the client has left."""
    with contextlib.suppress(OSError):  # the connection was cut off
        return file.peek(1)[:100]
    return b""


class RequestBytes:
    """The bytes of one request. They are counted, and too many are refused before they are read."""

    def __init__(self, file: io.BufferedReader, limit: int) -> None:
        """Read from `file`, which is a client's connection, at most `limit` bytes."""
        self.file = file
        self.limit = self.left = limit

    def read(self, size: int) -> bytes:
        """Return `size` bytes. Raises Refused if the limit or the connection ends before them."""
        self.left -= size
        if self.left < 0:
            raise Refused(f"A request may have at most {self.limit} bytes.")
        data = self.file.read(size)
        if len(data) < size:
            raise Refused("The request ends in the middle.")
        return data

    def readline(self) -> bytes:
        """Return the bytes up to a line feed, or up to the limit."""
        line = self.file.readline(self.left)
        self.left -= len(line)
        return line


class RequestReader(pickle._Unpickler):
    """Reads one request from a file that has `read` and `readline`.

    A pickle is a program for a machine with a stack. This program makes {"request": "hello"}:

        pickle instruction            stack after it
        EMPTY_DICT                    {}
        SHORT_BINUNICODE 'request'    {}  'request'
        SHORT_BINUNICODE 'hello'      {}  'request'  'hello'
        SETITEM                       {'request': 'hello'}
        STOP                          the program ends, and the top of the stack is its result

    Other pickle instructions call any function that the program names, and `pickle.loads` obeys.
    Checking a pickle before loading it is not safe: then two readers read it, and a trick can make
    them see different things. So this reader itself does not have these instructions. Python's
    reader, `_Unpickler`, looks up each instruction in a table. Here the table is shorter.
    """

    stack: list[Any]

    # A loop over bytes gives ints, and the table has an int for each pickle instruction.
    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code]
        for code in pickle.PROTO + pickle.FRAME + pickle.STOP + pickle.MARK
        + pickle.MEMOIZE + pickle.BINPUT + pickle.BINGET  # to use an object a second time
        + pickle.BINUNICODE + pickle.SHORT_BINUNICODE + pickle.BINBYTES + pickle.SHORT_BINBYTES
        + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG1 + pickle.LONG4
        + pickle.EMPTY_DICT + pickle.SETITEM + pickle.SETITEMS
        # A Transaction comes in three steps: its class, an object of it, and the fields (BUILD).
        + pickle.GLOBAL + pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    }  # fmt: skip

    def load(self) -> Any:
        """Return the value of the next pickle. Raises Refused if a request cannot look like it."""
        try:
            return super().load()
        except Refused:
            raise
        except Exception:  # for example, a pickle instruction is missing in the table
            raise Refused("A request has only strings, bytes, numbers, a Transaction.") from None

    def find_class(self, module: str, name: str) -> type:
        """Return `object` if the class is named Transaction, in whatever module it was defined.

        NEWOBJ then makes a bare object(), and load_build puts the dict of fields in its place. So a
        pickle never gets the real class, and cannot change it.
        """
        if name == "Transaction":
            return object
        raise pickle.UnpicklingError

    def load_build(self) -> None:
        """Take the bare object off the stack, and leave the dict of fields that is above it."""
        self.stack[-2:] = self.stack[-1:]

    dispatch[pickle.BUILD[0]] = load_build


# ---- Day 06: the screen, the end, and the command line.

screen_lock = threading.Lock()
changing_width = 0  # columns of the line that the next one will replace; 0 if there is none


def say(line: str, changing: bool = False) -> None:
    """Print a line. A lock keeps the lines of two threads apart.

    After a `changing` line, the next line takes its place on the screen: the cursor returns to
    the start of the row, and spaces erase the old text.
    """
    global changing_width
    with screen_lock:
        erase = "\r" + " " * changing_width + "\r" if changing_width else ""
        changing_width = len(line) if changing else 0
        try:
            print(erase + line, end="" if changing else "\n", flush=True)
        except BrokenPipeError:  # nobody reads the output any more
            os._exit(1)


def say_goodbye(*_: Any) -> NoReturn:
    """End the process at once on Ctrl-C.

    A KeyboardInterrupt could come just after a lock was taken, and leave it locked.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends a write that waits
    with contextlib.suppress(OSError):  # nobody reads the output any more
        os.write(1, b"\nGoodbye! The chain ends with its node.\n")
    os._exit(0)


def main() -> None:
    """Run a node until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A blockchain node. It listens on 127.0.0.1.")
    parser.add_argument("port", type=int, help="the port to listen on, for example 1111")
    node = BlockChain(parser.parse_args().port)
    signal.signal(signal.SIGINT, say_goodbye)
    # A character that the terminal cannot show must not stop the node.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        node.start()
    except Refused as refusal:
        sys.exit(f"blockchain_server.py: {refusal}")


if __name__ == "__main__":
    main()
