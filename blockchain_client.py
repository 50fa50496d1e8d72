"""The menu client of Day 06: it makes keys, asks a node for balances, and sends it transactions.

    python blockchain_client.py 1111

The number is the port of a running node (`blockchain_server.py`). Transactions are signed here, so
that private keys stay here: in Bitcoin, such a program is a *wallet*. The file has this order:

    Day 05  generate_address ... load_key  keys and signatures
    Day 06  Node ... handle_receive        requests and answers
    Day 06  ask ... whole_number           what a person types
    Day 06  run_command ... main           the menu

What both scripts need stands in both, so that each can be read, run and copied alone.
"""

import argparse
import ast
import base64
import contextlib
import dataclasses
import locale
import os
import pickle
import queue
import re
import signal
import socket
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

try:
    import rsa
except ModuleNotFoundError as error:  # SystemExit would also end a Python shell that imports this
    hint = "The package rsa is missing. README.md explains how to install it."
    raise (SystemExit if __name__ == "__main__" else ImportError)(hint) from error

ANSWER_SECONDS = 5  # how long the client waits for the next answer
MAX_REQUEST_BYTES = 16_384  # the node refuses longer ones


# ---- Day 05: keys and signatures ------------------------------------------------------------
#
#     key pair   a private key signs, and its public key checks the signature
#     address    here the public key itself
#     signature  shows that the owner of the private key agreed to exactly this text
#     PEM        a text format for keys: base64 (A-Z a-z 0-9 + / =) between two marker lines


def generate_address() -> tuple[str, str]:
    """Make a key pair. Return the address and the private key, as base64 on one line (Day 05)."""
    public, private = rsa.newkeys(512)
    return get_address_from_public(public.save_pkcs1()), extract_from_private(private.save_pkcs1())


def get_address_from_public(public: bytes) -> str:
    """Return the PEM of a public key without its marker lines and line breaks (Day 05)."""
    return "".join(public.decode("ascii").splitlines()[1:-1])


def extract_from_private(private: bytes) -> str:
    """Return the PEM of a private key without its marker lines and line breaks (Day 05)."""
    return "".join(private.decode("ascii").splitlines()[1:-1])


@dataclasses.dataclass(frozen=True)
class Transaction:
    """Coins that one account sends to another (Day 02). Immutable, because it gets signed.

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
    return Transaction(sender, receiver, amount, fee, message)


def transaction_to_string(transaction: Transaction) -> str:
    """Return the text of a transaction that is signed (Day 03).

    The node has the same function: if one character differed, no signature would be valid.
    """
    return str(vars(transaction))


def sign_transaction(transaction: Transaction, private: str) -> bytes:
    """Return the signature of a transaction, made with SHA-1 (Day 05).

    `private` is a private key as `extract_from_private` returns it. Raises ValueError if it is not.
    """
    data = transaction_to_string(transaction).encode("utf-8")
    return bytes(rsa.sign(data, load_key(rsa.PrivateKey, private), "SHA-1"))


def load_key(kind: Any, line: str) -> Any:
    """Return the key in a line of base64; `kind` is rsa.PublicKey or rsa.PrivateKey.

    Raises ValueError if there is none.
    """
    try:
        return kind.load_pkcs1(base64.b64decode(line), "DER")  # DER is what PEM writes as base64
    except Exception as error:  # rsa, base64 and pyasn1 raise many kinds
        raise ValueError("this is not a valid key.") from error


# ---- Day 06: requests and answers -----------------------------------------------------------
#
#     request  what a client sends: one pickle, which is Python's format for objects
#     answer   `str` of a dict, in UTF-8; it does not name its request, but keeps their order
#     socket   one end of a TCP connection, which carries bytes but marks no end of a message


class Node:
    """The connection to a node: its socket, the answers that came, and how many are owed."""

    def __init__(self, port: int) -> None:
        """Connect. Raises OSError, or OverflowError for a number that is no port."""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.connect(("127.0.0.1", port))
        # Answers to be shown, 100 at most. The last one is "", which ends the loops that wait for
        # answers, or the beginning of one that was cut off.
        self.answers: queue.Queue[str] = queue.Queue(100)
        self.owed = 0  # requests that were sent, less answers that were shown
        # Held from a request until its answer is shown, so that nothing is printed in between.
        self.asking = threading.Lock()


def send_request(node: Node, message: dict[str, Any]) -> None:
    """Send a request, and show its answer (Day 06). Raises BackToMenu if it is too long.

    Answers come in the order of the requests. So this request's answer is the last one that is
    owed, and earlier ones belong to requests that were given up.
    """
    data = pickle.dumps(message)
    if len(data) > MAX_REQUEST_BYTES:
        raise BackToMenu(f"Nothing was sent. A request may have {MAX_REQUEST_BYTES} bytes at most.")
    with node.asking:
        node.owed += 1
        with contextlib.suppress(OSError):  # the node has gone, which handle_receive notices, too
            node.socket.sendall(data)
        with contextlib.suppress(queue.Empty):
            while node.owed and (answer := node.answers.get(timeout=ANSWER_SECONDS)):
                show_answer(node, answer, late=node.owed > 1)
        if node.owed:
            print("No answer from the node.")
        if node.owed and "signature" in message:
            print("It may have been accepted. Sent again with all fields the same, it counts once.")
        if not node.owed and "signature" in message and re.fullmatch("{'result': True,.*}", answer):
            print("The transaction counts as soon as a block with it is mined.")


def show_answer(node: Node, answer: str, *, late: bool) -> None:
    r"""Show an answer. It must neither control the terminal nor look like this program's own words.

    Characters that cannot be printed appear as escapes (\x1b). On a terminal, all rows below the
    first one are indented.
    """
    node.owed = max(0, node.owed - 1)  # a node may send more than it was asked for
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in answer)
    with contextlib.suppress(OSError):  # the output is no terminal
        # Rows are indented by 23, the length of the words before the answer, and 3 columns stay
        # free. They end after a space where they can. All characters that are not ASCII count as
        # two columns wide, as Chinese ones are: meanwhile, a NUL stands for the second column. Some
        # terminals report 0 columns.
        row = f".{{1,{max((os.get_terminal_size(1).columns or 80) - 26, 10)}}}"
        wide = re.sub(r"([^\x00-\x7f])", "\\1\0", text)
        text = ("\n" + " " * 23).join(re.findall(f"{row}(?: |$)|{row}", wide)).replace("\0", "")
    print("A late answer, to an earlier request:\n" * late + f"[*] Message from node: {text}")


def handle_receive(node: Node) -> NoReturn:
    """Cut what the node sends into answers. When the node has gone, end the client, too (Day 06).

    Runs in a thread of its own. It leaves showing the answers to the main thread, which knows when
    there is no prompt on the screen.
    """
    received = b""
    with node.socket, contextlib.suppress(OSError):  # the connection was reset
        # An honest answer is at most four times as long as its request: `str` writes a zero byte
        # as \x00.
        while len(received) <= 4 * MAX_REQUEST_BYTES and (data := node.socket.recv(65536)):
            # The data is cut where } stands before {, because an answer may end there. But }{ may
            # also stand inside a string, and the data may end anywhere. So the pieces are joined
            # until Python can read them.
            for piece in re.split(rb"(?<=})(?={)", data):
                received += piece
                with contextlib.suppress(Exception):  # literal_eval raises many kinds
                    ast.literal_eval(received.decode("utf8"))
                    node.answers.put(received.decode("utf8"))
                    received = b""
    # What is left is no answer, or only a part of one. If nothing is left, this is "".
    node.answers.put(received[:1000].decode("utf8", "backslashreplace"))
    with node.asking, contextlib.suppress(OSError):  # nobody can read it
        print("\nThe connection to the node has ended.\n", end="", file=sys.stderr)  # one write
    # The main thread waits in input(). A SIGINT interrupts that as Ctrl-C does, and readline
    # restores the terminal. One that comes just before input() begins to wait is lost, so it is
    # sent every second. (On Windows, the first one ends the process.)
    while True:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(1)  # one second


# ---- Day 06: what a person types ------------------------------------------------------------
#
# A mistake is named, and the same field is asked for again. What could be used as a private key is
# taken at Private_key and nowhere else.


class BackToMenu(Exception):
    """Raised when a command ends before anything was sent. Its text is shown."""


def ask(field: str, check: Callable[[str], Any], *, optional: bool = False) -> Any:
    """Ask for a field until `check` accepts what was typed. Return what `check` returns.

    White space around it does not count. If `check` raises ValueError, its text is shown behind the
    name of the field. An empty line raises BackToMenu("Nothing was sent."), unless the field is
    `optional`. A mistake raises BackToMenu, in place of asking again, in two
    cases. From a pipe, the next line was written for the next field. And an optional field takes
    any text, so it might take the next row of a pasted key.
    """
    while True:
        typed = input(f"{field}: ").strip()
        try:
            if typed or optional:
                return check(typed)
        except ValueError as mistake:
            print(f"{field}: {mistake}")
        if not typed or optional or not sys.stdin.isatty():
            raise BackToMenu("Nothing was sent.")


def bare_key(typed: str) -> str:
    """Return what is base64 in a copied key: no label, quotes, spaces or line breaks."""
    return re.sub("[^A-Za-z0-9+/=]", "", typed.rpartition(":")[2])


def whole_address(typed: str) -> str:
    """Return an address. Raises ValueError if it is no whole key of 512 to 4,096 bits."""
    address = bare_key(typed)
    with contextlib.suppress(ValueError):
        key = load_key(rsa.PublicKey, address)
        if address == get_address_from_public(key.save_pkcs1()) and 2**511 <= key.n < 2**4096:
            return address
    raise ValueError("this is not a valid address. (Enter a private key at Private_key only.)")


def private_key_of(address: str, typed: str) -> str:
    """Return the private key of an address. Raises ValueError if it is damaged, or another's."""
    private = bare_key(typed)
    key = load_key(rsa.PrivateKey, private)
    # A private key has eight numbers. Three of them follow from the others, so rsa computes them,
    # and only warns if those in the text are different. Saved again, such a key has another text.
    if key.n != key.p * key.q or extract_from_private(key.save_pkcs1()) != private:
        raise ValueError("this is not a valid key.")
    if get_address_from_public(rsa.PublicKey(key.n, key.e).save_pkcs1()) != address:
        raise ValueError("this key belongs to another address. An empty line leads to the menu.")
    return private


def address_or_text(typed: str) -> str:
    """Return an address, or any other text. Raises ValueError if it is probably a mistake.

    Coins sent to a part of an address are lost, because nobody has a key for it. A name with an
    invisible character is not the account that it looks like. Nor is one with U+FFFD, which stands
    for a byte that could not be read.
    """
    with contextlib.suppress(ValueError):
        return whole_address(typed)
    no_key(typed)  # raises ValueError, too
    if typed.endswith("="):
        raise ValueError("this looks like a part of an address. Enter the complete address.")
    if not typed.isprintable() or "\ufffd" in typed:
        raise ValueError(f"{typed!r} has an invisible or unreadable character.")
    return typed


def no_key(typed: str) -> str:
    """Return the text. Raises ValueError if there is a private key in it, or part of any key.

    A private key of 512 bits or more begins with MII and has over 300 characters, so it is found
    whatever stands around it or between its characters. A part of a key can only be guessed: 24
    characters of base64 in a row, among them capitals, small letters and digits. Long links and
    paths may look like that, too.
    """
    parts = re.findall("[A-Za-z0-9+/]{24,}", typed)
    parts += re.findall("MII[A-Za-z0-9+/]{300}", re.sub("[^A-Za-z0-9+/]", "", typed))
    for part in parts:
        if re.search("[A-Z]", part) and re.search("[a-z]", part) and re.search("[0-9]", part):
            raise ValueError("this looks like a key, or a part of a key. It is not sent.")
    return typed


def whole_number(least: int, typed: str) -> int:
    """Return a whole number. Raises ValueError if it is none, or below `least`."""
    # \d is a digit of any script, also a full-width one. `int` refuses more than 4,300 of them.
    if re.fullmatch(r"\d{1,4000}", typed) and int(typed) >= least:
        return int(typed)
    raise ValueError(f"this must be a whole number, {least} or more.")


# ---- Day 06: the menu -----------------------------------------------------------------------


def run_command(node: Node) -> None:
    """Show the menu, and run the command that is typed. Raises BackToMenu."""
    with contextlib.suppress(queue.Empty):
        while answer := node.answers.get_nowait():  # one that came after send_request gave up
            show_answer(node, answer, late=True)
    command_dict = {"1": "generate_address", "2": "get_balance", "3": "transaction"}
    print("Command list:\n1. generate_address\n2. get_balance\n3. transaction")
    # NFKC turns the full-width digits of a Chinese keyboard into plain ones.
    command = command_dict.get(unicodedata.normalize("NFKC", ask("Command", str, optional=True)))
    if command == "generate_address":
        print("Address: {}\nPrivate key: {}".format(*generate_address()))
    elif command == "get_balance":
        send_request(node, {"request": command, "address": ask("Address", address_or_text)})
    elif command == "transaction":
        address = ask("Address", whole_address)
        private_key = ask("Private_key", lambda typed: private_key_of(address, typed))
        receiver = ask("Receiver", address_or_text)
        amount = ask("Amount", lambda typed: whole_number(1, typed))
        fee = ask("Fee", lambda typed: whole_number(0, typed))
        comment = ask("Comment", no_key, optional=True)
        transaction = initialize_transaction(address, receiver, amount, fee, comment)
        signature = sign_transaction(transaction, private_key)
        send_request(node, {"request": command, "data": transaction, "signature": signature})
    else:
        raise BackToMenu("Unknown command.\nType 1, 2 or 3; Ctrl-C ends the client.")


def run_menu(node: Node) -> None:
    """Run commands until the program ends. Returns only if a line from a pipe was refused."""
    print("An empty line leads back to the menu (not at Comment). Ctrl-C ends the client.")
    while True:
        try:
            run_command(node)
        except BackToMenu as reason:
            print(reason)
            if not sys.stdin.isatty():
                return


def prepare_terminal() -> None:
    """Set up `input` and `print` for any bytes, Chinese, pastes of many lines, and arrow keys."""
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    # In the C locale, which has no language, readline drops Chinese. It reads LC_ALL when imported.
    if locale.setlocale(locale.LC_CTYPE) == "C":
        os.environ["LC_ALL"] = "C.UTF-8"
    with contextlib.suppress(ImportError):  # Windows has no readline, and edits lines by itself
        import readline  # with it, input() knows the arrow keys

        readline.set_auto_history(False)  # Up must not bring a private key back
        readline.parse_and_bind("set enable-bracketed-paste on")  # many lines are one answer


def main() -> None:
    """Connect to a node, and run the menu."""
    parser = argparse.ArgumentParser(description="A menu for a blockchain node on 127.0.0.1.")
    parser.add_argument("port", type=int, help="the port of the node, for example 1111")
    port = parser.parse_args().port
    prepare_terminal()
    warnings.simplefilter("ignore")  # rsa warns of damaged keys, which private_key_of refuses
    # A shell script starts its background processes with SIGINT ignored. Then handle_receive could
    # not interrupt input().
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        node = Node(port)
    except (OSError, OverflowError) as error:
        problem = str(getattr(error, "strerror", error)).rstrip(".")
        sys.exit(f"blockchain_client.py: no node on port {port}: {problem}. Is it running?")
    try:
        threading.Thread(target=handle_receive, args=[node], daemon=True).start()
        run_menu(node)
    except (EOFError, KeyboardInterrupt, BrokenPipeError) as reason:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second SIGINT shows no traceback
        print(end="" if isinstance(reason, BrokenPipeError) else "\n", file=sys.stderr)
        # Leaving the menu is not a failure, unless the node left first (then handle_receive has
        # closed the socket), or nobody reads the output any more. sys.exit is not used, because it
        # can abort Python while handle_receive prints.
        os._exit(1 if node.socket.fileno() < 0 or isinstance(reason, BrokenPipeError) else 0)
    os._exit(1)  # a line from a pipe was refused


if __name__ == "__main__":
    main()
