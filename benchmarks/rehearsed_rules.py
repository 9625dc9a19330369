"""Predictions against rehearsals: the harness's own training steps over the real CUDA build of
torch on pretended cards, at full model size.

    python -m benchmarks.rehearsed_rules --python PYTHON [--seconds N] [--again]

PYTHON is of an environment with a CUDA build of torch, transformers, PEFT and bitsandbytes.
Appends to `results/rehearsed.jsonl`, a row as each of COUNT seeded configurations ends, and writes
`results/rehearsed.md`. What is there is not run again, so that it can be done in pieces
(--seconds). --again predicts anew and writes the page only. --trace asks a trace of every
configuration too, which takes some seconds each, and appends to `results/rehearsed_traced.jsonl`.
Rows hold sizes and no times: nothing was measured.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.own_rows import own_document, write_rows
from benchmarks.rehearsed_configurations import Configuration, configurations
from lora_profiler.analytic.families import FAMILIES
from lora_profiler.catalog import find_gpu, find_model
from lora_profiler.errors import LoraProfilerError
from lora_profiler.evidence import OwnRow
from lora_profiler.planning.engine import predict
from lora_profiler.platform import Platform, version_of
from lora_profiler.prediction import Prediction
from lora_profiler.records.serialize import setup_dict, setup_from_dict, workload_dict
from lora_profiler.rehearsal.build import stubs
from lora_profiler.rehearsal.cards import pretended
from lora_profiler.rehearsal.compiler import find_compiler
from lora_profiler.rehearsal.environment import read_environment
from lora_profiler.rehearsal.launch import Request, rehearse
from lora_profiler.report.measured_runs import setting
from lora_profiler.workload import TrainSetup, Workload, key_fields

HERE = Path(__file__).parent
ROWS = HERE / "results" / "rehearsed.jsonl"
TRACED = HERE / "results" / "rehearsed_traced.jsonl"
PAGE = HERE / "results" / "rehearsed.md"
MIB = 1 << 20
PLENTY_BYTES, PLENTY_EXPANDABLE_BYTES = 1 << 42, 1 << 40
"""Of every card: sizes are compared here, not verdicts. Each pool of expandable segments reserves
addresses for a whole card."""


def key(row: Mapping[str, Any]) -> str:
    """The same for rows from before `setup` had its newest fields."""
    setup = key_fields(setup_from_dict(row["setup"]))
    return json.dumps([row["model"], setup, row["card"], row.get("expandable", False)])


def workload(model: str, setup: TrainSetup, card: str, torch: str) -> Workload:
    """Raises LoraProfilerError for a combination that is refused."""
    version = version_of(torch)
    assert version is not None
    platform = Platform(capability=find_gpu(card).capability, torch=version)
    return Workload(model=find_model(model, offline=True), setup=setup, platform=platform)


def prediction(model: str, setup: TrainSetup, card: str, torch: str) -> dict[str, Any]:
    try:
        answer = predict(workload(model, setup, card, torch), may_trace=False)
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


def trace(until: float, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a trace of exactly each configuration says, of those that ran alone; the fewest layers
    first. `smallest_bytes`: what the allocator must be given at least, simulated."""
    from lora_profiler.traced.single_size import predict_once

    traced = [json.loads(line) for line in TRACED.read_text("utf-8").splitlines()]
    keys = {answer["key"] for answer in traced}
    alone = [r for r in rows if "rehearsed" in r and r["setup"]["world_size"] == 1]
    for row in sorted(alone, key=_layers_run):
        name = digest(row)
        if name in keys:
            continue
        if time.monotonic() > until:
            break
        question = workload(row["model"], setup_from_dict(row["setup"]), row["card"], row["torch"])
        answer: dict[str, Any] = {"key": name}
        try:
            prediction = predict_once(question)
        except LoraProfilerError as error:
            answer["refused"] = str(error)[:200]
        else:
            answer |= _peaks(prediction, row.get("expandable", False))
            memory = prediction.device_memory
            answer["smallest_bytes"] = memory and memory.smallest_bytes
        with open(TRACED, "a") as file:
            file.write(json.dumps(answer) + "\n")
        traced.append(answer)
    return traced


def _layers_run(row: Mapping[str, Any]) -> int:
    setup, layers = row["setup"], find_model(row["model"], offline=True).num_layers
    return layers * (1 + setup["checkpointing"]) * min(2, int(setup["accumulation"]))


def digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(key(row).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if not options.again and not options.trace:
        rows += run(options.python, until, rows)
    traced = trace(until if options.trace else 0, rows)
    PAGE.write_text(page(rows, traced))
    write_rows("rehearsed", packaged(rows))


def run(python: Path, until: float, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    environment = read_environment(python)
    libraries = stubs(environment, find_compiler())
    keys = {key(row) for row in rows}
    os.environ["PYTHONPATH"] = str(HERE.parent)
    added = []
    for configuration in configurations():
        row: dict[str, Any] = {
            "model": configuration.model,
            "setup": setup_dict(configuration.setup),
            "card": configuration.card,
            "torch": environment.torch,
            "expandable": configuration.expandable,
        }
        if key(row) in keys:
            continue
        if time.monotonic() > until:
            break
        row |= rehearsed(configuration, environment.torch, python, libraries)
        with open(ROWS, "a") as file:
            file.write(json.dumps(row) + "\n")
        added.append(row)
    return added


def rehearsed(
    configuration: Configuration, torch: str, python: Path, libraries: Any
) -> dict[str, Any]:
    """Of several ranks the first."""
    setup, card = configuration.setup, configuration.card
    try:
        question = workload(configuration.model, setup, card, torch)
    except LoraProfilerError as error:
        return {"refused": str(error)}
    plenty = PLENTY_EXPANDABLE_BYTES if configuration.expandable else PLENTY_BYTES
    big = replace(pretended(find_gpu(card), 0), total_bytes=plenty)
    ranks = ("-m", "torch.distributed.run", f"--nproc-per-node={setup.world_size}")
    step = (str(HERE / "rehearsed_step.py"), json.dumps(workload_dict(question)))
    command = ("python", *(ranks if setup.world_size > 1 else ()), *step)
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = f"expandable_segments:{configuration.expandable}"
    try:
        with open(os.devnull, "wb") as nowhere:
            result, *_ = rehearse(
                Request(command=command, python=python, card=big, count=setup.world_size),
                libraries,
                nowhere.fileno(),
            )
    except LoraProfilerError as error:
        return {"failed": str(error)[-200:]}
    document = result.document
    if result.status != "done":
        error = document["error"] or {}
        return {"failed": f"{result.status}: {error.get('type')}: {error.get('message')}"[:400]}
    workspaces = (document["held"]["categories"] or {}).get("workspaces of BLAS", 0)
    return {
        "rehearsed": document["peaks"]["steady"],
        "workspaces_bytes": workspaces,
        "attention": document["attention"],
        "launches": document["launches"][-1],
        "categories": document["held"]["categories"],
        "second_count_is_equal": document["second_count"]["is_equal"],
    }


def packaged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the package shows of the rows: `evidence.own`. Workspaces are put to the predictions."""
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
        for row in rows
        if (result := compared(row)) is not None
    ]
    not_run = [
        f"{row['model']} on {row['card']}, {_options(row)}: {row['failed'][:300]}"
        for row in rows
        if "failed" in row
    ]
    return {**own_document(found), "not_run": not_run}


# --- the page -------------------------------------------------------------------------------------


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


def page(rows: Sequence[Mapping[str, Any]], traced: Sequence[Mapping[str, Any]]) -> str:
    results = [result for row in rows if (result := compared(row)) is not None]
    refused = sum("refused" in row for row in rows)
    failed = [row for row in rows if "failed" in row]
    count = sum(1 for _ in configurations())
    lines = [
        "# Predicted and rehearsed",
        "",
        f"`python -m benchmarks.rehearsed_rules`: {len(rows)} of {count} seeded configurations so "
        "far, over the real CUDA build of torch on pretended cards of plenty of memory, at full "
        "model size; steady peak of three steps. Rehearsed, not measured. BLAS workspaces are "
        "added to the prediction. "
        f"{refused} are refused before they run, {len(failed)} did not run.",
        "",
        *_nearness(results),
        "",
        *_HEADER,
        _summary("all", results),
    ]
    groups = {
        "answers": lambda r: f"{r['engine']}, {r['exactness']}",
        "card": lambda r: r["card"],
        "method": _method,
        "attention": lambda r: r["setup"]["attention"] + " " + (", ".join(r["attention"]) or "-"),
        "model type": lambda r: find_model(r["model"], offline=True).model_type,
    }
    for name, group in groups.items():
        for value in sorted({group(result) for result in results}):
            of_value = [result for result in results if group(result) == value]
            lines.append(_summary(f"{name}: {value}", of_value))
    lines += ["", "The worst by requested bytes:", "", *_worst(results, "requested_bytes")]
    lines += _of_traces(rows, traced)
    lines += ["", "What did not run:", ""] if failed else []
    lines += [
        f"- {row['model']} on {row['card']}, {_options(row)}: {row['failed']}" for row in failed
    ]
    return "\n".join(lines) + "\n"


_HEADER = (
    "| | compared | requested equal | mean | worst | allocated equal | mean | worst | "
    "reserved equal | mean | worst |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def _worst(results: Sequence[Mapping[str, Any]], counter: str) -> list[str]:
    """A table of at most 25 that are not equal."""
    lines = ["| model | card | options | predicted less rehearsed | share | answer |"]
    lines += ["| --- | --- | --- | ---: | ---: | --- |"]
    unequal = [result for result in results if result["errors"][counter]]
    for result in sorted(unequal, key=lambda r: -abs(_share(r, counter)))[:25]:
        lines.append(
            f"| {result['model']} | {result['card']} | {_options(result)} | "
            f"{result['errors'][counter]:,} | {_share(result, counter):+.4%} | "
            f"{result['engine']}, {result['exactness']} |"
        )
    return lines


def _of_traces(rows: Sequence[Mapping[str, Any]], traced: Sequence[Mapping[str, Any]]) -> list[str]:
    answers = {answer["key"]: answer for answer in traced if "refused" not in answer}
    results, margins = [], []
    for row in rows:
        answer = answers.get(digest(row))
        if answer is not None and "rehearsed" in row:
            kind = {"engine": "traced", "exactness": "exact"}
            results.append(kind | less(answer, row))
            peak = answer["requested_bytes"] + row["workspaces_bytes"]
            margins.append((answer["smallest_bytes"] - peak, peak))
    if not results:
        return []
    beyond = [(more, more / peak) for more, peak in margins]
    kinds = {
        "model types without rules": lambda r: (
            find_model(r["model"], offline=True).model_type not in FAMILIES
        ),
        "expandable segments": lambda r: r.get("expandable"),
        "plain segments": lambda r: not r.get("expandable"),
    }
    return [
        "",
        "## Traces and the simulated allocator",
        "",
        "`--trace`: the same configurations, each traced at exactly its size, and the trace "
        "replayed through the simulated allocator with BLAS workspaces.",
        "",
        *_HEADER,
        _summary("all", results),
        *(
            _summary(name, of_kind)
            for name, holds in kinds.items()
            if (of_kind := [result for result in results if holds(result)])
        ),
        "",
        "The least that the allocator completes two steps with, simulated, is above peak and "
        f"workspaces by {mean(share for _, share in beyond):.1%} on average, by at most "
        f"{max(share for _, share in beyond):.1%}; in bytes by at most "
        f"{max(more for more, _ in beyond) / MIB:,.0f} MiB.",
        "",
        "The worst by requested bytes:",
        "",
        *_worst(results, "requested_bytes"),
        "",
        "The worst by reserved bytes:",
        "",
        *_worst(results, "reserved_bytes"),
    ]


def _nearness(results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for exactness in ("exact", "estimate"):
        of_kind = [result for result in results if result["exactness"] == exactness]
        errors = [abs(result["errors"]["requested_bytes"]) for result in of_kind]
        near = sum(abs(_share(result, "requested_bytes")) <= 0.001 for result in of_kind)
        lines.append(
            f"- Answers that say {exactness}: {len(of_kind)}. Requested bytes are equal in "
            f"{errors.count(0)}, within 4 KiB in {sum(error <= 4096 for error in errors)}, within "
            f"0.1 % in {near}."
        )
    return lines


def _share(result: Mapping[str, Any], counter: str) -> float:
    return float(result["errors"].get(counter, 0) / result["rehearsed"][counter])


def _summary(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    cells = [name, str(len(results))]
    for counter in ("requested_bytes", "allocated_bytes", "reserved_bytes"):
        counted = [result for result in results if counter in result["errors"]]
        if not counted:
            cells += ["-", "-", "-"]
            continue
        shares = [abs(_share(result, counter)) for result in counted]
        equal = sum(result["errors"][counter] == 0 for result in counted)
        cells += [f"{equal} of {len(counted)}", f"{mean(shares):.3%}", f"{max(shares):.3%}"]
    return f"| {' | '.join(cells)} |"


def _method(row: Mapping[str, Any]) -> str:
    setup = setup_from_dict(row["setup"])
    return "full" if setup.lora is None else "QLoRA" if setup.quantization else "LoRA"


def _options(row: Mapping[str, Any]) -> str:
    setup = setup_from_dict(row["setup"])
    words = [_method(row), f"{setup.batch_size} x {setup.seq_len}", setup.dtype, setup.attention]
    words += ["amp"] if setup.precision == "amp" else []
    words += ["checkpointing"] if setup.checkpointing else []
    words += [f"accumulation {setup.accumulation}"] if setup.accumulation > 1 else []
    words += [setup.optimizer_impl] if setup.optimizer_impl != "foreach" else []
    if setup.lora is not None and setup.lora.lora_dropout:
        words.append("dropout")
    if setup.quantization is not None:
        words.append(setup.quantization.recipe)
    return ", ".join(words)


if __name__ == "__main__":
    main()
