"""The data of a plan as a file that was uploaded: read as the command line reads `--data`, or a
histogram as `--lengths`."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from lora_profiler.dashboard.answered import INSTEAD, NOT_TRACED_HERE
from lora_profiler.dashboard.question import (
    MOST,
    Number,
    Question,
    changed,
    defaults_of,
    pop_params,
    read_choice,
    read_number,
    read_text,
    setup_arguments,
    text_of,
    with_model,
)
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog.meta_build import builds_refused
from lora_profiler.facts.stacks import BARE, GUIDE
from lora_profiler.planning.over_data import TrainingData
from lora_profiler.planning.plan import TrainingPlan, make_plan
from lora_profiler.planning.planned import Amount, Budget, offers_at, read_prices, space_of
from lora_profiler.planning.setups import workloads
from lora_profiler.question.batching.batches import BATCHINGS
from lora_profiler.question.batching.files import SUFFIXES, read_data, read_histogram
from lora_profiler.question.batching.sample_lengths import SampleLengths, from_figures
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import flag
from lora_profiler.report.first_screen import TrainingRun

HISTOGRAM = ".csv"
TYPES = tuple(suffix.removeprefix(".") for suffix in (*SUFFIXES, HISTOGRAM))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file and the column to read of it; `file_id` tells it from another of its name."""

    name: str
    file_id: str
    content: bytes = field(repr=False)
    column: str | None = None

    @property
    def identity(self) -> tuple[str, str, str | None]:
        return self.name, self.file_id, self.column

    @property
    def _is_histogram(self) -> bool:
        return PurePath(self.name).suffix.lower() == HISTOGRAM

    @property
    def arguments(self) -> tuple[str, str]:
        """What the command line is told of it, in the folder where it lies."""
        if self._is_histogram:
            return "--lengths", self.name
        return "--data", f"{self.name}#{self.column}" if self.column else self.name

    def lengths(self, model: ModelSpec | None) -> SampleLengths:
        """Of its samples, in tokens of `model`'s tokenizer where that is on this machine. Raises
        LoraProfilerError for what cannot be read."""
        with tempfile.TemporaryDirectory(prefix="lora_profiler-") as folder:
            # a name that is in no message otherwise, since any may come from a browser
            own = f"{PurePath(folder).name}{PurePath(self.name).suffix.lower()}"
            path = Path(folder) / own
            path.write_bytes(self.content)
            try:
                sample_lengths = self._read(path, model)
            except LoraProfilerError as e:
                text = str(e).replace(str(path), self.name).replace(own, self.name)
                raise type(e)(text) from None
        return replace(sample_lengths, source=sample_lengths.source.replace(own, self.name))

    def _read(self, path: Path, model: ModelSpec | None) -> SampleLengths:
        if not self._is_histogram:
            return read_data(f"{path}#{self.column}" if self.column else str(path), model)
        if self.column:
            raise UsageError(f"{path} has counts of lengths, and no column to choose.")
        return read_histogram(path)


class Field(NamedTuple):
    """A field of the form, named as the command line's option; empty where nothing is asked."""

    kind: Literal["text", "number", "size", "batching"]
    label: str
    placeholder: str
    tip: str = ""
    width_px: int = 120


def _field(*of: Any) -> Any:
    return field(default=None, metadata={"field": Field(*of)})


OF_DATA = ("batching", "pad_to_multiple_of")
"""Fields that have a meaning beside samples alone."""
DATA_LABEL = "Data file"
LARGEST_SIZE = 2**20
CHOSEN = (
    "batch_size", "accumulation", "checkpointing", "rank", "sharding", "world_size", "device",
)  # fmt: skip
"""Options of a setup that the plan chooses, whatever other pages ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuestion:
    """What the form says, a field each; None where it says nothing."""

    gpus: str | None = _field(
        "text", "GPUs", "those with a price", "As in rtx_4090, 8xh100_sxm_80gb.", 340
    )
    max_hours: float | None = _field("number", "Hours at most", "no limit")
    max_cost: float | None = _field(
        "number", "Cost at most", "no limit", "In the prices' currency."
    )
    lengths: str | None = _field(
        "text",
        "Lengths of samples",
        "instead of tokens",
        "As in mean=600,max=4096,samples=50000: two of mean, median, p95 and sigma.",
        240,
    )
    price: str | None = _field(
        "text",
        "Prices",
        "a dated table, USD",
        "Per GPU and hour: rtx_4090=0.74/h, l4=0.7/h. With one, only yours count.",
        200,
    )
    ranks: str | None = _field("text", "Ranks", "8..128", "Doubling, or as in 8,16.", 100)
    effective_batch: int | None = _field(
        "size", "Effective batch", "16", "Sequences per optimizer step, on all GPUs.", 150
    )
    batching: str | None = _field(
        "batching", "Batching", BATCHINGS[0], "How a trainer makes batches of the samples.", 200
    )
    pad_to_multiple_of: int | None = _field(
        "size", "Pad to a multiple of", "none", "In tokens.", 200
    )

    @property
    def prices(self) -> list[str]:
        return [part.strip() for part in self.price.split(",")] if self.price else []


FIELDS: Mapping[str, Field] = {of.name: of.metadata["field"] for of in fields(PlanQuestion)}


def open_question(question: Question) -> Question:
    """`question` with what a plan chooses left to its default, on no card."""
    defaults = defaults_of(question.model, question.trainer, question.options)
    left = {name: defaults[name] for name in CHOSEN}
    return replace(question, options={**question.options, **left}, gpu=None, interconnect=None)


def planned(
    model: ModelSpec,
    question: Question,
    plan: PlanQuestion,
    run: TrainingRun,
    file: SampleLengths | None = None,
) -> TrainingPlan:
    """The plan of `lora-profile plan`. `question` is an open one, `file` what a file of data holds;
    `run` says how much is trained on where neither that nor `plan` describes the data. Raises
    UsageError as the command does."""
    if question.engine == "traced":
        raise UsageError(NOT_TRACED_HERE)
    given = question.explicit | {"methods"}
    with builds_refused(INSTEAD):
        offers = offers_at(
            plan.gpus,
            read_prices(plan.prices),
            None,
            lambda gpu: workloads(model, question.options, given, gpu.platform(), question.stack),
        )
    space = space_of(
        offers,
        given,
        ranks=plan.ranks,
        effective_batch=plan.effective_batch,
        has_own_defaults=question.trainer not in (None, GUIDE, BARE),
    )
    budget = Budget(max_hours=plan.max_hours, max_cost=plan.max_cost)
    return make_plan(offers, _amount(question, plan, run, file), space, budget, question.engine)


def _amount(
    question: Question, plan: PlanQuestion, run: TrainingRun, file: SampleLengths | None
) -> Amount:
    if file is not None and plan.lengths is not None:
        raise UsageError("--data and --lengths both say how long samples are; leave one out.")
    lengths = file or _figures(plan.lengths)
    if lengths is None:
        if idle := [name for name in OF_DATA if getattr(plan, name) is not None]:
            raise UsageError(
                f"{flag(idle[0])} is about the lengths of samples; add --data or --lengths, or"
                " leave it out."
            )
        return Amount(tokens=run.tokens, epochs=run.epochs)
    data = TrainingData(
        lengths=lengths,
        batching=plan.batching or BATCHINGS[0],  # type: ignore[arg-type] # a choice, or checked
        max_length=question.options["seq_len"] if "seq_len" in question.explicit else None,
        pad_to_multiple_of=plan.pad_to_multiple_of,
        epochs=run.epochs,
    )
    return Amount(data=data, epochs=run.epochs)


def _figures(text: str | None) -> SampleLengths | None:
    if text is None:
        return None
    if "=" not in text:
        raise UsageError(
            f"--lengths is {text[:60]!r}; write figures, as in mean=600,max=4096,samples=50000."
        )
    return from_figures(text)


def in_words(message: str) -> str:
    """A message of the command line with the fields of the form in place of its options."""
    labels = {name: field.label for name, field in FIELDS.items()} | {"data": DATA_LABEL}
    for name, label in labels.items():
        message = message.replace(flag(name), label)
    return message.replace("FILE#COLUMN", "the field Column")


# --- the command line -----------------------------------------------------------------------------


def data_arguments(plan: PlanQuestion, run: TrainingRun, file: DataFile | None) -> tuple[str, ...]:
    if file is None and plan.lengths is None:
        return ()
    words: tuple[str, ...] = file.arguments if file else ("--lengths", plan.lengths or "")
    for name in OF_DATA:
        if (value := getattr(plan, name)) is not None:
            words = (*words, flag(name), str(value))
    return (*words, "--epochs", f"{run.epochs:g}")


def plan_arguments(
    question: Question, plan: PlanQuestion, run: TrainingRun, file: DataFile | None
) -> list[str]:
    """What to give `lora-profile` for the same plan; `question` is an open one."""
    words = setup_arguments(question)
    if "methods" not in question.explicit:
        words += [w for method in question.options["methods"] for w in ("--method", method)]
    tokens = ("--tokens", _short(run.tokens), "--epochs", f"{run.epochs:g}")
    words += data_arguments(plan, run, file) or tokens
    for name in FIELDS:
        value = getattr(plan, name)
        if value is not None and name not in ("lengths", *OF_DATA):
            for text in plan.prices if name == "price" else [text_of(value)]:
                words += [flag(name), text]
    if question.engine != "auto":
        words += ["--engine", question.engine]
    return with_model("plan", question.model, words)


def _short(tokens: int) -> str:
    """10000000 as 10M."""
    for letter, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if tokens % size == 0:
            return f"{tokens // size}{letter}"
    return str(tokens)


# --- links ----------------------------------------------------------------------------------------


def to_params(plan: PlanQuestion) -> dict[str, list[str]]:
    return changed(plan, PlanQuestion(), FIELDS)


def from_params(params: dict[str, list[str]]) -> tuple[PlanQuestion, tuple[str, ...]]:
    """What a link asks, and a sentence for whatever of it is passed over. What was understood, or
    not, leaves `params`."""
    values, complaints = pop_params(params, {name: partial(_read, name) for name in FIELDS})
    return PlanQuestion(**values), tuple(complaints)


def _read(name: str, text: str) -> Any:
    kind = FIELDS[name].kind
    if kind == "text":
        return read_text(name, text)
    if kind == "batching":
        return read_choice(name, BATCHINGS, text)
    is_whole = kind == "size"
    return read_number(name, Number(LARGEST_SIZE if is_whole else MOST, is_whole=is_whole), text)
