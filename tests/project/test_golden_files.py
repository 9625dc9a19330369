"""Files of wording: a change is seen, an update is written, and none is left that nobody compares."""

import re
from pathlib import Path

import pytest

from golden_files import FOLDER, Golden


def test_a_change_is_seen_and_an_update_written(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("$ one\nold\n\n$ two\n2\n")
    answers = {"one": "1", "two": "2"}
    with pytest.raises(pytest.fail.Exception, match=r"(?s)-old\n\+1\n.*see pytest --update-golden"):
        Golden(tmp_path).compare_answers("words", answers.__getitem__)
    Golden(tmp_path, updates=True).compare_answers("words", answers.__getitem__)
    assert path.read_text() == "$ one\n1\n\n$ two\n2\n"
    Golden(tmp_path).compare_answers("words", answers.__getitem__)


def test_each_is_compared_by_some_test() -> None:
    tests = "".join(path.read_text() for path in FOLDER.parent.rglob("test_*.py"))
    for path in FOLDER.glob("*.txt"):
        assert f'"{path.stem}"' in tests
        assert not re.search(r"/(tmp|home|root|work|Users)/", path.read_text())
