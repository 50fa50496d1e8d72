"""The menu client of Day 06: it makes keys, asks a node for balances, and signs transactions.

    python blockchain_client.py 1111

The number is the port of a running `blockchain_server.py`. The client signs with private keys. It
never sends a private key, only signatures. The file has this order:

    Day 05  generate_address ... load_private   keys and signatures
    Day 06  send_request, handle_receive        requests and answers
    Day 06  ask ... whole_number                what a person types
    Day 06  run_command, main                   the menu

`Transaction`, `transaction_to_string` and the functions that make keys are in both scripts. So
neither script imports the other, and you can read each one alone.
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


# ---- Day 05: keys. An address is a public key, and its private key can sign.


def generate_address() -> tuple[str, str]:
    """Make a pair of keys. Return the address, which is the public key, and the private key.

    Both are one line of base64 (Day 05).
    """
    public, private = rsa.newkeys(512)
    return get_address_from_public(public.save_pkcs1()), extract_from_private(private.save_pkcs1())


def get_address_from_public(public: bytes) -> str:
    """Return a public key as one line (Day 05).

    PEM is a text format for keys. The first and the last line of the PEM are left out.
    """
    return "".join(public.decode("ascii").splitlines()[1:-1])


def extract_from_private(private: bytes) -> str:
    """Return a private key as one line, in the same way (Day 05)."""
    return "".join(private.decode("ascii").splitlines()[1:-1])


# ---- Day 05: transactions. The client makes one, and signs its string.


@dataclasses.dataclass(frozen=True)
class Transaction:
    """Coins that one account sends to another (Day 02). A transaction cannot be changed.

    A pickle of it has the name of the class, `__main__.Transaction`, and the fields. It does not
    have the code of the class.
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
    """Return a transaction as a string. The sender signs this string (Day 03).

    The node has the same function. If one character differs, no signature is valid.
    """
    return str(vars(transaction))


def sign_transaction(transaction: Transaction, private: str) -> bytes:
    """Sign a transaction with SHA-1. Return the signature (Day 05).

    `private` is a private key in the form that `extract_from_private` returns.
    """
    data = transaction_to_string(transaction).encode("utf-8")
    return bytes(rsa.sign(data, load_private(private), "SHA-1"))


def load_private(private: str) -> rsa.PrivateKey:
    """Turn the string of a private key into a key. A damaged one raises errors of many kinds."""
    pem = f"-----BEGIN RSA PRIVATE KEY-----\n{private}\n-----END RSA PRIVATE KEY-----\n"
    return rsa.PrivateKey.load_pkcs1(pem.encode("utf-8"))


# ---- Day 06: the node. A request is sent as a pickle. An answer is a dict as a string.

ANSWER_SECONDS = 5  # how long the client waits for an answer


def send_request(client: socket.socket, answered: threading.Event, message: dict[str, Any]) -> None:
    """Send a request, and wait until `handle_receive` has shown an answer (Day 06)."""
    answered.clear()
    with contextlib.suppress(OSError):  # the node has ended: handle_receive notices this, too
        client.sendall(pickle.dumps(message))
    # On Windows, Ctrl-C cannot stop a wait. So this waits many times, for 0.1 seconds each.
    for _ in range(ANSWER_SECONDS * 10):
        if answered.wait(0.1):
            return
    print("No answer from the node.")
    if message["request"] == "transaction":
        print("The node may have accepted it. Sending it again with the same comment is safe.")


def handle_receive(client: socket.socket, answered: threading.Event) -> NoReturn:
    """Show the answers of the node. When the node ends, end the client, too (Day 06).

    This function runs in a second thread.
    """
    try:
        with client, contextlib.suppress(ConnectionAbortedError, ConnectionResetError):
            while response := client.recv(65536):
                answer = response.decode("utf8", "backslashreplace")
                # Control characters are shown in a form like \x1b. So they cannot control the
                # terminal. `ascii` puts quotes around this form, and [1:-1] removes them.
                shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in answer)
                print(f"[*] Message from node: {shown}")
                if answer.startswith("{'result': True,"):
                    print("The transaction counts as soon as a block with it is mined.")
                answered.set()
        print("\nThe connection to the node has ended.", file=sys.stderr)
    except BrokenPipeError:  # nobody reads the output any more
        os._exit(1)
    # End the client. The main thread waits in input(). SIGINT stops input(), as Ctrl-C does, and
    # input() restores the settings of the terminal. (On Windows, SIGINT ends the process.) SIGINT
    # is lost if it comes just before input() begins. So this loop sends it every second.
    while True:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


# ---- Day 06: what a person types. After a mistake, the client asks for the same field again.

T = TypeVar("T")


class BackToMenu(Exception):
    """Raised when a person types an empty line in a field that must not be empty."""


def ask(field: str, check: Callable[[str], T], optional: bool = False) -> T:
    """Ask for a field until `check` accepts the answer. Return the result of `check`.

    If the answer is wrong, `check` raises ValueError with a sentence for the person. An empty line
    raises BackToMenu, unless the field is `optional`.
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
    """Return a copied key without its label (for example "Address:"), line breaks and spaces."""
    return "".join(typed.rpartition(":")[2].split())


def whole_address(typed: str) -> str:
    """Return the address. Raises ValueError if it is not complete, or not valid for the node."""
    address = bare_key(typed)
    pem = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
    with contextlib.suppress(Exception):  # after any exception, the `raise` below comes next
        key = rsa.PublicKey.load_pkcs1(pem.encode("ascii"))
        valid_address = get_address_from_public(key.save_pkcs1())
        if 2**511 <= key.n < 2**4096 and 3 <= key.e < 2**32 and address == valid_address:
            return address
    raise ValueError("this is not a valid address. (Enter a private key at Private_key only.)")


def private_key_of(address: str, typed: str) -> str:
    """Return the private key of `address`. Raises ValueError if it is damaged or does not fit."""
    private = bare_key(typed)
    mistake = "this is not a valid private key."
    with contextlib.suppress(Exception):  # as in whole_address
        key = load_private(private)
        # A private key has eight numbers. rsa reads five of them, and computes the other three. So
        # for a damaged key, `save_pkcs1` returns another string, or n or the address is wrong.
        if key.n == key.p * key.q and extract_from_private(key.save_pkcs1()) == private:
            if get_address_from_public(rsa.PublicKey(key.n, key.e).save_pkcs1()) == address:
                return private
            mistake = "this key belongs to another address."
    raise ValueError(f"{mistake} Press Enter for the menu.")


def address_or_text(typed: str) -> str:
    """Return an address, or any other text. Raises ValueError if it is probably a mistake.

    A text that looks like a key, or ends with "=", may be a part of an address. Most characters
    that are not visible are refused: with them, two receivers look the same. A byte that Python
    cannot read becomes U+FFFD. Then many different receivers would become the same receiver.
    """
    with contextlib.suppress(ValueError):
        return whole_address(typed)
    no_key(typed)  # raises ValueError, too
    if typed.endswith("="):
        raise ValueError("this looks like a part of an address. Enter the complete address.")
    for character in typed:
        if not character.isprintable() or character == "\ufffd":
            raise ValueError(f"the character {character!a} is invisible or unreadable.")
    return typed


def no_key(typed: str) -> str:
    """Return the text. Raises ValueError if it contains a key, or a part of a key.

    Keys are base64. 24 characters of a key nearly always contain upper case, lower case and digits.
    Normal text rarely has such a part: long words, hashes and most paths do not have all three.
    """
    for part in re.findall("[A-Za-z0-9+/]{24,}", typed):
        if re.search("[A-Z]", part) and re.search("[a-z]", part) and re.search("[0-9]", part):
            raise ValueError("this looks like a key, or a part of a key. It is not sent.")
    return typed


def whole_number(least: int, typed: str) -> int:
    """Return a whole number. Raises ValueError if it is not one, or is below `least`."""
    # \d is a digit of any language, also a full-width one. Python refuses more than 4,300 digits.
    if re.fullmatch(r"\d{1,4000}", typed) and int(typed) >= least:
        return int(typed)
    raise ValueError(f"this must be a whole number, {least} or more.")


# ---- Day 06: the menu.


def run_command(client: socket.socket, answered: threading.Event) -> None:
    """Show the menu, and run the command that is typed. Raises BackToMenu, as `ask` does."""
    command_dict = {"1": "generate_address", "2": "get_balance", "3": "transaction"}
    print("Command list:")
    for number, name in command_dict.items():
        print(f"{number}. {name}")
    # NFKC changes the full-width digits of a Chinese keyboard to normal digits.
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
        print(f"Unknown command.\nType 1 to {len(command_dict)}; Ctrl-C ends the client.")


def prepare_terminal() -> None:
    """Prepare the terminal: arrow keys, pastes of several lines, any character, and Ctrl-C."""
    # The program must not stop if it cannot read a byte or show a character.
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    # If a shell starts a program in the background, the program ignores SIGINT at first.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")  # rsa warns about damaged keys, and private_key_of refuses them
    # Python uses the locale C if LC_ALL is C, or if LC_ALL is a locale that is not installed. With
    # the locale C, readline loses Chinese characters. readline takes its locale from LC_ALL.
    if locale.setlocale(locale.LC_CTYPE) == "C":
        os.environ["LC_ALL"] = "C.UTF-8"
    with contextlib.suppress(ImportError):  # Windows has no readline. It edits lines itself.
        import readline  # with it, input() knows the arrow keys

        readline.set_auto_history(False)  # the Up key must not show a private key again
        # A paste with line breaks, for example of a long key, becomes one answer.
        readline.parse_and_bind("set enable-bracketed-paste on")


def main() -> None:
    """Show the menu until the input or the node ends."""
    parser = argparse.ArgumentParser(description="A menu for a blockchain node on 127.0.0.1.")
    parser.add_argument("port", type=int, help="the port of the node, for example 1111")
    port = parser.parse_args().port
    prepare_terminal()
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        client.connect(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", error)).rstrip(".")
        sys.exit(f"blockchain_client.py: no node on port {port}: {reason}. Start the node.")
    answered = threading.Event()
    status = 1
    with contextlib.suppress(BrokenPipeError):  # nobody reads the output any more
        try:
            print("An empty line leads back to the menu (not at Comment). Ctrl-C ends the client.")
            threading.Thread(target=handle_receive, args=(client, answered), daemon=True).start()
            while True:
                with contextlib.suppress(BackToMenu):
                    run_command(client, answered)
        except (EOFError, KeyboardInterrupt) as end:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C shows no traceback
            print()
            status = 0 if isinstance(end, EOFError) else 130  # 130 is usual after Ctrl-C
    # If the node has ended, handle_receive has closed the socket, and fileno() is below 0.
    # sys.exit is not used: it can abort Python while handle_receive prints.
    os._exit(1 if client.fileno() < 0 else status)


if __name__ == "__main__":
    main()
