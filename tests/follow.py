"""Empty a function, write it again, bring the original back.

    python tests/follow.py get_balance          empties it: its first line and docstring remain
    python tests/follow.py get_balance          once more: the original is back, yours is kept
    python tests/follow.py get_balance --yours  yours is back, to go on with it
    python tests/follow.py --table              measures the table of EXERCISES.md: ten minutes

Before anything in a script changes, all of it is copied to the folder .follow. So do not look
there too early.

The table empties one function after the other, in copies of the project. Two more numbers follow
each row: how many seconds the tests took, and how many tests of the days before turned red, which
should be none.
"""

import argparse
import ast
import os
import pathlib
import re
import shlex
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


def around(path, name):
    """Return the text before and behind the body of a function, docstring before; or None.

    The script is never half written: it is what it was before its function was emptied.
    """
    text = path.read_bytes()
    try:
        found = [ast.parse(text, path.name)]
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte, until Python 3.11
        sys.exit(f"Nothing was changed. Python cannot read {shown(path)}, mend it first: {error}")
    functions = ast.FunctionDef, ast.AsyncFunctionDef
    for part in name.split("."):
        inside = [node for place in found for node in ast.walk(place) if node is not place]
        named = [node for node in inside if isinstance(node, (ast.ClassDef, *functions))]
        found = [node for node in named if node.name == part]
    function = next((node for node in found if isinstance(node, functions)), None)
    if not function:
        return None
    lines = text.splitlines(keepends=True)
    first = function.body[0]
    start = first.lineno - 1
    indent = lines[start][: first.col_offset]  # or `def name(): `, if the body is on that line
    if not indent.strip() and ast.get_docstring(function) is not None:
        start = first.end_lineno
    elif not indent.strip():
        while lines[start - 1].strip()[:1] in (b"", b"#"):
            start -= 1  # a comment above the first statement belongs to the body
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    behind = b"".join(lines[function.end_lineno :])
    return b"".join(lines[:start]) + indent, newline + behind


def emptied(path, name):
    """Return the text of a script with one of its functions emptied."""
    return b"raise NotImplementedError".join(around(path, name))


def script_of(name):
    """Return the script that a function is in: the node's, if both have one of that name."""
    scripts = "blockchain_server.py", "blockchain_client.py"
    return next((script for script in scripts if around(ROOT / script, name)), None)


def under_way():
    """Return the script and the name of the function that was emptied and is not back yet."""
    for original in KEPT.glob("blockchain_*.*.original.py"):
        stem, _, name = original.name.removesuffix(".original.py").partition(".")
        script = ROOT / f"{stem}.py"
        if original.read_bytes() != script.read_bytes():
            return script, name
        original.unlink()  # it is back by other means: git, for example
    return None, None


def kept(script, name, what):
    return KEPT / f"{script.stem}.{name}.{what}.py"


def yours_of(script, name):
    """Return the newest script of the learner's that may be kept, and where the next one goes."""
    files = KEPT.glob(f"{script.stem}.{name}.yours[0-9]*.py")
    number = max((int(re.search(r"\.yours(\d+)", file.name)[1]) for file in files), default=0)
    return kept(script, name, f"yours{number}"), kept(script, name, f"yours{number + 1}")


def write(path, text):
    """Write a file whole or not at all: on a full disk, what was there stays there."""
    KEPT.mkdir(exist_ok=True)
    half = KEPT / "half"
    with half.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)


def shown(path):
    """Return a path as it can be typed here: relative, if it is below this folder."""
    path, here = pathlib.Path(path), pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def tell(what, *command):
    """Print what comes next, and the command for it."""
    line = subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)
    print(f"{what}:\n    {line}")


# Not sys.orig_argv[0]: on Windows, that may be the Python that .venv was made with.
PYTHON = shown(sys.executable or "python")
THIS = PYTHON, shown(__file__)


def keep_yours(script, name):
    """Keep the learner's script, unless nothing was written, or it is kept already."""
    newest, following = yours_of(script, name)
    known = [emptied(kept(script, name, "original"), name)]
    known += [newest.read_bytes()] if newest.exists() else []
    if script.read_bytes() not in known:
        write(following, script.read_bytes())


def bring_back(script, name):
    """Make the script what it was before a function of it was emptied."""
    original, (newest, _) = kept(script, name, "original"), yours_of(script, name)
    before, behind = (part.strip() for part in around(original, name))
    text = script.read_bytes().strip()
    os.replace(original, script)
    print(f"{name} in {script.name} is the original again.")
    if not (text.startswith(before) and text.endswith(behind)):
        print("So are the other lines that you had changed: only what is kept has your changes.")
    if newest.exists():
        print(f"Your whole script is kept in {shown(newest)}")
        tell("To compare the two", "git", "diff", "--no-index", shown(newest), shown(script))
        tell("To go on with yours", *THIS, name, "--yours")


def begin(script, name, yours):
    """Empty a function of the script, or make the whole script what the learner had written."""
    original, (newest, _) = kept(script, name, "original"), yours_of(script, name)
    if yours and not newest.exists():
        sys.exit(f"Nothing was changed: .follow has no {name} of yours.")
    if not original.exists():
        write(original, script.read_bytes())
    write(script, newest.read_bytes() if yours else emptied(original, name))
    print(f"{name} in {script.name} is {'yours again' if yours else 'empty'}.")
    if newest.exists() and not yours:
        tell("To go on with what you wrote before", *THIS, name, "--yours")
    day = next((f"{day}.py" for day, names in ROWS.items() if name in names.split()), "")
    tests = shown(ROOT / "tests" / day)
    tell("Write it, until these tests are green", PYTHON, "-m", "pytest", tests)
    tell("To bring the original back, and keep yours", *THIS, name)


def follow(name, yours):
    """Do the next step with a function in the learner's own folder."""
    script, busy = under_way()
    if busy:
        keep_yours(script, name)
    elif found := script_of(name):
        script = ROOT / found
    else:
        sys.exit(f"Nothing was changed: neither script has a function {name}.")
    if busy and not yours:
        bring_back(script, name)
    else:
        begin(script, name, yours)


def run(folder, tests):
    """Run these tests in a copy of the project. Return how many turn red, of how many; seconds.

    A test that fails, and then fails again when it is cleaned up, counts once.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE"]
    command += ["--color=no", *(f"tests/{test}.py" for test in tests)]
    options = {"cwd": folder, "capture_output": True, "text": True, "encoding": "utf8"}
    output = subprocess.run(command, **options).stdout
    red = set(re.findall(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE))
    collected = subprocess.run([*command, "--collect-only"], **options).stdout
    all_tests = int(re.search(r"(\d+)(?:/\d+)? tests collected", collected)[1])
    return len(red), all_tests, time.monotonic() - start


def print_table(only):
    print("| day | the article is about | empty this | its tests | turn red |")
    print("| - | - | - | - | --: |")
    for day, names in ROWS.items():
        for name in names.split():
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
                failed, all_tests, seconds = run(copy, [day])
                earlier, _, _ = run(copy, DAYS[: DAYS.index(day)] if day in DAYS else DAYS[:4])
            number = day[-2:] if day in DAYS else "06"
            row = f"| {number} | {SUBJECTS[day]} | `{name}` | `{day}.py` | {failed} of {all_tests}"
            print(f"{row} |   {seconds:.0f} s, {earlier}", flush=True)


def main():
    usage = "%(prog)s NAME [--yours]\n       %(prog)s --table [NAME ...]"
    parser = argparse.ArgumentParser(usage=usage, description=__doc__.partition("\n")[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help="a function, or CLASS.FUNCTION")
    parser.add_argument("--yours", action="store_true", help="go on with what you had written")
    parser.add_argument("--table", action="store_true", help="measure the table of EXERCISES.md")
    options = parser.parse_args()
    if len(options.names) != 1 and not options.table:
        parser.error("\n".join(["one NAME, please. EXERCISES.md has these:", *ROWS.values()]))
    sys.stdout.reconfigure(errors="backslashreplace")  # a path may have any character
    try:
        _script, busy = under_way()
        if busy and (options.table or busy != options.names[0]):
            tell(f"First bring the original {busy} back, and keep yours", *THIS, busy)
            sys.exit(1)
        if options.table:
            print_table(options.names)
        else:
            follow(options.names[0], options.yours)
    except OSError as error:
        sys.exit(f"That did not work, but nothing is lost: {error}")


if __name__ == "__main__":
    main()
