"""A calibration as tables and as JSON: what was measured, what was fitted, how far off each step is
by the others' constants."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_profiler.calibration.calibrate import Calibration, FittedStep
from lora_profiler.report.blocks import Block, Row, Table, heading, paragraph
from lora_profiler.report.json import picked
from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.steptime.local import document_of
from lora_profiler.units import error_text, flops_text, percent_text, seconds_text


def calibration_blocks(found: Calibration, path: Path | None) -> list[Block]:
    local, made = found.local, found.local.provenance
    constants = local.constants
    threads = f", {made.threads} threads" if made.threads and local.rates.is_host else ""
    blocks: list[Block] = [
        heading(f"{made.device}{threads}, torch {made.torch}"),
        Table(
            columns=("measured", "rate"), rows=tuple(Row(cells=cells) for cells in _measured(found))
        ),
        Table(
            columns=("step", "method", "batch x tokens", "seconds", "error without its model"),
            rows=tuple(Row(cells=_step(step)) for step in found.steps),
            left=2,
        ),
        paragraph(
            f"eta {constants.eta:.3f}, beta {constants.beta:.3f}: what steps reach of the rate of"
            " products and of the bandwidth.",
            "The largest error of a step whose model was left out is"
            f" {percent_text(local.half_width)}; predictions take it as their interval.",
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


def calibration_payload(found: Calibration, path: Path | None) -> dict[str, Any]:
    """`calibration` is the file's own content, `measured` what the probes found, `steps` those that
    were fitted."""
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


def _measured(found: Calibration) -> Iterator[tuple[str, str]]:
    micro, fixed = found.micro, found.local.constants.fixed
    yield "sum of two large tensors", _bytes_rate(micro.bandwidth)
    if micro.cached_bandwidth:
        yield "the same from the cache", _bytes_rate(micro.cached_bandwidth)
    if micro.fresh_bandwidth:
        yield "first writing of fresh memory", _bytes_rate(micro.fresh_bandwidth)
    for dtype, rate in micro.products.items():
        yield f"large product, {dtype}", _flops_rate(rate)
    for side, share in micro.narrow:
        yield f"    with a side of {side:.0f}", percent_text(share)
    yield f"attention forward, {micro.attention_dtype}", _flops_rate(micro.attention_forward)
    yield f"attention backward, {micro.attention_dtype}", _flops_rate(micro.attention_backward)
    whole = _bytes_rate(micro.dequantisation) if micro.dequantisation else "not here"
    yield "4-bit weights made whole", whole
    for name, rate in sorted(micro.operators.items(), key=lambda pair: pair[1]):
        yield name, _bytes_rate(rate)
    yield "launch of one kernel", seconds_text(fixed.launch_seconds)
    yield "optimizer's own time", seconds_text(fixed.step_seconds)


def _step(step: FittedStep) -> tuple[str, ...]:
    setup = step.workload.setup
    method = METHOD_LABELS[setup.method] + (", checkpointed" if setup.checkpointing else "")
    size = f"{setup.batch_size} x {setup.seq_len:,}"
    return step.workload.model.id, method, size, seconds_text(step.seconds), error_text(step.error)


def _bytes_rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:,.1f} GB/s"


def _flops_rate(flops_per_second: float) -> str:
    return f"{flops_text(round(flops_per_second))}/s"
