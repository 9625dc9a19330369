"""Profiles of several micro-batches a step, made of those of one, against fresh traces.

    python -m benchmarks.truth.accumulation

The smallest bundled model of every type, where layers repeat cut to as few as a law is made of:
LoRA by transformers' Trainer at 4 x 256 tokens, full fine-tuning by TRL, LoRA in a loop that holds
its outputs. Every moment is compared, to the byte. Writes `results/accumulation.md` and
`results/accumulation.json`; about 25 minutes on one core, needs the test extra.
"""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from benchmarks.pages import page_of, parser_of, table, write_document, write_page
from benchmarks.truth.bundle import workload_of
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_models, find_model
from lora_profiler.memory.compiled.accumulation import accumulated
from lora_profiler.memory.compiled.profile import Profile
from lora_profiler.memory.compiled.tape import LEAST_UNITS
from lora_profiler.question.loop import nearest_traced
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import Workload
from lora_profiler.trace.compiler import largest, moments_with
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.run import trace
from lora_profiler.trace.single_size import profile_of
from lora_profiler.trace.toys import at_depth, layout_of

QUESTIONS = ("plain transformers lora x4", "plain trl-sft full", "plain loop lora")
TOKENS, MICRO_BATCHES = 256, 4
MOST_LAYERS = 30
"""More, of types whose layers do not repeat, take minutes each."""


def models() -> Iterator[ModelSpec]:
    smallest: dict[str, ModelSpec] = {}
    for entry in bundled_models():
        model = find_model(entry.id, offline=True)
        known = smallest.setdefault(model.model_type, model)
        if model.num_parameters < known.num_parameters:
            smallest[model.model_type] = model
    for _, model in sorted(smallest.items()):
        layout = layout_of(model)
        with suppress(LoraProfilerError):
            model = at_depth(model, layout.layers(LEAST_UNITS)) if layout else model
        if model.num_layers <= MOST_LAYERS:
            yield model


def traced(workload: Workload) -> Profile:
    return profile_of(workload, trace(workload, lambda w: build_model(w, device="meta")))


def row_of(model: ModelSpec, question: str) -> dict[str, Any]:
    row = {"type": model.model_type, "layers": model.num_layers, "question": question}
    try:
        setup = nearest_traced(workload_of(model, question).setup)
        once = Workload(model=model, setup=replace(setup, seq_len=TOKENS, accumulation=1))
        several = replace(once, setup=replace(once.setup, accumulation=MICRO_BATCHES))
        real = largest(moments_with(traced(several), several))
        made = accumulated(traced(once))
    except LoraProfilerError as e:
        return row | {"no": str(e).partition("\n")[0][:120]}
    if made is None:
        return row | {"no": "its two steps are not alike"}
    mine = largest(moments_with(made, several))
    off = {place: mine.get(place, 0) - real[place] for place in real}
    worst = max(off, key=lambda place: abs(off[place]))
    return row | {"bytes": max(real.values()), "off": off[worst], "at": " ".join(map(str, worst))}


def markdown(rows: list[dict[str, Any]]) -> str:
    made = [row for row in rows if "off" in row]
    equal = sum(row["off"] == 0 for row in made)
    return page_of(
        "Several micro-batches, made of one",
        f"`python -m benchmarks.truth.accumulation`: {equal} of {len(made)} profiles of"
        f" {len({row['type'] for row in made})} types of models equal a fresh trace with"
        f" accumulation at every moment, to the byte.",
        table(
            "type | layers | question | >peak, bytes | >off, bytes | at",
            (
                [
                    row["type"],
                    row["layers"],
                    row["question"],
                    f"{row['bytes']:,}",
                    f"{row['off']:+,}" if row["off"] else "0",
                    row["at"] if row["off"] else "",
                ]
                for row in sorted(made, key=lambda row: -abs(row["off"]))
            ),
        ),
        "Not compared:",
        table(
            "type | question | since",
            ([row["type"], row["question"], row["no"]] for row in rows if "no" in row),
        ),
    )


def main() -> None:
    parser_of(__doc__).parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for model in models():
        for question in QUESTIONS:
            rows.append(row_of(model, question))
            print(rows[-1], flush=True)
    write_document("accumulation", {"rows": rows})
    write_page("accumulation", markdown(rows))


if __name__ == "__main__":
    main()
