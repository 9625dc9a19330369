"""Compiled profiles as a table and as flat records: what each answers for, and what was checked."""

from collections.abc import Sequence
from typing import Any

from lora_profiler.compiled.library import cache_path
from lora_profiler.compiled.profile import Profile, packed
from lora_profiler.report.blocks import Block, Row, Table, paragraph
from lora_profiler.units import bytes_text


def profile_blocks(profiles: Sequence[Profile]) -> list[Block]:
    rows = [
        Row(
            cells=(
                str(p.model["id"]),
                str(p.setup["method"]),
                *(_range_text(*p.valid[name]) for name in ("batch_size", "seq_len", "num_layers")),
                str(len(p.instants)),
                bytes_text(len(packed(p))),
            )
        )
        for p in profiles
    ]
    columns = ("model", "method", "batch", "tokens", "layers", "instants", "size")
    found: list[Block] = [Table(columns=columns, rows=tuple(rows), left=2)]
    if profiles:
        first = profiles[0]
        made = ", ".join(f"{name} {number}" for name, number in first.versions.items())
        deepest = max(layers for layers, *_ in first.checked)
        found.append(
            paragraph(
                f"Each was compared with {len(first.checked)} fresh traces, one of them of all"
                f" {deepest} layers, event by event.",
                f"Made with {made}; kept in {cache_path() or 'no place'}.",
            )
        )
    return found


def profile_records(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    return [
        {
            "key": p.key,
            "model": dict(p.model),
            "setup": dict(p.setup),
            "valid": {name: list(ends) for name, ends in p.valid.items()},
            "attention_kernels": list(p.kernels),
            "checked": [
                dict(zip(("num_layers", "batch_size", "seq_len", "rank"), point, strict=True))
                for point in p.checked
            ],
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
