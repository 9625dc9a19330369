"""Unsloth 2026.10.9: how its loss cuts the tokens, what it keeps for the whole process, and what it
takes. No torch.

Its own forward pass is that of Llama, Mistral, Qwen2 and Qwen3 with adapters alone
(`models/{llama,mistral,qwen2,qwen3}.py`); others, and full fine-tuning, run code that it writes
after transformers' and compiles.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec, Module
from lora_profiler.option_values import DTYPE_BYTES, GRPO, QUANT_TITLES, SCORED
from lora_profiler.support.model_types import UNSLOTH_TYPES, type_of
from lora_profiler.workload import TrainSetup, Workload

TILE_COLUMNS = 16_384
"""Words of a tile, and of a split of the statistics: _SPLIT_COLS."""
_LEAST_LOGITS = 512 * 151_936
_LEAST_ROWS, MOST_ROWS = 512, 4096
_LARGEST_BUFFER = 2 << 30
_TILED_CAPABILITY = 80
_BASES = ("nf4", "int8")
"""In 4 and in 8 bit, by bitsandbytes."""
_SHIFT = 1 << 20
_FIRST_TABLE, _TABLE_STEP = 32_768, 8_192


class Cut(NamedTuple):
    """`parts` of the labelled tokens, `rows` each but the last, which has what is left. `tiled`:
    logits of a tile of words at a time. Of a row `sequences`; 0 where log-probabilities are the
    loss's, of `completion` tokens of a row, or of all but the first where that is 0."""

    rows: int
    parts: int
    sequences: int
    tiled: bool
    completion: int = 0


def unsloth_regime(workload: Workload, head: Module, batch: Any, seq: Any, sequences: Any) -> Any:
    """A `Cut` as one number, below 0 of log-probabilities: unsloth-zoo
    `fused_losses/fused_linear.py` (fused_linear_rows, _ce_impl, _logprobs_impl). Half of the card's
    free memory would cap the buffer before 2 GiB does."""
    assert head.in_features is not None and head.out_features is not None
    setup, words = workload.setup, head.out_features
    scores, completes = setup.loop_state in SCORED, setup.loop_state in GRPO
    completion = setup.max_completion_length if completes else None
    scored = seq - 1 if completion is None else completion
    tokens = batch * (scored if scores else seq - sequences)
    least = min(max(_LEAST_ROWS, _power_below(_LEAST_LOGITS // words)), MOST_ROWS)
    rows, power = least, least
    while power < MOST_ROWS:
        rows = rows + power * (tokens * head.in_features >= 2 * power * words)
        power *= 2
    cap = max(_LARGEST_BUFFER // (4 * words), 2)
    rows = rows + (cap - rows) * (rows > cap)
    from_tokens = 1 if workload.platform.has_small_memory else MOST_ROWS
    tiled = (tokens >= from_tokens) * _makes_tiles(workload, words, scores=scores)
    rows = rows + (MOST_ROWS - rows) * tiled
    parts = -(-tokens // rows)
    cut = ((2 * rows + tiled) * _SHIFT + parts) * _SHIFT
    return -1 - cut - scored * completes if scores else cut + sequences


def cut_of(regime: int) -> Cut:
    """The `Cut` that `unsloth_regime` put into a number."""
    scores = regime < 0
    rest, of_row = divmod(-1 - regime if scores else regime, _SHIFT)
    cut, parts = divmod(rest, _SHIFT)
    rows, tiled = divmod(cut, 2)
    counted = (0, bool(tiled), of_row) if scores else (of_row, bool(tiled))
    return Cut(rows, max(parts, 1), *counted)


def _power_below(number: int) -> int:
    return 1 << max(number.bit_length() - 1, 0)


def _makes_tiles(workload: Workload, words: int, *, scores: bool) -> bool:
    """Whether the card, the head and the formats are those of the tiled pass (_ce_impl), which
    log-probabilities take on every card (_logprobs_impl)."""
    setup, capability = workload.setup, workload.platform.capability
    lora = setup.lora
    name = (workload.model.output_embedding or "").rpartition(".")[2]
    trains_head = lora is None or name in lora.modules_to_save
    is_half = setup.autocast_dtype is not None or setup.dtype != "float32"
    return (
        not trains_head
        and is_half
        and words > 2 * TILE_COLUMNS
        and (scores or capability is None or capability >= _TILED_CAPABILITY)
    )


def rotary_buffer_bytes(workload: Workload, width: int) -> int:
    """Cosines and sines of `positions_of` the model, in its dtype, one vector of frequencies, and
    two numbers that nothing reads: `models/llama.py` (LlamaRotaryEmbedding, _PerDeviceRopeCache).
    """
    size = DTYPE_BYTES[workload.setup.dtype]
    return 2 * positions_of(workload) * width * size + 2 * width + 2 * size


def positions_of(workload: Workload) -> int:
    """All positions that the model may have, and as many as a row is long."""
    setup = workload.setup
    length = setup.packed if setup.is_packed and setup.packed else setup.seq_len
    positions = max(int(workload.model.config["max_position_embeddings"]), length)
    if setup.compiles_layers:  # no positions are told, which might be any
        positions = min(positions, max(_FIRST_TABLE, length))
    if positions > _FIRST_TABLE:
        positions = -(-positions // _TABLE_STEP) * _TABLE_STEP
    return positions


def scores_at_once(setup: TrainSetup) -> bool:
    """Whether GRPO's reference scores all completions of a step in one pass, as it does while they
    leave a fifth of the card free (2026.10.9 `models/rl_replacements.py`,
    _get_per_token_logps_and_entropies)."""
    return setup.loop_state == "unsloth-grpo" and setup.beta > 0


def returns_all_hidden_states(setup: TrainSetup) -> bool:
    """Whether the model tells all layers' outputs until its pass is over: GRPO asks for them and
    takes the last (2026.10.9 `models/rl.py`, _install_grpo_hidden_states_forward_wrapper)."""
    return setup.loop_state == "unsloth-grpo" and setup.kernels == "unsloth"


NEAREST_TRACED = (
    "Unsloth is not known for this type of model: priced as TRL's SFTTrainer, checkpoints on the"
    " GPU. Rehearsed, Unsloth's own code mostly took more."
)
"""What is said of a question that `nearest_traced` changes."""


def nearest_traced(setup: TrainSetup) -> TrainSetup:
    """`setup` with what a trace makes in place of Unsloth's own loss, checkpoints and LoRA
    functions, where its SFT loop is asked about; as it is otherwise."""
    lora = setup.lora
    if setup.loop_state != "unsloth":
        return setup
    if lora is not None and lora.lora_kernels == "unsloth":
        lora = replace(lora, lora_kernels="peft")
    loss = "trl" if setup.loss == "unsloth" else setup.loss
    return replace(setup, loss=loss, lora=lora, kernels="transformers", offload_checkpoints=False)


def check_unsloth(workload: Workload) -> None:
    """Raises UsageError where Unsloth's own forward pass is not known to be what runs."""
    why = unsloth_unsupported_reason(workload.model, workload.setup)
    if workload.setup.kernels == "unsloth" and why is not None:
        raise UsageError(f"Unsloth's kernels {why}; leave --kernels out.")


def unsloth_unsupported_reason(model: ModelSpec, setup: TrainSetup) -> str | None:
    """The end of 'Unsloth's kernels ...', None where they can be asked for."""
    if not type_of(model).unsloth:
        return f"are known of {', '.join(UNSLOTH_TYPES)}, not of {model.model_type}"
    if setup.lora is None:
        return "are known of adapters, not of full fine-tuning"
    if setup.device != "cuda":
        return "are Triton's and run on CUDA alone"
    if setup.sharding not in ("none", "ddp"):
        return f"are not known under sharding {setup.sharding}"
    if setup.transformers != "5":
        return f"are not known with transformers {setup.transformers}"
    if setup.qat != "none":
        return "are not known of fake-quantised layers"
    if setup.quantization is not None and setup.quantization.quant_type not in _BASES:
        return f"are not known over a base in {QUANT_TITLES[setup.quantization.quant_type]}"
    return None
