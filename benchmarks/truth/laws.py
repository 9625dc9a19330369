"""Laws of types: which hold, what they are, and how many questions they answer.

    python -m benchmarks.truth.laws [--rules TYPE,TYPE]

A row for each law that `benchmarks.truth.bundle laws` was asked for: what was made, or the first
event that differs. Each that holds was equal, event by event, to fresh traces of two toys that no
fit saw, of five and six units, and of a real model's sizes at five units (of an H100, the last).
Then whole answers over the bundled models, offline and without a trace, with the laws of the
package and without them. With `--rules` laws are made here of types that rules know, and held
against the rules' peaks of every bundled model of the type. Results: `results/laws.md` and
`results/laws.json`.
"""

import sys
from collections import Counter
from contextlib import closing, suppress
from itertools import product
from typing import Any
from unittest.mock import patch

from benchmarks.pages import page_of, parser_of, read_document, table, tell
from benchmarks.truth.bundle import law_rows, laws_asked, work, workload_of
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_models, find_model
from lora_profiler.facts.stacks import guided_trainers
from lora_profiler.memory.compiled import evaluation, predict_with
from lora_profiler.memory.compiled.law import NotOfLawError, facts_of, of_model
from lora_profiler.memory.compiled.profile import Profile, unpacked
from lora_profiler.memory.compiled.regime import regime_of
from lora_profiler.planning.engine import predict
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.loop import nearest_traced
from lora_profiler.question.workload import Workload

TRAINERS = (
    "guide", "trl-sft", "unsloth", "axolotl", "transformers", "llamafactory", "torchtune", "bare",
)  # fmt: skip
METHODS = ("full", "lora", "qlora")
PLAIN = "plain "
KINDS = ("whole", "of them exact", "lower bound", "refused")
HELD = (("bare", "lora"), ("bare", "full"), ("guide", "lora"))
"""Loops and methods in which laws are held against rules."""


def rows() -> list[dict[str, Any]]:
    found = []
    with closing(work()) as connection:
        for label, workload in laws_asked():
            for data, reason in law_rows(connection, workload)[:1]:
                row = {"asked": label, "model": workload.model.id}
                found.append(row | ({"no": reason} if data is None else _of(data)))
    return found


def _of(data: bytes) -> dict[str, Any]:
    made = unpacked(data)
    assert made.law is not None
    return {
        "bytes": len(data),
        "events": sum(len(block) for run in made.tape.runs for block in run.blocks),
        "sizes": len(made.sizes),
        "monomials": len(made.law.monomials),
        "instants": len(made.instants),
        "checked": [list(point) for point in made.checked],
    }


def answered() -> dict[str, dict[str, int]]:
    """Whole answers, lower bounds and refusals, by trainer and method: as each trains by default,
    and `plain`, as a question without a trainer asks it."""
    counts: dict[str, Counter[str]] = {}
    plain = [f"{PLAIN}{trainer}" for trainer in guided_trainers()]
    for trainer, method in product([*TRAINERS, *plain], METHODS):
        of = counts[f"{trainer} {method}"] = Counter({kind: 0 for kind in KINDS})
        for entry in bundled_models():
            model, kind = find_model(entry.id, offline=True), "refused"
            with suppress(LoraProfilerError):
                said = predict(workload_of(model, f"{trainer} {method}"), may_trace=False)
                kind = "whole" if said.is_whole else "lower bound"
                of["of them exact"] += said.is_whole and said.exactness == "exact"
            of[kind] += 1
    return {question: dict(of) for question, of in counts.items()}


def without_laws() -> dict[str, dict[str, int]]:
    def none(*_: object) -> Profile | None:
        return None

    evaluation.forget()
    with patch.object(evaluation, "law_key", none), patch.object(evaluation, "of_model", none):
        counts = answered()
    evaluation.forget()
    return counts


def against_rules(types: list[str]) -> list[dict[str, Any]]:
    """Laws of a type made by its smallest model, against the rules' peaks of the others."""
    from lora_profiler.trace.compiler import compile_law

    found = []
    for name, (trainer, method) in product(types, HELD):
        models = [find_model(e.id, offline=True) for e in bundled_models() if e.model_type == name]
        laws: dict[str, Profile] = {}
        for model in sorted(models, key=lambda m: m.num_parameters):
            workload = Workload(model=model, setup=setup_for(model, trainer, method))  # type: ignore[arg-type]
            row = {"type": name, "setup": f"{trainer} {method}", "model": model.id}
            try:
                facts = facts_of(model)
                if facts not in laws:
                    laws[facts] = compile_law(workload)
                law = predict_with(of_model(laws[facts], model), workload)
            except (LoraProfilerError, NotOfLawError) as e:
                found.append(row | {"no": str(e)})
                continue
            rule = predict(workload, "analytic")
            difference = law.peak.total_bytes - rule.peak.total_bytes
            saved = law.saved_activation_bytes == rule.saved_activation_bytes
            found.append(
                row | {"exactness": rule.exactness, "difference": difference, "saved equal": saved}
            )
    return found


def by_several() -> list[dict[str, Any]]:
    """Peaks of one sample by the profile of several, where both are there; the plain questions of
    one row and the trainers' own with one."""
    found = []
    for entry, trainer, method in product(bundled_models(), TRAINERS, METHODS):
        model = find_model(entry.id, offline=True)
        with suppress(LoraProfilerError):
            setup = setup_for(model, trainer, method, batch_size=1, seq_len=2048)  # type: ignore[arg-type]
            workload = Workload(model=model, setup=nearest_traced(setup))
            several = evaluation.of_several(workload, regime_of(workload))
            if several is not None and evaluation.has_profile(workload):
                own = evaluation.evaluation_of(workload).peak(workload.setup)
                off = several.peak(workload.setup) - own
                found.append(
                    {"model": entry.id, "setup": f"{trainer} {method}", "own": own, "off": off}
                )
    return found


def _several_words(rows: list[dict[str, Any]]) -> str:
    equal = sum(not row["off"] for row in rows)
    worst = max(rows, key=lambda row: abs(row["off"] / row["own"]))
    return (
        f"{equal} of {len(rows)} peaks of one sample are equal by the profile of several; the worst"
        f" is {100 * worst['off'] / worst['own']:+.2f} % ({worst['model']}, {worst['setup']})."
    )


def _whole(counts: dict[str, dict[str, int]], *, plain: bool) -> str:
    of = [count for name, count in counts.items() if name.startswith(PLAIN) is plain]
    answers = sum(sum(count[kind] for kind in ("whole", "lower bound")) for count in of)
    return f"{sum(count['whole'] for count in of):,} of {answers:,}"


def markdown(result: dict[str, Any]) -> str:
    made = [row for row in result["laws"] if "no" not in row]
    counts = result["answers"]
    ruled = [row for row in result["rules"] if "no" not in row]
    exact = [row for row in ruled if row["exactness"] == "exact"]
    return page_of(
        "Laws of types",
        f"`python -m benchmarks.truth.laws`: {len(made)} of {len(result['laws'])} laws asked for"
        " hold. Each was equal to three fresh traces, event by event: of toys of five and six"
        " units, and of the real model's sizes at five units, as long as it takes. One of an H100"
        " is made of the same under flash attention, and was equal to the last of the three."
        " `checked` of the JSON has (layers, batch, tokens, rank).",
        table(
            "type, trainer and method | >events | >sizes | >monomials | >instants | >bytes",
            (
                [
                    row["asked"],
                    *(row[n] for n in ("events", "sizes", "monomials", "instants", "bytes")),
                ]
                for row in made
            ),
        ),
        "## Answers without a trace\n\nOver the bundled models, offline, without torch, each"
        " trainer as it trains by default, and (plain) as a question without a trainer asks it: one"
        " sample of 2,048 tokens. TRL's loss is put to the law of a stack.",
        table(
            "trainer, method | >whole without laws | >whole | >of them exact | >lower bound"
            " | >refused",
            (
                [name, counts["without"][name]["whole"], *(of[kind] for kind in KINDS)]
                for name, of in counts["with"].items()
            ),
        ),
        *(
            f"Whole answers {words}, of all that a trainer can run:"
            f" {_whole(counts['without'], plain=plain)} without laws,"
            f" {_whole(counts['with'], plain=plain)} with them."
            for words, plain in (
                ("of trainers by default", False),
                ("of a question without a trainer", True),
            )
        ),
        "## One sample by the profile of several\n\n" + _several_words(result["several"]),
        "## Against rules\n\n"
        f"{sum(not row['difference'] for row in exact)} of {len(exact)} peaks that rules call exact"
        f" are equal to the byte, and {sum(row['saved equal'] for row in ruled)} of {len(ruled)}"
        " saved bytes.",
        table(
            "model | setup | rule | >law - rule, bytes | saved bytes",
            (
                [
                    r["model"],
                    r["setup"],
                    r["exactness"],
                    r["difference"],
                    "equal" if r["saved equal"] else "differ",
                ]
                for r in ruled
            ),
        ),
        "## No law, and why",
        (f"- {row['asked']}: {row['no']}" for row in result["laws"] if "no" in row),
        (f"- {r['model']}, {r['setup']}: {r['no']}" for r in result["rules"] if "no" in r),
    )


def main() -> int:
    options = parser_of(__doc__, rules="").parse_args()
    rules = read_document("laws")["rules"]
    if options.rules:
        rules = against_rules(options.rules.split(","))
    result = {
        "laws": rows(),
        "answers": {"without": without_laws(), "with": answered()},
        "several": by_several(),
        "rules": rules,
    }
    tell("laws", markdown(result), result, writes=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
