"""The menu client of Day 06: it makes keys, asks a node for balances, and signs payments.

    python blockchain_client.py 1111

The port is that of a running `blockchain_server.py`. All that needs a private key is done here.
A private key never leaves this process, only signatures do. Read downwards:

    Day 05  generate_address ... sign_transaction    keys, and payments signed with them
    Day 06  send_request, handle_receive             requests out, answers in
    Day 06  ask, run_command, main                   the keyboard and the menu

What both scripts need stands in both, so that each can be read and run alone: `Transaction`,
`transaction_to_string`, the making of keys, and the check of a port.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import io
import os
import pickle
import re
import socket
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

try:
    import rsa
except ModuleNotFoundError:
    sys.exit("No rsa. Type: python3 -m venv .venv && .venv/bin/pip install -qr requirements.txt")


# ---- Day 05: keys. An address is a public key; its private key moves coins.


def generate_address() -> tuple[str, str]:
    """Make a pair of keys. Return the address, which is the public key, and the private key."""
    public, private = rsa.newkeys(512)
    return get_address_from_public(public.save_pkcs1()), extract_from_private(private.save_pkcs1())


def get_address_from_public(public: bytes) -> str:
    """Return a public key in PEM without its first and last line, as one line."""
    return "".join(public.decode("ascii").splitlines()[1:-1])


def extract_from_private(private: bytes) -> str:
    """Return a private key in PEM without its first and last line, as one line."""
    return "".join(private.decode("ascii").splitlines()[1:-1])


# ---- Day 05: payments. They are filled in, turned into text, and signed.


@dataclasses.dataclass
class Transaction:
    """A payment, as it is signed and sent. It travels as `__main__.Transaction`."""

    sender: str  # an address: the public key that the signature must fit
    receiver: str  # an address, or any other text
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner of the block, on top of the amounts
    message: str  # the sender's comment


def initialize_transaction(
    sender: str, receiver: str, amount: int, fee: int, message: str
) -> Transaction:
    """Fill in a payment. Whether there are enough coins, the node will say."""
    return Transaction(sender, receiver, amount, fee, message)


def transaction_to_string(transaction: Transaction) -> str:
    """Return the text of a payment, which is what is signed.

    The node has the same function: if one character differs, no signature fits.
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
    """Sign a payment with a private key as `extract_from_private` gives it.

    If the key is damaged, `rsa` and `pyasn1` raise exceptions of many kinds.
    """
    private_key = f"-----BEGIN RSA PRIVATE KEY-----\n{private}\n-----END RSA PRIVATE KEY-----\n"
    private_key_pkcs = rsa.PrivateKey.load_pkcs1(private_key.encode("utf-8"))
    data = transaction_to_string(transaction).encode("utf-8")
    signature: bytes = rsa.sign(data, private_key_pkcs, "SHA-1")
    return signature


# ---- Day 06: the node. Requests go out as pickles, answers come in as the text of a dict.

ANSWER_SECONDS = 5  # until the menu comes back without an answer
MAX_ANSWER_LENGTH = 300_000  # characters; the longest answer repeats an address of 65,000
BETWEEN_TEXTS = set("True False None b 0123456789 .-:,")  # in a dict: words, numbers, b"bytes"


def send_request(client: socket.socket, answered: threading.Event, message: dict[str, Any]) -> None:
    """Send a request, and wait until `handle_receive` has shown an answer.

    One that takes longer than ANSWER_SECONDS is still shown when it comes, but it may be taken
    for the answer to the next request.
    """
    answered.clear()
    with contextlib.suppress(OSError):  # the node has gone, which handle_receive sees as well
        client.sendall(pickle.dumps(message))
    if not answered.wait(ANSWER_SECONDS):
        print("No answer from the node.")


def handle_receive(client: socket.socket, answered: threading.Event) -> None:
    """Show what the node says, as soon as it says it. A thread of its own runs this."""
    with contextlib.suppress(OSError, UnicodeDecodeError):  # cut off, or talking nonsense
        for answer in read_answers(client):
            # What could steer the terminal is shown as \x1b or the like.
            shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in answer)
            print(f"[*] Message from node: {shown}")
            if answer.startswith("{'result': True,"):
                print("The payment counts as soon as a block with it is mined.")
            answered.set()


def read_answers(client: socket.socket) -> Iterator[str]:
    """Yield each answer as soon as it is whole. End when the node leaves, or talks nonsense.

    No mark ends an answer. But it is the text of a dict, so it ends with the brace that closes
    the first one. Brackets inside quotes do not count, and a backslash hides the next character.
    """
    answer: list[str] = []  # its characters so far
    depth, quote, hidden, length = 0, "", False, 0
    with client.makefile(encoding="utf8", newline="") as node:
        while (character := node.read(1)) and length < MAX_ANSWER_LENGTH:
            length += 1
            if not depth and character != "{":  # nothing of an answer
                continue
            answer.append(character)
            if hidden:
                hidden = False
            elif quote:
                hidden = character == "\\"
                quote = "" if character == quote else quote
            elif character in "'\"":
                quote = character
            elif character in "{[(":
                depth += 1
            elif character in ")]}":
                depth -= 1
            elif len(answer) == 2 or character not in BETWEEN_TEXTS:
                answer, depth = [], 0  # `str` of a dict never looks like this
            if answer and not depth:
                yield "".join(answer)
                answer, length = [], 0


# ---- Day 06: the keyboard. A slip costs one line, and a private key stays in its own field.

PRIVATE_KEY = re.compile("MII...IBA|PRIVATE KEY")  # how private keys begin, bare and in PEM
PART_OF_KEY = re.compile("M[E-H].[Cw]|MIG[H-Jdef]|MII[A-J]|[A-Za-z0-9+/=]{24,}$")
T = TypeVar("T")


class BackToMenu(Exception):
    """Somebody typed an empty line."""


class Keyboard:
    """Asks for one line after the other. Arrows edit a line, and Up brings back earlier ones.

    Python's `readline` does that. Windows has no `readline`, and edits lines by itself.
    """

    def __init__(self) -> None:
        self.readline: Any = None
        self.termios: Any = None
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                self.readline = importlib.import_module("readline")
                self.readline.set_auto_history(False)  # `ask` decides what may come back
                # A paste of several lines is one answer, where the terminal marks pastes.
                self.readline.parse_and_bind("set enable-bracketed-paste on")
                self.termios = importlib.import_module("termios")
                self.settings = self.termios.tcgetattr(sys.stdin)

    def ask(
        self, field: str, check: Callable[[str], T], secret: bool = False, optional: bool = False
    ) -> T:
        """Ask for a field until `check` takes what was typed. Return what `check` makes of it.

        `check` raises ValueError with a sentence about what is wrong. Only a `secret` field may
        hold a private key, and Up does not bring it back. Raises BackToMenu at an empty line,
        unless the field is `optional`.
        """
        while True:
            typed = input(f"{field}: ").strip()
            if not typed and not optional:
                raise BackToMenu
            try:
                if PRIVATE_KEY.search(typed) and not secret:
                    raise ValueError("this is a private key! Paste it at Private_key only.")
                answer = check(typed)
            except ValueError as slip:
                print(f"{field}: {slip}")
                continue
            if self.readline and not secret:
                self.readline.add_history(typed)
            return answer

    def any_text(self, typed: str) -> str:
        """Return an address or any other text; but ask back about what looks like part of a key."""
        with contextlib.suppress(ValueError):
            return whole_address(typed)
        if PART_OF_KEY.match(joined(typed)):
            print("This looks like a part of a key, and is not a whole address.")
            if self.ask("Use it all the same? (y/n)", str).lower() not in ("y", "yes"):
                raise ValueError("type it again.")
        return typed

    def leave(self, status: int) -> NoReturn:
        """End the process at once, and leave the terminal as it was.

        `input()` may be waiting in the main thread, and nothing but a key can wake it.
        """
        if self.termios:
            self.termios.tcsetattr(sys.stdin, self.termios.TCSANOW, self.settings)
            # The terminal need not mark pastes any more.
            os.write(sys.stdin.fileno(), b"\x1b[?2004l")
        os._exit(status)


def joined(typed: str) -> str:
    """Return a key without the blanks and line breaks that a paste may bring along."""
    return "".join(typed.split())


def public_key_of(address: str) -> Any:
    """Return the key that an address is; raise ValueError if it is not a whole address."""
    public_key = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
    with contextlib.suppress(Exception):  # as in sign_transaction
        key = rsa.PublicKey.load_pkcs1(public_key.encode("utf-8"))
        if get_address_from_public(key.save_pkcs1()) == address:
            return key
    raise ValueError("this is not a whole address.")


def whole_address(typed: str) -> str:
    """Return an address; raise ValueError if it is not a whole one."""
    public_key_of(joined(typed))
    return joined(typed)


def private_key_of(address: str, typed: str) -> str:
    """Return a private key; raise ValueError if it does not sign for this address."""
    probe = Transaction(address, "", 0, 0, "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # `rsa` warns of a key whose numbers do not match
            signature = sign_transaction(probe, joined(typed))
    except Exception:  # as in sign_transaction
        raise ValueError("this is not a whole private key.") from None
    try:
        rsa.verify(transaction_to_string(probe).encode("utf-8"), signature, public_key_of(address))
    except rsa.VerificationError:
        raise ValueError("this is not the key of the address above.") from None
    return joined(typed)


def whole_number(least: int, typed: str) -> int:
    """Return a whole number; raise ValueError if it is none, or too small."""
    with contextlib.suppress(ValueError):
        if int(typed) >= least:
            return int(typed)
    raise ValueError(f"this must be a whole number, {least} or more.")


# ---- Day 06: the menu.


def run_command(client: socket.socket, answered: threading.Event, keyboard: Keyboard) -> None:
    """Show the menu, and do what is chosen from it. Raises BackToMenu at an empty line."""
    command_dict = {"1": "generate_address", "2": "get_balance", "3": "transaction"}
    print("Command list:")
    for number, name in command_dict.items():
        print(f"{number}. {name}")
    # NFKC turns the full-width digits of a Chinese keyboard into plain ones.
    command = command_dict.get(unicodedata.normalize("NFKC", keyboard.ask("Command", str)))
    message: dict[str, Any] = {"request": command}
    if command is None:
        print("Unknown command.")
        print(f"Type a number from 1 to {len(command_dict)}; Ctrl-C ends the client.")
    elif command == "generate_address":
        address, private_key = generate_address()
        print(f"Address: {address}")
        print(f"Private key: {private_key}")
    elif command == "get_balance":
        message["address"] = keyboard.ask("Address", keyboard.any_text)
        send_request(client, answered, message)
    elif command == "transaction":
        address = keyboard.ask("Address", whole_address)
        key_check = functools.partial(private_key_of, address)
        private_key = keyboard.ask("Private_key", key_check, secret=True)
        receiver = keyboard.ask("Receiver", keyboard.any_text)
        amount = keyboard.ask("Amount", functools.partial(whole_number, 1))
        fee = keyboard.ask("Fee", functools.partial(whole_number, 0))
        comment = keyboard.ask("Comment", keyboard.any_text, optional=True)
        message["data"] = initialize_transaction(address, receiver, amount, fee, comment)
        message["signature"] = sign_transaction(message["data"], private_key)
        send_request(client, answered, message)


def port_number(text: str) -> int:
    """Return the port that somebody typed. Raises ArgumentTypeError if it is not one."""
    if text.isdecimal() and 1 <= int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")


def main() -> NoReturn:
    """Show the menu until the input ends."""
    parser = argparse.ArgumentParser(
        description="A menu for a blockchain node on 127.0.0.1.",
        epilog="example: python blockchain_client.py 1111",
    )
    parser.add_argument("port", type=port_number, help="the port of the node, 1 to 65535")
    port = parser.parse_args().port
    if not isinstance(sys.stdin, io.TextIOWrapper) or not isinstance(sys.stdout, io.TextIOWrapper):
        sys.exit("blockchain_client.py: there is no input to read, or no output to write")
    # What a screen cannot show, or a keyboard cannot mean, must not end the session.
    sys.stdin.reconfigure(errors="replace")
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        client = socket.create_connection(("127.0.0.1", port))
    except OSError as error:
        sys.exit(f"blockchain_client.py: no node on port {port}: {error.strerror}")
    keyboard = Keyboard()
    answered = threading.Event()

    def receive() -> None:
        handle_receive(client, answered)
        # In one piece, so that what the main thread prints cannot come between.
        print("\nThe connection to the node has ended.\n", end="", file=sys.stderr)
        keyboard.leave(1)

    threading.Thread(target=receive, daemon=True).start()
    try:
        print("An empty line leads back to the menu. Ctrl-C ends the client.")
        while True:
            with contextlib.suppress(BackToMenu):
                run_command(client, answered, keyboard)
    except (EOFError, KeyboardInterrupt) as end:
        print()
        keyboard.leave(0 if isinstance(end, EOFError) else 130)
    except OSError as error:  # whoever read the screen has gone, or the disk is full
        print(f"blockchain_client.py: {error.strerror}", file=sys.stderr)
        keyboard.leave(1)


if __name__ == "__main__":
    main()
