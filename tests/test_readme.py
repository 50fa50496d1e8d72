"""The README is true: its tour, its walkthrough, its commands, and the tests that it names."""

import doctest
import re

import pytest
from processes import ROOT, WINDOW, posix

README = (ROOT / "README.md").read_text(encoding="utf8")
REPAIRS = (ROOT / "tests" / "README.md").read_text(encoding="utf8")
SCRIPTS = "".join((ROOT / f"blockchain_{half}.py").read_text() for half in ("server", "client"))
LANGUAGES = README.split("\n## 繁體中文\n")
BOTH = pytest.mark.parametrize("language", LANGUAGES, ids=["English", "Chinese"])


@BOTH
def test_the_tour_shows_what_happens(language):
    tour = doctest.DocTestParser().get_doctest(language, {}, "README", "README.md", 0)
    said = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(tour, out=said.append)
    assert result.attempted > 15
    assert result.failed == 0, "".join(said)


@BOTH
@posix
def test_the_walkthrough_shows_what_happens(node, run, language):
    session, later = re.findall(r"```console\n(.*?)```", language, re.DOTALL)
    node.wait_for_blocks(6)  # sixty coins
    client = run("blockchain_client.py", node.port, window=WINDOW)
    new_address = play(session, client, node)
    node.skip()
    node.wait_for_blocks(2)
    play(later, client, node, new_address)
    assert re.findall(r"'balance': (\d+)", client.output)[-1] == "50"


def play(session, client, node, new_address=None):
    """Type what was typed in a session, and see that all of its lines come, in order."""
    first, *lines = session.splitlines()
    if not first.startswith("$ "):
        lines.insert(0, first)
    for line in lines:
        prompt, typed = re.fullmatch(r"(?:(\w+): )?(.*)", line).groups()
        if prompt and "…" not in line:
            pasted = {
                "<the miner's address>": node.miner.address,
                "<礦工的地址>": node.miner.address,
                "<the miner's private key>": node.miner.private,
                "<礦工的私鑰>": node.miner.private,
                "<the new address>": new_address,
                "<新地址>": new_address,
            }
            client.wait_for(f"{prompt}: ")
            client.type(pasted.get(typed, typed))
        else:
            # How many coins there are depends on how many blocks there are by now.
            pattern = re.sub(r"(balance':\\ )\d+", r"\1\\d+", re.escape(line))
            pattern = re.sub(r"[\w+/]*…", r"(\\S+)", pattern)
            match = client.wait_for(pattern + "\n")
            if prompt == "Address":
                new_address = match[1]
    return new_address


@BOTH
def test_the_commands_are_the_same_wherever_they_stand(language):
    for command in (
        "python3 -m venv .venv && .venv/bin/pip install -qr requirements.txt"
        " && .venv/bin/python blockchain_server.py 1111",
        "python3 -m venv .venv && .venv/bin/pip install -qr requirements.txt"
        " && .venv/bin/python -m pytest",
        ".venv/bin/python blockchain_client.py 1111",
        ".venv/bin/python -m pytest tests/test_day05.py",
        r".venv\Scripts\python blockchain_client.py 1111",
    ):
        assert f"\n{command}\n" in language


@pytest.mark.parametrize("language", REPAIRS.split("\n## 繁體中文\n"), ids=["English", "Chinese"])
def test_every_repair_names_a_test_that_exists(language):
    repairs = re.findall(r"`(test_\w+\.py)::(test_\w+)`", language)
    assert len(repairs) > 20
    for file, test in repairs:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(encoding="utf8"), test


@BOTH
def test_every_file_and_name_in_the_map_exists(language):
    files = set(re.findall(r"`(tests/\w+\.py)`", language))
    assert files >= {f"tests/test_day0{day}.py" for day in range(2, 7)}
    assert all((ROOT / file).exists() for file in files)
    rows = re.findall(r"^\| (?:Day )?0\d \|.*\|$", language, re.MULTILINE)
    assert len(rows) >= 6
    for row in rows:
        for name in re.findall(r"`(\w+)`", row):
            assert re.search(rf"(def|class) {name}\b", SCRIPTS), name


@BOTH
def test_the_exercises_name_places_that_exist(language):
    _, exercises = re.split(r"\n##+ (?:Exercises|練習)\n", language)
    exercises = exercises.split("\n## ")[0].split("\n### ")[0]
    names = set(re.findall(r"`(\w+)`", exercises)) - {"get_block"}  # that is yet to be written
    assert len(names) > 20
    for name in names:
        assert re.search(rf"(def|class) {name}\b|self\.{name}\b|^{name} = ", SCRIPTS, re.M), name


def test_both_languages_are_whole():
    fences, headings = [
        [len(re.findall(pattern, language, re.MULTILINE)) for language in LANGUAGES]
        for pattern in (r"^```\w+$", r"^##+ ")
    ]
    assert fences[0] == fences[1]
    assert abs(headings[0] - headings[1]) <= 1  # the Chinese half explains the messages, too
