"""A suite measured in pieces on a machine that has torch, transformers and PEFT, and where nothing
can be installed.

    python -m benchmarks.campaign predict SUITE
    python -m benchmarks.campaign check SUITE
    python -m benchmarks.campaign run SUITE --out DIR --deadline-s 560
                                      [--seed-rows FILE ...] [--wheel FILE]
    python -m benchmarks.campaign kernels --out DIR
    python -m benchmarks.campaign report SUITE [--records FILE ...] [-o FILE]

Straight from the source tree, with argparse alone. `predict` writes `predictions/SUITE.json` before
the first `run`, and that is committed. A `run` whose DIR does not outlive it is continued with the
rows that it left: `--seed-rows DIR/records.jsonl` in the next piece. Where the tree travels without
its repository, LORA_PROFILER_COMMIT=HASH tells records which commit it is.

`--deadline-s` is what is left for this piece, of which `run` keeps 45 s free. In the last piece 120
s are to stay free: say what is left of the whole campaign less 75 s.

A rehearsal on a CPU has predictions of its own, in a folder of its own:

    python -m benchmarks.campaign predict SUITE --device cpu --into DIR
    python -m benchmarks.campaign run SUITE --device cpu --predictions DIR --out DIR
    python -m benchmarks.campaign report SUITE --predictions DIR --records DIR/records.jsonl

Exit codes: 0 all measured, or nothing wrong; 1 cases are left for another piece, or a check or
report found something; 2 a wrong question; 4 this machine cannot measure; 130 interrupted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import blind, predictions
from benchmarks.machine import importable, usable_environment
from benchmarks.suites import home_device, suites
from lora_profiler.campaign.interrupts import last_when_interrupted, one_interrupt
from lora_profiler.campaign.runs import Outcome, Schedule, run_cases, wall_seconds
from lora_profiler.errors import LoraProfilerError, UsageError, did_you_mean
from lora_profiler.harness import Case, Heartbeat, MeasurementError, measure_case
from lora_profiler.records.load import read_records
from lora_profiler.records.locks import write_durably
from lora_profiler.records.record import Environment, Failure, Measurement, Record
from lora_profiler.records.store import Store
from lora_profiler.units import bytes_text, seconds_text

CASE_TIMEOUT_SECONDS = 300.0
DEVICES = ("cuda", "cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        code: int = asked.command(asked)
        return code
    except LoraProfilerError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.campaign", description=__doc__.partition("\n")[0]
    )
    commands = parser.add_subparsers(required=True)

    def command(
        name: str, function: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help)
        found.set_defaults(command=function)
        if name != "kernels":
            found.add_argument("suite", metavar="SUITE", help=", ".join(suites()))
        return found

    run = command("run", run_suite, "measure what is not measured yet")
    run.add_argument(
        "--deadline-s",
        type=float,
        metavar="SECONDS",
        help="start nothing that would not end within this piece",
    )
    run.add_argument(
        "--seed-rows",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="records of earlier pieces",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="leave out what DIR holds already; --seed-rows implies it",
    )
    run.add_argument(
        "--wheel",
        type=Path,
        metavar="FILE",
        help="a package to import from, such as that of bitsandbytes",
    )
    kernels = command("kernels", measure_kernels, "single facts of the card and its software")
    for each in (run, kernels):
        each.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="where the results go"
        )
        each.add_argument(
            "--device",
            choices=DEVICES,
            help="default: the one that the suite is made for; kernels: cuda",
        )
    predict = command(
        "predict", write_predictions, "write the predictions of a suite, before it is measured"
    )
    predict.add_argument(
        "--device", choices=DEVICES, help="default: the one that the suite is made for"
    )
    predict.add_argument(
        "--into",
        type=Path,
        default=predictions.PREDICTIONS,
        metavar="DIR",
        help="default: where all are",
    )
    predict.add_argument("--force", action="store_true", help="write them although there are some")
    command("check", check, "whether predictions are as written, and records younger than they")
    report = command("report", write_report, "every case as it was foretold and as it was measured")
    report.add_argument(
        "--records",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="default: the committed ones of the suite",
    )
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: standard output"
    )
    for each in (run, report):
        each.add_argument(
            "--predictions", type=Path, metavar="DIR", help="where those of a rehearsal lie"
        )
    return parser


# --- run ------------------------------------------------------------------------------------------


def run_suite(asked: argparse.Namespace) -> int:
    began = time.monotonic()
    device = asked.device or home_device(asked.suite)
    cases = _cases(asked.suite, device)
    if asked.predictions or device == home_device(asked.suite):
        _say_whether_blind(asked.suite, cases, asked.predictions or predictions.PREDICTIONS)
    with importable(asked.wheel), one_interrupt() as interrupt:
        environment = usable_environment(device)
        asked.out.mkdir(parents=True, exist_ok=True)
        write_durably(
            asked.out / "environment.json", json.dumps(asdict(environment), indent=1) + "\n"
        )
        print(_described(environment), flush=True)
        store = Store(asked.out / "records.jsonl")
        if asked.seed_rows:
            print(
                f"{store.merge(asked.seed_rows)} records taken over from earlier pieces", flush=True
            )
        command = f"{predictions.command_of(asked.suite)}--device {device}"
        outcome = run_cases(
            [replace(case, command=command) for case in cases],
            store,
            _Lines(len(cases)),
            Schedule(
                resume=asked.resume or bool(asked.seed_rows),
                deadline_seconds=(
                    None
                    if asked.deadline_s is None
                    else asked.deadline_s - (time.monotonic() - began)
                ),
                timeout_seconds=CASE_TIMEOUT_SECONDS,
            ),
            measure=last_when_interrupted(_measure_in(environment), interrupt),
            environment_key=lambda *_: environment.key,
        )
    print(_summary(outcome, len(cases)), flush=True)
    return 130 if outcome.interrupted else 1 if outcome.left else 0


def _measure_in(environment: Environment) -> Callable[..., Record]:
    """`measure_case`, but a case that is refused becomes a record that says why, so that the others
    go on."""

    def measure(case: Case, **options: object) -> Record:
        try:
            return measure_case(case, **options)  # type: ignore[arg-type]
        except MeasurementError as e:
            failure = Failure(reason=str(e), phase="refusal")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            return Record(
                workload=case.workload,
                conditions=case.conditions,
                environment=replace(environment, command=case.command),
                measurement=Measurement(status="unsupported", failure=failure),
                repeat=case.repeat,
                started_at=now,
                ended_at=now,
            )

    return measure


def _say_whether_blind(suite: str, cases: Sequence[Case], folder: Path) -> None:
    """Raises UsageError for predictions that are not of this suite: measuring it then would prove
    nothing."""
    found = predictions.read(suite, folder)
    if found is None:
        print(
            f"No predictions of {suite} were written: what is measured now was not foretold.",
            flush=True,
        )
    elif wrong := predictions.file_problems(found, cases):
        raise UsageError(f"the predictions of {suite} do not hold for it: {wrong[0]}")


# --- what is printed ------------------------------------------------------------------------------


class _Lines:
    """One line a case on standard output; `run_cases` tells it what happens."""

    def __init__(self, count: int) -> None:
        self._count = count

    def started(self, index: int, case: Case) -> None: ...

    def progressed(self, index: int, heartbeat: Heartbeat) -> None: ...

    def finished(self, index: int, record: Record, stored_before: bool) -> None:
        if stored_before:
            return
        m, taken = record.measurement, wall_seconds(record)
        peak = m.peak_allocated_bytes or m.peak_requested_bytes
        parts = [
            f"{index + 1:3}/{self._count} {record.case_key}.{record.repeat} {m.status}",
            f"peak {bytes_text(peak)}" if peak else "",
            f"step {seconds_text(median(m.step_seconds))}" if m.step_seconds else "",
            f"in {seconds_text(taken)}" if taken else "",
            m.failure.reason[:200] if m.failure else "",
        ]
        print(", ".join(filter(None, parts)), flush=True)


def _described(environment: Environment) -> str:
    device, packages = environment.device, environment.packages
    names = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "nvidia-ml-py")
    versions = ", ".join(f"{name} {packages.get(name, 'missing')}" for name in names)
    size = f", {bytes_text(device.total_bytes)}" if device.total_bytes else ""
    return (
        f"{device.kind}: {device.name}{size}; Python {environment.python}, {versions}; environment"
        f" {environment.key}"
    )


def _summary(outcome: Outcome, count: int) -> str:
    statuses = [record.measurement.status for record in outcome.records]
    each = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    rest = f"; {len(outcome.left)} left: run again with --seed-rows" if outcome.left else ""
    return f"{len(outcome.records)} of {count} cases have a record ({each}){rest}"


# --- the other commands ---------------------------------------------------------------------------


def measure_kernels(asked: argparse.Namespace) -> int:
    device = asked.device or "cuda"
    usable_environment(device)
    from benchmarks import (
        kernel_facts,
    )  # imports torch, which a process that starts others must not

    kernel_facts.measure(device, asked.out)
    return 0


def write_predictions(asked: argparse.Namespace) -> int:
    device = asked.device or home_device(asked.suite)
    if device != home_device(asked.suite) and asked.into.resolve() == predictions.PREDICTIONS:
        raise UsageError(
            f"predictions of {asked.suite} on {device} are for a rehearsal; name a folder for them:"
            " --into DIR."
        )
    path = predictions.write(
        asked.suite, _cases(asked.suite, device), asked.into, force=asked.force
    )
    found = _written(asked.suite, asked.into)
    print(f"{len(found['cases'])} predictions in {path.name}, sha256 {found['sha256']}")
    return 0


def check(asked: argparse.Namespace) -> int:
    """Tells everything that is wrong, and what cannot be told."""
    cases = _cases(asked.suite, home_device(asked.suite))
    found = _written(asked.suite)
    committed = predictions.committed_at(predictions.path_of(asked.suite))
    records = predictions.records_of(asked.suite)
    problems = predictions.file_problems(found, cases) + predictions.record_problems(
        found, records, committed
    )
    if records and committed is None and predictions.under_git():
        problems.append("There are records, but the predictions are not committed as they are.")
    when = (
        f"committed at {committed.isoformat()}"
        if committed
        else "not committed as they are, as far as git tells"
    )
    changed = predictions.changed_since(found, cases)
    print(
        f"{len(found['cases'])} predictions by version {found['predicted_by']['version']}, {when}."
    )
    print(
        f"{len(records)} committed records of {asked.suite}. The present version predicts"
        f" {len(changed)} cases otherwise."
    )
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


def write_report(asked: argparse.Namespace) -> int:
    """The predictions of the file, never made anew, beside what was measured, and whatever makes
    them no blind ones."""
    folder = asked.predictions or predictions.PREDICTIONS
    found = _written(asked.suite, folder)
    if asked.records:
        records = blind.latest(
            record for path in asked.records for record in read_records(path).records
        )
    else:
        records = predictions.records_of(asked.suite)
    committed = predictions.committed_at(predictions.path_of(asked.suite, folder))
    cases = _cases(asked.suite, predictions.device_of(found))
    problems = predictions.file_problems(found, cases)
    problems += predictions.record_problems(found, records, committed)
    text = blind.report(found, cases, records, committed, problems)
    if asked.output is None:
        print(text, end="")
    else:
        write_durably(asked.output, text)
    return 1 if problems else 0


def _written(suite: str, folder: Path = predictions.PREDICTIONS) -> predictions.Found:
    """The predictions in `folder`. Raises UsageError where there are none."""
    found = predictions.read(suite, folder)
    if found is None:
        raise UsageError(
            f"there are no predictions of {suite}; write them: campaign predict {suite}."
        )
    return found


def _cases(suite: str, device: str) -> tuple[Case, ...]:
    known = suites()
    if suite not in known:
        raise UsageError(
            f"there is no suite {suite!r}; there are"
            f" {', '.join(known)}.{did_you_mean(suite, known)}"
        )
    return known[suite](device)


if __name__ == "__main__":
    sys.exit(main())
