"""From the options of a training setup, as people write them, to the setups they mean: one place
for every face that asks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec, Nf4Checkpoint
from lora_profiler.platform import Platform
from lora_profiler.workload import (
    Attention,
    Device,
    Dtype,
    Kernels,
    LoraConfig,
    Loss,
    Method,
    Optimizer,
    OptimizerImpl,
    Precision,
    Quantization,
    Recipe,
    Sharding,
    TrainSetup,
    Workload,
)

DEFAULT_METHODS: tuple[Method, ...] = ("full", "lora")
LORA_OPTIONS = (
    "rank",
    "alpha",
    "dropout",
    "targets",
    "layers_to_transform",
    "modules_to_save",
    "adapter_dtype",
    "use_dora",
)
QLORA_OPTIONS = ("double_quant", "recipe")
CPU_DEFAULTS: Mapping[str, int | str] = {"seq_len": 128, "dtype": "float32"}
"""What `bench` takes instead where it trains on a CPU: a step takes a second, not minutes. Many
CPUs have no arithmetic of 16-bit floats, and imitate it many times slower.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupOptions:
    """The options of `lora-profile predict` that say how a model is trained, by name and with their
    defaults.

    Lists are text with commas: `targets` is all-linear, default (PEFT's for the model), attention,
    names or re:PATTERN; `layers_to_transform` numbers and ranges; `modules_to_save` names. `alpha`
    None means twice the rank. `use_dora` and `use_reentrant` are known only to be refused with the
    reason.
    """

    methods: tuple[Method, ...] = DEFAULT_METHODS
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: str = "all-linear"
    layers_to_transform: str | None = None
    modules_to_save: str | None = None
    adapter_dtype: Dtype = "float32"
    use_dora: bool = False
    batch_size: int = 1
    seq_len: int = 2048
    accumulation: int = 1
    dtype: Dtype = "bfloat16"
    precision: Precision = "pure"
    double_quant: bool = True
    recipe: Recipe = "stock"
    optimizer: Optimizer = "adamw"
    optimizer_impl: OptimizerImpl = "foreach"
    checkpointing: bool = False
    use_reentrant: bool = False
    attention: Attention = "auto"
    device: Device = "cuda"
    loss: Loss = "plain"
    world_size: int = 1
    sharding: Sharding = "none"
    packed: int | None = None
    kernels: Kernels = "transformers"


def workloads(
    model: ModelSpec,
    options: SetupOptions,
    given: Collection[str],
    platform: Platform | None = None,
) -> list[Workload]:
    """`setups` of `model`, each on `platform`, the usual one without."""
    platform = platform or Platform()
    return [
        Workload(model=model, setup=setup, platform=platform)
        for setup in setups(model, options, given, platform)
    ]


def setups(
    model: ModelSpec,
    options: SetupOptions,
    given: Collection[str],
    platform: Platform | None = None,
) -> list[TrainSetup]:
    """One setup for each method, in the order asked. `given` names the options that were written
    down, not left to default. For a checkpoint in NF4 LoRA means QLoRA, and what is left to default
    is as it is stored.

    On a platform without arithmetic of bfloat16, where no dtype was given, adapters train on a
    float16 base; full fine-tuning and autocast take float32 weights, since pure float16 without
    loss scaling ends in NaN.

    Raises UsageError for options that contradict each other, that none of the methods would read,
    or that make no sense.
    """
    methods = tuple(dict.fromkeys(options.methods)) or DEFAULT_METHODS
    if model.nf4 is not None:
        methods, options = _as_stored(model.nf4, model.dtype, methods, options, given)
    _refuse_idle_options(methods, given)
    base = TrainSetup(
        batch_size=options.batch_size,
        seq_len=options.seq_len,
        accumulation=options.accumulation,
        dtype=options.dtype,
        precision=options.precision,
        optimizer=options.optimizer,
        optimizer_impl=options.optimizer_impl,
        checkpointing=options.checkpointing,
        attention=options.attention,
        device=options.device,
        loss=options.loss,
        world_size=options.world_size,
        sharding=options.sharding,
        packed=options.packed,
        kernels=options.kernels,
        use_reentrant=options.use_reentrant,
    )
    lacks_bfloat16 = (
        platform is not None
        and not platform.has_bfloat16
        and options.device == "cuda"
        and "dtype" not in given
    )
    if lacks_bfloat16:
        base = replace(base, dtype="float32")
    if set(methods) == {"full"}:
        return [base]
    lora = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=_targets(options.targets, model),
        layers_to_transform=_numbers(options.layers_to_transform),
        modules_to_save=_names(options.modules_to_save, "--modules-to-save"),
        adapter_dtype=options.adapter_dtype,
        use_dora=options.use_dora,
    )
    found = [_with_method(base, lora, method, options, given) for method in methods]
    if lacks_bfloat16 and options.precision == "pure":
        found = [replace(setup, dtype="float16") if setup.lora else setup for setup in found]
    return found


def _as_stored(
    stored: Nf4Checkpoint,
    dtype: str | None,
    methods: tuple[Method, ...],
    options: SetupOptions,
    given: Collection[str],
) -> tuple[tuple[Method, ...], SetupOptions]:
    """Methods and options for a checkpoint in NF4; "full" where it was asked for, to be refused
    with the reason."""
    asked = methods if "methods" in given else ("qlora",)
    if "double_quant" not in given:
        options = replace(options, double_quant=stored.double_quant)
    if "dtype" not in given:
        options = replace(options, dtype=cast(Dtype, dtype or stored.compute_dtype))
    return (
        tuple(dict.fromkeys("full" if method == "full" else "qlora" for method in asked)),
        options,
    )


def _with_method(
    base: TrainSetup, lora: LoraConfig, method: str, options: SetupOptions, given: Collection[str]
) -> TrainSetup:
    if method == "full":
        return base
    if method == "lora":
        return replace(base, lora=lora)
    quantization = Quantization(double_quant=options.double_quant, recipe=options.recipe)
    if quantization.recipe == "trl":
        if "adapter_dtype" in given and lora.adapter_dtype != "bfloat16":
            raise UsageError(
                f"the trl recipe trains bfloat16 adapters, not {lora.adapter_dtype}; leave out one"
                " of the two."
            )
        lora = replace(lora, adapter_dtype="bfloat16")
    return replace(base, lora=lora, quantization=quantization)


def _refuse_idle_options(methods: Sequence[str], given: Collection[str]) -> None:
    """An option that none of the methods would read is a mistake, not a wish to be ignored."""
    idle = (
        [] if {"lora", "qlora"} & set(methods) else [name for name in LORA_OPTIONS if name in given]
    )
    if idle:
        raise UsageError(
            f"{flag(idle[0])} has no meaning for --method full; add --method lora, or leave it out."
        )
    idle = [] if "qlora" in methods else [name for name in QLORA_OPTIONS if name in given]
    if idle:
        raise UsageError(
            f"{flag(idle[0])} is about a 4-bit base; add --method qlora, or leave it out."
        )


def flag(name: str) -> str:
    """The option of a parameter: seq_len is --seq-len."""
    return "--" + name.replace("_", "-")


def _targets(text: str, model: ModelSpec) -> str | tuple[str, ...] | None:
    if text == "all-linear":
        return "all-linear"
    if text == "default":
        return None
    if text == "attention":
        from lora_profiler.planning.remarks import attention_targets

        return attention_targets(model)
    if text.startswith("re:"):
        return text.removeprefix("re:")
    return _names(text, "--targets")


def _names(text: str | None, option: str) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f"{option} is {text!r}; write names with commas between them.")
    return names


def _numbers(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (p.strip() for p in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(
                f"--layers-to-transform is {text[:60]!r}; write layer numbers and ranges, as in"
                " 0,2,8-15."
            )
        if max(len(first), len(last)) > 9 or int(last or first) > 100_000:
            raise UsageError(
                f"--layers-to-transform is {text[:60]!r}; no model has that many layers."
            )
        if int(last or first) < int(first):
            raise UsageError(
                f"--layers-to-transform is {text[:60]!r}; write a range from its lower number to"
                " its higher one."
            )
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found))
