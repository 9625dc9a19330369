"""LLaMA-Factory's DFT (0.9.6): `train/trainer_utils.py` (dft_loss_func)."""

from lora_profiler.question.loss import LossFacts, Spelling

FEATURE = LossFacts(
    title="LLaMA-Factory's DFT",
    assumption=(
        "The llamafactory-dft loss is LLaMA-Factory 0.9.6's DFT: cross-entropy over all logits in"
        " float32, each token weighed by its probability."
    ),
    logits="logits and log-probabilities in float32",
    after_forward=True,
    of_all_logits=True,
    spelled={"llamafactory": Spelling(switches=("use_dft_loss",))},
)
