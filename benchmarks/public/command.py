"""Peak memory as users ask for it, against public measurements: the command itself, no replay.

    python -m benchmarks.public.command [--write]

Every graded peak of `public.accuracy` is asked for with options alone (`public/typed.py`). The
answer's peak and BLAS' workspaces, which a counter counts and an answer leaves to its reserve, are
held against the measured one, by how well the options describe the run.
Prints the report; `--write` writes it to `results/public_command.md`, and every row to
`results/public_command.json`, and what the package tells of them to
`lora_profiler/facts/evidence/data/command.json`. A minute on one core; traces nothing.
"""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import isfinite
from typing import Any, get_args

from benchmarks.pages import parser_of, read_document, table, tell
from benchmarks.public.conditions import NotExpressibleError
from benchmarks.public.grade import NOMINAL, coverage, errors_by_source, half_width, mean_and_worst
from benchmarks.public.memory import memory_rows
from benchmarks.public.packaged import command_document, of_class, write
from benchmarks.public.typed import Description, Typed, typed
from lora_profiler._common.messages import ERROR, messages_in
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.library_memory import WORKSPACES, workspace_bytes

A100 = Platform(capability=80)
"""Of every row but fsdp_qlora's RTX 3090, whose workspaces are as large."""
FIRST = ("--accumulation", "1")
"""Before the first micro-batch nothing is accumulated."""
Row = Mapping[str, Any]


@cache
def predicted(words: tuple[str, ...]) -> Mapping[str, Any] | str:
    """What `lora-profile WORDS --format json` says of its one question, or its refusal."""
    command = [
        sys.executable,
        "-m",
        "lora_profiler",
        *words,
        "--offline",
        "--full",
        "--format",
        "json",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        *_, error = messages_in(ERROR, run.stderr.splitlines())
        return error.replace("\n", "; ")
    (prediction,) = json.loads(run.stdout)["predictions"]
    found: Mapping[str, Any] = prediction
    return found


def graded_peaks() -> list[Row]:
    """What the replay is graded on, with the replay's error."""
    rows: list[Row] = read_document("public_accuracy")["rows"]
    return [row for row in rows if row["reading"] == "peak" and not row["apart"]]


def outcome() -> dict[str, Any]:
    raw = {(row["id"], row["quantity"]): row for row in memory_rows()}
    rows, refused = [], {}
    for replayed in graded_peaks():
        name = f"{replayed['id']} {replayed['quantity']}"
        try:
            question = typed(raw[replayed["id"], replayed["quantity"]])
        except NotExpressibleError as reason:
            refused[name] = str(reason)
            continue
        peak = answered(question)
        if isinstance(peak, str):
            refused[name] = peak
            continue
        rows.append(
            {
                "id": replayed["id"],
                "source": replayed["source"],
                "method": replayed["method"],
                "command": " ".join(question.words),
                "of_first_step": question.of_first_step,
                "description": question.description,
                "near": list(question.near),
                "unsaid": list(question.unsaid),
                "measured_bytes": replayed["measured_bytes"],
                "predicted_bytes": peak,
                "error": round(peak / replayed["measured_bytes"] - 1, 6),
                "replayed_error": replayed["error"],
            }
        )
    return {"rows": rows, "refused": refused}


def answered(question: Typed) -> int | str:
    """Bytes that a counter would show at the peak: what tensors ask for, of the first step by the
    answer's own moments, and BLAS' workspaces; or the refusal."""
    answer = predicted((*question.words, *(FIRST if question.of_first_step else ())))
    if isinstance(answer, str):
        return answer
    first = [each["total_bytes"] for each in answer["moments"] if each["step"] == 1]
    peak = max(first) if question.of_first_step else answer["peak"]["total_bytes"]
    return int(peak) + WORKSPACES * workspace_bytes(A100)


def report(document: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = document["rows"]
    lines = [
        "# Peak memory, as the command is typed",
        "",
        "Written by `python -m benchmarks.public.command --write`: the peaks that"
        " `python -m benchmarks.public.accuracy` replays, asked",
        "for with options alone, and two workspaces of BLAS. Errors are (predicted -"
        " measured) / measured, in %; the replay's own are of the same rows.",
        "LitGPT's longest sample is in its first batch: its rows are held to the moments of"
        f" step 1, asked with `{' '.join(FIRST)}`.",
        "",
        "Which words say a run was decided by what its source publishes: versions, kernels,"
        " methods. No constant is fitted to a row. Rules of",
        "older versions and of kernels were written after these rows had been replayed, from"
        " the sources that the replay names, and in sight",
        f"of their errors: {_most_of_one_source(rows)}.",
        "",
        *_by_description(rows),
        *_unsaid(rows),
        *_rows(rows),
        "## Refused",
        "",
        *(f"- {name}: {reason}" for name, reason in document["refused"].items()),
    ]
    return "\n".join([*lines, ""])


def _most_of_one_source(rows: Sequence[Row]) -> str:
    source, count = Counter(row["source"] for row in rows).most_common(1)[0]
    return f"{count} of the {len(rows)} rows are of {source}"


def _by_description(rows: Sequence[Row]) -> Iterator[str]:
    yield from table(
        "options describe the run | >n | >mean abs. | >worst | >nine in ten within |"
        " >replayed: mean abs. | >worst",
        (
            (description, *_of_class(of_class(rows, description)))
            for description in get_args(Description)
        ),
    )
    yield ""
    yield "Rows described exactly are among those described at least nearly. A quantile of errors"
    yield "weighs sources alike, whatever rows they have: those of one are like each other."
    yield f"Each source's rows against the errors of the others of their class, at {NOMINAL:.0%}:"
    yield ""
    for description in get_args(Description):
        own = of_class(rows, description)
        for source, share in coverage(own).items():
            if not isfinite(share["half_width"]):
                yield (
                    f"- {description}, {source}: {share['rows']} rows, and no other source to hold"
                    " them to"
                )
                continue
            yield (
                f"- {description}, {source}: {share['inside']} of {share['rows']} within"
                f" {100 * share['half_width']:.2f} %"
            )
    yield ""


def _of_class(rows: Sequence[Row]) -> tuple[object, ...]:
    if not rows:
        return 0, *"-----"
    errors, replayed = ([row[name] for row in rows] for name in ("error", "replayed_error"))
    width = f"{100 * half_width(errors_by_source(rows)):.2f}"
    return len(rows), *mean_and_worst(errors), width, *mean_and_worst(replayed)


def _unsaid(rows: Sequence[Row]) -> Iterator[str]:
    yield "## What options do not say"
    yield ""
    errors: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for what in (*row["near"], *row["unsaid"]):
            errors[what].append(row["error"])
    for what, found in errors.items():
        middle, worst = mean_and_worst(found)
        yield f"- {what}: {len(found)} rows, mean abs. {middle}, worst {worst}"
    yield ""


def _rows(rows: Sequence[Row]) -> Iterator[str]:
    yield "## Rows"
    yield ""
    yield from table("row | described | >error, % | >replayed, % | lora-profile", map(_cells, rows))
    yield ""


def _cells(row: Row) -> tuple[str, ...]:
    errors = (f"{100 * row[name]:+.2f}" for name in ("error", "replayed_error"))
    return row["id"], row["description"], *errors, row["command"]


def main() -> int:
    options = parser_of(__doc__, write=False).parse_args()
    document = outcome()
    tell("public_command", report(document), document, writes=options.write)
    if options.write:
        write("command", command_document(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
