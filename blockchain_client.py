"""The menu client of Day 06: it makes keys, asks a node for balances, and signs transactions.

    python blockchain_client.py 1111

The number is the port of a running `blockchain_server.py`. Everything that needs a private key is
done here, and only signatures are sent. From top to bottom:

    Day 05  generate_address ... load_private   keys, and transactions signed with them
    Day 06  send_request, handle_receive        requests go out, answers come in
    Day 06  ask ... whole_number                what a person types
    Day 06  run_command, main                   the menu

Some code is in both scripts, so that each can be read and run alone: `Transaction`,
`transaction_to_string`, and the functions that make keys.
"""

import argparse
import contextlib
import dataclasses
import functools
import locale
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
from typing import Any, NoReturn, TypeVar

try:
    import rsa
except ModuleNotFoundError:
    sys.exit("The package rsa is missing. README.md explains how to install it.")


# ---- Day 05: keys. An address is a public key; its private key moves coins.


def generate_address() -> tuple[str, str]:
    """Make a pair of keys. Return the address, which is the public key, and the private key.

    Both are one line of base64 (Day 05).
    """
    public, private = rsa.newkeys(512)
    return get_address_from_public(public.save_pkcs1()), extract_from_private(private.save_pkcs1())


def get_address_from_public(public: bytes) -> str:
    """Return a public key in PEM as one line, without its first and last line (Day 05)."""
    return "".join(public.decode("ascii").splitlines()[1:-1])


def extract_from_private(private: bytes) -> str:
    """Return a private key in PEM as one line, without its first and last line (Day 05)."""
    return "".join(private.decode("ascii").splitlines()[1:-1])


# ---- Day 05: transactions. They are filled in, turned into text, and signed.


@dataclasses.dataclass(frozen=True)
class Transaction:
    """Coins that one account sends to another. It cannot change after it was made.

    pickle does not send the class. It sends its name, `__main__.Transaction`, and the fields.
    """

    sender: str  # an address: the public key that checks the signature
    receiver: str  # an address, or any other string
    amounts: int  # coins for the receiver
    fee: int  # coins for the miner of the block, in addition to the amounts
    message: str  # a comment by the sender


def initialize_transaction(
    sender: str, receiver: str, amount: int, fee: int, message: str
) -> Transaction:
    """Return a new transaction. The node checks whether there are enough coins (Day 06)."""
    return Transaction(sender, receiver, amount, fee, message)


def transaction_to_string(transaction: Transaction) -> str:
    """Return a transaction as text. The sender signs this text (Day 03).

    The node has the same function. If one character differs, every signature is invalid.
    """
    return str(vars(transaction))


def sign_transaction(transaction: Transaction, private: str) -> bytes:
    """Return the signature of a transaction, made with SHA-1 (Day 05).

    `private` is a private key as returned by `extract_from_private`.
    """
    data = transaction_to_string(transaction).encode("utf-8")
    return bytes(rsa.sign(data, load_private(private), "SHA-1"))


def load_private(private: str) -> rsa.PrivateKey:
    """Return the private key. For a damaged key, `rsa` and `pyasn1` raise many kinds of errors."""
    pem = f"-----BEGIN RSA PRIVATE KEY-----\n{private}\n-----END RSA PRIVATE KEY-----\n"
    return rsa.PrivateKey.load_pkcs1(pem.encode("utf-8"))


# ---- Day 06: the node. Requests go out as pickles, answers come in as the text of a dict.

ANSWER_SECONDS = 5  # how long to wait for an answer before the menu is shown again


def send_request(client: socket.socket, answered: threading.Event, message: dict[str, Any]) -> None:
    """Send a request, and wait until `handle_receive` has shown an answer (Day 06)."""
    answered.clear()
    with contextlib.suppress(OSError):  # the node has gone: handle_receive notices that, too
        client.sendall(pickle.dumps(message))
    for _ in range(ANSWER_SECONDS * 10):  # on Windows, Ctrl-C works only between two waits
        if answered.wait(0.1):
            return
    print("No answer from the node.")
    if message["request"] == "transaction":
        print("The transaction may still count. With the same comment, it never counts twice.")


def handle_receive(client: socket.socket, answered: threading.Event) -> NoReturn:
    """Show the answers of the node. When the node has gone, end the client (Day 06).

    This function runs in a thread of its own.
    """
    try:
        with client, contextlib.suppress(ConnectionAbortedError, ConnectionResetError):
            while response := client.recv(65536):
                answer = response.decode("utf8", "backslashreplace")
                # Control characters are shown as text, like \x1b, so they cannot control the
                # terminal.
                shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in answer)
                print(f"[*] Message from node: {shown}")
                if answer.startswith("{'result': True,"):
                    print("The transaction counts as soon as a block with it is mined.")
                answered.set()
        print("\nThe connection to the node has ended.", file=sys.stderr)
    except BrokenPipeError:  # nobody reads the output any more
        os._exit(1)
    # SIGINT stops input(), as Ctrl-C does, and input() then restores the terminal. If SIGINT comes
    # just before input() begins, it is lost. So it is sent again each second.
    while True:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


# ---- Day 06: what a person types. After a mistake, only the same field is asked again.

T = TypeVar("T")


class BackToMenu(Exception):
    """Raised when a person types an empty line."""


def ask(field: str, check: Callable[[str], T], optional: bool = False) -> T:
    """Ask for a field until `check` accepts what was typed. Return the result of `check`.

    `check` raises ValueError with a sentence that says what is wrong. An empty line raises
    BackToMenu, unless the field is `optional`.
    """
    while True:
        typed = input(f"{field}: ").strip()
        if not typed and not optional:
            print("Back to the menu. Nothing was sent.")
            raise BackToMenu
        try:
            return check(typed)
        except ValueError as mistake:
            print(f"{field}: {mistake}")


def bare_key(typed: str) -> str:
    """Return a key without the label, line breaks and spaces that were copied with it."""
    return "".join(typed.rpartition(":")[2].split())


def whole_address(typed: str) -> str:
    """Return the address. Raises ValueError if it is not complete, or not valid for the node."""
    address = bare_key(typed)
    pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
    with contextlib.suppress(Exception):  # after any exception, the `raise` below comes next
        key = rsa.PublicKey.load_pkcs1(pem.encode("ascii"))
        spelling = get_address_from_public(key.save_pkcs1())
        if 2**511 <= key.n < 2**4096 and 3 <= key.e < 2**32 and spelling == address:
            return address
    raise ValueError("this is not a complete address. (A private key goes to Private_key only.)")


def private_key_of(address: str, typed: str) -> str:
    """Return the private key of an address. Raises ValueError if it is another one, or damaged."""
    private = bare_key(typed)
    mistake = "this is not a complete private key."
    with contextlib.suppress(Exception):  # as in whole_address
        key = load_private(private)
        if key.n == key.p * key.q and extract_from_private(key.save_pkcs1()) == private:
            if get_address_from_public(rsa.PublicKey(key.n, key.e).save_pkcs1()) == address:
                return private
            mistake = "this is the private key of another address."
    raise ValueError(f"{mistake} (An empty line leads back to the menu.)")


def address_or_text(typed: str) -> str:
    """Return an address, or any other text. Raises ValueError if the receiver is not what it seems.

    A part of an address ends with "=", or looks like a key. Two texts can look the same if one of
    them has characters that are not visible. Python reads an unknown byte as U+FFFD.
    """
    with contextlib.suppress(ValueError):
        return whole_address(typed)
    no_key(typed)
    if typed.endswith("="):
        raise ValueError("this looks like a part of an address. Enter the complete address.")
    for character in typed:
        if not character.isprintable() or character == "\ufffd":
            raise ValueError(f"the character {character!a} is not visible, or was not read.")
    return typed


def no_key(typed: str) -> str:
    """Return the text. Raises ValueError if it holds a key, or a part of one.

    Keys are written in base64, and 24 characters of a key have upper case, lower case and digits.
    In normal text, long words, hashes and paths do not have all three.
    """
    for run in re.findall("[A-Za-z0-9+/]{24,}", typed):
        if re.search("[A-Z]", run) and re.search("[a-z]", run) and re.search("[0-9]", run):
            raise ValueError("this looks like a private key, or a part of a key. It is not sent.")
    return typed


def whole_number(least: int, typed: str) -> int:
    """Return a whole number. Raises ValueError if it is not one, or less than `least`."""
    # \d is a digit of any width and script. Python refuses numbers of more than 4,300 digits.
    if re.fullmatch(r"\d{1,4000}", typed) and int(typed) >= least:
        return int(typed)
    raise ValueError(f"this must be a whole number, {least} or more.")


# ---- Day 06: the menu.


def run_command(client: socket.socket, answered: threading.Event) -> None:
    """Show the menu, and do what is chosen from it. Raises BackToMenu at an empty line."""
    command_dict = {"1": "generate_address", "2": "get_balance", "3": "transaction"}
    print("Command list:")
    for number, name in command_dict.items():
        print(f"{number}. {name}")
    # NFKC turns the full-width digits of a Chinese keyboard into plain ones.
    command = command_dict.get(unicodedata.normalize("NFKC", ask("Command", str, optional=True)))
    message: dict[str, Any] = {"request": command}
    if command == "generate_address":
        address, private_key = generate_address()
        print(f"Address: {address}")
        print(f"Private key: {private_key}")
    elif command == "get_balance":
        message["address"] = ask("Address", address_or_text)
        send_request(client, answered, message)
    elif command == "transaction":
        address = ask("Address", whole_address)
        private_key = ask("Private_key", functools.partial(private_key_of, address))
        receiver = ask("Receiver", address_or_text)
        amount = ask("Amount", functools.partial(whole_number, 1))
        fee = ask("Fee", functools.partial(whole_number, 0))
        comment = ask("Comment", no_key, optional=True)
        message["data"] = initialize_transaction(address, receiver, amount, fee, comment)
        message["signature"] = sign_transaction(message["data"], private_key)
        send_request(client, answered, message)
    else:
        print("Unknown command.")
        print(f"Type a number from 1 to {len(command_dict)}; Ctrl-C ends the client.")


def prepare_terminal() -> None:
    """Set up what a person types and sees: line editing, pastes, characters, and Ctrl-C."""
    # Bytes that cannot be read, or characters that cannot be shown, must not stop the program.
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores SIGINT
    warnings.simplefilter("ignore")  # rsa warns about damaged keys: private_key_of refuses them
    if locale.setlocale(locale.LC_CTYPE) == "C":  # also if LC_ALL names one that is not installed
        os.environ["LC_ALL"] = "C.UTF-8"  # otherwise, readline drops Chinese characters
    with contextlib.suppress(ImportError):  # Windows has no readline, and edits lines by itself
        import readline  # gives input() the arrow keys

        readline.set_auto_history(False)  # the Up key must not show a private key again
        # A paste with line breaks, like a long key, arrives as one answer.
        readline.parse_and_bind("set enable-bracketed-paste on")


def main() -> None:
    """Show the menu until the input ends, or the node has gone."""
    parser = argparse.ArgumentParser(description="A menu for a blockchain node on 127.0.0.1.")
    parser.add_argument("port", type=int, help="the port of the node, for example 1111")
    port = parser.parse_args().port
    prepare_terminal()
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        client.connect(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", error)
        sys.exit(f"blockchain_client.py: no node on port {port} ({reason}). Start the node first.")
    answered = threading.Event()
    status = 1
    with contextlib.suppress(BrokenPipeError):  # nobody reads the output any more
        try:
            print("An empty line leads back to the menu. Ctrl-C ends the client.")
            threading.Thread(target=handle_receive, args=(client, answered), daemon=True).start()
            while True:
                with contextlib.suppress(BackToMenu):
                    run_command(client, answered)
        except (EOFError, KeyboardInterrupt) as end:
            print()
            status = 0 if isinstance(end, EOFError) else 130
    # If the socket is closed, the node has gone: see handle_receive. With sys.exit in place of
    # os._exit, Python aborts if handle_receive is printing at that moment.
    os._exit(1 if client.fileno() < 0 else status)


if __name__ == "__main__":
    main()
