"""`lora-profile bench`: trains for real, one process a case, keeps every record, and holds it
against the prediction."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_profiler.cli.bench_options import (
    bench_options,
    check_options,
    cluster_cases,
    cluster_of,
    emit,
    model_cases,
    print_lost_cases,
    rehearsed_on,
    schedule_of,
    spread,
    spread_text,
)
from lora_profiler.cli.click_support import (
    ModelArgument,
    check_new_file,
    command,
    complete_model,
    print_answer,
    warn,
    warn_of,
    write_out,
)
from lora_profiler.cli.options import device_here, output_options, setup_options
from lora_profiler.errors import UsageError

if TYPE_CHECKING:
    from lora_profiler.measuring.harness import Case
    from lora_profiler.measuring.harness.pretended import Pretended
    from lora_profiler.measuring.records.store import Store
    from lora_profiler.report.blocks import Block
    from lora_profiler.runs.campaign.batch_search import LargestBatch
    from lora_profiler.runs.campaign.planned import Planned
    from lora_profiler.runs.campaign.progress import Progress
    from lora_profiler.runs.campaign.session import Session
    from lora_profiler.runs.cluster.scheduler import ClusterOutcome
    from lora_profiler.runs.comparison.errors import Result

NOT_MEASURED = ("timeout", "crash", "unsupported", "invalid")
"""Statuses that say nothing about the case itself. Running out of memory does: it is a result."""


@command(
    "bench",
    "Train a model for real, and compare with the prediction.",
    """
Weights are random by default, so nothing is downloaded.
Every case runs in its own process; Ctrl-C keeps finished cases.

Examples:
  lora-profile bench SmolLM2-135M                           full and LoRA; on a CPU 128 tokens in float32
  lora-profile bench gpt2 -s 512                            with 512 tokens
  lora-profile bench gpt2 -s 512 --device cpu --dtype float32 --timing-seconds 20
  lora-profile bench gpt2 -s 128 --budget 2GiB              does it fit into 2 GiB?
  lora-profile bench gpt2 -s 128 --largest-batch --budget 4GiB --device cpu
  lora-profile bench gpt2 -s 128 --nproc 2 --sharding fsdp --device cpu
  lora-profile bench gpt2 -s 512 --rehearse --gpu t4        on a simulated GPU: memory only
  lora-profile bench --suite NAME --resume --deadline 560   in pieces: repeat until nothing is left
  lora-profile bench --suite NAME --ray auto --resume       on the machines of a Ray cluster
  lora-profile bench --suite NAME --device cuda --emit sbatch -o job   for Slurm: cd job && sbatch run.sbatch

Exit: 0 done, out of memory included; 2 usage, 3 no such model, 4 not measured, 128 + n ended by signal n.
""",
)
@click.argument(
    "models", metavar="[MODEL...]", nargs=-1, shell_complete=complete_model, cls=ModelArgument
)
@setup_options(device=None, device_help="device to train on")
@bench_options
@output_options("table", "json", "csv", "md")
@click.pass_context
def bench_command(ctx: click.Context, /, models: tuple[str, ...], **o: Any) -> None:
    """Train MODEL on this machine, and compare memory and time with the prediction.
    MODEL: hub name, alias, folder or config.json."""
    check_options(ctx, models)
    if o["emit"]:
        emit(o)
        return
    check_new_file(o["output"], o["force"])
    check_new_file(o["report"], o["force"])
    from lora_profiler.measuring.records.store import Store
    from lora_profiler.report.measured.running import shown_runs
    from lora_profiler.runs.campaign.interrupts import one_interrupt
    from lora_profiler.runs.campaign.progress import Progress
    from lora_profiler.runs.campaign.session import Session
    from lora_profiler.runs.comparison.errors import result

    drawn_again = o["form"] == "table" and o["output"] is None and sys.stdout.isatty()
    with one_interrupt() as interrupt:
        proven: list[LargestBatch] = []
        outcome: ClusterOutcome | None = None
        with cluster_of(o) as cluster:
            pretended = rehearsed_on(o) if o["rehearse"] else None
            cases, num_refused = (
                cluster_cases(cluster, o) if cluster else _cases(ctx, models, pretended)
            )
            store = Store(o["records"] or _default_records(pretended))
            if o["report"]:
                _check_report(o["report"], store, o["output"])
            device = cases[0].case.workload.setup.device
            doing = f"Training on {device}{spread_text(cluster)}"
            if pretended is not None:
                doing = f"Rehearsing on a simulated {o['gpu']}, which measures nothing"
            click.echo(f"{doing}; records go to {store.path}.", err=True)
            progress = Progress(earlier=store.records())
            total = None if o["largest_batch"] else len(cases)
            with shown_runs(
                progress,
                total=total,
                deadline_seconds=o["deadline"],
                transient=drawn_again,
                as_json=o["progress"] == "json",
            ):
                if cluster:
                    outcome = spread(cluster, cases, store, progress, interrupt, o)
                    num_left = 0 if outcome.interrupted else len(outcome.left)
                else:
                    session = Session(
                        store=store,
                        progress=progress,
                        interrupt=interrupt,
                        schedule=schedule_of(o),
                        pretended=pretended,
                    )
                    num_left = _run(session, cases, proven, search=o["largest_batch"])
        done = ((row.record, row.planned.prediction) for row in progress.rows)
        results = [result(record, of) for record, of in done if record is not None]
        _print(results, proven, o)
        if o["report"]:
            _write_report(results, o["report"], o["records"])
        if outcome:
            print_lost_cases(outcome)
        _print_remaining(progress, store, num_left, interrupt.requested)
    if interrupt.requested:
        ctx.exit(interrupt.exit_code)
    unmeasured = outcome is not None and (outcome.refused or outcome.lost)
    statuses = {r.record.measurement.status for r in results}
    if num_refused or unmeasured or statuses.intersection(NOT_MEASURED):
        ctx.exit(4)


# --- before ---------------------------------------------------------------------------------------


def _default_records(pretended: "Pretended | None") -> Path:
    """Rehearsed records have a file of their own. Raises StoreError where there is no home."""
    from lora_profiler.measuring.records.store import default_records_path

    path = default_records_path()
    return path if pretended is None else path.with_name("rehearsed.jsonl")


def _requested_cases(
    ctx: click.Context, models: tuple[str, ...], pretended: "Pretended | None"
) -> Sequence["Case"]:
    """Those of the suite, the file or the models. Raises UsageError, and MeasurementError for a
    device that is not there."""
    from lora_profiler.runs.campaign.suites import read_case, suite_cases

    name, file = ctx.params["suite"], ctx.params["case"]
    if pretended is not None:
        return model_cases(ctx, models, "cuda", pretended.platform)
    if file:
        case = read_case(file)
        device_here(case.workload.setup.device)
        return [case]
    device = device_here(ctx.params["device"])
    return suite_cases(name, device) if name else model_cases(ctx, models, device)


def _cases(
    ctx: click.Context, models: tuple[str, ...], pretended: "Pretended | None"
) -> tuple[list["Planned"], int]:
    """Everything that will be started, refused and predicted already, and how many cases of a suite
    cannot run here.

    Raises UsageError and MeasurementError before anything is started.
    """
    from lora_profiler.measuring.harness import MeasurementError
    from lora_profiler.measuring.harness.environment import public_command
    from lora_profiler.measuring.harness.machine import memory_limit_bytes, physical_memory_bytes
    from lora_profiler.runs.campaign.planned import planned, refuse_beyond, sorted_out

    name, cases = ctx.params["suite"], _requested_cases(ctx, models, pretended)
    if ctx.params["largest_batch"]:
        _check_search(cases)
    command = public_command(sys.argv)
    cases = [replace(case, command=command) for case in cases]
    memory = memory_limit_bytes() or physical_memory_bytes()
    if not name:
        able = [planned(case, pretended) for case in cases]
        refuse_beyond(memory, able)
        _warn_of(able)
        return able, 0
    able, unable = sorted_out(cases, memory)
    for refused in unable:
        warn(f"left out {refused.case.key}: {refused.reason}")
    if not able:
        raise MeasurementError(
            f"none of the {len(cases)} cases of {name} can run here; see the reasons above."
        )
    return able, len(unable)


def _check_search(cases: Sequence["Case"]) -> None:
    """Raises UsageError where nothing would end the search but the operating system."""
    unlimited = (case for case in cases if case.conditions.budget_bytes is None)
    if any(case.workload.setup.device == "cpu" for case in unlimited):
        raise UsageError(
            "--largest-batch on the CPU needs --budget SIZE: without one the search would end when"
            " the operating system ends it, or another program."
        )


def _warn_of(able: Sequence["Planned"]) -> None:
    by_model = {each.case.workload.model: [] for each in able}  # type: dict[Any, list[Any]]
    for each in able:
        by_model[each.case.workload.model].append(each.prediction)
    for predictions in by_model.values():
        warn_of(predictions)


def _check_report(path: str, store: "Store", output: str | None) -> None:
    """Raises UsageError where the page could not be written after hours of training, or would take
    another file's place."""
    from lora_profiler.report.page import check_installed

    check_installed()
    others = {"records": store.path, "output": Path(output) if output else None}
    for what, other in others.items():
        if other is not None and Path(path).absolute() == other.absolute():
            raise UsageError(
                f"--report {path} is also the file of --{what}; name another one for the page."
            )


# --- during ---------------------------------------------------------------------------------------


def _run(
    session: "Session", cases: Sequence["Planned"], proven: list["LargestBatch"], *, search: bool
) -> int:
    """Measures, or searches and adds to `proven`; how many cases were left for want of time. Ctrl-C
    ends it early."""
    from lora_profiler.runs.campaign.batch_search import ProbeFailedError, predicted_start
    from lora_profiler.runs.campaign.session import TimeIsUpError

    try:
        if not search:
            return len(session.run(cases).left)
        for number, case in enumerate(cases):
            try:
                proven.append(session.search(case, predicted_start(case.case)))
            except TimeIsUpError:
                return len(cases) - number
            except ProbeFailedError as e:
                warn(f"the search for {case.case.workload.key} ended: {e}.")
    except KeyboardInterrupt:
        session.interrupted()
    return 0


# --- after ----------------------------------------------------------------------------------------


def _print(
    results: Sequence["Result"], proven: Sequence["LargestBatch"], o: dict[str, Any]
) -> None:
    if not results and o["form"] != "json":
        return
    from lora_profiler.report.json.bench import bench_payload, run_records

    records = [r.record for r in results]
    comparisons = [c for r in results for c in r.comparisons]
    print_answer(
        lambda: bench_payload(records, comparisons, proven),
        lambda: _blocks(results, proven, o),
        lambda: run_records(records),
    )


def _blocks(
    results: Sequence["Result"], proven: Sequence["LargestBatch"], o: dict[str, Any]
) -> Sequence["Block"]:
    if o["rehearse"]:
        from lora_profiler.report.rehearsed import rehearsed_blocks

        return rehearsed_blocks(results)
    from lora_profiler.report.measured.measured_runs import bench_blocks, search_blocks

    searched = {record.id for search in proven for record in search.records}
    others = [r for r in results if r.record.id not in searched]
    by_id = {r.record.id: r for r in results}
    return [*search_blocks(proven, by_id), *bench_blocks(others, detail=o["detail"])]


def _write_report(results: Sequence["Result"], path: str, records: "Path | None") -> None:
    """The page of exactly these runs; on stderr how to open it, and the dashboard."""
    if not results:
        warn(f"nothing was measured, so {path} was not written.")
        return
    import shlex

    from lora_profiler.report.page import report_content, write_page
    from lora_profiler.runs.comparison.errors import Scored

    scored = [
        Scored(record=r.record, prediction=r.prediction, refusal=None, comparisons=r.comparisons)
        for r in results
    ]
    write_out(write_page(report_content(scored)), path)
    shown = f" --records {shlex.quote(str(records))}" if records else ""
    click.echo(f"Open it in a browser: {Path(path).absolute().as_uri()}", err=True)
    click.echo(f"The same and more in the dashboard: lora-profile app{shown}", err=True)


def _print_remaining(
    progress: "Progress", store: "Store", num_left: int, interrupted: bool
) -> None:
    """On stderr: what a second run would do, and lines of the store that could not be read."""
    stored = sum(1 for row in progress.rows if row.state == "stored")
    if progress.rows and stored == len(progress.rows):
        every = "All cases are" if stored > 1 else "The case is"
        click.echo(f"{every} stored for this environment already: nothing was run.", err=True)
    if num_left:
        click.echo(
            f"Left for want of time: {num_left} of the cases. Run again with --resume.", err=True
        )
    if interrupted:
        click.echo("Interrupted. What is done is stored: run again with --resume.", err=True)
    if store.torn:
        warn(
            f"{store.path} has {store.torn} lines that a crash left half written; they are passed"
            " over."
        )
    for message in store.unreadable:
        warn(f"a record was passed over: {message}")
