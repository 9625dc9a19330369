"""Wording, held in files of `tests/golden`: what a test makes is compared with its file, or, with
`pytest --update-golden`, written into it, to be read in the diff before it is committed."""

from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).parent / "golden"
_QUESTION = "$ "


class Golden(NamedTuple):
    """The fixture `golden_file`."""

    folder: Path = FOLDER
    updates: bool = False

    def compare(self, name: str, text: str) -> None:
        """`text` is what the file holds."""
        path = self.folder / f"{name}.txt"
        if self.updates:
            path.write_text(text, "utf-8")
        held = path.read_text("utf-8")
        if text != held:
            names = (path.name, "what is said now")
            lines = unified_diff(held.splitlines(), text.splitlines(), *names, n=1, lineterm="")
            pytest.fail("\n".join((*lines, "see pytest --update-golden")), pytrace=False)

    def compare_answers(self, name: str, answer: Callable[[str], str]) -> None:
        """Each line of the file that begins with '$ ' is a question, which `answer` answers with
        the lines beneath it. New questions are written there by hand."""
        lines = (self.folder / f"{name}.txt").read_text("utf-8").splitlines()
        questions = [line[len(_QUESTION) :] for line in lines if line.startswith(_QUESTION)]
        assert questions
        entries = (f"{_QUESTION}{question}\n{answer(question)}\n" for question in questions)
        self.compare(name, "\n".join(entries))
