"""LLaMA-Factory's EAFT (0.9.6): `train/trainer_utils.py` (eaft_loss_func)."""

from typing import Any

from lora_profiler.question.loss import LossFacts, Spelling

FEATURE = LossFacts(
    title="LLaMA-Factory's EAFT",
    assumption=(
        "The llamafactory-eaft loss: LLaMA-Factory 0.9.6's EAFT, as its DFT, and a copy of"
        " the labelled logits for entropy."
    ),
    logits="logits in float32, a copy of them, and log-probabilities",
    after_forward=True,
    of_all_logits=True,
    spelled={"llamafactory": Spelling(switches=("use_eaft_loss",))},
)


def doubts(workload: Any) -> dict[str, object]:
    return {"What topk takes for itself is as torch's source has it, of many tokens.": True}
