"""A setting of transformers' TrainingArguments that is another than the script's, to see what it
would do to the peak.

From transformers 5.24 on activation_checkpointing goes before gradient_checkpointing
(`training_args.py`, __post_init__); before, nothing reads it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

CHANGES: Mapping[str, Mapping[str, Any]] = {
    "checkpointing": {"activation_checkpointing": True, "gradient_checkpointing": True},
    "fused-loss": {"use_liger_kernel": True},
    "8bit-optimizer": {"optim": "adamw_bnb_8bit"},
}
CHANGED: list[str] = []
"""Of those, what a trainer of the script has taken."""


def change_arguments(names: Sequence[str]) -> None:
    from transformers import training_args

    kind = training_args.TrainingArguments
    original: Callable[[Any], None] = kind.__post_init__

    def __post_init__(self: Any) -> None:
        for name in names:
            for field, value in CHANGES[name].items():
                setattr(self, field, value)
            CHANGED.append(name)
        original(self)

    kind.__post_init__ = __post_init__  # type: ignore[method-assign]
