"""The page of a rehearsal: its answer in full, and the numbers for machines."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.report.blocks import Block, Verdict
from lora_profiler.report.page.content import Content
from lora_profiler.report.parts import Section


def rehearsal_content(
    blocks: Sequence[Block], command: Sequence[str], document: Mapping[str, Any]
) -> Content:
    """`blocks` are those of `report.rehearsed.rehearsal_blocks`, in detail."""
    verdict = next(block for block in blocks if isinstance(block, Verdict))
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
                tuple(block for block in blocks if not isinstance(block, Verdict)),
            ),
        ),
        data=dict(document),
    )
