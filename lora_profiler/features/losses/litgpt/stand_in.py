"""LitGPT's chunked_cross_entropy by the same operators of torch in the same order: LitGPT 0.5.13
(2685705), `utils.py` (chunked_cross_entropy) as `finetune/lora.py` and `finetune/full.py` call it,
after Fabric has converted the logits to float32 (lightning, `fabric/plugins/precision/`,
convert_output)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_profiler.features.losses.litgpt import ROWS
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.losses import IGNORED_LABEL, LossAndLogits


def loss(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    """LitGPT's: under LoRA the head takes 128 tokens of each sequence at a time, in full
    fine-tuning all, and the loss 128 tokens. The logits are float32 and what the loop holds."""
    if setup.lora is None:
        logits = F.linear(hidden, weight, bias).float()
        kept = logits[..., :-1, :]
        parts = torch.split(kept.reshape(-1, kept.shape[-1]), ROWS)
        targets = labels[..., 1:]
        wanted = torch.split(targets.reshape(-1), ROWS)
        return LossAndLogits(_mean_loss(parts, wanted, targets), logits)
    made = [F.linear(tokens, weight, bias) for tokens in torch.split(hidden, ROWS, 1)]
    chunks = [part.float() for part in made]
    del made
    chunks[-1] = chunks[-1][..., :-1, :]
    targets = labels[..., 1:]
    flat = [part.reshape(-1, part.shape[-1]) for part in chunks]
    own = [part.reshape(-1) for part in torch.split(targets, chunks[0].shape[1], 1)]
    return LossAndLogits(_mean_loss(flat, own, targets), chunks)


def _mean_loss(logits: Sequence[Tensor], wanted: Sequence[Tensor], targets: Tensor) -> Tensor:
    losses = [
        F.cross_entropy(part, own, ignore_index=IGNORED_LABEL, reduction="none")
        for part, own in zip(logits, wanted, strict=False)  # a last part without a token has none
    ]
    count = (targets != IGNORED_LABEL).sum()
    return torch.cat(losses).sum() / count.maximum(torch.ones_like(count))
