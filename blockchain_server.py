"""A blockchain node in one file: the ledger of Days 02 to 05, on a socket as of Day 06.

    python blockchain_server.py 1111

The node prints the keys of its miner and mines until Ctrl-C, while `blockchain_client.py`
asks it for balances and sends it signed payments. Read downwards, it follows the series:

    Day 02  Transaction, Block, BlockChain      what is kept
    Day 03  get_hash ... mine_block             what makes it hard to change
    Day 04  adjust_difficulty, get_balance ...  what keeps it steady, and how to check it
    Day 05  generate_address, add_transaction   whose money it is
    Day 06  start, receive_socket_message ...   how others get at it

In a Python shell `BlockChain()` is the ledger alone, without a socket or a thread.

What is simplified, so that it fits in a file:
  - RSA keys of 512 bits and SHA-1 are the tutorial's. Both have been broken: no real money.
  - The package `rsa` is no longer maintained. It is readable, which is what counts here.
  - Nothing is saved to disk. The chain ends with the process.
  - There is one node. Peers, and which of two chains to believe, begin with Day 07.
  - A block does not keep the signatures: the node checks them once, on arrival.
  - What is signed is a text that Python makes. It escapes characters that it does not know
    yet, so two versions may write a new character differently, and no signature fits.
  - Accounts have balances. Bitcoin has coins instead, unspent outputs of older payments.

A name after `#` is what Bitcoin Core calls the same thing, to look further.
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import io
import itertools
import math
import os
import pickle
import pickletools
import shutil
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

import rsa

# ------------------------------------------------------------------------------------------
# Limits: what a stranger may ask of this node. Without them, each is a way to stop it.
# ------------------------------------------------------------------------------------------

MAX_MONEY = 10**18  # coins; nobody will have more, and Python can still print it  #MAX_MONEY
MIN_KEY_BITS = 512  # the tutorial's size; a SHA-1 signature does not fit into much less
MAX_KEY_BITS = 4096  # a check takes a millisecond or two; at 60,000 bits it takes minutes
MAX_EXPONENT_BITS = 32  # likewise: a signature check costs a multiplication a bit
MAX_ADDRESS_LENGTH = 704  # characters of the address of a key that is as large as allowed
KNOWN_KEYS = 1024  # addresses whose keys stay parsed; two kilobytes each at the most
MAX_REQUEST_BYTES = 65_536  # room for 10,000 characters of comment in any language
MAX_REQUEST_OPCODES = 128  # steps of a pickle; a payment has 50, keys that collide need more
REQUEST_SECONDS = 10  # to send a whole request; as long again to take the answer
CHUNK_BYTES = 4096  # taken from a socket at once
LOGGED_BYTES = 100  # how much of a request the log shows
HANG_UP_SECONDS = 1  # for a client to read why it is turned away
CROWD_PAUSE = 0.1  # seconds until the next try when there are too many connections
COMPLAINT_SECONDS = 60  # between two log lines about that
SWITCH_INTERVAL = 0.00002  # seconds until the miner must let a waiting thread run


# ------------------------------------------------------------------------------------------
# Day 02: the shapes. A chain is a list of blocks, a block a list of transactions.
# ------------------------------------------------------------------------------------------


@dataclass
class Transaction:
    """A payment, as it is signed, sent and mined (Day 02).  #CTransaction"""

    sender: str  # an address: the public key that the signature must fit
    receiver: str  # an address, or any other text
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner of the block, on top of the amounts
    message: str  # the sender's comment


@dataclass
class Block:
    """Transactions, with the proof that work was done on them (Day 02).  #CBlock"""

    previous_hash: str  # of the block before: this is what makes it a chain  #hashPrevBlock
    difficulty: int  # leading zeros that the hash must show  #nBits
    miner: str  # the address that gets the rewards and the fees
    miner_rewards: int  # coins that come into the world with this block  #GetBlockSubsidy
    hash: str = ""  # empty until mined
    nonce: int = 0  # the number that makes the hash fit  #nNonce
    timestamp: int = field(default_factory=lambda: int(time.time()))  # begun, in seconds  #nTime
    transactions: list = field(default_factory=list)  # #vtx


class BlockChain:
    """The ledger, and with `start()` the node around it.

    The main thread mines. Handler threads come in through `get_balance` and
    `add_transaction` only. One lock guards all that both sides touch, and nobody holds it
    while hashing, checking a signature, printing or waiting for the network.
    """

    def __init__(self, socket_port: int = 0):
        """Make an empty ledger; `socket_port` is where `start()` will listen, 0 for any port."""
        self.adjust_difficulty_blocks = 10  # between retargets  #DifficultyAdjustmentInterval
        self.difficulty = 1  # leading zeros of a hash; main thread only
        self.block_time = 30  # seconds that a block should take  #nPowTargetSpacing
        self.miner_rewards = 10  # coins
        self.block_limitation = 32  # transactions  #MAX_BLOCK_WEIGHT
        self.chain = []  # blocks, oldest first  #CChain
        self.pending_transactions = []  # accepted, to be mined  #CTxMemPool

        # What follows from the above and the past, kept so that nobody has to walk the chain.
        self.lock = threading.Lock()
        self.balances = collections.Counter()  # account: coins, as of the last block
        self.outgoing = collections.Counter()  # account: coins waiting or being mined
        self.accepted_payments = set()  # the digest of every payment ever accepted
        self.chain_work = 0  # hashes that mining took, on average  #nChainWork

        # Day 06
        self.socket_host = "127.0.0.1"
        self.socket_port = socket_port
        self.listener = None  # the socket, once the port is open
        self.print_lock = threading.Lock()
        self.miner_keys = ""  # the lines that a terminal keeps in sight
        self.rows_below_keys = 0

    # --------------------------------------------------------------------------------------
    # Day 03: hashing and mining. A hash names a block's content; work makes it costly to redo.
    # --------------------------------------------------------------------------------------

    @staticmethod
    def transaction_to_string(transaction: Transaction) -> str:
        """Return the text of a transaction: what is signed, and what goes into a block's hash.

        The client has the same function. A letter of difference, and no signature fits.
        """
        transaction_dict = {
            "sender": str(transaction.sender),
            "receiver": str(transaction.receiver),
            "amounts": transaction.amounts,
            "fee": transaction.fee,
            "message": transaction.message,
        }
        return str(transaction_dict)

    def get_transactions_string(self, block: Block) -> str:
        """Return the texts of a block's transactions, one after the other."""
        return "".join(map(self.transaction_to_string, block.transactions))

    def get_block_string(self, block: Block) -> bytes:
        """Return all that is hashed before the nonce: every other field of the block.

        It is written as a Python tuple, with quotes and commas, so that no field can run
        into the next. Blanks fill it up to whole 64-byte steps of SHA-1, which leaves one
        step for the nonce, whatever its length.
        """
        fields = (
            block.previous_hash,
            block.timestamp,
            block.difficulty,
            block.miner,
            block.miner_rewards,
            self.get_transactions_string(block),
        )
        text = str(fields).encode("utf-8")
        return text + b" " * (-len(text) % 64)

    def get_hash(self, block: Block, nonce: int) -> str:
        """Return the SHA-1 of the block with this nonce, as 40 hex digits.  #GetHash"""
        return hashlib.sha1(self.get_block_string(block) + b"%a" % (nonce,)).hexdigest()

    def create_genesis_block(self) -> None:
        """Begin the chain with a block that has none before it and needs no work.

        The texts in it are the tutorial's.  #CreateGenesisBlock
        """
        self.say("Create genesis block...")
        block = Block("Hello World!", self.difficulty, "lkm543", self.miner_rewards)
        block.hash = self.get_hash(block, block.nonce)
        with self.lock:
            self.append_block(block)

    def add_transaction_to_block(self, block: Block) -> None:
        """Move the highest fees from the waiting transactions to the block, under the lock.

        Of equal fees the older goes first.  #BlockAssembler
        """
        waiting = self.pending_transactions
        waiting.sort(key=lambda transaction: transaction.fee, reverse=True)
        block.transactions = waiting[: self.block_limitation]
        del waiting[: self.block_limitation]

    def mine_block(self, miner: str) -> None:
        """Pack what is waiting into a block on top of the chain, find its nonce, append it."""
        with self.lock:
            block = Block(self.chain[-1].hash, self.difficulty, miner, self.miner_rewards)
            self.add_transaction_to_block(block)
        start = time.perf_counter()
        try:
            block.nonce = self.find_nonce(block)
            block.hash = self.get_hash(block, block.nonce)
        except BaseException:  # Ctrl-C in a Python shell: what was accepted must not be lost
            with self.lock:
                self.pending_transactions[:0] = block.transactions
            raise
        seconds = round(time.perf_counter() - start, 2)
        with self.lock:
            self.append_block(block)
        self.say(f"Hash found: {block.hash} @ difficulty {block.difficulty}, time cost: {seconds}s")

    # The last digits of a nonce: up to 999 as they are, then padded to three (1007 ends in 007).
    FIRST_ENDINGS = [b"%d" % number for number in range(1000)]
    ENDINGS = [b"%03d" % number for number in range(1000)]

    def find_nonce(self, block: Block) -> int:
        """Return the lowest nonce whose hash begins with `block.difficulty` zeros.

        The idea is this:

            nonce = 0
            while not self.get_hash(block, nonce).startswith("0" * block.difficulty):
                nonce += 1

        What follows finds the same nonce about as fast as hashlib can hash. The text before
        the nonce never changes, so SHA-1 reads it once and is copied for each try. A thousand
        numbers share their first digits, so the last three come from a list. And a hash begins
        with zeros when, as a number, it is below a target.  #CheckProofOfWork
        """
        target = (16 ** (40 - block.difficulty)).to_bytes(20, "big")
        beginning = hashlib.sha1(self.get_block_string(block))
        for thousands in itertools.count():
            state = beginning.copy()
            if thousands:
                state.update(b"%d" % thousands)
            for ending in self.ENDINGS if thousands else self.FIRST_ENDINGS:
                attempt = state.copy()
                attempt.update(ending)
                if attempt.digest() < target:
                    return thousands * 1000 + int(ending)

    def append_block(self, block: Block) -> None:
        """Put a mined block on the chain, and its coins into the balances, under the lock.

        #ConnectTip
        """
        if self.chain:  # genesis took no work
            self.chain_work += 16**block.difficulty
        self.chain.append(block)
        self.balances[block.miner] += block.miner_rewards
        for transaction in block.transactions:
            cost = transaction.amounts + transaction.fee
            self.balances[transaction.sender] -= cost
            self.balances[transaction.receiver] += transaction.amounts
            self.balances[block.miner] += transaction.fee
            self.outgoing[transaction.sender] -= cost
            if self.outgoing[transaction.sender] <= 0:
                del self.outgoing[transaction.sender]

    # --------------------------------------------------------------------------------------
    # Day 04: difficulty, balances, verification. Nobody is trusted: everything is recomputed.
    # --------------------------------------------------------------------------------------

    def adjust_difficulty(self) -> int:
        """After every tenth mined block, fit the difficulty to the time that blocks took.

        A step is sixteen times the work. So it goes up only where blocks would still come
        within `block_time` after it, and down where they are slower than that, but never
        below 1. Returns the difficulty.  #CalculateNextWorkRequired
        """
        span = self.adjust_difficulty_blocks
        mined = len(self.chain) - 1  # genesis was not mined
        if mined < span or mined % span:
            return self.difficulty
        average = (self.chain[-1].timestamp - self.chain[-1 - span].timestamp) / span
        if average > self.block_time and self.difficulty > 1:
            self.difficulty -= 1
            verdict = "Lower the difficulty"
        elif average * 16 <= self.block_time:
            self.difficulty += 1
            verdict = "High up the difficulty"
        else:
            verdict = "Keep the difficulty"
        self.say(f"Average block time:{round(average, 2)}s. {verdict}")
        return self.difficulty

    def get_balance(self, account: str) -> int:
        """Return the coins of an account as of the last block, 0 for one never heard of."""
        with self.lock:
            return self.balances[account]

    def verify_blockchain(self) -> bool:
        """Recompute the whole chain; print what is wrong with it, or `Hash correct!`.

        Returns whether every block is as it was mined. What it cannot see is a block that was
        changed and then mined again, with as much work as before.  #CVerifyDB
        """
        with self.lock:
            chain, chain_work = list(self.chain), self.chain_work
        previous_hash = "Hello World!"
        for height, block in enumerate(chain):
            fault = self.find_fault(block, height, previous_hash)
            if fault:
                self.say(f"Block {height}: {fault}")
                return False
            previous_hash = block.hash
        # A chain can be mined anew with less work a block. Its sum gives that away.
        if sum(16**block.difficulty for block in chain[1:]) < chain_work:
            self.say("The chain shows less work than was done for it!")
            return False
        self.say("Hash correct!")
        return True

    def find_fault(self, block: Block, height: int, previous_hash: str) -> str:
        """Return what is wrong with the block at this height, or an empty text."""
        try:
            # The hash takes both through str(), which makes "5" and 5 alike. Only texts are valid.
            names = [name for t in block.transactions for name in (t.sender, t.receiver)]
            if any(type(name) is not str for name in names):
                return "it pays from or to something that is not a text!"
            if block.hash != self.get_hash(block, block.nonce):
                return "its content is not what was hashed!"
            zeros = len(block.hash) - len(block.hash.lstrip("0"))
            if not 1 <= block.difficulty <= (zeros if height else 40):  # genesis needs no work
                return "its hash does not show the work!"
        except Exception:  # whatever it may be that stands in a field
            return "it holds something that cannot be hashed!"
        if block.previous_hash != previous_hash:
            return "it does not follow the block before it!"
        return ""

    # --------------------------------------------------------------------------------------
    # Day 05: keys and signatures. An address is a public key; its private key moves the coins.
    # --------------------------------------------------------------------------------------

    def generate_address(self) -> tuple[str, str]:
        """Make a pair of keys; return the address, which is the public key, and the private key."""
        public, private = rsa.newkeys(MIN_KEY_BITS)
        return (
            self.get_address_from_public(public.save_pkcs1()),
            self.extract_from_private(private.save_pkcs1()),
        )

    @staticmethod
    def get_address_from_public(public: bytes) -> str:
        """Return a public key in PEM without its first and last line, as one line."""
        return "".join(public.decode("ascii").splitlines()[1:-1])

    @staticmethod
    def extract_from_private(private: bytes) -> str:
        """Return a private key in PEM without its first and last line, as one line."""
        return "".join(private.decode("ascii").splitlines()[1:-1])

    @staticmethod
    @functools.lru_cache(KNOWN_KEYS)  # parsing a key takes longer than checking a signature
    def get_public_from_address(address: str) -> rsa.PublicKey:
        """Return the key that an address is; raise ValueError if it is not one, or too large."""
        if len(address) > MAX_ADDRESS_LENGTH:
            raise ValueError("too long")
        pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
        try:
            key = rsa.PublicKey.load_pkcs1(pem.encode("ascii"))
        except Exception as error:  # `rsa` and `pyasn1` say "no key" in many ways
            raise ValueError("not a key") from error
        if not MIN_KEY_BITS <= key.n.bit_length() <= MAX_KEY_BITS or key.n < 0:
            raise ValueError("key too small or too large")
        if not 3 <= key.e < 2**MAX_EXPONENT_BITS:
            raise ValueError("exponent too small or too large")
        # base64 skips what it does not know. One key must not have many addresses.
        if BlockChain.get_address_from_public(key.save_pkcs1()) != address:
            raise ValueError("not the one spelling of this key")
        return key

    def add_transaction(self, transaction: Transaction, signature: bytes) -> tuple[bool, str]:
        """Accept a signed payment, to be mined, or refuse it.  #AcceptToMemoryPool

        Returns whether it was accepted, and a sentence for its sender. Never raises, whatever
        stands in the five fields and in the signature.
        """
        # A copy: whoever made the original could still change it.
        transaction = Transaction(
            transaction.sender,
            transaction.receiver,
            transaction.amounts,
            transaction.fee,
            transaction.message,
        )
        refusal = self.check_fields(transaction)
        if refusal:
            return False, refusal
        text = self.transaction_to_string(transaction).encode("utf-8")
        payment = hashlib.sha256(text).digest()  # #txid
        with self.lock:
            refusal = self.check_funds(transaction, payment)
        if refusal:
            return False, refusal
        if not self.check_signature(text, signature, transaction.sender):
            return False, "RSA Verified wrong!"
        with self.lock:
            # Again: another thread may have spent the same coins since.
            refusal = self.check_funds(transaction, payment)
            if refusal:
                return False, refusal
            self.accepted_payments.add(payment)
            self.outgoing[transaction.sender] += transaction.amounts + transaction.fee
            self.pending_transactions.append(transaction)
        return True, "Authorized successfully!"

    def check_fields(self, transaction: Transaction) -> str:
        """Return what is wrong with the fields of a payment, or an empty text.  #CheckTransaction

        Types are compared, not asked for: True is an int, and a stranger's subclass of one
        may answer as it likes. This also keeps NaN out, for which every comparison is false.
        """
        amounts, fee = transaction.amounts, transaction.fee
        if type(amounts) is not int or amounts <= 0:
            return "Amounts must be a whole number above 0!"
        if type(fee) is not int or fee < 0:
            return "Fee must be a whole number, 0 or more!"
        if amounts + fee > MAX_MONEY:
            return "Balance not enough!"
        if type(transaction.receiver) is not str or not transaction.receiver:
            return "Receiver must be a text, and not an empty one!"
        if type(transaction.message) is not str:
            return "Message must be a text!"
        try:
            if type(transaction.sender) is not str:
                raise ValueError("not a text")
            self.get_public_from_address(transaction.sender)
        except ValueError:
            return "Sender must be an address as generate_address makes them!"
        return ""

    def check_funds(self, transaction: Transaction, payment: bytes) -> str:
        """Return why these coins cannot be spent now, or an empty text; under the lock.

        #CheckTxInputs
        """
        if payment in self.accepted_payments:
            return "Accepted before! To pay the same again, change the comment."
        sender = transaction.sender
        if transaction.amounts + transaction.fee > self.balances[sender] - self.outgoing[sender]:
            return "Balance not enough!"
        return ""

    def check_signature(self, text: bytes, signature: bytes, address: str) -> bool:
        """Return whether this is a SHA-1 signature of the text by the owner of the address."""
        key = self.get_public_from_address(address)
        try:
            return type(signature) is bytes and rsa.verify(text, signature, key) == "SHA-1"
        except (rsa.VerificationError, OverflowError):  # wrong, or of a hash too long for the key
            return False

    # --------------------------------------------------------------------------------------
    # Day 06: the node. One thread mines, one waits for clients, and each client gets its own.
    # --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Be a node: listen, show the miner's keys, and mine for ever.

        Raises OSError if the port cannot be had, and KeyboardInterrupt at Ctrl-C. The port
        stays open until the process ends.
        """
        # Handlers need Python's one interpreter lock, and the miner hardly ever lets go of it.
        sys.setswitchinterval(SWITCH_INTERVAL)
        self.start_socket_server()
        address, private = self.generate_address()
        keys = f"Miner address: {address}\nMiner private: {private}"
        self.say(keys)
        self.miner_keys = keys  # from here on, `say` keeps them in sight
        self.create_genesis_block()
        while True:
            self.mine_block(address)
            self.adjust_difficulty()

    def say(self, text: str) -> None:
        """Print whole lines at once, so that those of two threads never mix.

        On a terminal, the miner's keys are printed again before they would scroll away.
        """
        with self.print_lock:
            if self.miner_keys and sys.stdout.isatty():
                size = shutil.get_terminal_size()
                columns, rows = size.columns or 80, size.lines or 24  # 0 is "unknown" on 3.10
                self.rows_below_keys += self.count_rows(text, columns)
                if self.rows_below_keys + self.count_rows(self.miner_keys, columns) >= rows:
                    self.rows_below_keys = self.count_rows(text, columns)
                    text = f"{self.miner_keys}\n{text}"
            print(text + "\n", end="", flush=True)

    @staticmethod
    def count_rows(text: str, columns: int) -> int:
        """Return the rows that a terminal of so many columns needs for the lines of a text."""
        return sum(math.ceil(len(line) / columns) or 1 for line in text.splitlines())

    def start_socket_server(self) -> None:
        """Open the port, then wait for connections in a thread of its own."""
        self.listener = socket.create_server((self.socket_host, self.socket_port), backlog=1024)
        self.socket_port = self.listener.getsockname()[1]
        threading.Thread(target=self.wait_for_socket_connection, daemon=True).start()

    def wait_for_socket_connection(self) -> None:
        """Give each new connection a thread of its own, for ever.  #ThreadSocketHandler"""
        next_complaint = 0
        while True:
            connection = None
            try:
                connection, address = self.listener.accept()
                threading.Thread(
                    target=self.receive_socket_message, args=(connection, address), daemon=True
                ).start()
            except (OSError, RuntimeError, MemoryError) as error:
                # No descriptor left, or no thread. Both pass when others leave.
                if connection:
                    connection.close()
                if time.monotonic() > next_complaint:
                    next_complaint = time.monotonic() + COMPLAINT_SECONDS
                    self.say(f"Too many connections: {error}")
                time.sleep(CROWD_PAUSE)

    def receive_socket_message(self, connection: socket.socket, address: tuple) -> None:
        """Answer the requests of one client, in order, until it leaves.  #ProcessMessages"""
        with connection, contextlib.suppress(OSError):  # OSError: it left without a word
            self.say(f"Connected by: {address}")
            stream = RequestStream(connection)
            while stream.begin_request():
                broken = False
                try:
                    request = read_request(stream)
                except BadRequest as error:
                    self.say(f"{stream.excerpt()} cannot be parsed")
                    response = {"message": str(error)}
                    broken = isinstance(error, BrokenStream)
                else:
                    self.say(f"[*] Received: {stream.excerpt()}")
                    response = self.respond(request)
                connection.settimeout(REQUEST_SECONDS)  # nobody holds a thread by not reading
                connection.sendall(str(response).encode("utf8"))
                if broken:
                    stream.hang_up()
                    break

    def respond(self, request: dict) -> dict:
        """Do what a request asks for, if it has what that takes, and return the answer."""
        if request["request"] == "get_balance":
            self.say("Start to get the balance for client...")
            address = request.get("address")
            if type(address) is not str:
                return {"message": "get_balance needs an address, which is a text."}
            return {"address": address, "balance": self.get_balance(address)}
        if request["request"] == "transaction":
            self.say("Start to transaction for client...")
            transaction, signature = request.get("data"), request.get("signature")
            if type(transaction) is not ReceivedTransaction or signature is None:
                return {"message": "transaction needs data, a Transaction, and a signature."}
            if vars(transaction).keys() != Transaction.__annotations__.keys():
                return {"message": "A Transaction has exactly the five fields of Day 02."}
            result, result_message = self.add_transaction(transaction, signature)
            return {"result": result, "result_message": result_message}
        return {"message": "Unknown command."}


# ------------------------------------------------------------------------------------------
# Day 06, too: reading what strangers pickle. Unpickling runs what a pickle says, and a pickle
# may say anything. So it is looked through first, and only one made of harmless steps is run.
# ------------------------------------------------------------------------------------------

# The instructions that text, bytes, numbers, a dict and a Transaction need in the pickle
# protocols 3 to 5. Missing on purpose: all that calls (REDUCE, INST, OBJ), that asks for memory
# by number (LONG_BINPUT), or that makes lists and tuples (with which BUILD reaches into classes).
REQUEST_OPCODES = frozenset(
    "PROTO FRAME MARK STOP EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL EMPTY_TUPLE NEWOBJ "
    "BUILD BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES BININT BININT1 BININT2 LONG1 LONG4 "
    "BINFLOAT NONE NEWTRUE NEWFALSE BINPUT BINGET MEMOIZE".split()
)


class BadRequest(Exception):
    """Not a valid request. The sentence goes to the client."""


class BrokenStream(BadRequest):
    """Nobody can tell where the next request begins. The connection must end."""


class RequestStream:
    """The bytes of one connection as a file for `pickletools`, one request at a time.

    A pickle ends with its own STOP, so requests need no frame: what comes in pieces is put
    together here, and what comes together is taken apart.
    """

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.received = bytearray()  # from the first byte of this request on
        self.position = 0  # how much of it has been read
        self.deadline = 0.0  # when it must be complete, by time.monotonic()

    def begin_request(self) -> bool:
        """Wait for the next request, however long; return False if the client left instead."""
        del self.received[: self.position]
        self.position = 0
        if not self.received:
            self.connection.settimeout(None)
            self.received += self.connection.recv(CHUNK_BYTES)
        self.deadline = time.monotonic() + REQUEST_SECONDS
        return bool(self.received)

    def receive_more(self) -> None:
        """Wait for more of the request that has begun, until its deadline."""
        seconds_left = self.deadline - time.monotonic()
        try:
            if seconds_left <= 0:
                raise TimeoutError
            self.connection.settimeout(seconds_left)
            chunk = self.connection.recv(CHUNK_BYTES)
        except TimeoutError:
            raise BrokenStream(f"A request takes {REQUEST_SECONDS} seconds at most.") from None
        if not chunk:
            raise BrokenStream("The request ends in the middle.")
        self.received += chunk

    def read(self, size: int) -> bytes:
        """Return the next bytes of the request, so many and not fewer."""
        end = self.position + size
        self.check_length(end)
        while len(self.received) < end:
            self.receive_more()
        start, self.position = self.position, end
        return bytes(self.received[start:end])

    def readline(self) -> bytes:
        """Return the next bytes of the request up to a line feed."""
        while (end := self.received.find(b"\n", self.position)) < 0:
            self.check_length(len(self.received) + 1)
            self.receive_more()
        return self.read(end + 1 - self.position)

    def check_length(self, length: int) -> None:
        """Refuse a request of so many bytes if that is too many, before they are held."""
        if length > MAX_REQUEST_BYTES:
            raise BrokenStream(f"A request has {MAX_REQUEST_BYTES} bytes at most.")

    def message(self) -> bytes:
        """Return all of the request that has been read."""
        return bytes(self.received[: self.position])

    def excerpt(self) -> str:
        """Return the first bytes of the request for the log, escaped so that they stay a line."""
        dots = "..." if self.position > LOGGED_BYTES else ""
        return f"{self.message()[:LOGGED_BYTES]}{dots}"

    def hang_up(self) -> None:
        """Let the last answer arrive: it would be lost if a close with bytes unread reset TCP."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(HANG_UP_SECONDS)
        deadline = time.monotonic() + HANG_UP_SECONDS
        while self.connection.recv(CHUNK_BYTES) and time.monotonic() < deadline:
            pass


class ReceivedTransaction:
    """What a pickled Transaction becomes here. Never the real class: a pickle could change it."""


class RequestUnpickler(pickle.Unpickler):
    """An unpickler that knows one class and no function."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ("__main__", "Transaction"):
            return ReceivedTransaction
        raise pickle.UnpicklingError("a request has no use for that")


def read_request(stream: RequestStream) -> dict:
    """Return the next request, a dict with the key "request"; raise BadRequest if it is not one."""
    harmless = True
    try:
        for count, (opcode, _, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_REQUEST_OPCODES:
                raise BrokenStream("No request is that complicated.")
            harmless = harmless and opcode.name in REQUEST_OPCODES
    except ValueError:
        raise BrokenStream("That is not a pickle.") from None
    if not harmless:
        raise BadRequest("A request is made of text, numbers and a Transaction, nothing else.")
    try:
        request = RequestUnpickler(io.BytesIO(stream.message())).load()
    except Exception:  # the documentation of pickle promises nothing narrower
        raise BadRequest("That pickle cannot be read.") from None
    if type(request) is not dict or "request" not in request:
        raise BadRequest('A request is a dict with the key "request".')
    return request


# ------------------------------------------------------------------------------------------
# The command line
# ------------------------------------------------------------------------------------------


def port_number(text: str) -> int:
    """Return the port that somebody typed; raise ArgumentTypeError if it is not one."""
    if text.isdecimal() and 1 <= int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")


def main() -> None:
    """Run a node until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description="A blockchain node: it mines, and answers clients on 127.0.0.1.",
        epilog="example: python blockchain_server.py 1111",
    )
    parser.add_argument("port", type=port_number, help="the port to listen on, 1 to 65535")
    node = BlockChain(parser.parse_args().port)
    try:
        node.start()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, KeyboardInterrupt):
            node.say("\nGoodbye! The chain ends with its node.")
        status = 0
    except OSError as error:  # the port is taken, or whoever read the log has gone
        print(f"blockchain_server.py: {error.strerror}", file=sys.stderr)
        status = 1
    # Handlers may be in the middle of anything, and nothing that they hold outlives the node.
    # An orderly end would wait for them, or stop them while they hold the lock of stdout.
    os._exit(status)


if __name__ == "__main__":
    main()
