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
from benchmarks.pages import page_of, parser_of, write_document, write_page
from lora_profiler.comparison.errors import Comparison, ErrorSummary, compare, misses, summary
from lora_profiler.comparison.scored import Scored, scored
from lora_profiler.evidence import OwnRow
from lora_profiler.prediction import Prediction
from lora_profiler.records.load import read_records
from lora_profiler.records.record import Record
from lora_profiler.report.measured.measured_runs import setting
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


def _scalars(c: Comparison, s: Scored) -> bool:
    return abs(c.predicted - c.measured) <= SCALAR_BYTES


def _inside_layers(c: Comparison, s: Scored) -> bool:
    """Only where the answer says estimate, and within the bound that it states."""
    peak = s.record.measurement.peak_requested_bytes
    bound = prediction_of(s).error_bound
    in_peak = c.metric in (
        "peak_requested_bytes",
        "peak_allocated_bytes",
        "attribution_bytes",
        "phase_peak_bytes",
    )
    return bool(peak and bound and in_peak and abs(c.predicted - c.measured) <= bound * peak)


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
    return (
        c.metric in ("phase_peak_bytes", "step1_phase_peak_bytes")
        and in_layers
        and c.is_within(0.1)
    )


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
    return [
        "| metric | category | records | mean error | worst | where |",
        "|---|---|---:|---:|---:|---|",
        *(row(group, names) for group in summary(comparisons)),
    ]


def row(group: ErrorSummary, names: Mapping[str, str]) -> str:
    cells = [*group.group, str(group.n), "", "", ""]
    if (
        group.mean_absolute is not None
        and group.worst is not None
        and group.worst_record_id is not None
    ):  # else 0 was measured
        cells[-3:] = (
            f"{group.mean_absolute:.4%}",
            error_text(group.worst),
            names[group.worst_record_id],
        )
    return f"| {' | '.join(cells)} |"


def short(s: Scored) -> str:
    setup = s.record.workload.setup
    parts = [
        s.record.workload.model.id,
        setup.method,
        setup.dtype,
        f"b{setup.batch_size} s{setup.seq_len}",
    ]
    if setup.lora is not None and setup.lora.adapter_dtype != setup.dtype:
        parts.append(f"{setup.lora.adapter_dtype} adapters")
    return ", ".join([*parts, "checkpointing"] if setup.checkpointing else parts)


def _unattributed(record: Record) -> float:
    """Share of the peak that nobody owns."""
    m = record.measurement
    return abs(m.attribution_bytes.get("unattributed", 0)) / (m.peak_requested_bytes or 1)


def section(name: str, rows: Sequence[Scored]) -> tuple[list[str], Counter[str]]:
    by_id = {s.record.id: s for s in rows}
    names = {key: short(s) for key, s in by_id.items()}
    comparisons = [c for s in rows for c in s.comparisons]
    families = sorted({s.record.workload.model.model_type for s in rows})
    methods = Counter(s.record.workload.setup.method for s in rows)
    unattributed = max(_unattributed(s.record) for s in rows)
    lines = [
        f"## {name}",
        "",
        f"{len(rows)} records that went through:"
        f" {', '.join(f'{n} {m}' for m, n in sorted(methods.items()))}; {len(families)}",
        f"model types ({', '.join(families)}). Of a peak at most {unattributed:.4%} is"
        " unattributed.",
        "",
        *error_table(comparisons, names),
        "",
        "### Errors over 1 %",
        "",
    ]
    found = misses(comparisons)
    reasons = Counter(reason(c, by_id[c.record_id]) for c in found)
    if not found:
        return [*lines, "None.", ""], reasons
    for text, count in reasons.most_common():
        lines += [
            f"**{count}: {text}.**",
            "",
            "| metric | category | predicted | measured | error | of the peak | where |",
        ]
        lines += ["|---|---|---:|---:|---:|---:|---|"]
        lines += [
            _miss(c, by_id[c.record_id]) for c in found if reason(c, by_id[c.record_id]) == text
        ]
        lines.append("")
    return lines, reasons


def _miss(c: Comparison, s: Scored) -> str:
    peak = s.record.measurement.peak_requested_bytes or 1
    error = "" if c.relative_error is None else error_text(c.relative_error)
    share = f"{abs(c.predicted - c.measured) / peak:.3%}"
    return (
        f"| {c.metric} | {c.category} | {c.predicted:,} | {c.measured:,} | {error} | {share} |"
        f" {short(s)} |"
    )


def document(folders: Iterable[tuple[str, Sequence[Scored]]]) -> dict[str, Any]:
    found = {}
    for name, rows in folders:
        groups = summary([c for s in rows for c in s.comparisons])
        found[name] = {
            "records": len(rows),
            "errors": [
                {
                    "metric": g.group[0],
                    "category": g.group[1],
                    "n": g.n,
                    "mean_absolute": g.mean_absolute,
                    "worst": g.worst,
                    "worst_record": g.worst_record_id,
                }
                for g in groups
            ],
        }
    return found


def packaged(rows: Iterable[Scored]) -> dict[str, Any]:
    """What the package shows of the records: `evidence.own`."""
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

    from lora_profiler.compiled import predict_with
    from lora_profiler.traced.compiler import compile_profile

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
    lines = [
        "# Predicted against measured, every committed record",
        "",
        "`python -m benchmarks.truth.records`",
        "",
    ]
    unexplained = 0
    for name, rows in folders:
        text, reasons = section(name, rows)
        lines += text
        unexplained += reasons[UNEXPLAINED]
    write_page("records", "\n".join(lines).rstrip() + "\n")
    write_document("records", document(folders))
    write_rows("recorded", packaged([s for _, rows in folders for s in rows]))
    count = sum(len(rows) for _, rows in folders)
    print(f"{count} records, {unexplained} misses without a reason", flush=True)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
