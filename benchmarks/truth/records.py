"""The predictions held against every committed record: errors per metric and category, and a reason
for each one over 1 %.

    python -m benchmarks.truth.records [--traced]

Seconds, without torch; ends with 1 if a miss has no reason. Writes `results/records.md` and
`results/records.json` from `records/*/*.jsonl`. Nothing derived is stored in a record: a better
rule scores all of them again. --traced predicts each a second time, by a profile compiled for its
device, some seconds each with the test extra, and writes `results/traced_records.md` instead.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.own_rows import own_document, write_rows
from benchmarks.pages import page_of, parser_of, table, write_document, write_page
from lora_profiler.facts.evidence import OwnRow
from lora_profiler.measuring.records.load import read_records
from lora_profiler.measuring.records.record import Record
from lora_profiler.memory.prediction import Prediction
from lora_profiler.report.measured.measurements import setting
from lora_profiler.runs.comparison.errors import (
    Comparison,
    ErrorSummary,
    Scored,
    compare,
    misses,
    scored,
    summary,
)
from lora_profiler.units import error_text

RECORDS = Path(__file__).parents[1] / "records"
SCALAR_BYTES = 64


def scored_records(folder: Path) -> list[Scored]:
    """Those that went through, held against the rules."""
    through = [
        r
        for path in sorted(folder.glob("*.jsonl"))
        for r in read_records(path).records
        if r.measurement.went_through
    ]
    return scored(through, "analytic")


def prediction_of(s: Scored) -> Prediction:
    assert s.prediction is not None, s.refusal
    return s.prediction


# --- why a figure misses --------------------------------------------------------------------------


IN_PEAK = ("peak_requested_bytes", "peak_allocated_bytes", "attribution_bytes", "phase_peak_bytes")
PHASE_PEAKS = ("phase_peak_bytes", "step1_phase_peak_bytes")


def _scalars(c: Comparison, s: Scored) -> bool:
    return abs(c.predicted - c.measured) <= SCALAR_BYTES


def _inside_layers(c: Comparison, s: Scored) -> bool:
    """Only where the answer says estimate, and within the bound that it states."""
    peak = s.record.measurement.peak_requested_bytes
    bound = prediction_of(s).error_bound
    return bool(
        peak and bound and c.metric in IN_PEAK and abs(c.predicted - c.measured) <= bound * peak
    )


def _another_instant(c: Comparison, s: Scored) -> bool:
    """The sum is within the stated bound; what it is made of is told of an instant that is nearly
    as large."""
    peak = s.record.measurement.peak_requested_bytes
    bound = prediction_of(s).error_bound
    total = abs(prediction_of(s).peak.total_bytes - (peak or 0))
    return bool(peak and bound and c.metric == "attribution_bytes" and total <= bound * peak)


def _phase_below_the_peak(c: Comparison, s: Scored) -> bool:
    """A phase whose own peak lies inside a layer, while the step's peak is elsewhere and is
    exact."""
    in_layers = c.category in ("forward", "backward")
    return c.metric in PHASE_PEAKS and in_layers and c.is_within(0.1)


REASONS: tuple[tuple[str, Callable[[Comparison, Scored], bool]], ...] = (
    (f"scalars: at most {SCALAR_BYTES} bytes", _scalars),
    (
        "the peak lies inside a layer: the answer says estimate, and the miss is within its"
        " stated bound",
        _inside_layers,
    ),
    (
        "the peak lies inside a layer: the answer says estimate, its sum is within its stated"
        " bound, and what it is made of is told of another instant, nearly as large",
        _another_instant,
    ),
    (
        "a phase below the step's peak: its own peak lies inside a layer, an estimate",
        _phase_below_the_peak,
    ),
)
UNEXPLAINED = "no reason is known"


def reason(c: Comparison, s: Scored) -> str:
    return next((text for text, holds in REASONS if holds(c, s)), UNEXPLAINED)


# --- what is written ------------------------------------------------------------------------------


def error_table(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> list[str]:
    """By metric and category."""
    heads = "metric | category | >records | >mean error | >worst | where"
    return table(heads, (cells(group, names) for group in summary(comparisons)))


def cells(group: ErrorSummary, names: Mapping[str, str]) -> list[str]:
    mean, worst, where = group.mean_absolute, group.worst, group.worst_record_id
    if mean is None or worst is None or where is None:  # 0 was measured
        return [*group.group, str(group.n), "", "", ""]
    return [*group.group, str(group.n), f"{mean:.4%}", error_text(worst), names[where]]


def short(s: Scored) -> str:
    setup = s.record.workload.setup
    size = f"b{setup.batch_size} s{setup.seq_len}"
    parts = [s.record.workload.model.id, setup.method, setup.dtype, size]
    if setup.lora is not None and setup.lora.adapter_dtype != setup.dtype:
        parts.append(f"{setup.lora.adapter_dtype} adapters")
    return ", ".join([*parts, "checkpointing"] if setup.checkpointing else parts)


def _unattributed(record: Record) -> float:
    """Share of the peak that nobody owns."""
    m = record.measurement
    return abs(m.attribution_bytes.get("unattributed", 0)) / (m.peak_requested_bytes or 1)


Block = str | list[str]


def section(name: str, rows: Sequence[Scored]) -> tuple[list[Block], Counter[str]]:
    by_id = {s.record.id: s for s in rows}
    comparisons = [c for s in rows for c in s.comparisons]
    families = sorted({s.record.workload.model.model_type for s in rows})
    methods = Counter(s.record.workload.setup.method for s in rows)
    unattributed = max(_unattributed(s.record) for s in rows)
    found = misses(comparisons)
    reasons = Counter(reason(c, by_id[c.record_id]) for c in found)
    blocks: list[Block] = [
        f"## {name}",
        f"{len(rows)} records that went through:"
        f" {', '.join(f'{n} {m}' for m, n in sorted(methods.items()))}; {len(families)}\n"
        f"model types ({', '.join(families)}). Of a peak at most {unattributed:.4%} is"
        " unattributed.",
        error_table(comparisons, {key: short(s) for key, s in by_id.items()}),
        "### Errors over 1 %",
        "" if found else "None.",
    ]
    heads = "metric | category | >predicted | >measured | >error | >of the peak | where"
    for text, count in reasons.most_common():
        of_it = (c for c in found if reason(c, by_id[c.record_id]) == text)
        blocks.append(f"**{count}: {text}.**")
        blocks.append(table(heads, (_miss(c, by_id[c.record_id]) for c in of_it)))
    return blocks, reasons


def _miss(c: Comparison, s: Scored) -> tuple[str, ...]:
    peak = s.record.measurement.peak_requested_bytes or 1
    error = "" if c.relative_error is None else error_text(c.relative_error)
    share = f"{abs(c.predicted - c.measured) / peak:.3%}"
    return c.metric, c.category, f"{c.predicted:,}", f"{c.measured:,}", error, share, short(s)


def document(folders: Iterable[tuple[str, Sequence[Scored]]]) -> dict[str, Any]:
    def errors(rows: Sequence[Scored]) -> list[dict[str, Any]]:
        return [
            dict(zip(("metric", "category"), g.group, strict=True))
            | {"n": g.n, "mean_absolute": g.mean_absolute, "worst": g.worst}
            | {"worst_record": g.worst_record_id}
            for g in summary([c for s in rows for c in s.comparisons])
        ]

    return {name: {"records": len(rows), "errors": errors(rows)} for name, rows in folders}


def packaged(rows: Iterable[Scored]) -> dict[str, Any]:
    """What the package shows of the records: `facts.evidence.own`."""
    return own_document(
        OwnRow(
            model=s.record.workload.model.id,
            method=s.record.workload.setup.method,
            setup=setting(s.record.workload.setup),
            where=s.record.environment.device.name,
            counted_bytes=s.record.measurement.peak_requested_bytes or 0,
            predicted_bytes=prediction_of(s).peak.total_bytes,
            says_exact=prediction_of(s).exactness == "exact",
        )
        for s in rows
        if any(c.metric == "peak_requested_bytes" for c in s.comparisons)
    )


def traced(record: Record) -> tuple[list[Comparison], str]:
    """Comparisons with a profile's answer, or why there are none. Runs in a process of its own."""
    import warnings

    from lora_profiler.memory.compiled import predict_with
    from lora_profiler.trace.compiler import compile_profile

    warnings.simplefilter("ignore")
    try:
        profile = compile_profile(record.workload)
    except Exception as e:  # whatever a library raises on a meta tensor belongs into the table
        return [], f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
    return list(compare(record, predict_with(profile, record.workload))), ""


def traced_page(rules: Sequence[Scored]) -> str:
    with ProcessPoolExecutor(2) as pool:
        found = list(zip(rules, pool.map(traced, [s.record for s in rules]), strict=True))
    names = {s.record.id: short(s) for s in rules}
    answered = [s for s, (comparisons, _) in found if comparisons]
    return page_of(
        "Profiles against measured, every committed record",
        "`python -m benchmarks.truth.records --traced`",
        f"{len(answered)} of {len(rules)} records: a profile of the traced step, compiled for the"
        " CPU, and beside it the rules\non the same records.",
        error_table([c for _, (comparisons, _) in found for c in comparisons], names),
        "## The rules on the same records",
        error_table([c for s in answered for c in s.comparisons], names),
        "## Without a profile",
        [f"- {short(s)}: {why}" for s, (_, why) in found if why] or "None.",
    )


def main() -> int:
    options = parser_of(__doc__, traced=False).parse_args()
    folders = [
        (folder.name, scored_records(folder))
        for folder in sorted(RECORDS.iterdir())
        if folder.is_dir()
    ]
    folders = [(name, rows) for name, rows in folders if rows]
    if options.traced:
        write_page("traced_records", traced_page([s for _, rows in folders for s in rows]))
        return 0
    blocks: list[Block] = ["`python -m benchmarks.truth.records`"]
    unexplained = 0
    for name, rows in folders:
        more, reasons = section(name, rows)
        blocks += more
        unexplained += reasons[UNEXPLAINED]
    title = "Predicted against measured, every committed record"
    write_page("records", page_of(title, *blocks))
    write_document("records", document(folders))
    write_rows("recorded", packaged([s for _, rows in folders for s in rows]))
    count = sum(len(rows) for _, rows in folders)
    print(f"{count} records, {unexplained} misses without a reason", flush=True)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
