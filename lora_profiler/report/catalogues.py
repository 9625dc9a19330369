"""The bundled models and cards, compiled profiles and what `doctor` found, as tables and as flat
records."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from lora_profiler.catalog import CatalogEntry, Gpu
from lora_profiler.compiled.library import cache_path
from lora_profiler.compiled.profile import Profile, packed
from lora_profiler.harness.doctor import Diagnosis
from lora_profiler.report.blocks import Block, Rows, Table, paragraph, table
from lora_profiler.report.json import cell, picked
from lora_profiler.units import bytes_text, short_count_text


def matching(text: str, names: Iterable[str]) -> bool:
    """Whether every word of `text` occurs in one of the names, without case."""
    lower = [name.lower() for name in names]
    return all(any(word in name for name in lower) for word in text.lower().split())


def models_table(entries: Sequence[CatalogEntry]) -> Table:
    return table(
        entries,
        (
            ("model", lambda e: e.id),
            ("type", lambda e: e.model_type),
            ("access", lambda e: "gated" if e.gated else ""),
            ("parameters", lambda e: short_count_text(e.num_parameters)),
            ("published in", lambda e: e.checkpoint_quantization or e.dtype or "?"),
            ("count checked", lambda e: e.verification),
        ),
        left=3,
    )


def model_records(entries: Sequence[CatalogEntry]) -> list[dict[str, Any]]:
    return [{**asdict(e), "aliases": list(e.aliases)} for e in entries]


def gpus_table(gpus: Sequence[Gpu]) -> Table:
    def usable(gpu: Gpu) -> str:
        if gpu.usable_bytes is None:
            return "several sizes"
        return ("~" if gpu.usable_is_estimated else "") + bytes_text(gpu.usable_bytes)

    def number(value: float | None) -> str:
        return "?" if value is None else f"{value:g}"

    return table(
        gpus,
        (
            ("key", lambda gpu: gpu.key),
            ("card", lambda gpu: gpu.name),
            ("architecture", lambda gpu: gpu.architecture),
            ("usable", usable),
            ("GB/s", lambda gpu: number(gpu.bandwidth_gb_s)),
            ("bf16 TFLOP/s", lambda gpu: number(gpu.bf16_dense_tflops)),
            ("confidence", lambda gpu: gpu.confidence),
        ),
        left=3,
    )


def gpu_records(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    return [asdict(gpu) | picked(gpu, "usable_bytes usable_is_estimated") for gpu in gpus]


def csv_records(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with lists as text, for a flat file."""
    return [{name: cell(value) for name, value in record.items()} for record in records]


def doctor_table(diagnosis: Diagnosis) -> Table:
    rows = Rows()
    section = ""
    for name, label, value in diagnosis.lines:
        if name != section:
            rows.section(section := name)
        rows.add(label, value)
    return rows.table("", "", left=2)


def profile_blocks(profiles: Sequence[Profile]) -> list[Block]:
    found: list[Block] = [
        table(
            profiles,
            (
                ("model", lambda p: str(p.model["id"])),
                ("method", lambda p: str(p.setup["method"])),
                ("batch", lambda p: _range_text(*p.valid["batch_size"])),
                ("tokens", lambda p: _range_text(*p.valid["seq_len"])),
                ("layers", lambda p: _range_text(*p.valid["num_layers"])),
                ("instants", lambda p: str(len(p.instants))),
                ("size", lambda p: bytes_text(len(packed(p)))),
            ),
            left=2,
        )
    ]
    if profiles:
        first = profiles[0]
        made = ", ".join(f"{name} {number}" for name, number in first.versions.items())
        deepest = max(layers for layers, *_ in first.checked)
        traces = f"{len(first.checked)} fresh traces, one of them of all {deepest} layers"
        found.append(
            paragraph(
                f"Each was compared with {traces}, event by event.",
                f"Made with {made}; kept in {cache_path() or 'no place'}.",
            )
        )
    return found


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
            "num_instants": len(p.instants),
            "packed_bytes": len(packed(p)),
        }
        for p in profiles
    ]


def _range_text(first: int, last: int | None) -> str:
    if last is None:
        return f"{first:,} and more"
    return f"{first:,}" if last == first else f"{first:,} to {last:,}"
