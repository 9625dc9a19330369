"""What the docs say of how many public files are understood, against the pages of results."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"
GUIDE = " ".join((ROOT / "docs/guide/trainer-files.md").read_text(encoding="utf-8").split())


def rows(name: str) -> list[list[str]]:
    """Cells of the first table on a page of results, without its head."""
    lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    table = lines[first + 1 : lines.index("", first)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def said(pattern: str) -> list[int]:
    """The numbers in the guide's one sentence of that form."""
    (found,) = re.findall(pattern, GUIDE)
    return [int(n.replace(",", "")) for n in (found if isinstance(found, tuple) else (found,))]


def test_how_many_keys_and_files_are_understood() -> None:
    *every_framework, every = rows("trainer_files.md")
    files, *_, unknown, shares, complete = every[2:]
    assert said(r"over (\d+) public files") == [int(files)]
    assert said(r"(\d+) % are options or off") == [round(float(shares.partition("%")[0]))]
    assert said(r"and (\d+) is not known") == [int(unknown)]
    assert said(r"In (\d+) files nothing is missing") == [int(complete.split()[0])]
    own = [row for row in every_framework if row[0] != "unslothai/notebooks"]
    assert 3 * sum(int(row[-1].split()[0]) for row in own) >= 2 * sum(int(row[2]) for row in own)


def test_how_many_files_were_rehearsed() -> None:
    own, others = (
        {row["file"] for row in map(json.loads, path.read_text("utf-8").splitlines())}
        for path in (RESULTS / "rehearsed_frameworks.jsonl", RESULTS / "rehearsed_files.jsonl")
    )
    own = {file for file in own if file and "@" in file}  # of a repository at a commit
    assert said(r"(\d+) distinct public files") == [len(own | others)]
    assert said(r"GPU, (\d+) by their own framework") == [len(own)]
    assert said(r"(\d+) more with the same settings") == [len(others - own)]


def test_how_many_values_were_compared() -> None:
    table = [[int(n.replace(",", "")) for n in row[2:]] for row in rows("misread_keys.md")]
    files, unparsed, values, _, misread = map(sum, zip(*table, strict=True))
    assert misread == 0
    pattern = r"misread_keys.md\): (\d+) public files, .*? Of ([\d,]+) values none"
    assert said(pattern) == [files - unparsed, values]
