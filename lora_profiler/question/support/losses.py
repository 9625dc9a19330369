"""The loss paths that make logits a few tokens at a time: how many at once, and which models they
take. No torch."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from lora_profiler._common.polynomial import Polynomial
from lora_profiler.errors import UsageError, refuse
from lora_profiler.question.adapters import adapters
from lora_profiler.question.feature import part
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import ModelSpec, Module
from lora_profiler.question.support.packing import lengths
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload

_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
_AFTER_THE_HEAD = ("final_logit_softcapping", *_SCALES)
"""Fields of a config.json by which a model caps or scales the logits that its head has made."""
_NO_EFFECT = (None, 1)
SMOOTHED = "The loss: transformers' LabelSmoother over float32 logits."
"""What `label_smoothing_factor` takes for granted."""
OUTPUTS_HELD = (
    "The loop holds the model's output until the next one is there; called with use_cache=False, so"
    " that no keys and values are in it."
)
"""What `hold_outputs` takes for granted."""


class LossBytes(NamedTuple):
    """What a head and its loss hold beside the rest of a step, of the last hidden state: what
    autograd `kept` of it for backward, and all of it at each instant of the forward pass, `ahead`,
    and of backward, `back`, that can be the largest, where the loss and its gradient are in; and
    the FLOPs of both. Bytes are polynomials in batch and sequence where `loss_regime` holds."""

    kept: Polynomial
    ahead: tuple[Polynomial, ...]
    back: tuple[Polynomial, ...]
    forward_flops: Polynomial
    backward_flops: Polynomial


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

    What they do not tell `trace.modeling.losses` sees in the first forward pass.
    """
    setup, model = workload.setup, workload.model
    loss = loss_facts(setup.loss)
    if loss.one_score and not model.is_causal:
        raise UsageError(
            f"classifiers (task_type SEQ_CLS, --loss {setup.loss}) are modelled for causal language"
            f" models, not for {model.architecture}; use another model."
        )
    scales = loss.scales_logits or setup.loop_state in loss.scales_in
    if setup.loss != "plain" and (reason := _reason(model, setup.lora, scales=scales)):
        raise refused(model.id, setup.loss, reason)
    if own := part("losses", setup.loss, "", "refusals"):
        refuse(own(workload))


def refused(model: str, loss: str, reason: str) -> UsageError:
    """The error for a model that a loss path cannot take."""
    return UsageError(
        f"the {loss} loss multiplies by the head's weight itself, and {model} does not let it:"
        f" {reason}; leave --loss out."
    )


def loss_regime(workload: Workload, head: Module, batch: Any, seq: Any) -> Any:
    """What flips a rule of the trainer's own loss that `workload` names, with `batch` sequences of
    `seq` tokens: whole numbers, or arrays of them."""
    setup = workload.setup
    sequences = -(-seq // setup.packed) if setup.packed else 1
    own = part("losses", setup.loss, "", "regime")
    return own(workload, head, batch, seq, sequences) if own else 0 * batch * seq


def loss_words(setup: TrainSetup) -> str:
    """The sentence of an answer about the loss of `setup`, "" where none is needed."""
    own = part("losses", setup.loss, "", "assumption")
    return str(own(setup)) if own else loss_facts(setup.loss).assumption


def labelled_tokens(setup: TrainSetup) -> int:
    """Tokens of a micro-batch that have a label: all but the last of each sequence. Padding, which
    has none either, is left out of sight."""
    return setup.batch_size * (setup.seq_len - len(lengths(setup)))


class LogitScaling(NamedTuple):
    """Logits times `scale`, then between -`cap` and `cap` by tanh; no cap where that is 0."""

    scale: float = 1.0
    cap: float = 0.0


def logit_scaling(config: Mapping[str, Any]) -> LogitScaling:
    """What TRL's head does to the logits of a language model, as its config says (trl 1.16
    `trainer/utils.py`, add_fused_lm_head; Unsloth 2026.10 `models/llama.py`,
    resolve_logit_transforms, reads the same)."""
    name = next((name for name in _SCALES if config.get(name) is not None), None)
    scale = 1.0 if name is None else float(config[name])
    if name == "logits_scaling" and config.get("model_type") != "hyperclovax":
        scale = 1 / scale
    return LogitScaling(scale, float(config.get("final_logit_softcapping") or 0))


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
def _reason(model: ModelSpec, lora: LoraConfig | None, *, scales: bool) -> str | None:
    """`scales`: the loss itself caps and scales the logits."""
    head = head_of(model)
    if model.is_embedding:
        return "it is an embedding model, which has no head"
    if head is None or not head.is_linear:
        return "no linear layer makes its logits"
    if model.is_encoder_decoder:
        return "it has an encoder and a decoder"
    if model.is_masked:
        return "its labels are not those of the next token"
    for config in _configs(model):
        for name in _AFTER_THE_HEAD:
            if not scales and config.get(name) not in _NO_EFFECT:
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
