"""Every estimator of fine-tuning memory on the same public rows, ourselves among them.

    python -m benchmarks.public.league [--write | --own | --render] [--only TEXT] [--work FOLDER]

Each estimator of `rivals.py` is installed with pip into an environment of its own, and asked by its
own code (`ask/`) about every peak of `questions.py`; our command as a user types it, and the replay
of the libraries that ran, are columns beside them. Prints the report; `--write` writes it to
`results/league.md`, everything to `results/league.json`, and the page to `docs/league.md`. `--own`
asks our columns alone, without a network, and writes all with the others' answers as they were;
`--render` asks nobody, and writes the texts anew. `--only` asks estimators whose names contain it,
and writes nothing; environments are kept in `--work`. Minutes; to install the thirteen
environments, five of them with torch, takes pip a quarter of an hour or more, once. Needs the test
extra and, to install, a network.
"""

import platform
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.pages import parser_of, read_document, write_document, write_page
from benchmarks.public.league.environments import WORK, answers, installed, python_of
from benchmarks.public.league.ours import COMMAND, REPLAY, command_answers, replay_answers
from benchmarks.public.league.questions import Question, never_asked, questions
from benchmarks.public.league.report import page, report
from benchmarks.public.league.rivals import LOOKED_AT, RIVALS

PAGE = Path(__file__).parents[3] / "docs" / "league.md"


def outcome(only: str, work: Path) -> dict[str, Any]:
    asked = questions()
    seconds = 0.0
    rivals, columns = [], {}
    for rival in RIVALS:
        if only.casefold() not in rival.name.casefold():
            continue
        start = time.monotonic()
        python = python_of(rival, work)
        ready = time.monotonic()
        columns[rival.name] = answers(rival, python, asked)
        seconds += time.monotonic() - ready
        said = f"{ready - start:.0f} s of pip, {time.monotonic() - ready:.0f} s of asking"
        print(f"{rival.name}: {said}", file=sys.stderr)
        rivals.append(
            {
                "name": rival.name,
                "requirement": rival.requirement,
                "url": rival.url,
                "installed": installed(python),
                "total": rival.total,
                "mapping": rival.mapping,
                "lacks": list(rival.lacks),
                "losses": list(rival.losses),
                "calibrated": rival.calibrated,
            }
        )
    start = time.monotonic()
    columns |= own_columns(asked)
    seconds += time.monotonic() - start
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in never_asked():
        reasons[reason].append(name)
    return {
        "versions": {
            "python": platform.python_version(),
            "lora-profiler": version("lora-profiler"),
        },
        "asking_seconds": round(seconds),
        "rivals": rivals,
        "rows": [
            row_of(question, {name: found[number] for name, found in columns.items()})
            for number, question in enumerate(asked)
        ],
        "unasked": [
            {"reason": reason, "rows": len(names), "example": names[0]}
            for reason, names in reasons.items()
        ],
        "looked_at": LOOKED_AT,
    }


def own_columns(asked: list[Question]) -> dict[str, list[dict[str, Any]]]:
    return {COMMAND: command_answers(asked), REPLAY: replay_answers(asked)}


def with_own(document: dict[str, Any]) -> dict[str, Any]:
    """The document with our columns asked anew. Its rows are the questions of today."""
    asked = questions()
    own = own_columns(asked)
    rows = [
        row_of(question, row["answers"] | {name: found[number] for name, found in own.items()})
        for number, (question, row) in enumerate(zip(asked, document["rows"], strict=True))
    ]
    return {**document, "rows": rows}


def row_of(question: Question, found: dict[str, Any]) -> dict[str, Any]:
    same = (
        "id", "quantity", "source", "url", "tier", "apart", "stack", "is_plain", "loss", "model",
        "method", "batch_size", "seq_len", "cards", "sharding", "measured_bytes",
    )  # fmt: skip
    return {**{name: getattr(question, name) for name in same}, "answers": found}


def main() -> int:
    parser = parser_of(__doc__, write=False, own=False, render=False, only="", work=WORK)
    options = parser.parse_args()
    if options.only and (options.write or options.own or options.render):
        parser.error("--only writes nothing")
    if options.own or options.render:
        document = read_document("league")
        document = with_own(document) if options.own else document
    else:
        document = outcome(options.only, options.work)
    text = report(document)
    print(text)
    if options.write or options.own:
        write_document("league", document)
    if options.write or options.own or options.render:
        write_page("league", text)
        PAGE.write_text(page(document), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
