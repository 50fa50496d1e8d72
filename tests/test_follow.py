"""follow.py loses nothing that a learner wrote, and brings the original back to the byte."""

import os
import re
import subprocess
import sys

import pytest
from processes import ROOT, posix

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
    ran = subprocess.run(command, capture_output=True, text=True)
    said = ran.stdout + ran.stderr
    assert (ran.returncode, "Traceback" in said) == (status, False), said
    return said


def test_nothing_is_lost_and_all_comes_back_to_the_byte(node):
    original, all_written = node.read_bytes(), set()
    for work in (b"first", HALF_WRITTEN):
        assert f"tests{os.sep}test_day04.py\n" in call("get_balance")
        written = node.read_bytes().replace(EMPTY, work)
        node.write_bytes(written)
        all_written.add(written)
        said = call("get_balance")
        assert node.read_bytes() == original
        kept, yours = re.search(r"index (\.follow\S+)(?:.*\n)+? +(.* --yours)\n", said).groups()
        assert (node.parent / kept).read_bytes() == written
        for _ in range(3):  # the same command again and again; it is empty at the end
            assert yours in call("get_balance")
        node.write_bytes(original)  # as git restores it
        call("get_balance")
        subprocess.run(yours, shell=True, check=True)
        assert node.read_bytes() == written
        call("get_balance")
        assert node.read_bytes() == original
    assert {file.read_bytes() for file in node.parent.glob(".follow/*")} == all_written


def test_there_is_one_function_at_a_time(node):
    call("get_balance")
    for words in ("get_hash", "ask --yours", "--table"):
        assert "follow.py get_balance\n" in call(words, status=1)
    alone = rb'def get_balance\(.*\r\n +"""[^"]*"""\r\n +' + EMPTY + rb"\r\n\r\n    def "
    assert len(re.findall(alone, node.read_bytes())) == 1


@posix
def test_a_disk_that_is_full_changes_nothing(node):
    original, command = node.read_bytes(), f"{sys.executable} tests/follow.py get_balance"
    assert subprocess.run(f"ulimit -f 8; {command}", shell=True, capture_output=True).returncode
    assert node.read_bytes() == original
    assert "is empty" in call("get_balance")


def test_it_says_in_a_sentence_what_it_cannot_do(node):
    assert "tests/follow.py get_balance --yours" in call("", status=1)
    for words in ("gone", "Block.get_hash", "get_hash --yours"):
        assert call(words, status=1).startswith("Nothing was changed")
    node.write_bytes(node.read_bytes().replace(b"def find_class(", b"def gone("))
    assert "No script has a function find_class" in call("--table find_class")
    node.write_bytes(b"pass\n(\n")
    assert call("ask", status=1).endswith("(blockchain_server.py, line 2)\n")
