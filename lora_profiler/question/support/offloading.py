"""What waits in the host's memory: Unsloth's checkpoints and embeddings, saved tensors, FSDP's
shards and DeepSpeed's. No torch.

Source of the first: unsloth-zoo 2026.10.9, `gradient_checkpointing.py` (UnslothCheckpointFunction):
inputs of more than 2 MiB are moved, the last layer's is not, and two buffers on the card, which
grow to the longest, take them back in turn; the second one where half a GiB is free."""

from typing import Any

from lora_profiler.errors import UsageError, refuse
from lora_profiler.question.adapters import adapters
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.model_spec import ModelSpec, Module
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    DTYPE_BYTES,
    FULLY_SHARDED,
    LoraConfig,
    Workload,
)

LEAST_OFFLOADED = 2**20
"""Elements of an input that stays, in 16 bit."""


def is_offloaded(workload: Workload) -> bool:
    """Whether layers' inputs are long enough to be moved."""
    return bool(offloads(workload, workload.setup.batch_size * workload.setup.seq_len))


def offloads(workload: Workload, tokens: Any) -> Any:
    """Whether layers' inputs are moved of so many tokens, a number or an array of them."""
    setup, config = workload.setup, workload.model.config
    is_able = setup.offload_checkpoints and setup.checkpointing and not setup.checkpoints_plainly
    width = config.get("hidden_size") or config.get("n_embd", 0)
    return (tokens * width > LEAST_OFFLOADED) & is_able


_OTHER_EMBEDDINGS_BYTES = 256 * 2**20


def embeddings_on_host(workload: Workload) -> list[tuple[str, Module]]:
    """The input embedding, and others of at least 256 MiB, where Unsloth moves them (2026.10.9,
    `models/vision.py`, _input_side_embeddings); a head's own weight stays."""
    setup, model = workload.setup, workload.model
    if not setup.offload_embedding:
        return []
    embeddings = [(name, m) for name, m in model.modules() if m.kind == "Embedding"]
    least = _OTHER_EMBEDDINGS_BYTES // DTYPE_BYTES[setup.dtype]
    return [each for i, each in enumerate(embeddings) if not i or each[1].weights[0].numel >= least]


def _check_embedding(workload: Workload) -> None:
    """Unsloth leaves the embedding where it is in the first two cases (2026.10.9,
    `models/vision.py`, _resolve_offload_embedding)."""
    setup, model = workload.setup, workload.model
    if not setup.offload_embedding:
        return
    if model.has_tied_head:
        why = f"{model.id} ties it to its head, so that nothing is saved"
    elif setup.world_size > 1:
        why = "each of several ranks keeps it"
    elif setup.lora is None or _trains_embeddings(model, setup.lora):
        why = "it is known of one that does not train"
    else:
        return
    raise UsageError(f"no embedding is moved to the host: {why}; leave --offload-embedding out.")


def _trains_embeddings(model: ModelSpec, lora: LoraConfig) -> bool:
    trained = {a.module for a in adapters(model, lora)}
    return any(
        name in trained or name.rpartition(".")[2] in lora.modules_to_save
        for name, module in model.modules()
        if module.kind == "Embedding"
    )


def check_offloading(workload: Workload) -> None:
    """Raises UsageError where nothing here says what is moved."""
    setup = workload.setup
    _check_embedding(workload)
    requested = {
        "--offload-embedding": setup.offload_embedding,
        "--offload-params": setup.offload_params,
        "--offload-optimizer-device": setup.offload_optimizer_device != "none",
        "--offload-param-device": setup.offload_param_device != "none",
        "--offload-activations": setup.offload_activations,
        "--offload-checkpoints": setup.offload_checkpoints and setup.checkpointing,
    }
    named = [name for name, is_asked in requested.items() if is_asked]
    kept = [name for name in named if name in ("--offload-activations", "--offload-checkpoints")]
    saves_weights = setup.is_reentrant or not setup.checkpointing
    sharding, of_deepspeed = setup.sharding, setup.offloads_by_deepspeed
    refuse(
        {
            f"offloading needs --device cuda, not {setup.device}; leave"
            f" {' and '.join(named)} out.": named and setup.device != "cuda",
            f"sharding {sharding} keeps no shards on the host; take --sharding fsdp, or leave"
            " --offload-params out.": setup.offload_params and sharding not in FULLY_SHARDED,
            f"sharding {sharding} is not DeepSpeed's; take --sharding zero1-deepspeed, zero2 or"
            " zero3, or leave --offload-optimizer-device and --offload-param-device out.": (
                of_deepspeed and sharding not in DEEPSPEED_ZERO
            ),
            "ZeRO-1 and ZeRO-2 keep weights on the GPU; use --sharding zero3, or leave"
            " --offload-param-device out.": (
                setup.offload_param_device != "none" and sharding != "zero3"
            ),
            "DeepSpeed offloads CPUAdam and CPULion only (zero_force_ds_cpu_optimizer); use"
            " --optimizer adamw or lion.": (
                setup.offload_optimizer_device != "none"
                and not optimizer_facts(setup.optimizer).on_host
            ),
            "offloaded activations are modelled with whole weights, or without reentrant"
            " checkpointing; use --sharding ddp or --no-use-reentrant, or"
            f" leave out {' and '.join(kept)}.": (
                kept and saves_weights and sharding in (*FULLY_SHARDED, "zero3", "tp")
            ),
            "Unsloth moves the inputs of checkpointed layers, TRL and torchtune all that is saved;"
            " take one of --offload-checkpoints and --offload-activations.": len(kept) > 1,
            "torchtune's recipes offload activations with activation checkpointing alone, which is"
            " not reentrant; take --checkpointing --no-use-reentrant, or leave"
            " --offload-activations out.": (
                setup.offload_activations
                and kernel_set(setup.kernels).own_offloading
                and saves_weights
            ),
        }
    )


PINNED = (
    "Offloaded shards and gradients are pinned; torch rounds each tensor up to a power of two."
    " Optimizer states are not."
)
PINNED_BY_DEEPSPEED = (
    "DeepSpeed pins offloaded gradients and 16-bit weights, with ZeRO-2 the float32 ones too."
    " torch rounds each pinned tensor up to a power of two."
)
ON_NVME = (
    "NVMe contents are not counted. CPU buffers follow DeepSpeed's defaults: 4 of optimizer"
    " states, 5 of 100,000,000 weights."
)
OFFLOADED_ACTIVATIONS = (
    "OffloadActivations: rehearsed peaks were larger by two scalars, with reentrant checkpoints"
    " within 0.3 %. CPU memory of the loss is not counted."
)
