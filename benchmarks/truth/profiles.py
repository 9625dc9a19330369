"""Two predictors that share nothing but the question: the rules against the profiles of the
package, at full size.

    python -m benchmarks.truth.profiles

A minute, without torch. For every model of the catalogue whose family the rules know, each profile
that the package brings (`python -m benchmarks.truth.bundle`) is asked at several sizes, and so are
the rules: saved bytes, persistent bytes, parameters and FLOPs must be equal, and the peak wherever
the rules call it exact. Writes `results/profiles.md` and `results/profiles.json`.
"""

import sys
from collections import Counter
from dataclasses import replace
from typing import Any

from benchmarks.pages import page_of, parser_of, table, write_document, write_page
from benchmarks.truth.bundle import asked
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_models, find_model
from lora_profiler.memory.analytic import knows
from lora_profiler.memory.analytic import predict as by_rules
from lora_profiler.memory.compiled import has_profile
from lora_profiler.memory.compiled import predict as by_profile
from lora_profiler.memory.compiled.regime import regime_of
from lora_profiler.question.workload import Workload

SIZES = (
    (1, 512, 16),
    (1, 8192, 64),
    (2, 512, 16),
    (2, 2048, 8),
    (4, 1024, 64),
    (16, 8192, 16),
    (3, 131, 7),
)
"""(batch, sequence, rank) at which both are asked, wherever the regime of the profile holds."""
FIELDS = ("saved_activation_bytes", "persistent_bytes", "parameters", "flops")


def rows_of(name: str) -> list[dict[str, Any]]:
    """One row a profile: at how many sizes it was asked, and where the rules say otherwise."""
    model = find_model(name, offline=True)
    found = []
    for impl in ("foreach", "fused"):
        for label, workload in asked(model, impl):
            try:
                if has_profile(workload):
                    found.append(
                        {
                            "model": name,
                            "type": model.model_type,
                            "setup": label,
                            **_compared(workload),
                        }
                    )
            except LoraProfilerError:  # PEFT has no default targets for this type
                continue
    return found


def _compared(workload: Workload) -> dict[str, Any]:
    wrong: list[str] = []
    errors: list[float] = []
    exact = 0
    for batch, seq, rank in SIZES:
        setup = workload.setup
        lora = replace(setup.lora, r=rank) if setup.lora else None
        at = replace(workload, setup=replace(setup, batch_size=batch, seq_len=seq, lora=lora))
        if regime_of(at) != regime_of(workload):
            continue
        mine, rules = by_profile(at), by_rules(at)
        where = f"at {batch} x {seq}, rank {rank}"
        for field in FIELDS:
            if getattr(mine, field) != getattr(rules, field):
                wrong.append(
                    f"{field} {where}: {getattr(mine, field)} traced, {getattr(rules, field)} by"
                    " rules"
                )
        error = rules.peak.total_bytes / mine.peak.total_bytes - 1
        errors.append(error)
        if rules.exactness == "exact":
            exact += 1
            if error:
                wrong.append(f"peak {where}: {error:+.4%} and said to be exact")
    return {
        "rules": "differ" if wrong else "equal",
        "differences": wrong,
        "peak_errors": errors,
        "exact": exact,
    }


def write(rows: list[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: (row["type"], row["model"]))
    write_document("profiles", {"rows": rows})
    points = sum(len(row["peak_errors"]) for row in rows)
    exact = sum(row["exact"] for row in rows)
    differ = [e for row in rows for e in row["peak_errors"] if e]
    equal = sum(row["rules"] == "equal" for row in rows)
    types = Counter(row["type"] for row in rows)
    models = {row["model"]: row["type"] for row in rows}
    text = page_of(
        "Rules against compiled traces, at full size",
        f"`python -m benchmarks.truth.profiles`: {len(rows):,} profiles of {len(models)} models"
        f" ({len(types)} families that the rules\n"
        f"know), asked at {points:,} points: full, LoRA on all linear layers and PEFT's default"
        " targets, QLoRA, with and without\n"
        "checkpointing, one sample and several, CUDA rules.",
        "- Saved bytes, persistent bytes, parameters and FLOPs, and the peaks that the rules"
        " call exact, are equal in\n"
        f"  {equal:,} of the {len(rows):,} profiles at every point.\n"
        f"- The rules call {exact:,} peaks exact; {len(differ):,} of all {points:,} differ, by"
        f" at most {max(map(abs, differ), default=0):.3%}.",
        table(
            "family | >models | >profiles",
            (
                (name, sum(of == name for of in models.values()), count)
                for name, count in sorted(types.items())
            ),
        ),
        "## Where the rules say otherwise",
        [
            f"- {r['model']}, {r['setup']}: {'; '.join(r['differences'][:3])}"
            for r in rows
            if r["differences"]
        ]
        or "Nowhere.",
    )
    write_page("profiles", text)


def main() -> int:
    parser_of(__doc__).parse_args()
    names = [
        entry.id
        for entry in bundled_models()
        if knows(Workload(model=find_model(entry.id, offline=True)))
    ]
    rows = [row for name in names for row in rows_of(name)]
    write(rows)
    print(f"{len(rows)} profiles, {sum(row['rules'] == 'differ' for row in rows)} differ")
    return 1 if any(row["rules"] == "differ" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
