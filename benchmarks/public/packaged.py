"""What comes with the package of the public rows: `lora_profiler/facts/evidence/data`, from the
results that are committed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, get_args

from benchmarks.pages import write_json
from benchmarks.public.address import address
from benchmarks.public.conditions import CARDS
from benchmarks.public.grade import NOMINAL, coverage, errors_by_source, half_width, intervals
from benchmarks.public.memory import memory_row, memory_rows
from benchmarks.public.misses import MEMORY_MISSES, STEP_MISSES
from benchmarks.public.replay import replay_of, throughput_rows
from benchmarks.public.typed import Description
from lora_profiler.facts.evidence.documents import Unexpressed

DATA = Path(__file__).parents[2] / "lora_profiler" / "evidence" / "data"
OWN = {"stabilityai/stablelm-base-alpha-3b": ("gpt_neox", 3_637_321_728)}
"""Models whose layers are LitGPT's own, and not those of the workload that asks about them:
model_type in their config.json, and the parameters of the replayed model."""


def write(kind: str, document: Mapping[str, Any]) -> None:
    write_json(DATA / f"{kind}.json", document)


def memory_document(results: Mapping[str, Any]) -> dict[str, Any]:
    """`memory.json`, as `lora_profiler.facts.evidence` reads it, from
    `results/public_accuracy.json`."""
    raw = {(row["id"], row["quantity"]): row for row in memory_rows()}
    rows: Sequence[Mapping[str, Any]] = results["rows"]
    return {
        "interval": _interval(rows),
        "rows": [_memory(row, raw[row["id"], row["quantity"]]) for row in rows],
        "left_out": _left_out(results["left_out"]),
    }


def _memory(row: Mapping[str, Any], raw: Mapping[str, str]) -> dict[str, Any]:
    workload = memory_row(raw).workload
    model = workload.model
    model_type, parameters = OWN.get(row["model"], (model.model_type, model.num_parameters))
    same = (
        "id", "source", "model", "method", "batch_size", "seq_len", "cards", "reading", "stack",
        "tier", "measured_bytes", "predicted_bytes", "apart",
    )  # fmt: skip
    return {
        **{name: row[name] for name in same},
        "model_type": model_type,
        "parameters": parameters,
        "checkpointing": workload.setup.checkpointing,
        "card": CARDS[row["card"]],
        "why": MEMORY_MISSES.get(row["id"], "") if row["reading"] == "peak" else "",
        "url": address(row["published"]),
    }


def _interval(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of peaks alone: what is allocated between steps is easier to tell."""
    peaks = [row for row in rows if row["reading"] == "peak"]
    found = intervals(peaks)
    low, high = found["binomial"]
    return {
        "nominal": NOMINAL,
        "half_width": found["half_width"],
        "rows": found["rows"],
        "inside": found["inside"],
        "low": round(low, 4),
        "high": round(high, 4),
        "worst": max((row["error"] for row in peaks if not row["apart"]), key=abs),
        "by_source": found["by_source"],
    }


def command_document(results: Mapping[str, Any]) -> dict[str, Any]:
    """`command.json`, likewise, from `results/public_command.json`."""
    described = {what: of_class(results["rows"], what) for what in get_args(Description)}
    return {"by_description": {what: _command(rows) for what, rows in described.items() if rows}}


def of_class(
    rows: Sequence[Mapping[str, Any]], description: Description
) -> list[Mapping[str, Any]]:
    """Rows described so; what is described exactly is described nearly, too."""
    among = ("exactly", "nearly") if description == "nearly" else (description,)
    return [row for row in rows if row["description"] in among]


def _command(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    errors = [row["error"] for row in rows]
    covered = {s: found for s, found in coverage(rows).items() if isfinite(found["half_width"])}
    return {
        "rows": len(rows),
        "half_width": half_width(errors_by_source(rows)),
        "worst": max(errors, key=abs),
        "inside": sum(each["inside"] for each in covered.values()),
        "by_source": covered,
    }


def step_document(results: Mapping[str, Any]) -> dict[str, Any]:
    """`steps.json`, likewise, from `results/step_time.json`."""
    raw = {row["id"]: row for row in throughput_rows()}
    rows = [_step(row, raw[row["id"]]) for row in results["rows"]]
    return {"rows": rows, "left_out": _left_out(results["left_out"])}


_LEFT_OUT = {
    "model": "error_model_left_out",
    "card": "error_card_left_out",
    "all": "error_by_nearest_constants",
}


def _step(row: Mapping[str, Any], raw: Mapping[str, str]) -> dict[str, Any]:
    workload = replay_of(raw).workload
    left_out = next(what for what, name in _LEFT_OUT.items() if row[name] is not None)
    return {
        **{
            name: row[name]
            for name in ("id", "source", "model", "method", "card", "measured_seconds")
        },
        "parameters": workload.model.num_parameters,
        "tokens": workload.setup.batch_size * workload.setup.seq_len * workload.setup.accumulation,
        "error": row[_LEFT_OUT[left_out]],
        "left_out": left_out,
        "why": STEP_MISSES.get(row["id"], ""),
        "url": address(raw["source"]),
    }


def _left_out(reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    ids: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        ids[reason].append(name)
    return [
        Unexpressed(reason=reason, rows=len(found), example=found[0])._asdict()
        for reason, found in ids.items()
    ]
