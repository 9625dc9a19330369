"""Twenty tiny cases trained for real on a Ray cluster of this machine, one worker killed: every row
once, nobody left.

    python -m benchmarks.ray_campaign [--workers N] [--write]

Some minutes on two cores; needs the extra test. Drives the cluster as `lora-profile bench --ray
local` does. One worker gets kill -9 while it measures; Ray runs its case once more. A second run
with what is stored then measures nothing. `--write` writes `results/ray_campaign.md`.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cpu_suites import QUICK, tiny
from benchmarks.pages import parser_of, write_page
from lora_profiler.campaign.planned import Planned, planned_for_cluster
from lora_profiler.campaign.runs import Schedule
from lora_profiler.cluster_runs.ray import Begun, Event, RayCluster, opened
from lora_profiler.cluster_runs.scheduler import ClusterOutcome, spread_cases
from lora_profiler.harness import Case, Heartbeat
from lora_profiler.records.record import Record
from lora_profiler.records.store import Store

NUM_SEEDS = 5
VICTIM = 9
"""The case, counted from 0, whose worker is killed."""
SECONDS_BEFORE_THE_KILL = 3.0


def cases() -> list[Planned]:
    """The four of the suite `tiny`, each with five seeds; the memory pass in full, three timed
    steps."""
    seeded = [
        replace(case, conditions=replace(QUICK, seed=seed))
        for seed in range(NUM_SEEDS)
        for case in tiny("cpu")
    ]
    return [planned_for_cluster(case) for case in seeded]


@dataclass(slots=True)
class Watched(RayCluster):
    """A cluster that kills the worker of one case a while after it began, and knows which process
    it killed."""

    victim_key: str = ""
    victim_handle: Any = None
    worker: int | None = None
    killed_at: float | None = None
    children: list[int] = field(default_factory=list)

    def submit(self, case: Case, needs: Any, timeout_seconds: float) -> Any:
        handle = RayCluster.submit(self, case, needs, timeout_seconds)
        if case.key == self.victim_key:
            self.victim_handle = handle
        return handle

    def next_events(
        self, handles: Sequence[Any], timeout_seconds: float
    ) -> list[tuple[Any, Event]]:
        found = RayCluster.next_events(self, handles, min(timeout_seconds, 0.2))
        for handle, event in found:
            if handle == self.victim_handle and isinstance(event, Begun):
                self.worker, self.killed_at = (
                    event.worker,
                    time.monotonic() + SECONDS_BEFORE_THE_KILL,
                )
        if self.killed_at is not None and time.monotonic() >= self.killed_at:
            assert self.worker is not None
            self.children = [
                child.pid for child in psutil.Process(self.worker).children(recursive=True)
            ]
            os.kill(self.worker, signal.SIGKILL)
            self.killed_at = None
        return found


class Printed:
    def __init__(self, total: int) -> None:
        self._total = total

    def started(self, index: int, case: Case) -> None:
        print(f"[{index + 1}/{self._total}] started", file=sys.stderr, flush=True)

    def progressed(self, index: int, heartbeat: Heartbeat) -> None:
        pass

    def finished(self, index: int, record: Record, stored_before: bool) -> None:
        how = "stored before" if stored_before else record.measurement.status
        print(f"[{index + 1}/{self._total}] {how}", file=sys.stderr, flush=True)


def measuring() -> list[int]:
    """Processes of the measured module anywhere on this machine that descend from this process or
    from nobody."""
    found = []
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        if "lora_profiler.harness.entry" in " ".join(process.info["cmdline"] or ()):
            ours = {parent.pid for parent in process.parents()}
            if process.info["ppid"] == 1 or os.getpid() in ours:
                found.append(process.info["pid"])
    return found


def main() -> int:
    options = parser_of(__doc__, workers=2, write=False).parse_args()
    planned = cases()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        store = Store(path)
        with opened("local", 1, num_cpus=options.workers) as plain:
            opened_after = time.monotonic() - began
            watched = Watched(
                ray=plain.ray,
                nodes=plain.nodes,
                cpus=plain.cpus,
                victim_key=planned[VICTIM].case.key,
            )
            first = spread_cases(planned, store, Printed(len(planned)), watched)
            took = time.monotonic() - began - opened_after
            orphans = [pid for pid in watched.children if psutil.pid_exists(pid)]
            before = path.read_bytes()
            resumed = Schedule(resume=True)
            second = spread_cases(planned, store, Printed(len(planned)), plain, resumed)
            unchanged = path.read_bytes() == before
        left_alive = [*orphans, *measuring()]
        ids = Counter(json.loads(line)["id"] for line in before.splitlines())
    once = len(ids) == len(planned) and set(ids.values()) == {1}
    lines = report(first, second, watched, once=once, unchanged=unchanged, left_alive=left_alive)
    text = [
        "# Twenty cases on a Ray cluster, one worker killed",
        "",
        f"`python -m benchmarks.ray_campaign --write`; {os.cpu_count()} processors, Ray"
        f" {plain.ray.__version__}. The suite",
        f"`tiny` with {NUM_SEEDS} seeds, {options.workers} cases at once with one thread each."
        " Starting the cluster took",
        f"{opened_after:.0f} s, the {len(planned)} cases {took:.0f} s. Times depend on what"
        " else the machine does.",
        "",
        *lines,
        "",
        "| case | seed | method | status | peak of tensors, B | predicted, B |",
        "|---:|---:|---|---|---:|---:|",
        *rows(first, planned),
    ]
    print("\n".join(lines))
    if options.write:
        write_page("ray_campaign", "\n".join(text) + "\n")
    good = (
        once
        and unchanged
        and not left_alive
        and first.num_rescheduled == 1
        and len(second.records) == len(planned)
    )
    return 0 if good else 1


def report(
    first: ClusterOutcome,
    second: ClusterOutcome,
    watched: Watched,
    *,
    once: bool,
    unchanged: bool,
    left_alive: Sequence[int],
) -> list[str]:
    begun_anew = (
        f"{first.num_rescheduled} case was"
        if first.num_rescheduled == 1
        else f"{first.num_rescheduled} cases were"
    )
    return [
        f"- kill -9 of the worker of case {VICTIM + 1}, {SECONDS_BEFORE_THE_KILL:g} s after it"
        f" began; processes below it: {len(watched.children)}; {begun_anew} begun anew by Ray"
        " on another worker",
        f"- {len(first.records)} of {NUM_SEEDS * 4} records came back, {len(first.lost)} lost,"
        f" {len(first.refused)} refused; in the store each case stands"
        f" {'exactly once' if once else 'NOT exactly once'}",
        f"- a second run with `resume` found {len(second.records)} stored, and the file is "
        f"{'as it was' if unchanged else 'CHANGED'}",
        f"- measuring processes left alive: {len(left_alive)}",
    ]


def rows(first: ClusterOutcome, planned: Sequence[Planned]) -> list[str]:
    records = {(record.case_key, record.repeat): record for record in first.records}
    found = []
    for number, each in enumerate(planned, 1):
        record = records.get((each.case.key, each.case.repeat))
        status = record.measurement.status if record else "none"
        peak = (
            f"{record.measurement.peak_requested_bytes:,}"
            if record and record.measurement.peak_requested_bytes
            else "none"
        )
        method, seed = each.case.workload.setup.method, each.case.conditions.seed
        name = f"**{number}**" if number == VICTIM + 1 else str(number)
        found.append(
            f"| {name} | {seed} | {method} | {status} | {peak} |"
            f" {each.prediction.peak.total_bytes:,} |"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
