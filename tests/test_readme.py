"""The READMEs are true: the tour, the walkthrough, the commands, the numbers, and every name."""

import ast
import doctest
import re

import follow
import pytest
from processes import ROOT


def read(path):
    return path.read_text(encoding="utf8")


README, REPAIRS, EXERCISES = (
    read(ROOT / file).split("\n## 繁體中文\n")
    for file in ("README.md", "tests/README.md", "tests/EXERCISES.md")
)
SCRIPTS = read(ROOT / "blockchain_server.py") + read(ROOT / "blockchain_client.py")
MESSAGES = re.search(r"\n#### 程式訊息的意思\n(.*?)\n### ", README[1], re.DOTALL)[1]
BOTH = pytest.mark.parametrize("language", README, ids=["English", "Chinese"])


@BOTH
def test_the_tour_shows_what_happens(language):
    tour = doctest.DocTestParser().get_doctest(language, {}, "README", "README.md", 0)
    said = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(tour, out=said.append)
    assert result.attempted > 15
    assert result.failed == 0, "".join(said)


@BOTH
def test_the_walkthrough_shows_what_happens(node, run, language):
    session, later = re.findall(r"```console\n(.*?)```", language, re.DOTALL)
    node.wait_for_blocks(6)  # sixty coins
    screen = re.search(r"```text\n(.*?)\n…", language, re.DOTALL)[1]
    pattern = re.sub(r"\w+…", r"\\S+", re.escape(screen)).replace("1111", r"\d+")
    pattern = pattern.replace(r"\.venv/bin/python\ ", r"\S+\ \S+")
    assert re.match(pattern, node.output), (pattern, node.output)
    client = run("blockchain_client.py", node.port)
    new_address = play(session, client, node)
    node.wait_for(r"\nTransactions in block \d+: 1\n")
    play(later, client, node, new_address)
    assert re.findall(r"'balance': (\d+)", client.output)[-1] == "50"


def play(session, client, node, new_address=None):
    """Type what was typed in a session, and see that all of its lines come, in order."""
    for line in session.splitlines():
        prompt, typed = re.fullmatch(r"(?:(\w+): )?(.*)", line).groups()
        if line.startswith("$ "):
            continue
        if prompt and "…" not in line:
            pasted = {
                **dict.fromkeys(["<the miner's address>", "<礦工的地址>"], node.miner.address),
                **dict.fromkeys(["<the miner's private key>", "<礦工的私鑰>"], node.miner.private),
                **dict.fromkeys(["<the new address>", "<新地址>"], new_address),
            }
            client.wait_for(f"{prompt}: ")
            client.type(pasted.get(typed, typed))
        else:
            # How many coins there are depends on how many blocks there are by now.
            pattern = re.sub(r"(balance':\\ )\d+", r"\1\\d+", re.escape(line))
            match = client.wait_for(re.sub(r"[\w+/]*…", r"(\\S+)", pattern) + "\n")
            if prompt == "Address":
                new_address = match[1]
    return new_address


@BOTH
def test_the_numbers_of_the_walkthrough_agree_and_the_commands_are_the_same(language):
    """The blocks that pay the balance, the one being mined, the one with the transaction."""
    mined = int(re.search(r"'balance': (\d{3})\}", language)[1]) // 10
    progress = r"\nBlock (\d+) @ difficulty \d: \ds \(average \ds, [\d,]+ hashes/s\), "
    assert int(re.search(progress + r"0 of 0 pending\n", language)[1]) == mined + 1
    assert f"Transactions in block {mined + 2}: 1" in language
    told = set(map(int, re.findall(r"(?:\b[Bb]lock |區塊 )(\d\d)\b", language)))
    assert told == {50, mined + 1, mined + 2}  # the keys are shown again after block 50
    assert re.search(rf"\b{mined} (blocks have paid|個區塊的獎勵)", language)
    install = "python3 -m venv .venv && .venv/bin/pip install -qr requirements.txt"
    for command in (
        f"{install} && .venv/bin/python blockchain_server.py 1111",
        f"{install} && .venv/bin/python -m pytest",
        ".venv/bin/python blockchain_client.py 1111",
        ".venv/bin/python -m pytest tests/test_day05.py",
        r".venv\Scripts\pip install -qr requirements.txt",
        r".venv\Scripts\python blockchain_server.py 1111",
        r".venv\Scripts\python blockchain_client.py 1111",
    ):
        assert f"\n{command}\n" in language


@pytest.mark.parametrize("language", [*README, *REPAIRS, *EXERCISES])
def test_every_name_exists(language):
    """In the maps, the exercises, and the tables: names of the scripts, files, and tests."""
    tests = "".join(read(file) for file in (ROOT / "tests").glob("[!b]*.py"))
    elsewhere = (
        "passed failed skipped powershell py cd get_block Height cryptography surrogatepass "
    )
    elsewhere += "clone_blockchain broadcast_block broadcast_transaction receive_broadcast_block "
    elsewhere += "add_node node_address"
    names = set(re.findall(r"`(\w*[a-z]\w*)`", language)) - set(elsewhere.split())
    assert len(names) > 5
    assert [name for name in names if not re.search(rf"\b{name}\b", SCRIPTS + tests)] == []
    for file in re.findall(r"`((?:tests/)?\w+\.(?:py|txt))`", language):
        assert (ROOT / file).exists() or (ROOT / "tests" / file).exists(), file
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", language)
    assert language not in REPAIRS or len(named) > 20
    for file, test in named:
        assert f"\ndef {test}(" in read(ROOT / "tests" / file), test


@pytest.mark.parametrize("language", EXERCISES, ids=["English", "Chinese"])
def test_every_function_to_empty_exists(language, tmp_path):
    """`python tests/follow.py` empties each of them, and sees its day turn red."""
    rows = re.findall(r"^\| .* \| `([\w.]+)` \| `.+ tests/(\w+)\.py` \| +\d+ ", language, re.M)
    assert rows == [(name, day) for day, names in follow.ROWS.items() for name in names.split()]
    for name, day in rows:
        script = tmp_path / follow.script_of(day)
        script.write_text(read(ROOT / script.name), encoding="utf8")
        follow.empty(script, name)
        assert "raise NotImplementedError" in read(script)


def test_the_table_of_messages_is_whole():
    """It has every sentence that one of the scripts prints."""
    for call in ast.walk(ast.parse(SCRIPTS)):
        function = getattr(call, "func", None)  # of a call only
        name = getattr(function, "id", getattr(function, "attr", ""))
        if name in ("say", "print", "Refused", "ValueError", "exit", "ask") and call.args:
            parts = [getattr(part, "value", None) for part in ast.walk(call.args[0])]
            text = max((part.strip() for part in parts if type(part) is str), key=len, default="")
            sentence = max(text.split("\n"), key=len).strip(":!,. ")
            assert sentence in MESSAGES or sentence.partition(" ")[2] in MESSAGES, text
    for message in re.findall(r"`([^`]+)`", MESSAGES):
        for piece in re.split(r"…|\d+|'…'", message):
            if len(piece) > 14:
                assert piece.strip("s:. ") in SCRIPTS, piece


def test_both_languages_are_whole():
    for english, chinese in (README, REPAIRS, EXERCISES):
        same = chinese.replace(MESSAGES, "").replace("\n#### 程式訊息的意思\n", "")
        for pattern in (r"^```\w+$", r"^##+ ", r"^\|", r"^\d+\. ", r"^- "):
            both = [len(re.findall(pattern, half, re.MULTILINE)) for half in (english, same)]
            assert both[0] == both[1], pattern
