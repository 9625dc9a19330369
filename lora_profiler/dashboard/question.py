"""The question of a page: what a link holds, and what the command line would be asked. Pure;
widgets are made elsewhere."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.planning.engine import ENGINES
from lora_profiler.planning.setups import LORA_OPTIONS, QLORA_OPTIONS, SetupOptions, flag
from lora_profiler.workload import (
    MAX_SIZE,
    Attention,
    Device,
    Dtype,
    Kernels,
    Loss,
    Method,
    Optimizer,
    OptimizerImpl,
    Precision,
    Recipe,
    Sharding,
)

FIRST_MODEL = "meta-llama/Llama-3.1-8B"
"""What the page shows before anything is asked."""
MOST_ALPHA = 2**53 - 1
BELOW_ONE = math.nextafter(1.0, 0.0)
"""The largest alpha and dropout of a field in a browser."""
LONGEST_TEXT = 2000
"""Characters of one value in a link."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "adapter_dtype": get_args(Dtype),
    "dtype": get_args(Dtype),
    "precision": get_args(Precision),
    "recipe": get_args(Recipe),
    "optimizer": get_args(Optimizer),
    "optimizer_impl": get_args(OptimizerImpl),
    "attention": get_args(Attention),
    "device": get_args(Device),
    "loss": get_args(Loss),
    "kernels": get_args(Kernels),
    "sharding": get_args(Sharding),
    "engine": ENGINES,
}
METHODS: tuple[str, ...] = get_args(Method)
SIZES = ("rank", "batch_size", "seq_len", "accumulation", "world_size", "packed")
SWITCHES = ("double_quant", "checkpointing", "offline")
_WORDS = {True: "yes", False: "no"}
_NEVER = ("use_dora", "use_reentrant")
"""Options that exist to be refused have no widget and no place in a link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model by id, the options of a setup, a card, a link and an engine, all as the command line
    takes them."""

    model: str = FIRST_MODEL
    revision: str = "main"
    offline: bool = False
    options: SetupOptions = field(default_factory=SetupOptions)
    gpu: str | None = None
    interconnect: str | None = None
    engine: str = "auto"

    @property
    def given(self) -> frozenset[str]:
        """The options of the setup that are not left to their default."""
        default = SetupOptions()
        return frozenset(
            f.name
            for f in fields(SetupOptions)
            if getattr(self.options, f.name) != getattr(default, f.name)
        )


_OPTION_NAMES = tuple(
    f.name for f in fields(SetupOptions) if f.name not in _NEVER and f.name != "methods"
)
OWN_NAMES = ("model", "revision", "offline", "gpu", "interconnect", "engine")
_PARAMETERS = {name.replace("_", "-"): name for name in (*OWN_NAMES, *_OPTION_NAMES)}
"""Name in a link, which is that of the command line's option, to the name of the field."""


# --- links ----------------------------------------------------------------------------------------


def to_params(question: Question) -> dict[str, list[str]]:
    """The query parameters of a link to `question`: the model, and whatever is not the default."""
    default, options = Question(), SetupOptions()
    params = {"model": [question.model]}
    if question.options.methods != options.methods:
        params["method"] = list(question.options.methods)
    for parameter, name in _PARAMETERS.items():
        own = name in OWN_NAMES
        value = getattr(question if own else question.options, name)
        if value != getattr(default if own else options, name):
            params[parameter] = [_text(value)]
    return params


def _text(value: object) -> str:
    return (
        _WORDS[value]
        if isinstance(value, bool)
        else repr(value)
        if isinstance(value, float)
        else str(value)
    )


def from_params(params: Mapping[str, Sequence[str]]) -> tuple[Question, tuple[str, ...]]:
    """The question that a link asks, and a sentence for everything in the link that is passed over.

    Whatever a link says that is unknown, out of range, or read by no method keeps its default.
    """
    complaints: list[str] = []
    own: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for parameter, values in params.items():
        try:
            if parameter == "method":
                options["methods"] = tuple(
                    _choice("method", value, METHODS) for value in dict.fromkeys(values)
                )
                continue
            name = _PARAMETERS.get(parameter)
            if name is None:
                known = (*_PARAMETERS, "method")
                raise UsageError(
                    f"There is no option {parameter[:60]!r}.{did_you_mean(parameter[:60], known)}"
                )
            (own if name in OWN_NAMES else options)[name] = _READ[name](name, values[-1])
        except UsageError as e:
            complaints.append(str(e))
    question = Question(options=SetupOptions(**options), **own)
    return _without_idle(question, complaints), tuple(complaints)


def _without_idle(question: Question, complaints: list[str]) -> Question:
    idle = [name for name in idle_options(question.options.methods) if name in question.given]
    for name in idle:
        complaints.append(
            f"{flag(name)} has no meaning for the methods asked,"
            f" {', '.join(question.options.methods)}."
        )
    default = SetupOptions()
    return replace(
        question,
        options=replace(question.options, **{name: getattr(default, name) for name in idle}),
    )


def idle_options(methods: Iterable[str]) -> tuple[str, ...]:
    """Options of a setup that none of `methods` reads."""
    asked = set(methods)
    return (
        *(() if asked & {"lora", "qlora"} else LORA_OPTIONS),
        *(() if "qlora" in asked else QLORA_OPTIONS),
    )


def _choice(name: str, text: str, accepted: tuple[str, ...]) -> str:
    if text not in accepted:
        shown = text[:60]
        raise UsageError(
            f"{flag(name)[2:]} is {shown!r}; accepted:"
            f" {', '.join(accepted)}.{did_you_mean(shown, accepted)}"
        )
    return text


def _read_choice(name: str, text: str) -> str:
    return _choice(name, text, CHOICES[name])


def _read_size(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= MAX_SIZE):
        raise UsageError(
            f"{flag(name)[2:]} is {text[:60]!r}; it must be a whole number from 1 to {MAX_SIZE}."
        )
    return int(text)


def _read_switch(name: str, text: str) -> bool:
    return _choice(name, text, tuple(_WORDS.values())) == _WORDS[True]


def _read_number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (0 <= number < 1 if name == "dropout" else 0 < number <= MOST_ALPHA):
        accepted = (
            "a number of at least 0 and below 1"
            if name == "dropout"
            else f"a number above 0 and up to {MOST_ALPHA}"
        )
        raise UsageError(f"{name} is {text[:60]!r}; it must be {accepted}.")
    return number


def _read_text(name: str, text: str) -> str:
    if not text.strip() or len(text) > LONGEST_TEXT or not text.isprintable():
        raise UsageError(
            f"{flag(name)[2:]} is empty, longer than {LONGEST_TEXT} characters, or no plain text."
        )
    return text


_READ: Mapping[str, Callable[[str, str], Any]] = {
    name: (
        _read_choice
        if name in CHOICES
        else (
            _read_size
            if name in SIZES
            else (
                _read_switch
                if name in SWITCHES
                else _read_number
                if name in ("alpha", "dropout")
                else _read_text
            )
        )
    )
    for name in (*OWN_NAMES, *_OPTION_NAMES)
}


# --- the command line -----------------------------------------------------------------------------


def setup_arguments(question: Question) -> list[str]:
    """The options of setup and look-up, which `predict`, `compile` and `bench` share, as far as
    they are not defaults."""
    arguments = [word for method in question.options.methods for word in ("--method", method)]
    if question.options.methods == SetupOptions().methods:
        arguments = []
    for name in _OPTION_NAMES:
        if name in question.given:
            value = getattr(question.options, name)
            arguments += (
                [_switch(name, value)] if isinstance(value, bool) else [flag(name), _text(value)]
            )
    if question.revision != "main":
        arguments += ["--revision", question.revision]
    return arguments + (["--offline"] if question.offline else [])


def _switch(name: str, value: bool) -> str:
    return flag(name) if value else flag(f"no_{name}")


def predict_arguments(question: Question) -> list[str]:
    """What to give `lora-profile` for the same answer."""
    arguments = setup_arguments(question)
    if question.gpu is not None:
        arguments += ["--gpu", question.gpu]
    if question.interconnect is not None:
        arguments += ["--interconnect", question.interconnect]
    if question.engine != "auto":
        arguments += ["--engine", question.engine]
    return (
        ["predict", *arguments, "--", question.model]
        if question.model.startswith("-")
        else [question.model, *arguments]
    )
