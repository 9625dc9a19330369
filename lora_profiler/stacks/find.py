"""From what people write to a stack: a name, and a version where one is given."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.stacks.stack import Stack

_MODULES: Final[Mapping[str, str]] = {
    "bare": "bare",
    "loop": "bare",
    "transformers": "transformers_trainer",
    "trl-sft": "trl_sft",
    "trl-dpo": "trl_dpo",
    "trl-grpo": "trl_grpo",
    "trl-kto": "trl_dpo",
    "trl-orpo": "trl_dpo",
    "trl-reward": "trl_dpo",
    "axolotl": "axolotl",
    "axolotl-dpo": "axolotl",
    "llamafactory": "llamafactory",
    "llamafactory-dpo": "llamafactory",
    "llamafactory-orpo": "llamafactory",
    "llamafactory-kto": "llamafactory",
    "torchtune": "torchtune",
    "torchtune-dpo": "torchtune",
    "litgpt": "litgpt",
    "peft-bench": "peft_bench",
    "unsloth": "unsloth",
    "unsloth-dpo": "unsloth",
    "unsloth-grpo": "unsloth",
}
BARE: Final = "bare"
"""The stack of a question that names none."""
TRAINERS: Final[tuple[str, ...]] = tuple(_MODULES)
"""Names of the stacks, in the order in which they are listed."""


def versions(name: str) -> tuple[Stack, ...]:
    """All versions of a stack, the newest first. Raises UsageError for a name that none has."""
    if name not in _MODULES:
        raise UsageError(
            f"trainer is {name[:60]!r}; accepted: {', '.join(TRAINERS)}."
            f"{did_you_mean(name[:60], TRAINERS)}"
        )
    module = import_module(f"lora_profiler.stacks.{_MODULES[name]}")
    stacks: tuple[Stack, ...] = module.VERSIONS
    return tuple(stack for stack in stacks if stack.name == name)


def find_stack(text: str) -> Stack:
    """The stack that `text` names, the newest version of it, or that after an @.

    A version may be shorter than the one that is known, or longer: 1, 1.16 and 1.16.2 are all
    answered by 1.16. Raises UsageError for a name or a version that is not known.

    Examples:
        >>> find_stack("trl-sft@1.16").title
        "TRL 1.16's SFTTrainer"
    """
    name, at, version = text.strip().lower().partition("@")
    stacks = versions(name)
    if not at:
        return stacks[0]
    for stack in stacks:
        if _agree(version, stack.version):
            return stack
    known = [stack.version for stack in stacks if stack.version]
    if not known:
        raise UsageError(f"{name} has no versions; write --trainer {name}.")
    raise UsageError(
        f"{name} is known in version {' and '.join(known)}, not {version[:60]!r}; name one that is"
        " known, or leave @ out for the newest."
    )


def _agree(asked: str, known: str) -> bool:
    """Whether the one is the other, or its beginning."""
    parts = list(zip(asked.split("."), known.split("."), strict=False))
    return bool(asked) and bool(known) and all(a == k for a, k in parts)
