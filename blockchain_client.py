"""The menu client of Day 06: it makes keys, asks a node for balances, and signs payments.

    python blockchain_client.py 1111

The port is that of a running `blockchain_server.py`. All that needs a private key is done here.
A private key never leaves this process, only signatures do. Read downwards:

    Day 05  generate_address ... sign_transaction    keys, and payments signed with them
    Day 06  send_request, handle_receive             requests out, answers in
    Day 06  ask ... main                             what a person types, and the menu

What both scripts need stands in both, so that each can be read and run alone: `Transaction`,
`transaction_to_string`, and the making of keys.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

try:
    import rsa
except ModuleNotFoundError:
    sys.exit("The package rsa is missing. README.md tells how to install it.")


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


@dataclasses.dataclass(frozen=True)
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
    """Sign a payment with a private key as `extract_from_private` gives it."""
    data = transaction_to_string(transaction).encode("utf-8")
    signature: bytes = rsa.sign(data, load_private(private), "SHA-1")
    return signature


def load_private(private: str) -> rsa.PrivateKey:
    """Return the key. If it is damaged, `rsa` and `pyasn1` raise exceptions of many kinds."""
    pem = f"-----BEGIN RSA PRIVATE KEY-----\n{private}\n-----END RSA PRIVATE KEY-----\n"
    return rsa.PrivateKey.load_pkcs1(pem.encode("utf-8"))


# ---- Day 06: the node. Requests go out as pickles, answers come in as the text of a dict.

ANSWER_SECONDS = 5  # until the menu comes back without an answer


def send_request(client: socket.socket, answered: threading.Event, message: dict[str, Any]) -> None:
    """Send a request, and wait until `handle_receive` has shown an answer."""
    answered.clear()
    with contextlib.suppress(OSError):  # the node has gone, which handle_receive sees as well
        client.sendall(pickle.dumps(message))
    for _ in range(ANSWER_SECONDS * 10):  # on Windows, Ctrl-C is heard only between two waits
        if answered.wait(0.1):
            return
    print("No answer from the node.")


def handle_receive(client: socket.socket, answered: threading.Event) -> NoReturn:
    """Show what the node says; when it leaves, end the client. A thread of its own runs this."""
    with client, contextlib.suppress(OSError):  # OSError: the connection was cut off
        while response := client.recv(65536):
            answer = response.decode("utf8", "backslashreplace")
            # What could steer the terminal is shown as \x1b or the like.
            shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in answer)
            print(f"[*] Message from node: {shown}")
            if answer.startswith("{'result': True,"):
                print("The payment counts as soon as a block with it is mined.")
            answered.set()
    print("\nThe connection to the node has ended.", file=sys.stderr)
    while True:  # as Ctrl-C does, SIGINT wakes input(); one just before input() waits is lost
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


# ---- Day 06: what a person types. A slip costs one line; a private key stays in its own field.

T = TypeVar("T")


class BackToMenu(Exception):
    """Somebody typed an empty line."""


def ask(field: str, check: Callable[[str], T], optional: bool = False) -> T:
    """Ask for a field until `check` takes what was typed. Return what `check` makes of it.

    `check` raises ValueError with a sentence about what is wrong. An empty line raises
    BackToMenu, unless the field is `optional`.
    """
    while True:
        typed = input(f"{field}: ").strip()
        if not typed and not optional:
            raise BackToMenu
        try:
            return check(typed)
        except ValueError as slip:
            print(f"{field}: {slip}")


def whole_address(typed: str) -> str:
    """Return an address; raise ValueError if it is not a whole one."""
    pem = f"-----BEGIN RSA PUBLIC KEY-----\n{typed}\n-----END RSA PUBLIC KEY-----\n"
    with contextlib.suppress(Exception):  # as in load_private
        key = rsa.PublicKey.load_pkcs1(pem.encode("utf-8"))
        if get_address_from_public(key.save_pkcs1()) == typed:
            return typed
    raise ValueError("this is not a whole address, and a private key belongs to Private_key only.")


def any_text(typed: str) -> str:
    """Return an address, or any other text; but raise ValueError if there is part of a key in it.

    Hardly any word has 24 letters in a row of base64, the alphabet of keys; and hardly any text
    ends like the rest of an address that was pasted with a line break in it.
    """
    with contextlib.suppress(ValueError):
        return whole_address(typed)
    if re.search("[A-Za-z0-9+/=]{24}|=$", typed):
        raise ValueError(
            "this looks like a key, or part of one. Here goes a whole address, never a private key."
        )
    return typed


def private_key_of(address: str, typed: str) -> str:
    """Return the private key of an address; raise ValueError if it is another, or damaged."""
    with contextlib.suppress(Exception):  # as in load_private
        key = load_private(typed)
        if extract_from_private(key.save_pkcs1()) == typed:
            public = rsa.PublicKey(key.n, key.e).save_pkcs1()
            if get_address_from_public(public) == address:
                return typed
    raise ValueError("this is not the whole private key of the address above.")


def whole_number(least: int, typed: str) -> int:
    """Return a whole number; raise ValueError if it is none, or too small."""
    with contextlib.suppress(ValueError):
        if int(typed) >= least:
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
    command = command_dict.get(unicodedata.normalize("NFKC", ask("Command", str)))
    message: dict[str, Any] = {"request": command}
    if command == "generate_address":
        address, private_key = generate_address()
        print(f"Address: {address}")
        print(f"Private key: {private_key}")
    elif command == "get_balance":
        message["address"] = ask("Address", any_text)
        send_request(client, answered, message)
    elif command == "transaction":
        address = ask("Address", whole_address)
        private_key = ask("Private_key", functools.partial(private_key_of, address))
        receiver = ask("Receiver", any_text)
        amount = ask("Amount", functools.partial(whole_number, 1))
        fee = ask("Fee", functools.partial(whole_number, 0))
        comment = ask("Comment", any_text, optional=True)
        message["data"] = initialize_transaction(address, receiver, amount, fee, comment)
        message["signature"] = sign_transaction(message["data"], private_key)
        send_request(client, answered, message)
    else:
        print("Unknown command.")
        print(f"Type a number from 1 to {len(command_dict)}; Ctrl-C ends the client.")


def main() -> None:
    """Show the menu until the input ends, or the node."""
    parser = argparse.ArgumentParser(
        description="A menu for a blockchain node on 127.0.0.1.",
        epilog="example: python blockchain_client.py 1111",
    )
    parser.add_argument("port", type=int, help="the port of the node, 1 to 65535")
    port = parser.parse_args().port
    # What this terminal cannot show, or Python cannot read, must not end the session.
    sys.stdin.reconfigure(errors="replace")
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    with contextlib.suppress(ImportError):  # Windows has none, and edits lines by itself
        import readline  # gives input() the arrow keys

        readline.set_auto_history(False)  # Up must not bring back a private key
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        client.connect(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        sys.exit(f"blockchain_client.py: no node on port {port}: {error}")
    answered = threading.Event()
    try:
        print("An empty line leads back to the menu. Ctrl-C ends the client.")
        threading.Thread(target=handle_receive, args=(client, answered), daemon=True).start()
        while True:
            with contextlib.suppress(BackToMenu):
                run_command(client, answered)
    except (EOFError, KeyboardInterrupt) as end:
        print()
        node_has_gone = client.fileno() < 0  # handle_receive has closed the socket
        # Not sys.exit: Python aborts if handle_receive is printing while it shuts down.
        os._exit(1 if node_has_gone else 0 if isinstance(end, EOFError) else 130)


if __name__ == "__main__":
    main()
