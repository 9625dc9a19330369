"""The bundled models and cards as tables and as flat records; what `doctor` found as a table."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from lora_profiler.catalog import CatalogEntry, Gpu
from lora_profiler.harness.doctor import Diagnosis
from lora_profiler.report.blocks import Row, Table
from lora_profiler.units import bytes_text, short_count_text


def matching(text: str, names: Iterable[str]) -> bool:
    """Whether every word of `text` occurs in one of the names, without case."""
    lower = [name.lower() for name in names]
    return all(any(word in name for name in lower) for word in text.lower().split())


def models_table(entries: Sequence[CatalogEntry]) -> Table:
    rows = [
        Row(
            cells=(
                e.id,
                e.model_type,
                "gated" if e.gated else "",
                short_count_text(e.num_parameters),
                e.checkpoint_quantization or e.dtype or "?",
                e.verification,
            )
        )
        for e in entries
    ]
    columns = ("model", "type", "access", "parameters", "published in", "count checked")
    return Table(columns=columns, rows=tuple(rows), left=3)


def model_records(entries: Sequence[CatalogEntry]) -> list[dict[str, Any]]:
    return [{**asdict(e), "aliases": list(e.aliases)} for e in entries]


def gpus_table(gpus: Sequence[Gpu]) -> Table:
    rows = [
        Row(
            cells=(
                gpu.key,
                gpu.name,
                gpu.architecture,
                _usable_text(gpu),
                _number_text(gpu.bandwidth_gb_s),
                _number_text(gpu.bf16_dense_tflops),
                gpu.confidence,
            )
        )
        for gpu in gpus
    ]
    columns = ("key", "card", "architecture", "usable", "GB/s", "bf16 TFLOP/s", "confidence")
    return Table(columns=columns, rows=tuple(rows), left=3)


def _usable_text(gpu: Gpu) -> str:
    if gpu.usable_bytes is None:
        return "several sizes"
    return ("~" if gpu.usable_is_estimated else "") + bytes_text(gpu.usable_bytes)


def _number_text(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def gpu_records(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    return [
        asdict(gpu)
        | {"usable_bytes": gpu.usable_bytes, "usable_is_estimated": gpu.usable_is_estimated}
        for gpu in gpus
    ]


def csv_records(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records with lists as text, for a flat file."""
    return [
        {k: "; ".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in r.items()}
        for r in records
    ]


def doctor_table(diagnosis: Diagnosis) -> Table:
    rows: list[Row] = []
    section = ""
    for name, label, value in diagnosis.lines:
        if name != section:
            section = name
            rows.append(Row(cells=(section,), kind="section"))
        rows.append(Row(cells=(label, value), indent=1))
    return Table(columns=("", ""), rows=tuple(rows), left=2)
