"""What is refused before a process is started: what cannot run here, or cannot run at all. Imports
nothing heavy."""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.errors import refuse as refuse_usage
from lora_profiler.measuring.harness.nvml import open_cards, open_device, visible_entries
from lora_profiler.measuring.harness.pretended import Pretended
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.question.loss import is_predicted_only
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option import flag
from lora_profiler.question.support.check import check_model, trace_unsupported_reason
from lora_profiler.question.support.model_types import type_of
from lora_profiler.question.support.optimizers import package_of
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    FULLY_SHARDED,
    Sharding,
    TrainSetup,
    Workload,
)

# --- trainers that the harness runs ---------------------------------------------------------------

# Which trainers the harness runs themselves, and what a setup asks that one of them cannot be told.
# Imports nothing heavy.

OWN_LOOPS = ("bare", "loop")
"""Trainers by name that are the harness' own loop."""
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "transformers": ("greenlet",),
    "trl-sft": ("greenlet", "datasets", "trl"),
    "trl-dpo": ("greenlet", "datasets", "trl"),
}
"""Trainers by name, and what they take beside what measuring takes."""
MODULES = frozenset(module for needed in LIBRARIES.values() for module in needed)


def optim_of(setup: TrainSetup) -> str:
    """What `TrainingArguments.optim` is to be. Of adamw_torch, sgd and rmsprop torch chooses the
    implementation: foreach on a card, its for-loop on a CPU."""
    fused = setup.optimizer == "adamw" and setup.optimizer_impl == "fused"
    return optimizer_facts(setup.optimizer).optim + ("_fused" if fused else "")


def name_of(trainer: str) -> str:
    """'trl-sft' of 'trl-sft@1.16'."""
    return trainer.partition("@")[0]


def missing_for(trainer: str, installed: Callable[[str], object]) -> list[str]:
    """Modules that `trainer` takes and that are not there."""
    return [name for name in LIBRARIES[name_of(trainer)] if installed(name) is None]


def refuse_trainer(setup: TrainSetup, trainer: str) -> None:
    """Raises UsageError for an option of `setup` that `trainer` has no argument for."""
    name = name_of(trainer)
    if name not in LIBRARIES:
        raise UsageError(
            f"{name} itself is not run here, {', '.join(LIBRARIES)} are; add --own-loop to train"
            " with the harness' own loop in its defaults."
        )
    loss = "plain" if name == "transformers" else "trl"
    chosen = "forloop" if setup.device == "cpu" else "foreach"
    implementations = {"adamw": ("fused", chosen), "sgd": (chosen,), "rmsprop": (chosen,)}
    trl_adapters = "bfloat16" if setup.quantization is not None else "float32"
    arguments = {
        "loss": setup.loss == loss,
        "packed": not setup.is_packed,
        "hold_outputs": not setup.hold_outputs,
        "world_size": setup.world_size == 1,
        "kernels": setup.kernels == "transformers",
        "qat": setup.qat == "none",
        "optimizer": optimizer_facts(setup.optimizer).optim != "",
        "optimizer_impl": setup.optimizer_impl
        in implementations.get(setup.optimizer, (setup.optimizer_impl,)),
        "label_smoothing_factor": not setup.label_smoothing_factor or name == "transformers",
        "adapter_dtype": setup.lora is None
        or name == "transformers"
        or setup.lora.adapter_dtype == trl_adapters,
        "recipe": setup.quantization is None
        or name == "transformers"
        or setup.quantization.recipe == "trl",
    }
    for option, can in arguments.items():
        if not can:
            raise UsageError(
                f"{name} has no setting for {flag(option)} {_value(setup, option)}; leave it"
                f" out, or"
                " add --own-loop for its defaults only."
            )


def _value(setup: TrainSetup, option: str) -> object:
    for part in (setup, setup.lora, setup.quantization):
        if hasattr(part, option):
            return getattr(part, option)
    return ""


# --- what is refused ------------------------------------------------------------------------------

NEEDED = ("torch", "transformers", "peft", "accelerate")
BFLOAT16_CAPABILITY = (8, 0)
NO_CACHING = "PYTORCH_NO_CUDA_MEMORY_CACHING"
MEASURED_SHARDINGS: tuple[Sharding, ...] = ("ddp", "zero1", "fsdp", "fsdp-no-reshard", "tp")


class MeasurementError(LoraProfilerError):
    """The measurement could not be made at all. A run that runs out of memory is a result, not
    this."""

    exit_code = 4


def _card_capability() -> tuple[int, int] | None:
    """Compute capability of the card that a child would use, None where NVML cannot tell."""
    with open_device() as device:
        return device.compute_capability()


def _visible_devices() -> int | None:
    """How many NVIDIA devices a child would see, None where NVML cannot tell."""
    cards, problem = open_cards()
    for card in cards:
        card.close()
    if problem:
        return None
    return len(visible_entries(os.environ.get("CUDA_VISIBLE_DEVICES"), len(cards)))


def allocator_settings(environ: Mapping[str, str]) -> str | None:
    """What is asked of torch's CUDA allocator, under the variable's new name or else its old one;
    None if nothing is."""
    return environ.get("PYTORCH_ALLOC_CONF") or environ.get("PYTORCH_CUDA_ALLOC_CONF")


def refuse_on_this_machine(
    workload: Workload, conditions: Conditions, pretended: Pretended | None = None
) -> None:
    """`refuse` for this machine, or for the card and the environment that are pretended."""
    if pretended is None:
        refuse(workload, conditions)
        return
    if workload.setup.images is not None:
        raise UsageError(
            "images cannot be rehearsed; a simulated GPU computes no values. Leave out one of"
            " --images and --rehearse."
        )
    _refuse_masked(workload.setup)
    missing = pretended.missing - {"bitsandbytes", *MODULES}
    if missing:
        names = " ".join(sorted(missing))
        raise MeasurementError(
            f"{pretended.python} rehearses the harness' own case with {names}, which it lacks; "
            f"install them: {pretended.python} -m pip install --no-deps {names}"
        )
    if workload.setup.device != "cuda":
        raise UsageError(
            f"a rehearsal simulates a CUDA GPU; leave out --device {workload.setup.device}."
        )
    refuse(
        workload,
        conditions,
        installed=lambda name: None if name in pretended.missing else name,
        capability=lambda: divmod(pretended.capability, 10),
        devices=lambda: pretended.count,
    )


def _refuse_masked(setup: TrainSetup) -> None:
    """transformers asks the card whether a mask leaves anything out, and which position ids begin a
    sequence (`masking_utils`); a pretended card answers that all is kept, so that rows would run
    without their mask."""
    for name, is_asked in (("packed", setup.is_packed), ("padding", setup.is_padded)):
        if is_asked:
            raise UsageError(
                f"--{name} cannot be rehearsed; a simulated GPU has no values for an attention"
                f" mask."
                f" Leave out --{name}, or predict it."
            )


def refuse(
    workload: Workload,
    conditions: Conditions,
    installed: Callable[[str], object] = find_spec,
    capability: Callable[[], tuple[int, int] | None] = _card_capability,
    environ: Mapping[str, str] = os.environ,
    devices: Callable[[], int | None] = _visible_devices,
) -> None:
    """Raises MeasurementError for what this installation or card cannot run, UsageError for what no
    machine could."""
    setup, model, lora = workload.setup, workload.model, workload.setup.lora
    missing = [name for name in NEEDED if installed(name) is None]
    if missing:
        raise MeasurementError(
            f"measuring needs {', '.join(missing)}; install them: pip install"
            " 'lora-profiler[measure]'."
        )
    if conditions.trained_by:
        _refuse_trainer(setup, conditions.trained_by, installed)
    if reason := trace_unsupported_reason(setup):
        raise UsageError(reason)
    package = package_of(setup)
    if (setup.quantization or package == "bitsandbytes") and installed("bitsandbytes") is None:
        what = "a 4-bit base" if setup.quantization else f"optimizer {setup.optimizer}"
        raise MeasurementError(
            f"{what} needs bitsandbytes; install it: pip install 'lora-profiler[qlora]'."
        )
    if package == "torchao" and installed("torchao") is None:
        raise MeasurementError(
            f"optimizer {setup.optimizer} needs torchao; install it: pip install torchao."
        )
    if type_of(model).eager_only and setup.attention not in ("auto", "eager"):
        raise UsageError(
            "transformers runs Gemma 2 eager, since SDPA caps no scores; leave out --attention"
            f" {setup.attention}."
        )
    longest = model.trained_length
    if type_of(model).learned_positions and longest is not None and setup.seq_len > longest:
        raise UsageError(
            f"{model.id} has a table of {longest:,} positions, not {setup.seq_len:,}; take a"
            " shorter --seq-len."
        )
    check_model(workload)
    fused = lora is not None and (lora.fast_lora or lora.lora_kernels != "peft")
    refuse_usage(
        {
            "older library versions and trainers' own kernels and models are predicted only, not"
            " run; use --transformers 5, without --kernels, --fast-lora and --lora-kernels.": (
                setup.transformers != "5" or setup.kernels != "transformers" or fused
            ),
            f"the {setup.loss} loss is predicted here and not run; leave out --loss to measure.": (
                is_predicted_only(setup.loss)
            ),
            "sound is measured by this tool's own loop; add --own-loop.": (
                model.sound is not None and bool(conditions.trained_by)
            ),
            "what waits on the host is predicted here and not run; leave out --offload-checkpoints,"
            " --offload-activations and --offload-params to measure.": setup.offloads,
            "FlashAttention 2 is predicted here and not run; take --attention flash, torch's"
            " own.": setup.is_flash_attention_2,
            "packed rows are measured with SDPA; its flash kernel does not support a mask."
            " Leave out"
            " --attention flash, or predict only.": setup.is_flattened,
        }
    )
    if setup.is_shared:
        _refuse_ranks(workload, conditions, devices)
    refuse_usage(
        {
            f"padding is {setup.padding}; it must leave at least one token.": (
                setup.padded_tokens >= setup.seq_len
            ),
            "a smaller memory cannot be emulated on xpu; leave out the budget.": (
                conditions.budget_bytes is not None and setup.device == "xpu"
            ),
            f"memory steps are {conditions.memory_steps}; the steady state begins at step 2, so"
            " take 2 or more.": conditions.memory_steps < 2,
        }
    )
    if setup.device == "cuda":
        _refuse_allocator(environ)
    if setup.device == "cuda" and setup.needs_bfloat16:
        _refuse_bfloat16(setup, capability())


def _refuse_trainer(setup: TrainSetup, trainer: str, installed: Callable[[str], object]) -> None:
    refuse_trainer(setup, trainer)
    missing = missing_for(trainer, installed)
    if missing:
        raise MeasurementError(
            f"training with {trainer} needs {', '.join(missing)}; install them: pip install"
            " 'lora-profiler[trainers]', or add --own-loop for its defaults only."
        )


def _refuse_bfloat16(setup: TrainSetup, capability: tuple[int, int] | None) -> None:
    """Raises MeasurementError on a card without bfloat16, and says what trains there.

    What AdamW updates has to be in float32: in float16 its eps and small squares of gradients round
    to 0, it divides 0 by 0, and from step 2 on the loss is no number. No loss is scaled here.
    """
    if capability is None or capability >= BFLOAT16_CAPABILITY:
        return
    if setup.lora is None:
        advice = (
            "take --dtype float32 and --precision pure; in float16 AdamW makes the loss NaN at"
            " step 2"
        )
    else:
        recipe = ", --recipe stock or kbit" if setup.quantization is not None else ""
        advice = (
            "take --dtype float16 and --precision pure, adapters in float32 (--adapter-dtype"
            f" float32{recipe})"
        )
    raise MeasurementError(
        f"this GPU (compute capability {'.'.join(map(str, capability))}) has no bfloat16; {advice}."
    )


def _refuse_allocator(environ: Mapping[str, str]) -> None:
    """Settings of torch's CUDA allocator that contradict each other, and those under which it
    counts no requested bytes.

    Sources: torch's `c10/cuda`, `getDeviceStats` in CUDAMallocAsyncAllocator.cpp and
    `forceUncachedAllocator` in CUDACachingAllocator.cpp, which asks only whether its variable is
    there.
    """
    settings = dict(
        part.partition(":")[::2]
        for part in (allocator_settings(environ) or "").replace(" ", "").split(",")
    )
    if settings.get("expandable_segments") == "True" and "max_split_size_mb" in settings:
        raise UsageError(
            "PYTORCH_ALLOC_CONF: expandable_segments and max_split_size_mb exclude each other;"
            " torch"
            " splits expandable segments at any size. Leave one of them out."
        )
    if settings.get("backend") == "cudaMallocAsync":
        raise UsageError(
            "PYTORCH_ALLOC_CONF: with backend:cudaMallocAsync torch counts no requested bytes;"
            " leave"
            " the backend out."
        )
    if NO_CACHING in environ:
        raise UsageError(
            f"{NO_CACHING} is set; torch's allocator counts no bytes without its cache. Unset it."
        )


def _refuse_ranks(
    workload: Workload, conditions: Conditions, devices: Callable[[], int | None]
) -> None:
    """What several ranks on this machine cannot run, and what their libraries cannot share."""
    setup = workload.setup
    if setup.sharding not in MEASURED_SHARDINGS:
        whose = ": bench has no loop of DeepSpeed's" if setup.sharding in DEEPSPEED_ZERO else ""
        raise UsageError(
            f"sharding {setup.sharding} cannot be measured{whose}; take"
            f" {', '.join(MEASURED_SHARDINGS)}."
        )
    if setup.context_parallel_size > 1:
        raise UsageError(
            "bench has no loop of context parallelism; leave out --context-parallel-size."
        )
    if setup.device not in ("cpu", "cuda"):
        raise UsageError(f"several ranks are measured on cuda or cpu, not on {setup.device}.")
    if setup.device == "cuda":
        count = devices()
        if count is not None and count < setup.world_size:
            raise MeasurementError(
                f"{setup.world_size} ranks need a CUDA device each, and {count} can be seen here;"
                " take a smaller --nproc, or --device cpu."
            )
    if setup.sharding != "ddp" and setup.optimizer not in ("adamw", "sgd"):
        raise UsageError(
            f"{setup.optimizer} does not support --sharding {setup.sharding}; use --optimizer adamw"
            " or sgd, or --sharding ddp."
        )
    packed = (workload.model.published.get("quantization_config") or {}).get(
        "bnb_4bit_quant_storage"
    )
    shards_4_bit = (
        setup.quantization is not None
        and setup.sharding in FULLY_SHARDED
        and conditions.weights != "random"
    )
    if shards_4_bit and packed not in (None, setup.dtype):
        raise UsageError(
            f"FSDP cannot shard these 4-bit weights ({packed}) with {setup.dtype}; quantise them"
            f" again with bnb_4bit_quant_storage={setup.dtype}, or use --sharding ddp."
        )
