"""Empty one function after the other, and see which tests turn red: `python tests/follow.py`.

This prints the table of EXERCISES.md, "Follow the series". Behind each row stand two things more:
how many seconds the tests of that day take, and how many tests of the days before turn red, which
should be none. Each run uses a copy of the project in a folder of its own.

    python tests/follow.py find_nonce add_transaction     empty only these functions
"""

import ast
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
DAYS = ["test_day02", "test_day03", "test_day04", "test_day05", "test_day06"]
ROWS = {
    "test_day03": "transaction_to_string get_hash add_transaction_to_block find_nonce append_block",
    "test_day04": "adjust_difficulty get_balance check_block verify_blockchain",
    "test_day05": "get_public_from_address check_fields check_signature add_transaction",
    "test_day06": "start wait_for_socket_connection receive_socket_message respond",
    "test_attacks": "RequestBytes.read RequestReader.load find_class load_build",
    "test_client": "send_request handle_receive ask",
}
SUBJECTS = [
    *("hashing and mining", "difficulty, balances, verification", "keys and signatures"),
    *("the node: sockets and threads", "the node: reading requests", "the client"),
]


def script_of(day):
    return "blockchain_client.py" if day == "test_client" else "blockchain_server.py"


def empty(path, name):
    """Empty a function of a script: only its first line and its docstring remain."""
    *in_class, name = name.split(".")
    text = path.read_text(encoding="utf8")
    tree = ast.parse(text)
    if in_class:
        (tree,) = (n for n in ast.walk(tree) if getattr(n, "name", None) == in_class[0])
    (function,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    docstring, last = function.body[0], function.body[-1]
    lines = text.splitlines(keepends=True)
    raising = " " * last.col_offset + "raise NotImplementedError\n"
    lines[docstring.end_lineno : last.end_lineno] = [raising]
    path.write_text("".join(lines), encoding="utf8")


def run(folder, tests):
    """Run these tests in a copy of the project. Return how many fail, of how many; and seconds."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no"]
    paths = [f"tests/{test}.py" for test in tests]
    output = subprocess.run([*command, *paths], cwd=folder, capture_output=True, text=True).stdout
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (failed|passed|error)", output)}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    return failed, failed + counts.get("passed", 0), time.monotonic() - start


def main():
    print("| day | the article is about | empty this | run this | turn red |")
    print("| - | - | - | - | --: |")
    for (day, names), subject in zip(ROWS.items(), SUBJECTS):
        for name in names.split():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            with tempfile.TemporaryDirectory() as folder:
                copy = pathlib.Path(folder) / "project"
                shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
                empty(copy / script_of(day), name)
                failed, all_tests, seconds = run(copy, [day])
                earlier, _, _ = run(copy, DAYS[: DAYS.index(day)] if day in DAYS else DAYS[:4])
            number = day[-2:] if day in DAYS else "06"
            command = f"`.venv/bin/python -m pytest tests/{day}.py`"
            row = f"| {number} | {subject} | `{name}` | {command} | {failed} of {all_tests} |"
            print(f"{row}   {seconds:.0f} s, {earlier}", flush=True)


if __name__ == "__main__":
    main()
