"""Run a script with one thing changed: `changed.py CHANGE SCRIPT ARGUMENT...`.

A few tests need it, where a real script cannot be brought to do something in another way. Each
function here changes the module of the script before its `main` runs.
"""

import importlib
import os
import pathlib
import signal
import sys
import threading
import time

ROOT = pathlib.Path(__file__).parent.parent


# ---- The client
def person(client):
    """Somebody types, on pipes, so that nothing echoes: only `isatty` says it is a terminal."""
    sys.stdin.isatty = lambda: True


def impatient(client):
    """A person who is told after a moment that there is no answer yet."""
    person(client)
    client.ANSWER_SECONDS = 0.1


def ascii_only(script):
    """The output can show ASCII only."""
    sys.stdout.reconfigure(encoding="ascii", errors="strict")


# ---- Both
def in_the_background(script):
    """A shell script makes its background processes ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# ---- The node
def speaks_chinese(node):
    """What the system says of an error may be Chinese, and the output may show ASCII only."""
    ascii_only(node)
    node.BlockChain.create_genesis_block = lambda self: node.say("沒有空間")


def never_found(node):
    """Block 2 is never found."""
    node.BlockChain.adjust_difficulty = lambda self: setattr(self, "difficulty", 12)


def never_found_after_50(node):
    """Blocks 1 to 50 are found at once, and block 51 never."""

    def adjust_difficulty(self):
        self.difficulty = 12 if len(self.chain) > 50 else 1

    node.BlockChain.adjust_difficulty = adjust_difficulty


def waits_for_a_transaction(node):
    """Block 2 begins when a transaction is pending, and is never found."""

    def adjust_difficulty(self):
        while not self.pending_transactions:
            time.sleep(0.01)
        self.difficulty = 12

    node.BlockChain.adjust_difficulty = adjust_difficulty


def few_descriptors(node):
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))


def few_threads(node):
    """Room for a dozen threads, as each asks for so much; and always enough for everything else."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2**32,) * 2)
    threading.stack_size(2**28)


def tell_the_peers(*_):
    raise ConnectionRefusedError("a peer that is gone")


def mistake_in_the_mining(node):
    """It happens after the first request."""
    asked, get_balance = threading.Event(), node.BlockChain.get_balance

    def get_balance_and_go_on(self, account):
        asked.set()
        return get_balance(self, account)

    node.BlockChain.get_balance = get_balance_and_go_on
    node.BlockChain.find_nonce = lambda *_: asked.wait() and tell_the_peers()


def mistake_in_a_request(node):
    node.BlockChain.get_balance = tell_the_peers


def end_with_the_tests():
    """End a node whose test has gone: its input ends then, and it may never print again."""
    while os.read(0, 1000):
        pass
    os._exit(1)


if __name__ == "__main__":
    change, script = sys.argv[1:3]
    if script == "blockchain_server.py":
        threading.Thread(target=end_with_the_tests, daemon=True).start()
    sys.argv[:3] = [str(ROOT / script)]
    sys.path.insert(0, str(ROOT))
    module = importlib.import_module(pathlib.Path(script).stem)
    globals()[change](module)
    module.main()
