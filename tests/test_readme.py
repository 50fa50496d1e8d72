"""The READMEs are true: the tour, the walkthrough, the commands, the numbers, and every name.

Most of it is for maintainers: who adds a message or a function while learning edits no text.
"""

import ast
import doctest
import html
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
NODE, CLIENT = (read(ROOT / f"blockchain_{script}.py") for script in ("server", "client"))
MESSAGES_HEADING, GUIDE_HEADING = "\n### 程式訊息的意思\n", "\n### 導讀\n"
MESSAGES = README[1].partition(MESSAGES_HEADING)[2]
GUIDE = re.search(rf"{GUIDE_HEADING}(.*?)\n### ", REPAIRS[1], re.DOTALL)[1]
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
    screen = re.search(r"```text\n\$ [^\n]*\n(.*?)\n…", language, re.DOTALL)[1]
    pattern = re.sub(r"\w+…", r"\\S+", re.escape(screen)).replace("1111", r"\d+")
    pattern = pattern.replace(r"type:\ \.venv/bin/python\ blockchain_client\.py", "type: .+")
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
@pytest.mark.maintainers
def test_the_numbers_of_the_walkthrough_agree_and_the_commands_are_the_same(language):
    """The blocks that pay the balance, the one being mined, the one with the transaction."""
    mined = int(re.search(r"'balance': (\d{3})\}", language)[1]) // 10
    progress = r"\nBlock (\d+) @ difficulty \d: %s; \ds \(average \ds, [\d,]+ hashes/s\)\n"
    for counted in ("0 pending, 0 in this block", "1 pending, 0 in this block"):
        assert int(re.search(progress % counted, language)[1]) == mined + 1
    assert f"\nTransactions in block {mined + 2}: 1\n" in language
    told = set(map(int, re.findall(r"(?:\b[Bb]lock |區塊 )(\d\d)\b", language)))
    assert told == {50, mined + 1, mined + 2}  # the keys are shown again after block 50
    assert re.search(rf"\b{mined} (blocks have paid|個區塊)", language)
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


@pytest.mark.maintainers
def test_the_picture_shows_lines_of_the_walkthrough():
    picture = read(ROOT / ".github/walkthrough.svg")
    assert len(picture.encode()) < 20_000
    walkthrough = re.search(r"\n## The walkthrough.*?\n## ", README[0], re.DOTALL)[0]
    blocks = re.findall(r"```\w+\n(.*?)```", walkthrough, re.DOTALL)
    lines = {line for block in blocks for line in block.splitlines()}
    texts = re.findall(r"<text [^>]*>(.*?)</text>", picture)
    shown = [html.unescape(re.sub("<[^>]*>", "", text)) for text in texts]
    assert len(shown) > 20
    assert [line for line in shown if line not in lines] == []
    assert all("(.github/walkthrough.svg)" in language for language in README)


@pytest.mark.maintainers
@pytest.mark.parametrize("language", [*README, *REPAIRS, *EXERCISES])
def test_every_name_exists(language):
    """In the maps, the exercises, and the tables: names of the scripts, files, and tests."""
    tests = "".join(read(file) for file in (ROOT / "tests").glob("[!b]*.py"))
    elsewhere = (
        "passed failed skipped powershell py cd get_block Height cryptography surrogatepass "
    )
    elsewhere += "clone_blockchain broadcast_block broadcast_transaction receive_broadcast_block "
    elsewhere += "add_node node_address faulthandler maintainers error deselected"
    names = set(re.findall(r"`(\w*[a-z]\w*)`", language)) - set(elsewhere.split())
    assert len(names) > 5
    assert [name for name in names if not re.search(rf"\b{name}\b", NODE + CLIENT + tests)] == []
    for file in re.findall(r"`((?:tests/)?\w+\.(?:py|txt))`", language):
        assert (ROOT / file).exists() or (ROOT / "tests" / file).exists(), file
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", language)
    assert language not in REPAIRS or len(named) > 20
    for file, test in named:
        assert f"\ndef {test}(" in read(ROOT / "tests" / file), test


@pytest.mark.maintainers
@pytest.mark.parametrize("language", EXERCISES, ids=["English", "Chinese"])
def test_every_function_to_empty_exists(language, tmp_path):
    """`python tests/follow.py` empties each of them, and sees its day turn red."""
    rows = re.findall(r"^\| .* \| `([\w.]+)` \|.* `(test_\w+)\.py` \| +\d+ ", language, re.M)
    assert rows == [(name, day) for day, names in follow.ROWS.items() for name in names.split()]
    for name, _day in rows:
        script = tmp_path / follow.script_of(name)
        text = read(ROOT / script.name)
        script.write_text(text, encoding="utf8")
        body = follow.empty(script, name)
        emptied = read(script)
        assert emptied.count("raise NotImplementedError\n") == 1
        assert text.count("\n") - emptied.count("\n") == body.count("\n") - 1
        assert follow.replace_body(script, name, body).strip() == "raise NotImplementedError"
        assert read(script) == text


@pytest.mark.maintainers
def test_the_table_of_messages_is_whole():
    """It has every sentence that one of the scripts prints."""
    for call in ast.walk(ast.parse(NODE + CLIENT)):
        function = getattr(call, "func", None)  # of a call only
        name = getattr(function, "id", getattr(function, "attr", ""))
        printing = "say print Refused ValueError exit ask BackToMenu"
        if name in printing.split() and call.args:
            parts = [getattr(part, "value", None) for part in ast.walk(call.args[0])]
            text = max((part.strip() for part in parts if type(part) is str), key=len, default="")
            sentence = max(text.split("\n"), key=len).strip("{}:!,. ")
            assert sentence in MESSAGES or sentence.partition(" ")[2] in MESSAGES, text
    for message in re.findall(r"`([^`]+)`", MESSAGES):
        for piece in re.split(r"…|\d+|'…'", message):
            if len(piece) > 14:
                assert piece.strip("s:. ") in NODE + CLIENT, piece


@pytest.mark.maintainers
def test_the_guide_has_every_function_in_the_order_of_the_code():
    named = re.findall(r"`(\w+)`", GUIDE)
    place = 0
    for script in (NODE, CLIENT):
        for name in re.findall(r"^ *(?:def|class) (\w+)", script, re.MULTILINE):
            assert name in named[place:], f"{name} is missing, or too early"
            place += named[place:].index(name)
    assert len(GUIDE) <= 9000


@pytest.mark.maintainers
def test_both_languages_are_whole():
    for english, chinese in (README, REPAIRS, EXERCISES):
        same = chinese.replace(MESSAGES_HEADING + MESSAGES, "\n")
        same = same.replace(GUIDE_HEADING + GUIDE, "\n")
        for pattern in (r"^```\w+$", r"^##+ ", r"^\|", r"^\d+\. ", r"^ *- "):
            both = [len(re.findall(pattern, half, re.MULTILINE)) for half in (english, same)]
            assert both[0] == both[1], pattern
