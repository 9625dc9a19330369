"""axolotl's DPO (0.19): TRL 1.9 `dpo_trainer.py` (_compute_loss) with axolotl's
Triton kernel (`monkeypatch/trainer/utils.py`, selective_log_softmax)."""

from typing import Any

from lora_profiler.question.loss import LossFacts

FEATURE = LossFacts(
    title="axolotl's DPO",
    assumption=(
        "The axolotl-dpo loss: TRL 1.9 with axolotl 0.19's Triton kernel, all logits in float32 and"
        " a shifted copy; policy and reference at once."
    ),
    logits="logits in float32 and a copy of them, of the policy and the reference",
    after_forward=True,
    of_all_logits=True,
    has_reference=True,
)


def doubts(workload: Any) -> dict[str, object]:
    return {"TRL's copy of the prompt, 16 B per token, is left out.": True}
