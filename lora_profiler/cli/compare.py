"""`lora-profile compare`: predicted against measured, or two sets of records against each other; a
limit for scripts."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_profiler._common.messages import printable
from lora_profiler.cli.click_support import (
    NearestChoice,
    WholeRange,
    check_new_file,
    command,
    print_answer,
    print_blocks,
    print_json,
    warn,
    write_out,
)
from lora_profiler.cli.option_groups import option
from lora_profiler.cli.options import engine_option, given, output_options
from lora_profiler.errors import UsageError

if TYPE_CHECKING:
    from lora_profiler.measuring.records.load import RecordSet
    from lora_profiler.runs.comparison.errors import Scored

GROUPINGS = ("method", "family", "model", "device", "engine", "category", "metric")
PREDICTED = (
    "peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "attribution_bytes",
    "phase_peak_bytes", "step1_phase_peak_bytes", "persistent_bytes", "saved_activation_bytes",
    "num_parameters", "num_trainable_parameters",
)  # fmt: skip
CHANGING = (
    "peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes",
    "step_seconds", "tokens_per_second",
)  # fmt: skip
"""Written out here, so that the command starts without what it does not need; a test holds them to
what `comparison` has."""
ALL = "all"


class Percentage(click.ParamType[float]):
    """'5%' or '0.5 %' as a share. The sign must stand there, since 5 and 0.05 could both be
    meant."""

    name = "percentage"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        number = text.removesuffix("%").strip()
        is_number = re.fullmatch(r"[0-9]{0,9}\.?[0-9]{0,9}", number) and number.strip(".")
        if not text.endswith("%") or not is_number:
            todo = "write a number and the sign, as in 5%."
            self.fail(f"{value!r} is no percentage of 0 or more; {todo}", param, ctx)
        return float(number) / 100


@command(
    "compare",
    "Compare measurements with predictions, or with each other.",
    """
Of several records with one id the newest counts.

Predicted metrics: peak_requested_bytes (default), peak_allocated_bytes, peak_reserved_bytes, attribution_bytes, phase_peak_bytes, step1_phase_peak_bytes, persistent_bytes, saved_activation_bytes, num_parameters, num_trainable_parameters.
With --against: peak_requested_bytes and step_seconds (default), peak_allocated_bytes, peak_reserved_bytes, device_used_bytes, tokens_per_second.
Step times are medians; they differ where their 95 % intervals do not overlap.

--fail-above checks the metrics of --metric. Against predictions: errors in both directions.
Between sets: what got worse, and cases that no longer run. It fails if nothing can be checked.
Between predictions: peak and step time, a worse verdict, and what is no longer predicted.

Examples:
  lora-profile compare records.jsonl                        how far off were the predictions?
  lora-profile compare runs/ --by method --by family --metric attribution_bytes
  lora-profile compare runs/ --fail-above 5%                for scripts: 1 if a peak is off by more
  lora-profile compare runs/ --format csv -o errors.csv     every number, a line each
  lora-profile compare old.jsonl --against new.jsonl        what did the upgrade change?
  lora-profile compare old/ older/ --against new/ --metric step_seconds --fail-above 3%
  lora-profile compare base.json new.json --fail-above 1%   two files of predict --format json

Exit: 0 done, 1 above --fail-above, 2 usage, or no readable record.
""",
)
@click.argument("records", metavar="RECORDS...", nargs=-1, required=True, type=click.Path())
@option(
    "--against", "RECORDS", "the later set of records; repeatable", multiple=True, type=click.Path()
)
@engine_option("auto|analytic|compiled|traced", "prediction engine; nothing is traced", option)
@option(
    "--by",
    help="group errors by; repeatable",
    show_default="method",
    multiple=True,
    type=NearestChoice(GROUPINGS),
)
@option(
    "--metric metrics",
    "NAME|all",
    "numbers to compare; repeatable",
    multiple=True,
    show_default="peak_requested_bytes; with --against also step_seconds",
    type=NearestChoice([*dict.fromkeys([*PREDICTED, *CHANGING]), ALL]),
)
@option("--worst", help="how many of the largest errors to list", type=WholeRange(min=0), default=5)
@option("--fail-above", "PERCENT%", "exit 1 if an error, or a change, is larger", type=Percentage())
@output_options("table", "json", "csv", "md")
@click.pass_context
def compare_command(
    ctx: click.Context, /, records: tuple[str, ...], against: tuple[str, ...], **o: Any
) -> None:
    """Compare measured RECORDS with predictions or other records; or two predictions.
    RECORDS: files of lora-profile bench, or folders of .jsonl files."""
    check_new_file(o["output"], o["force"])
    if (broken := _predictions([*records, *against], o)) is not None:
        ctx.exit(int(broken))
    metrics = _metrics(o["metrics"], CHANGING if against else PREDICTED, bool(against))
    if against:
        for name in ("engine", "by"):
            if given(ctx, name):
                raise UsageError(f"--{name} is about predictions; leave it out, or --against.")
        broken = _changes(_read(records), _read(against), metrics, o)
    else:
        broken = _errors(_read(records), metrics, o)
    if broken:
        ctx.exit(1)


def _metrics(requested: Sequence[str], possible: Sequence[str], against: bool) -> tuple[str, ...]:
    """The names asked for, none where none was. Raises UsageError for one that only the other kind
    of comparison knows."""
    for name in requested:
        if name != ALL and name not in possible:
            if against:
                raise UsageError(f"{name} is compared with predictions only; leave out --against.")
            between = "with --against it is compared between two sets of records."
            raise UsageError(f"nothing predicts {name} yet; {between}")
    return tuple(possible) if ALL in requested else tuple(dict.fromkeys(requested))


def _read(paths: Iterable[str]) -> "RecordSet":
    from lora_profiler.measuring.records.load import read_set

    record_set = read_set(map(Path, paths))
    for message in record_set.warnings:
        warn(f"passed over: {message}")
    return record_set


# --- two documents of predict ---------------------------------------------------------------------


def _predictions(paths: Sequence[str], o: dict[str, Any]) -> bool | None:
    """Prints what became of the predictions; whether the limit was broken. None where no file is
    one of predictions. Raises UsageError."""
    from lora_profiler.report.json import changes as between

    read = {path: between.predictions_in(Path(path)) for path in paths if path.endswith(".json")}
    documents = [document for document in read.values() if document is not None]
    if not documents:
        return None
    if other := next((path for path in paths if read.get(path) is None), None):
        if not Path(other).exists():
            raise UsageError(f"There is no file `{other}`; check the path.")
        raise UsageError(f"`{other}` holds no predictions of `lora-profile predict --format json`.")
    if len(documents) != 2:
        raise UsageError(
            "predictions are compared in pairs. Try: `lora-profile compare BEFORE.json AFTER.json`"
        )
    able = between.METRICS
    chosen = able if ALL in o["metrics"] else o["metrics"] or between.JUDGED
    if other := next((name for name in chosen if name not in able), None):
        raise UsageError(
            f"{other} is not compared between predictions; take one of {', '.join(able)}."
        )
    found = between.differences(*documents)
    print_answer(
        lambda: between.difference_payload(found),
        lambda: between.difference_blocks(found, chosen),
        lambda: between.difference_records(found),
    )
    if o["fail_above"] is None:
        return False
    for sentence in (sentences := between.too_much(found, chosen, o["fail_above"])):
        click.echo(printable(sentence), err=True)
    return bool(sentences) or not found.compared


# --- predicted against measured -------------------------------------------------------------------


def _errors(read: "RecordSet", metrics: tuple[str, ...], o: dict[str, Any]) -> bool:
    """Prints; whether the limit was broken."""
    from lora_profiler.runs.comparison.errors import scored

    results = scored(read.records, o["engine"])
    chosen: Any = metrics or PREDICTED[:1]
    if o["form"] in ("json", "csv"):
        _print_errors(results, metrics or PREDICTED, o)
    else:
        from lora_profiler.report.measured.comparisons import comparison_blocks

        hints = _hints(o, metrics) if o["form"] == "table" else ()
        by: Any = o["by"] or ("method",)
        blocks = comparison_blocks(results, chosen, by, o["worst"], hints)
        print_blocks(blocks, o["form"], o["output"])
    return o["fail_above"] is not None and _is_off(results, chosen, o["fail_above"])


def _print_errors(results: "Sequence[Scored]", shown: Sequence[str], o: dict[str, Any]) -> None:
    from lora_profiler.report.json.bench import compare_payload, comparison_records, summary_records
    from lora_profiler.runs.comparison.errors import summary

    records = {s.record.id: s.record for s in results}
    comparisons = [c for s in results for c in s.comparisons if c.metric in shown]
    by = tuple(dict.fromkeys(("metric", "category", *o["by"])))
    summaries = summary_records(summary(comparisons, by, records), by)
    if o["form"] == "json":
        print_json(compare_payload(results, comparisons, summaries), o["output"])
    else:
        from lora_profiler.report.render import csv_text

        by_run = comparison_records([s.record for s in results], comparisons)
        write_out(csv_text(summaries if o["by"] else by_run), o["output"])


def _hints(o: dict[str, Any], metrics: tuple[str, ...]) -> list[str]:
    more = [
        "" if o["by"] else "--by family or model",
        "" if metrics else "--metric all",
        f"--worst {max(20, 4 * o['worst'])}",
    ]
    return [f"More: {', '.join(filter(None, more))}; every number: --format csv or json."]


def _is_off(results: "Sequence[Scored]", chosen: Sequence[str], limit: float) -> bool:
    """Says on stderr how the judged claims stand to the limit; whether one is beyond it, or there
    is none."""
    from lora_profiler.report.measured.comparisons import judgement
    from lora_profiler.runs.comparison.errors import misses

    judged = [c for s in results for c in s.comparisons if c.metric in chosen and c.is_claim]
    beyond = misses(judged, limit)
    records = {s.record.id: s.record for s in results}
    click.echo(printable(judgement(judged, beyond, records, chosen, limit)), err=True)
    return bool(beyond) or not judged


# --- before and after -----------------------------------------------------------------------------


def _changes(
    before: "RecordSet", after: "RecordSet", metrics: tuple[str, ...], o: dict[str, Any]
) -> bool:
    """Prints; whether the limit was broken."""
    from lora_profiler.report.json.bench import change_payload, change_records
    from lora_profiler.report.measured.comparisons import change_blocks, changes_judgement
    from lora_profiler.runs.comparison.regressions import changes, paired, setup_changes

    pairs = paired(before.records, after.records)
    chosen: Any = metrics or ("peak_requested_bytes", "step_seconds")
    printed: Any = CHANGING if o["form"] in ("json", "csv") and not metrics else chosen
    regressions = changes(pairs.pairs, printed)
    setup = setup_changes(*pairs.sides)
    if not pairs.pairs:
        warn("no case is in both sets; a case is a model, its setup and the conditions of the run.")
    print_answer(
        lambda: change_payload(pairs, regressions, setup),
        lambda: change_blocks(pairs, regressions, setup, o["worst"]),
        lambda: change_records(pairs, regressions),
    )
    limit = o["fail_above"]
    if limit is None:
        return False
    judged = [c for c in regressions if c.metric in chosen]
    worse = [c for c in judged if c.is_worse_by_more_than(limit)]
    lost = [pair for pair in pairs.pairs if pair.is_lost]
    words = changes_judgement(judged, worse, lost, pairs.pairs, chosen, limit)
    click.echo(printable(words), err=True)
    return bool(worse or lost) or not judged
