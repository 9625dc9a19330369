"""Cut cross-entropy with Triton kernels, as axolotl's plugin calls it (fork 5f0c7a7)."""

from typing import Any

from lora_profiler.question.loss import LossFacts, Spelling

FEATURE = LossFacts(
    title="cut cross-entropy, as axolotl's plugin",
    assumption=(
        "The cce loss: cut cross-entropy with Triton kernels, as in axolotl's plugin (5f0c7a7); no"
        " logits in memory."
    ),
    kept="the last hidden state, a number a token and a word; final norm, rotary tables",
    head_again="the head once more",
    narrow_head=True,
    takes_fake_quantized=True,
    spelled={
        "axolotl": Spelling(
            switches=("cut_cross_entropy",),
            plugin="cut_cross_entropy",
            written={"plugins": ("axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin",)},
        )
    },
)


def regime(workload: Any, head: Any, batch: Any, seq: Any, sequences: Any) -> Any:
    """Sequences of a row."""
    return sequences


def refusals(workload: Any) -> dict[str, object]:
    setup = workload.setup
    is_wide = setup.of_one_process.dtype == "float32" or (
        setup.quantization is not None and setup.quantization.recipe == "kbit"
    )
    return {
        "the cce loss needs a 16-bit head; use --dtype bfloat16, or leave --loss out. With a 4-bit"
        " base also --recipe stock or trl.": is_wide
    }
