"""What was foretold of a suite beside what was measured: every case, failures and what was never
run included, as Markdown.

The predictions are those of the file that was written and hashed before the run.
`benchmarks.records` predicts anew, with the rules as they are now; here nothing is predicted at
all. Cases are joined by their key, so that repeats share a prediction.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any

from lora_profiler.campaign.batch_search import verdict
from lora_profiler.comparison.errors import PHASE_GROUPS, lower_bounds
from lora_profiler.harness import Case
from lora_profiler.records.record import Record
from lora_profiler.units import bytes_text, error_text
from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, setup_dict

NOT_MEASURED = "not measured"
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "full": setup_dict(TrainSetup()),
    "lora": setup_dict(TrainSetup(lora=LoraConfig())),
    "qlora": setup_dict(TrainSetup(lora=LoraConfig(), quantization=Quantization())),
}
HAPPENED = {
    "fits": "fits",
    "fits_with_retries": "fits only after giving memory back",
    "does_not_fit": "does not fit",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One case as it was foretold, and a record of it if there is one."""

    said: Mapping[str, Any]
    repeat: int
    record: Record | None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured, of the requested peak; None for a run that did not go
        through."""
        m = self.record.measurement if self.record else None
        if m is None or not m.went_through or not m.peak_requested_bytes:
            return None
        return float((self.said["peak_bytes"] - m.peak_requested_bytes) / m.peak_requested_bytes)

    @property
    def at_least(self) -> int | None:
        """What a run that ended early had reached: a whole one needs no less. Step 1 counts where
        it was the last."""
        if self.record is None or self.record.measurement.went_through:
            return None
        m, steady = (
            self.record.measurement,
            lower_bounds(self.record).get("peak_requested_bytes", 0),
        )
        return (
            max([steady, *m.phase_peak_bytes.values(), *m.step1_phase_peak_bytes.values()]) or None
        )

    @property
    def in_the_foretold_part(self) -> bool | None:
        """Whether the peak lay in the part of the step that was foretold; None where there is no
        whole peak."""
        if self.record is None or self.error is None:
            return None
        phase, moment = self.record.measurement.peak_phase, self.said["peak_moment"]
        return any(
            phase in phases and moment in moments for phases, moments in PHASE_GROUPS.values()
        )

    @property
    def fits(self) -> str | None:
        """What `batch_search` makes of a run on an emulated card; None where there was none, or it
        failed for another reason."""
        return verdict(self.record) if self.record else None


def latest(records: Iterable[Record]) -> list[Record]:
    """One of each id, as a store would keep them: one that was not interrupted, then the one that
    ended last."""
    ranked = sorted(
        records, key=lambda r: (r.measurement.status != "interrupted", r.ended_at or "")
    )
    return list({record.id: record for record in ranked}.values())


def joined(
    found: Mapping[str, Any], cases: Iterable[Case], records: Iterable[Record]
) -> Iterator[Row]:
    """Every prediction in the order of the file, a row for each repeat that `cases` ask for and
    each record that there is."""
    measured: dict[str, list[Record]] = {}
    asked: dict[str, set[int]] = {}
    for record in records:
        measured.setdefault(record.case_key, []).append(record)
    for case in cases:
        asked.setdefault(case.key, set()).add(case.repeat)
    for said in found["cases"]:
        rows = [Row(said, record.repeat, record) for record in measured.get(said["key"], ())]
        missing = asked.get(said["key"], set()) - {row.repeat for row in rows}
        rows += [Row(said, repeat, None) for repeat in missing]
        yield from sorted(rows or [Row(said, 0, None)], key=lambda row: row.repeat)


def report(
    found: Mapping[str, Any],
    cases: Iterable[Case],
    records: Iterable[Record],
    committed: datetime | None,
    problems: Sequence[str],
) -> str:
    """The whole document; `problems` are what makes the predictions no blind ones, and stand at its
    head."""
    rows = list(joined(found, cases, records))
    return "\n".join(
        [
            f"# {found['suite']}: foretold and measured",
            "",
            *_head(found, rows, committed),
            *(f"- **{problem}**" for problem in problems),
            *([""] if problems else []),
            *_summary(rows),
            *_edges(rows),
            *_cases(found, rows),
        ]
    )


def _head(
    found: Mapping[str, Any], rows: Sequence[Row], committed: datetime | None
) -> Iterator[str]:
    by, measured = found["predicted_by"], [row.record for row in rows if row.record is not None]
    yield (
        f"{len(found['cases'])} predictions by version {by['version']} (predictor"
        f" {by['source_sha256'][:12]}),"
    )
    yield (
        f"sha256 {found['sha256']},"
        f" {f'committed at {committed.isoformat()}' if committed else 'not committed as they are'}."
    )
    if not measured:
        yield from ("Nothing of it is measured.", "")
        return
    starts = [record.started_at for record in measured if record.started_at]
    yield f"{len(measured)} records, the first started at {min(starts, default='an unknown time')}:"
    yield ""
    for environment in {record.environment.key: record.environment for record in measured}.values():
        packages = ", ".join(
            f"{name} {environment.packages.get(name, '?')}"
            for name in ("torch", "transformers", "peft")
        )
        yield f"- environment {environment.key}: {environment.device.name}, {packages}"
    yield ""


# --- errors ---------------------------------------------------------------------------------------


def _summary(rows: Sequence[Row]) -> Iterator[str]:
    """By method and of all: how many, how far off on average, and the worst to either side."""
    yield from (
        "## Errors of the peak",
        "",
        "(predicted - measured) / measured, of requested bytes in the steady state.",
        "",
    )
    yield (
        "| method | went through | mean absolute | worst under | worst over | ended early | not"
        " measured |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    methods = list(dict.fromkeys(_method(row) for row in rows))
    for name, group in [
        *((m, [row for row in rows if _method(row) == m]) for m in methods),
        ("all", rows),
    ]:
        errors = [row.error for row in group if row.error is not None]
        mean = f"{fmean(map(abs, errors)):.4%}" if errors else ""
        under, over = (min(errors), max(errors)) if errors else (0.0, 0.0)
        missing = sum(row.record is None for row in group)
        early = len(group) - missing - len(errors)
        sides = [
            error_text(under) if under < 0 else "none",
            error_text(over) if over > 0 else "none",
        ]
        yield _line(name, len(errors), mean, *(sides if errors else ("", "")), early, missing)
    parts = [row.in_the_foretold_part for row in rows if row.in_the_foretold_part is not None]
    yield from (
        "",
        f"The peak lay in the foretold part of the step in {sum(parts)} of {len(parts)} records.",
        "",
    )


def _method(row: Row) -> str:
    return str(row.said["workload"]["setup"]["method"])


# --- edges ----------------------------------------------------------------------------------------


def _edges(rows: Sequence[Row]) -> Iterator[str]:
    """Batches beside the largest that an emulated card should hold: whether it was right to say
    that they fit."""
    edges = [row for row in rows if row.said["fits"] is not None]
    if not edges:
        return
    yield from (
        "## Emulated cards",
        "",
        "| card | batch | predicted peak | foretold | happened | right |",
    )
    yield "|---:|---:|---:|---|---|---|"
    for row in edges:
        budget, batch = (
            row.said["conditions"]["budget_bytes"],
            row.said["workload"]["setup"]["batch_size"],
        )
        foretold = HAPPENED["fits" if row.said["fits"] else "does_not_fit"]
        happened = HAPPENED[row.fits] if row.fits else _status(row)
        yield _line(
            bytes_text(budget),
            batch,
            bytes_text(row.said["peak_bytes"]),
            foretold,
            happened,
            _right(row),
        )
    known = [row for row in edges if row.fits]
    yield from ("", f"Right in {sum(_right(row) == 'yes' for row in known)} of {len(known)}.", "")


def _right(row: Row) -> str:
    if row.fits is None:
        return ""
    return "yes" if (row.fits == "fits") == row.said["fits"] else "no"


# --- every case -----------------------------------------------------------------------------------


def _cases(found: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    yield from ("## Every case", "")
    yield (
        "A run that ended early would have needed at least what it had reached, so that its error"
        " is at most the given one. A"
    )
    yield from ("phase that is not in the foretold part of the step is marked.", "")
    yield "| case | status | predicted | measured | error | predicted at | measured in | record |"
    yield "|---|---|---:|---:|---:|---|---|---|"
    for row in rows:
        record = f"`{row.record.id}`" if row.record else f"`{row.said['key']}`"
        measured, error, phase = _measured(row)
        marked = f"**{phase}**" if row.in_the_foretold_part is False else phase
        predicted = bytes_text(row.said["peak_bytes"])
        name = _name(row, found["cases"][0]["conditions"])
        yield _line(
            name, _status(row), predicted, measured, error, row.said["peak_moment"], marked, record
        )
    yield ""


def _measured(row: Row) -> tuple[str, str, str]:
    """The requested peak, the error and the phase of a run that went through; of another the
    bounds, and where it ended."""
    if row.record is None:
        return "", "", ""
    m = row.record.measurement
    if row.error is not None:
        return bytes_text(m.peak_requested_bytes or 0), error_text(row.error), m.peak_phase or ""
    ended = f"ended in {m.failure.phase}" if m.failure and m.failure.phase else ""
    if row.at_least is None:
        return "", "", ended
    bound = error_text((row.said["peak_bytes"] - row.at_least) / row.at_least)
    return f"at least {bytes_text(row.at_least)}", f"at most {bound}", ended


def _status(row: Row) -> str:
    return row.record.measurement.status if row.record else NOT_MEASURED


def _name(row: Row, usual: Mapping[str, Any]) -> str:
    """The model, the method and the sizes; then all that differs from what a setup, and this
    suite's conditions, are mostly."""
    setup, conditions = row.said["workload"]["setup"], row.said["conditions"]
    told = {
        "method",
        "batch_size",
        "seq_len",
        "device",
        *(("alpha",) if setup["alpha"] == 2 * (setup["rank"] or 0) else ()),
    }
    changed = {
        k: v for k, v in setup.items() if k not in told and v != DEFAULTS[setup["method"]][k]
    }
    if conditions["budget_bytes"]:
        changed["budget"] = bytes_text(conditions["budget_bytes"])
    else:
        changed |= {k: v for k, v in conditions.items() if v != usual[k]}
    parts = [
        row.said["workload"]["model"]["id"],
        setup["method"],
        f"{setup['batch_size']} x {setup['seq_len']}",
    ]
    parts += [
        f"{name} {','.join(value) if isinstance(value, list) else value}"
        for name, value in changed.items()
    ]
    return ", ".join([*parts, *([f"repeat {row.repeat}"] if row.repeat else [])])


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
