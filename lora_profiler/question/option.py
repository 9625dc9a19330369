"""A training option: declared once, as metadata of its field in the question. The command line,
links, widgets, checks, keys and words are loops over what is declared."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, TypeAlias, get_args

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.question.adapter_method import LEFT_OUT, traced_methods, untraceable_methods
from lora_profiler.question.feature import names
from lora_profiler.units import is_finite, shown

# --- options --------------------------------------------------------------------------------------

Kind = Literal["choice", "switch", "size", "number", "text"]
Group = Literal["batch", "adapter", "base", "optimizer", "ranks", "attention"]
"""Of the form, in its order."""
GROUP_TITLES: Mapping[Group, str] = {
    "batch": "Batch and length",
    "adapter": "Adapter",
    "base": "Quantised base",
    "optimizer": "Precision, optimizer and loss",
    "attention": "Attention, kernels and device",
    "ranks": "Distributed training",
}
"""Of the command line's help, in its order."""

DECLARATION = "option"
"""Key of a `Declaration` in a field's metadata."""
MAX_SIZE = 2**31 - 1
"""Largest batch, sequence or rank accepted: beyond it torch's own index arithmetic no longer
holds."""
P = ParamSpec("P")


class Declaration(NamedTuple):
    """What a field's name, annotation and default do not say of it.

    name: on the command line, in links and in JSON, where it is not the field's. short: a flag of
    one letter. noun: what messages call it. default_text: a default that is not a plain value.
    added: which addition to the stored records it came with, 0 for the first ones; JSON and CSV
    have later ones last, and keys leave them out at their default. common: among the dozen that
    --help shows; --help-all shows all, each in its group. is_open: a profile of a traced step holds
    for any value of it, as for sizes, and for what costs nothing or is counted beside the step.

    `unmodelled`: values that people name and no answer is of, by what they begin with, and why.

    `alternatives`: values that runs differ in where nobody says which; an answer that does not have
    the option from its question covers them all. They may depend on the options answered
    for, by name. `unknown` is what the answer then calls it.

    Bounds: `largest` of a size; `at_least`, `above` and `below` of a number.

    The form: `group` places the widget; `label`, `tip` and `placeholder` are its words where they
    are not the command line's.

    Of results: `words` name a value where runs differ in it, "yes|no" for a switch; `heading` names
    it above a prediction where it is not the default, and may name other values by option.
    """

    help: str = ""
    name: str = ""
    short: str = ""
    metavar: str | None = None
    noun: str = ""
    default_text: str = ""
    added: int = 0
    common: bool = False
    is_open: bool = False
    unmodelled: tuple[tuple[str, str], ...] = ()
    alternatives: tuple[Any, ...] | Callable[[Mapping[str, Any]], tuple[Any, ...]] = ()
    unknown: str = ""
    largest: int = MAX_SIZE
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    group: Group = "batch"
    label: str = ""
    tip: str | None = None
    placeholder: str = ""
    words: str = ""
    heading: str = ""


def _as_metadata(declare: Callable[P, Declaration]) -> Callable[P, Mapping[str, Declaration]]:
    return lambda *args, **kwargs: {DECLARATION: declare(*args, **kwargs)}


option = _as_metadata(Declaration)
"""`field(default=..., metadata=option(...))` declares an option."""


class Option(NamedTuple):
    """A declared field. `owner` is its class, `annotation` its type; `default` is as people write
    it: a list is text, None for an empty one."""

    name: str
    field: str
    owner: type
    annotation: Any
    kind: Kind
    choices: tuple[str, ...]
    default: Any
    declared: Declaration

    @property
    def flag(self) -> str:
        return flag(self.name)

    @property
    def noun(self) -> str:
        return self.declared.noun or self.name.replace("_", " ")

    @property
    def range_text(self) -> str:
        """'at least 0 and below 1': the bounds of a number."""
        bounds = (
            ("at least", self.declared.at_least),
            ("above", self.declared.above),
            ("below", self.declared.below),
        )
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)

    def is_in_range(self, number: float) -> bool:
        low, above, below = self.declared.at_least, self.declared.above, self.declared.below
        return (
            is_finite(number)
            and (low is None or number >= low)
            and (above is None or number > above)
            and (below is None or number < below)
        )


def flag(name: str) -> str:
    """The option of a parameter: seq_len is --seq-len."""
    return "--" + name.replace("_", "-")


@cache
def options_of(owner: type) -> tuple[Option, ...]:
    """The options that a dataclass declares, in its order, those of its parts where the part
    stands."""
    return tuple(_options(owner))


def _options(owner: type) -> Iterator[Option]:
    declared: Mapping[str, Field[Any]] = owner.__dict__["__dataclass_fields__"]
    for item in declared.values():
        if DECLARATION in item.metadata:
            yield _option(owner, item)
        for part in get_args(item.type):
            if is_dataclass(part):
                yield from _options(part)  # type: ignore[arg-type]


@cache
def _checked(owner: type) -> tuple[Option, ...]:
    return tuple(
        option
        for option in options_of(owner)
        if option.owner is owner and option.kind in ("choice", "size", "number")
    )


def _option(owner: type, item: Field[Any]) -> Option:
    declaration: Declaration = item.metadata[DECLARATION]
    annotation = item.type
    kind, choices = _kind(annotation)
    return Option(
        name=declaration.name or item.name,
        field=item.name,
        owner=owner,
        annotation=annotation,
        kind=kind,
        choices=choices,
        default=None if item.default == () else item.default,
        declared=declaration,
    )


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    """How values of a type are written, and which there are where they are few."""
    if annotation is bool:
        return "switch", ()
    if annotation in (int, int | None):
        return "size", ()
    if annotation in (float, float | None):
        return "number", ()
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "choice", choices
    return "text", ()


def check_options(part: object) -> None:
    """Raises UsageError for a value of `part`, a dataclass with options, that none can have."""
    for option in _checked(type(part)):  # type: ignore[arg-type]
        value = getattr(part, option.field)
        if value is not option.default:
            check_value(option, value)


def check_value(option: Option, value: Any) -> None:
    """Raises UsageError for a value that the option cannot have: one of its field, not what people
    write."""
    if option.kind == "choice":
        if value not in option.choices:
            raise UsageError(
                f"unknown {option.noun} {value!r}.{invalid_value_hint(option, str(value))}"
                f" Supported: {', '.join(option.choices)}"
            )
    elif option.kind == "size":
        _check_size(option, value)
    elif option.kind == "number" and not option.is_in_range(value):
        finite = "a finite number " if option.declared.below is None else ""
        raise UsageError(
            f"{option.noun} is {shown(value)}; it must be {finite}{option.range_text}."
        )


def invalid_value_hint(option: Option, value: str) -> str:
    """What is said of a word that is none of the option's: why what it names has no answer, else
    the nearest words. Begins with a space, or is empty."""
    word = value.lower().replace("-", "_")
    reasons = {name: why for name, why in option.declared.unmodelled if word.startswith(name)}
    if not reasons:
        return did_you_mean(value, option.choices)
    return _reason(value, reasons[max(reasons, key=len)])


def method_hint(value: str) -> str:
    """What is said of a word that is no training method: where an adapter's name goes, else the
    nearest words. Begins with a space, or is empty."""
    word = value.lower().replace("-", "_")
    if word in get_args(PeftType):
        return f" Use `--method lora --peft-type {word}`."
    if word in UNMODELLED_ADAPTERS:
        return _reason(value, UNMODELLED_ADAPTERS[word])
    return did_you_mean(value, get_args(Method))


def _reason(value: str, why: str) -> str:
    is_another_name = why.startswith("it is ")
    return (
        f" {value} {why.removeprefix('it ')}"
        if is_another_name
        else (f" {value} is not modelled: {why}")
    )


def _check_size(option: Option, value: object) -> None:
    largest = option.declared.largest
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise UsageError(
            f"{option.noun} is {shown(value)}; it must be a whole number from 1 to {largest}."
        )


# --- values of options ----------------------------------------------------------------------------

OptimizerImpl = Literal["foreach", "fused", "forloop"]
Attention = Literal["auto", "flash", "efficient", "cudnn", "math", "eager", "flash_attention_2"]
Device = Literal["cuda", "cpu", "mps", "xpu"]
Precision = Literal["pure", "amp", "amp-float16", "fsdp-mixed"]
Method = Literal["full", "lora", "qlora"]
if TYPE_CHECKING:  # the values are names of features, which the option's own check knows
    PeftType: TypeAlias = str
    QuantType: TypeAlias = str
    Kernels: TypeAlias = str
    LoopState: TypeAlias = str
    LoraKernels: TypeAlias = str
    Loss: TypeAlias = str
    Optimizer: TypeAlias = str
else:
    Optimizer = Literal[("adamw", "sgd", *names("optimizers"))]
    Loss = Literal[("plain", "chunked", "fused", *names("losses"))]
    QuantType = Literal[("nf4", "int8", *names("bases"))]
    PeftType = Literal[traced_methods()]
    Kernels = Literal[("transformers", *names("kernels"))]
    LoopState = Literal[("none", "transformers", "transformers-unmasked", *names("loops"))]
    LoraKernels = Literal[("peft", *names("lora_kernels"))]
Transformers = Literal["5", "4.57", "4.48", "4.45"]
Sharding = Literal[
    "none",
    "ddp",
    "zero1",
    "zero1-deepspeed",
    "zero2",
    "zero3",
    "fsdp",
    "fsdp-no-reshard",
    "fsdp1",
    "fsdp1-no-prefetch",
    "tp",
]
OffloadDevice = Literal["none", "cpu", "nvme"]
Dtype = Literal["float32", "bfloat16", "float16"]
Recipe = Literal["stock", "kbit", "kbit-norms", "trl"]
Qat = Literal["none", "8da4w", "int8-int4", "int4", "fp8-int4", "fp8-fp8"]

UNMODELLED_OPTIMIZERS: Mapping[str, str] = {
    "galore_adafactor": "its averages are sums of rows and columns of what it projects.",
    "galore_adamw_8bit": (
        "galore-torch 1.0 hands bitsandbytes 0.50 its clipping as another argument; take"
        " galore_adamw."
    ),
    "galore_adamw_layerwise": "it updates inside backward, where no gradient outlives its layer.",
    "q_galore": ("its weights and projections are quantised by kernels of its own."),
    "apollo_adamw_layerwise": "it updates inside backward, where no gradient outlives its layer.",
    "ademamix": "it keeps a third average; adamw keeps two.",
    "adalomo": "it updates inside backward, where no gradient outlives its layer.",
    "lomo": "it updates inside backward, where no gradient outlives its layer.",
    "lora_fa": "it is lorafa.",
    "loraplus": "LoRA+ is AdamW with another learning rate for B, and as many states; take adamw.",
    "lora_plus": "LoRA+ is AdamW with another learning rate for B, and as many states; take adamw.",
    "schedule_free": "it keeps a second copy of the weights in place of an average.",
}
"""Optimizers that people name, by what their names begin with; transformers' names among them."""
UNMODELLED_BASES: Mapping[str, str] = {
    "fp4": "bitsandbytes' FP4 has as many bytes as its NF4; take nf4.",
    "mxfp4": "transformers trains nothing on it; bring its weights back to 16 bit (dequantize).",
    "nvfp4": "transformers trains nothing on it.",
    "int4": "neither transformers nor PEFT trains on torchao's int4; nf4 is the nearest.",
    "torchao": "transformers trains on its formats of 8 bit alone, and none of those was traced.",
    "eetq": "its package's kernels were not traced; codes of int8 have as many bytes.",
    "aqlm": "its package's kernels were not traced.",
}
"""Quantised bases that people name and that are no answer."""
UNMODELLED_ADAPTERS: Mapping[str, str] = {
    **{name: f"no trace can be of it: {reason}." for name, reason in untraceable_methods().items()},
    "adalora": "its ranks change as it trains; LoRA of its first rank (init_r) is the nearest.",
    "boft": "its butterfly factors are multiplied by a kernel of its own; oft is the nearest.",
    "dora": "it is LoRA with --use-dora.",
    "rslora": "it is LoRA with --use-rslora.",
    "pissa": "it is LoRA that begins from other values; take lora.",
    "qlora": "it is --method qlora.",
    **LEFT_OUT,
    **dict.fromkeys(
        ("prompt", "prefix", "p_tuning", "adaption", "multitask", "cpt", "cartridge"),
        "it trains extra prompt tokens, not layers; every sequence gets longer.",
    ),
}
"""PEFT's other methods."""
DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
FLAT: tuple[Sharding, ...] = ("fsdp1", "fsdp1-no-prefetch")
"""FSDP of flat parameters, as torch had it first; accelerate fetches no layer ahead."""
FULLY_SHARDED: tuple[Sharding, ...] = ("fsdp", "fsdp-no-reshard", *FLAT)
"""Shardings that gather each layer's weights as it runs."""
DEEPSPEED_ZERO: tuple[Sharding, ...] = ("zero1-deepspeed", "zero2", "zero3")
"""Shardings of DeepSpeed, which makes every weight as narrow as the model's and keeps float32
copies of what trains."""
UPDATES_SHARED: tuple[Sharding, ...] = ("zero1", *DEEPSPEED_ZERO, *FULLY_SHARDED)
"""Shardings under which each rank updates its part of the weights."""
WHOLE_WEIGHTS: tuple[Sharding, ...] = ("none", "ddp", "zero1", "zero1-deepspeed", "zero2")
"""Shardings under which each rank has all weights."""
MAX_WORLD_SIZE = 2**20
"""Largest number of ranks accepted: some shardings deal tensors out to each."""
FROZEN_PARTS = ("vision_tower", "multi_modal_projector", "language_model")
"""Of a model that sees, by the names of LLaMA-Factory's `freeze_...`."""
