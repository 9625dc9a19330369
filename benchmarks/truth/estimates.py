"""Peaks by programs that are read off a model's modules, against rules and laws of the same type.

    python -m benchmarks.truth.estimates

Two bundled models of every type that has rules or laws; five trainers as a question without one
asks them, and the plain loop, three methods, one row and four, the usual GPU and a T4. No figure of
the estimate is fitted to any of these; those that it is stated to be within are. Writes
`results/estimates.md` and `results/estimates.json`, and the package's bounds of types that are
farther off than others; four minutes, no torch.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.pages import RESULTS, page_of, parser_of, table, write_lines, write_page
from benchmarks.questions import workload_on
from benchmarks.rehearsed import rules as rehearsed_rules
from benchmarks.rows import read_rows
from benchmarks.truth.bundle import workload_of
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_models, find_model
from lora_profiler.measuring.records.serialize import setup_from_dict
from lora_profiler.memory.analytic import knows, plan
from lora_profiler.memory.analytic import peak_bytes as analytic_peak
from lora_profiler.memory.analytic.families import by_modules
from lora_profiler.memory.analytic.families.by_modules import ERRORS, family_by_modules, group_of
from lora_profiler.memory.compiled import peak_bytes as law_peak
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import as_known, predict
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import Workload

TRAINERS = ("loop", "transformers", "trl-sft", "unsloth", "axolotl", "bare")
QUESTIONS = [
    " ".join(("plain", *words)).strip()
    for words in product(TRAINERS, ("full", "lora", "qlora"), ("", "x4"), ("", "t4"))
]
MODELS_A_TYPE = 2
WORSE = Path(by_modules.__file__).with_name("estimate_errors.json")


def models() -> Iterator[ModelSpec]:
    seen: Counter[str] = Counter()
    for entry in bundled_models():
        model = find_model(entry.id, offline=True)
        if family_by_modules(model) is not None and seen[model.model_type] < MODELS_A_TYPE:
            seen[model.model_type] += 1
            yield model


def estimated(workload: Workload) -> int:
    """As if no rule knew the type."""
    plan._PLANS.clear()
    with patch.object(plan, "program_by_type", family_by_modules):
        found = analytic_peak(workload)
    plan._PLANS.clear()
    return found


def rows() -> Iterator[dict[str, Any]]:
    for model in models():
        for question in QUESTIONS:
            with suppress(LoraProfilerError):  # which the trainer cannot run, or has no law
                # of a loop's own code a law knows what a trace makes of it
                workload = as_known(workload_of(model, question), "compiled")
                known = knows(workload)
                truth = analytic_peak(workload) if known else law_peak(workload)
                yield {
                    "type": model.model_type,
                    "model": model.id,
                    "group": group_of(workload),
                    "question": question,
                    "layers": "checkpointed" if workload.setup.checkpointing else "plain",
                    "against": "rules" if known else "laws",
                    "error": round(estimated(workload) / truth - 1, 5),
                }


def rehearsed() -> Iterator[tuple[Prediction, float]]:
    """Estimates of types that no rule knows, whose step was rehearsed over torch's CUDA build, and
    how far off they are."""
    for row in read_rows(rehearsed_rules.BENCHMARK.path):
        if "rehearsed" not in row:
            continue
        setup = setup_from_dict(row["setup"])
        workload = workload_on(row["model"], setup, row["card"], row["torch"])
        with suppress(LoraProfilerError):
            said = predict(workload, "analytic", may_trace=False)
            if said.is_whole and not knows(workload):
                counted = said.peak.total_bytes + row["workspaces_bytes"]
                yield said, counted / row["rehearsed"]["requested_bytes"] - 1


STEP = 0.05


def worse_types(found: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """As `by_modules.worse_types` has them, rounded up to whole `STEP`."""
    worse: dict[str, dict[str, float]] = {}
    for row in found:
        stated = STEP * ceil(abs(row["error"]) / STEP)
        if row["against"] == "laws" and stated > ERRORS[row["group"]]:
            of_type = worse.setdefault(row["type"], {})
            kind = row["layers"]
            of_type[kind] = round(max(stated, of_type.get(kind, 0.0)), 2)
    return dict(sorted(worse.items()))


def within(errors: Sequence[float], share: float) -> float:
    """What that share of the errors is within."""
    return sorted(map(abs, errors))[ceil(share * len(errors)) - 1]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def markdown(found: Sequence[dict[str, Any]]) -> str:
    by_group, by_type = defaultdict(list), defaultdict(list)
    for row in found:
        by_group[row["group"]].append(row)
        by_type[row["type"]].append(row)
    kinds = [
        (
            group,
            len({row["type"] for row in of}),
            len(of),
            *(
                percent(within([row["error"] for row in of], share))
                for share in (0.5, 0.9, 0.95, 1)
            ),
        )
        for group, of in sorted(by_group.items())
    ]
    types = []
    for name, of in by_type.items():
        worst = max(of, key=lambda row: abs(row["error"]))
        middle = median(abs(row["error"]) for row in of)
        types.append((name, of[0]["against"], len(of), percent(middle), worst))
    types.sort(key=lambda row: -abs(row[-1]["error"]))
    return page_of(
        "Estimates read off modules",
        "Written by `python -m benchmarks.truth.estimates`. The peak by a program that is read off"
        " the names and shapes of a model's modules, against rules or laws of its type. Nothing is"
        " fitted. It answers where a type has neither.",
        table("layers have | types | questions | half within | 90 % | 95 % | worst", kinds),
        "Against rehearsals of types that no rule knows, over torch's CUDA build:",
        table("model | method | error", _rehearsed_cells()),
        "By type, the worst first:",
        table(
            "type | against | questions | median | worst | of",
            (
                (
                    *row[:4],
                    f"{100 * row[4]['error']:+.1f} %",
                    f"{row[4]['model']}, {row[4]['question']}",
                )
                for row in types
            ),
        ),
    )


def _rehearsed_cells() -> Iterator[tuple[str, str, str]]:
    for said, error in sorted(rehearsed(), key=lambda pair: -abs(pair[1])):
        workload = said.workload
        yield workload.model.id, workload.setup.method, f"{100 * error:+.2f} %"


def main() -> None:
    parser_of(__doc__).parse_args()
    found = list(rows())
    kept = ("type", "model", "question", "layers", "group", "against", "error")
    WORSE.write_text(json.dumps(worse_types(found), indent=1) + "\n", "utf-8")
    short = ({name: row[name] for name in kept} for row in found)
    write_lines(RESULTS / "estimates.json", {"models_a_type": MODELS_A_TYPE}, short)
    write_page("estimates", markdown(found))


if __name__ == "__main__":
    main()
