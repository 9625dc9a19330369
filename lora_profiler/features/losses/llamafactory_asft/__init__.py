"""LLaMA-Factory's ASFT (0.9.6): `train/trainer_utils.py` (asft_loss_func)."""

from typing import Any

from lora_profiler.question.loss import LossFacts, Spelling

FEATURE = LossFacts(
    title="LLaMA-Factory's ASFT",
    assumption=(
        "The llamafactory-asft loss: LLaMA-Factory 0.9.6's ASFT, as its DFT, with a bfloat16"
        " reference model; eleven times all logits in float32."
    ),
    logits="logits in float32 of model and reference, and what compares them",
    after_forward=True,
    of_all_logits=True,
    has_reference=True,
    narrow_reference=True,
    spelled={"llamafactory": Spelling(switches=("use_asft_loss",))},
)


def refusals(workload: Any) -> dict[str, object]:
    return {
        "LLaMA-Factory's ASFT has no reference model with adapters; use --method full, or leave"
        " --loss out.": workload.setup.lora is not None
    }
