"""A suite measured in pieces on a machine that has torch, transformers and PEFT, and where nothing can be installed.

    python -m benchmarks.campaign predict SUITE
    python -m benchmarks.campaign check SUITE
    python -m benchmarks.campaign run SUITE --out DIR --deadline-s 560 [--seed-rows FILE ...] [--wheel FILE]
    python -m benchmarks.campaign kernels --out DIR

Straight from the source tree, with argparse alone. `predict` comes before the first `run` and is committed. A `run` whose DIR
does not outlive it is continued with the rows that it left: `--seed-rows DIR/records.jsonl` in the next piece. Where the tree
travels without its repository, LORA_PROFILER_COMMIT=HASH tells records which commit it is.

Exit codes: 0 all measured, or nothing wrong; 1 cases are left for another piece, or a check found something; 2 a wrong
question; 4 this machine cannot measure; 130 interrupted.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from benchmarks import predictions
from benchmarks.suites import home_device, suites
from lora_profiler.campaign.runs import Outcome, run_cases, seconds_taken
from lora_profiler.durable import write_durably
from lora_profiler.errors import LoraProfilerError, UsageError, did_you_mean
from lora_profiler.harness import Case, Heartbeat, MeasurementError, environment_of, measure_case
from lora_profiler.harness.refusals import NEEDED
from lora_profiler.record import Environment, Failure, Measurement, Record
from lora_profiler.store import Store
from lora_profiler.units import bytes_text, seconds_text

LEAST_VERSIONS = {"torch": (2, 11), "transformers": (5, 17)}
CASE_TIMEOUT_SECONDS = 300.0
DEVICES = ("cuda", "cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        code: int = asked.command(asked)
        return code
    except LoraProfilerError as e:
        print(f"Error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)

    def command(name: str, function: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help)
        found.set_defaults(command=function)
        if name != "kernels":
            found.add_argument("suite", metavar="SUITE", help=", ".join(suites()))
        return found

    run = command("run", run_suite, "measure what is not measured yet")
    run.add_argument("--deadline-s", type=float, metavar="SECONDS", help="start nothing that would not end within this piece")
    run.add_argument("--seed-rows", type=Path, nargs="+", default=[], metavar="FILE", help="records of earlier pieces")
    run.add_argument("--resume", action="store_true", help="leave out what DIR holds already; --seed-rows implies it")
    run.add_argument("--wheel", type=Path, metavar="FILE", help="a package to import from, such as that of bitsandbytes")
    kernels = command("kernels", measure_kernels, "single facts of the card and its software")
    for each in (run, kernels):
        each.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
        each.add_argument("--device", choices=DEVICES, help="default: the one that the suite is made for; kernels: cuda")
    predict = command("predict", write_predictions, "write the predictions of a suite, before it is measured")
    predict.add_argument("--force", action="store_true", help="write them although there are some")
    command("check", check, "whether predictions are as written, and records younger than they")
    return parser


# --- run ----------------------------------------------------------------------------------------------------------------


def run_suite(asked: argparse.Namespace) -> int:
    began = time.monotonic()
    device = asked.device or home_device(asked.suite)
    cases = _cases(asked.suite, device)
    if device == home_device(asked.suite):
        _say_whether_blind(asked.suite, cases)
    with _importable(asked.wheel):
        environment = usable_environment(device)
        asked.out.mkdir(parents=True, exist_ok=True)
        write_durably(asked.out / "environment.json", json.dumps(asdict(environment), indent=1) + "\n")
        print(_described(environment), flush=True)
        store = Store(asked.out / "records.jsonl")
        if asked.seed_rows:
            print(f"{store.merge(asked.seed_rows)} records taken over from earlier pieces", flush=True)
        command = f"{predictions.command_of(asked.suite)}--device {device}"
        outcome = run_cases(
            [replace(case, command=command) for case in cases],
            store,
            _Lines(len(cases)),
            resume=asked.resume or bool(asked.seed_rows),
            deadline_seconds=None if asked.deadline_s is None else asked.deadline_s - (time.monotonic() - began),
            timeout_seconds=CASE_TIMEOUT_SECONDS,
            measure=_measure_in(environment),
            environment_key=lambda _: environment.key,
        )
    print(_summary(outcome, len(cases)), flush=True)
    return 130 if outcome.interrupted else 1 if outcome.left else 0


def usable_environment(device: str, installed: Callable[[str], object] = find_spec) -> Environment:
    """The environment in which cases will run. Raises MeasurementError where something that every case needs is missing."""
    missing = [name for name in NEEDED if installed(name) is None]
    if missing:
        raise MeasurementError(f"this machine lacks {', '.join(missing)}, without which nothing can be measured.")
    _try_imports()
    environment = environment_of(device)
    for name, least in LEAST_VERSIONS.items():
        found = environment.packages.get(name, "0")
        if _version(found) < least:
            raise MeasurementError(f"{name} is {found} here; it must be {'.'.join(map(str, least))} or later.")
    if device != "cpu" and environment.device.total_bytes is None:
        raise MeasurementError(f"torch {environment.packages['torch']} sees no {device} device on this machine.")
    return environment


def _try_imports() -> None:
    """Imports what every case needs, in a process of its own. Raises MeasurementError: better now than once a case."""
    command = [sys.executable, "-c", f"import {', '.join(NEEDED)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MeasurementError(f"{', '.join(NEEDED)} cannot all be imported on this machine: {reason}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.partition("+")[0].split(".")[:2] if part.isdigit())


def _measure_in(environment: Environment) -> Callable[..., Record]:
    """`measure_case`, but a case that is refused becomes a record that says why, so that the others go on."""

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


@contextmanager
def _importable(wheel: Path | None) -> Iterator[None]:
    """Inside, this process and those that it starts can import what is in the wheel."""
    if wheel is None:
        yield
        return
    with TemporaryDirectory(prefix="lora-profiler-wheel-") as folder:
        try:
            with ZipFile(wheel) as archive:
                archive.extractall(folder)
        except (OSError, BadZipFile) as e:
            raise UsageError(f"{wheel} is no wheel that can be unpacked: {e}.") from None
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, before)))
        sys.path.insert(0, folder)
        invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(folder)
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def _say_whether_blind(suite: str, cases: Sequence[Case]) -> None:
    """Raises UsageError for predictions that are not of this suite: measuring it then would prove nothing."""
    found = predictions.read(suite)
    if found is None:
        print(f"No predictions of {suite} were written: what is measured now was not foretold.", flush=True)
    elif wrong := predictions.file_problems(found, cases):
        raise UsageError(f"the predictions of {suite} do not hold for it: {wrong[0]}")


# --- what is printed ----------------------------------------------------------------------------------------------------


class _Lines:
    """One line a case on standard output; `run_cases` tells it what happens."""

    def __init__(self, count: int) -> None:
        self._count = count

    def started(self, index: int, case: Case) -> None: ...

    def progressed(self, index: int, heartbeat: Heartbeat) -> None: ...

    def finished(self, index: int, record: Record, stored_before: bool) -> None:
        if stored_before:
            return
        m, taken = record.measurement, seconds_taken(record)
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
    return f"{device.kind}: {device.name}{size}; Python {environment.python}, {versions}; environment {environment.key}"


def _summary(outcome: Outcome, count: int) -> str:
    statuses = [record.measurement.status for record in outcome.records]
    each = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    rest = f"; {len(outcome.left)} left: run again with --seed-rows" if outcome.left else ""
    return f"{len(outcome.records)} of {count} cases have a record ({each}){rest}"


# --- the other commands ---------------------------------------------------------------------------------------------------


def measure_kernels(asked: argparse.Namespace) -> int:
    device = asked.device or "cuda"
    usable_environment(device)
    from benchmarks import kernel_facts  # imports torch, which a process that starts others must not

    kernel_facts.measure(device, asked.out)
    return 0


def write_predictions(asked: argparse.Namespace) -> int:
    path = predictions.write(asked.suite, _cases(asked.suite, home_device(asked.suite)), force=asked.force)
    found = predictions.read(asked.suite)
    assert found is not None
    print(f"{len(found['cases'])} predictions in {path.name}, sha256 {found['sha256']}")
    return 0


def check(asked: argparse.Namespace) -> int:
    """Tells everything that is wrong, and what cannot be told."""
    cases = _cases(asked.suite, home_device(asked.suite))
    found = predictions.read(asked.suite)
    if found is None:
        raise UsageError(f"there are no predictions of {asked.suite}; write them: campaign predict {asked.suite}.")
    committed = predictions.committed_at(predictions.path_of(asked.suite))
    records = predictions.records_of(asked.suite)
    problems = predictions.file_problems(found, cases) + predictions.record_problems(found, records, committed)
    if records and committed is None and predictions.under_git():
        problems.append("There are records, but the predictions are not committed as they are.")
    when = f"committed at {committed.isoformat()}" if committed else "not committed as they are, as far as git tells"
    changed = predictions.changed_since(found, cases)
    print(f"{len(found['cases'])} predictions by version {found['predicted_by']['version']}, {when}.")
    print(f"{len(records)} committed records of {asked.suite}. The present version predicts {len(changed)} cases otherwise.")
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


def _cases(suite: str, device: str) -> tuple[Case, ...]:
    known = suites()
    if suite not in known:
        raise UsageError(f"there is no suite {suite!r}; there are {', '.join(known)}.{did_you_mean(suite, known)}")
    return known[suite](device)


if __name__ == "__main__":
    sys.exit(main())
