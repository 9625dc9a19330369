"""Unsloth's DPO (2026.10), over TRL 1.9, which makes a frozen copy of adapters that a model brings
along, as Unsloth's always does (`dpo_trainer.py`, __init__). Rows are padded: it lays others end to
end (2026.10.9, `trainer.py`, padding_free; `models/rl_replacements.py`,
UNSLOTH_GRPO_SEQ_PACKING)."""

from typing import Any

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(
    3,
    4,
    4,
    compares=True,
    scores=True,
    copies_adapters=True,
    pads=True,
    own_4_bit=True,
    repeats_for_math=True,
    flexes_sinks=True,
)


def doubts(setup: Any) -> dict[str, object]:
    return {"Prompts' tokens are counted as if they were scored.": True}
