"""The page of every combination is what the tool says today."""

import re

from benchmarks.truth import combinations


def test_the_page_is_up_to_date_and_has_no_empty_cell():
    page = combinations.PAGE.read_text("utf-8")
    assert page == combinations.page(), "python -m benchmarks.truth.combinations"
    _, _, answered = page.partition("## What is answered of each method")
    rows = re.findall(r"^\| `.*$", answered, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(combinations.OPTIMIZERS * len(combinations.WAYS))
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert len(cells) == len(combinations.SHARDINGS)
        assert all(
            re.fullmatch(r"exact(, \d+)?|(trace|estimate|refused) \[\d+\]", c) for c in cells
        )


def test_a_reason_stands_for_every_number():
    page = combinations.PAGE.read_text("utf-8")
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", page)}
    listed = {int(number) for number in re.findall(r"^(\d+)\. \S", page, re.MULTILINE)}
    assert numbers == listed
