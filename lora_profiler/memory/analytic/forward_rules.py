"""What the forward pass of a workload goes by: the kernels of attention, those asked for or what
torch takes for device, card, dtype and heads; formats, which layers have a mask, and the pairs of
tokens that attention computes."""

from typing import NamedTuple

from lora_profiler._common.polynomial import Polynomial, S, constant
from lora_profiler.memory.analytic.activations import has_block_masks, has_one_row
from lora_profiler.memory.analytic.families import Family, program_by_type
from lora_profiler.memory.analytic.families.blocks import heads_of
from lora_profiler.memory.analytic.ledger import Rules
from lora_profiler.memory.analytic.losses import chunk_regime
from lora_profiler.memory.analytic.persistent import groups, rest_dtype, unpacked_dtype
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.support.bases import (
    adapter_dtype,
    base_of,
    is_of_adapted_layers,
    rounds_head,
)
from lora_profiler.question.support.check import is_torchtune_dora
from lora_profiler.question.support.generations import repeats_heads, rotary_tables
from lora_profiler.question.support.model_types import type_of
from lora_profiler.question.support.sdpa import (
    FLASH_MAX_HEAD_DIM,
    SdpaCall,
    cuda_backend,
    efficient_keeps_seeds,
    efficient_takes_grouped,
    repeats_for_math,
)
from lora_profiler.question.workload import TrainSetup, Workload


class AttentionKernels(NamedTuple):
    """The kernel of layers without a mask and of those with one: "eager", "cpu" (torch's flash
    kernel for CPU), "flash", "efficient", "cudnn" or "math"."""

    plain: str
    masked: str


def attention_kernels(workload: Workload, *, trains: bool = True) -> AttentionKernels:
    """What the layers of `workload` run; without dropout where nothing `trains`.

    Without a mask transformers hands grouped heads of up to 256 features to SDPA as they are
    (`enable_gqa`), with one it repeats them first; which kernel torch takes then
    `sdpa.cuda_backend` says. A filled sliding window and packed rows bring masks. A flash kernel
    that was asked for gives way to the efficient one where there is a mask; FlashAttention 2
    itself gets one of padding alone, which stands for what it does there. Some types run eager
    whatever is asked.
    """
    setup, model = workload.setup, workload.model
    if program_by_type(model) is None:
        return AttentionKernels(setup.attention, setup.attention)
    if setup.attention == "eager" or type_of(model).eager_only:
        return AttentionKernels("eager", "eager")
    if setup.device == "cpu":
        kernel = "math" if setup.attention == "math" else "cpu"
        return AttentionKernels(kernel, kernel)
    if setup.is_flash_attention_2:
        return AttentionKernels("flash", "efficient")
    if setup.attention != "auto":
        return AttentionKernels(
            setup.attention, "efficient" if setup.attention == "flash" else setup.attention
        )
    if setup.device == "mps":
        return AttentionKernels("math", "math")
    heads = heads_of(model.config)
    dtype = setup.lowered_dtype or rest_dtype(setup)
    call = SdpaCall(
        dtype=dtype,
        head_dim=heads.dim,
        value_dim=heads.dim,
        dropout=model.config.get("attention_dropout", 0.0) if trains else 0.0,
        one_token=setup.seq_len == 1,
    )
    grouped = heads.groups > 1 and heads.dim <= FLASH_MAX_HEAD_DIM
    plain = cuda_backend(
        call._replace(grouped=grouped and not repeats_heads(workload)), workload.platform
    )
    if plain == "math" and repeats_for_math(setup):
        plain = cuda_backend(call, workload.platform)
    return AttentionKernels(plain, cuda_backend(call._replace(masked=True), workload.platform))


def rules_for(workload: Workload, kernels: AttentionKernels, masked: frozenset[int]) -> Rules:
    """What the forward pass of a workload goes by. `masked`: its layers with an explicit mask."""
    setup, model = workload.setup, workload.model
    own = kernel_set(setup.kernels)
    return Rules(
        device=setup.device,
        kernel=kernels.plain,
        masked_kernel=kernels.masked,
        repeats_heads=not efficient_takes_grouped(workload.platform),
        keeps_seeds=efficient_keeps_seeds(workload.platform, 0.0),
        dtype=setup.dtype,
        adapter_dtype=adapter_dtype(setup) if setup.lora else setup.dtype,
        lora_dropout=setup.lora.lora_dropout if setup.lora else 0.0,
        base=base_of(setup),
        rest_dtype=rest_dtype(setup),
        autocast=setup.autocast_dtype,
        head=None if own.quantizes_head else model.output_embedding,
        one_row=has_one_row(setup),
        seq_is_one=setup.seq_len == 1,
        input_grads=setup.has_input_gradients,
        masked_layers=masked,
        packed=setup.is_packed,
        kernels=setup.kernels,
        rotates_pairs=model.model_type in own.pairs_of,
        freezes_a=optimizer_facts(setup.optimizer).b_alone,
        fast_lora=setup.lora is not None and setup.lora.fast_lora,
        torchtune_dora=is_torchtune_dora(setup),
        lora_kernels=setup.lora.lora_kernels if setup.lora else "peft",
        copies_attention=own.copies_attention,
        flexes_sinks=loop_facts(setup.loop_state).flexes_sinks,
        compiled=setup.compiles_layers,
        nested_scales=setup.quantization is not None and setup.quantization.is_nested,
        quantizes_experts=setup.quantization is not None and setup.quantization.quantize_experts,
        repeats_always=repeats_heads(workload),
        rotary_tables=rotary_tables(workload),
        reentrant=setup.is_reentrant,
        steps_in_backward=setup.optimizer_in_bwd,
        moves_activations=setup.offload_activations
        and (setup.is_reentrant or not setup.checkpointing),
        by_axolotl=loop_facts(setup.loop_state).moves_weights and setup.quantization is None,
        unpacked_dtypes=_unpacked_dtypes(workload),
        transformers=setup.transformers,
        attended=_attended(setup),
        chunk_rows=chunk_regime(workload),
        loss=setup.loss,
        ring=setup.context_parallel_size,
        qat=setup.qat,
        qat_group_size=setup.qat_group_size,
        qat_adapted_alone=is_of_adapted_layers(setup),
        qat_rounds_head=rounds_head(workload),
    )


def _unpacked_dtypes(workload: Workload) -> tuple[tuple[str, str], ...]:
    """Modules that are not of the usual dtype, by the names that the forward pass uses."""
    usual = rest_dtype(workload.setup)
    dtypes = {}
    for module, _ in groups(workload.model):
        dtype = unpacked_dtype(module.name, workload.setup)
        if dtype != usual:
            dtypes[module.name] = dtype
    return tuple(dtypes.items())


def masked_layers(workload: Workload, family: Family) -> frozenset[int]:
    """Layers whose SDPA gets an explicit mask: sequences share a row, are padded, or fill the
    layer's sliding window."""
    setup, model = workload.setup, workload.model
    if setup.is_flattened or has_block_masks(setup, family):
        return frozenset()
    windows = {i: family.window(model.config, i) for i in range(model.num_layers)}
    if setup.is_flash_attention_2:
        return frozenset(windows) if setup.is_padded else frozenset()
    return frozenset(
        i
        for i, w in windows.items()
        if setup.is_packed or setup.is_padded or (w is not None and setup.seq_len >= w)
    )


def sequences_of(setup: TrainSetup) -> tuple[int, int] | None:
    """Where attention is told of sequences, the tokens of one, and those of the last one of a row,
    0 if it is whole."""
    if not setup.is_flattened or setup.packed is None:
        return None
    return setup.packed, setup.seq_len % setup.packed


def _attended(setup: TrainSetup) -> Polynomial:
    """Pairs of tokens in a row that attention computes: all of them, or where it is told of
    sequences those of each.

    A row of s tokens in sequences of p, the last one of r = s mod p: (s - r) / p sequences of p^2
    pairs and one of r^2.
    """
    sequences = sequences_of(setup)
    if sequences is None:
        return S * S
    whole, rest = sequences
    return S * whole + constant(rest * (rest - whole))
