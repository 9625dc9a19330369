"""The loss paths that make logits a few tokens at a time: how many at once, and which models they
take. No torch."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from lora_profiler.adapters import adapters
from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec, Module
from lora_profiler.support.packing import lengths
from lora_profiler.workload import LoraConfig, TrainSetup, Workload

_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Fields of a config.json by which a model caps or scales the logits that its head has made."""
_NO_EFFECT = (None, 1)
TRL_TILE_ROWS, TRL_TILE_COLUMNS = 4096, 32768
"""Tokens and words of the largest tile of TRL's head, trl 1.16: TOKEN_CHUNK_SIZE in
`kernels/chunked_logprob.py`, _CHUNKED_LOGPROB_CHUNK_SIZE in `trainer/utils.py`."""
LOSS_WORDS = {
    "trl": (
        "The trl loss is the fused head of TRL 1.16, which every SFTTrainer has: logits in tiles of"
        " at most 4,096 tokens x 32,768 words."
    )
}
"""What a loss path of a trainer is taken to be, by its name."""
SMOOTHED = (
    "The loss is that of transformers' LabelSmoother, over logits that accelerate has converted to"
    " float32 under autocast."
)
"""What `label_smoothing_factor` takes for granted."""
OUTPUTS_HELD = (
    "The loop holds the model's output until the next one is there; called with use_cache=False, so"
    " that no keys and values are in it."
)
"""What `hold_outputs` takes for granted."""


def chunk_rows(tokens: int, vocab_size: int, hidden_size: int) -> int:
    """Tokens of a chunk: as many as keep its logits about as large as the hidden state of all
    tokens, a power of two.

    The choice of Liger-Kernel's fused linear cross-entropy. At most about twice `tokens`, which are
    then one chunk.
    """
    parts = -(-vocab_size // hidden_size)
    return 1 << (-(-tokens // parts) - 1).bit_length()


def check_loss(workload: Workload) -> None:
    """Raises UsageError where the loss path of `workload` cannot take the model, as far as its
    config and modules tell.

    What they do not tell `modeling.losses` sees in the first forward pass.
    """
    if workload.setup.loss != "plain" and (reason := _reason(workload.model, workload.setup.lora)):
        raise refused(workload.model.id, workload.setup.loss, reason)


def refused(model: str, loss: str, reason: str) -> UsageError:
    """The error for a model that a loss path cannot take."""
    return UsageError(
        f"the {loss} loss multiplies by the head's weight itself, and {model} does not let it:"
        f" {reason}; leave --loss out."
    )


def trl_fact(setup: TrainSetup) -> int:
    """What flips a rule of TRL's head: sequences of a row, whose first token nothing predicts,
    times two; and one more where there are more labels than fit a tile."""
    sequences = len(lengths(setup))
    labels = setup.batch_size * (setup.seq_len - (sequences if runs_triton(setup.device) else 1))
    return 2 * sequences + (labels > TRL_TILE_ROWS)


def runs_triton(device: str) -> bool:
    """Whether TRL's head has its kernels there, as its `_use_triton`."""
    return device in ("cuda", "xpu")


@lru_cache(maxsize=256)
def head_of(model: ModelSpec) -> Module | None:
    """The module that makes the logits."""
    return next(
        (module for name, module in model.modules() if name == model.output_embedding), None
    )


@lru_cache(maxsize=256)
def _reason(model: ModelSpec, lora: LoraConfig | None) -> str | None:
    head = head_of(model)
    if head is None or not head.is_linear:
        return "no linear layer makes its logits"
    if {"encoder", "decoder"} <= {word for part in model.parts for word in part.name.split(".")}:
        return "it has an encoder beside the decoder"
    if "MaskedLM" in model.architecture:
        return "its labels are not those of the next token"
    for config in _configs(model):
        for name in _AFTER_THE_HEAD:
            if config.get(name) not in _NO_EFFECT:
                return f"its {name} changes the logits that the head has made"
        if config.get("output_router_logits"):
            return "its output_router_logits adds the router's loss"
    if lora is not None and any(
        adapter.module == model.output_embedding for adapter in adapters(model, lora)
    ):
        return f"the adapter on {model.output_embedding} adds to the logits"
    return None


def _configs(model: ModelSpec) -> Iterator[dict[str, Any]]:
    yield dict(model.config)
    yield from (nested for nested in model.published.values() if isinstance(nested, dict))
