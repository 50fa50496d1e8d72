"""The texts are true: the walkthrough, the tour, the commands, the numbers, and every name.

All but the walkthrough is for maintainers: who adds a message or a function while learning edits no
text.
"""

import ast
import doctest
import html
import re
from xml.etree import ElementTree

import follow
import pytest
from processes import ROOT


def read(path):
    return path.read_text(encoding="utf8")


FILES = ["README.md", "tests/README.md", "tests/EXERCISES.md", "tests/DAY07.md"]
README, REPAIRS, EXERCISES, DAY07 = TEXTS = [
    read(ROOT / file).split("\n## 繁體中文\n") for file in FILES
]
GUIDE = read(ROOT / "tests/GUIDE.md")
NODE, CLIENT = (read(ROOT / f"blockchain_{script}.py") for script in ("server", "client"))
MESSAGES_HEADING = "\n### 程式訊息的意思\n"
MESSAGES = README[1].partition(MESSAGES_HEADING)[2]
# The headings of the article that have code under them, in its order.
LISTINGS = """準備socket連線的端口 開thread監聽新連線與傳入訊息 接收訊息後處理 啟動節點 接收訊息
產生錢包地址與公私鑰 初始化交易 簽章交易 控制流程""".split()
BOTH = pytest.mark.parametrize("language", README, ids=["English", "Chinese"])


@BOTH
def test_the_walkthrough_shows_what_happens(node, run, language):
    *first, later = re.findall(r"```console\n(.*?)```", language, re.DOTALL)
    node.wait_for_blocks(6)  # sixty coins
    screen = re.search(r"```text\n\$ [^\n]*\n(.*?)\n…", language, re.DOTALL)[1]
    pattern = re.sub(r"\w+…", r"\\S+", re.escape(screen)).replace("1111", r"\d+")
    assert re.match(pattern, node.output), (pattern, node.output)
    client = run("blockchain_client.py", node.port)
    new_address = play("".join(first), client, node)
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
def test_the_tour_shows_what_happens(language):
    """It prints our own sentences, so it is for maintainers."""
    tour = doctest.DocTestParser().get_doctest(language, {}, "README", "README.md", 0)
    said = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(tour, out=said.append)
    assert result.attempted > 15
    assert result.failed == 0, "".join(said)


@BOTH
@pytest.mark.maintainers
def test_the_numbers_of_the_walkthrough_agree_and_the_commands_are_the_same(language):
    """The blocks that pay the balance, the one being mined, the one with the transaction."""
    mined = int(re.search(r"'balance': (\d{3})\}", language)[1]) // 10
    progress = r"\nBlock (\d+) @ difficulty \d: %s; \ds \(expected \ds, [\d,]+ hashes/s\)\n"
    for counted in ("0 pending, 0 in this block", "1 pending, 0 in this block"):
        assert int(re.search(progress % counted, language)[1]) == mined + 1
    assert f"\nTransactions in block {mined + 2}: 1\n" in language
    told = set(map(int, re.findall(r"(?:\b[Bb]lock |區塊 )(\d\d)\b", language)))
    assert told == {50, mined + 1, mined + 2}  # the keys are shown again after block 50
    assert re.search(rf"\b{mined} (blocks have paid|個區塊)", language)
    install = "python3 -m venv .venv && .venv/bin/python -m pip install -qr requirements.txt"
    for command in (
        f"{install} && .venv/bin/python blockchain_server.py 1111",
        f"{install} && .venv/bin/python -m pytest",
        ".venv/bin/python blockchain_client.py 1111",
        ".venv/bin/python -m pytest tests/test_day05.py",
        r".venv\Scripts\python -m pip install -qr requirements.txt",
        r".venv\Scripts\python blockchain_server.py 1111",
        r".venv\Scripts\python blockchain_client.py 1111",
    ):
        assert f"\n{command}\n" in language


@BOTH
@pytest.mark.maintainers
def test_the_pictures_are_where_they_belong(language):
    """One stands at the top, and one in the walkthrough, whose lines it shows."""
    top, *sections = re.split(r"\n##+ ", language)
    walkthrough = next(each for each in sections if each.startswith(("The walk", "實際操作")))
    for name, place, limit in ("comparison", top, 12_000), ("walkthrough", walkthrough, 20_000):
        assert place.count(f"](.github/{name}.svg)") == 1
        assert language.count(f".github/{name}.svg") == 1
        picture = (ROOT / f".github/{name}.svg").read_bytes()
        assert len(picture) < limit
        assert ElementTree.fromstring(picture).tag.endswith("svg")
    texts = re.findall(r"<text [^>]*>(.*?)</text>", picture.decode())
    shown = [html.unescape(re.sub("<[^>]*>", "", text)) for text in texts]
    walkthrough = re.search(r"\n## The walkthrough.*?\n## ", README[0], re.DOTALL)[0]
    blocks = re.findall(r"```\w+\n(.*?)```", walkthrough, re.DOTALL)
    lines = {line for block in blocks for line in block.splitlines()}
    assert len(shown) > 20
    assert [line for line in shown if line not in lines] == []


@pytest.mark.maintainers
def test_the_texts_are_short():
    """A page that grows is read by fewer."""
    prose = re.sub(r"```.*?```", "", README[0], flags=re.DOTALL)
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", prose)  # code in a line, and what links lead to
    assert len(re.findall(r"\S*[^\W\d_]\S*", prose)) <= 2000
    assert read(ROOT / "tests/README.md").count("\n") <= 450
    assert len(GUIDE) <= 10_000


@pytest.mark.maintainers
@pytest.mark.parametrize("file", [*FILES, "tests/GUIDE.md"])
def test_every_name_exists(file):
    """In each half: names of the scripts, files and tests."""
    here = ROOT / "tests/test_readme.py"
    tests = "".join(read(path) for path in (ROOT / "tests").glob("[!b]*.py") if path != here)
    elsewhere = set(
        """passed failed skipped error deselected powershell py cd fg pip
        packages eval get_block Height cryptography surrogatepass mining_rewards test123
        clone_blockchain broadcast_block broadcast_transaction receive_broadcast_block
        add_node node_address""".split()
    )
    for text in read(ROOT / file).split("\n## 繁體中文\n"):
        # What an exercise or Day 07 adds stands in its own code.
        code = NODE + CLIENT + tests + "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
        names = set(re.findall(r"`(\w*[a-z]\w*)`", text)) - elsewhere
        assert len(names) > 5
        assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []
        for name in re.findall(r"`((?:tests/)?\w+\.(?:py|txt))`", text):
            assert (ROOT / name).exists() or (ROOT / "tests" / name).exists(), name
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
        assert len(named) > 20 or file != "tests/README.md"
        gone = [test for name, test in named if f"\ndef {test}(" not in read(ROOT / "tests" / name)]
        assert gone == []


@pytest.mark.maintainers
@pytest.mark.parametrize("file", [*FILES, "tests/GUIDE.md"])
def test_every_link_leads_somewhere(file):
    for link, anchor in re.findall(r"\]\(([\w./]*)(?:#([^)]*))?\)", read(ROOT / file)):
        target = (ROOT / file).parent / link if link else ROOT / file
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", read(target), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
        assert not anchor or anchor in anchors, anchor


@pytest.mark.maintainers
@pytest.mark.parametrize("language", EXERCISES, ids=["English", "Chinese"])
def test_every_function_to_empty_exists(language):
    """`python tests/follow.py` empties each of them; its docstring stays."""
    rows = re.findall(r"^\| .* \| `([\w.]+)` \|.* `(test_\w+)\.py` \| +\d+ ", language, re.M)
    assert rows == [(name, day) for day, names in follow.ROWS.items() for name in names.split()]
    for name, _day in rows:
        script = ROOT / follow.script_of(name)
        emptied = follow.emptied(script, name).decode()
        assert emptied.count("raise NotImplementedError") == 1
        assert emptied.count('"""') == read(script).count('"""')
        assert emptied.count("\n") <= read(script).count("\n")
        ast.parse(emptied)


def messages_of(script):
    """Return all texts of a script that have a space in them, but no docstrings."""
    nodes = list(ast.walk(ast.parse(script)))
    docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
    texts = [node for node in nodes if isinstance(node, ast.Constant) and node not in docstrings]
    values = [node.value for node in texts if isinstance(node.value, str)]
    return [value for value in values if " " in value.strip()]


@pytest.mark.maintainers
def test_the_table_of_messages_is_whole():
    """It has every sentence that a script prints or answers, and no other."""
    no_message = (
        r"\d\. |\s*-----|set |Hello World!| is not Tr|A menu |A blockchain node|the port |{'res"
    )
    for text in messages_of(NODE) + messages_of(CLIENT):
        if not re.match(no_message, text):
            assert text.strip(".,; \n") in MESSAGES, text
    for message in re.findall(r"`([^`]+)`", MESSAGES):
        for piece in re.split(r"…|\d+|'…'|(?<=\.) ", message):
            if len(piece) > 14:
                assert piece.strip("s:. ") in NODE + CLIENT, piece


@pytest.mark.maintainers
def test_the_guide_begins_with_an_index_in_the_order_of_the_article():
    """Each listing of the article has a row, with functions that exist."""
    index = GUIDE.split("\n## ")[1]
    _head, _line, *rows = re.findall(r"^\| (.*) \| (.*) \| (.*) \|$", index, re.MULTILINE)
    assert [title for title, _here, _why in rows] == LISTINGS
    for title, here, why in rows:
        assert why
        names = re.findall(r"`(\w+)`", here)
        assert names, title
        for name in names:
            assert re.search(rf"^ *(def|class) {name}\b", NODE + CLIENT, re.MULTILINE), name


@pytest.mark.maintainers
def test_the_guide_has_every_function_in_the_order_of_the_code():
    entries = re.findall(r"^- ((?:`\w+`、?)+)：", GUIDE, re.MULTILINE)
    assert re.findall(r"\w+", " ".join(entries)) == [
        name
        for script in (NODE, CLIENT)
        for name in re.findall(r"^ *(?:def|class) (\w+)", script, re.MULTILINE)
    ]


@pytest.mark.maintainers
@pytest.mark.parametrize("text", TEXTS, ids=FILES)
def test_both_languages_are_whole(text):
    english, chinese = text
    same = chinese.replace(MESSAGES_HEADING + MESSAGES, "\n")
    for pattern in (r"^```\w+$", r"^##+ ", r"^\|", r"^\d+\. ", r"^ *- "):
        both = [len(re.findall(pattern, half, re.MULTILINE)) for half in (english, same)]
        assert both[0] == both[1], pattern
