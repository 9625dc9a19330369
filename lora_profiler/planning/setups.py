"""From the options of a training setup, as people write them, to the setups they mean: one place
for every face that asks."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, get_args

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.facts.stacks.stack import (
    BARE,
    METHODS,
    Stack,
    Trainer,
    check_able,
    find_stack,
    spelled,
)
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.base import base_kind
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.kernel_set import kernel_set, unsupported_reason
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.lora_kernel_set import lora_kernels_unsupported_reason
from lora_profiler.question.model_spec import ModelSpec, StoredBase
from lora_profiler.question.option import (
    DEEPSPEED_ZERO,
    Option,
    PeftType,
    flag,
    invalid_value_hint,
    method_hint,
)
from lora_profiler.question.support.generations import as_made
from lora_profiler.question.support.sharded_precision import as_accelerate_shares
from lora_profiler.question.workload import (
    OPTIONS,
    QLORA_OPTIONS,
    LoraConfig,
    Method,
    Quantization,
    TrainSetup,
    Workload,
    idle_options,
)

DEFAULT_METHODS: tuple[Method, ...] = ("full", "lora")
DEFAULTS: Mapping[str, Any] = {"methods": DEFAULT_METHODS, **{o.name: o.default for o in OPTIONS}}
"""The options of a setup by name, as people write them: lists are text with commas."""
CPU_DEFAULTS: Mapping[str, int | str] = {"seq_len": 128, "dtype": "float32"}
"""What `bench` takes instead where it trains on a CPU: a step takes a second, not minutes. Many
CPUs have no arithmetic of 16-bit floats, and imitate it many times slower.
"""


def workloads(
    model: ModelSpec,
    options: Mapping[str, Any],
    given: Collection[str],
    platform: Platform | None = None,
    stack: Stack | None = None,
) -> list[Workload]:
    """`setups` of `model`, each on `platform`, the usual one without."""
    platform = platform or Platform()
    return [
        Workload(
            model=_as_multiplied(as_made(model, setup), setup, platform),
            setup=setup,
            platform=platform,
        )
        for setup in setups(model, options, given, platform, stack)
    ]


def _as_multiplied(model: ModelSpec, setup: TrainSetup, platform: Platform) -> ModelSpec:
    """`model`, a 4-bit checkpoint, with products in the float16 of the rest, not in the dtype that
    its config.json asks for: by Unsloth (unsloth-zoo 2026.10.9 `patching_utils.py`,
    patch_model_and_tokenizer), and on a GPU without bfloat16."""
    stored = model.stored
    if stored is None or stored.compute_dtype != "bfloat16" or setup.dtype != "float16":
        return model
    if platform.has_bfloat16 and not loop_facts(setup.loop_state).own_4_bit:
        return model
    return replace(model, stored=replace(stored, compute_dtype="float16"))


def setup_for(
    model: ModelSpec | str, trainer: str = "bare", method: Method = "lora", **options: Any
) -> TrainSetup:
    """The setup of a method as `trainer` makes it by default: the name of a stack, with @ and a
    version if another than the newest is meant.

    `options` overrule its own; they are named and written as on the command line. Raises UsageError
    for a trainer or an option that is not known, and as `setups` does.

    Examples:
        >>> from lora_profiler import setup_for
        >>> setup = setup_for("gpt2", "trl-sft", seq_len=512)
        >>> setup.batch_size, setup.seq_len, setup.checkpointing, setup.lora.r
        (8, 512, True, 8)
    """
    unknown = next((name for name in options if name not in DEFAULTS), None)
    if unknown is not None:
        raise UsageError(f"unknown option {unknown}.{did_you_mean(unknown, DEFAULTS)}")
    every = {**DEFAULTS, **options, "methods": (method,)}
    from lora_profiler.facts.catalog import as_model  # most who ask have the model already

    (setup,) = setups(as_model(model), every, {*options, "methods"}, None, find_stack(trainer))
    return setup


def peft_type_named(kind: str) -> str:
    """PEFT's method of an adapter in any case, as 'VeRA'. Raises UsageError for another word."""
    if kind.lower() not in get_args(PeftType):
        (option,) = (option for option in OPTIONS if option.name == "peft_type")
        raise UsageError(f"unknown peft_type {kind[:40]!r}.{invalid_value_hint(option, kind)}")
    return kind.lower()


def setups(
    model: ModelSpec,
    options: Mapping[str, Any],
    given: Collection[str],
    platform: Platform | None = None,
    stack: Stack | None = None,
) -> list[TrainSetup]:
    """One setup for each method, in the order asked. `options` are those of `DEFAULTS` with their
    values, `given` names those that were written down, not left to default: what `stack` says of
    them goes before the default. For a quantised checkpoint LoRA means QLoRA, and what is left to
    default is as it is stored, or as its kind of base takes it. A default length is at most the
    model's context length.

    On a platform without arithmetic of bfloat16, where no dtype was given, adapters train on a
    float16 base, and a trainer's autocast is float16's; what trains itself takes float32 weights,
    since pure float16 without loss scaling ends in NaN. On a 4-bit base TRL trains without autocast
    there: its bfloat16 adapters go with no loss scaling (torch's GradScaler refuses them).

    Raises UsageError for options that contradict each other, that the trainer cannot do, that none
    of the methods would read, or that make no sense.
    """
    stack = stack or find_stack(BARE)
    options = {**options, "peft_type": peft_type_named(options["peft_type"])}
    if options["images"] is not None and model.text_side_of is not None:
        model = model.text_side_of.whole()
    options, given = spelled(stack, options, given)
    check_able(stack, options, given)
    if not model.is_causal:
        stack.check_model(model)
    methods = tuple(dict.fromkeys(m.lower() for m in options["methods"])) or DEFAULT_METHODS
    if other := next((name for name in methods if name not in METHODS), None):
        raise UsageError(
            f"unknown method {other[:40]!r}.{method_hint(other)} Supported: {', '.join(METHODS)}"
        )
    stored: Mapping[str, Any] = {}
    if model.stored is not None:
        methods = _able_methods(methods, given)
        stored = _as_stored(model.stored, model.dtype, given)
    _refuse_idle_options(methods, given)
    trainer = Trainer(stack=stack, explicit=given)
    made = []
    for method in methods:
        own = trainer.defaults(method, options, model)
        targets = own.get("targets", options["targets"])
        if method != "full" and "targets" not in given:
            from lora_profiler.question.adapters.targets import able_targets

            own["targets"] = able_targets(model, options["peft_type"], targets)
        if own.get("target_parameters") and not _knows_experts(model):
            own["target_parameters"] = None
        if "target_parameters" in given and "dropout" in own:
            own["dropout"] = 0.0  # nothing else goes with it in PEFT
        written = {**options, **own, **stored}
        if model.trained_length and "seq_len" not in given:
            written["seq_len"] = min(written["seq_len"], model.trained_length)
        try:
            if method == "qlora":
                written |= _of_base(written["quant_type"], given)
            setup = _setup(model, method, written, given, platform)
            if "precision" not in given:
                setup = as_accelerate_shares(setup)
        except UsageError as e:
            raise UsageError(trainer.explained(str(e), own)) from e
        setup = _with_able_kernels(model, setup, given)
        made.append(trainer.laid_out(setup))
    return made


def _knows_experts(model: ModelSpec) -> bool:
    """Whether rules know the layers: no trace has adapters on 4-bit experts, which PEFT refuses."""
    from lora_profiler.memory.analytic import knows

    return knows(Workload(model=model))


def changed(workload: Workload, options: Mapping[str, Any]) -> Workload:
    """`workload` with `options` of its setup, by name and as people write them, in place of its
    own; a trainer's kernels only where they go with the rest. Raises UsageError."""
    setup, model = workload.setup, workload.model
    own = written_options(setup)
    written = {**DEFAULTS, **own, **{n: v for n, v in options.items() if n in own}}
    other = _with_able_kernels(model, _setup(model, setup.method, written, options, None), ())
    return replace(workload, model=as_made(model, other), setup=other)


def _with_able_kernels(model: ModelSpec, setup: TrainSetup, given: Collection[str]) -> TrainSetup:
    """A trainer's own kernels only where they go with the rest."""
    gives_way = "kernels" not in given and kernel_set(setup.kernels).gives_way
    if gives_way and unsupported_reason(model, setup):
        setup = replace(setup, kernels="transformers")
    lora = setup.lora
    if lora is None or "lora_kernels" in given or not lora_kernels_unsupported_reason(model, setup):
        return setup
    return replace(setup, lora=replace(lora, lora_kernels="peft"))


def _setup(
    model: ModelSpec,
    method: Method,
    options: Mapping[str, Any],
    given: Collection[str],
    platform: Platform | None,
) -> TrainSetup:
    arguments = _arguments(TrainSetup, options, model)
    precision, optimizer = arguments["precision"], arguments["optimizer"]
    in_backward = arguments["optimizer_in_bwd"]
    loaded = arguments["dtype"]
    if method == "full" and precision == "amp-float16" and "dtype" not in given:
        arguments["dtype"] = "float32"  # nothing else goes with it
    if method != "full":  # what these ask of weights depends on who trains
        arguments |= {"optimizer": "adamw", "optimizer_in_bwd": False}
        if precision in ("fsdp-mixed", "amp-float16"):
            arguments["precision"] = "amp"
    if (
        precision == "amp" and "precision" not in given and arguments["sharding"] in DEEPSPEED_ZERO
    ):  # DeepSpeed's bf16 is no autocast: it makes all weights bfloat16
        precision = arguments["precision"] = "pure"
        if "dtype" not in given:
            arguments["dtype"] = "bfloat16"
    base = TrainSetup(**arguments)
    lacks_bfloat16 = platform is not None and not platform.has_bfloat16 and base.device == "cuda"
    has_narrow_adapters = method == "qlora" and options["recipe"] == "trl"
    if lacks_bfloat16 and precision == "amp" and "precision" not in given:
        unscaled = ("bfloat16", "float16") if method == "full" else ("bfloat16",)
        if "dtype" not in given or base.dtype not in unscaled:
            precision = "pure" if has_narrow_adapters else "amp-float16"
    keeps_dtype = method != "full" and loop_facts(base.loop_state).keeps_dtype
    is_open = lacks_bfloat16 and "dtype" not in given and not keeps_dtype
    if is_open:
        base = replace(base, dtype="float32")
    if method == "full":
        return replace(base, precision=precision)
    lora = LoraConfig(**_adapter_arguments(options, given, model))
    quantization = Quantization(**_arguments(Quantization, options, model))
    adapted = _with_adapter(base, lora, quantization, method, given)
    setup = replace(adapted, precision=precision, optimizer=optimizer, optimizer_in_bwd=in_backward)
    is_narrow = has_narrow_adapters if loaded == "float32" else precision in ("pure", "amp-float16")
    return replace(setup, dtype="float16") if is_open and is_narrow else setup


def _arguments(owner: type, options: Mapping[str, Any], model: ModelSpec) -> dict[str, Any]:
    """What to make `owner`, a part of the setup, of."""
    return {
        option.field: _parsed(option, options[option.name], model)
        for option in OPTIONS
        if option.owner is owner
    }


def _adapter_arguments(
    options: Mapping[str, Any], given: Collection[str], model: ModelSpec
) -> dict[str, Any]:
    """What to make the adapter of: what a trainer takes by default for LoRA means nothing to
    another method. Raises UsageError for a rank of a method without one."""
    arguments = _arguments(LoraConfig, options, model)
    found = adapter_method(arguments["peft_type"])
    for option in OPTIONS:
        if option.owner is LoraConfig and option.field in found.idle:
            if option.field == "r" and option.name in given:
                raise UsageError(
                    f"{option.flag} does not apply to {found.title}; leave"
                    " it out, or take another --peft-type."
                )
            if option.name not in given:
                del arguments[option.field]
    return arguments


def _able_methods(methods: tuple[Method, ...], given: Collection[str]) -> tuple[Method, ...]:
    """Methods for a quantised checkpoint; "full" where it was asked for, to be refused with the
    reason."""
    wanted = methods if "methods" in given else ("qlora",)
    return tuple(dict.fromkeys("full" if method == "full" else "qlora" for method in wanted))


def _as_stored(stored: StoredBase, dtype: str | None, given: Collection[str]) -> Mapping[str, Any]:
    """What a quantised checkpoint says of the options that were not given."""
    options: dict[str, Any] = {"quant_type": stored.quant_type}
    if stored.quant_type == "nf4":
        options["double_quant"] = stored.double_quant
    if dtype or stored.compute_dtype:
        options["dtype"] = dtype or stored.compute_dtype
    return {name: value for name, value in options.items() if name not in given}


def _of_base(kind: str, given: Collection[str]) -> Mapping[str, Any]:
    """What a kind of base takes of the options that were not given."""
    defaults = base_kind(kind).defaults
    return {name: value for name, value in defaults.items() if name not in given}


def _with_adapter(
    base: TrainSetup,
    lora: LoraConfig,
    quantization: Quantization,
    method: Method,
    given: Collection[str],
) -> TrainSetup:
    if method == "lora":
        return replace(base, lora=lora)
    if quantization.recipe == "trl":
        if "adapter_dtype" in given and lora.adapter_dtype != "bfloat16":
            raise UsageError(
                f"the trl recipe trains bfloat16 adapters, not {lora.adapter_dtype}; leave out one"
                " of the two."
            )
        lora = replace(lora, adapter_dtype="bfloat16")
    return replace(base, lora=lora, quantization=quantization)


def _refuse_idle_options(methods: Collection[Method], given: Collection[str]) -> None:
    """An option that none of the methods would read is a mistake, not a wish to be ignored."""
    idle = idle_options(methods) & {*given}
    for name in (option.name for option in OPTIONS if option.name in idle):
        needs = "needs LoRA; add --method lora"
        if name in QLORA_OPTIONS:
            needs = "is about a 4-bit base; add --method qlora"
        raise UsageError(f"{flag(name)} {needs}, or leave it out.")


def _parsed(option: Option, value: Any, model: ModelSpec) -> Any:
    """The value of an option's field: a list of what people write as text."""
    if option.kind != "text" or option.annotation is str:
        return value
    if option.annotation == tuple[int, ...]:
        return _numbers(value, option.flag)
    if option.annotation == tuple[str, ...]:
        return _names(value, option.flag)
    return _targets(value, model, option.flag)


def written_options(setup: TrainSetup) -> dict[str, Any]:
    """The options of `setup` by name, as people write them; those of a part that it does not have
    are left out.

    Examples:
        >>> written_options(TrainSetup(lora=LoraConfig(target_modules=("q", "v"))))["targets"]
        'q,v'
    """
    parts = {type(part): part for part in (setup, setup.lora, setup.quantization)}
    return {
        option.name: _written(option, getattr(parts[option.owner], option.field))
        for option in OPTIONS
        if option.owner in parts
    }


def fields_of(
    options: Mapping[str, Any], names: Collection[str], model: ModelSpec
) -> dict[str, Any]:
    """The fields of a TrainSetup that hold the options of these `names`: its own with the values of
    `options`, and a part whole where any option of it is among them."""
    named = [option for option in OPTIONS if option.name in names]
    parts = {"lora": LoraConfig, "quantization": Quantization}
    owners = {option.owner for option in named}
    return {
        option.field: _parsed(option, options[option.name], model)
        for option in named
        if option.owner is TrainSetup
    } | {
        part: owner(**_arguments(owner, options, model))
        for part, owner in parts.items()
        if owner in owners
    }


def _written(option: Option, value: Any) -> Any:
    """What `_parsed` would read as `value`."""
    if option.kind != "text" or option.annotation is str:
        return value
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or ("none" if option.name == "targets" else None)
    if value is None:
        return "default"
    return value if value == "all-linear" else f"re:{value}"


def _targets(text: str, model: ModelSpec, flag: str) -> str | tuple[str, ...] | None:
    if text == "all-linear":
        return "all-linear"
    if text == "default":
        return None
    if text == "none":
        return ()
    if text == "attention":
        from lora_profiler.question.adapters.targets import attention_targets

        return attention_targets(model)
    if text.startswith("re:"):
        return text.removeprefix("re:")
    return _names(text, flag)


def _names(text: str | None, flag: str) -> tuple[str, ...]:
    if text is None:
        return ()
    between = r",(?=\s*\w+=)" if "=" in text else ","  # values in JSON have commas of their own
    names = tuple(name.strip() for name in re.split(between, text))
    if not all(names):
        raise UsageError(f"{flag} is {text!r}; write names with commas between them.")
    return names


def _numbers(text: str | None, flag: str) -> tuple[int, ...]:
    if text is None:
        return ()
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = (p.strip() for p in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(
                f"{flag} is {text[:60]!r}; write layer numbers and ranges, as in 0,2,8-15."
            )
        if max(len(first), len(last)) > 9 or int(last or first) > 100_000:
            raise UsageError(f"{flag} is {text[:60]!r}; no model has that many layers.")
        if int(last or first) < int(first):
            raise UsageError(
                f"{flag} is {text[:60]!r}; write a range from its lower number to its higher one."
            )
        numbers += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(numbers))
