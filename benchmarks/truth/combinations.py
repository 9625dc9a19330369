"""What is answered of every method x base x optimizer x sharding, and how surely.

    python -m benchmarks.truth.combinations

writes `docs/combinations.md`: each cell is what `predict` says, without a trace, of one model on
one size; what it refuses is there with its reason. `tests/project/test_combinations.py` holds the
page to it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from benchmarks.truth import capabilities
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import find_model
from lora_profiler.planning.engine import common_assumptions, predict
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.support.check import has_outliers, rules_unsupported_reason
from lora_profiler.question.workload import (
    LoraConfig,
    Optimizer,
    PeftType,
    Quantization,
    Sharding,
    TrainSetup,
    Workload,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "combinations.md"
ROWS = ROOT / "benchmarks" / "results" / "rehearsed.jsonl"
MODEL, WORLD_SIZE = "meta-llama/Llama-3.2-1B", 8
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
SHARDINGS: tuple[Sharding, ...] = get_args(Sharding)
NF4, INT8 = Quantization(), Quantization(quant_type="int8")
DORA = LoraConfig(use_dora=True)
OTHERS: tuple[PeftType, ...] = ("vera", "ia3", "oft")
WAYS: Mapping[str, Mapping[str, Any]] = {
    "Full fine-tuning": {},
    "LoRA, base in 16 bit": {"lora": LoraConfig()},
    "LoRA, base in NF4 (QLoRA)": {"lora": LoraConfig(), "quantization": NF4},
    "LoRA, base in LLM.int8": {"lora": LoraConfig(), "quantization": INT8},
    "LoRA, base in GPTQ": {"lora": LoraConfig(), "quantization": Quantization(quant_type="gptq")},
    "LoRA, base in AWQ": {
        "lora": LoraConfig(),
        "quantization": Quantization(quant_type="awq"),
        "dtype": "float16",
    },
    "LoRA, base in FP8": {"lora": LoraConfig(), "quantization": Quantization(quant_type="fp8")},
    "LoRA, base in HQQ": {"lora": LoraConfig(), "quantization": Quantization(quant_type="hqq")},
    "DoRA, base in 16 bit": {"lora": DORA},
    "DoRA, base in NF4": {"lora": DORA, "quantization": NF4},
    "DoRA, base in LLM.int8": {"lora": DORA, "quantization": INT8},
    **{
        f"{adapter_method(kind).title}, base in {words}": {
            "lora": LoraConfig(peft_type=kind),
            "quantization": base,
        }
        for kind in OTHERS
        for words, base in (("16 bit", None), ("NF4", NF4), ("LLM.int8", INT8))
    },
}


class Cell(NamedTuple):
    """`kind` is what stands in the table; `note` is why, "" for an exact answer of rules."""

    kind: str
    note: str


BY_TRACE = "exact by a trace: no rule describes the layers, and the real ones are run without data"
TRACED_ALONE = "; of several ranks with --engine traced alone"


def cell(way: Mapping[str, Any], optimizer: Optimizer, sharding: Sharding) -> Cell:
    """What is said of one combination."""
    try:
        setup = TrainSetup(
            **way,
            optimizer=optimizer,
            sharding=sharding,
            world_size=1 if sharding == "none" else WORLD_SIZE,
        )
        workload = Workload(model=find_model(MODEL, offline=True), setup=setup)
        found = predict(workload, may_trace=False)
    except LoraProfilerError as error:
        words = str(error).replace(f"{optimizer} ", "this optimizer ")
        return Cell("refused", words.replace(f"sharding {sharding}", "this sharding"))
    if rules_unsupported_reason(setup):
        more = TRACED_ALONE if sharding != "none" else ""
        if has_outliers(setup):
            return Cell("estimate", "by a trace, which counts no outlier columns" + more)
        return Cell("trace", BY_TRACE + more)
    if found.exactness == "exact":
        return Cell("exact", "")
    bound = f" (within {100 * found.error_bound:g} %)" if found.error_bound else ""
    reasons = [words for words in found.assumptions if words not in common_assumptions(workload)]
    return Cell("estimate", reasons[-1] + bound)


def page() -> str:
    """The whole page."""
    notes: dict[str, int] = {}
    rehearsed = rehearsals()
    tables = []
    for title, way in WAYS.items():
        rows: dict[str, list[str]] = {}
        for optimizer in OPTIMIZERS:
            rows.setdefault(_row(way, optimizer, notes, rehearsed), []).append(f"`{optimizer}`")
        head = f"| optimizer | {' | '.join(SHARDINGS)} |\n|---|{'---|' * len(SHARDINGS)}\n"
        tables.append(f"### {title}\n\n{head}{_lines(rows)}")
    listed = "".join(f"{number}. {_one_line(note)}\n" for note, number in notes.items())
    known = "\n".join(capabilities.tables())
    return f"{INTRODUCTION}\n{known}\n{COMBINED}\n{chr(10).join(tables)}\n## Why\n\n{listed}"


INTRODUCTION = f"""# Every combination

Made by `python -m benchmarks.truth.combinations` out of the answers of `lora-profile` for {MODEL},
1 x 2,048 tokens in bfloat16, over AWQ in float16, on CUDA.

## What knows which feature

Each feature is a file or a folder of `lora_profiler/features/`. **Rules** answer without torch for
the models that they know, a **law** for every model of a type that was traced once. A **trace**
runs the libraries' own code without data, and `bench` **measures** a real step.
"""
COMBINED = f"""## What is answered of each method, base, optimizer and sharding

How surely, alone or as one of {WORLD_SIZE} ranks:

- **exact**: equal to the byte by construction, where the peak falls on a moment that rules follow
  exactly, as it does here; inside a layer it is an estimate within some per cent.
  Held against real steps on a CPU (`tests/memory/test_moments.py`,
  `tests/memory/test_persistent.py`, `tests/features/test_package_optimizers.py`,
  `tests/memory/test_bases.py`), traces (`tests/trace/test_traced.py`,
  `tests/memory/test_ranks.py`), torch's FSDP1 and DeepSpeed rehearsed
  (`tests/memory/test_adapter_shards.py`, `tests/memory/test_deepspeed_rehearsed.py`) and rehearsals
  on torch's CUDA build: a number says how many rehearsals of this very combination
  `tests/rehearsal/test_rehearsed_rules.py` compares.
- **trace**: exact by a trace, which needs torch; rules alone give a lower bound. Held against real
  steps on a CPU (`tests/memory/test_unruled.py`).
- **estimate** and **refused**: the number after them is the reason, below.
"""


def _row(
    way: Mapping[str, Any],
    optimizer: Optimizer,
    notes: dict[str, int],
    rehearsed: Mapping[tuple[Any, ...], int],
) -> str:
    cells = []
    for sharding in SHARDINGS:
        found = cell(way, optimizer, sharding)
        if found.note:
            cells.append(f"{found.kind} [{notes.setdefault(found.note, len(notes) + 1)}]")
        else:
            count = rehearsed.get(_key(way, optimizer, sharding), 0)
            cells.append(f"{found.kind}, {count}" if count else found.kind)
    return " | ".join(cells)


def _lines(rows: Mapping[str, Sequence[str]]) -> str:
    """A line for all optimizers of which the same is said."""
    return "".join(f"| {', '.join(names)} | {cells} |\n" for cells, names in rows.items())


def rehearsals() -> Mapping[tuple[Any, ...], int]:
    """How many there are of each combination."""
    return Counter(_rehearsed_keys())


def _rehearsed_keys() -> Iterator[tuple[Any, ...]]:
    for line in ROWS.read_text("utf-8").splitlines():
        row = json.loads(line)
        setup = row["setup"]
        if "rehearsed" in row:
            base = setup.get("quant_type", "nf4") if setup["method"] == "qlora" else None
            dora = setup.get("use_dora") or False
            kind = setup.get("peft_type") or "lora"
            method = "full" if setup["method"] == "full" else "lora"
            yield method, dora, kind, base, setup["optimizer"], setup["sharding"]


def _key(way: Mapping[str, Any], optimizer: Optimizer, sharding: Sharding) -> tuple[Any, ...]:
    lora, base = way.get("lora"), way.get("quantization")
    return (
        "full" if lora is None else "lora",
        lora is not None and lora.use_dora,
        "lora" if lora is None else lora.peft_type,
        base and base.quant_type,
        optimizer,
        sharding,
    )


def _one_line(note: str) -> str:
    return " ".join(note.split())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
