"""follow.py loses nothing that a learner wrote, and brings the original back to the byte."""

import os
import re
import subprocess
import sys

import follow
import pytest
from processes import ROOT

pytestmark = pytest.mark.maintainers
EMPTY = b"raise NotImplementedError"
# A region that an editor has commented out, a tab, the line end of another system, an open bracket.
HALF_WRITTEN = b"pass\r\n# balance = 0\n\tfor block in (self.chain:\n\n        return 7"


@pytest.fixture
def node(tmp_path):
    """The node's script in a copy of the project, which has the line ends of Windows."""
    (tmp_path / "tests").mkdir()
    for file in ("blockchain_server.py", "blockchain_client.py", "tests/follow.py"):
        text = (ROOT / file).read_bytes().replace(b"\r\n", b"\n")
        (tmp_path / file).write_bytes(text.replace(b"\n", b"\r\n"))
    return tmp_path / "blockchain_server.py"


def call(words, status=0):
    """Run follow.py in the copy, and return what it says."""
    command = [sys.executable, "tests/follow.py", *words.split()]
    environment = {**os.environ, "PYTHON_COLORS": "0"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = ran.stdout + ran.stderr
    assert (ran.returncode, "Traceback" in said) == (status, False), said
    return said


def write_half(script, more=b""):
    written = script.read_bytes().replace(EMPTY, HALF_WRITTEN) + more
    script.write_bytes(written)
    return written


def test_the_original_and_the_learners_come_back_to_the_byte(node, tmp_path):
    original = node.read_bytes()
    assert f"tests{os.sep}test_day04.py\n" in call("get_balance")
    assert node.read_bytes().count(EMPTY + b"\r\n") == 1
    written = write_half(node)
    said = call("get_balance")
    assert node.read_bytes() == original
    assert "other lines" not in said
    kept, yours = re.search(r"kept in (.*)\n(?:.*\n)+ +(.* --yours)\n", said).groups()
    assert (tmp_path / kept).read_bytes() == written
    for _ in range(2):  # the second time, it is there already
        subprocess.run(yours, shell=True, check=True)
        assert node.read_bytes() == written
    call("get_balance")
    assert node.read_bytes() == original


def test_the_same_command_again_and_again_loses_nothing(node):
    for work in (b"# first", b"# second"):
        call("get_balance")
        written = write_half(node, work)
        assert "other lines" in call("get_balance")
        assert "--yours" in call("get_balance")  # it is empty again
        call("get_balance --yours")
        assert node.read_bytes() == written
        call("get_balance")
    assert len(list(node.parent.glob(".follow/*"))) == 2


def test_there_is_one_function_at_a_time(node):
    call("get_balance")
    written = write_half(node)
    for words in ("get_hash", "ask --yours", "--table"):
        assert "follow.py get_balance\n" in call(words, status=1)
        assert node.read_bytes() == written


def test_a_script_that_git_has_reset_is_the_original(node):
    original = node.read_bytes()
    call("get_balance")
    node.write_bytes(original)
    assert "is empty" in call("get_hash")
    node.write_bytes(original + b"# newer")
    call("get_hash")
    call("get_hash --yours")
    assert node.read_bytes() == original + b"# newer"


@pytest.mark.parametrize(
    "words, status, says",
    [
        ("", 2, r"usage: (.|\n)*\bget_balance\b"),
        ("get_hash get_balance", 2, "usage: "),
        ("BlockChain", 1, "Nothing was changed"),
        ("Block.get_hash", 1, "Nothing was changed"),
        ("get_hash --yours", 1, "Nothing was changed"),
        ("--table find_class", 0, r"(.*\n)*No script has a function find_class"),
        ("generate_address", 0, "generate_address in blockchain_server.py is empty"),
        ("ask", 0, "ask in blockchain_client.py is empty"),
    ],
)
def test_it_says_what_it_does(node, words, status, says):
    node.write_bytes(node.read_bytes().replace(b"def find_class(", b"def gone("))
    assert re.match(says, call(words, status))
    assert (node.parent / ".follow").exists() == (says.endswith("empty"))


def test_a_script_that_is_no_python_is_named_in_one_line(node):
    node.write_bytes(b"pass\n(\n")
    said = call("get_balance", status=1)
    assert re.fullmatch(r".*: '\(' was never closed \(blockchain_server.py, line 2\)\n", said)


@pytest.mark.parametrize("writes", [0, 1], ids=["the copy", "the script"])
def test_a_disk_that_is_full_changes_nothing(node, monkeypatch, writes):
    original, room = node.read_bytes(), [None] * writes
    monkeypatch.setattr(follow, "ROOT", node.parent)
    monkeypatch.setattr(follow, "KEPT", node.parent / ".follow")
    monkeypatch.setattr(os, "fsync", lambda _file: room.pop())
    with pytest.raises(IndexError):
        follow.follow("get_balance", yours=False)
    assert node.read_bytes() == original
    assert "is empty" in call("get_balance")


@pytest.mark.parametrize(
    "name, text",
    [
        ("f", '# a\n\ndef f(): |"Doc"; return 1|\n'),
        ("f", 'def f():\n    """Doc\n    #"""\n    |# why\n\n    return 1|\n\nx = 1\n'),
        ("f", "@d\n@e\nasync def f(\n    a,\n):  # b\n    |# c\n    return [\n1]|\n# d\n"),
        ("C.f", "def f(): 1\nclass C:\n\tdef f():\n\t\t|1|\n\tx = 1\n"),
        ("g", "def f():\n  def g():\n    |1; 2  # why|\n  3\n"),
    ],
)
def test_any_function_can_be_emptied(tmp_path, name, text):
    script = tmp_path / "script.py"
    script.write_bytes(text.replace("|", "").encode())
    before, _body, behind = text.encode().split(b"|")
    assert follow.emptied(script, name) == before + EMPTY + behind
