"""Public threads and new users' questions as the shortest command, graded by what happened.

    python -m benchmarks.public.threads [--write]

Each row of `public_rows/threads.csv` is a thread: its address, the shortest command that asks it,
what the thread says of the outcome, and a pattern that the answer must then have. A: it has, and
nothing of the question is left. B: it has, and `missing` names what is left. C: no number, or not
what happened. Each row of `public_rows/tries.csv` is a command of a new user, in the order typed;
the question is answered where `expected` is found. Prints the page; `--write` writes it to
`results/threads.md`. Ten minutes: some models are traced.
"""

import csv
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.pages import page_of, parser_of, table, write_page

HERE = Path(__file__).parents[1] / "public_rows"
MOST_SECONDS = 600
ANSWERED = (0, 1)
"""Exit codes of an answer: it fits, or it does not."""
Row = Mapping[str, str]


def rows(name: str) -> list[Row]:
    with (HERE / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def answer(command: str) -> tuple[int, str]:
    """Exit code and text of `lora-profile COMMAND`; 124 where there is none after ten minutes."""
    words = [sys.executable, "-m", "lora_profiler", *shlex.split(command)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        return 124, "no answer in ten minutes"
    text = done.stdout if done.returncode in ANSWERED else done.stderr
    return done.returncode, text.removeprefix("error: ")


def is_answered(row: Row, code: int, text: str) -> bool:
    return code in ANSWERED and re.search(row["expected"], " ".join(text.split())) is not None


def verdict(text: str) -> str:
    """The first paragraph of an answer or a refusal."""
    lines = text.strip().partition("\n\n")[0].splitlines()
    return " ".join(" ".join(lines[:2]).split())[:140].replace("|", "/")


def threads(of: str) -> Iterator[tuple[str, ...]]:
    for row in rows("threads"):
        if row["language"] != of:
            continue
        code, text = answer(row["command"])
        grade = ("B" if row["missing"] else "A") if is_answered(row, code, text) else "C"
        name = row["thread"].removeprefix("https://github.com/")
        link = f"[{name}]({row['thread']})"
        yield link, row["outcome"], f"`{row['command']}`", verdict(text), grade, row["missing"]


def tries() -> Iterator[tuple[str, ...]]:
    for row in rows("tries"):
        code, text = answer(row["command"])
        found = "answered" if is_answered(row, code, text) else "no"
        yield row["user"], row["question"], f"`{row['command']}`", verdict(text), found


def report() -> str:
    heads = "thread | what happened | command | answer | grade | what is left of the question"
    of_language, others = list(threads("yes")), list(threads("no"))
    counts = Counter(row[4] for row in of_language)
    grades = ", ".join(f"{grade} {counts[grade]}" for grade in "ABC")
    return page_of(
        "Questions of people",
        "Written by `python -m benchmarks.public.threads --write`, offline. A: answered as it"
        " happened; B:"
        " the same, with a part left; C: no number, or not what happened.",
        f"## {len(of_language)} threads on language models: {grades}",
        table(heads, of_language),
        f"## {len(others)} threads on other models",
        table(heads, others),
        "## New users: what each typed, until the question was answered",
        table("user | question | command | answer | answered", tries()),
    )


def main() -> None:
    arguments = parser_of(__doc__, write=False).parse_args()
    text = report()
    print(text)
    if arguments.write:
        write_page("threads", text)


if __name__ == "__main__":
    main()
