"""A blockchain node in one file: Days 02 to 05 build a ledger, Day 06 puts it on the network.

    python blockchain_server.py 1111

A *node* is a program that keeps a ledger and mines; `blockchain_client.py` is a *client*, which
asks a node for balances and sends it signed transactions. The *ledger* records how many *coins*
each account has. A *Day* is one article of the series, and the file follows their order:

    Day 02  Transaction, Block, BlockChain          what a chain is made of
    Day 03  transaction_to_string ... append_block  hashing and mining
    Day 04  adjust_difficulty ... check_block       difficulty, balances, verification
    Day 05  generate_address ... add_transaction    keys, signatures, the rules of money
    Day 06  start ... main                          threads, sockets, requests, the command line

`BlockChain()` is a ledger to try out in a Python shell. README.md lists what is simplified.
導讀: tests/GUIDE.md
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

import rsa

GENESIS_PREVIOUS_HASH = "Hello World!"  # the genesis block has no block before it
MAX_REQUEST_BYTES = 16_384  # most transactions have about 400 bytes; long comments fit, too
REQUEST_SECONDS = 10  # how long a client may be silent in the middle of a request


# ---- Day 02: the data -----------------------------------------------------------------------
#
#     transaction    coins that one account sends to another
#     fee            what the sender adds for the miner, so that the transaction is mined sooner
#     block          a list of transactions, together with the hash of the block before it
#     chain          all blocks, the oldest first
#     genesis block  the first block of a chain
#     timestamp      Unix time: whole seconds since 1970


@dataclasses.dataclass(frozen=True)
class Transaction:
    """Coins that one account sends to another (Day 02).

    It cannot be changed, so it can be an element of the set `accepted_transactions`.
    """

    sender: str  # an address: the public key that the signature is checked against
    receiver: str  # an address, or any other text
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner, on top of the amounts
    message: str  # a comment by the sender


@dataclasses.dataclass
class Block:
    """A list of transactions, and a hash that took work to find (Day 02)."""

    previous_hash: str  # what makes a chain of the blocks
    difficulty: int  # how many zeros the hash must begin with
    miner: str  # the address that gets the reward and the fees
    miner_rewards: int  # coins that this block creates
    hash: str = ""  # empty until the block is mined
    nonce: int = 0  # the number that gives the hash its zeros
    timestamp: int = dataclasses.field(default_factory=lambda: int(time.time()))  # mining began
    transactions: list[Transaction] = dataclasses.field(default_factory=list)


class Refused(Exception):
    """Raised when something cannot be accepted. Its text says why."""


class BlockChain:
    """The ledger: a chain of blocks, and the balances that result. `start()` makes a node of it.

    The main thread mines. The threads that answer clients touch the ledger only through
    `get_balance` and `add_transaction`. What both sides use is changed under `lock`. It is also
    read under it, because in the middle of a change, coins are missing. Two reads need no lock: the
    main thread reads the chain, which nobody else writes to, and `show_progress` only counts. A
    thread that holds the lock does not hash blocks, verify signatures, print, or wait for the
    network.
    """

    def __init__(self, socket_port: int = 0) -> None:
        """Make an empty ledger. `start()` will listen on `socket_port`; 0 means any free port."""
        self.adjust_difficulty_blocks = 10  # blocks between two changes of the difficulty
        self.difficulty = 1  # how many zeros the hash of the next block must begin with
        self.block_time = 30  # seconds that a block should take
        self.miner_rewards = 10  # coins that a block creates
        self.block_limitation = 32  # transactions that fit into a block
        self.chain: list[Block] = []  # the oldest block is first; only append_block adds to it
        self.pending_transactions: list[Transaction] = []  # accepted, but in no block of the chain

        # The next four change together with these two lists. The first three follow from them, and
        # are kept to save time; chain_work is counted separately, so that verify_blockchain can
        # compare it with the chain. A Counter returns 0 for an account that it has never seen.
        self.balances: collections.Counter[str] = collections.Counter()  # coins of each account
        # Coins that each account pays with its pending transactions.
        self.outgoing: collections.Counter[str] = collections.Counter()
        self.accepted_transactions: set[Transaction] = set()  # those in the chain, and the pending
        self.chain_work = 0  # how many hashes mining such a chain takes on average
        self.lock = threading.Lock()

        # For P2P connection. `start` opens the port.
        self.socket_host = "127.0.0.1"
        self.socket_port = socket_port

    # ---- Day 03: hashing and mining -------------------------------------------------------------
    #
    #     hash        a fingerprint of data; here SHA-1, which gives 40 hex digits and processes its
    #                 input in pieces of 64 bytes
    #     nonce       a number that is hashed with the block, and free to choose
    #     difficulty  how many zeros the hash must begin with; each costs 16 times the tries
    #     mining      trying nonces until the hash has its zeros; a miner does this for a reward
    #     reward      new coins for the miner of a block, besides its fees
    #     pending     accepted, but not yet mined (Bitcoin: in the mempool)
    #     midstate    a hash object that has read the beginning of its input, to be copied

    @staticmethod
    def transaction_to_string(transaction: Transaction) -> str:
        """Return the text of a transaction that its sender signs and a block hashes (Day 03).

        The client has the same function: if one character differed, no signature would be valid.

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
        """Return the texts of all transactions in a block, one after the other (Day 03)."""
        return "".join(map(self.transaction_to_string, block.transactions))

    def get_block_bytes(self, block: Block) -> bytes:
        """Return what is hashed in front of the nonce: all fields of a block but hash and nonce.

        The dict's names and quotes show where each field ends: without them, 1 and 23 would be
        hashed like 12 and 3. Spaces fill up the last 64 bytes, so that each try of the miner leaves
        SHA-1 only one more piece of 64 bytes to process: the one with the nonce.
        """
        fields = {**vars(block), "transactions": self.get_transactions_string(block)}
        del fields["hash"], fields["nonce"]
        data = str(fields).encode("utf-8")
        return data + b" " * (-len(data) % 64)  # up to the next multiple of 64

    def get_hash(self, block: Block, nonce: int) -> str:
        """Return the SHA-1 of `get_block_bytes` and the nonce's digits, as 40 hex digits (Day 03).

        >>> block = Block("Hello World!", 1, "alice", 10, timestamp=1571000000)
        >>> [BlockChain().get_hash(block, nonce)[:8] for nonce in (0, 1, 2)]
        ['2ca5184b', '3c52216a', '32da2b45']
        """
        return hashlib.sha1(self.get_block_bytes(block) + repr(nonce).encode("utf-8")).hexdigest()

    def get_genesis_block(self) -> Block:
        """Return the first block of a chain, whose difficulty 0 takes no work (Day 03)."""
        # lkm543 is the author of the series.
        block = Block(GENESIS_PREVIOUS_HASH, 0, "lkm543", self.miner_rewards)
        return dataclasses.replace(block, hash=self.get_hash(block, block.nonce))

    def create_genesis_block(self) -> None:
        """Begin the chain with its first block (Day 03)."""
        say("Create genesis block...")
        self.append_block(self.get_genesis_block())

    def add_transaction_to_block(self, block: Block) -> None:
        """Put the pending transactions with the highest fees into a block, as a list (Day 03).

        At most `block_limitation` of them, the highest fee first; of equal fees, the one that has
        been pending longest. `pending_transactions` stays as it is, so that nothing is lost when
        mining is interrupted. It is read under the lock, because handlers add to it meanwhile.
        """
        with self.lock:
            pending = list(self.pending_transactions)
        best_first = sorted(pending, key=lambda t: t.fee, reverse=True)  # `sorted` is stable
        block.transactions = best_first[: self.block_limitation]

    def mine_block(self, miner: str) -> None:
        """Fill a block with pending transactions, find its nonce, and append it (Day 03).

        `miner` is the address that is paid. Raises Refused if there is no genesis block.
        """
        if not self.chain:
            raise Refused("The chain has no block. Call create_genesis_block() first.")
        start = time.perf_counter()
        last_block = self.chain[-1]
        new_block = Block(last_block.hash, self.difficulty, miner, self.miner_rewards)
        self.add_transaction_to_block(new_block)
        new_block.nonce = self.find_nonce(new_block)
        new_block.hash = self.get_hash(new_block, new_block.nonce)
        time_consumed = round(time.perf_counter() - start, 2)
        self.append_block(new_block)
        found = f"Hash found: {new_block.hash} @ difficulty {new_block.difficulty}"
        say(f"{found}, time cost: {time_consumed}s")
        if new_block.transactions:
            say(f"Transactions in block {len(self.chain) - 1}: {len(new_block.transactions)}")

    # find_nonce takes digits from these tables: writing out every nonce would make mining a third
    # slower. There are two, because 7 is written `7`, but 1007 ends in `007`.
    ONE_TO_THREE_DIGITS: ClassVar[list[bytes]] = [b"%d" % number for number in range(1000)]
    THREE_DIGITS: ClassVar[list[bytes]] = [b"%03d" % number for number in range(1000)]

    def find_nonce(self, block: Block) -> int:
        """Return the lowest nonce, from 0 on, whose hash begins with `block.difficulty` zeros.

        Nobody can know it without trying. After each million tries, this calls `show_progress`.
        """
        # This loop would find the same nonce, but slowly:
        #
        #     nonce = 0
        #     while not self.get_hash(block, nonce).startswith("0" * block.difficulty):
        #         nonce += 1
        #
        # Below, the block is hashed once, into `midstate`. A thousand nonces share `state`, which
        # has also read their first digits. `update` changes a hash object, so each try copies it
        # first, and then adds the last three digits.
        #
        # A digest is the 20 bytes that the 40 hex digits stand for, and bytes of equal length
        # compare like numbers. The target is the highest digest that begins with enough zeros.
        target = (16 ** (40 - block.difficulty) - 1).to_bytes(20, "big")
        midstate = hashlib.sha1(self.get_block_bytes(block))
        start = time.perf_counter()
        thousands, last_digits = 0, self.ONE_TO_THREE_DIGITS
        while True:
            state = midstate.copy()
            state.update(b"%d" % thousands if thousands else b"")
            for digits in last_digits:
                attempt = state.copy()
                attempt.update(digits)
                if attempt.digest() <= target:
                    return thousands * 1000 + int(digits)
            thousands, last_digits = thousands + 1, self.THREE_DIGITS
            if thousands % 1000 == 0:
                self.show_progress(block, thousands * 1000, time.perf_counter() - start)

    def show_progress(self, block: Block, tries: int, seconds: float) -> None:
        """Show on a terminal how the mining of a block goes.

        Failed tries bring success no closer, so the time to be expected from now on is always the
        same: that of 16 ** difficulty tries.
        """
        expected = 16**block.difficulty * seconds / tries
        line = f"Block {len(self.chain)} @ difficulty {block.difficulty}: "
        line += f"{len(self.pending_transactions)} pending, {len(block.transactions)} in this block"
        line += f"; {seconds:.0f}s (expected {expected:,.0f}s, {tries / seconds:,.0f} hashes/s)"
        say(line, changing=True)

    def add_pending_transactions(self, transactions: list[Transaction]) -> None:
        """Make accepted transactions pending. The caller holds the lock."""
        self.pending_transactions += transactions
        self.accepted_transactions.update(transactions)
        for transaction in transactions:
            self.outgoing[transaction.sender] += transaction.amounts + transaction.fee

    def append_block(self, block: Block) -> None:
        """Append a block without checking it, and bring up to date all that depends on the chain.

        That is `balances`, `chain_work`, `accepted_transactions`, and with what this block has not
        mined, in the same order, `pending_transactions` and `outgoing`. All of it happens under the
        lock, which is taken once. Blocks come onto the chain through here and nowhere else, whoever
        mined them: their transactions may have been pending here, or not.
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
            # pending_transactions and outgoing are built again from what this block did not mine.
            still_pending = [t for t in self.pending_transactions if t not in mined]
            self.pending_transactions, self.outgoing = [], collections.Counter()
            self.add_pending_transactions(still_pending)

    # ---- Day 04: difficulty, balances, verification ---------------------------------------------
    #
    #     balance       the coins of an account, after the newest block
    #     retarget      changing the difficulty if blocks come too slowly, or much too fast
    #     work          how many hashes mining takes on average: 16 ** difficulty for a block
    #     verification  recomputing all hashes, links and work; it sees no signatures and no coins

    def adjust_difficulty(self) -> int:
        """Retarget after every tenth mined block. Return the difficulty of the next one (Day 04).

        The average is the `timestamp` of the newest block, less that of the block ten before it,
        divided by ten. One more zero is sixteen times the work, so a zero is added only if a block
        would still come within `block_time`, here 30 s:

            average  1 s    16 s with one zero more: `High up the difficulty`
            average  5 s    80 s with one zero more: `Keep the difficulty`
            average 40 s    too slow: `Lower the difficulty`, but never below 1
            average -3 s    the clock was set back: `Keep the difficulty`

        It prints `Average block time:1.0s. High up the difficulty`, or what else the verdict is.
        It starts from the difficulty of the newest block, so a second call changes nothing more.
        After any other block, it does and prints nothing.
        """
        span = self.adjust_difficulty_blocks
        mined = len(self.chain) - 1  # the genesis block was not mined
        if mined == 0 or mined % span:
            return self.difficulty
        # A timestamp says when the mining of a block began, so this is the time of the ten blocks
        # before the newest. (In the first span, one of them is the genesis block: it took no time.)
        start = self.chain[-1 - span].timestamp
        finish = self.chain[-1].timestamp
        average_time_consumed = (finish - start) / span
        self.difficulty, verdict = self.chain[-1].difficulty, "Keep the difficulty"
        if average_time_consumed > self.block_time and self.difficulty > 1:
            self.difficulty, verdict = self.difficulty - 1, "Lower the difficulty"
        elif 0 <= average_time_consumed * 16 <= self.block_time:  # below 0, the clock was set back
            self.difficulty, verdict = self.difficulty + 1, "High up the difficulty"
        say(f"Average block time:{round(average_time_consumed, 2)}s. {verdict}")
        return self.difficulty

    def get_balance(self, account: str) -> int:
        """Return the coins of an account after the newest block; 0 if it is unknown (Day 04).

        `append_block` keeps them in `balances`, so the chain is not walked; and asking adds no
        account. They are read under the lock, because the miner may be in the middle of a block.
        """
        with self.lock:
            return self.balances[account]

    def verify_blockchain(self) -> bool:
        """Return True if all hashes, links and work are right (Day 04).

        From the first block on, it calls `check_block`, and then compares `previous_hash`. It
        prints what is wrong with the first block that does not pass, and the number of that block.
        Only what `check_block` may raise is such a fault, and a wrong link, for which the text
        begins with `Error:Hash not matched to previous_hash`. Last, it compares the work of all
        blocks with `chain_work`, and prints which is more. If all is right, it prints `Hash
        correct!`. The chain and `chain_work` are copied under the lock.

        One forgery it cannot see: a block that was changed, and then mined again, with all later
        ones and the same work. In a network, that chain would need more work than all others.
        """
        with self.lock:
            chain, chain_work = list(self.chain), self.chain_work
        for height, block in enumerate(chain):
            previous_hash = chain[height - 1].hash if height else GENESIS_PREVIOUS_HASH
            try:
                self.check_block(block)
                if block.previous_hash != previous_hash:
                    raise Refused("Error:Hash not matched to previous_hash. The link is broken.")
            except (Refused, TypeError, ValueError) as fault:  # a wrong type cannot be hashed
                say(f"{fault} (Block {height})")
                return False
        # If somebody takes the last blocks away, or mines blocks again with a lower difficulty, all
        # links are right. The sum of the work is then too small.
        work = sum(16**block.difficulty for block in chain)
        if work != chain_work:
            say(f"The chain shows {'more' if work > chain_work else 'less'} work than was done!")
            return False
        say("Hash correct!")
        return True

    def check_block(self, block: Block) -> None:
        """Raise Refused if the hash of this block is wrong, or has too few zeros.

        The text begins with `Error:Hash not matched!` if `hash` is not what `get_hash` returns, or
        if `transactions` is not a list of Transactions, which no hash shows. The number of zeros is
        what `difficulty` says, 0 or more. Raises TypeError or ValueError, too, if a field holds a
        value that cannot be hashed or compared.

        It knows nothing but this block. So it does not check the link to the block before, the
        rules for difficulty and reward, whether the senders signed and had the coins, and whether a
        transaction was mined before.
        """
        listed = type(block.transactions) is list and all(
            type(each) is Transaction for each in block.transactions
        )
        if not listed or block.hash != self.get_hash(block, block.nonce):
            raise Refused("Error:Hash not matched! Its content is not what was hashed.")
        if not 0 <= block.difficulty <= len(block.hash) - len(block.hash.lstrip("0")):
            raise Refused("Its hash does not show the work.")

    # ---- Day 05: keys, signatures, the rules of money -------------------------------------------
    #
    #     key pair   a private key signs, and its public key checks the signature
    #     address    here the public key itself; in Bitcoin usually a hash of it
    #     signature  shows that the owner of the private key agreed to exactly this text
    #     PEM        a text format for keys: base64 (A-Z a-z 0-9 + / =) between two marker lines
    #     replay     sending somebody's signed transaction once more

    def generate_address(self) -> tuple[str, str]:
        """Make a key pair. Return the address and the private key, as base64 on one line (Day 05).

        512 bits are short enough to copy and paste, and far too short for real money.
        """
        public, private = rsa.newkeys(512)
        public_key = public.save_pkcs1()
        private_key = private.save_pkcs1()
        return self.get_address_from_public(public_key), self.extract_from_private(private_key)

    @staticmethod
    def get_address_from_public(public: bytes) -> str:
        """Return the PEM of a public key without its marker lines and line breaks (Day 05)."""
        return "".join(public.decode("ascii").splitlines()[1:-1])

    @staticmethod
    def extract_from_private(private: bytes) -> str:
        """Return the PEM of a private key without its marker lines and line breaks (Day 05)."""
        return "".join(private.decode("ascii").splitlines()[1:-1])

    @staticmethod
    @functools.lru_cache(maxsize=1024)  # parsing a key takes longer than checking a signature
    def get_public_from_address(address: str) -> rsa.PublicKey:
        """Return the public key in an address (Day 05). Raises Refused if it is no valid address.

        A public key is two numbers, n and e. It comes from a stranger, so both are limited: n has
        512 to 4,096 bits, and e is at least 3 and below 2**32. With 30,000 bits each, checking a
        single signature would take a minute. One key has many spellings in base64, and each would
        be an account of its own, so only the one of `get_address_from_public` is accepted.
        """
        mistake = "Sender must be an address made by generate_address!"
        pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
        try:
            key = rsa.PublicKey.load_pkcs1(pem.encode("ascii"))
        except Exception as error:  # rsa, base64 and pyasn1 raise many kinds
            raise Refused(mistake) from error
        spelling = BlockChain.get_address_from_public(key.save_pkcs1())
        if address == spelling and 2**511 <= key.n < 2**4096 and 3 <= key.e < 2**32:
            return key
        raise Refused(mistake)

    def check_fields(self, transaction: Transaction) -> None:
        """Raise Refused if this is no Transaction, or one of its fields breaks a rule (Day 05).

        `amounts` is an int above 0, `fee` an int of 0 or more; sender, receiver and message are
        strings; the receiver is not empty, and `get_public_from_address` accepts the sender. If
        amounts and fee are more than 10**18 together, the text is `Balance not enough!`

        The types have to be exact. `isinstance` would accept True as an int, and also an object
        whose class is derived from int and defines `<` in its own way. A comparison alone would let
        NaN pass, because `nan <= 0` is false.
        """
        # The set accepted_transactions compares with ==. An object of another class could say that
        # it equals none of them, and so be accepted again and again.
        if type(transaction) is not Transaction:
            raise Refused("This must be a Transaction of blockchain_server.py!")
        if type(transaction.amounts) is not int or transaction.amounts <= 0:
            raise Refused("Amounts must be a whole number above 0!")
        if type(transaction.fee) is not int or transaction.fee < 0:
            raise Refused("Fee must be a whole number, 0 or more!")
        # Nobody has so much, and `str` would fail for numbers of thousands of digits.
        if transaction.amounts + transaction.fee > 10**18:
            raise Refused("Balance not enough!")
        for name in ("sender", "receiver", "message"):
            if type(getattr(transaction, name)) is not str:
                raise Refused(f"{name.capitalize()} must be a string!")
        if not transaction.receiver:
            raise Refused("Receiver must not be empty!")
        self.get_public_from_address(transaction.sender)

    def check_signature(self, transaction: Transaction, signature: bytes) -> bool:
        """Return whether the sender signed this transaction, with SHA-1 (Day 05).

        The signature comes from a stranger, and may be anything; only bytes can be one. The
        package's function is `rsa.verify`, with the text in UTF-8.
        """
        data = self.transaction_to_string(transaction).encode("utf-8")
        key = self.get_public_from_address(transaction.sender)
        # A signature names its hash function. rsa.verify accepts several, some of them weaker, and
        # returns the name. It raises OverflowError if that hash is too long for the key.
        try:
            return type(signature) is bytes and rsa.verify(data, signature, key) == "SHA-1"
        except (rsa.VerificationError, OverflowError):
            return False

    def add_transaction(self, transaction: Transaction, signature: bytes) -> tuple[bool, str]:
        """Accept a signed transaction with `add_pending_transactions`, or refuse it (Day 05).

        Returns True and `Authorized successfully!`, or False and the reason; raises nothing,
        whatever the fields hold. The reasons come in this order: what `check_fields` finds; that it
        is in `accepted_transactions`; `Balance not enough!`, if its coins are more than `balances`
        less `outgoing`; `RSA Verified wrong!`, which the article answers last. A signature is
        verified without the lock, because that is slow.
        """
        try:
            self.check_fields(transaction)
            signed = self.check_signature(transaction, signature)
            cost = transaction.amounts + transaction.fee
            with self.lock:
                if transaction in self.accepted_transactions:
                    raise Refused("Accepted before! To pay a second time, change the comment.")
                # Balance and outgoing are read and changed under one lock. Otherwise two threads
                # could both find the same coins, and both spend them.
                if cost > self.balances[transaction.sender] - self.outgoing[transaction.sender]:
                    raise Refused("Balance not enough!")
                if not signed:
                    raise Refused("RSA Verified wrong!")
                self.add_pending_transactions([transaction])
        except Refused as refusal:
            return False, str(refusal)
        return True, "Authorized successfully!"

    # ---- Day 06: threads and sockets ------------------------------------------------------------
    #
    #     socket    one end of a TCP connection, which carries bytes but marks no end of a message
    #     listener  the thread that waits for connections
    #     handler   the thread that serves one connection
    #     request   what a client sends: one pickle; the answer is `str` of a dict, in UTF-8
    #     lock      what only one thread can hold at a time; others wait until it is released
    #     GIL       CPython's global interpreter lock: the thread that holds it runs Python

    def start(self) -> NoReturn:
        """Run the node: listen, show the miner's keys, mine (Day 06). Never returns.

        The miner gets new keys. `Miner address: ...`, `Miner private: ...` and `Listening on port
        ...` are shown first, and again after block 50, because the first fifty blocks come fast,
        and move them off the screen. Then come the genesis block, and block after block, with
        `adjust_difficulty` in between. Raises Refused if the port cannot be used.
        """
        self.start_socket_server()
        address, private = self.generate_address()
        keys = f"Miner address: {address}\nMiner private: {private}\n"
        keys += f"Listening on port {self.socket_port}. Ctrl-C ends the node and its chain."
        say(keys)
        self.create_genesis_block()
        while True:
            self.mine_block(address)
            self.adjust_difficulty()
            if len(self.chain) == 51:
                say(keys)

    def start_socket_server(self) -> None:
        """Open the port, and start the listener (Day 06). Raises Refused if that fails.

        Port 0 becomes the free port that the system has chosen. The article opens the port in the
        listener's thread, where an exception would end the listener and not the node.
        """
        # The miner never waits, so Python takes the GIL from it only when the switch interval has
        # passed, which is 5 ms by default. With a shorter one, handlers answer sooner. (A
        # free-threaded Python has no GIL.)
        sys.setswitchinterval(0.00002)
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # the port of a node that has just ended is free again
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((self.socket_host, self.socket_port))
            s.listen(1024)  # so many clients may wait to be accepted, if the system allows it
        except (OSError, OverflowError) as error:
            s.close()
            reason = str(getattr(error, "strerror", error)).rstrip(".")
            raise Refused(f"port {self.socket_port}: {reason}. Choose another port.") from error
        self.socket_port = s.getsockname()[1]
        t = threading.Thread(target=self.wait_for_socket_connection, args=(s,), daemon=True)
        t.start()

    def wait_for_socket_connection(self, s: socket.socket) -> NoReturn:
        """Accept connections, and start a handler for each (Day 06). Never returns.

        `s` is the listening socket. The handler is a daemon thread, which does not keep the process
        from ending. Nothing that a client does ends the listener. If the system has no file
        descriptor left, the client waits; if it has no thread left, the client is disconnected.
        Both print `Too many connections: ...`.
        """
        while True:
            try:
                conn, address = s.accept()
                client_handler = threading.Thread(
                    target=self.receive_socket_message, args=(conn, address), daemon=True
                )
                client_handler.start()
            except ConnectionError:  # the client left before it was accepted
                pass
            except RuntimeError as error:  # no thread can start, so this client is disconnected
                conn.close()
                say(f"Too many connections: {error}")
            except (OSError, MemoryError) as error:  # often, no file descriptor is left
                say(f"Too many connections: {error}")
                time.sleep(1)  # the client still waits, and accept would fail again at once

    def receive_socket_message(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Answer one client until it leaves (Day 06).

        A request is the next pickle, whatever pieces it arrives in; its answer is the `str` of what
        `respond` returns, in UTF-8. This prints `Connected by: ...`, and for each request its first
        bytes as `[*] Received: ...`. If something is no request, the node prints `... cannot be
        parsed: ...` with the reason, answers {'message': reason}, and ends the connection: behind
        bytes that cannot be read, nobody knows where the next request begins. A client may be
        silent as long as it likes between two requests, but only for REQUEST_SECONDS in the middle
        of one.
        """
        say(f"Connected by: {address}")
        with connection, connection.makefile("rb") as received:
            parsed = True
            while parsed and (message := wait_for_bytes(received)):
                say(f"[*] Received: {message!r}")
                connection.settimeout(REQUEST_SECONDS)
                try:
                    parsed_message = read_request(received)
                    response = self.respond(parsed_message)
                except Refused as refusal:
                    parsed, response = False, {"message": str(refusal)}
                    say(f"{message!r} cannot be parsed: {refusal}")
                parsed_message = None  # its memory is free while the client is silent
                connection.settimeout(None)
                response_bytes = str(response).encode("utf8")
                with contextlib.suppress(OSError):  # the client has left
                    connection.sendall(response_bytes)
            close_gently(connection)

    def respond(self, parsed_message: Any) -> dict[str, Any]:
        """Return the answer to a request. Raises Refused if `check_request` does (Day 06).

        `parsed_message` is what `read_request` returns. In the article, this is a part of
        receive_socket_message.
        """
        check_request(parsed_message)
        if parsed_message["request"] == "get_balance":
            say("Start to get the balance for client...")
            address = parsed_message["address"]
            balance = self.get_balance(address)
            response = {"address": address, "balance": balance}
        elif parsed_message["request"] == "transaction":
            say("Start to transaction for client...")
            new_transaction = Transaction(**parsed_message["data"])
            result, result_message = self.add_transaction(
                new_transaction, parsed_message["signature"]
            )
            response = {"result": result, "result_message": result_message}
        else:
            response = {"message": "Unknown command."}
        return response


# ---- Day 06: requests from strangers --------------------------------------------------------
#
#     pickle  Python's format for objects; in truth a program, which makes them step by step
#     opcode  the byte that names one instruction of that program
#     stack   where instructions put objects and take them from; the last one is on top
#     memo    where a program keeps objects that it will use again


def wait_for_bytes(file: io.BufferedReader) -> bytes:
    """Wait for the next request. Return its first bytes, or b"" if the client has left.

    There is no time limit, because a person may be typing at the other end.
    """
    try:
        return file.peek(1)[:100]  # peek leaves them in the file, for read_request
    except OSError:  # the connection was reset
        return b""


def read_request(file: io.BufferedReader) -> Any:
    """Return the next request, with a Transaction as the dict of its fields.

    A pickle ends with the opcode STOP, so requests need no separator. Raises Refused.
    """
    return RequestReader(RequestBytes(file, MAX_REQUEST_BYTES)).load()


def check_request(parsed_message: Any) -> None:
    """Raise Refused if `respond` cannot answer this, whatever it is: it comes from a stranger.

    A request is a dict with the key "request". A get_balance has an "address", which is a string; a
    transaction has "data", which is the dict of a Transaction's five fields, and a "signature".
    """
    if type(parsed_message) is not dict or "request" not in parsed_message:
        raise Refused('A request is a dict with the key "request".')
    address, fields = parsed_message.get("address"), parsed_message.get("data")
    if parsed_message["request"] == "get_balance" and type(address) is not str:
        raise Refused('get_balance needs an "address", which is a string.')
    if parsed_message["request"] == "transaction":
        is_whole = type(fields) is dict and fields.keys() == Transaction.__annotations__.keys()
        if not is_whole or "signature" not in parsed_message:
            raise Refused('transaction needs "data" (a Transaction) and "signature".')


def close_gently(connection: socket.socket, seconds: float = 5) -> None:
    """Half-close a connection and read what is left, so that its client gets the last answer.

    Closing it with unread bytes would reset the connection, and the answer could be lost. So the
    rest is read, until the client closes its half, or has sent nothing for `seconds` seconds.
    """
    with contextlib.suppress(OSError):  # the client has left, or is silent
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(seconds)
        while connection.recv(4096):
            pass


class RequestBytes:
    """The bytes of one request, counted and limited before they are held in memory."""

    def __init__(self, file: io.BufferedReader, limit: int) -> None:
        """Read at most `limit` bytes from `file`, the connection of a client."""
        self.file, self.limit, self.left = file, limit, limit  # `left`: what may still be read

    def read(self, size: int) -> bytes:
        """Return `size` bytes. Raises Refused beyond the limit, or if the request ends first."""
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
    """Reads one pickle. In its table of opcodes, those that call functions are missing.

    `pickle.loads` runs whatever a pickle says, including `os.system`. Checking a pickle with one
    reader and then loading it with another does not help, because there are bytes that the two
    understand differently. So there is only one reader, CPython's own `pickle._Unpickler`, and its
    table is cut down to the opcodes of an honest request. This is {"request": "hello"}, leaving out
    PROTO, FRAME, MARK and each MEMOIZE:

        opcode                        stack after it
        EMPTY_DICT                    {}
        SHORT_BINUNICODE 'request'    {}  'request'
        SHORT_BINUNICODE 'hello'      {}  'request'  'hello'
        SETITEM                       {'request': 'hello'}
        STOP                          the program ends, and its result is on top of the stack

    And this is a Transaction, of which only the dict of its fields is kept. (In protocol 3, GLOBAL
    stands for the first three.)

        SHORT_BINUNICODE '__main__'   '__main__'
        SHORT_BINUNICODE 'Transaction'   '__main__'  'Transaction'
        STACK_GLOBAL                  object                (find_class)
        EMPTY_TUPLE                   object  ()            (the arguments)
        NEWOBJ                        object()
        EMPTY_DICT ... SETITEMS       object()  {'sender': ..., ...}
        BUILD                         {'sender': ..., ...}  (load_build)

    `_Unpickler` is private to Python: the tests would show if a new version changed it.
    """

    # Each of these constants is one byte, and looping over their sum gives the opcodes as ints.
    dispatch: ClassVar[dict[int, Any]] = {
        opcode: pickle._Unpickler.dispatch[opcode]
        for opcode in pickle.PROTO + pickle.FRAME + pickle.STOP + pickle.MARK
        + pickle.MEMOIZE + pickle.BINPUT + pickle.BINGET  # to the memo, and from it
        + pickle.BINUNICODE + pickle.SHORT_BINUNICODE + pickle.BINBYTES + pickle.SHORT_BINBYTES
        + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG1 + pickle.LONG4
        + pickle.EMPTY_DICT + pickle.SETITEM + pickle.SETITEMS
        # These and BUILD, below, are for a Transaction.
        + pickle.GLOBAL + pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    }  # fmt: skip

    def load(self) -> Any:
        """Return the value of the next pickle. Raises Refused if it cannot be a request."""
        try:
            return super().load()
        except TimeoutError as error:
            silence = f"{REQUEST_SECONDS} seconds of silence in the middle of the request."
            raise Refused(silence) from error
        except OSError as error:
            raise Refused("The connection was lost in the middle of the request.") from error
        except (EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
            # An opcode that is not in the table is a KeyError; the others are wrong arguments.
            raise Refused("Allowed: strings, bytes, whole numbers and a Transaction.") from error

    def find_class(self, module: str, name: str) -> type:
        """Return `object` in place of a class called Transaction, whatever its module is.

        Raises UnpicklingError for any other name. So the only class that NEWOBJ can make an object
        of is `object`, and the real class never comes within reach of a pickle.
        """
        if name == "Transaction":
            return object
        raise pickle.UnpicklingError(f"{name} is not Transaction")

    def load_build(self) -> None:
        """BUILD: `stack` ends with an object and the dict of its fields.

        Normally, the object is filled from the dict, and stays. Here the dict stays.
        """
        del self.stack[-2]  # type: ignore[attr-defined]  # mypy does not know this attribute

    dispatch[pickle.BUILD[0]] = load_build


# ---- Day 06: the screen, the end, the command line ------------------------------------------

screen_lock = threading.Lock()
changing_width = 0  # columns of the changing line that is on the screen; 0 if there is none


def say(line: str, *, changing: bool = False) -> None:
    """Print a line of the log. The lock keeps the lines of two threads apart.

    A `changing` line is for terminals only, and the next line is written over it.
    """
    global changing_width
    if changing:
        if not os.isatty(1):
            return
        # A full row would make some terminals begin another one. Some report 0 columns.
        line = line[: (shutil.get_terminal_size().columns or 80) - 1]
    with screen_lock:
        erase = "\r" + " " * changing_width + "\r" if changing_width else ""
        changing_width = len(line) if changing else 0
        try:
            print(erase + line, end="" if changing else "\n", flush=True)
        except BrokenPipeError:  # whoever read the output has closed the pipe
            os._exit(1)
        except OSError:  # a full disk, for example: lines may be lost, but the node goes on
            pass


def main() -> None:
    """Run a node until Ctrl-C. The exit status is 1 if the port cannot be used (Day 06)."""
    parser = argparse.ArgumentParser(description="A blockchain node. It listens on 127.0.0.1.")
    parser.add_argument("port", type=int, help="the port to listen on, for example 1111")
    # Ctrl-C ends the process at once, as the system does it. As a KeyboardInterrupt, it may come
    # just after a lock was taken, and then nobody releases that lock (python/cpython#148874).
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A character that the output cannot encode must not end the node.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        BlockChain(parser.parse_args().port).start()
    except Refused as refusal:
        sys.exit(f"blockchain_server.py: {refusal}")


if __name__ == "__main__":
    main()
