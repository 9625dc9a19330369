"""Every committed record predicted a second time, by profiles compiled for its device: errors next
to those of the rules.

    python -m benchmarks.traced_records [--jobs N]

Some seconds a record; needs the test extra. Writes `results/traced_records.md`. A record whose step
cannot be traced is listed with the reason.
"""

import sys
from concurrent.futures import ProcessPoolExecutor

from benchmarks.pages import parser_of, write_page
from benchmarks.records import RECORDS, error_table, scored_records, short
from lora_profiler.comparison.errors import Comparison, compare
from lora_profiler.errors import LoraProfilerError
from lora_profiler.records.load import read_records
from lora_profiler.records.record import Record


def traced(record: Record) -> tuple[str, list[Comparison], str]:
    """(id, comparisons, why there are none). Runs in a process of its own."""
    import warnings

    from lora_profiler.compiled import predict_with
    from lora_profiler.traced.compiler import compile_profile

    warnings.simplefilter("ignore")
    try:
        profile = compile_profile(record.workload)
    except LoraProfilerError as e:
        return record.id, [], str(e)
    except Exception as e:  # whatever a library raises on a meta tensor belongs into the table
        return record.id, [], f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
    return record.id, list(compare(record, predict_with(profile, record.workload))), ""


def main() -> int:
    options = parser_of(__doc__, jobs=2).parse_args()
    folders = [folder for folder in sorted(RECORDS.iterdir()) if folder.is_dir()]
    rules = [s for folder in folders for s in scored_records(folder)]
    names = {s.record.id: short(s) for s in rules}
    records = [
        r
        for folder in folders
        for path in sorted(folder.glob("*.jsonl"))
        for r in read_records(path).records
    ]
    records = [r for r in records if r.measurement.went_through]
    comparisons: list[Comparison] = []
    reasons: dict[str, str] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for number, (key, found, reason) in enumerate(pool.map(traced, records), 1):
            comparisons += found
            if reason:
                reasons[key] = reason
            if number % 10 == 0:
                print(f"{number} of {len(records)}, {len(reasons)} without a profile", flush=True)
    answered = {c.record_id for c in comparisons}
    of_rules = [c for s in rules if s.record.id in answered for c in s.comparisons]
    lines = [
        "# Profiles against measured, every committed record",
        "",
        "`python -m benchmarks.traced_records`",
        "",
        f"{len(answered)} of {len(records)} records: a profile of the traced step, compiled for"
        " the CPU, and beside it the rules",
        "on the same records.",
        "",
        *error_table(comparisons, names),
        "",
        "## The rules on the same records",
        "",
        *error_table(of_rules, names),
        "",
        "## Without a profile",
        "",
        *([f"- {names[key]}: {reason}" for key, reason in reasons.items()] or ["None."]),
    ]
    write_page("traced_records", "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
