"""Empty a function, write it again, bring the original back.

    python tests/follow.py get_balance          empties it: its first line and docstring remain
    python tests/follow.py get_balance          once more: the original is back, yours is kept
    python tests/follow.py get_balance --yours  yours is back, to go on with it
    python tests/follow.py --table [NAME ...]   measures the table of EXERCISES.md: ten minutes

Before anything in a script changes, all of it is copied to the folder .follow. So do not look
there too early.

The table empties one function after the other, in copies of the project. One more number follows
each row: how many tests of the days before turned red, which should be none.
"""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
KEPT = ROOT / ".follow"
THIS = sys.executable, __file__
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


def emptied(path, name):
    """Return the text of a script with this function emptied, or None if there is none."""
    text = path.read_bytes()
    try:
        found = [ast.parse(text, path.name)]
    except SyntaxError as error:
        sys.exit(f"Nothing was changed. Python cannot read {path.name}, mend it first: {error}")
    for part in name.split("."):  # CLASS.FUNCTION, or a function alone
        nodes = [node for place in found for node in ast.walk(place)]
        found = [node for node in nodes if getattr(node, "name", None) == part]
    function = next((node for node in found if isinstance(node, ast.FunctionDef)), None)
    if not function:
        return None
    lines = text.splitlines(keepends=True)
    first = function.body[0]
    start = first.lineno - 1
    indent = lines[start][: first.col_offset]
    if ast.get_docstring(function) is not None:
        start = first.end_lineno
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    lines[start : function.end_lineno] = [indent + b"raise NotImplementedError" + newline]
    return b"".join(lines)


def script_of(name):
    """Return the script that a function is in: the node's, if both have one of that name."""
    scripts = "blockchain_server.py", "blockchain_client.py"
    return next((script for script in scripts if emptied(ROOT / script, name)), None)


def tell(what, *command):
    """Print what comes next, and the command for it, as it can be typed in this folder."""
    words = [str(word).removeprefix(os.getcwd() + os.sep) for word in command]
    print(f"{what}:\n    " + " ".join(f'"{word}"' if " " in word else word for word in words))


def under_way(name):
    """Return the script in which this function is empty, or None. If another one is, end."""
    for original in KEPT.glob("blockchain_*.*.original.py"):
        stem, busy = original.name.removesuffix(".original.py").split(".", 1)
        if busy != name:
            tell(f"First bring the original {busy} back, and keep yours", *THIS, busy)
            sys.exit(1)
        return f"{stem}.py"
    return None


def write(path, text):
    """Write a file whole or not at all: on a full disk, what was there stays there."""
    KEPT.mkdir(exist_ok=True)
    half = KEPT / "half"
    half.write_bytes(text)
    os.replace(half, path)


def keep_yours(script, original, name):
    """Keep the learner's script, if anything was written. Return the last one kept, or None."""
    newest = max(KEPT.glob(f"{script.stem}.{name}.yours[0-9][0-9][0-9].py"), default=None)
    text = script.read_bytes()
    if original.exists() and text not in (original.read_bytes(), emptied(original, name)):
        number = int(newest.stem[-3:]) + 1 if newest else 1
        newest = KEPT / f"{script.stem}.{name}.yours{number:03}.py"
        write(newest, text)
    return newest


def follow(name, yours):
    """Do the next step with a function in the learner's own folder."""
    file = under_way(name) or script_of(name)
    if not file:
        sys.exit(f"Nothing was changed: neither script has a function {name}.")
    script = ROOT / file
    original = KEPT / f"{script.stem}.{name}.original.py"
    newest = keep_yours(script, original, name)
    if yours and not newest:
        sys.exit(f"Nothing was changed: .follow has no {name} of yours.")
    if original.exists() and not yours:
        os.replace(original, script)
        print(f"{name} in {file} is the original again.")
        if newest:
            compare = "git", "diff", "--no-index", newest, script
            tell("Yours is kept, the whole script. To compare the two, with git", *compare)
    else:
        if not original.exists():
            write(original, script.read_bytes())
        write(script, newest.read_bytes() if yours else emptied(original, name))
        print(f"{name} in {file} is {'yours again' if yours else 'empty'}.")
        day = next((f"{day}.py" for day, names in ROWS.items() if name in names.split()), "")
        tests = ROOT / "tests" / day
        tell("Write it, until these tests are green", sys.executable, "-m", "pytest", tests)
        tell("To bring the original back, and keep yours", *THIS, name)
    if newest and not yours:
        tell("To go on with yours", *THIS, name, "--yours")


def run(folder, tests):
    """Run these tests in a copy of the project. Return how many turn red, and of how many.

    A test that fails, and then fails again when it is cleaned up, counts once.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE"]
    command += ["--color=no", *(f"tests/{test}.py" for test in tests)]
    options = {"cwd": folder, "capture_output": True, "text": True, "encoding": "utf8"}
    output = subprocess.run(command, **options).stdout
    red = set(re.findall(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE))
    collected = subprocess.run([*command, "--collect-only"], **options).stdout
    return len(red), int(re.search(r"(\d+)(?:/\d+)? tests collected", collected)[1])


def print_table(only):
    print("| day | the article is about | empty this | its tests | turn red |")
    print("| - | - | - | - | --: |")
    for day, name in [(day, name) for day, names in ROWS.items() for name in names.split()]:
        if only and name not in only:
            continue
        script = script_of(name)
        if not script:
            print(f"No script has a function {name}, so it has no row.", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "project"
            ignored = shutil.ignore_patterns(".git", ".venv", ".follow", "__pycache__")
            shutil.copytree(ROOT, copy, ignore=ignored)
            (copy / script).write_bytes(emptied(copy / script, name))
            failed, all_tests = run(copy, [day])
            earlier, _ = run(copy, DAYS[: DAYS.index(day)] if day in DAYS else DAYS[:4])
        number = day[-2:] if day in DAYS else "06"
        row = f"| {number} | {SUBJECTS[day]} | `{name}` | `{day}.py` | {failed} of {all_tests} |"
        print(row, earlier, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--table", *only]:
            under_way(None)
            print_table(only)
        case [name] | [name, "--yours"] if not name.startswith("-"):
            follow(name, yours="--yours" in sys.argv)
        case _:
            sys.exit(__doc__)
