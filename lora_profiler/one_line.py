"""A question in one line of Python, in the words of the command line, and its answer as a notebook
shows it.

    from lora_profiler import predict
    predict("meta-llama/Llama-3.1-8B", method="qlora", gpu="t4", trainer="trl-sft")
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, overload

from lora_profiler.errors import UsageError
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import Workload

if TYPE_CHECKING:
    from lora_profiler.cli.main import OfModel
    from lora_profiler.facts.catalog import Gpu
    from lora_profiler.memory.prediction import Prediction
    from lora_profiler.planning.answers import Answer
    from lora_profiler.planning.fit import Fit
    from lora_profiler.planning.guided import Guided
    from lora_profiler.report.blocks import Block

_LINES = 3
"""Of a `repr`."""


@overload
def predict(
    question: Workload, engine: str = "auto", *, may_trace: bool = True
) -> "Prediction": ...
@overload
def predict(
    question: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ModelSpec" = (),
    *,
    method: str | Sequence[str] | None = None,
    gpu: "str | Gpu | None" = None,
    trainer: str | None = None,
    **options: Any,
) -> "PredictionReport": ...
def predict(question: Any = (), engine: str = "auto", **options: Any) -> Any:
    """What a training takes, by the name of a model or by a `Workload`.

    The name is one on the hub, a folder, a config.json, or a trainer's YAML, notebook or script (a
    list, where another file belongs to it). It may be left out where `peft_config` names the file
    of an adapter. The options are those of `lora-profile predict`, written with underscores:
    numbers, words, True and False, lists for what takes commas; the answer is a
    `PredictionReport`. Of a `Workload` it is the `Prediction` of `engine`; without `may_trace`
    nothing is traced.

    Raises LoraProfilerError with the sentence of the command line: UsageError for what is wrong
    with the question, ModelNotFoundError for the model.

    Examples:
        >>> from lora_profiler import predict
        >>> report = predict("gpt2", method="lora", gpu="t4", trainer="trl-sft", seq_len=512)
        >>> report.verdict, report.peak_bytes
        ('fits', 1057327584)
    """
    if isinstance(question, Workload):
        from lora_profiler.planning.engine import predict as predict_workload

        return predict_workload(question, engine, **options)
    if engine != "auto":
        options["engine"] = engine
    return _from_words(question, options)


@dataclass(frozen=True, eq=False, repr=False)
class PredictionReport:
    """The answer to a question by name: an `Answer` for each method, by the method's name, as
    `report["qlora"]`.

    `peak_bytes`, `verdict`, `fit` and `prediction` are of the only method; of several UsageError
    says which there are. `cautions` are what the command line warns of.

    Examples:
        >>> from lora_profiler import predict
        >>> report = predict("gpt2", method=["full", "lora"], seq_len=512)
        >>> len(report), report["lora"].prediction.parameters.trainable
        (2, 2359296)
    """

    _ask: "Callable[[Any], OfModel]" = field()
    _guided: "Callable[[Sequence[Answer]], Guided | None]" = field()

    @cached_property
    def _first(self) -> "OfModel":
        return self._ask("best")

    @property
    def answers(self) -> "Sequence[Answer]":
        """One for each method."""
        return self._first.answers

    @cached_property
    def by_trainer(self) -> "Guided | None":
        """The same question in the loop of each trainer; None where it names one."""
        return self._guided(self.answers)

    def __iter__(self) -> "Iterator[Answer]":
        return iter(self.answers)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, method: str) -> "Answer":
        found = {answer.prediction.workload.setup.method: answer for answer in self.answers}
        if method not in found:
            raise UsageError(f"there is no answer for {method}; there is {', '.join(found)}.")
        return found[method]

    @property
    def answer(self) -> "Answer":
        """The only one. Raises UsageError where several methods were asked for."""
        if len(self.answers) > 1:
            names = [answer.prediction.workload.setup.method for answer in self.answers]
            raise UsageError(
                f"the answer has {len(names)} methods; take one, as in report[{names[-1]!r}], or"
                f" ask about one: method={names[-1]!r}."
            )
        return self.answers[0]

    @property
    def prediction(self) -> "Prediction":
        return self.answer.prediction

    @property
    def peak_bytes(self) -> int:
        """What tensors take at the peak, overhead outside tensors aside."""
        return self.prediction.peak.total_bytes

    @property
    def fit(self) -> "Fit | None":
        """On the GPU; None without one."""
        return self.answer.fit

    @property
    def verdict(self) -> str | None:
        """'fits', 'tight' or 'does_not_fit', as the command line's sign; None without a GPU, or
        where it cannot be known. Without a trainer it is that of the guides' loop, 'tight' where
        this does not fit and some trainer may."""
        if self.fit is None:
            return None
        lines = self.by_trainer.lines if self.by_trainer else ()
        may = any(
            line.foreseen
            and line.foreseen.judged
            and line.foreseen.judged.verdict != "does_not_fit"
            for line in lines
        )
        return "tight" if may and self.fit.verdict == "does_not_fit" else self.fit.verdict

    @property
    def cautions(self) -> list[str]:
        from lora_profiler.report.setup_words import caution_lines

        predictions = [answer.prediction for answer in self.answers]
        return caution_lines(predictions, self._first.gpu, self.answers[0].trainer)

    # --- as text, HTML, JSON, a table and a figure ------------------------------------------------

    def __repr__(self) -> str:
        from lora_profiler.report.answer.short_answer import notes, verdicts
        from lora_profiler.report.blocks import dim
        from lora_profiler.report.terminal import plain

        answers, of = self.answers, self.by_trainer
        blocks = [
            *verdicts(answers, of, self._first.subject),
            dim(*notes(answers, of, is_brief=False)),
        ]
        lines = [line for line in plain(blocks, _WIDE).splitlines() if line]
        return "\n".join(lines[:_LINES])

    def blocks(self) -> "list[Block]":
        """What the command line prints."""
        from lora_profiler.report.answer.short_answer import short_blocks

        return short_blocks(self.answers, self.by_trainer, self._first.subject)

    def _repr_html_(self) -> str | None:
        """With the dashboard's bars; None without jinja2, for the `repr` to be shown."""
        if find_spec("jinja2") is None:
            return None
        from lora_profiler.report.page.write import in_notebook

        return in_notebook(self.blocks())

    def to_dict(self) -> dict[str, Any]:
        """The document of `--format json --full`."""
        from lora_profiler.report.json.predict import predict_payload

        of = self.by_trainer
        return dict(predict_payload(self._ask("all").answers, [of] if of else []))

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each method; the columns are those of `--format csv`.
        Raises UsageError without pandas."""
        _need("to_frame", "pandas")
        import pandas

        from lora_profiler.report.json.predict import predict_records

        return pandas.DataFrame(predict_records(self.answers))

    def figure(self) -> Any:
        """What each peak is made of, as a figure of plotly. Raises UsageError without plotly."""
        _need("figure", "plotly")
        from plotly.graph_objects import Figure

        from lora_profiler.report.figures import look
        from lora_profiler.report.page.predicted import composition_drawing

        drawn = composition_drawing("composition", self.answers)
        figure = Figure(drawn.figure)
        return figure.update_layout(template={"layout": look()}, title_text=drawn.caption)


_WIDE = 1000
"""Columns of a `repr`: a notebook breaks its lines."""


def _need(what: str, package: str) -> None:
    if find_spec(package) is None:
        raise UsageError(f"{what}() needs {package}; run `pip install {package}`.")


def _from_words(question: Any, options: Mapping[str, Any]) -> PredictionReport:
    """The question as the command line understands these words."""
    import click

    from lora_profiler.cli.main import answered, predict_command, root
    from lora_profiler.cli.option_groups import message_of
    from lora_profiler.cli.options import guided, words_of
    from lora_profiler.cli.read import named

    spec = question if isinstance(question, ModelSpec) else None
    names = question if isinstance(question, list | tuple) else [spec.id if spec else question]
    is_named = bool(names) or "peft_config" in options
    if not is_named or not all(isinstance(name, str | os.PathLike) for name in names):
        raise UsageError("predict takes the name of a model, a ModelSpec, or a trainer's file.")
    from lora_profiler.facts.catalog import Gpu

    gpu = options.get("gpu")
    if not isinstance(gpu, str | Gpu | None):
        raise UsageError(f"gpu is {gpu!r}; name one, as 't4' or '24GiB'.")
    on = gpu if isinstance(gpu, Gpu) else None
    given = {**options, "gpu": on.key} if on else options
    words = [word for option, value in given.items() for word in words_of(option, value)]
    words += ["--", *map(os.fspath, names)]
    parent = click.Context(root, info_name="lora-profile")
    try:
        ctx = predict_command.make_context("predict", words, parent=parent)
    except click.ClickException as e:
        raise UsageError(message_of(e)) from None

    read = cache(lambda: list(named(ctx.params["models"], ctx.params["framework"])))

    def ask(levers: Any) -> "OfModel":
        with ctx.scope(cleanup=False):
            found, *others = answered(ctx, levers, spec=spec, on=on, quiet=True, read=read())
            if others:
                raise UsageError("predict answers one model; call it for each.")
            return found

    def by_trainer(answers: "Sequence[Answer]") -> "Guided | None":
        with ctx.scope(cleanup=False):
            return guided(answers, ctx)

    report = PredictionReport(ask, by_trainer)
    report._first  # noqa: B018  # errors are raised where the question is
    return report
