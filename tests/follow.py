"""Empty a function, write it again, bring it back: `python tests/follow.py get_balance`.

The first time, this empties the function in your folder: only its first line and its docstring
remain. The second time, it brings the original back, and keeps what you have written. The folder
.follow has both, so do not look there too early.

Without a name, it empties one function of EXERCISES.md after the other, in a copy of the project,
and prints the table of that page. Two more numbers follow each row: how many seconds the tests
took, and how many tests of the days before turned red, which should be none.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
KEPT = ROOT / ".follow"
DAYS = ["test_day02", "test_day03", "test_day04", "test_day05", "test_day06"]
SUBJECTS = {
    "test_day03": "hashing and mining",
    "test_day04": "difficulty, balances, verification",
    "test_day05": "keys and signatures",
    "test_day06": "the node: sockets and threads",
    "test_attacks": "the node: reading requests",
    "test_client": "the client",
}
ROWS = {
    "test_day03": "transaction_to_string get_hash add_transaction_to_block find_nonce append_block",
    "test_day04": "adjust_difficulty get_balance check_block verify_blockchain",
    "test_day05": "get_public_from_address check_fields check_signature add_transaction",
    "test_day06": "start wait_for_socket_connection receive_socket_message respond",
    "test_attacks": "RequestBytes.read RequestReader.load find_class load_build",
    "test_client": "send_request handle_receive ask",
}


def script_of(name):
    """Return the script that a function is in: the node's, if both have one of that name."""
    scripts = "blockchain_server.py", "blockchain_client.py"
    return next((script for script in scripts if body_of(lines_of(ROOT / script), name)), None)


def lines_of(path):
    return path.read_text(encoding="utf8").splitlines(keepends=True)


def body_of(lines, name):
    """Return where the body of a function begins, behind its docstring, and where it ends.

    Only indentation and quotes count, so that it does not matter if the code is half written.
    """
    *in_class, name = name.split(".")
    pattern = rf"class {in_class[0]}\b" if in_class else ""
    first = next((n for n, line in enumerate(lines) if re.match(pattern, line)), len(lines))
    define = re.compile(rf"( *)def {name}\(")
    start = next((n for n in range(first, len(lines)) if define.match(lines[n])), None)
    if start is None:
        return None
    inside = define.match(lines[start])[1] + " "
    end = start + 1
    while end < len(lines) and re.match(rf"\s*$|{inside}|\s*\)", lines[end]):
        end += 1
    while not lines[end - 1].strip():
        end -= 1
    docstring = re.search(r'"""(.|\n)*?"""', "".join(lines[start:end]))
    return start + 1 + (docstring.string.count("\n", 0, docstring.end()) if docstring else 0), end


def replace_body(path, name, new, keep_in=None):
    """Put another body into a function, and return the old one. First, keep that in a file."""
    lines = lines_of(path)
    start, end = body_of(lines, name)
    old = "".join(lines[start:end])
    if keep_in:
        keep_in.write_text(old, encoding="utf8")
    path.write_text("".join([*lines[:start], new, *lines[end:]]), encoding="utf8")
    return old


def empty(path, name, keep_in=None):
    """Empty a function of a script. Return what was in it."""
    lines = lines_of(path)
    start, _end = body_of(lines, name)
    indent = re.match(" *", lines[start])[0]
    return replace_body(path, name, f"{indent}raise NotImplementedError\n", keep_in)


def follow(name):
    """Empty a function in the learner's own folder, or bring it back."""
    if not (script := script_of(name)):
        sys.exit(f"Neither script has a function {name}.")
    original = KEPT / f"{name}.original.py"
    if original.exists():
        number = len(list(KEPT.glob(f"{name}.yours*.py"))) + 1
        yours = KEPT / f"{name}.yours{number}.py"
        replace_body(ROOT / script, name, original.read_text(encoding="utf8"), keep_in=yours)
        original.unlink()
        print(f"{name} in {script} is the original again. Yours is in .follow/{yours.name}.")
        return
    KEPT.mkdir(exist_ok=True)
    empty(ROOT / script, name, keep_in=original)
    day = next((day for day, names in ROWS.items() if name in names.split()), None)
    tests = f" {os.path.relpath(ROOT / 'tests' / f'{day}.py')}" if day else ""
    print(f"{name} in {script} is empty. Write it, until these tests are green:")
    print(f"    {sys.orig_argv[0]} -m pytest{tests}")
    print("The same command again brings the original back, and keeps yours.")


def run(folder, tests):
    """Run these tests in a copy of the project. Return how many turn red, of how many; seconds.

    A test that fails, and then fails again when it is cleaned up, counts once.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE"]
    command += [f"tests/{test}.py" for test in tests]
    options = {"cwd": folder, "capture_output": True, "text": True, "encoding": "utf8"}
    output = subprocess.run(command, **options).stdout
    red = set(re.findall(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE))
    collected = subprocess.run([*command, "--collect-only"], **options).stdout
    all_tests = int(re.search(r"(\d+)(?:/\d+)? tests collected", collected)[1])
    return len(red), all_tests, time.monotonic() - start


def print_table(only=()):
    print("| day | the article is about | empty this | its tests | turn red |")
    print("| - | - | - | - | --: |")
    for day, names in ROWS.items():
        for name in names.split():
            if only and name not in only:
                continue
            with tempfile.TemporaryDirectory() as folder:
                copy = pathlib.Path(folder) / "project"
                ignored = shutil.ignore_patterns(".git", ".venv", ".follow", "__pycache__")
                shutil.copytree(ROOT, copy, ignore=ignored)
                empty(copy / script_of(name), name)
                failed, all_tests, seconds = run(copy, [day])
                earlier, _, _ = run(copy, DAYS[: DAYS.index(day)] if day in DAYS else DAYS[:4])
            number = day[-2:] if day in DAYS else "06"
            row = f"| {number} | {SUBJECTS[day]} | `{name}` | `{day}.py` | {failed} of {all_tests}"
            print(f"{row} |   {seconds:.0f} s, {earlier}", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--table", *only]:
            print_table(only)
        case []:
            print_table()
        case [name]:
            follow(name)
        case _:
            sys.exit("One name at a time, please.")
