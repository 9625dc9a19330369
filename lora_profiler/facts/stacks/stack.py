"""What is known of one version of one trainer, how it is found by name, and what it makes of a
question: what it fills in, how it lays out rows, what it refuses."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple, get_args

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.question.feature import names, part
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import Option, flag
from lora_profiler.question.support.bases import packed_experts
from lora_profiler.question.workload import (
    DTYPE_BYTES,
    OPTIONS,
    Method,
    Sharding,
    TrainSetup,
    Workload,
    setup_dict,
)

METHODS: Final[tuple[Method, ...]] = get_args(Method)
CHECKPOINT_DTYPE: Final = "auto"
"""A default of `dtype`: as the checkpoint is stored, in transformers' own spelling."""

SIZES: Final = ("batch_size", "seq_len", "rank", "alpha", "dropout", "targets")
"""Options of a question that hold for whichever trainer runs it."""

Options = Mapping[str, Any]
"""Values of options by their names, as people write them."""


SHARED_LEAVES: Final = ("seq_len", "padding", "attention")
"""Options that no trainer decides: lengths and padding are the data's, attention the model's."""


class Packing(NamedTuple):
    """How packed rows reach the model. `one_row`: the rows of a micro-batch are laid end to end, so
    that batch 4 x 1,024 is one row of 4,096. `attention` is taken for them where none is given."""

    one_row: bool
    attention: str | None = None


class Refusal(NamedTuple):
    """Values of an option that the trainer cannot do, all but the default where none are named, and
    why: the end of '--packed 32 does not work with LitGPT 0.5.13; ...'."""

    option: str
    reason: str
    values: tuple[Any, ...] = ()


class Variant(NamedTuple):
    """Options that users of the trainer often set together, beside its defaults; `what` is what an
    answer calls it where a question says neither. `shardings`: those that it comes with."""

    what: str
    options: Options
    methods: tuple[Method, ...] = METHODS
    shardings: tuple[Sharding, ...] = ()

    def holds(self, setup: TrainSetup) -> bool:
        """Whether it goes with the method and the sharding."""
        is_here = not self.shardings or setup.sharding in self.shardings
        return setup.method in self.methods and is_here


class Gap(NamedTuple):
    """What the trainer holds and no option prices, so that an answer for it is an estimate.

    is_shared: of several ranks alone. Of what a question itself names: `missing`, its name;
    `direction`, how the answer errs, 'too high'; `alternatives`, options with which the run may
    need about as much."""

    text: str
    methods: tuple[Method, ...] = METHODS
    is_shared: bool = False
    missing: str = ""
    direction: str = ""
    alternatives: tuple[Options, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One version of a trainer, as far as it says what a question leaves open.

    name: what `--trainer` takes. version: of `library`, whose `call` trains: "TRL 1.16's
    SFTTrainer". about: what the defaults stand for, in sentences. defaults: the options that the
    trainer sets, by method, each with what it reads alone. peft_types: methods of PEFT that it
    attaches, () for all. leaves: options that the script or the data decide, whatever its default;
    None for all. variants: what its users often set otherwise. aliases: by option, the trainer's
    own spelling of values, and the options they mean. rows: of the model for each of a batch, 2
    where pairs are compared. holds: what is alive and when, with its source, priced. gaps: what is
    not. guide: what guides and notebooks pass to it in place of its defaults, by method;
    model_types: those of which it has its own code, where it takes no other. of_types: what it sets
    for models of a type, by method; of_experts: for those whose experts are packed into one
    parameter; of_encoders: in place of all that, where guides are for causal language models.
    trains_encoders: models that predict no next token too, as BERT and T5.
    """

    name: str
    library: str
    version: str
    call: str
    about: tuple[str, ...]
    defaults: Mapping[Method, Options]
    packing: Packing | None
    aliases: Mapping[str, Mapping[str, Options]] = field(default_factory=dict)
    rows: int = 1
    holds: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    peft_types: tuple[str, ...] = ()
    leaves: tuple[str, ...] | None = SHARED_LEAVES
    variants: tuple[Variant, ...] = ()
    guide: Mapping[Method, Options] = field(default_factory=dict)
    model_types: frozenset[str] = frozenset()
    of_types: Mapping[str, Mapping[Method, Options]] = field(default_factory=dict)
    of_experts: Mapping[Method, Options] = field(default_factory=dict)
    of_encoders: Mapping[Method, Options] = field(default_factory=dict)
    trains_encoders: bool = False

    @property
    def title(self) -> str:
        """'TRL 1.16's SFTTrainer'."""
        versioned = " ".join(filter(None, (self.library, self.version)))
        return f"{versioned}'s {self.call}" if versioned else self.call

    def trains(self, model: ModelSpec) -> bool:
        """Whether its own code has the model, and trains models that predict what it does."""
        has_type = not self.model_types or model.model_type in self.model_types
        return has_type and (self.trains_encoders or model.is_causal)

    def check_model(self, model: ModelSpec) -> None:
        """Raises UsageError for a model that it does not train."""
        if self.trains(model):
            return
        if not model.is_causal:
            raise UsageError(
                f"{self.library} trains causal language models, not {model.architecture};"
                " use --trainer transformers."
            )
        raise UsageError(f"{self.library} has no models of type {model.model_type}.")

    @property
    def generates(self) -> bool:
        """Whether its loop makes completions between steps."""
        return loop_facts(self.defaults["full"].get("loop_state", "none")).generates

    @property
    def options(self) -> frozenset[str]:
        """Names of the options that it sets, for some method."""
        every = (self.defaults, self.of_experts, *self.of_types.values())
        return frozenset(name for methods in every for own in methods.values() for name in own)

    @property
    def max_length(self) -> int | None:
        """Tokens at which it cuts samples by default; None where it cuts none."""
        return next((own["seq_len"] for own in self.defaults.values() if "seq_len" in own), None)

    @property
    def version_words(self) -> str:
        """What an answer calls a version that is not given."""
        return f"the version of {self.library}"

    @property
    def key(self) -> str:
        """'trl-sft@1.16': what names this version on the command line."""
        return f"{self.name}@{self.version}" if self.version else self.name


def by_method(
    common: Options,
    *,
    full: Options | None = None,
    adapter: Options | None = None,
    lora: Options | None = None,
    base: Options | None = None,
) -> dict[Method, Options]:
    """The defaults of each method: `common` to all, those of `adapter` and `base` where there is
    one, `full` and `lora` for that method alone.

    Examples:
        >>> by_method({"batch_size": 8}, adapter={"rank": 8}, base={"recipe": "trl"})["qlora"]
        {'batch_size': 8, 'rank': 8, 'recipe': 'trl'}
    """
    adapted = {**common, **(adapter or {})}
    return {
        "full": {**common, **(full or {})},
        "lora": {**adapted, **(lora or {})},
        "qlora": {**adapted, **(base or {})},
    }


def overruled(
    stack: Stack, options: Options, adapter: Options | None = None
) -> dict[Method, Options]:
    """The defaults of `stack` with `options` in place of its own, and those of `adapter` where
    there is one."""
    return {
        method: {**own, **options, **(adapter or {} if method != "full" else {})}
        for method, own in stack.defaults.items()
    }


def as_guided(stack: Stack) -> Stack:
    """`stack` with what its guides pass in place of its own defaults.

    Batch size, sequence length, rank and targets are no part of a guide: those of the question hold
    for every trainer, so that trainers can be compared. Guides to encoders, such as transformers'
    for text classification, change nothing else, and load the weights as they are published.
    """
    guided: dict[Method, Options] = {}
    for method, own in stack.defaults.items():
        guided[method] = {**_without_sizes(own), **stack.guide.get(method, {})}
    of_types = {
        kind: {method: _without_sizes(own) for method, own in methods.items()}
        for kind, methods in stack.of_types.items()
    }
    of_experts = {method: _without_sizes(own) for method, own in stack.of_experts.items()}
    of_encoders = {
        method: {"dtype": CHECKPOINT_DTYPE, **_without_sizes(own)}
        for method, own in stack.defaults.items()
    }
    return replace(
        stack,
        defaults=guided,
        of_types=of_types,
        of_experts=of_experts,
        of_encoders=of_encoders if stack.trains_encoders else {},
    )


def _without_sizes(own: Options) -> Options:
    return {name: value for name, value in own.items() if name not in SIZES}


# --- from what people write to a stack: a name, and a version where one is given ------------------


_CORE = ("guide", "bare", "loop", "transformers")
"""Loops over transformers' models, which are in `transformers_loops`."""
BARE: Final = "bare"
"""The loop that `bench` runs and the rules are written for."""
GUIDE: Final = "guide"
"""The stack of a question that names none."""


@cache
def trainers() -> tuple[str, ...]:
    """Names of the stacks, in the order in which they are listed."""
    libraries = [part("trainers", name, "", "VERSIONS") for name in names("trainers")]
    return tuple(dict.fromkeys((*_CORE, *(s.name for stacks in libraries for s in stacks))))


@cache
def guided_trainers() -> tuple[str, ...]:
    """Names of the stacks that a question without a trainer is answered for: those of supervised
    fine-tuning."""
    found = (part("trainers", name, "", "GUIDED") for name in names("trainers"))
    return *filter(None, found), "transformers", "loop"


def versions(name: str) -> tuple[Stack, ...]:
    """All versions of a stack, the newest first. Raises UsageError for a name that none has."""
    if name in _CORE:
        stacks = import_module("lora_profiler.facts.stacks.transformers_loops").VERSIONS
    else:
        stacks = part("trainers", name.partition("-")[0], "", "VERSIONS") or ()
    found = tuple(stack for stack in stacks if stack.name == name)
    if not found:
        raise UsageError(
            f"unknown trainer {name[:60]}.{did_you_mean(name[:60], trainers())}"
            f" Supported: {', '.join(trainers())}"
        )
    return found


def find_stack(text: str) -> Stack:
    """The stack that `text` names, the newest version of it, or that after an @.

    The name is the stack's key, its library or its class. A version may be shorter than the one
    that is known, or longer: 1, 1.16 and 1.16.2 are all answered by 1.16. Raises UsageError for a
    name or a version that is not known.

    Examples:
        >>> find_stack("trl-sft@1.16").title
        "TRL 1.16's SFTTrainer"
        >>> find_stack("TRL").name
        'trl-sft'
    """
    word, at, version = text.strip().partition("@")
    stacks = versions(name := _key_of(word))
    if not at:
        return stacks[0]
    for stack in stacks:
        if _agree(version, stack.version):
            return stack
    known = [stack.version for stack in stacks if stack.version]
    if not known:
        raise UsageError(f"{name} has no versions; write --trainer {name}.")
    raise UsageError(
        f"{name} is known in version {' and '.join(known)}, not {version[:60]!r}; name one that is"
        " known, or leave @ out for the newest."
    )


def _key_of(word: str) -> str:
    """The key itself; of a library the stack of supervised fine-tuning; of a class, spelled as in
    code, its own; the word where nothing is so called."""
    key = word.lower()
    if key in trainers():
        return key
    newest = [versions(name)[0] for name in (*guided_trainers(), *trainers())]
    by_library = [s for s in newest[: len(guided_trainers())] if s.library.lower() == key]
    by_class = [s for s in newest if s.call == word != key]
    return next((stack.name for stack in (*by_library, *by_class) if word), key)


def _agree(version: str, known: str) -> bool:
    """Whether the one is the other, or its beginning."""
    parts = list(zip(version.split("."), known.split("."), strict=False))
    return bool(version) and bool(known) and all(a == k for a, k in parts)


# --- a stack as a question names it: what it fills in, how it lays out rows, what it refuses ------


_BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
_LAID_OUT = ("batch_size", "seq_len")
"""Options that `laid_out` changes after they were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """`stack`, and `explicit`, the names of the options that were written down beside it and
    overrule its own. `is_pinned`: the question names the version. `file_options` are those of
    `explicit` that are a trainer's file's, which says all that is not the trainer's default."""

    stack: Stack
    explicit: frozenset[str] = frozenset()
    is_pinned: bool = False
    file_options: frozenset[str] = frozenset()

    def defaults(self, method: Method, options: Options, model: ModelSpec) -> dict[str, Any]:
        """What the stack says of a method, the options left out that are given in `options`."""
        of_encoders = {} if model.is_causal else self.stack.of_encoders
        every = dict(of_encoders.get(method, self.stack.defaults[method]))
        if self.stack.of_experts and packed_experts(model):
            every |= self.stack.of_experts.get(method, {})
        every |= self.stack.of_types.get(model.model_type, {}).get(method, {})
        own = {name: value for name, value in every.items() if name not in self.explicit}
        if own.get("dtype") == CHECKPOINT_DTYPE:
            own["dtype"] = as_loaded(model)
        if options["optimizer"] != every.get("optimizer") and "optimizer" in self.explicit:
            own.pop("optimizer_impl", None)  # it is that of the stack's own optimizer
        if own.get("max_completion_length", 0) >= own.get("seq_len", options["seq_len"]):
            own["max_completion_length"] = None  # all of it may be the completion's
        kernel = self.stack.packing.attention if self.stack.packing else None
        if kernel and "packed" in self.explicit and "attention" not in self.explicit:
            own["attention"] = kernel
        return own

    def laid_out(self, setup: TrainSetup) -> TrainSetup:
        """The rows as the model sees them: two for each pair, one of all that is packed."""
        batch_size = setup.batch_size * self.stack.rows
        if setup.is_packed and self.stack.packing and self.stack.packing.one_row:
            return replace(setup, batch_size=1, seq_len=batch_size * setup.seq_len)
        return replace(setup, batch_size=batch_size)

    def from_stack(self, workload: Workload) -> dict[str, Any]:
        """The options of `workload` that are the stack's, by name, with its values."""
        setup = workload.setup
        options = setup_dict(setup)
        own = self.defaults(setup.method, options, workload.model)
        return {
            name: value
            for name, value in own.items()
            if name in _LAID_OUT or _is_value(value, options[name], name)
        }

    def explained(self, refusal: str, own: Options) -> str:
        """`refusal`, with whose the options are that it names and nobody gave: of `own`, the
        stack's by name."""
        meant = [n for n, value in own.items() if flag(n) in refusal and str(value) in refusal]
        if not meant:
            return refusal
        for name in meant:
            other = f"take another {flag(name)} or --trainer"
            refusal = refusal.replace(f"leave {flag(name)} out", other)
        words = ", ".join(f"{flag(name)} {own[name]}" for name in meant)
        return f"{refusal} Default of {self.stack.title}: {words}."

    def gaps(self, setup: TrainSetup) -> tuple[Gap, ...]:
        """What it holds beside what is priced."""
        return tuple(
            gap
            for gap in self.stack.gaps
            if setup.method in gap.methods and (setup.is_shared or not gap.is_shared)
        )


def as_loaded(model: ModelSpec) -> str:
    """The dtype that `from_pretrained(dtype="auto")` gives its weights. A checkpoint whose
    config.json names none is older than the entry, and in float32; one that is stored in 8 or 4 bit
    is dequantised to bfloat16."""
    if model.dtype in DTYPE_BYTES:
        return model.dtype
    return "float32" if model.dtype is None and model.dequantized_from is None else "bfloat16"


def _is_value(written: Any, stored: Any, name: str) -> bool:
    """Whether a setup has what was written; lists are not compared, since nothing changes them."""
    return _BY_NAME[name].kind == "text" or bool(written == stored)


def spelled(
    stack: Stack, options: Options, given: Collection[str]
) -> tuple[dict[str, Any], frozenset[str]]:
    """`options` and the names of those given, with the trainer's own spelling of values in the
    words of options."""
    values, names = dict(options), set(given)
    for name in given:
        meant = stack.aliases.get(name, {}).get(options[name])
        if meant is not None:
            names = (names - {name}) | set(meant)
            values |= {n: v for n, v in meant.items() if n == name or n not in given}
    return values, frozenset(names)


def check_able(stack: Stack, options: Options, given: Collection[str]) -> None:
    """Raises UsageError for an option given that the trainer cannot do."""
    for refusal in stack.refusals:
        if refusal.option not in given:
            continue
        value, default = options[refusal.option], _BY_NAME[refusal.option].default
        if value in refusal.values if refusal.values else value != default:
            raise UsageError(
                f"{flag(refusal.option)} {value} does not work with {stack.title};"
                f" {refusal.reason}."
                " Leave it out, or name another --trainer."
            )
    kind = options["peft_type"] if "peft_type" in given else "lora"
    if stack.peft_types and kind not in stack.peft_types:
        raise UsageError(
            f"--peft-type {kind} does not work with {stack.title}; it trains"
            f" {' and '.join(stack.peft_types)} alone. Leave it out, or name another --trainer."
        )
