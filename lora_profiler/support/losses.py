"""The loss paths that make logits a few tokens at a time: how many at once, and which models they
take. No torch."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from lora_profiler.adapters import adapters
from lora_profiler.errors import UsageError, refuse
from lora_profiler.model_spec import ModelSpec, Module
from lora_profiler.option_values import OVER_ALL_LOGITS
from lora_profiler.support.packing import lengths
from lora_profiler.support.unsloth import unsloth_regime
from lora_profiler.workload import LoraConfig, TrainSetup, Workload

_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
_AFTER_THE_HEAD = ("final_logit_softcapping", *_SCALES)
"""Fields of a config.json by which a model caps or scales the logits that its head has made."""
_NO_EFFECT = (None, 1)
SCALING_LOSSES = frozenset({"trl", "unsloth"})
"""Losses that call the model without its head, and cap and scale the logits as its config says."""
TRL_TILE_ROWS, TRL_TILE_COLUMNS = 4096, 32768
"""Tokens and words of the largest tile of TRL's head, trl 1.16: TOKEN_CHUNK_SIZE in
`kernels/chunked_logprob.py`, _CHUNKED_LOGPROB_CHUNK_SIZE in `trainer/utils.py`."""
TORCHTUNE_CHUNKS = 8
"""`num_output_chunks` of both of torchtune's losses."""
LITGPT_ROWS = 128
"""LitGPT's `lm_head_chunk_size` under LoRA, and the default `chunk_size` of its loss."""
AFTER_FORWARD = frozenset({"torchtune", "torchtune-chunked", "litgpt", *OVER_ALL_LOGITS})
"""Losses that a trainer's loop makes of what the model has returned: torchtune's recipes
(`_loss_step`), LitGPT's (`fit`), LLaMA-Factory's own (`concatenated_forward`) and that of the
TRL beneath axolotl (1.9 `dpo_trainer.py`, _compute_loss). The others
are made inside the model's forward pass, where its own would be."""
LOSS_WORDS = {
    "trl": (
        "The trl loss is the fused head of TRL 1.16, which every SFTTrainer has: logits in tiles of"
        " at most 4,096 tokens x 32,768 words."
    ),
    "torchtune": (
        "The torchtune loss: torchtune 0.7's LinearCrossEntropyLoss, logits of an eighth of the"
        " labelled tokens at a time. All float32 log-probabilities stay until backward."
    ),
    "torchtune-chunked": (
        "The torchtune-chunked loss: torchtune 0.7's CEWithChunkedOutputLoss, all logits, an"
        " eighth in float32 at a time. All log-probabilities stay until backward."
    ),
    "cce": (
        "The cce loss: cut cross-entropy with Triton kernels, as in axolotl's plugin (5f0c7a7); no"
        " logits in memory."
    ),
    "litgpt": (
        "The litgpt loss: LitGPT 0.5.13's chunked_cross_entropy, float32 logits. Log-probabilities"
        " stay until backward; under LoRA 128 tokens at a time."
    ),
    "triton": (
        "The triton loss: a Triton kernel writes the gradient over the logits. 16-bit logits are"
        " copied to float32: Liger's cross_entropy under transformers 5; Unsloth's under 4.48 and"
        " 4.45, over a shifted copy."
    ),
    "unsloth": (
        "The unsloth loss: Unsloth 2026.10's fused cross-entropy, in float32. Chunks have 512 to"
        " 4,096 labelled tokens, or 16,384 words: from 4,096 tokens on, and up to 24.5 GiB. At"
        " least"
        " 4 GiB of the GPU are assumed free."
    ),
    "llamafactory-dpo": (
        "The llamafactory-dpo loss: LLaMA-Factory 0.9.6's for pairs, all logits in float32, twice."
        " The reference runs while the policy's tensors are kept."
    ),
    "torchtune-dpo": (
        "The torchtune-dpo loss is torchtune 0.7's of pairs: all logits in float32 and their"
        " log-probabilities; the reference's logits have a name until the next forward pass is"
        " over."
    ),
    "scores": (
        "The scores loss is AutoModelForSequenceClassification's with one label, as of a reward"
        " model: a head of one output, and of each row its last token's score; more labels are as"
        " many rows of its weight."
    ),
    "llamafactory-kto": (
        "The llamafactory-kto loss: LLaMA-Factory 0.9.6's KTO, all logits in float32. Policy,"
        " reference, and reference over other prompts' answers, all at once."
    ),
    "llamafactory-orpo": (
        "The llamafactory-orpo loss is LLaMA-Factory 0.9.6's of pairs without a reference, ORPO's"
        " or SimPO's: all logits in float32, and their log-probabilities."
    ),
    "llamafactory-dft": (
        "The llamafactory-dft loss is LLaMA-Factory 0.9.6's DFT: cross-entropy over all logits in"
        " float32, each token weighed by its probability."
    ),
    "llamafactory-eaft": (
        "The llamafactory-eaft loss: LLaMA-Factory 0.9.6's EAFT, as its DFT, and a copy of"
        " the labelled logits for entropy."
    ),
    "llamafactory-asft": (
        "The llamafactory-asft loss: LLaMA-Factory 0.9.6's ASFT, as its DFT, with a bfloat16"
        " reference model; eleven times all logits in float32."
    ),
    "trl-orpo": (
        "The trl-orpo loss: TRL 1.16's experimental ORPOTrainer, all logits in float32."
        " Log-probs of"
        " the chosen half, and two gradients of all logits in backward."
    ),
    "axolotl-dpo": (
        "The axolotl-dpo loss: TRL 1.9 with axolotl 0.19's Triton kernel, all logits in float32 and"
        " a shifted copy; policy and reference at once."
    ),
}
"""What a loss path of a trainer is taken to be, by its name."""
SCORED_WORDS = (
    "The unsloth loss: Unsloth 2026.10's fused log-probabilities, in float32. Chunks have 512 to"
    " 4,096 scored tokens, or 16,384 words: from 4,096 tokens on, and up to 24.5 GiB. At least"
    " 4 GiB of the GPU are assumed free."
)
"""The same of Unsloth's loops that score completions."""
SMOOTHED = "The loss: transformers' LabelSmoother over float32 logits."
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
    setup = workload.setup
    scales = setup.loss in SCALING_LOSSES
    if setup.loss != "plain" and (reason := _reason(workload.model, setup.lora, scales=scales)):
        raise refused(workload.model.id, setup.loss, reason)
    loss, model = setup.loss, workload.model
    is_wide = setup.of_one_process.dtype == "float32" or (
        setup.quantization is not None and setup.quantization.recipe == "kbit"
    )
    refuse(
        {
            f"the scores loss needs a head with one output, and {model.id} has none; use setup_for"
            " and workloads, or leave --loss out.": (
                loss == "scores" and model.output_embedding != "score"
            ),
            "LLaMA-Factory's ASFT has no reference model with adapters; use --method full, or leave"
            " --loss out.": loss == "llamafactory-asft" and setup.lora is not None,
            f"torchtune's {loss} loss runs without autocast; use --precision pure, or leave --loss"
            " out.": (loss in ("torchtune", "torchtune-chunked") and setup.autocast_dtype),
            "the unsloth loss is known as Triton's kernels on CUDA alone; leave --loss out.": (
                loss == "unsloth" and setup.device != "cuda"
            ),
            "the cce loss needs a 16-bit head; use --dtype bfloat16, or leave --loss out. With"
            " a 4-bit"
            " base also --recipe stock or trl.": (loss == "cce" and is_wide),
        }
    )


def refused(model: str, loss: str, reason: str) -> UsageError:
    """The error for a model that a loss path cannot take."""
    return UsageError(
        f"the {loss} loss multiplies by the head's weight itself, and {model} does not let it:"
        f" {reason}; leave --loss out."
    )


OWN_LOSSES = frozenset(
    {"trl", "torchtune", "torchtune-chunked", "cce", "litgpt", "triton", "scores", "unsloth"}
) | {*OVER_ALL_LOGITS}
"""Losses of trainers' own, each worked out whole."""


def loss_regime(workload: Workload, head: Module, batch: Any, seq: Any) -> Any:
    """What flips a rule of the trainer's own loss that `workload` names, with `batch` sequences of
    `seq` tokens: whole numbers, or arrays of them.

    torchtune: sequences of a row times eight, and what is left when the labelled tokens are parted
    in eight; minus the tokens, and one, where no polynomial is a part of them. In chunks the same
    of the tokens of a row, each of which counts. cce: sequences of a row.
    """
    setup = workload.setup
    sequences = -(-seq // setup.packed) if setup.packed else 1
    match setup.loss:
        case "unsloth":
            return unsloth_regime(workload, head, batch, seq, sequences)
        case "trl":
            return _trl_regime(setup, batch, seq, sequences)
        case "torchtune":
            tokens, begun = batch * (seq - sequences), TORCHTUNE_CHUNKS * sequences
            return begun + tokens % TORCHTUNE_CHUNKS if _divides(head) else -tokens - 1
        case "torchtune-chunked":
            return TORCHTUNE_CHUNKS + seq % TORCHTUNE_CHUNKS if _divides(head) else -seq - 1
        case "cce":
            return sequences
        case "litgpt":
            return _litgpt_regime(setup, batch, seq)
    return 0 * batch * seq


def labelled_tokens(setup: TrainSetup) -> int:
    """Tokens of a micro-batch that have a label: all but the last of each sequence. Padding, which
    has none either, is left out of sight."""
    return setup.batch_size * (setup.seq_len - len(lengths(setup)))


def _divides(head: Module) -> bool:
    """Whether an eighth of any tensor of torchtune's losses is a whole number of bytes for each
    token: of the logits and of the hidden state, in 16 bit."""
    assert head.in_features is not None and head.out_features is not None
    return head.in_features % 4 == 0 and head.out_features % 4 == 0


def _trl_regime(setup: TrainSetup, batch: Any, seq: Any, sequences: Any) -> Any:
    """Sequences of a row, whose first token nothing predicts, times two; and one more where there
    are more labels than fit a tile of TRL's head. Of GRPO, which scores completions alone, minus
    the tokens of one."""
    scored = setup.max_completion_length
    if setup.loop_state == "trl-grpo" and scored and runs_triton(setup.device):
        return -2 * scored - (batch * scored > TRL_TILE_ROWS)
    labels = batch * (seq - (sequences if runs_triton(setup.device) else 1))
    return 2 * sequences + (labels > TRL_TILE_ROWS)


def _litgpt_regime(setup: TrainSetup, batch: Any, seq: Any) -> Any:
    """Parts of a row that the head takes, times two, and one more where the last one is the row's
    last token; in full fine-tuning minus the parts of all rows that the loss takes."""
    if setup.lora is None:
        return -(batch * (seq - 1)) // LITGPT_ROWS - (seq == 1)
    return 2 * -(-seq // LITGPT_ROWS) + (seq % LITGPT_ROWS == 1) * (seq > 1)


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
    if {"encoder", "decoder"} <= {word for part in model.parts for word in part.name.split(".")}:
        return "it has an encoder and a decoder"
    if "MaskedLM" in model.architecture:
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
