"""Does a measured peak lie in the interval that the answer states? Of every open public row.

    python -m benchmarks.peak_intervals [--write]

Each row whose model the catalogue has and whose counter is of a training's peak is asked for thrice:
with options that say what ran (`public_rows/typed.py`), as a hurried user types it with the trainer's
name, and without (`public_rows/hurried.py`). What is held against the row is the interval of that
answer alone, from `lora-profile ... --format json`; a counter of reserved bytes also counts what the
allocator loses, so that the reserve's fragmentation is added to its upper end. Prints the report;
`--write` writes it to `results/peak_intervals.md`, and every row to `results/peak_intervals.json`.
Some minutes on one core; traces nothing.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from click.testing import CliRunner

from benchmarks.pages import parser_of, tell
from benchmarks.public_rows.conditions import CARDS, NotExpressibleError
from benchmarks.public_rows.hurried import hurried
from benchmarks.public_rows.memory import GIB, READINGS, memory_rows
from benchmarks.public_rows.typed import pinned
from lora_profiler.catalog import Gpu, find_gpu
from lora_profiler.cli.main import root
from lora_profiler.planning.reserve import reserve_for

ASKED: Mapping[str, Callable[[Mapping[str, str]], Sequence[str]]] = {
    "what ran": pinned,
    "the trainer's name": lambda row: hurried(row, with_trainer=True),
    "no trainer": lambda row: hurried(row, with_trainer=False),
}
"""What the options say of the run."""
COUNTED = ("peak", "reserved")
Row = Mapping[str, Any]


@cache
def answered(words: tuple[str, ...]) -> Mapping[str, Any] | str:
    """What `lora-profile WORDS --format json` says of its one question, or its refusal."""
    run = CliRunner().invoke(root, [*words, "--offline", "--format", "json"])
    if run.exit_code:
        return str(
            run.exception
            if not run.stderr.strip()
            else run.stderr.strip().splitlines()[-1].removeprefix("Error: ")
        )
    (prediction,) = json.loads(run.stdout)["predictions"]
    return dict(prediction)


def _card(raw: Mapping[str, str]) -> Gpu:
    return find_gpu(CARDS.get(raw["gpu"], "a100_sxm_80gb"))


def outcome() -> dict[str, Any]:
    rows, refused = [], {}
    for raw in memory_rows():
        reading = READINGS.get(raw["quantity"])
        if reading not in COUNTED:
            continue
        for said, words_of in ASKED.items():
            name = f"{raw['id']} {raw['quantity']}, {said}"
            try:
                words = words_of(raw)
            except NotExpressibleError as reason:
                refused[name] = str(reason)
                continue
            answer = answered(tuple(words))
            if isinstance(answer, str) or not answer["evidence"]:
                refused[name] = answer if isinstance(answer, str) else "a lower bound"
                continue
            if answer["evidence"]["low_bytes"] is None:
                refused[name] = "no interval: what is not given is not priced for the model"
                continue
            rows.append(_row(raw, said, words, answer, is_reserved=reading == "reserved"))
    return {"rows": rows, "refused": refused}


def _row(
    raw: Mapping[str, str],
    said: str,
    words: Sequence[str],
    answer: Mapping[str, Any],
    *,
    is_reserved: bool,
) -> dict[str, Any]:
    found, measured = answer["evidence"], round(float(raw["value"]) * GIB)
    low, high = found["low_bytes"], found["high_bytes"]
    if is_reserved:
        held = sum(size for n, size in answer["persistent_bytes"].items() if n != "gradients")
        high += reserve_for(_card(raw), high, held).fragmentation_bytes
    return {
        "id": raw["id"],
        "source": raw["id"].split(":")[0],
        "reading": "reserved" if is_reserved else "peak",
        "tier": int(raw["tier"]),
        "said": said,
        "command": " ".join(words),
        "measured_bytes": measured,
        "predicted_bytes": answer["peak"]["total_bytes"],
        "low_bytes": low,
        "high_bytes": high,
        "is_inside": low <= measured <= high,
        "unknowns": [each["what"] for each in found["unknowns"]],
    }


def report(document: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = document["rows"]
    lines = [*(f"{said}: {shares(of(rows, said))}" for said in ASKED)]
    return "\n".join(lines)


def of(rows, said):
    return [r for r in rows if r["said"] == said]


def shares(rows):
    return f"{sum(r['is_inside'] for r in rows)} of {len(rows)}"


def main() -> int:
    options = parser_of(__doc__, write=False).parse_args()
    document = outcome()
    tell("peak_intervals", report(document), document, writes=options.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
