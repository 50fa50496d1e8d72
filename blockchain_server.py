"""A blockchain node in one file. Days 02 to 05 make a ledger, and Day 06 adds the network.

    python blockchain_server.py 1111

The node mines until Ctrl-C. Meanwhile, `blockchain_client.py` asks it for balances and sends it
signed transactions. The file has the same order as the series of articles:

    Day 02  Transaction, Block, BlockChain          the parts of a chain
    Day 03  transaction_to_string ... append_block  hashing and mining
    Day 04  adjust_difficulty ... check_block       difficulty, balances, verification
    Day 05  generate_address ... add_transaction    keys, signatures, rules for transactions
    Day 06  start ... main                          threads, sockets, requests from outside

All parts print with the function `say`, near the end. In a Python shell, `BlockChain()` makes a
ledger without a node. README.md lists what is simplified.
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
import shutil
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


# ---- Day 02: the data. A chain is a list of blocks, and a block has a list of transactions.


@dataclasses.dataclass(frozen=True)
class Transaction:
    """Coins that one account sends to another (Day 02). A transaction cannot be changed."""

    sender: str  # an address: the public key that checks the signature
    receiver: str  # an address, or any other string
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner of the block, in addition to the amounts
    message: str  # a comment by the sender


@dataclasses.dataclass
class Block:
    """A list of transactions (Day 02). Its hash proves that the miner did work for it."""

    previous_hash: str  # the hash of the block before; it makes a chain of the blocks
    difficulty: int  # number of zeros that the hash must begin with
    miner: str  # the address that gets the rewards and the fees
    miner_rewards: int  # coins that this block creates
    hash: str = ""  # empty until the block is mined
    nonce: int = 0  # the number that gives the hash its zeros
    # The second in which the mining of this block began.
    timestamp: int = dataclasses.field(default_factory=lambda: int(time.time()))
    transactions: list[Transaction] = dataclasses.field(default_factory=list)


class Refused(Exception):
    """Raised to refuse something. Its text is shown to the person who asked."""


class BlockChain:
    """The ledger: the chain, and the data that belongs to it. `start()` makes a node of it.

    The main thread mines. A thread for each client calls `get_balance` and `add_transaction`.
    One lock guards the data that these threads share. A thread holds the lock for a short time
    only: it hashes blocks, checks signatures, prints and uses the network without the lock.
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

        # These four are computed from the two lists above, and change together with them.
        # `outgoing` holds the coins that each account pays with its pending transactions.
        # A Counter returns 0 for an account that it does not know.
        self.balances: collections.Counter[str] = collections.Counter()  # coins of each account
        self.outgoing: collections.Counter[str] = collections.Counter()
        # A transaction of this set that is not in pending_transactions was mined.
        self.accepted_transactions: set[Transaction] = set()
        self.chain_work = 0  # how many hashes it takes, on average, to mine this chain
        self.lock = threading.Lock()

        self.socket_host = "127.0.0.1"
        self.socket_port = socket_port

    # ---- Day 03: hashing and mining. A hash identifies a block. Mining makes a forgery costly.

    GENESIS_PREVIOUS_HASH = "Hello World!"

    @staticmethod
    def transaction_to_string(transaction: Transaction) -> str:
        """Return a transaction as a string (Day 03).

        The sender signs this string, and the hash of a block includes it. The client has the same
        function. If one character differs, no signature is valid.

        >>> BlockChain.transaction_to_string(Transaction("alice", "bob", 50, 1, "Thank you"))
        "{'sender': 'alice', 'receiver': 'bob', 'amounts': 50, 'fee': 1, 'message': 'Thank you'}"
        """
        return str(vars(transaction))

    def get_transactions_string(self, block: Block) -> str:
        """Return the strings of all transactions in a block, one after the other (Day 03)."""
        return "".join(map(self.transaction_to_string, block.transactions))

    def get_block_bytes(self, block: Block) -> bytes:
        """Return the part of a block that is hashed before the nonce, as bytes.

        It is a dict of all fields except the hash and the nonce, as a string. SHA-1 reads its input
        in pieces of 64 bytes. So spaces fill the last piece. Then the nonce begins a new piece, and
        each try of the miner hashes only this new piece.
        """
        fields = {**vars(block), "transactions": self.get_transactions_string(block)}
        del fields["hash"], fields["nonce"]
        data = str(fields).encode("utf-8")
        return data + b" " * (-len(data) % 64)  # as many as are missing in the last piece

    def get_hash(self, block: Block, nonce: int) -> str:
        """Return the SHA-1 of the block with this nonce, as 40 hex digits (Day 03).

        Each nonce gives another hash. The only way to know it is to compute it:

        >>> block = Block("Hello World!", 1, "alice", 10, timestamp=1571000000)
        >>> [BlockChain().get_hash(block, nonce)[:8] for nonce in (0, 1, 2)]
        ['2ca5184b', '3c52216a', '32da2b45']
        """
        data = self.get_block_bytes(block) + repr(nonce).encode("utf-8")
        return hashlib.sha1(data).hexdigest()

    def get_genesis_block(self) -> Block:
        """Return the first block of a chain. It is not mined: its difficulty is 0 (Day 03)."""
        # The miner of this block is lkm543, the author of the series.
        block = Block(self.GENESIS_PREVIOUS_HASH, 0, "lkm543", self.miner_rewards)
        return dataclasses.replace(block, hash=self.get_hash(block, block.nonce))

    def create_genesis_block(self) -> None:
        """Begin the chain with its first block (Day 03)."""
        say("Create genesis block...")
        self.append_block(self.get_genesis_block())

    def add_transaction_to_block(self, block: Block) -> None:
        """Copy the pending transactions with the highest fees into the block (Day 03).

        They stay pending until the block is on the chain. So nothing is lost if mining is
        interrupted. If fees are equal, the oldest transaction goes first: `sorted` keeps the
        order of equal items, also with `reverse`.
        """
        with self.lock:
            best_first = sorted(self.pending_transactions, key=lambda t: t.fee, reverse=True)
        block.transactions = best_first[: self.block_limitation]

    def mine_block(self, miner: str) -> None:
        """Fill a block with pending transactions, find its nonce, and append it (Day 03).

        `miner` is the address that gets the coins. Raises Refused if there is no genesis block.
        """
        if not self.chain:
            raise Refused("The chain has no block. Call create_genesis_block() first.")
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

        Nobody can compute the nonce from the hash. So a miner tries one nonce after the other.
        One more zero takes sixteen times as many tries, because a hex digit has sixteen values.
        The plain form of the search is this loop:

            nonce = 0
            while not self.get_hash(block, nonce).startswith("0" * block.difficulty):
                nonce += 1

        The code below finds the same nonce, and is almost as fast as hashlib. It hashes the bytes
        before the nonce only once. Each try copies that hash object, and adds the nonce to it.
        The target is the highest hash that begins with enough zeros. Bytes of equal length can be
        compared like numbers, so a hash is good if its bytes are not above those of the target.
        After each million nonces, `show_progress` is called if the output is a terminal.
        """
        target = (16 ** (40 - block.difficulty) - 1).to_bytes(20, "big")  # 40 hex digits, 20 bytes
        beginning = hashlib.sha1(self.get_block_bytes(block))
        start = time.perf_counter()
        for nonce in range(1000):
            attempt = beginning.copy()
            attempt.update(b"%d" % nonce)
            if attempt.digest() <= target:
                return nonce
        # Longer nonces share digits: 1000 to 1999 all begin with 1. So the shared digits are hashed
        # once for a thousand nonces. The last three digits come from THREE_DIGITS: if each nonce
        # was made into text, the search would be a third slower.
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
            if thousands % 1000 == 0 and os.isatty(1):
                self.show_progress(block, thousands * 1000, time.perf_counter() - start)

    def show_progress(self, block: Block, tries: int, seconds: float) -> None:
        """Show the progress of mining a block. The caller checks that there is a terminal.

        The tries that failed do not help the next one. So the average time that is left is always
        the same, also after a long time of mining.
        """
        rate = tries / seconds
        average = 16**block.difficulty / rate
        so_far = f"Block {len(self.chain)} @ difficulty {block.difficulty}: {seconds:.0f}s"
        packed = f"{len(block.transactions)} of {len(self.pending_transactions)} pending"
        line = f"{so_far} (average {average:,.0f}s, {rate:,.0f} hashes/s), {packed}"
        # Some terminals report 0 columns: then 80 is used. The last column stays empty, because
        # some terminals go to the next row when a row is full.
        say(line[: (shutil.get_terminal_size().columns or 80) - 1], changing=True)

    def add_pending_transactions(self, transactions: list[Transaction]) -> None:
        """Make accepted transactions pending. The caller must hold the lock."""
        self.pending_transactions += transactions
        self.accepted_transactions.update(transactions)
        for transaction in transactions:
            self.outgoing[transaction.sender] += transaction.amounts + transaction.fee

    def append_block(self, block: Block) -> None:
        """Append a block to the chain, and update the data that is computed from the chain.

        Only this function adds blocks to the chain. It does not check them.
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
            # Begin with no pending transactions. Add those again that this block did not mine.
            still_pending = [t for t in self.pending_transactions if t not in mined]
            self.pending_transactions = []
            self.outgoing.clear()
            self.add_pending_transactions(still_pending)

    # ---- Day 04: difficulty, balances, verification. The hashes prove that nothing was changed.

    def adjust_difficulty(self) -> int:
        """After every tenth mined block, change the difficulty if blocks were too fast or too slow.

        Returns the difficulty of the next block (Day 04). One more zero means sixteen times the
        work. So a zero is added only if 16 times the average is within `block_time`, here 30 s:

            average  1 s    16 times 1 s is 16 s: add a zero
            average  5 s    16 times 5 s is 80 s: keep the difficulty
            average 40 s    too slow: remove a zero, but keep at least one
        """
        span = self.adjust_difficulty_blocks
        mined = len(self.chain) - 1  # the genesis block was not mined
        if mined == 0 or mined % span:
            return self.difficulty
        # A timestamp says when the mining of a block began. So this average does not include the
        # time for the newest block. It is over the ten blocks before it.
        average = (self.chain[-1].timestamp - self.chain[-1 - span].timestamp) / span
        if average > self.block_time and self.chain[-1].difficulty > 1:
            step, verdict = -1, "Lower the difficulty"
        elif 0 <= average * 16 <= self.block_time:  # below 0: the clock was changed
            step, verdict = 1, "High up the difficulty"
        else:
            step, verdict = 0, "Keep the difficulty"
        self.difficulty = self.chain[-1].difficulty + step
        say(f"Average block time:{round(average, 2)}s. {verdict}")
        return self.difficulty

    def get_balance(self, account: str) -> int:
        """Return the coins of an account after the newest block, or 0 if it is unknown (Day 04)."""
        with self.lock:
            return self.balances[account]

    def verify_blockchain(self) -> bool:
        """Check the whole chain. Print the first error, or `Hash correct!` (Day 04).

        Returns True if it finds no change. If somebody changes a block, and mines it and all later
        blocks again with the same work, no check can find this.
        """
        with self.lock:
            chain, chain_work = list(self.chain), self.chain_work
        for height, block in enumerate(chain):
            previous_hash = chain[height - 1].hash if height else self.GENESIS_PREVIOUS_HASH
            try:
                self.check_block(block)
                if block.previous_hash != previous_hash:
                    raise Refused("it does not follow the block before it!")
            except Exception as error:  # a wrong value in a field can cause any error
                say(f"Block {height}: {error}")
                return False
        # Somebody may have removed the last blocks, or mined blocks again at a lower difficulty.
        # Then each block is correct, but the sum of their work is wrong.
        work = sum(16**block.difficulty for block in chain)
        if work != chain_work:
            more = "more" if work > chain_work else "less"
            say(f"The chain shows {more} work than was done for it!")
            return False
        say("Hash correct!")
        return True

    def check_block(self, block: Block) -> None:
        """Raise Refused if the hash of this block is wrong, or has too few zeros.

        This function knows only this block. So it does not check the link to the block before, or
        the rules for difficulty and rewards. It also does not check whether the senders had the
        coins, whether they signed, and whether a transaction was mined before.
        """
        # A tuple gives the same hash as a list of the same items. So the type is checked, too.
        if type(block.transactions) is not list or block.hash != self.get_hash(block, block.nonce):
            raise Refused("its content is not what was hashed!")
        if not 0 <= block.difficulty <= len(block.hash) - len(block.hash.lstrip("0")):
            raise Refused("its hash does not show the work!")

    # ---- Day 05: keys and signatures. An address is a public key, and its private key can sign.

    def generate_address(self) -> tuple[str, str]:
        """Make a pair of keys. Return the address, which is the public key, and the private key.

        Both are one line of base64 (Day 05). Keys of 512 bits are easy to copy and paste. But they
        are too short to protect real coins: see README.md, "Limits".
        """
        public, private = rsa.newkeys(512)
        address = self.get_address_from_public(public.save_pkcs1())
        return address, self.extract_from_private(private.save_pkcs1())

    @staticmethod
    def get_address_from_public(public: bytes) -> str:
        """Return a public key as one line (Day 05).

        PEM is a text format for keys. The first and the last line of the PEM are left out.
        """
        return "".join(public.decode("ascii").splitlines()[1:-1])

    @staticmethod
    def extract_from_private(private: bytes) -> str:
        """Return a private key as one line, in the same way (Day 05)."""
        return "".join(private.decode("ascii").splitlines()[1:-1])

    @staticmethod
    @functools.lru_cache(maxsize=1024)  # remembers keys: reading one takes longer than using it
    def get_public_from_address(address: str) -> rsa.PublicKey:
        """Return the public key in an address. Raises Refused if the address is not valid.

        A sender can choose any key. A key is two numbers, n and e. If both have 30,000 bits, one
        signature check takes a minute. So both have limits. The base64 decoder ignores unknown
        characters. Therefore, different strings can give the same key, and each would be another
        account. Only the string that `get_address_from_public` returns is valid.
        """
        pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
        with contextlib.suppress(Exception):  # after any exception, the `raise` below comes next
            key = rsa.PublicKey.load_pkcs1(pem.encode("ascii"))
            valid_address = BlockChain.get_address_from_public(key.save_pkcs1())
            if 2**511 <= key.n < 2**4096 and 3 <= key.e < 2**32 and address == valid_address:
                return key
        raise Refused("Sender must be an address made by generate_address!")

    def check_fields(self, transaction: Transaction) -> None:
        """Raise Refused if this is not a Transaction, or if a field is not valid.

        `isinstance` accepts too much: True is an int, too, and a subclass of int can define its own
        comparisons. NaN is not an int. A comparison alone would accept it: `NaN <= 0` is false.
        """
        # An object of another class can have the same fields, but not be equal. So add_transaction
        # would not find it in accepted_transactions, and could accept it twice.
        if type(transaction) is not Transaction:
            raise Refused("This must be a Transaction of blockchain_server.py!")
        if type(transaction.amounts) is not int or transaction.amounts <= 0:
            raise Refused("Amounts must be a whole number above 0!")
        if type(transaction.fee) is not int or transaction.fee < 0:
            raise Refused("Fee must be a whole number, 0 or more!")
        # No account has so many coins. And `str` fails for numbers of thousands of digits.
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
        # rsa.verify returns the name of the hash function in the signature. It raises OverflowError
        # if that hash is too long for the key, for example SHA-512.
        with contextlib.suppress(rsa.VerificationError, OverflowError):
            return type(signature) is bytes and rsa.verify(data, signature, key) == "SHA-1"
        return False

    def add_transaction(self, transaction: Transaction, signature: bytes) -> tuple[bool, str]:
        """Accept a signed transaction, or refuse it (Day 05). An accepted one becomes pending.

        The checks have this order: the fields, accepted before, the coins, the signature. Returns
        True or False, and a message. Never raises an exception, whatever values the fields have.
        """
        try:
            self.check_fields(transaction)
            # This check is slow, so it is done before the lock is taken.
            signed = self.check_signature(transaction, signature)
            cost = transaction.amounts + transaction.fee
            with self.lock:
                if transaction in self.accepted_transactions:
                    raise Refused("Accepted before! To pay the same again, change the comment.")
                # The next line checks the coins, and add_pending_transactions adds them to
                # `outgoing`. Without the lock, two threads could check the same coins first, and
                # then both spend them.
                if cost > self.balances[transaction.sender] - self.outgoing[transaction.sender]:
                    raise Refused("Balance not enough!")
                if not signed:  # the article checks this after the balance
                    raise Refused("RSA Verified wrong!")
                self.add_pending_transactions([transaction])
        except Refused as refusal:
            return False, str(refusal)
        return True, "Authorized successfully!"

    # ---- Day 06: the node. One thread mines, one waits for clients, and one answers each client.

    def start(self) -> NoReturn:
        """Run the node: listen, show the miner's keys, mine (Day 06). Never returns.

        Raises Refused if the port cannot be used.
        """
        self.start_socket_server()
        address, private = self.generate_address()
        # Show a command for the client. It names the Python and the folder that this node was
        # started with. A path gets quotes if it contains a space or one of ( ) & ; '.
        paths = sys.orig_argv[0], os.path.join(os.path.dirname(sys.argv[0]), "blockchain_client.py")
        python, client = (f'"{path}"' if set(path) & set(" ()&;'") else path for path in paths)
        keys = f"Miner address: {address}\nMiner private: {private}\n"
        keys += f"Listening on port {self.socket_port}. Ctrl-C ends the node and its chain.\n"
        keys += f"In another terminal, type: {python} {client} {self.socket_port}"
        say(keys)
        self.create_genesis_block()
        while True:
            self.mine_block(address)
            self.adjust_difficulty()
            if len(self.chain) == 51:
                # The first fifty blocks came fast, and moved the keys off the screen.
                say(keys)

    def start_socket_server(self) -> None:
        """Open the port, and start a thread that waits for connections (Day 06).

        Raises Refused if the port cannot be used.
        """
        # Python runs one thread at a time, and the miner never waits. So another thread must ask
        # for its turn. To answer one request, it must ask several times. By default, a thread asks
        # after 5 ms. Here it asks after 20 microseconds.
        sys.setswitchinterval(0.00002)
        try:
            # This does what socket, bind and listen do in the article. It also sets the options
            # that each operating system needs.
            server = socket.create_server((self.socket_host, self.socket_port), backlog=1024)
        except (OSError, OverflowError) as error:
            # create_server adds " (while attempting to bind ...)" to the reason. Leave it out.
            reason = str(getattr(error, "strerror", error)).partition(" (while ")[0].rstrip(".")
            raise Refused(f"port {self.socket_port}: {reason}. Choose another port.") from error
        self.socket_port = server.getsockname()[1]
        threading.Thread(target=self.wait_for_socket_connection, args=[server], daemon=True).start()

    def wait_for_socket_connection(self, server: socket.socket) -> NoReturn:
        """Start a thread for each new connection (Day 06). Never returns."""
        while True:
            try:
                threading.Thread(
                    target=self.receive_socket_message, args=server.accept(), daemon=True
                ).start()
            except ConnectionError:  # the client left before it was accepted
                continue
            except (OSError, RuntimeError, MemoryError) as error:
                # If no file descriptor is free, the client waits. If no thread can start, the
                # connection of the client is closed.
                say(f"Too many connections: {error}")
                time.sleep(1)

    def receive_socket_message(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Answer one client until it leaves, or sends something that is not a request (Day 06)."""
        say(f"Connected by: {address}")
        with connection, connection.makefile("rb") as received:
            refusal = ""
            # A pickle ends with the pickle instruction STOP. So requests need no separator.
            # There is no time limit, because a person may type slowly.
            while not refusal and (beginning := wait_for_bytes(received)):
                say(f"[*] Received: {beginning!r}")
                try:
                    request_bytes = RequestBytes(received, MAX_REQUEST_BYTES)
                    answer = self.respond(RequestReader(request_bytes).load())
                except Refused as refused:
                    refusal = str(refused)
                # Python can free the memory of the request here, even if the next lines must wait:
                # no variable holds it, and `refused`, whose traceback held it, is deleted.
                if refusal:
                    say(f"{beginning!r} cannot be parsed: {refusal}")
                    answer = {"message": refusal}
                with contextlib.suppress(OSError):  # the client has left
                    connection.sendall(str(answer).encode("utf8"))
            # If the node closes the connection before it has read all bytes, the client may lose
            # the answer. So the node says that it sends no more, and reads until the client closes.
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
            try:  # RequestReader returns the Transaction as a dict of its fields
                transaction, signature = Transaction(**request["data"]), request["signature"]
            except (KeyError, TypeError):
                raise Refused('transaction needs "data" (a Transaction) and "signature".') from None
            result, result_message = self.add_transaction(transaction, signature)
            return {"result": result, "result_message": result_message}
        return {"message": "Unknown command."}


# ---- Day 06: requests from outside. A pickle is a program. Only harmless ones run here.

MAX_REQUEST_BYTES = 16_384  # a transaction has about 400 bytes, or more with a long comment


def wait_for_bytes(file: io.BufferedReader) -> bytes:
    """Wait for the next request. Return its first bytes, or b"" if the client has left."""
    with contextlib.suppress(OSError):  # the connection was cut off
        return file.peek(1)[:100]  # the bytes stay in the file, so RequestReader gets them, too
    return b""


class RequestBytes:
    """The bytes of one request. A read beyond the limit raises Refused before it reads."""

    def __init__(self, file: io.BufferedReader, limit: int) -> None:
        """Read at most `limit` bytes from `file`, the connection of a client."""
        self.file = file
        self.limit = self.left = limit  # `left`: how many bytes may still be read

    def read(self, size: int) -> bytes:
        """Return `size` bytes. Raises Refused if they exceed the limit, or if the request ends."""
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

    Other pickle instructions call a function that the pickle names, and `pickle.loads` obeys. It is
    not safe to check a pickle with one reader, and then to load it with another one. Both read the
    same bytes, but an attacker can write bytes that they understand differently. So this reader
    does not have these pickle instructions. `pickle._Unpickler` is Python's own reader, written in
    Python: it looks for each pickle instruction in a table. The table of this class is shorter.
    """

    # The keys of the table are ints, and a loop over bytes gives ints.
    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code]
        for code in pickle.PROTO + pickle.FRAME + pickle.STOP + pickle.MARK
        + pickle.MEMOIZE + pickle.BINPUT + pickle.BINGET  # these use an object a second time
        + pickle.BINUNICODE + pickle.SHORT_BINUNICODE + pickle.BINBYTES + pickle.SHORT_BINBYTES
        + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG1 + pickle.LONG4
        + pickle.EMPTY_DICT + pickle.SETITEM + pickle.SETITEMS
        # These make a Transaction: first its class, then an object. BUILD, below, keeps its fields.
        + pickle.GLOBAL + pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    }  # fmt: skip

    def load(self) -> Any:
        """Return the value of the next pickle. Raises Refused if it cannot be a request."""
        try:
            return super().load()
        except Refused:
            raise
        except Exception:  # an instruction not in the table, a wrong value, or a cut connection
            raise Refused("Allowed: strings, bytes, whole numbers and a Transaction.") from None

    def find_class(self, module: str, name: str) -> type:
        """Return `object` if the name of the class is Transaction. Its module is not important.

        NEWOBJ then makes an empty `object()`. load_build removes it, and keeps the dict of fields.
        So a pickle never gets the real class, and cannot change it.
        """
        if name == "Transaction":
            return object
        raise pickle.UnpicklingError  # `load` makes Refused of it

    def load_build(self) -> None:
        """Remove the empty object from the stack. The dict of fields above it stays."""
        del self.stack[-2]  # type: ignore[attr-defined]  # mypy does not know this attribute

    dispatch[pickle.BUILD[0]] = load_build


# ---- Day 06: the screen, the end, and the command line.

screen_lock = threading.Lock()
changing_width = 0  # columns of the changing line that is on the screen; 0: there is none


def say(line: str, changing: bool = False) -> None:
    """Print a line. Without the lock, the lines of two threads could mix.

    The next line replaces a `changing` line: the cursor returns to the start of the row, and
    spaces erase the old text.
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

    Python's KeyboardInterrupt can come just after a lock was taken. Then nobody releases the lock.
    """
    # If nobody reads the output, os.write may wait for ever. Then a second Ctrl-C ends the node.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # the output is closed
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
