"""Can this be answered, and by which engine? Asked once, when a workload is ready. No torch."""

from itertools import chain

from lora_profiler.errors import UsageError, refuse
from lora_profiler.question.adapter_method import adapter_method, of_method
from lora_profiler.question.adapters import adapters
from lora_profiler.question.base import base_kind
from lora_profiler.question.kernel_set import check_kernels, kernel_set
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.lora_kernel_set import check_lora_kernels, lora_kernel_set
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import ModelSpec, Module
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.support.bases import (
    RULED,
    base_of,
    check_base,
    check_qat,
    check_quantized_experts,
    is_packed_base,
    splits_products,
)
from lora_profiler.question.support.generations import (
    check_generation,
    check_traceable,
    way_to_rules,
)
from lora_profiler.question.support.images import NO_IMAGES, check_images
from lora_profiler.question.support.losses import check_loss
from lora_profiler.question.support.model_types import TENSOR_PARALLEL_TYPES, type_of
from lora_profiler.question.support.offloading import OFFLOADED_ACTIVATIONS, check_offloading
from lora_profiler.question.support.optimizers import widens_embeddings
from lora_profiler.question.support.packing import check_packing
from lora_profiler.question.support.sdpa import check_platform
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    FULLY_SHARDED,
    LoraConfig,
    TrainSetup,
    Workload,
)

UNTIMED = (
    "the time of a step under context parallelism is not known: what attention sends, and its part"
    " of the work, were held against no measurement."
)
_REHEARSED_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_DENSE, _ALIGNED = "full_attention", 8


def unknown_combination(setup: TrainSetup) -> str:
    """What of `setup` context parallelism is not known with, "" where it is with all."""
    half = setup.dtype != "float32" or setup.lowered_dtype is not None
    kinds = {
        f"sharding {setup.sharding}": setup.sharding != "fsdp",
        f"device {setup.device}": setup.device != "cuda",
        f"{setup.attention} attention": setup.attention not in ("auto", "flash", "cudnn"),
        "float32": not half,
        "autocast": setup.autocast_dtype,
        rules_unsupported_reason(setup) or "": rules_unsupported_reason(setup),
        f"the {setup.loss} loss": setup.loss != "plain",
        "label smoothing": setup.label_smoothing_factor,
        "held outputs": setup.hold_outputs,
        f"{setup.kernels}'s kernels": setup.kernels != "transformers",
        f"transformers {setup.transformers}": setup.transformers != "5",
        "packed rows": setup.is_packed,
        "padding": setup.is_padded,
        "evaluation": setup.eval_batch_size,
        "generation": setup.completions_at_once or setup.use_vllm,
        f"{setup.loop_state}'s loop": not loop_facts(setup.loop_state).held_in_parts,
        "what waits on the host": setup.offloads,
        "reentrant checkpoints": setup.is_reentrant,
        "fake-quantised layers": setup.qat != "none",
    }
    return next((kind for kind, applies in kinds.items() if applies), "")


def check_context_parallel(workload: Workload, engine: str) -> None:
    """Raises UsageError for what torch, accelerate or transformers refuse, and for what was held
    against no rehearsal."""
    setup, model, platform = workload.setup, workload.model, workload.platform
    ranks = setup.context_parallel_size
    if ranks == 1:
        return
    unknown = unknown_combination(setup)
    refuse(
        {
            "context parallelism is known to the rules alone: torch runs it on kernels of CUDA, and"
            " no loop of ours with it; take --engine analytic.": (
                engine not in ("auto", "analytic")
            ),
            f"context parallelism with {unknown} is not modelled; it needs --sharding fsdp, the"
            f" plain"
            " loss, and flash or cuDNN attention in 16 bit. Leave one of them out.": unknown,
            f"{setup.world_size} ranks are no multiple of --context-parallel-size {ranks}; take"
            " another of both.": setup.world_size % ranks,
            "flash and cuDNN attention need a GPU from sm_80.": (
                platform.capability is not None and platform.capability < 80
            ),
            f"context parallelism is known of {', '.join(_REHEARSED_TYPES)}, not of"
            f" {model.model_type}; leave --context-parallel-size out.": (
                model.model_type not in _REHEARSED_TYPES
            ),
            f"{model.id} attends to windows, which accelerate refuses under context parallelism:"
            " every mask is dropped there; leave --context-parallel-size out.": _slides(model),
            f"flash attention pads the heads of {model.id} to a multiple of {_ALIGNED}; that is not"
            " modelled with context parallelism. Leave --context-parallel-size out.": (
                _head_width(model) % _ALIGNED
            ),
        }
    )


def _head_width(model: ModelSpec) -> int:
    config = model.config
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _slides(model: ModelSpec) -> bool:
    """As accelerate 1.15 looks (`big_modeling.py`, _attach_context_parallel_hooks)."""
    config = model.config
    kinds = config.get("layer_types")
    if kinds is not None:
        return set(kinds) != {_DENSE}
    return bool(config.get("sliding_window") and config.get("use_sliding_window", True))


BY_COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
BY_ROWS = ("o_proj", "down_proj", "embed_tokens")
HEAD_NORMS = ("q_norm", "k_norm")
"""Modules by the last part of their names, as transformers' plans cut them; norms of heads are
whole."""
STOPPED = (
    "Adapters on row-wise layers (o_proj, down_proj) as PEFT 0.21 trains them with transformers"
    " 5.20. With 5.21 to 5.24 PEFT ends in an error: it gives A the width of one part."
)


def check_tensor_parallel(workload: Workload, engine: str) -> None:
    """Raises UsageError for a family whose layers are made otherwise, which a trace may show, for
    sizes that do not divide, for what the libraries refuse on a cut weight, and for what was held
    against no trace."""
    model, setup = workload.model, workload.setup
    if setup.sharding != "tp":
        return
    if not type_of(model).tensor_parallel:
        if engine == "traced":
            return
        raise UsageError(
            f"tensor parallelism is known of {', '.join(TENSOR_PARALLEL_TYPES)}, not of"
            f" {model.model_type}; take --sharding fsdp."
        )
    for refused, reason in (
        (
            setup.quantization is not None,
            "bitsandbytes and PEFT ask a quantised weight for what torch's cut one lacks, and stop;"
            " take --sharding fsdp or ddp.",
        ),
        (
            not optimizer_facts(setup.optimizer).on_shards,
            f"{setup.optimizer} with tensor parallelism is not modelled; use"
            " --optimizer adamw or sgd.",
        ),
        (
            setup.loss != "plain",
            f"the {setup.loss} loss multiplies by the head's weight, of which a rank has a part;"
            " take --loss plain.",
        ),
        (
            setup.kernels != "transformers",
            f"{setup.kernels}'s kernels under tensor parallelism are not known; leave out one of"
            " --kernels and --sharding tp.",
        ),
    ):
        if refused:
            raise UsageError(reason)
    if setup.lora is not None:
        _check_adapters(workload, setup.lora)
    for name, size in divided_sizes(model).items():
        if size % setup.world_size:
            raise UsageError(
                f"{model.id} has {name} {size}, which {setup.world_size} ranks do not divide; take"
                " another --world-size."
            )


def _check_adapters(workload: Workload, lora: LoraConfig) -> None:
    if lora.modules_to_save:
        raise UsageError(
            "PEFT's copies of cut modules are not known; leave out one of --modules-to-save and"
            " --sharding tp."
        )
    for adapter in adapters(workload.model, lora):
        if adapter.module.rpartition(".")[2] not in (*BY_COLUMNS[:-1], *BY_ROWS[:-1]):
            raise UsageError(
                f"PEFT cuts no adapter on {adapter.module}; leave it out of --targets, or take"
                " --sharding fsdp."
            )


def divided_sizes(model: ModelSpec) -> dict[str, int]:
    """Fields of the config that a rank has a part of."""
    config = model.config
    heads = int(config["num_attention_heads"])
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": int(config.get("num_key_value_heads") or heads),
        "intermediate_size": int(config["intermediate_size"]),
    }


NO_GENERATION = (
    "neither a profile nor a trace or rehearsal is of generation; take --engine analytic, or leave"
    " it out: no --generation-batch-size, and --use-vllm of GRPO."
)

_ALONE = "a profile is of a process alone; of several ranks the rules answer, or --engine traced."
_NO_IMAGES = "no profile is of images; take --engine traced, which traces exactly this size."
_ON_HOST = "no profile is of what waits on the host; take --engine analytic."


def profile_unsupported_reason(workload: Workload) -> str | None:
    """The reason and what to do, None where a profile can hold the workload."""
    setup, lora = workload.setup, workload.setup.lora
    if reason := trace_unsupported_reason(setup):
        return reason
    exactly = "take --engine analytic, or traced, which traces exactly this size."
    if setup.loss != "plain" and not loss_facts(setup.loss).leaves_stack:
        return (
            f"no profile has the {setup.loss} loss; its chunks are not a polynomial in batch and"
            f" sequence. {exactly}"
        )
    requested = {  # a whole sentence, or what none is of
        _ALONE: setup.is_shared,
        "packed rows": setup.is_packed,
        _NO_IMAGES: setup.images is not None,
        "evaluation between steps": setup.eval_batch_size is not None,
        NO_GENERATION: setup.completions_at_once or setup.beta,
        "an older version of transformers": setup.transformers != "5",
        "fused adapters": lora is not None
        and (lora.fast_lora or lora_kernel_set(lora.lora_kernels).rules_alone),
        "inputs with a gradient and no checkpointing": (
            setup.has_input_gradients and not setup.checkpointing
        ),
        "steps in backward": setup.optimizer_in_bwd,
        _ON_HOST: setup.offloads,
        "fused kernels": setup.kernels != "transformers",
        "a checkpoint that keeps layers in 16 bit": (
            workload.model.stored is not None and workload.model.stored.in_16_bit
        ),
        "embeddings' optimizer states in 32 bit": (
            widens_embeddings(setup) and (lora is None or lora.modules_to_save)
        ),
    }
    why = next((what for what, is_asked in requested.items() if is_asked), None)
    return why if why is None or why.endswith(".") else f"no profile is of {why}; {exactly}"


def widened(model: ModelSpec, setup: TrainSetup) -> str | None:
    """Which modules a trainer's loop has in float32 beside others in 16 bit, None where none."""
    if setup.has_wide_ends:
        return "norms and embeddings"
    return "routers" if setup.has_wide_routers and _has_routers(model) else None


def _has_routers(model: ModelSpec) -> bool:
    modules = ((part,) if isinstance(part, Module) else chain(*part.kinds) for part in model.parts)
    return any(module.name.endswith(".gate") for module in chain(*modules))


OUTLIERS = (
    "Outlier columns (llm_int8_threshold 6.0) depend on the data and are not counted. At most the"
    " inputs of int8 layers are kept twice."
)
"""What a trace of LLM.int8 on a card leaves out."""


def trace_unsupported_reason(setup: TrainSetup) -> str | None:
    """Why the base's layers or the optimizer cannot be run here, and what to do; None where they
    can."""
    if optimizer_facts(setup.optimizer).rules_alone:
        return (
            f"{setup.optimizer} is known to the rules alone, as its package's source has it;"
            f" {way_to_rules(setup, 'another --optimizer')}."
        )
    if is_torchtune_dora(setup):
        return f"torchtune's DoRA is known to the rules alone; {way_to_rules(setup)}."
    if setup.quantization is None or not is_packed_base(setup):
        return None
    title = base_kind(setup.quantization.quant_type).title
    return (
        f"a base in {title} is known to the rules alone: its layers are its package's own;"
        f" {way_to_rules(setup, '--quant-type nf4')}."
    )


def omissions(setup: TrainSetup) -> tuple[str, ...]:
    """What the rules do not follow to the byte, a sentence each."""
    sentences = []
    if optimizer_facts(setup.optimizer).whole_weights_alone:
        sentences.append("Row and column sums of the optimizer's step are left out.")
    base = base_of(setup)
    if base is not None and is_packed_base(setup) and not base.in_torch:
        sentences.append(
            "The packages' layers were checked on a CPU only; GPU kernels follow their source."
        )
    if setup.offload_activations:
        sentences.append(OFFLOADED_ACTIVATIONS)
    if base is not None and splits_products(setup):
        sentences.append(
            f"{base.title} splits products of up to {base.split_tokens:,} tokens into eight float32"
            " parts. They are left out: 32 B per token and output."
        )
    return tuple(sentences)


def rules_unsupported_reason(setup: TrainSetup) -> str | None:
    """Whose activations the rules do not know, None where they may."""
    if setup.images is not None:
        return "a vision tower"
    if setup.lora is not None and setup.lora.use_dora and not is_torchtune_dora(setup):
        return "DoRA's layers"
    if setup.lora is not None and (setup.lora.peft_type != "lora" or setup.lora.peft_arg):
        with_arguments = f" with {', '.join(setup.lora.peft_arg)}" if setup.lora.peft_arg else ""
        return f"{setup.lora.method_name}'s layers{with_arguments}"
    if _is_int8(setup):
        return "layers in LLM.int8"
    if setup.qat not in ("none", *RULED):
        return f"linear layers fake-quantised in {setup.qat}"
    return None


def is_torchtune_dora(setup: TrainSetup) -> bool:
    """Whether adapters are torchtune's own DoRA, which neither a trace nor a measurement makes."""
    own = kernel_set(setup.kernels).own_dora
    return own and setup.lora is not None and setup.lora.use_dora


def has_outliers(setup: TrainSetup) -> bool:
    """Whether memory depends on the data's outliers; a CPU multiplies without looking for any."""
    return _is_int8(setup) and setup.device not in ("cpu", "xpu")


def _is_int8(setup: TrainSetup) -> bool:
    return setup.quantization is not None and setup.quantization.quant_type == "int8"


def check(workload: Workload, engine: str) -> None:
    """Raises UsageError for a workload that no engine answers, or not the one that is asked.

    Holds for other batches, ranks and lengths of `workload` too, as long as `is_packed` does.
    """
    check_model(workload)
    check_platform(workload)
    if workload.setup.images is not None and engine not in ("auto", "traced"):
        raise UsageError(NO_IMAGES)
    if engine == "compiled" and (reason := profile_unsupported_reason(workload)):
        raise UsageError(reason)
    if engine not in ("auto", "analytic") and (reason := trace_unsupported_reason(workload.setup)):
        raise UsageError(reason)
    if engine == "traced" and workload.setup.sharding in DEEPSPEED_ZERO:
        raise UsageError(
            f"no trace is of sharding {workload.setup.sharding}, which is DeepSpeed's; take"
            " --engine analytic, or another --sharding."
        )
    check_completions(workload.setup, engine)
    if engine == "traced":
        check_traceable(workload)
    check_tensor_parallel(workload, engine)
    check_context_parallel(workload, engine)


def check_completions(setup: TrainSetup, engine: str) -> None:
    """Raises UsageError for generation by an engine that has none, and for completions that nobody
    generates or that have no prompt."""
    completion = setup.max_completion_length
    if not setup.completions_at_once and not loop_facts(setup.loop_state).generates:
        if completion is not None:
            raise UsageError(
                "a completion length says how much of a sequence is generated; add"
                " --generation-batch-size N, or leave it out."
            )
        return
    if engine not in ("auto", "analytic"):
        raise UsageError(NO_GENERATION)
    if completion is not None and completion >= setup.seq_len:
        raise UsageError(
            f"completions of {completion:,} tokens leave nothing of {setup.seq_len:,} for the"
            " prompt; take a longer --seq-len, or a shorter --max-completion-length."
        )


def check_model(workload: Workload) -> None:
    """Raises UsageError for a base, adapters, a loss, packed rows or kernels that the model does
    not take, wherever it runs."""
    check_inputs(workload.model)
    check_base(workload)
    check_quantized_experts(workload)
    check_adapters(workload)
    check_loss(workload)
    check_packing(workload)
    check_kernels(workload)
    check_lora_kernels(workload)
    check_offloading(workload)
    check_generation(workload)
    check_images(workload)
    check_qat(workload)


def check_inputs(model: ModelSpec) -> None:
    """Raises UsageError for a model that neither reads nor writes text: images or sound alone."""
    published = model.published
    reads = None
    if {"num_mel_bins", "feat_extract_norm"} & published.keys():
        reads = None if model.sound else "sound"
    elif {"image_size", "num_channels"} & published.keys() and "text_config" not in published:
        reads = None if "vocab_size" in model.config else "images"
    if reads is not None:
        raise UsageError(
            f"{model.id} ({model.architecture}) reads {reads}, and only models that read text are"
            " predicted; lora-profile rehearse --gpu KEY -- python train.py answers for your"
            " script."
        )


def check_adapters(workload: Workload) -> None:
    """Raises UsageError for int8 weights, which no FSDP shares; for layers without rules where no
    trace was held against ranks that share them; for Muon on what is no matrix; for DoRA on bare
    parameters, such as packed experts, which PEFT refuses (`tuners/lora/layer.py`, ParamWrapper);
    and for what an adapter method itself refuses."""
    setup = workload.setup
    if setup.lora is None:
        return
    layers = rules_unsupported_reason(setup)
    of_peft = setup.lora.peft_type != "lora" or setup.lora.use_dora
    mixes_dora = setup.lora.use_dora and setup.precision == "fsdp-mixed"
    is_16_bit = setup.quantization is None and setup.images is None
    over_fsdp2 = of_peft and is_16_bit and not mixes_dora
    traced = ("none", "ddp", "zero1", *(("fsdp", "fsdp-no-reshard") if over_fsdp2 else ()))
    base = setup.quantization
    if base is not None and base.quant_type == "int8" and setup.sharding in FULLY_SHARDED:
        raise UsageError(
            "FSDP cannot shard int8 weights; FSDP1: Cannot flatten integer dtype tensors; FSDP2: no"
            " attribute 'CB'. Use --sharding ddp or zero1, or --quant-type nf4."
        )
    if layers and setup.sharding not in traced:
        raise UsageError(
            f"{layers} are known by traces alone: nothing of sharding {setup.sharding} was held"
            " against them; take --sharding ddp, or ask without."
        )
    if optimizer_facts(setup.optimizer).matrices_alone:
        kernel = next((a for a in adapters(workload.model, setup.lora) if a.kernel), None)
        if kernel is not None:
            raise UsageError(
                f"torch's Muon updates matrices alone, and the adapter on {kernel.module} is of a"
                " convolution; take another --optimizer."
            )
    if optimizer_facts(setup.optimizer).b_alone:
        other = next(
            (a for a in adapters(workload.model, setup.lora) if a.parameter or a.kernel), None
        )
        if other is not None or rules_unsupported_reason(setup):
            raise UsageError(
                "LoRA-FA is known of adapters on linear layers by rules alone; take --targets"
                " attention, or --optimizer adamw."
            )
    if base is not None and not adapter_method(setup.lora.peft_type).on_quantized:
        raise UsageError(
            f"PEFT's {setup.lora.method_name} reads its layers' weights, which a quantised base has"
            " packed; take --method lora, or another --peft-type."
        )
    if own := of_method(setup.lora.peft_type, "refusals"):
        refuse(own(setup))
    if not setup.lora.use_dora:
        return
    packed = next((a for a in adapters(workload.model, setup.lora) if a.parameter), None)
    if packed is not None:
        raise UsageError(
            f"PEFT has no DoRA for parameters that no linear layer holds, and"
            f" {packed.module}.{packed.parameter} is one; take --targets attention, or leave"
            " --use-dora out."
        )
