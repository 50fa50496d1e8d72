"""The menu client of Day 06: it makes keys, asks a node for balances, and signs payments.

    python blockchain_client.py 1111

The port is that of a running `blockchain_server.py`. Everything that needs a private key is
done here: a private key never leaves this process, only signatures do. The simplifications
are listed at the top of the node. Read downwards:

    Day 05  generate_address ... sign_transaction    keys, and payments signed with them
    Day 06  send_request, handle_receive             questions out, answers in
    Day 06  run_command, main                        the menu

What both scripts need stands in both, so that each can be read and run alone: `Transaction`,
`transaction_to_string`, the making of keys, and the check of a port.
"""

import argparse
import ast
import contextlib
import os
import pickle
import re
import socket
import sys
import threading
import warnings
from dataclasses import dataclass

import rsa

ANSWER_SECONDS = 5  # until the menu comes back without an answer
MAX_ANSWER_BYTES = 10**6  # of what a node says until it makes sense; four times the longest


# ------------------------------------------------------------------------------------------
# Day 05: keys. An address is a public key; its private key moves the coins.
# ------------------------------------------------------------------------------------------


def generate_address() -> tuple[str, str]:
    """Make a pair of keys; return the address, which is the public key, and the private key."""
    public, private = rsa.newkeys(512)
    return get_address_from_public(public.save_pkcs1()), extract_from_private(private.save_pkcs1())


def get_address_from_public(public: bytes) -> str:
    """Return a public key in PEM without its first and last line, as one line."""
    return "".join(public.decode("ascii").splitlines()[1:-1])


def extract_from_private(private: bytes) -> str:
    """Return a private key in PEM without its first and last line, as one line."""
    return "".join(private.decode("ascii").splitlines()[1:-1])


# ------------------------------------------------------------------------------------------
# Day 05: payments. They are filled in, turned into text, and signed.
# ------------------------------------------------------------------------------------------


@dataclass
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

    The node has the same function. A letter of difference, and no signature fits.
    """
    transaction_dict = {
        "sender": str(transaction.sender),
        "receiver": str(transaction.receiver),
        "amounts": transaction.amounts,
        "fee": transaction.fee,
        "message": transaction.message,
    }
    return str(transaction_dict)


def sign_transaction(transaction: Transaction, private: str) -> bytes:
    """Sign a payment with a private key as `extract_from_private` gives it.

    Whatever is wrong with the key raises: `rsa` and `pyasn1` say so in many ways.
    """
    private_key = f"-----BEGIN RSA PRIVATE KEY-----\n{private}\n-----END RSA PRIVATE KEY-----\n"
    private_key_pkcs = rsa.PrivateKey.load_pkcs1(private_key.encode("utf-8"))
    return rsa.sign(transaction_to_string(transaction).encode("utf-8"), private_key_pkcs, "SHA-1")


# ------------------------------------------------------------------------------------------
# Day 06: the node. Requests go out as pickles, answers come in as the text of a dict.
# ------------------------------------------------------------------------------------------


def send_request(client: socket.socket, answered: threading.Event, message: dict) -> None:
    """Send a request and wait until `handle_receive` has shown an answer.

    One that takes longer than ANSWER_SECONDS is still shown when it comes, but may be taken for
    the answer to the next request.
    """
    answered.clear()
    with contextlib.suppress(OSError):  # the node has gone, which handle_receive sees as well
        client.sendall(pickle.dumps(message))
    if not answered.wait(ANSWER_SECONDS):
        print("No answer from the node.")


def handle_receive(client: socket.socket, answered: threading.Event) -> None:
    """Show what the node says, as soon as it says it. A thread of its own runs this."""
    received = b""
    with contextlib.suppress(OSError, ValueError, SyntaxError):  # cut off, or talking nonsense
        while (chunk := client.recv(4096)) and len(received) < MAX_ANSWER_BYTES:
            received += chunk
            answer, received = split_answer(received)
            while answer is not None:
                print(f"[*] Message from node: {answer}")
                if answer.get("result") is True:
                    print("The payment counts as soon as a block with it is mined.")
                answered.set()
                answer, received = split_answer(received)
    print("\nThe connection to the node has ended.\n", end="", file=sys.stderr)  # in one piece
    os._exit(1)  # the main thread waits at a prompt, from which nothing else would wake it


# What str() makes of a flat dict: texts in quotes, whole numbers, True and False. The node is a
# stranger, too: only what looks like this is read, or Python might choke on what it says.
TEXT = rb"""(?:'[^'\\]*(?:\\[\\'ntrxuU][^'\\]*)*'|"[^"\\]*(?:\\[\\ntrxuU][^"\\]*)*")"""
VALUE = rb"(?:%b|-?\d{1,400}|True|False)" % TEXT
ANSWER = re.compile(rb"\{%b: %b(?:, %b: %b)*\}" % (TEXT, VALUE, TEXT, VALUE))


def split_answer(received: bytes) -> tuple[dict | None, bytes]:
    """Return the first whole answer, or None, and the bytes after it.

    No mark ends an answer. But it is a Python literal, so one can see when it is whole. Raises
    ValueError or SyntaxError if it only looks like one.
    """
    answer = ANSWER.search(received)
    if not answer:
        return None, received
    return ast.literal_eval(answer[0].decode("utf8")), received[answer.end() :]


# ------------------------------------------------------------------------------------------
# Day 06: the menu. A slip costs one line, never the session.
# ------------------------------------------------------------------------------------------


class Slip(Exception):
    """What was typed cannot be meant. The text names the field, and never repeats a key."""


def ask(field: str) -> str:
    """Ask for one line; raise Slip if there is nothing on it."""
    text = input(f"{field}: ").strip()
    if not text:
        raise Slip(f"{field}: nothing was typed.")
    return text


def ask_number(field: str, least: int) -> int:
    """Ask for a whole number; raise Slip if it is not one, or too small."""
    text = ask(field)
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise Slip(f"{field}: this must be a whole number, {least} or more.")
    return number


def ask_address() -> str:
    """Ask for the address to pay from; raise Slip if it is not one."""
    address = ask("Address")
    public_key = f"-----BEGIN RSA PUBLIC KEY-----\n{address}\n-----END RSA PUBLIC KEY-----\n"
    try:
        rsa.PublicKey.load_pkcs1(public_key.encode("utf-8"))
    except Exception:  # as in sign_transaction
        raise Slip("Address: this is not a whole address.") from None
    return address


def ask_private_key() -> str:
    """Ask for a private key; raise Slip if nothing can be signed with it."""
    private_key = ask("Private_key")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # `rsa` warns of a key whose numbers do not match
            sign_transaction(Transaction("", "", 0, 0, ""), private_key)
    except Exception:  # as in sign_transaction
        raise Slip("Private_key: this is not a whole private key.") from None
    return private_key


def run_command(client: socket.socket, answered: threading.Event) -> None:
    """Show the menu, and do what is chosen from it."""
    command_dict = {"1": "generate_address", "2": "get_balance", "3": "transaction"}
    print("Command list:")
    for number, name in command_dict.items():
        print(f"{number}. {name}")
    command = command_dict.get(input("Command: ").strip())
    message = {"request": command}
    if command is None:
        print("Unknown command.")
    elif command == "generate_address":
        address, private_key = generate_address()
        print(f"Address: {address}")
        print(f"Private key: {private_key}")
    elif command == "get_balance":
        message["address"] = ask("Address")
        send_request(client, answered, message)
    elif command == "transaction":
        address = ask_address()
        private_key = ask_private_key()
        receiver = ask("Receiver")
        amount = ask_number("Amount", 1)
        fee = ask_number("Fee", 0)
        comment = input("Comment: ").strip()
        message["data"] = initialize_transaction(address, receiver, amount, fee, comment)
        message["signature"] = sign_transaction(message["data"], private_key)
        send_request(client, answered, message)


def port_number(text: str) -> int:
    """Return the port that somebody typed; raise ArgumentTypeError if it is not one."""
    if text.isdecimal() and 1 <= int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")


def main() -> int:
    """Show the menu until the input ends; return the exit status."""
    parser = argparse.ArgumentParser(
        description="A menu for a blockchain node on 127.0.0.1.",
        epilog="example: python blockchain_client.py 1111",
    )
    parser.add_argument("port", type=port_number, help="the port of the node, 1 to 65535")
    port = parser.parse_args().port
    # What a screen cannot show, or a keyboard cannot mean, must not end the session.
    sys.stdin.reconfigure(errors="replace")
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        client = socket.create_connection(("127.0.0.1", port))
    except OSError as error:
        sys.exit(f"blockchain_client.py: no node on port {port}: {error.strerror}")
    answered = threading.Event()
    threading.Thread(target=handle_receive, args=(client, answered), daemon=True).start()
    try:
        while True:
            try:
                run_command(client, answered)
            except Slip as slip:
                print(slip)
    except EOFError:
        print()
        return 0
    except KeyboardInterrupt:
        print()
        return 130
    except BrokenPipeError:  # whoever read the screen has gone
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
