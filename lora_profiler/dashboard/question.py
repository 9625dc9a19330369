"""The question of a page: what a link holds, what the command line would be asked, and what is
shown of its answer. Pure; widgets are made elsewhere."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, NamedTuple, get_args

from lora_profiler.errors import LoraProfilerError, UsageError, did_you_mean
from lora_profiler.facts.catalog import find_model
from lora_profiler.facts.stacks import CHECKPOINT_DTYPE, GUIDE, Stack, Trainer, find_stack
from lora_profiler.planning.engine import ENGINES
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import MAX_SIZE, Option, flag
from lora_profiler.question.workload import OPTIONS, Method, idle_options
from lora_profiler.report.first_screen import TrainingRun

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


def parameter(name: str) -> str:
    return name.replace("_", "-")


PARAMETERS = {parameter(name): name for name in (*OWN_NAMES, *SETUP_OPTIONS)}
"""Name in a link, which is that of the command line's option, to the name of the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model by id, a trainer, the options of a setup, a card, a link and an engine, all as the
    command line takes them."""

    model: str = FIRST_MODEL
    revision: str = "main"
    offline: bool = False
    trainer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    gpu: str | None = None
    interconnect: str | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        if not self.options:
            object.__setattr__(self, "options", defaults_of(self.model, self.trainer, DEFAULTS))

    @property
    def explicit(self) -> frozenset[str]:
        """The options that are no default."""
        defaults = defaults_of(self.model, self.trainer, self.options)
        return frozenset(name for name in DEFAULTS if self.options[name] != defaults[name])

    @property
    def stack(self) -> Stack:
        """Of the trainer, or of guides where none is named."""
        return find_stack(self.trainer or GUIDE)

    @property
    def trainer_defaults(self) -> Trainer:
        is_pinned = self.trainer is not None and "@" in self.trainer
        return Trainer(stack=self.stack, explicit=self.explicit, is_pinned=is_pinned)


@cache
def _known(model: str) -> ModelSpec | None:
    """One that is bundled or cached here."""
    try:
        return find_model(model, offline=True)
    except LoraProfilerError:
        return None


def defaults_of(model: str, trainer: str | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the options are where nobody sets them, with `options`' methods and its optimizer if it
    has one; None where these methods have different defaults, or the checkpoint decides.

    The implementation of an optimizer that is not the trainer's own is the command line's. A length
    is at most the model's context length.
    """
    own: dict[str, Any] = {}
    for name, of in defaults_by_method(model, trainer, options["methods"]).items():
        (first, *others) = dict.fromkeys(of.values())
        own[name] = None if others or first == CHECKPOINT_DTYPE else first
    if options.get("optimizer", own.get("optimizer")) != own.get("optimizer"):
        own.pop("optimizer_impl", None)
    defaults = {**DEFAULTS, **own}
    if (known := _known(model)) and known.trained_length and defaults["seq_len"]:
        defaults["seq_len"] = min(defaults["seq_len"], known.trained_length)
    return defaults


def defaults_by_method(
    model: str, trainer: str | None, methods: Sequence[Method]
) -> Mapping[str, Mapping[Method, Any]]:
    """The trainer's own defaults, by option and by each of the methods that reads it."""
    stack, known = find_stack(trainer or GUIDE), _known(model)
    of_encoders = stack.of_encoders if known and not known.is_causal else {}
    own = {method: of_encoders.get(method, stack.defaults[method]) for method in methods}
    names = dict.fromkeys(name for of in own.values() for name in of)
    found = {
        n: {m: of.get(n, DEFAULTS[n]) for m, of in own.items() if n not in idle_options((m,))}
        for n in names
    }
    return {name: of for name, of in found.items() if of}


def completed(trainer: str | None, options: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Every option of a setup; what is left empty, and what no method reads, has its default."""
    idle = idle_options(options["methods"])
    chosen = {n: v for n, v in options.items() if v is not None and n not in idle}
    return {**defaults_of(model, trainer, chosen), **chosen}


def about_model(question: Question, model: str, revision: str = "main") -> Question:
    """`question` about another model, whose defaults hold for what nobody has set."""
    chosen = {name: question.options[name] for name in ("methods", *question.explicit)}
    options = completed(question.trainer, chosen, model)
    return replace(question, model=model, revision=revision, options=options)


# --- links ----------------------------------------------------------------------------------------


def to_params(question: Question) -> dict[str, list[str]]:
    """The query parameters of a link to `question`: the model, and whatever is not the default."""
    params = {"model": [question.model]}
    if "methods" in question.explicit:
        params["method"] = list(question.options["methods"])
    options = (name for name in SETUP_OPTIONS if name in question.explicit)
    params |= {parameter(name): [text_of(question.options[name])] for name in options}
    return params | changed(question, Question(), OWN_NAMES)


def changed(it: object, default: object, names: Iterable[str]) -> dict[str, list[str]]:
    """The parameters of a link for those attributes of `it` that are others than the default's."""
    values = {name: getattr(it, name) for name in names}
    return {parameter(n): [text_of(v)] for n, v in values.items() if v != getattr(default, n)}


def text_of(value: object) -> str:
    if isinstance(value, bool):
        return _WORDS[value]
    short = f"{value:.15g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


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
                    read_choice("method", METHODS, value) for value in dict.fromkeys(values)
                )
                continue
            name = PARAMETERS.get(parameter)
            if name is None:
                known = (*PARAMETERS, "method")
                raise UsageError(
                    f"There is no option {parameter[:60]!r}.{did_you_mean(parameter[:60], known)}"
                )
            (own if name in OWN_NAMES else options)[name] = _read(name, values[-1])
        except UsageError as e:
            complaints.append(str(e))
    chosen = {"methods": DEFAULTS["methods"], **options}
    defaults = defaults_of(own.get("model", FIRST_MODEL), own.get("trainer"), chosen)
    question = Question(options={**defaults, **options}, **own)
    return _without_idle(question, complaints), tuple(complaints)


def _without_idle(question: Question, complaints: list[str]) -> Question:
    methods = question.options["methods"]
    idle = [name for name in SETUP_OPTIONS if name in idle_options(methods) & question.explicit]
    for name in idle:
        complaints.append(f"{flag(name)} does not apply to {', '.join(methods)}.")
    defaults = defaults_of(question.model, question.trainer, question.options)
    left_out = {name: defaults[name] for name in idle}
    return replace(question, options={**question.options, **left_out})


def pop_params(
    params: dict[str, list[str]], readers: Mapping[str, Callable[[str], Any]]
) -> tuple[dict[str, Any], list[str]]:
    """What `readers` make of the last value of the parameter of each name, and a sentence for each
    that is passed over. What was understood, or not, leaves `params`."""
    read_values: dict[str, Any] = {}
    complaints: list[str] = []
    for name, read in readers.items():
        if values := params.pop(parameter(name), None):
            try:
                read_values[name] = read(values[-1])
            except UsageError as e:
                complaints.append(str(e))
    return read_values, complaints


def read_choice(name: str, accepted: Sequence[str], text: str) -> str:
    """One of `accepted`. Raises UsageError, as all of these do."""
    if text not in accepted:
        shown = text[:60]
        raise UsageError(
            f"{parameter(name)} is {shown!r}; accepted:"
            f" {', '.join(accepted)}.{did_you_mean(shown, accepted)}"
        )
    return text


class Number(NamedTuple):
    """Numbers above 0, or from 0, up to `most`; from 1 where they are whole."""

    most: float
    may_be_zero: bool = False
    is_whole: bool = False


def read_number(name: str, accepted: Number, text: str) -> float | int:
    number = as_number(text)
    is_wide = number >= 1 if accepted.is_whole else number > 0 or accepted.may_be_zero
    is_read = text.isascii() and text.isdecimal() if accepted.is_whole else number >= 0
    if not (is_wide and is_read and number <= accepted.most):
        of = "a number from 0 to" if accepted.may_be_zero else "a number above 0 and up to"
        of = "a whole number from 1 to" if accepted.is_whole else of
        raise UsageError(
            f"{parameter(name)} is {text[:60]!r}; it must be {of} {accepted.most:.15g}."
        )
    return int(text) if accepted.is_whole else number


def read_text(name: str, text: str) -> str:
    if not text.strip() or len(text) > LONGEST_TEXT or not text.isprintable():
        raise UsageError(
            f"{parameter(name)} is empty, longer than {LONGEST_TEXT} characters, or no plain text."
        )
    return text


def as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read(name: str, text: str) -> Any:
    if name == "engine":
        return read_choice(name, ENGINES, text)
    if name == "trainer":
        return find_stack(text).key if "@" in text else find_stack(text).name
    option = SETUP_OPTIONS.get(name)
    if name == "offline" or (option is not None and option.kind == "switch"):
        return read_choice(name, tuple(_WORDS.values()), text) == _WORDS[True]
    if option is None or option.kind == "text":
        return read_text(name, text)
    if option.kind == "choice":
        return read_choice(name, option.choices, text)
    if option.kind == "size":
        return read_number(name, Number(MAX_SIZE, is_whole=True), text)
    number = as_number(text)
    if not (option.is_in_range(number) and number <= MOST):
        of = "" if option.declared.at_least is None else "of "
        most = f" and up to {MOST}" if option.declared.below is None else ""
        accepted = f"a number {of}{option.range_text}{most}"
        raise UsageError(f"{option.flag[2:]} is {text[:60]!r}; it must be {accepted}.")
    return number


# --- the command line -----------------------------------------------------------------------------


def setup_arguments(question: Question) -> list[str]:
    """The options of setup and look-up, which `predict`, `compile` and `bench` share, as far as
    they are not defaults."""
    arguments = [] if question.trainer is None else ["--trainer", question.trainer]
    if "methods" in question.explicit:
        arguments += [w for method in question.options["methods"] for w in ("--method", method)]
    for name, option in SETUP_OPTIONS.items():
        if name in question.explicit:
            value = question.options[name]
            if option.kind == "switch":
                arguments.append(flag(name if value else f"no_{name}"))
            else:
                arguments += [option.flag, text_of(value)]
    if question.revision != "main":
        arguments += ["--revision", question.revision]
    return arguments + (["--offline"] if question.offline else [])


def predict_arguments(question: Question) -> list[str]:
    arguments = setup_arguments(question)
    for name, values in changed(question, Question(), ("gpu", "interconnect", "engine")).items():
        arguments += [flag(name), *values]
    words = with_model("predict", question.model, arguments)
    return words[1:] if words[1] == question.model else words  # short for it


def with_model(verb: str, model: str, arguments: Sequence[str]) -> list[str]:
    """A command on a model, whose name may begin as an option does."""
    if model.startswith("-"):
        return [verb, *arguments, "--", model]
    return [verb, model, *arguments]


# --- what is shown of its answer: the method it is about, and the training whose time is told ----


NUMBERS: Mapping[str, Number] = {
    "rows": Number(1e9, is_whole=True),
    "mean_length": Number(1e7, is_whole=True),
    "epochs": Number(1e6),
    "price": Number(1e6, may_be_zero=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """`about` is None where nobody chose a method: `about_of` does then."""

    about: Method | None = None
    run: TrainingRun = field(default_factory=TrainingRun)


def about_of(methods: Sequence[Method]) -> Method:
    """The method that a page is about where nobody chose one: LoRA, else the last asked."""
    return "lora" if "lora" in methods else methods[-1]


def shown_to_params(shown: Shown, methods: Sequence[Method]) -> dict[str, list[str]]:
    params: dict[str, list[str]] = {}
    if shown.about is not None and shown.about != about_of(methods):
        params["about"] = [shown.about]
    return params | changed(shown.run, TrainingRun(), NUMBERS)


def shown_from_params(params: dict[str, list[str]]) -> tuple[Shown, tuple[str, ...]]:
    """What a link shows, and a sentence for whatever of it is passed over. What was understood, or
    not, leaves `params`."""
    readers: dict[str, Callable[[str], Any]] = {"about": partial(read_choice, "about", METHODS)}
    readers |= {name: partial(read_number, name, of) for name, of in NUMBERS.items()}
    values, complaints = pop_params(params, readers)
    return Shown(about=values.pop("about", None), run=TrainingRun(**values)), tuple(complaints)
