"""Can this be answered? Asked once, when a workload is made ready. No torch."""

from lora_profiler.adapters import adapters
from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.optimizer import optimizer_facts
from lora_profiler.option_values import GRPO
from lora_profiler.support.bases import check_base, check_quantized_experts
from lora_profiler.support.context_parallel import check_context_parallel
from lora_profiler.support.engines import (
    NO_GENERATION,
    profile_unsupported_reason,
    rules_unsupported_reason,
    trace_unsupported_reason,
)
from lora_profiler.support.fake_quantizing import check_qat
from lora_profiler.support.generations import check_generation, check_traceable
from lora_profiler.support.images import NO_IMAGES, check_images
from lora_profiler.support.liger import check_kernels
from lora_profiler.support.lora_kernels import check_lora_kernels
from lora_profiler.support.losses import check_loss
from lora_profiler.support.offloading import check_offloading
from lora_profiler.support.packing import check_packing
from lora_profiler.support.sdpa import check_platform
from lora_profiler.support.tensor_parallel import check_tensor_parallel
from lora_profiler.support.unsloth import check_unsloth
from lora_profiler.workload import DEEPSPEED_ZERO, FULLY_SHARDED, TrainSetup, Workload


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
    if not setup.completions_at_once and setup.loop_state not in GRPO:
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
    check_unsloth(workload)
    check_lora_kernels(workload)
    check_offloading(workload)
    check_generation(workload)
    check_images(workload)
    check_qat(workload)


def check_inputs(model: ModelSpec) -> None:
    """Raises UsageError for a model that reads no text: images alone, or sound."""
    published = model.published
    reads = None
    if {"num_mel_bins", "feat_extract_norm"} & published.keys():
        reads = "sound"
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
    for VeRA where torch refuses its products (`tuners/vera/layer.py`, forward, rehearsed); and for
    IA3 where its layers hand on float32 between layers in 16 bit."""
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
            f"{layers} are known by traces alone, and none of sharding {setup.sharding} was held"
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
    _check_ia3(setup)
    if setup.lora.peft_type == "vera" and setup.precision == "fsdp-mixed":
        raise UsageError(
            "FSDP's mixed precision leaves VeRA's frozen matrices in float32, and torch refuses"
            " them"
            " with bfloat16; use --precision pure or amp."
        )
    if not setup.lora.use_dora:
        return
    packed = next((a for a in adapters(workload.model, setup.lora) if a.parameter), None)
    if packed is not None:
        raise UsageError(
            f"PEFT has no DoRA for parameters that no linear layer holds, and"
            f" {packed.module}.{packed.parameter} is one; take --targets attention, or leave"
            " --use-dora out."
        )


def _check_ia3(setup: TrainSetup) -> None:
    """Over a quantised base IA3's layers multiply in float32 and hand that on but under autocast
    (PEFT `tuners/ia3/bnb.py`, forward)."""
    lora, base = setup.lora, setup.quantization
    if lora is None or lora.peft_type != "ia3" or base is None:
        return
    if setup.precision == "pure" and setup.dtype != "float32" and base.recipe in ("stock", "trl"):
        raise UsageError(
            f"PEFT's IA3 over a quantised base returns float32, which {setup.dtype} layers refuse;"
            " use --precision amp, --recipe kbit or --dtype float32."
        )
