"""A blockchain node in one file: the ledger of Days 02 to 05, on a socket as of Day 06.

    python blockchain_server.py 1111

The node mines until Ctrl-C. Meanwhile `blockchain_client.py` asks it for balances and sends it
signed payments. Read downwards, the file follows the series:

    Day 02  Transaction, Block, BlockChain          what a chain is made of
    Day 03  transaction_to_string ... append_block  hashing and mining
    Day 04  adjust_difficulty ... check_block       difficulty, balances, verification
    Day 05  generate_address ... add_transaction    keys, signatures, the rules of money
    Day 06  start ... main                          threads, sockets, and what strangers send

In a Python shell, `BlockChain()` is the ledger alone. README.md lists what is simplified.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
from typing import Any, BinaryIO, NoReturn

try:
    import rsa
except ModuleNotFoundError:
    sys.exit("The package rsa is missing. README.md tells how to install it.")


# ---- Day 02: the shapes. A chain is a list of blocks, a block holds a list of transactions.


@dataclasses.dataclass(frozen=True)
class Transaction:
    """A payment, as it is signed, sent and mined (Day 02). Once made, it cannot change."""

    sender: str  # an address: the public key that the signature must fit
    receiver: str  # an address, or any other text
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner of the block, on top of the amounts
    message: str  # the sender's comment


@dataclasses.dataclass
class Block:
    """Transactions, with the proof that work was done on them (Day 02)."""

    previous_hash: str  # of the block before: this is what makes it a chain
    difficulty: int  # zeros that the hash must begin with
    miner: str  # the address that gets the rewards and the fees
    miner_rewards: int  # coins that this block creates
    hash: str = ""  # empty until mined
    nonce: int = 0  # the number that gives the hash its zeros
    timestamp: int = dataclasses.field(default_factory=lambda: int(time.time()))  # when it began
    transactions: list[Transaction] = dataclasses.field(default_factory=list)


class Refused(Exception):
    """Raised to say no. Its text is a sentence for whoever asked."""


class BlockChain:
    """The ledger; and with `start()`, the node around it.

    The main thread mines. A thread for each client calls `get_balance` and `add_transaction`.
    One lock guards what both sides touch. Nobody does anything slow while holding it.
    """

    def __init__(self, socket_port: int = 0) -> None:
        """Make an empty ledger. `start()` will listen on `socket_port`; 0 means any free port."""
        self.adjust_difficulty_blocks = 10  # from one change of difficulty to the next
        self.difficulty = 1  # zeros that the next block's hash must begin with
        self.block_time = 30  # seconds that a block should take
        self.miner_rewards = 10  # coins that a block creates
        self.block_limitation = 32  # transactions in a block, at most
        self.chain: list[Block] = []  # oldest first; only append_block adds one
        self.pending_transactions: list[Transaction] = []  # accepted, not yet mined

        # What follows from these lists, kept at hand. A Counter answers 0 for a key it lacks.
        self.lock = threading.Lock()
        self.balances: collections.Counter[str] = collections.Counter()  # account: coins
        self.outgoing: collections.Counter[str] = collections.Counter()  # account: coins pending
        self.accepted_payments: set[Transaction] = set()  # all that wait or were mined
        self.chain_work = 0  # hashes that the chain took, on average

        self.socket_host = "127.0.0.1"
        self.socket_port = socket_port

    # ---- Day 03: hashing and mining. A hash is a fingerprint; work makes it costly to forge one.

    GENESIS_PREVIOUS_HASH = "Hello World!"

    @staticmethod
    def transaction_to_string(transaction: Transaction) -> str:
        """Return the text of a transaction. It is what the sender signs and what a block hashes.

        The client has the same function: if one character differs, no signature fits.

        >>> BlockChain.transaction_to_string(Transaction("alice", "bob", 50, 1, "Thank you"))
        "{'sender': 'alice', 'receiver': 'bob', 'amounts': 50, 'fee': 1, 'message': 'Thank you'}"
        """
        transaction_dict = {
            "sender": transaction.sender,
            "receiver": transaction.receiver,
            "amounts": transaction.amounts,
            "fee": transaction.fee,
            "message": transaction.message,
        }
        return str(transaction_dict)

    def get_transactions_string(self, block: Block) -> str:
        """Return the texts of a block's transactions, one after the other."""
        return "".join(map(self.transaction_to_string, block.transactions))

    def get_block_bytes(self, block: Block) -> bytes:
        """Return what is hashed in front of the nonce: all other fields, as the text of a dict.

        SHA-1 reads its input in pieces of 64 bytes. Blanks fill up the last piece, so the nonce
        begins a new one, and each try costs that one piece only.
        """
        fields = {**vars(block), "transactions": self.get_transactions_string(block)}
        del fields["hash"], fields["nonce"]
        data = str(fields).encode("utf-8")
        return data + b" " * (-len(data) % 64)

    def get_hash(self, block: Block, nonce: int) -> str:
        """Return the SHA-1 of the block with this nonce, as 40 hex digits.

        Another nonce gives another hash, and nobody can tell beforehand which one:

        >>> block = Block("Hello World!", 1, "alice", 10, timestamp=1571000000)
        >>> [BlockChain().get_hash(block, nonce)[:8] for nonce in (0, 1, 2)]
        ['2ca5184b', '3c52216a', '32da2b45']
        """
        data = self.get_block_bytes(block) + repr(nonce).encode("utf-8")
        return hashlib.sha1(data).hexdigest()

    def create_genesis_block(self) -> None:
        """Begin the chain with a block that took no work (Day 03)."""
        say("Create genesis block...")
        block = Block(self.GENESIS_PREVIOUS_HASH, 0, "lkm543", self.miner_rewards)
        block.hash = self.get_hash(block, block.nonce)
        self.append_block(block)

    def add_transaction_to_block(self, block: Block) -> None:
        """Copy the pending transactions with the highest fees into the block.

        They stay pending until the block is on the chain: nothing is lost if mining is interrupted.
        Of equal fees the older goes first.
        """
        with self.lock:
            pending = list(self.pending_transactions)
        best_first = sorted(pending, key=lambda transaction: transaction.fee, reverse=True)
        block.transactions = best_first[: self.block_limitation]

    def mine_block(self, miner: str) -> None:
        """Make a block of what is pending, find its nonce, and put it on the chain.

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
            say(f"Payments in block {len(self.chain) - 1}: {len(block.transactions)}")

    # The last digits of a nonce, ready made: 1007 ends in 007, but 7 is just 7.
    FIRST_ENDINGS = [b"%d" % number for number in range(1000)]
    ENDINGS = [b"%03d" % number for number in range(1000)]

    def find_nonce(self, block: Block) -> int:
        """Return the lowest nonce whose hash begins with `block.difficulty` zeros.

        A hash cannot be run backwards, from the zeros to the nonce. One can only try. Each hex
        digit has sixteen values, so each zero more takes sixteen times as many tries:

            nonce = 0
            while not self.get_hash(block, nonce).startswith("0" * block.difficulty):
                nonce += 1

        The code below finds the same nonce, about as fast as hashlib can hash. The bytes before
        the nonce never change, so SHA-1 reads them once, and each try goes on from a copy. A
        thousand numbers share their first digits, so the last three come from a list. And a
        hash begins with zeros if, as a number, it is no higher than a target.
        """
        target = (16 ** (40 - block.difficulty) - 1).to_bytes(20, "big")
        beginning = hashlib.sha1(self.get_block_bytes(block))
        start = shown = time.perf_counter()
        thousands = 0
        while True:
            state = beginning.copy()
            if thousands:
                state.update(b"%d" % thousands)
            for ending in self.ENDINGS if thousands else self.FIRST_ENDINGS:
                attempt = state.copy()
                attempt.update(ending)
                if attempt.digest() <= target:
                    return thousands * 1000 + int(ending)
            thousands += 1
            now = time.perf_counter()
            if now > shown + 1:
                shown = now
                self.show_progress(block, thousands * 1000, now - start)

    def show_progress(self, block: Block, tries: int, seconds: float) -> None:
        """Show on a terminal how the mining of this block goes.

        Luck has no memory: however long it took so far, the average time from now on is the same.
        """
        so_far = f"Block {len(self.chain)} @ difficulty {block.difficulty}: {seconds:.0f}s"
        rate = tries / seconds
        average = 16**block.difficulty / rate
        say(f"{so_far} (average {average:,.0f}s, {rate:,.0f} hashes/s)", changing=True)

    def append_block(self, block: Block) -> None:
        """Put a sound block on the chain, with all that follows from it.

        The only door into the chain, whoever mined the block. `check_block` tells what is sound.
        """
        mined = set(block.transactions)  # which hashes each of them, so before the lock
        with self.lock:
            self.chain.append(block)
            self.chain_work += 16**block.difficulty
            self.balances[block.miner] += block.miner_rewards
            for transaction in block.transactions:
                self.balances[transaction.sender] -= transaction.amounts + transaction.fee
                self.balances[transaction.receiver] += transaction.amounts
                self.balances[block.miner] += transaction.fee
            self.accepted_payments |= mined
            self.pending_transactions = [t for t in self.pending_transactions if t not in mined]
            self.outgoing.clear()
            for transaction in self.pending_transactions:
                self.outgoing[transaction.sender] += transaction.amounts + transaction.fee

    # ---- Day 04: difficulty, balances, verification. Nobody is trusted: everything is recomputed.

    def adjust_difficulty(self) -> int:
        """After every tenth mined block, fit the difficulty to the time that blocks took.

        Returns the difficulty. One zero more is sixteen times the work, so it is added only if
        blocks would still come within `block_time`, here 30 s:

            average  1 s    16 times that is 16 s: one zero more
            average  5 s    16 times that is 80 s: keep
            average 40 s    too slow: one zero fewer, but never below one
        """
        span = self.adjust_difficulty_blocks
        mined = len(self.chain) - 1  # genesis was not mined
        if mined < span or mined % span:
            return self.difficulty
        # From beginning to beginning, so the time of the block just mined does not count yet.
        average = (self.chain[-1].timestamp - self.chain[-1 - span].timestamp) / span
        if average > self.block_time and self.difficulty > 1:
            self.difficulty -= 1
            verdict = "Lower the difficulty"
        elif 0 <= average * 16 <= self.block_time:  # below 0 if the clock was set back
            self.difficulty += 1
            verdict = "High up the difficulty"
        else:
            verdict = "Keep the difficulty"
        say(f"Average block time:{round(average, 2)}s. {verdict}")
        return self.difficulty

    def get_balance(self, account: str) -> int:
        """Return the coins of an account as of the last block; 0 if it is unknown."""
        with self.lock:
            return self.balances[account]

    def verify_blockchain(self) -> bool:
        """Recompute the whole chain; print what is wrong with it, or `Hash correct!`.

        Returns whether no change is to be seen. Whoever changes a block, and mines it and all
        later ones again with as much work as before, leaves no trace.
        """
        with self.lock:
            chain, chain_work = list(self.chain), self.chain_work
        previous_hash = self.GENESIS_PREVIOUS_HASH
        for height, block in enumerate(chain):
            try:
                self.check_block(block, previous_hash)
            except Exception as fault:  # Refused, or what nonsense in a field leads to
                say(f"Block {height}: {fault}")
                return False
            previous_hash = block.hash
        work = sum(16**block.difficulty for block in chain)
        if work != chain_work:
            more = "more" if work > chain_work else "less"
            say(f"The chain shows {more} work than was done for it!")
            return False
        say("Hash correct!")
        return True

    def check_block(self, block: Block, previous_hash: str) -> None:
        """Raise Refused if this block cannot follow one with that hash.

        It looks at the hash, the work and the link. It does not look at the rules for difficulty
        and rewards, nor whether the senders had the coins, signed, and pay for the first time.
        """
        if type(block.transactions) is not list or block.hash != self.get_hash(block, block.nonce):
            raise Refused("its content is not what was hashed!")
        if not 0 <= block.difficulty <= len(block.hash) - len(block.hash.lstrip("0")):
            raise Refused("its hash does not show the work!")
        if block.previous_hash != previous_hash:
            raise Refused("it does not follow the block before it!")

    # ---- Day 05: keys and signatures. An address is a public key; its private key moves coins.

    def generate_address(self) -> tuple[str, str]:
        """Make a pair of keys. Return the address, which is the public key, and the private key.

        512 bits are short enough to paste, and too short for real coins: see README.md, "Limits".
        """
        public, private = rsa.newkeys(512)
        address = self.get_address_from_public(public.save_pkcs1())
        return address, self.extract_from_private(private.save_pkcs1())

    @staticmethod
    def get_address_from_public(public: bytes) -> str:
        """Return a public key in PEM without its first and last line, as one line."""
        return "".join(public.decode("ascii").splitlines()[1:-1])

    @staticmethod
    def extract_from_private(private: bytes) -> str:
        """Return a private key in PEM without its first and last line, as one line."""
        return "".join(private.decode("ascii").splitlines()[1:-1])

    @staticmethod
    @functools.lru_cache(maxsize=1024)  # reading a key takes longer than checking a signature
    def get_public_from_address(address: str) -> rsa.PublicKey:
        """Return the key that an address is. Raises Refused if it is none.

        Strangers choose these keys: one of 60,000 bits would keep the node busy for minutes. And
        base64 skips what it does not know, so one key could be written as many accounts.
        """
        pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
        with contextlib.suppress(Exception):  # `rsa` and `pyasn1` have many ways to say "no key"
            key = rsa.PublicKey.load_pkcs1(pem.encode("ascii"))
            spelling = BlockChain.get_address_from_public(key.save_pkcs1())
            if 2**511 <= key.n < 2**4096 and 3 <= key.e < 2**32 and spelling == address:
                return key
        raise Refused("Sender must be an address as generate_address makes them!")

    def check_fields(self, transaction: Transaction) -> None:
        """Raise Refused if this is no payment, or a field of it cannot be right.

        `isinstance` would not do: True is an int, too, and a subclass may compare as it likes.
        NaN, for which every comparison is false, is no int.
        """
        if type(transaction) is not Transaction:  # no look-alike equals one: it could be paid twice
            raise Refused("A payment must be a Transaction of blockchain_server.py!")
        if type(transaction.amounts) is not int or transaction.amounts <= 0:
            raise Refused("Amounts must be a whole number above 0!")
        if type(transaction.fee) is not int or transaction.fee < 0:
            raise Refused("Fee must be a whole number, 0 or more!")
        # Nobody will ever have so much, and `str` refuses numbers of thousands of digits.
        if transaction.amounts + transaction.fee > 10**18:
            raise Refused("Balance not enough!")
        if type(transaction.receiver) is not str or not transaction.receiver:
            raise Refused("Receiver must be a text, and not an empty one!")
        if type(transaction.message) is not str:
            raise Refused("Message must be a text!")
        if type(transaction.sender) is not str:
            raise Refused("Sender must be a text!")
        self.get_public_from_address(transaction.sender)

    def check_signature(self, transaction: Transaction, signature: bytes) -> bool:
        """Return whether the sender of a payment signed it, with SHA-1."""
        data = self.transaction_to_string(transaction).encode("utf-8")
        key = self.get_public_from_address(transaction.sender)
        try:
            return type(signature) is bytes and rsa.verify(data, signature, key) == "SHA-1"
        except (rsa.VerificationError, OverflowError):  # OverflowError: names a hash like SHA-512
            return False

    def add_transaction(self, transaction: Transaction, signature: bytes) -> tuple[bool, str]:
        """Accept a signed payment, to be mined, or refuse it.

        Returns whether it was accepted, and why not. Never raises, whatever stands in the fields.
        """
        try:
            self.check_fields(transaction)
            signed = self.check_signature(transaction, signature)  # slow, so before the lock
            sender, cost = transaction.sender, transaction.amounts + transaction.fee
            with self.lock:
                if transaction in self.accepted_payments:
                    raise Refused("Accepted before! To pay the same again, change the comment.")
                # The next line looks at the coins, and `outgoing` spends them. Without the lock,
                # two threads could both look before either spends.
                if cost > self.balances[sender] - self.outgoing[sender]:
                    raise Refused("Balance not enough!")
                if not signed:  # said after the balance, as in the article
                    raise Refused("RSA Verified wrong!")
                self.outgoing[sender] += cost
                self.accepted_payments.add(transaction)
                self.pending_transactions.append(transaction)
        except Refused as refusal:
            return False, str(refusal)
        return True, "Authorized successfully!"

    # ---- Day 06: the node. One thread mines, one waits for clients, and each client has its own.

    def start(self) -> NoReturn:
        """Be a node: listen, show the miner's keys, mine. Raises Refused if the port is taken."""
        self.start_socket_server()
        address, private = self.generate_address()
        say(f"Miner address: {address}")
        say(f"Miner private: {private}")
        python = sys.executable.removeprefix(os.getcwd() + os.sep)  # as one types it here
        client = f"{python} blockchain_client.py {self.socket_port}"
        say(f"Listening on port {self.socket_port}. In another terminal, type: {client}")
        self.create_genesis_block()
        while True:
            self.mine_block(address)
            self.adjust_difficulty()

    def start_socket_server(self) -> None:
        """Open the port, and wait for connections in a thread. Raises Refused if it is taken."""
        # A thread that wants to answer asks for its turn after 20 µs. Python's own 5 ms would be
        # paid several times for each answer, because the miner never rests.
        sys.setswitchinterval(0.00002)
        try:
            # The article's socket, bind and listen in one, with what each system needs.
            server = socket.create_server((self.socket_host, self.socket_port), backlog=1024)
        except (OSError, OverflowError) as error:
            raise Refused(f"port {self.socket_port}: {error}") from error
        self.socket_port = server.getsockname()[1]
        threading.Thread(target=self.wait_for_socket_connection, args=[server], daemon=True).start()

    def wait_for_socket_connection(self, server: socket.socket) -> NoReturn:
        """Give each new connection a thread of its own, for ever."""
        while True:
            try:
                threading.Thread(
                    target=self.receive_socket_message, args=server.accept(), daemon=True
                ).start()
            except ConnectionError:  # the client left before it was accepted
                continue
            except (OSError, RuntimeError, MemoryError) as error:
                # No descriptor is left, and this client waits; or no thread, and it is dropped.
                say(f"Too many connections: {error}")
                time.sleep(1)

    def receive_socket_message(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Answer one client until it leaves, or sends what is no request."""
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as received:
            say(f"Connected by: {address}")
            try:
                # A pickle ends with its own STOP, so nothing has to stand between two requests.
                # There is no time limit: a person, who sits behind a connection, may be slow.
                while beginning := received.peek(1)[:100]:
                    say(f"[*] Received: {beginning!r}")
                    request = RequestReader(RequestBytes(received)).load()
                    connection.sendall(str(self.respond(request)).encode("utf8"))
            except Refused as refusal:
                say(f"{beginning!r} cannot be parsed: {refusal}")
                connection.sendall(str({"message": str(refusal)}).encode("utf8"))
                # Closing while bytes of the client are unread could take the answer back.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

    def respond(self, request: Any) -> dict[str, Any]:
        """Return the answer to a request. Raises Refused if it is none."""
        if type(request) is not dict or "request" not in request:
            raise Refused('A request is a dict with the key "request".')
        if request["request"] == "get_balance":
            say("Start to get the balance for client...")
            address = request.get("address")
            if type(address) is not str:
                raise Refused("get_balance needs an address, which is a text.")
            return {"address": address, "balance": self.get_balance(address)}
        if request["request"] == "transaction":
            say("Start to transaction for client...")
            try:  # `data` arrives as the dict of its fields: see RequestReader
                transaction, signature = Transaction(**request["data"]), request["signature"]
            except (KeyError, TypeError):
                raise Refused("transaction needs data, a Transaction, and a signature.") from None
            result, result_message = self.add_transaction(transaction, signature)
            return {"result": result, "result_message": result_message}
        return {"message": "Unknown command."}


# ---- Day 06: requests from strangers. A pickle is a program: only harmless ones may run here.

MAX_REQUEST_BYTES = 16_384  # a payment has about 400; this is room for a long comment


class RequestBytes:
    """The bytes of one request: counted, and refused before any of them is held."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = MAX_REQUEST_BYTES

    def read(self, size: int) -> bytes:
        """Return so many bytes. Raises Refused if so many are not allowed, or not there."""
        self.left -= size
        if self.left < 0:
            raise Refused(f"A request has {MAX_REQUEST_BYTES} bytes at most.")
        data = self.file.read(size)
        if len(data) < size:
            raise Refused("The request ends in the middle.")
        return data

    def readline(self) -> bytes:
        """Return the bytes up to a line feed."""
        line = self.file.readline(self.left)
        self.left -= len(line)
        return line


class RequestReader(pickle._Unpickler):
    """Reads one request from a file that has `read` and `readline`.

    A pickle is a program for a machine with a stack. This one makes {"request": "hello"}:

        EMPTY_DICT                    {}
        SHORT_BINUNICODE 'request'    {}  'request'
        SHORT_BINUNICODE 'hello'      {}  'request'  'hello'
        SETITEM                       {'request': 'hello'}
        STOP                                                the result is on top

    Other instructions call any function that the program names, and `pickle.loads` obeys. To
    look for them beforehand would not do: that is a second reader, and two readers can be made
    to see two programs. Here the machine itself lacks them. Python's own, `_Unpickler`, looks
    up each instruction in a table, and this is one with a shorter table.
    """

    dispatch = {
        code: pickle._Unpickler.dispatch[code]
        for code in pickle.PROTO + pickle.FRAME + pickle.STOP + pickle.MARK
        + pickle.MEMOIZE + pickle.BINPUT + pickle.BINGET  # a memo, for what is needed again
        + pickle.BINUNICODE + pickle.SHORT_BINUNICODE + pickle.BINBYTES + pickle.SHORT_BINBYTES
        + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG1 + pickle.LONG4
        + pickle.EMPTY_DICT + pickle.SETITEM + pickle.SETITEMS
        # A Transaction: its class, an object without arguments, and then its fields (BUILD).
        + pickle.GLOBAL + pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    }  # fmt: skip

    def load(self) -> Any:
        """Return what the next pickle stands for. Raises Refused if no request looks like it."""
        try:
            return super().load()
        except (Refused, OSError):  # OSError: the client has gone
            raise
        except Exception:  # an instruction that is missing, or makes no sense here
            raise Refused("A request holds texts, whole numbers and a Transaction only.") from None

    def find_class(self, module: str, name: str) -> type:
        """Return `object` for a Transaction: the real class never comes within a pickle's reach."""
        if (module, name) == ("__main__", "Transaction"):
            return object
        raise pickle.UnpicklingError

    def load_build(self) -> None:
        """Let the dict of its fields take the place of a Transaction. Nothing is copied."""
        self.stack[-2:] = self.stack[-1:]

    dispatch[pickle.BUILD[0]] = load_build


# ---- Day 06: the screen, the end, and the command line.


def say(line: str, changing: bool = False) -> None:
    """Print a line in one piece, so that the lines of two threads never mix.

    A line that is `changing` is for terminals only. The next one is written over it: the cursor
    goes back to where it began, and blanks make each line as wide as the window.
    """
    terminal = sys.stdout.isatty() and os.isatty(1)  # IDLE's window claims to be one
    width = os.get_terminal_size().columns - 1 if terminal else 0
    line = line[:width] if changing else line
    if line:
        print(line.ljust(width) + ("\r" if changing else "\n"), end="", flush=True)


def say_goodbye(*_: Any) -> NoReturn:
    """End at Ctrl-C. A KeyboardInterrupt could strike just where a lock has been taken."""
    try:
        os.write(1, b"\nGoodbye! The chain ends with its node.\n")
    finally:
        os._exit(0)


def main() -> None:
    """Run a node until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description="A blockchain node: it mines, and answers clients on 127.0.0.1.",
        epilog="example: python blockchain_server.py 1111",
    )
    parser.add_argument("port", type=int, help="the port to listen on, 1 to 65535")
    node = BlockChain(parser.parse_args().port)
    signal.signal(signal.SIGINT, say_goodbye)
    sys.stdout.reconfigure(errors="backslashreplace")  # for what this terminal cannot show
    try:
        node.start()
    except Refused as refusal:
        sys.exit(f"blockchain_server.py: {refusal}")
    except BrokenPipeError:  # whoever read the output has gone
        os._exit(1)


if __name__ == "__main__":
    main()
