"""Does a measured peak lie in the interval that the answer states? Every open public row.

    python -m benchmarks.public.peak_intervals [--write | --render]

Each row of a training's peak whose model the catalogue has is asked three times: with options
that say what ran (`public/typed.py`), and as a user in a hurry types it, with the trainer's
name and without (`public/hurried.py`). What is held against the row is the interval of that
answer, as `lora-profile ... --format json` states it. A counter of reserved bytes counts what the
allocator loses too: the bound on fragmentation is added to the upper end. Prints the report;
`--write` writes it to `results/peak_intervals.md`, and every row to `results/peak_intervals.json`.
Two minutes on one core; traces nothing.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from statistics import median
from typing import Any, Final

from click.testing import CliRunner

from benchmarks.pages import page_of, table
from benchmarks.public.conditions import CARDS, NotExpressibleError
from benchmarks.public.grade import SAID, binomial_interval, headline, width_of
from benchmarks.public.hurried import hurried
from benchmarks.public.memory import GIB, READINGS, memory_rows
from benchmarks.public.typed import pinned
from benchmarks.runner import once
from lora_profiler.cli.main import root
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.facts.evidence import command_shares
from lora_profiler.planning.reserve import reserve_for

Row = Mapping[str, Any]
ASKED: Final[Mapping[str, Callable[[Mapping[str, str]], Sequence[str]]]] = {
    SAID: pinned,
    "the trainer's name": lambda row: hurried(row, with_trainer=True),
    "no trainer": lambda row: hurried(row, with_trainer=False),
}
"""What the options of a question say of the run."""


@cache
def answered(words: tuple[str, ...]) -> Mapping[str, Any] | str:
    """What `lora-profile WORDS --format json` says of its one question, or its refusal."""
    run = CliRunner().invoke(root, [*words, "--offline", "--full", "--format", "json"])
    if run.exit_code:
        lines = run.stderr.strip().splitlines() or [repr(run.exception)]
        return lines[-1].removeprefix("Error: ")
    (prediction,) = json.loads(run.stdout)["predictions"]
    found: Mapping[str, Any] = prediction
    return found


def outcome() -> dict[str, Any]:
    rows, left_out = [], {}
    for raw in memory_rows():
        reading = READINGS.get(raw["quantity"])
        if reading not in ("peak", "reserved"):
            continue
        for said, words_of in ASKED.items():
            name = f"{raw['id']} {raw['quantity']}, {said}"
            try:
                words = tuple(words_of(raw))
            except NotExpressibleError as reason:
                left_out[name] = str(reason)
                continue
            answer = answered(words)
            if isinstance(answer, str):
                left_out[name] = answer
            elif not answer["evidence"]:
                left_out[name] = "the answer is a lower bound"
            elif answer["evidence"]["low_bytes"] is None:
                left_out[name] = "the answer says that it knows no interval"
            else:
                rows.append(_row(raw, said, words, answer))
    return {"rows": rows, "left_out": left_out}


def _row(
    raw: Mapping[str, str], said: str, words: Sequence[str], answer: Mapping[str, Any]
) -> dict[str, Any]:
    evidence, measured = answer["evidence"], round(float(raw["value"]) * GIB)
    low, high = evidence["low_bytes"], evidence["high_bytes"]
    reading, source = READINGS[raw["quantity"]], raw["id"].partition(":")[0]
    lost = 0
    if reading == "reserved":
        held = sum(size for n, size in answer["persistent_bytes"].items() if n != "gradients")
        lost = reserve_for(find_gpu(CARDS[raw["gpu"]]), high, held).fragmentation_bytes
    return {
        "id": raw["id"],
        "source": source,
        "reading": reading,
        "said": said,
        "command": " ".join(words),
        "measured_bytes": measured,
        "predicted_bytes": answer["peak"]["total_bytes"],
        "low_bytes": low,
        "high_bytes": high + lost,
        "is_inside": low <= measured <= high + lost,
        "is_inside_held_out": _is_inside_held_out(measured, low, high, lost, evidence, source),
        "unknowns": [each["what"] for each in evidence["unknowns"]],
    }


def _is_inside_held_out(
    measured: int, low: int, high: int, lost: int, evidence: Mapping[str, Any], source: str
) -> bool:
    """With the error of described rows taken from all sources but the row's own, where there are
    others."""
    share = command_shares()[evidence["described"]].by_source.get(source)
    width: float = evidence["half_width"]
    if share is None:
        return low <= measured <= high + lost
    other = width - command_shares()[evidence["described"]].half_width + share.half_width
    return low * (1 + width) / (1 + other) <= measured <= high * (1 - width) / (1 - other) + lost


# --- the page -------------------------------------------------------------------------------------


def of(rows: Sequence[Row], said: str, reading: str) -> list[Row]:
    return [row for row in rows if (row["said"], row["reading"]) == (said, reading)]


def report(document: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = document["rows"]
    return page_of(
        "Does a measured peak lie in the answer's interval?",
        "Written by `python -m benchmarks.public.peak_intervals --write`. The interval is stated"
        " for nine"
        " in ten. It covers every value that the question leaves open, each predicted anew, and at"
        " either end the error of public runs that options describe; no width is fitted to a row."
        " The values come from trainers' and libraries' sources and from how their guides set"
        " them. They were declared, and one cause after the other added, in sight of these rows:"
        " how many lie inside is a check of the sources read, not a promise for other runs. What is"
        " taken of the rows' own errors is that one error, and the last column but one leaves the"
        " row's own source out of it.",
        headline(rows),
        table(
            "the options say | counter | >rows | >inside | >95 % interval of the share"
            " | >inside, own source left out | >median width",
            (
                (said, reading, *_shares(found))
                for reading in ("peak", "reserved")
                for said in ASKED
                if (found := of(rows, said, reading))
            ),
        ),
        "## By what the answer itself says",
        table(
            "the answer names | >rows | >inside | >95 % interval of the share"
            " | >inside, own source left out | >median width",
            (
                (what, *_shares([row for row in rows if bool(row["unknowns"]) is is_open]))
                for what, is_open in (("nothing unknown", False), ("something unknown", True))
            ),
        ),
        "## By source, allocated peaks",
        table("source | the options say | >inside | >median width", _by_source(rows)),
        "## Outside",
        table(
            "row | the options say | >measured, GiB | >predicted | >interval | named as unknown",
            (_outside(row) for row in rows if not row["is_inside"]),
        ),
        "## Left out",
        [f"- {n} questions: {reason}" for reason, n in _reasons(document["left_out"])],
    )


def _shares(rows: Sequence[Row]) -> tuple[object, ...]:
    if not rows:
        return 0, *"----"
    inside, held_out = (
        sum(row[name] for row in rows) for name in ("is_inside", "is_inside_held_out")
    )
    low, high = binomial_interval(inside, len(rows))
    share = f"{100 * low:.0f} to {100 * high:.0f} %"
    return len(rows), inside, share, held_out, f"{median(map(width_of, rows)):.0%}"


def _by_source(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["reading"] == "peak":
            found[row["source"], row["said"]].append(row)
    for (source, said), each in sorted(found.items()):
        inside = f"{sum(row['is_inside'] for row in each)} of {len(each)}"
        yield source, said, inside, f"{median(map(width_of, each)):.0%}"


def _outside(row: Row) -> tuple[str, ...]:
    sizes = (row[f"{name}_bytes"] / GIB for name in ("measured", "predicted", "low", "high"))
    measured, predicted, low, high = (f"{size:.2f}" for size in sizes)
    unknown = ", ".join(row["unknowns"]) or "-"
    return row["id"], row["said"], measured, predicted, f"{low} to {high}", unknown


def _reasons(left_out: Mapping[str, str]) -> list[tuple[str, int]]:
    return Counter(left_out.values()).most_common()


if __name__ == "__main__":
    once(__doc__, "peak_intervals", outcome, report)
