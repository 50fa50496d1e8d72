"""A blockchain node in one file: the ledger of Days 02 to 05, on a socket as of Day 06.

    python blockchain_server.py 1111

The node mines until Ctrl-C. Meanwhile `blockchain_client.py` asks it for balances and sends it
signed payments. Read downwards, the file follows the series:

    Day 02  Transaction, Block, BlockChain          what a chain is made of
    Day 03  transaction_to_string ... append_block  hashing and mining
    Day 04  adjust_difficulty ... check_block       difficulty, balances, verification
    Day 05  generate_address ... add_transaction    keys, signatures, the rules of money
    Day 06  start ... respond                       threads and sockets

Behind the days stand the reader of requests, the screen and the command line. In a Python
shell, `BlockChain()` is the ledger alone. A name after `#` is what Bitcoin Core calls the same
thing. What is simplified here is listed in README.md, under "Limits".
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pickletools
import select
import shutil
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

try:
    import rsa
except ModuleNotFoundError:
    sys.exit("No rsa. Type: python3 -m venv .venv && .venv/bin/pip install -qr requirements.txt")


# ---- Day 02: the shapes. A chain is a list of blocks, a block holds a list of transactions.


@dataclasses.dataclass
class Transaction:
    """A payment, as it is signed, sent and mined (Day 02).  #CTransaction"""

    sender: str  # an address: the public key that the signature must fit
    receiver: str  # an address, or any other text
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner of the block, on top of the amounts
    message: str  # the sender's comment


@dataclasses.dataclass
class Block:
    """Transactions, with the proof that work was done on them (Day 02).  #CBlock"""

    previous_hash: str  # of the block before: this is what makes it a chain  #hashPrevBlock
    difficulty: int  # zeros that the hash must begin with  #nBits
    miner: str  # the address that gets the rewards and the fees
    miner_rewards: int  # coins that this block creates  #GetBlockSubsidy
    hash: str = ""  # empty until mined
    nonce: int = 0  # the number that gives the hash its zeros  #nNonce
    timestamp: int = dataclasses.field(default_factory=lambda: int(time.time()))  # s, begun  #nTime
    transactions: list[Transaction] = dataclasses.field(default_factory=list)  # #vtx


class Refused(Exception):
    """A no. The text is a sentence for whoever asked: a payer, a client, a caller."""


class BlockChain:
    """The ledger; and with `start()`, the node around it.

    The main thread mines. A thread for each client calls `get_balance` and `add_transaction`.
    One lock guards what both sides touch. Nobody hashes, verifies, prints or waits under it.
    """

    def __init__(self, socket_port: int = 0) -> None:
        """Make an empty ledger. `start()` will listen on `socket_port`; 0 means any free port."""
        self.adjust_difficulty_blocks = 10  # between retargets  #DifficultyAdjustmentInterval
        self.difficulty = 1  # zeros that the next block's hash must begin with
        self.block_time = 30  # seconds that a block should take  #nPowTargetSpacing
        self.miner_rewards = 10  # coins that a block creates
        self.block_limitation = 32  # transactions in a block, at most  #MAX_BLOCK_WEIGHT
        # The blocks, oldest first. Only `append_block` adds one: `self.chain.append`, as on
        # Day 03, would leave the balances behind.  #CChain
        self.chain: list[Block] = []
        self.pending_transactions: list[Transaction] = []  # accepted, not yet mined  #CTxMemPool

        # What follows from these two lists, kept so that nobody has to walk them.
        self.lock = threading.Lock()
        self.balances: collections.Counter[str] = collections.Counter()  # account: coins
        self.outgoing: collections.Counter[str] = collections.Counter()  # account: coins pending
        # All payments that ever counted, by id: what is pending, and None for what is mined.
        self.accepted_payments: dict[bytes, Transaction | None] = {}
        self.chain_work = 0  # hashes that the chain took, on average  #nChainWork

        self.socket_host = "127.0.0.1"
        self.socket_port = socket_port
        self.screen = Screen()
        self.say = self.screen.say

    # ---- Day 03: hashing and mining. A hash is a fingerprint; work makes it costly to forge one.

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

    def get_transaction_id(self, transaction: Transaction) -> bytes:
        """Return the SHA-256 of a transaction's text: equal payments have equal ids.  #txid"""
        return hashlib.sha256(self.transaction_to_string(transaction).encode("utf-8")).digest()

    def get_transactions_string(self, block: Block) -> str:
        """Return the texts of a block's transactions, one after the other."""
        return "".join(map(self.transaction_to_string, block.transactions))

    def get_block_bytes(self, block: Block) -> bytes:
        """Return what is hashed in front of the nonce: all other fields, as the text of a dict.

        SHA-1 reads 64 bytes in one step. Blanks fill up the last step, so the nonce gets one of
        its own, and each try costs no more than that one.

        >>> block = Block("Hello World!", 1, "alice", 10, timestamp=1571000000)
        >>> BlockChain().get_block_bytes(block)  # doctest: +ELLIPSIS
        b"{'previous_hash': 'Hello World!', 'difficulty': 1, ..., 'transactions': ''}   ..."
        """
        fields = {**vars(block), "transactions": self.get_transactions_string(block)}
        del fields["hash"], fields["nonce"]
        data = str(fields).encode("utf-8")
        return data + b" " * (-len(data) % 64)

    def get_hash(self, block: Block, nonce: int) -> str:
        """Return the SHA-1 of the block with this nonce, as 40 hex digits.  #GetHash

        Another nonce gives another hash, and nobody can tell beforehand which one:

        >>> block = Block("Hello World!", 1, "alice", 10, timestamp=1571000000)
        >>> [BlockChain().get_hash(block, nonce)[:8] for nonce in (0, 1, 2)]
        ['2ca5184b', '3c52216a', '32da2b45']
        """
        return hashlib.sha1(self.get_block_bytes(block) + b"%a" % (nonce,)).hexdigest()

    def create_genesis_block(self) -> None:
        """Begin the chain with a block that took no work (Day 03).  #CreateGenesisBlock"""
        self.say("Create genesis block...")
        block = Block("Hello World!", 0, "lkm543", self.miner_rewards)
        block.hash = self.get_hash(block, block.nonce)
        self.append_block(block)

    def add_transaction_to_block(self, block: Block) -> None:
        """Copy the pending transactions with the highest fees into the block.  #BlockAssembler

        They stay pending until the block is on the chain: nothing is lost if mining is interrupted.
        Of equal fees the older goes first. No lock: `sorted` copies the list in one step.
        """
        best_first = sorted(self.pending_transactions, key=lambda t: t.fee, reverse=True)
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
        self.say(f"Hash found: {block.hash} @ difficulty {block.difficulty}, time cost: {seconds}s")
        if block.transactions:
            self.say(f"Payments in block {len(self.chain) - 1}: {len(block.transactions)}")

    # The last digits of a nonce: 0 to 999 as they are, later with three digits (1007 ends in 007).
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
        hash begins with zeros if, as a number, it is below a target.  #CheckProofOfWork
        """
        target = (16 ** (40 - block.difficulty)).to_bytes(20, "big")
        beginning = hashlib.sha1(self.get_block_bytes(block))
        start = time.perf_counter()
        thousands = 0
        while True:
            self.show_progress(block, thousands * 1000, start)
            state = beginning.copy()
            if thousands:
                state.update(b"%d" % thousands)
            for ending in self.ENDINGS if thousands else self.FIRST_ENDINGS:
                attempt = state.copy()
                attempt.update(ending)
                if attempt.digest() < target:
                    return thousands * 1000 + int(ending)
            thousands += 1

    def show_progress(self, block: Block, tries: int, start: float) -> None:
        """Once a second, show on a terminal how the mining goes.

        Luck has no memory: however long it took so far, the average time from now on is the same.
        """
        now = time.perf_counter()
        if self.screen.terminal and now > max(start, self.screen.changed_at) + 1:
            rate = max(tries, 1) / (now - start)
            so_far = f"Block {len(self.chain)} @ difficulty {block.difficulty}: {now - start:.0f}s"
            average = f"average {16**block.difficulty / rate:,.0f}s, {rate:,.0f} hashes/s"
            self.say(changing=f"{self.screen.hint}{so_far} ({average})")

    def append_block(self, block: Block) -> None:
        """Put a sound block on the chain, with all that follows from it.  #ConnectTip

        The only door into the chain, whoever mined the block. `check_block` tells what is sound.
        """
        payment_ids = [self.get_transaction_id(transaction) for transaction in block.transactions]
        settled = set()  # the payments that wait no longer, by id(): quick, however many wait
        with self.lock:
            self.chain.append(block)
            self.chain_work += 16**block.difficulty
            self.balances[block.miner] += block.miner_rewards
            for payment_id, transaction in zip(payment_ids, block.transactions):
                cost = transaction.amounts + transaction.fee
                self.balances[transaction.sender] -= cost
                self.balances[transaction.receiver] += transaction.amounts
                self.balances[block.miner] += transaction.fee
                waiting = self.accepted_payments.get(payment_id)
                if waiting:  # else it came with somebody else's block, and was never counted here
                    self.outgoing[transaction.sender] -= cost
                self.accepted_payments[payment_id] = None
                settled |= {id(transaction), id(waiting)}
            pending = self.pending_transactions
            self.pending_transactions = [each for each in pending if id(each) not in settled]

    # ---- Day 04: difficulty, balances, verification. Nobody is trusted: everything is recomputed.

    def adjust_difficulty(self) -> int:
        """After every tenth mined block, fit the difficulty to the time that blocks took.

        Returns the difficulty. One zero more is sixteen times the work, so it is added only if
        blocks would still come within `block_time`, here 30 s:  #CalculateNextWorkRequired

            average  1 s    16 times that is 16 s: one zero more
            average  5 s    16 times that is 80 s: keep
            average 40 s    too slow: one zero fewer, but never below one
        """
        span = self.adjust_difficulty_blocks
        mined = len(self.chain) - 1  # genesis was not mined
        if mined < span or mined % span:
            return self.difficulty
        average = (self.chain[-1].timestamp - self.chain[-1 - span].timestamp) / span
        if average > self.block_time and self.difficulty > 1:
            self.difficulty -= 1
            verdict = "Lower the difficulty"
        elif 0 <= average * 16 <= self.block_time:  # below 0 if the clock was set back
            self.difficulty += 1
            verdict = "High up the difficulty"
        else:
            verdict = "Keep the difficulty"
        self.say(f"Average block time:{round(average, 2)}s. {verdict}")
        return self.difficulty

    def get_balance(self, account: str) -> int:
        """Return the coins of an account as of the last block; 0 for one that nobody knows."""
        with self.lock:
            return self.balances[account]

    def verify_blockchain(self) -> bool:
        """Recompute the whole chain; print what is wrong with it, or `Hash correct!`.

        Returns whether the chain is as it was appended, as far as one can see: a block may have
        been changed, and then mined again with as much work as before.  #CVerifyDB
        """
        with self.lock:
            chain, chain_work = list(self.chain), self.chain_work
        if not chain and not chain_work:
            self.say("There is no block to verify yet.")
            return True
        previous_hash = "Hello World!"
        for height, block in enumerate(chain):
            try:
                self.check_block(block, previous_hash)
            except Refused as fault:
                self.say(f"Block {height}: {fault}")
                return False
            previous_hash = block.hash
        work = sum(16**block.difficulty for block in chain)
        if work != chain_work:
            more = "more" if work > chain_work else "less"
            self.say(f"The chain shows {more} work than was done for it!")
            return False
        self.say("Hash correct!")
        return True

    def check_block(self, block: Block, previous_hash: str) -> None:
        """Raise Refused if this block cannot follow one with that hash.  #CheckBlock

        It looks at the hash, the work and the link. It does not look at the rules for difficulty
        and rewards, nor whether the senders had the coins, signed, and pay for the first time.
        """
        try:
            zeros = len(block.hash) - len(block.hash.lstrip("0"))
            hashed = block.hash == self.get_hash(block, block.nonce)
            worked = 0 <= block.difficulty <= zeros
        except Exception as error:  # whatever may stand in a field
            raise Refused("it holds something that cannot be hashed!") from error
        if not hashed or type(block.transactions) is not list:
            raise Refused("its content is not what was hashed!")
        if not worked:
            raise Refused("its hash does not show the work!")
        if block.previous_hash != previous_hash:
            raise Refused("it does not follow the block before it!")

    # ---- Day 05: keys and signatures. An address is a public key; its private key moves coins.

    def generate_address(self) -> tuple[str, str]:
        """Make a pair of keys. Return the address, which is the public key, and the private key.

        512 bits are short enough to paste. They are also too short for real coins: somebody
        with a few rented computers finds the private key within hours.
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
        pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address[:704]}\n-----END RSA PUBLIC KEY-----\n"
        with contextlib.suppress(Exception):  # `rsa` and `pyasn1` have many ways to say "no key"
            key = rsa.PublicKey.load_pkcs1(pem.encode("ascii"))
            spelling = BlockChain.get_address_from_public(key.save_pkcs1())
            if 2**511 <= key.n < 2**4096 and 3 <= key.e < 2**32 and spelling == address:
                return key
        raise Refused("Sender must be an address as generate_address makes them!")

    def check_fields(self, transaction: Transaction) -> None:
        """Raise Refused if a field of this payment cannot be right.  #CheckTransaction

        Not `isinstance`: True is an int too, and a subclass could compare as it likes. This also
        keeps out NaN, for which every comparison is false.
        """
        if type(transaction.amounts) is not int or transaction.amounts <= 0:
            raise Refused("Amounts must be a whole number above 0!")
        if type(transaction.fee) is not int or transaction.fee < 0:
            raise Refused("Fee must be a whole number, 0 or more!")
        if transaction.amounts + transaction.fee > 10**18:  # more than will ever exist  #MAX_MONEY
            raise Refused("Balance not enough!")
        if type(transaction.receiver) is not str or not transaction.receiver:
            raise Refused("Receiver must be a text, and not an empty one!")
        if type(transaction.message) is not str:
            raise Refused("Message must be a text!")
        sender = transaction.sender
        self.get_public_from_address(sender if type(sender) is str else "")

    def check_signature(self, transaction: Transaction, signature: bytes) -> bool:
        """Return whether the sender of a payment signed it, with SHA-1."""
        data = self.transaction_to_string(transaction).encode("utf-8")
        key = self.get_public_from_address(transaction.sender)
        try:
            return type(signature) is bytes and rsa.verify(data, signature, key) == "SHA-1"
        except (rsa.VerificationError, OverflowError):  # wrong, or of a hash too long for the key
            return False

    def add_transaction(self, transaction: Transaction, signature: bytes) -> tuple[bool, str]:
        """Accept a signed payment, to be mined, or refuse it.  #AcceptToMemoryPool

        Returns whether it was accepted, and why not. Never raises, whatever stands in the fields.
        """
        transaction = Transaction(**vars(transaction))  # a copy: the original could be changed
        try:
            self.check_fields(transaction)
            signed = self.check_signature(transaction, signature)  # slow, so before the lock
            payment_id = self.get_transaction_id(transaction)
            sender, cost = transaction.sender, transaction.amounts + transaction.fee
            with self.lock:
                if payment_id in self.accepted_payments:
                    raise Refused("Accepted before! To pay the same again, change the comment.")
                # The next line looks at the coins, and `outgoing` spends them. Without the lock,
                # two threads could both look before either spends.
                if cost > self.balances[sender] - self.outgoing[sender]:
                    raise Refused("Balance not enough!")
                if not signed:
                    raise Refused("RSA Verified wrong!")
                self.outgoing[sender] += cost
                self.accepted_payments[payment_id] = transaction
                self.pending_transactions.append(transaction)
        except Refused as refusal:
            return False, str(refusal)
        return True, "Authorized successfully!"

    # ---- Day 06: the node. One thread mines, one waits for clients, and each client has its own.

    def start(self) -> NoReturn:
        """Be a node: listen, show the miner's keys, mine. Raises Refused if the port is taken."""
        self.start_socket_server()
        address, private = self.generate_address()
        self.screen.say_keys(f"Miner address: {address}", f"Miner private: {private}")
        client = f"{sys.executable} blockchain_client.py {self.socket_port}"
        self.say(f"Listening on port {self.socket_port}. In another terminal, type: {client}")
        self.create_genesis_block()
        while True:
            self.mine_block(address)
            self.adjust_difficulty()

    def start_socket_server(self) -> None:
        """Open the port, and wait for connections in a thread. Raises Refused if it is taken."""
        # A thread that wants to answer gets its turn after 20 µs. Python's own 5 ms would be paid
        # several times for each answer, because the miner never rests.
        sys.setswitchinterval(0.00002)
        try:
            # The article's socket, bind and listen in one, with what each system needs.
            server = socket.create_server((self.socket_host, self.socket_port), backlog=1024)
        except OSError as error:
            raise Refused(f"port {self.socket_port}: {error.strerror}") from error
        self.socket_port = server.getsockname()[1]
        threading.Thread(target=self.wait_for_socket_connection, args=[server], daemon=True).start()

    def wait_for_socket_connection(self, server: socket.socket) -> NoReturn:
        """Give each new connection a thread of its own, for ever.  #ThreadSocketHandler"""
        accepted = None  # a connection and its address, until they have their thread
        next_complaint = 0.0
        while True:
            try:
                accepted = accepted or server.accept()
                threading.Thread(
                    target=self.receive_socket_message, args=accepted, daemon=True
                ).start()
                accepted = None
            except ConnectionError:  # the client left before it was accepted
                continue
            except (OSError, RuntimeError, MemoryError) as error:
                # No descriptor is left, or no thread. Both pass when other clients leave.
                if time.monotonic() > next_complaint:
                    next_complaint = time.monotonic() + 60
                    self.say(f"Too many connections: {error}")
                time.sleep(0.1)

    def receive_socket_message(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Answer one client until it leaves, or sends what is no request.  #ProcessMessages"""
        with connection, contextlib.suppress(OSError):  # OSError: the client has gone
            self.say(f"Connected by: {address}")
            client = ClientConnection(connection)
            try:
                while True:
                    request = client.receive_request()
                    self.say(f"[*] Received: {client.excerpt()}")
                    client.answer(self.respond(request))
            except Refused as refusal:
                self.say(f"{client.excerpt()} cannot be parsed: {refusal}")
                client.answer({"message": str(refusal)})
                # Closing now would take the answer back, if bytes of the client are still unread.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass

    def respond(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises Refused if something is missing in it."""
        if request["request"] == "get_balance":
            self.say("Start to get the balance for client...")
            address = request.get("address")
            if type(address) is not str:
                raise Refused("get_balance needs an address, which is a text.")
            return {"address": address, "balance": self.get_balance(address)}
        if request["request"] == "transaction":
            self.say("Start to transaction for client...")
            transaction = request.get("data")
            if type(transaction) is not Transaction or "signature" not in request:
                raise Refused("transaction needs data, a Transaction, and a signature.")
            result, result_message = self.add_transaction(transaction, request["signature"])
            return {"result": result, "result_message": result_message}
        return {"message": "Unknown command."}


# ---- Requests from strangers. A pickle is a program, and `pickle.loads` runs whatever it says.
# So the node never unpickles: it reads the program itself, and knows harmless instructions only.

MAX_REQUEST_BYTES = 65_536  # room for 10,000 characters of comment in any language
MAX_REQUEST_STEPS = 128  # a payment has 50; each may take seventy times the memory of its byte
REQUEST_SECONDS = 10  # to send a whole request; as long again to take the answer
UNFILLED = object()  # on the stack: a Transaction that has no fields yet


def read_pickle(file: Any) -> Any:
    """Return what a pickle stands for, if a request may contain it; else raise Refused.

    `file` has the methods `read` and `readline`. `genops` takes the pickle apart and runs
    nothing. Each instruction works on a stack, and on a memo of what may be needed again. This
    is {"request": "hello"}, with the stack after each instruction:

        PROTO 4                                             the version of the language
        FRAME 24                                            how many bytes follow in one piece
        EMPTY_DICT                    {}
        MEMOIZE                       {}                    memo[0] is the dict
        SHORT_BINUNICODE 'request'    {}  'request'
        MEMOIZE                       {}  'request'         memo[1] is 'request'
        SHORT_BINUNICODE 'hello'      {}  'request'  'hello'
        MEMOIZE                       {}  'request'  'hello'
        SETITEM                       {'request': 'hello'}
        STOP                                                the result is on top

    Missing on purpose: all that calls a function, imports a name, or asks for memory by number.
    Day 07 has to add EMPTY_LIST, APPEND and APPENDS for lists, and `Block` beside `Transaction`.
    """
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack: all above the last one belongs together
    memo: dict[Any, Any] = {}
    with contextlib.suppress(ValueError, TypeError, LookupError):  # it makes no sense
        for opcode, argument, _ in itertools.islice(pickletools.genops(file), MAX_REQUEST_STEPS):
            match opcode.name:
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET":
                    stack.append(memo[argument])
                case "SHORT_BINUNICODE" | "BINUNICODE" | "SHORT_BINBYTES" | "BINBYTES" | "NONE":
                    stack.append(argument)
                case "BININT1" | "BININT2" | "BININT" | "LONG1" | "LONG4" | "BINFLOAT":
                    stack.append(argument)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_TUPLE":
                    stack.append(())
                case "MARK":
                    marks.append(len(stack))
                case "SETITEM" | "SETITEMS":
                    start = marks.pop() if opcode.name == "SETITEMS" else len(stack) - 2
                    items, stack[start:] = stack[start:], []
                    for key, value in zip(items[::2], items[1::2], strict=True):
                        if type(key) is not str:  # numbers can be chosen to share one hash
                            raise TypeError
                        stack[-1][key] = value
                case "GLOBAL" if argument == "__main__ Transaction":
                    stack.append(Transaction)
                case "STACK_GLOBAL" if stack[-2:] == ["__main__", "Transaction"]:
                    stack[-2:] = [Transaction]
                case "NEWOBJ" if stack[-2:] == [Transaction, ()]:
                    stack[-2:] = [UNFILLED]
                case "BUILD" if stack[-2] is UNFILLED:
                    stack[-2:] = [Transaction(**stack[-1])]
                case "STOP":
                    return stack.pop()
                case "PROTO" | "FRAME":
                    pass
                case _:
                    break
    raise Refused("A request is made of texts, numbers and a Transaction of five fields only.")


class ClientConnection:
    """The socket to one client. A pickle ends with its own STOP, so requests need no frame."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()  # from the first byte of this request on
        self.position = 0  # how much of it has been read
        self.deadline = 0.0  # when it must be complete, by time.monotonic()

    def receive_request(self) -> dict[str, Any]:
        """Return the next request. Raises Refused if it is none, OSError if the client has gone."""
        del self.received[: self.position]
        self.position = 0
        if not self.received:  # between two requests, a client may be silent for ever
            self.connection.settimeout(None)
            self.received += self.connection.recv(4096)
            if not self.received:
                raise ConnectionError("the client has gone")
        self.deadline = time.monotonic() + REQUEST_SECONDS
        request = read_pickle(self)
        if type(request) is not dict or "request" not in request:
            raise Refused('A request is a dict with the key "request".')
        return request

    def read(self, size: int) -> bytes:
        """Return the next bytes of the request. Raises Refused if they are too many or too late."""
        end = self.position + size
        if end > MAX_REQUEST_BYTES:  # refused before any of it is held
            raise Refused(f"A request has {MAX_REQUEST_BYTES} bytes at most.")
        while len(self.received) < end:
            try:
                self.connection.settimeout(max(self.deadline - time.monotonic(), 0.001))
                chunk = self.connection.recv(4096)
            except TimeoutError:
                raise Refused(f"A request takes {REQUEST_SECONDS} seconds at most.") from None
            if not chunk:
                raise Refused("The request ends in the middle.")
            self.received += chunk
        start, self.position = self.position, end
        return bytes(self.received[start:end])

    def readline(self) -> bytes:
        """Return the next bytes of the request up to a line feed."""
        return b"".join(iter(lambda: self.read(1), b"\n")) + b"\n"

    def excerpt(self) -> str:
        """Return the first bytes of the request for the log, escaped: never more than a line."""
        dots = "..." if self.position > 100 else ""
        return f"{bytes(self.received[: min(self.position, 100)])!r}{dots}"

    def answer(self, response: dict[str, Any]) -> None:
        """Send the text of a dict. A client that does not take it cannot keep its thread."""
        self.connection.settimeout(REQUEST_SECONDS)
        self.connection.sendall(str(response).encode("utf8"))


# ---- The screen, the end of the process, and the command line.


class Screen:
    """What a person sees of the node: lines that stay, and on a terminal one that changes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # so that the lines of two threads never mix
        self.terminal = os.isatty(1) and os.environ.get("TERM") != "dumb"
        self.hint = ""  # what the line that changes begins with
        self.changing = ""  # that line, as it stands below the others now
        self.changed_at = 0.0  # by time.perf_counter()

    def say(self, *lines: str, changing: str = "") -> None:
        """Print lines that stay, in place of the line that changes, and that one below them."""
        with self.lock:
            erased = f"\r{' ' * len(self.changing)}\r" if self.changing else ""
            self.changing = changing[: shutil.get_terminal_size().columns - 1]
            self.changed_at = time.perf_counter()
            text = erased + "".join(f"{line}\n" for line in lines) + self.changing
            try:
                print(text, end="", flush=True)
            except OSError as error:  # whoever read this has gone, or the disk is full
                end_process(1, f"blockchain_server.py: {error.strerror}")

    def say_keys(self, *keys: str) -> None:
        """Print the miner's keys. On a terminal, each Enter prints them again."""

        def wait_for_enter() -> None:
            with contextlib.suppress(OSError):  # the terminal has gone, or serves another program
                while sys.stdin.buffer.readline():
                    self.say(*keys)
            self.hint = ""  # Ctrl-D: no Enter will come any more

        self.say(*keys)
        if self.terminal and os.isatty(0) and not hasattr(sys, "ps1"):  # that is Python's own shell
            self.hint = "[Enter: keys] "
            threading.Thread(target=wait_for_enter, daemon=True).start()


def end_process(status: int, last_line: str) -> NoReturn:
    """End the process at once, with a last line if there is room for it.

    It may be called in the middle of anything, so it takes no lock and waits for nobody.
    """
    stream = sys.stderr if status else sys.stdout
    with contextlib.suppress(OSError, ValueError):
        # Writing to a pipe that is full, because nobody reads it, would last for ever.
        if stream and (os.name == "nt" or select.select([], [stream], [], 0)[1]):
            os.write(stream.fileno(), f"{last_line}\n".encode("utf8", "backslashreplace"))
    os._exit(status)


def port_number(text: str) -> int:
    """Return the port that somebody typed. Raises ArgumentTypeError if it is not one."""
    if text.isdecimal() and 1 <= int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")


def main() -> None:
    """Run a node until Ctrl-C."""
    for number in signal.SIGINT, signal.SIGTERM:  # Ctrl-C, and a polite `kill`
        signal.signal(number, lambda *_: end_process(0, "\nGoodbye! The chain ends with its node."))
    if sys.platform != "win32":  # a node in the background goes on, though it wants the keyboard
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what this terminal cannot show
    parser = argparse.ArgumentParser(
        description="A blockchain node: it mines, and answers clients on 127.0.0.1.",
        epilog="example: python blockchain_server.py 1111",
    )
    parser.add_argument("port", type=port_number, help="the port to listen on, 1 to 65535")
    try:
        BlockChain(parser.parse_args().port).start()
    except Refused as refusal:
        end_process(1, f"blockchain_server.py: {refusal}")


if __name__ == "__main__":
    main()
