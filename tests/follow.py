"""Empty one function after the other, and see which tests turn red: `python tests/follow.py`.

This prints the table of EXERCISES.md, "Follow the series": for each function its day, how many
tests of that day turn red, and how many seconds they take. The tests of the days before must stay
green. Each run has a copy of the project in a folder of its own. It takes some minutes.

    python tests/follow.py find_nonce add_transaction     only these functions
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
    "test_day03": "transaction_to_string get_hash find_nonce add_transaction_to_block mine_block "
    "append_block",
    "test_day04": "adjust_difficulty get_balance check_block verify_blockchain",
    "test_day05": "generate_address get_public_from_address check_fields check_signature "
    "add_transaction",
    "test_day06": "start start_socket_server wait_for_socket_connection receive_socket_message "
    "respond say say_goodbye",
    "test_attacks": "RequestBytes.read RequestReader.load find_class load_build",
    "test_client": "send_request handle_receive ask whole_address run_command",
}


def empty(path, name):
    """Empty a function of a script: only its first line and its docstring remain."""
    *in_class, name = name.split(".")
    tree = ast.parse(path.read_text(encoding="utf8"))
    if in_class:
        (tree,) = (n for n in ast.walk(tree) if getattr(n, "name", None) == in_class[0])
    (function,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    first, last = function.body[1], function.body[-1]  # body[0] is the docstring
    lines = path.read_text(encoding="utf8").splitlines(keepends=True)
    indent = " " * first.col_offset
    lines[function.body[0].end_lineno : last.end_lineno] = [f"{indent}raise NotImplementedError\n"]
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
    print("| day | function | red | seconds | red on earlier days |\n| - | - | - | - | - |")
    for day, names in ROWS.items():
        script = "blockchain_client.py" if day == "test_client" else "blockchain_server.py"
        for name in names.split():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            with tempfile.TemporaryDirectory() as folder:
                copy = pathlib.Path(folder) / "project"
                shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
                empty(copy / script, name)
                failed, all_tests, seconds = run(copy, [day])
                before = DAYS[: DAYS.index(day)] if day in DAYS else DAYS[:4]
                earlier, _, _ = run(copy, before)
            row = f"| {day} | {name} | {failed} of {all_tests} | {seconds:.0f} | {earlier} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
