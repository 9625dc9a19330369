"""The page of a rehearsal: its answer in full, and the numbers for machines."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.report.blocks import Bars, Block, Verdict, parts_table
from lora_profiler.report.page.content import Content
from lora_profiler.report.parts import Section


def rehearsal_content(
    blocks: Sequence[Block], command: Sequence[str], document: Mapping[str, Any]
) -> Content:
    """`blocks` are those of `report.rehearsed.rehearsal_blocks`, in detail."""
    verdict = next(block for block in blocks if isinstance(block, Verdict))
    parts = [parts_table(block) if isinstance(block, Bars) else block for block in blocks]
    return Content(
        title=verdict.words.rstrip(":,"),
        lines=(
            f"{verdict.words}{verdict.rest}",
            shlex.join(command),
            "Simulated without a GPU, not measured on one.",
        ),
        cards=(),
        sections=(
            Section(
                "memory",
                "Memory and time",
                tuple(part for part in parts if not isinstance(part, Verdict | Bars)),
            ),
        ),
        data=dict(document),
    )
