"""Rows of the stand-alone GPU probe turned into records, so that they are compared like any other.

    python -m benchmarks.convert_probe benchmarks/gpu_probe/CARD/grid.jsonl -o benchmarks/records/CARD-probe/records.jsonl

The probe trained one case a process and read the caching allocator's counters at the end of forward (the loss within it),
backward and optimizer step; it kept neither times of day, nor the platform, nor what the peak is made of. What it did not
measure stays None; what it did not note, but a record must name, reads "not recorded". Rows that held on to the logits
(`keep_outputs`) ask a question that a workload cannot put, and are left out. Failed rows become failed records.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lora_profiler
from lora_profiler.catalog import model_from_config
from lora_profiler.harness.failures_text import without_paths
from lora_profiler.model_spec import ModelSpec
from lora_profiler.records.atomic_write import write_durably
from lora_profiler.records.record import (
    Conditions,
    Device,
    DeviceSample,
    Environment,
    Failure,
    Measurement,
    PhaseSample,
    Record,
    Status,
)
from lora_profiler.records.serialize import record_dict
from lora_profiler.records.statistics import half_width_limit, relative_half_width
from lora_profiler.records.validate import problems
from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload

Row = Mapping[str, Any]

NOT_RECORDED = "not recorded"
PACKAGES = ("accelerate", "bitsandbytes", "peft", "torch", "transformers")
CONTEXT_RESERVED_BYTES = 2 * 2**20
"""The segment that the probe's first tensor took before the driver was asked what the context takes."""
WHEN = {"start": "idle", "context": "context", "after 3 steps": "end"}
"""The probe's names of its looks at the driver; what is reserved after three steps stays reserved to the end."""
STAGES = {"build": "load", "timing": "timing", "profile": "end"}
KERNELS = {"cudnn": "cudnn", "fmha_cutlass": "efficient", "flash": "flash"}
"""Parts of the names of attention kernels, in the order in which they decide."""
_TRIED = re.compile(r"Tried to allocate ([0-9.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_PLACE = re.compile(r"(forward|backward|optimizer) of step (\d+)")


def record_from_probe(row: Row) -> Record:
    """The record of one row. Raises KeyError for a row without its model's config, UsageError for a case out of range."""
    device = _environment(row).device.kind
    seconds = tuple(row.get("step_seconds") or ())
    conditions = Conditions(memory_steps=3, min_timed_steps=len(seconds) or Conditions().min_timed_steps)
    return Record(
        workload=Workload(model=_model(row), setup=_setup(row["case"], device)),
        conditions=conditions,
        environment=_environment(row),
        measurement=_measurement(row, seconds, device),
    )


def asks_our_question(row: Row) -> bool:
    """Whether the row is a case that a workload can describe: only the loss was held after forward."""
    return row.get("kind") == "case" and not row["case"].get("keep_outputs")


def convert(rows: Iterable[Row]) -> list[Record]:
    """Every row that asks our question, in order; a case that was tried again is a repeat.

    What the probe's parent wrote for a child that told nothing lacks config and environment: they are those of the other rows
    of the same model and file.
    """
    found = [row for row in rows if asks_our_question(row)]
    configs = {row["case"]["model"]: row["config"] for row in found if row.get("config")}
    environment: Row = next((row["environment"] for row in found if row.get("environment")), {})
    records: list[Record] = []
    seen: Counter[str] = Counter()
    for row in found:
        whole = {"config": configs[row["case"]["model"]], "environment": environment, **_present(row)}
        record = record_from_probe(whole)
        name = f"{record.case_key}.{record.environment.key}"
        records.append(replace(record, repeat=seen[name]))
        seen[name] += 1
    return records


def read_rows(text: str) -> list[Row]:
    """The rows of a file of the probe; a line that a crash left half written is passed over."""
    rows = []
    for line in filter(None, map(str.strip, text.splitlines())):
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _present(row: Row) -> Row:
    return {name: value for name, value in row.items() if value not in (None, {}, [])}


# --- the question ---------------------------------------------------------------------------------------------------------


def _model(row: Row) -> ModelSpec:
    config = dict(row["config"])
    if config["model_type"] == "gpt2":  # the probe turned its dropouts off after the config was made
        config |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    return model_from_config(config, id=row["case"]["model"], source="file")


def _setup(case: Row, device: str) -> TrainSetup:
    lora = None
    if case["method"] != "full":
        targets = case["targets"]
        lora = LoraConfig(
            r=case["rank"],
            lora_alpha=2 * case["rank"],
            lora_dropout=case["dropout"],
            target_modules=targets if targets == "all-linear" else tuple(targets.split(",")),
            adapter_dtype=case["adapter_dtype"],
        )
    return TrainSetup(
        lora=lora,
        quantization=Quantization(double_quant=case["double_quant"]) if case["method"] == "qlora" else None,
        batch_size=case["batch_size"],
        seq_len=case["seq_len"],
        dtype=case["dtype"],
        precision=case["precision"],
        optimizer_impl=case["optimizer_impl"],
        checkpointing=case["checkpointing"],
        attention="auto" if case["attention"] == "sdpa" else case["attention"],
        device=device,  # type: ignore[arg-type]
    )


# --- where it ran -----------------------------------------------------------------------------------------------------------


def _environment(row: Row) -> Environment:
    found = row.get("environment") or {}
    kind = found.get("device", "cuda")
    device = Device(
        kind=kind,
        name=found.get("gpu") or NOT_RECORDED,
        total_bytes=found.get("gpu_bytes"),
        compute_capability=found.get("capability"),
        driver=found.get("driver"),
        cuda=found.get("cuda"),
        cudnn=None if found.get("cudnn") is None else str(found["cudnn"]),
    )
    settings = found.get("alloc_conf")
    packages = {name: found[name] for name in PACKAGES if found.get(name)}
    return Environment(
        python=found.get("python") or NOT_RECORDED,
        platform=NOT_RECORDED,
        packages={"lora-profiler": lora_profiler.__version__, **packages},
        device=device,
        variables={} if settings is None else {"PYTORCH_CUDA_ALLOC_CONF": settings},
        command="probe.py grid, converted by benchmarks.convert_probe",
    )


# --- what it showed -------------------------------------------------------------------------------------------------------


def _measurement(row: Row, seconds: tuple[float, ...], device: str) -> Measurement:
    samples = tuple(_sample(phase) for phase in row.get("phases") or ())
    samples = tuple(s for s in samples if s.requested_peak_bytes is not None)
    requested, first = _peaks(samples, steady=True), _peaks(samples, steady=False)
    highest = max(requested, key=lambda phase: requested[phase], default=None)
    steady = [s for s in samples if s.step > 1]
    tokens = row["case"]["batch_size"] * row["case"]["seq_len"]
    return Measurement(
        status=_status(row, seconds, device),
        failure=None if row["status"] == "ok" else _failure(row),
        flags=("memory_pressure",) if (row.get("health") or {}).get("num_alloc_retries") else (),
        num_parameters=row.get("num_parameters"),
        num_trainable_parameters=row.get("num_trainable"),
        attention_kernel=_attention_kernel(row),
        tokens_per_step=tokens,
        nonpad_tokens_per_step=tokens,
        supervised_tokens_per_step=tokens,
        step_seconds=seconds,
        block_seconds=row.get("wall_seconds"),
        loss=tuple(row.get("loss") or ()),
        peak_requested_bytes=None if highest is None else requested[highest],
        peak_allocated_bytes=max((s.allocated_peak_bytes for s in steady if s.allocated_peak_bytes is not None), default=None),
        peak_reserved_bytes=max((s.reserved_peak_bytes for s in steady if s.reserved_peak_bytes is not None), default=None),
        peak_phase=highest,
        phase_peak_bytes=requested,
        step1_phase_peak_bytes=first,
        phases=samples,
        persistent_bytes=row.get("persistent_bytes") or {},
        health={name: value for name, value in (row.get("health") or {}).items() if value is not None},
        **_driver_view(row),
    )


def _sample(phase: Row) -> PhaseSample:
    return PhaseSample(
        step=phase["step"] + 1,
        phase=phase["phase"],
        requested_bytes=phase.get("requested_bytes_current"),
        requested_peak_bytes=phase.get("requested_bytes_peak"),
        allocated_bytes=phase.get("allocated_bytes_current"),
        allocated_peak_bytes=phase.get("allocated_bytes_peak"),
        active_peak_bytes=phase.get("active_bytes_peak"),
        reserved_bytes=phase.get("reserved_bytes_current"),
        reserved_peak_bytes=phase.get("reserved_bytes_peak"),
    )


def _peaks(samples: Sequence[PhaseSample], steady: bool) -> dict[Any, int]:
    """The largest requested peak by phase, of steps from the second on or of the first alone."""
    found: dict[Any, int] = {}
    for s in samples:
        if (s.step > 1) == steady and s.requested_peak_bytes is not None:
            found[s.phase] = max(s.requested_peak_bytes, found.get(s.phase, 0))
    return found


def _driver_view(row: Row) -> dict[str, Any]:
    looks = {WHEN[when]: used for when, used in row.get("device_used") or () if used is not None}
    idle, context, end = (looks.get(when) for when in ("idle", "context", "end"))
    return {
        "device_samples": tuple(DeviceSample(when=when, used_bytes=used) for when, used in looks.items()),
        "device_used_bytes": None if idle is None or end is None else end - idle,
        "context_bytes": None if idle is None or context is None else context - idle - CONTEXT_RESERVED_BYTES,
        "process_vram_method": "none" if idle is None or end is None else "device_delta",
    }


def _status(row: Row, seconds: tuple[float, ...], device: str) -> Status:
    if row["status"] != "ok":
        return row["status"]  # type: ignore[no-any-return]
    noisy = relative_half_width(seconds) > half_width_limit(device)
    pressed = (row.get("health") or {}).get("num_alloc_retries")
    return "noisy" if noisy or pressed else "ok"


def _failure(row: Row) -> Failure:
    """How the row ended: its error, and where in the run it stood."""
    doing, error = row.get("doing") or "", without_paths(row.get("error") or "the probe gave no reason")
    place = _PLACE.fullmatch(doing)
    tried = _TRIED.search(error)
    return Failure(
        reason=error[:600],
        phase=place[1] if place else STAGES.get(doing),
        step=int(place[2]) + 1 if place else None,
        tried_bytes=round(float(tried[1]) * _UNITS[tried[2]]) if tried else None,
        exit_code=row.get("returncode"),
        log=without_paths(row["where"])[-1500:] if row.get("where") else None,
    )


def _attention_kernel(row: Row) -> str | None:
    names = " ".join((row.get("kernels") or {}).get("attention") or ()).lower()
    return next((kernel for part, kernel in KERNELS.items() if part in names), None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert_probe", description=__doc__.partition("\n")[0])
    parser.add_argument("rows", type=Path, nargs="+", help="grid.jsonl of the probe, of one machine")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file of records to write")
    asked = parser.parse_args(arguments)
    rows = [row for path in asked.rows for row in read_rows(path.read_text("utf-8"))]
    records = convert(rows)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    write_durably(asked.output, "".join(json.dumps(record_dict(record)) + "\n" for record in records))
    print(f"{len(records)} of {len(rows)} rows converted; {len(rows) - len(records)} ask another question (logits held).")
    wrong = [f"{record.id}: {sentence}" for record in records for sentence in problems(record)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
