"""Imported by Python as it starts, after what a rehearsal puts there. torchtune, Unsloth and
LLaMA-Factory take the tokens that have a label out of all; which these are a pretended card cannot
tell, and a rehearsal takes every one. Here the data say it: all but the last of each row, or
completions."""

import builtins
import os
import typing
from dataclasses import dataclass
from typing import Any

_LOSSES = (
    "torchtune.modules.loss",
    "unsloth_zoo.fused_losses.fused_linear",
    "llamafactory.train.trainer_utils",
)
LABELLED = os.environ.get("REHEARSED_LABELS")
"""'TOKENS,LABELLED' of a micro-batch, and of other masks after a colon."""


def _take_labelled() -> None:
    import torch

    pairs = (map(int, pair.split(",")) for pair in str(LABELLED).split(":"))
    labelled = {tokens: count for tokens, count in pairs}

    def nonzero(mask: torch.Tensor) -> torch.Tensor:
        count = labelled.get(mask.numel(), mask.numel())
        return torch.empty((mask.dim(), count), dtype=torch.int64, device=mask.device).t()

    _library.append(torch.library.Library("aten", "IMPL"))
    _library[0].impl("nonzero", nonzero, "CUDA", allow_override=True)


def _lend_names() -> None:
    """Those that torchtune 0.7.0's `rlhf/loss/dpo.py` uses and does not import: as it is, none of
    its recipes of DPO starts."""
    for name in ("Optional", "Tuple", "TypeVar"):
        vars(builtins).setdefault(name, getattr(typing, name))
    vars(builtins).setdefault("dataclass", dataclass)


_library: list[Any] = []
if LABELLED and os.environ.get("LORA_PROFILER_RUN_SETTINGS"):
    from rehearsed.imports import after_import  # type: ignore[import-not-found]

    _lend_names()
    for module in _LOSSES:
        after_import(module, _take_labelled)
