"""The menu client of Day 06: it makes keys, asks a node for balances, and sends it transactions.

    python blockchain_client.py 1111

The number is the port of a running node (`blockchain_server.py`). Transactions are signed here, so
that private keys stay here: in Bitcoin, such a program is a *wallet*. The file has this order:

    Day 05  generate_address ... load_private_key  keys and signatures
    Day 06  Session ... read_answers               requests and answers
    Day 06  BackToMenu ... whole_number            what a person types
    Day 06  run_command ... main                   the menu

What both scripts need stands in both, so that each can be read, run and copied alone.
導讀: tests/GUIDE.md
"""

import argparse
import ast
import contextlib
import dataclasses
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import rsa

ANSWER_SECONDS = 5  # without an answer for so long, the client says how it can be ended
MAX_REQUEST_BYTES = 16_384  # the node refuses longer ones
# The answer to a transaction that was accepted.
AUTHORIZED = "{'result': True, 'result_message': 'Authorized successfully!'}"


# ---- Day 05: keys and signatures ------------------------------------------------------------
#
#     key pair   a private key signs, and its public key checks the signature
#     address    here the public key itself
#     signature  shows that the owner of the private key agreed to exactly this text
#     PEM        a text format for keys: base64 (A-Z a-z 0-9 + / =) between two marker lines


def generate_address() -> tuple[str, str]:
    """Make a key pair. Return the address and the private key, as base64 on one line (Day 05)."""
    public, private = rsa.newkeys(512)
    public_key = public.save_pkcs1()
    private_key = private.save_pkcs1()
    return get_address_from_public(public_key), extract_from_private(private_key)


def get_address_from_public(public: bytes) -> str:
    """Return the PEM of a public key without its marker lines and line breaks (Day 05)."""
    return "".join(public.decode("ascii").splitlines()[1:-1])


def extract_from_private(private: bytes) -> str:
    """Return the PEM of a private key without its marker lines and line breaks (Day 05)."""
    return "".join(private.decode("ascii").splitlines()[1:-1])


@dataclasses.dataclass(frozen=True)
class Transaction:
    """Coins that one account sends to another (Day 02). The node has the same class.

    Its pickle names the class, `__main__.Transaction`, and holds the fields, but no code.
    """

    sender: str  # an address: the public key that the signature is checked against
    receiver: str  # an address, or any other text
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner, on top of the amounts
    message: str  # a comment by the sender


def initialize_transaction(
    sender: str, receiver: str, amount: int, fee: int, message: str
) -> Transaction:
    """Return a new transaction (Day 06). Whether there are enough coins, only the node knows."""
    new_transaction = Transaction(sender, receiver, amount, fee, message)
    return new_transaction


def transaction_to_string(transaction: Transaction) -> str:
    """Return the text of a transaction that is signed (Day 03).

    The node has the same function: if one character differed, no signature would be valid.
    """
    transaction_dict = {
        "sender": transaction.sender,
        "receiver": transaction.receiver,
        "amounts": transaction.amounts,
        "fee": transaction.fee,
        "message": transaction.message,
    }
    return str(transaction_dict)


def sign_transaction(transaction: Transaction, private: str) -> bytes:
    """Return the signature of a transaction, made with SHA-1 (Day 05).

    `private` is a private key as `extract_from_private` returns it. Raises ValueError if it is not.
    """
    private_key_pkcs = load_private_key(private)
    transaction_str = transaction_to_string(transaction)
    signature: bytes = rsa.sign(transaction_str.encode("utf-8"), private_key_pkcs, "SHA-1")
    return signature


def load_private_key(private: str) -> rsa.PrivateKey:
    """Return the private key in a line of base64. Raises ValueError if it is damaged."""
    private_key = f"-----BEGIN RSA PRIVATE KEY-----\n{private}\n-----END RSA PRIVATE KEY-----\n"
    try:
        with warnings.catch_warnings():
            # A private key holds eight numbers, and rsa only warns if they do not fit each other.
            warnings.simplefilter("error")
            return rsa.PrivateKey.load_pkcs1(private_key.encode("utf-8"))
    except Exception as error:  # rsa, base64 and pyasn1 raise many kinds
        raise ValueError("this is not a valid key.") from error


# ---- Day 06: requests and answers -----------------------------------------------------------
#
#     request  what a client sends: one pickle, which is Python's format for objects
#     answer   `str` of a dict, in UTF-8; it does not say which request it belongs to
#     socket   one end of a TCP connection, which carries bytes but marks no end of a message
#
# Two threads share the connection: the main one sends a request and waits for its answer, the other
# one receives and prints answers. No request is sent while an answer is owed.


class Session:
    """The socket to a node, and the last answer from there."""

    def __init__(self, client: socket.socket) -> None:
        """Begin with a connected socket, and no answer."""
        self.client = client
        self.answers: list[str] = []  # what came last: one answer, unless a node sends two at once
        self.answered = threading.Event()  # set when they have been printed


def send_request(session: Session, message: dict[str, Any]) -> None:
    """Send a request, and wait until handle_receive has printed its answer (Day 06).

    Raises BackToMenu if its pickle is longer than MAX_REQUEST_BYTES; then nothing is sent. Clears
    `answered` before it sends. If there is no answer after ANSWER_SECONDS, this says so, once, and
    waits on. A request with a "signature" is a transaction. If its only answer is AUTHORIZED, this
    says when it counts. If the wait is interrupted, because the person leaves or the node has gone,
    it says on stderr that the transaction may have been accepted.
    """
    data = pickle.dumps(message)
    if len(data) > MAX_REQUEST_BYTES:
        raise BackToMenu(f"Nothing was sent. A request may have {MAX_REQUEST_BYTES} bytes at most.")
    session.answered.clear()
    try:
        with contextlib.suppress(OSError):  # the node has gone, which handle_receive notices, too
            session.client.sendall(data)
        if not session.answered.wait(ANSWER_SECONDS):
            print("No answer yet. Ctrl-C ends the client.")
            # On Windows before Python 3.14, Ctrl-C counts only between two waits.
            while not session.answered.wait(1):
                pass
    finally:  # after Ctrl-C, too, or when the node has gone, or nobody reads the output
        if "signature" in message and not session.answered.is_set():
            print("\nIt may have been accepted.", end=" ", file=sys.stderr)
            print("Sent again with all fields the same, it counts once.", file=sys.stderr)
    if "signature" in message and session.answers == [AUTHORIZED]:
        print("The transaction counts as soon as a block with it is mined.")


def handle_receive(session: Session) -> NoReturn:
    """Print what the node answers. When it has gone, end the client, too (Day 06).

    Runs in a thread of its own. What `read_answers` finds is printed at once, each answer behind
    `[*] Message from node: `, whether or not somebody waits for it. Then `answers` and `answered`
    tell send_request. At the end of the connection, or after so many bytes without an answer that
    none can come, the socket is closed, a sentence goes to stderr, and the main thread is
    interrupted.
    """
    received = b""
    with session.client as client, contextlib.suppress(OSError):  # nobody reads the output
        with contextlib.suppress(ConnectionResetError, ConnectionAbortedError):
            # An honest answer is at most four times as long as its request: `str` writes a zero
            # byte as \x00.
            while len(received) <= 4 * MAX_REQUEST_BYTES and (data := client.recv(65536)):
                received += data
                if answers := read_answers(received):
                    for response in answers:
                        print(f"[*] Message from node: {response}")
                    received, session.answers = b"", answers
                    session.answered.set()
        # As one write, the line is not mixed with one of the main thread.
        print("\nThe connection to the node has ended.\n", end="", file=sys.stderr)
    # The main thread waits for a line or for an answer, and a SIGINT interrupts that as Ctrl-C
    # does. One that comes just before input() begins to wait is lost, so it is sent every second.
    # (On Windows, the first one ends the process.)
    while True:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def read_answers(received: bytes) -> list[str]:
    """Return the answers in what was received, or an empty list as long as one is not whole.

    An answer is whole when Python can read it. It is returned as the `repr` of what was read, which
    has no characters that control the terminal.
    """
    # The node of the article may send two answers in one piece.
    for data in (received, received.replace(b"}{", b"}, {")):
        with contextlib.suppress(Exception):  # what is not whole raises many kinds
            answers = ast.literal_eval(f"[{data.decode('utf8')}]")
            return [repr(answer) for answer in answers]
    return []


# ---- Day 06: what a person types ------------------------------------------------------------
#
# A slip is named, and the same field is asked for again. A private key is taken at Private_key and
# nowhere else.


class BackToMenu(Exception):
    """Raised when a command ends before anything was sent. Its text is shown."""


def ask(field: str, check: Callable[[str], Any]) -> Any:
    """Ask for a field until `check` accepts what was typed. Return what `check` returns.

    White space around it does not count. If `check` raises ValueError, its text is shown behind the
    name of the field. Raises BackToMenu

    - after an empty line, unless the field is Comment;
    - after a private key, unless the field is Private_key;
    - after a slip in a pipe, where the next line was written for the next field.

    EOFError and KeyboardInterrupt are raised again, after a sentence that nothing was sent.
    """
    while True:
        try:
            typed = input(f"{field}: ").strip()
        except (EOFError, KeyboardInterrupt):
            print("\nNothing was sent.")
            raise
        if field != "Private_key" and has_private_key(typed):
            raise BackToMenu("A private key is for Private_key only. Nothing was sent.")
        if not typed and field != "Comment":
            raise BackToMenu("Nothing was sent.")
        try:
            return check(typed)
        except ValueError as slip:
            print(f"{field}: {slip}")
        if not sys.stdin.isatty():
            raise BackToMenu("Nothing was sent.")


def base64_in(typed: str) -> str:
    """Return what is base64 in a text, without spaces, quotes, and line breaks."""
    return re.sub("[^A-Za-z0-9+/=]", "", typed)


def bare_key(typed: str) -> str:
    """Return a key without what was copied with it: its label, quotes, and line breaks."""
    return base64_in(typed.rpartition(":")[2])


def has_private_key(typed: str) -> bool:
    """Return True if a private key begins in this text.

    It begins with version 0 and a long number. In base64, that is IBAA between two letters that
    depend on the size of the key. A part from the middle of a key is not recognized.
    """
    return re.search("[AQgw]IBAA[IJKL]", base64_in(typed)) is not None


def whole_address(typed: str) -> str:
    """Return the address in what was copied. Raises ValueError if there is no whole one."""
    address = bare_key(typed)
    public_key = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
    with contextlib.suppress(Exception):  # rsa, base64 and pyasn1 raise many kinds
        key = rsa.PublicKey.load_pkcs1(public_key.encode("utf-8"))
        # The node takes keys of 512 to 4,096 bits, in the one spelling of generate_address.
        if address == get_address_from_public(key.save_pkcs1()) and 2**511 <= key.n < 2**4096:
            return address
    raise ValueError("this is not a valid address.")


def private_key_of(address: str, typed: str) -> str:
    """Return the private key in what was copied.

    Raises ValueError if it is damaged, or belongs to another address.
    """
    private_key = bare_key(typed)
    key = load_private_key(private_key)
    if get_address_from_public(rsa.PublicKey(key.n, key.e).save_pkcs1()) != address:
        raise ValueError("this key belongs to another address. An empty line leads to the menu.")
    return private_key


def address_or_text(typed: str) -> str:
    """Return an address, or any other text. Raises ValueError if it is probably a slip.

    Coins for a part of an address are lost, because nobody has a key for it. So are those for a
    number: after a slip in a paste of many lines, the amount may arrive at this field. And a name
    with an invisible character is not the account that it looks like; nor is one with U+FFFD, which
    stands for a byte that could not be read.
    """
    with contextlib.suppress(ValueError):
        return whole_address(typed)
    if re.search("MEgCQQ|AgMBAAE|=$", base64_in(typed)):  # how addresses begin, and how they end
        raise ValueError("this looks like a part of an address. Enter the complete address.")
    if re.search(r"\d", typed) and not re.search(r"[^\W\d]", typed):  # digits, and no letter
        raise ValueError("this is a number, and no address or name.")
    if not typed.isprintable() or "\ufffd" in typed:
        raise ValueError(f"{typed!r} has an invisible or unreadable character.")
    return typed


def whole_number(least: int, typed: str) -> int:
    """Return a whole number. Raises ValueError if it is none, or below `least`."""
    # \d is a digit of any script, also a full-width one. `int` refuses more than 4,300 of them.
    if re.fullmatch(r"\d{1,4000}", typed) and int(typed) >= least:
        return int(typed)
    raise ValueError(f"this must be a whole number, {least} or more.")


# ---- Day 06: the menu -----------------------------------------------------------------------


def run_command(session: Session, message: dict[str, Any]) -> None:
    """Run the command that is the "request" of this message (Day 06). Raises BackToMenu.

    It is generate_address, get_balance or transaction. The message is filled in step by step.
    """
    if message["request"] == "generate_address":
        address, private_key = generate_address()
        print(f"Address: {address}")
        print(f"Private key: {private_key}")
    elif message["request"] == "get_balance":
        address = ask("Address", address_or_text)
        message["address"] = address
        send_request(session, message)
    elif message["request"] == "transaction":
        address = ask("Address", whole_address)
        private_key = ask("Private_key", lambda typed: private_key_of(address, typed))
        receiver = ask("Receiver", address_or_text)
        amount = ask("Amount", lambda typed: whole_number(1, typed))
        fee = ask("Fee", lambda typed: whole_number(0, typed))
        comment = ask("Comment", str)
        new_transaction = initialize_transaction(address, receiver, amount, fee, comment)
        signature = sign_transaction(new_transaction, private_key)
        message["data"] = new_transaction
        message["signature"] = signature
        send_request(session, message)


def run_menu(session: Session) -> int:
    """Run commands until a person leaves. Return the exit status (Day 06).

    Leaving at `Command: ` is status 0. Elsewhere, EOFError and KeyboardInterrupt go to `main`. In a
    pipe, what would lead back to the menu is status 1.
    """
    command_dict = {"1": "generate_address", "2": "get_balance", "3": "transaction"}
    print("An empty line leads back to the menu (not at Comment). Ctrl-C ends the client.")
    while True:
        print("Command list:")
        print("1. generate_address")
        print("2. get_balance")
        print("3. transaction")
        try:
            command = input("Command: ").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return 0
        command = unicodedata.normalize("NFKC", command)  # a Chinese keyboard may type １
        if command not in command_dict:
            print("Unknown command.")
            print("Nothing was sent. Type 1, 2 or 3; Ctrl-C ends the client.")
        else:
            message = {"request": command_dict[command]}
            try:
                run_command(session, message)
                continue
            except BackToMenu as reason:
                print(reason)
        if not sys.stdin.isatty():
            return 1


def prepare_terminal() -> None:
    """Set up `input` and `print` for any bytes, Chinese, pastes of many lines, and arrow keys."""
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    with contextlib.suppress(ImportError):  # Windows has no readline, and edits lines by itself
        import readline  # with it, input() knows the arrow keys

        readline.set_auto_history(False)  # Up must not bring a private key back
        readline.parse_and_bind("set enable-bracketed-paste on")  # many lines are one answer
        readline.parse_and_bind("set convert-meta off")  # Chinese arrives whole
        readline.parse_and_bind("set input-meta on")


def main() -> None:
    """Connect to a node, and run the menu."""
    parser = argparse.ArgumentParser(description="A menu for a blockchain node on 127.0.0.1.")
    parser.add_argument("port", type=int, help="the port of the node, for example 1111")
    target_host = "127.0.0.1"
    target_port = parser.parse_args().port
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the client, also while it connects
    prepare_terminal()
    warnings.simplefilter("ignore")  # Python warns of some texts that read_answers tries to read

    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        client.connect((target_host, target_port))
    except (OSError, OverflowError) as error:
        problem = str(getattr(error, "strerror", error)).rstrip(".")
        sys.exit(f"blockchain_client.py: no node on port {target_port}: {problem}. Is it running?")
    # From now on, SIGINT is a KeyboardInterrupt, also if the client was started in the background:
    # handle_receive needs it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1  # of a client that is left in the middle of a command
    try:
        session = Session(client)
        receive_handler = threading.Thread(target=handle_receive, args=(session,), daemon=True)
        receive_handler.start()
        status = run_menu(session)
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        pass
    # When the node has gone, handle_receive has closed the socket. sys.exit is not used, because it
    # can abort Python while that thread prints.
    os._exit(1 if client.fileno() < 0 else status)


if __name__ == "__main__":
    main()
