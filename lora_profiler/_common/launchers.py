"""Which command lines start a training, by their first words alone."""

import re
from collections.abc import Sequence

LAUNCHERS = (
    *("accelerate", "torchrun", "deepspeed", "python", "python3", "uv", "trl", "axolotl"),
    *("llamafactory-cli", "lmf", "tune", "swift", "litgpt"),
)


def launcher_at(words: Sequence[str]) -> int:
    """Where the command stands behind prompts and variables: $ HF_HUB_OFFLINE=1 trl sft."""
    before = ("$", ">", "!", "time")
    stands = (n for n, w in enumerate(words) if w not in before and not re.match(r"!?\w+=", w))
    return next(stands, len(words))


def program(word: str) -> str:
    """The command's name, without the folder that it is in."""
    return word.rpartition("/")[2]


def starts_training(words: Sequence[str]) -> bool:
    """Whether the words are a launcher and what it starts."""
    start = launcher_at(words)
    return len(words) > start + 1 and program(words[start]) in LAUNCHERS
