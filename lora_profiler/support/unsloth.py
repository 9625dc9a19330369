"""Unsloth 2026.10.9: what it keeps for the whole process, and what it takes. No torch.

Its own forward pass is that of Llama, Mistral, Qwen2 and Qwen3 with adapters alone
(`models/{llama,mistral,qwen2,qwen3}.py`); others, and full fine-tuning, run code that it writes
after transformers' and compiles.
"""

from dataclasses import replace

from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.option_values import DTYPE_BYTES, QUANT_TITLES
from lora_profiler.support.model_types import UNSLOTH_TYPES, type_of
from lora_profiler.workload import TrainSetup, Workload

_BASES = ("nf4", "int8")
"""In 4 and in 8 bit, by bitsandbytes."""
_FIRST_TABLE, _TABLE_STEP = 32_768, 8_192


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
