"""The bundled models and cards, compiled profiles, what `doctor` found and what `calibrate`
measured, as tables, as flat records and as JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_profiler import units
from lora_profiler.facts.catalog import CatalogEntry, Gpu
from lora_profiler.measuring.harness.doctor import Diagnosis
from lora_profiler.memory.compiled.library import cache_path
from lora_profiler.memory.compiled.profile import Profile, packed
from lora_profiler.question.support.sdpa import MASK_ALIGNMENT
from lora_profiler.report.answer.verdicts import joined
from lora_profiler.report.blocks import (
    Block,
    Rows,
    Table,
    VerdictLine,
    advice,
    cell_table,
    heading,
    paragraph,
    table,
)
from lora_profiler.report.json import cell, picked
from lora_profiler.report.labels import METHOD_LABELS

if TYPE_CHECKING:
    from lora_profiler.steptime.calibration.calibrate import Calibration, FittedStep


def matching(text: str, names: Iterable[str]) -> bool:
    """Whether every word of `text` occurs in one of the names, without case."""
    lower = [name.lower() for name in names]
    return all(any(word in name for name in lower) for word in text.lower().split())


def model_names(entry: CatalogEntry) -> tuple[str, ...]:
    """Its id, and what else it is found by."""
    return (entry.id, *entry.aliases, entry.model_type)


def gpu_names(gpu: Gpu) -> tuple[str, ...]:
    return (gpu.key, gpu.name, *gpu.aliases, gpu.vendor, gpu.architecture)


def models_table(entries: Sequence[CatalogEntry]) -> Table:
    return table(
        entries,
        (
            ("model", lambda e: e.id),
            ("type", lambda e: e.model_type),
            ("access", lambda e: "gated" if e.gated else ""),
            ("parameters", lambda e: units.short_count_text(e.num_parameters)),
            ("published in", lambda e: e.checkpoint_quantization or e.dtype or "?"),
            ("count checked", lambda e: e.verification),
        ),
        left=3,
        spare=("count checked", "published in", "access"),
    )


def model_records(entries: Sequence[CatalogEntry]) -> list[dict[str, Any]]:
    return [{**e._asdict(), "aliases": list(e.aliases)} for e in entries]


def gpus_table(gpus: Sequence[Gpu]) -> Table:
    def usable(gpu: Gpu) -> str:
        if gpu.usable_bytes is None:
            return "several sizes"
        return ("~" if gpu.usable_is_estimated else "") + units.bytes_text(gpu.usable_bytes)

    def number(value: float | None) -> str:
        return "?" if value is None else f"{value:g}"

    return table(
        gpus,
        (
            ("key", lambda gpu: gpu.key),
            ("GPU", lambda gpu: gpu.name),
            ("architecture", lambda gpu: gpu.architecture),
            ("usable", usable),
            ("GB/s", lambda gpu: number(gpu.bandwidth_gb_s)),
            ("bf16 TFLOP/s", lambda gpu: number(gpu.bf16_dense_tflops)),
            ("confidence", lambda gpu: gpu.confidence),
        ),
        left=3,
        spare=("confidence", "architecture", "bf16 TFLOP/s"),
    )


def gpu_records(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    return [asdict(gpu) | picked(gpu, "usable_bytes usable_is_estimated") for gpu in gpus]


def csv_records(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: cell(value) for name, value in record.items()} for record in records]


_FACT_WIDTH = 15
"""Of the names of `doctor`'s facts: sections are printed one by one, and line up."""


def doctor_verdict(missing: Sequence[str]) -> list[Block]:
    """What this installation can do without the packages that are `missing`."""
    if not missing:
        return [VerdictLine(sign="fits", words="Predictions, traces and measurements can run.")]
    needed = f" traces and measurements lack {', '.join(missing)}."
    install = advice("Install them: `pip install 'lora-profiler[measure]'`")
    return [VerdictLine(sign="tight", words="Predictions can run;", rest=needed), install]


def doctor_table(diagnosis: Diagnosis) -> Table:
    rows = Rows()
    section = ""
    for name, label, value in diagnosis.lines:
        if name != section:
            rows.section(section := name)
        rows.add(label.ljust(_FACT_WIDTH), value)
    return rows.table("", "", left=2)


def profile_blocks(profiles: Sequence[Profile]) -> list[Block]:
    found: list[Block] = [
        table(
            profiles,
            (
                ("model", lambda p: str(p.model["id"])),
                ("method", lambda p: str(p.setup["method"])),
                ("batch", lambda p: _range_text(*p.valid["batch_size"])),
                ("tokens", _lengths_text),
                ("layers", lambda p: _range_text(*p.valid["num_layers"])),
                ("instants", lambda p: str(len(p.instants))),
                ("size", lambda p: units.bytes_text(len(packed(p)))),
            ),
            left=2,
        )
    ]
    if profiles:
        first = profiles[0]
        made = ", ".join(f"{name} {number}" for name, number in first.versions.items())
        depths = [str(depth) for depth in sorted({layers for layers, *_ in first.checked})]
        traces = f"{len(first.checked)} fresh traces, of {joined(depths)} layers"
        found.append(
            paragraph(
                f"Each was compared with {traces}, event by event.",
                f"Made with {made}; kept in {cache_path() or 'no place'}.",
            )
        )
    return found


def _lengths_text(profile: Profile) -> str:
    others = f", no multiple of {MASK_ALIGNMENT}" if profile.regime.unaligned else ""
    return f"{_range_text(*profile.valid['seq_len'])}{others}"


def profile_records(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    sizes = ("num_layers", "batch_size", "seq_len", "rank")
    return [
        {
            "key": p.key,
            "model": dict(p.model),
            "setup": dict(p.setup),
            "valid": {name: list(ends) for name, ends in p.valid.items()},
            "attention_kernels": list(p.kernels),
            "checked": [dict(zip(sizes, point, strict=True)) for point in p.checked],
            "versions": dict(p.versions),
            "unaligned": p.regime.unaligned,
            "num_instants": len(p.instants),
            "packed_bytes": len(packed(p)),
        }
        for p in profiles
    ]


def _range_text(first: int, last: int | None) -> str:
    if last is None:
        return f"{first:,} and more"
    return f"{first:,}" if last == first else f"{first:,} to {last:,}"


# --- what calibrate measured, and how far off each step is by the others' constants ---------------


def calibration_blocks(found: "Calibration", path: Path | None) -> list[Block]:
    def method(step: "FittedStep") -> str:
        setup = step.workload.setup
        return METHOD_LABELS[setup.method] + (", checkpointed" if setup.checkpointing else "")

    def size(step: "FittedStep") -> str:
        return f"{step.workload.setup.batch_size} x {step.workload.setup.seq_len:,}"

    local, made = found.local, found.local.provenance
    constants = local.constants
    threads = f", {made.threads} threads" if made.threads and local.rates.is_host else ""
    blocks: list[Block] = [
        heading(f"{made.device}{threads}, torch {made.torch}"),
        cell_table(("measured", "rate"), _measured(found)),
        table(
            found.steps,
            (
                ("step", lambda step: step.workload.model.id),
                ("method", method),
                ("batch x tokens", size),
                ("seconds", lambda step: units.seconds_text(step.seconds)),
                ("error without its model", lambda step: units.error_text(step.error)),
            ),
            left=2,
        ),
        paragraph(
            f"eta {constants.eta:.3f}, beta {constants.beta:.3f}: what steps reach of the rate of"
            " products and of the bandwidth.",
            "The largest error of a step, its model left out of the fit, is"
            f" {units.percent_text(local.half_width)}; predictions take it as their interval.",
            f"Kept in {path} as {local.key}." if path else "Not kept.",
        ),
    ]
    if found.failed:
        names = ", ".join(
            f"{r.workload.model.id} ({r.workload.setup.method}): {r.measurement.status}"
            for r in found.failed
        )
        blocks.append(paragraph(f"Left out, since they did not run through: {names}."))
    return blocks


def calibration_payload(found: "Calibration", path: Path | None) -> dict[str, Any]:
    """`calibration` is the file's own content, `measured` what the probes found, `steps` those that
    were fitted."""
    from lora_profiler.steptime.fit import document_of

    return {
        "schema_version": "1.0",
        "path": str(path) if path else None,
        "calibration": document_of(found.local),
        "measured": asdict(found.micro),
        "steps": [
            {
                "id": step.record.case_key,
                "model": step.workload.model.id,
                **picked(step.workload.setup, "method batch_size seq_len"),
                "status": step.record.measurement.status,
                "seconds": step.seconds,
                "error_model_left_out": step.error,
            }
            for step in found.steps
        ],
        "failed": [record.case_key for record in found.failed],
    }


def _measured(found: "Calibration") -> Iterator[tuple[str, str]]:
    micro, fixed = found.micro, found.local.constants.fixed
    yield "sum of two large tensors", _bytes_rate(micro.bandwidth)
    if micro.cached_bandwidth:
        yield "the same from the cache", _bytes_rate(micro.cached_bandwidth)
    if micro.fresh_bandwidth:
        yield "first writing of fresh memory", _bytes_rate(micro.fresh_bandwidth)
    for dtype, rate in micro.products.items():
        yield f"large product, {dtype}", _flops_rate(rate)
    for side, share in micro.narrow:
        yield f"    with a side of {side:.0f}", units.percent_text(share)
    yield f"attention forward, {micro.attention_dtype}", _flops_rate(micro.attention_forward)
    yield f"attention backward, {micro.attention_dtype}", _flops_rate(micro.attention_backward)
    whole = _bytes_rate(micro.dequantisation) if micro.dequantisation else "not here"
    yield "4-bit weights made whole", whole
    for name, rate in sorted(micro.operators.items(), key=lambda pair: pair[1]):
        yield name, _bytes_rate(rate)
    yield "launch of one kernel", units.seconds_text(fixed.launch_seconds)
    yield "optimizer's own time", units.seconds_text(fixed.step_seconds)


def _bytes_rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:,.1f} GB/s"


def _flops_rate(flops_per_second: float) -> str:
    return f"{units.flops_text(round(flops_per_second))}/s"
