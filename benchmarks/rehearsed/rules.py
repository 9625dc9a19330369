"""Predictions against rehearsals: the harness's own training steps over the real CUDA build of
torch on simulated GPUs, at full model size.

    python -m benchmarks.rehearsed.rules --python PYTHON [--seconds N] [--again]

PYTHON is of an environment with a CUDA build of torch, transformers, PEFT and bitsandbytes.
Appends to `results/rehearsed.jsonl`, a row as each of COUNT seeded configurations ends, and writes
`results/rehearsed.md`. What is there is not run again, so that it can be done in pieces
(--seconds). --again predicts anew and writes the page only. --trace asks a trace of every
configuration too, which takes some seconds each, and appends to `results/rehearsed_traced.jsonl`.
Rows hold sizes and no times: nothing was measured.
"""

import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.own_rows import own_document
from benchmarks.own_rows import write_rows as write_own_rows
from benchmarks.pages import RESULTS
from benchmarks.questions import workload_on
from benchmarks.rehearsed import rules_page
from benchmarks.rehearsed.configurations import Configuration, configurations
from benchmarks.rehearsed.rules_page import options_words
from benchmarks.rehearsing import rehearsed_steps, workspaces_bytes
from benchmarks.rows import Row, continued, read_rows
from benchmarks.runner import Asked, Rows
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.facts.evidence import OwnRow
from lora_profiler.measuring.records.serialize import setup_dict, setup_from_dict
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import TrainSetup, key_fields
from lora_profiler.rehearsal.build import Stubs, find_compiler, stubs
from lora_profiler.rehearsal.environment import read_environment
from lora_profiler.report.measured.measurements import setting

TRACED = RESULTS / "rehearsed_traced.jsonl"
PLENTY_BYTES, PLENTY_EXPANDABLE_BYTES = 1 << 42, 1 << 40
"""Of every card: sizes are compared here, not verdicts. Each pool of expandable segments reserves
addresses for a whole card."""


def key(row: Row) -> str:
    """The same for rows from before `setup` had its newest fields."""
    setup = key_fields(setup_from_dict(row["setup"]))
    return json.dumps([row["model"], setup, row["card"], row.get("expandable", False)])


def prediction(model: str, setup: TrainSetup, card: str, torch: str) -> dict[str, Any]:
    try:
        answer = predict(workload_on(model, setup, card, torch), may_trace=False)
    except LoraProfilerError as error:
        return {"refused": str(error)}
    if answer.saved_activation_bytes is None:
        return {"refused": "Neither rules nor a profile know this model type."}
    return {"engine": answer.engine, "exactness": answer.exactness} | _peaks(answer, False)


def _peaks(answer: Prediction, expandable: bool) -> dict[str, int | None]:
    memory = answer.device_memory
    return {
        "requested_bytes": answer.peak.total_bytes,
        "allocated_bytes": memory and memory.allocated_bytes,
        "reserved_bytes": memory
        and (memory.expandable_reserved_bytes if expandable else memory.reserved_bytes),
    }


def trace(seconds: float, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What a trace of exactly each configuration says, of those that ran alone; the fewest layers
    first."""
    alone = [r for r in rows if "rehearsed" in r and r["setup"]["world_size"] == 1]
    questions = ((digest(row), row) for row in sorted(alone, key=_layers_run))
    return continued(TRACED, lambda answer: answer["key"], questions, _traced, seconds)


def _traced(row: Row) -> dict[str, Any]:
    """`smallest_bytes`: what the allocator must be given at least, simulated."""
    from lora_profiler.trace.single_size import predict_once

    asked = row["model"], setup_from_dict(row["setup"]), row["card"], row["torch"]
    try:
        prediction = predict_once(workload_on(*asked))
    except LoraProfilerError as error:
        return {"key": digest(row), "refused": str(error)[:200]}
    memory = prediction.device_memory
    return {
        "key": digest(row),
        "exactness": prediction.exactness,
        **_peaks(prediction, row.get("expandable", False)),
        "smallest_bytes": memory and memory.smallest_bytes,
    }


def _layers_run(row: Mapping[str, Any]) -> int:
    setup, layers = row["setup"], find_model(row["model"], offline=True).num_layers
    return layers * (1 + setup["checkpointing"]) * min(2, int(setup["accumulation"]))


def digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(key(row).encode()).hexdigest()[:16]


def page(rows: Sequence[Row]) -> str:
    """Of the rows and of traces; what the package shows of the rows is written too."""
    results = [result for row in rows if (result := compared(row)) is not None]
    write_own_rows("rehearsed", packaged(rows, results))
    return rules_page.page(rows, results, compared_traces(rows, read_rows(TRACED)))


@contextmanager
def asked(options: Namespace) -> Iterator[Asked]:
    if options.trace:
        trace(options.seconds, read_rows(BENCHMARK.path))
        yield (), dict
        return
    python = options.python
    environment = read_environment(python)
    torch, libraries = environment.torch, stubs(environment, find_compiler())

    def made(configuration: Configuration) -> dict[str, Any]:
        found = rehearsed(configuration, torch, python, libraries)
        return _asked(configuration, torch) | found

    yield ((key(_asked(each, torch)), each) for each in configurations()), made


def _asked(configuration: Configuration, torch: str) -> dict[str, Any]:
    return {
        "model": configuration.model,
        "setup": setup_dict(configuration.setup),
        "card": configuration.card,
        "torch": torch,
        "expandable": configuration.expandable,
    }


def rehearsed(
    configuration: Configuration, torch: str, python: Path, libraries: Stubs
) -> dict[str, Any]:
    """Of several ranks the first."""
    setup, card = configuration.setup, configuration.card
    try:
        question = workload_on(configuration.model, setup, card, torch)
    except LoraProfilerError as error:
        return {"refused": str(error)}
    plenty = PLENTY_EXPANDABLE_BYTES if configuration.expandable else PLENTY_BYTES
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = f"expandable_segments:{configuration.expandable}"
    try:
        result = rehearsed_steps(question, find_gpu(card), python, libraries, plenty)
    except LoraProfilerError as error:
        return {"failed": str(error)[-200:]}
    document = result.document
    if result.status != "done":
        error = document["error"] or {}
        return {"failed": f"{result.status}: {error.get('type')}: {error.get('message')}"[:400]}
    return {
        "rehearsed": document["peaks"]["steady"],
        "workspaces_bytes": workspaces_bytes(document),
        "attention": document["attention"],
        "launches": document["launches"][-1],
        "categories": document["held"]["categories"],
        "second_count_is_equal": document["second_count"]["is_equal"],
    }


def packaged(
    rows: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the package shows of the rows: `facts.evidence.own`. Workspaces are put to the
    predictions."""
    found = [
        OwnRow(
            model=result["model"],
            method=(setup := setup_from_dict(result["setup"])).method,
            setup=setting(setup),
            where=result["card"],
            counted_bytes=(counted := result["rehearsed"]["requested_bytes"]),
            predicted_bytes=counted + result["errors"]["requested_bytes"],
            says_exact=result["exactness"] == "exact",
        )
        for result in results
    ]
    not_run = [
        f"{row['model']} on {row['card']}, {options_words(row)}: {row['failed'][:300]}"
        for row in rows
        if "failed" in row
    ]
    return {**own_document(found), "not_run": not_run}


def compared(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Predicted less rehearsed."""
    if "rehearsed" not in row:
        return None
    predicted = prediction(row["model"], setup_from_dict(row["setup"]), row["card"], row["torch"])
    if "refused" in predicted:
        return None
    kind = {"exactness": predicted["exactness"], "engine": predicted["engine"]}
    return kind | less(predicted, row)


def less(predicted: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with `predicted` less rehearsed as its errors; workspaces, no part of a requested
    peak, are put to it."""
    errors = {}
    for counter in ("requested_bytes", "allocated_bytes", "reserved_bytes"):
        if predicted.get(counter) is not None:
            missing = row["workspaces_bytes"] if counter == "requested_bytes" else 0
            errors[counter] = predicted[counter] + missing - row["rehearsed"][counter]
    return {**row, "errors": errors}


def compared_traces(
    rows: Sequence[Mapping[str, Any]], traced: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The same of traces, and what the allocator must be given beyond peak and workspaces."""
    answers = {answer["key"]: answer for answer in traced if "refused" not in answer}
    results = []
    for row in rows:
        answer = answers.get(digest(row))
        if answer is not None and "rehearsed" in row:
            peak = answer["requested_bytes"] + row["workspaces_bytes"]
            kind = {"engine": "traced", "exactness": answer["exactness"], "peak_bytes": peak}
            beyond = {"bytes_beyond": answer["smallest_bytes"] - peak}
            results.append(kind | beyond | less(answer, row))
    return results


BENCHMARK = Rows(text=__doc__, name="rehearsed", page=page, key=key)

if __name__ == "__main__":
    BENCHMARK.main(asked, trace={"action": "store_true"})
