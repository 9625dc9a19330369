"""The question of a page: what a link holds, and what the command line would be asked. Pure;
widgets are made elsewhere."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.option import MAX_SIZE, Option, flag
from lora_profiler.planning.engine import ENGINES
from lora_profiler.planning.setups import DEFAULTS, LORA_OPTIONS, QLORA_OPTIONS
from lora_profiler.stacks import CHECKPOINT_DTYPE, Stack, Trainer, find_stack
from lora_profiler.workload import OPTIONS, Method

FIRST_MODEL = "meta-llama/Llama-3.1-8B"
"""What the page shows before anything is asked."""
MOST = 2**53 - 1
"""The largest number of a field in a browser."""
LONGEST_TEXT = 2000
"""Characters of one value in a link."""

METHODS: tuple[Method, ...] = get_args(Method)
_WORDS = {True: "yes", False: "no"}
SETUP_OPTIONS: Mapping[str, Option] = {
    option.name: option for option in sorted(OPTIONS, key=lambda option: option.declared.added)
}
"""By name."""
OWN_NAMES = ("model", "revision", "offline", "trainer", "gpu", "interconnect", "engine")
_PARAMETERS = {name.replace("_", "-"): name for name in (*OWN_NAMES, *SETUP_OPTIONS)}
"""Name in a link, which is that of the command line's option, to the name of the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model by id, a trainer, the options of a setup, a card, a link and an engine, all as the
    command line takes them."""

    model: str = FIRST_MODEL
    revision: str = "main"
    offline: bool = False
    trainer: str | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)
    gpu: str | None = None
    interconnect: str | None = None
    engine: str = "auto"

    @property
    def given(self) -> frozenset[str]:
        """The options of the setup that are not left to their default."""
        defaults = defaults_of(self.trainer, self.options)
        return frozenset(name for name in DEFAULTS if self.options[name] != defaults[name])

    @property
    def stack(self) -> Stack | None:
        return None if self.trainer is None else find_stack(self.trainer)

    @property
    def whose(self) -> Trainer | None:
        """Whose loop it is; None for a bare one."""
        return Trainer(stack=self.stack, given=self.given) if self.stack else None


def defaults_of(trainer: str | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the options are where nobody sets them, with `options`' methods and its optimizer if it
    has one: those of the trainer, of the first method that has one, else the command line's.

    A dtype that is the checkpoint's is shown as the latter, and so is the implementation of an
    optimizer that is not the trainer's own.
    """
    if trainer is None:
        return DEFAULTS
    own: dict[str, Any] = {}
    for method in options["methods"]:
        own = {**find_stack(trainer).defaults[method], **own}
    if own.get("dtype") == CHECKPOINT_DTYPE:
        del own["dtype"]
    if options.get("optimizer", own.get("optimizer")) != own.get("optimizer"):
        own.pop("optimizer_impl", None)
    return {**DEFAULTS, **own}


def completed(trainer: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a setup; what is left empty, and what no method reads, has its default."""
    idle = idle_options(options["methods"])
    said = {n: v for n, v in options.items() if v is not None and n not in idle}
    return {**defaults_of(trainer, said), **said}


# --- links ----------------------------------------------------------------------------------------


def to_params(question: Question) -> dict[str, list[str]]:
    """The query parameters of a link to `question`: the model, and whatever is not the default."""
    default = Question()
    params = {"model": [question.model]}
    if "methods" in question.given:
        params["method"] = list(question.options["methods"])
    for parameter, name in _PARAMETERS.items():
        if name in question.given:
            params[parameter] = [_text(question.options[name])]
        elif name in OWN_NAMES and getattr(question, name) != getattr(default, name):
            params[parameter] = [_text(getattr(question, name))]
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
            (own if name in OWN_NAMES else options)[name] = _read(name, values[-1])
        except UsageError as e:
            complaints.append(str(e))
    defaults = defaults_of(own.get("trainer"), {"methods": DEFAULTS["methods"], **options})
    question = Question(options={**defaults, **options}, **own)
    return _without_idle(question, complaints), tuple(complaints)


def _without_idle(question: Question, complaints: list[str]) -> Question:
    methods = question.options["methods"]
    idle = [name for name in idle_options(methods) if name in question.given]
    for name in idle:
        complaints.append(
            f"{flag(name)} has no meaning for the methods asked, {', '.join(methods)}."
        )
    defaults = defaults_of(question.trainer, question.options)
    left_out = {name: defaults[name] for name in idle}
    return replace(question, options={**question.options, **left_out})


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


def _read(name: str, text: str) -> Any:
    """The value that a link gives for an option. Raises UsageError."""
    if name == "engine":
        return _choice(name, text, ENGINES)
    if name == "trainer":
        return find_stack(text).key if "@" in text else find_stack(text).name
    if name == "offline":
        return _read_switch(name, text)
    option = SETUP_OPTIONS.get(name)
    if option is None or option.kind == "text":
        return _read_text(name, text)
    if option.kind == "choice":
        return _choice(name, text, option.choices)
    if option.kind == "switch":
        return _read_switch(name, text)
    return _read_size(name, text) if option.kind == "size" else _read_number(option, text)


def _read_switch(name: str, text: str) -> bool:
    return _choice(name, text, tuple(_WORDS.values())) == _WORDS[True]


def _read_size(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= MAX_SIZE):
        raise UsageError(
            f"{flag(name)[2:]} is {text[:60]!r}; it must be a whole number from 1 to {MAX_SIZE}."
        )
    return int(text)


def _read_number(option: Option, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (option.is_in_range(number) and number <= MOST):
        of = "" if option.declared.at_least is None else "of "
        most = f" and up to {MOST}" if option.declared.below is None else ""
        accepted = f"a number {of}{option.range_text}{most}"
        raise UsageError(f"{option.flag[2:]} is {text[:60]!r}; it must be {accepted}.")
    return number


def _read_text(name: str, text: str) -> str:
    if not text.strip() or len(text) > LONGEST_TEXT or not text.isprintable():
        raise UsageError(
            f"{flag(name)[2:]} is empty, longer than {LONGEST_TEXT} characters, or no plain text."
        )
    return text


# --- the command line -----------------------------------------------------------------------------


def setup_arguments(question: Question) -> list[str]:
    """The options of setup and look-up, which `predict`, `compile` and `bench` share, as far as
    they are not defaults."""
    arguments = [] if question.trainer is None else ["--trainer", question.trainer]
    if "methods" in question.given:
        arguments += [w for method in question.options["methods"] for w in ("--method", method)]
    for name, option in SETUP_OPTIONS.items():
        if name in question.given:
            value = question.options[name]
            arguments += (
                [_switch(name, value)] if option.kind == "switch" else [option.flag, _text(value)]
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
