"""A suite on a Ray cluster: what is owed, lost and taken back, with a stand-in for Ray; then a real
one of this machine's own, whose workers are killed.
"""

import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

import quick_child
from benchmarks.truth import suite_models
from commands import Run, refused
from golden_files import Golden
from lora_profiler.cli.main import main
from lora_profiler.measuring.harness import Case, Heartbeat, environment_of, make_case
from lora_profiler.measuring.records.record import Conditions, Record
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.measuring.records.store import Store
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.runs.campaign.planned import Planned, planned_for_cluster
from lora_profiler.runs.campaign.runs import MARGIN_SECONDS, Schedule
from lora_profiler.runs.cluster import ray as cluster
from lora_profiler.runs.cluster import ray as ray_connection
from lora_profiler.runs.cluster import scheduler as cluster_runs
from lora_profiler.runs.cluster.ray import (
    Begun,
    Cancelled,
    Ended,
    Event,
    Lost,
    Needs,
    RayCluster,
    RayNode,
    differences,
    opened,
)
from lora_profiler.runs.cluster.scheduler import ClusterOutcome, spread_cases
from records import make_record
from waiting import wait_until

SETUP = TrainSetup(dtype="float32", lora=LoraConfig(r=4), batch_size=2, seq_len=32, device="cpu")
HERE = make_record().environment.key
needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'lora-profiler[cluster]'"
)
"""Found, not imported: Ray reads its settings when it is imported, and `opened` makes them."""


def planned(seed: int) -> Planned:
    case = make_case(
        Workload(model=suite_models.tiny(), setup=SETUP),
        Conditions(seed=seed, memory_steps=2, min_timed_steps=0),
    )
    return planned_for_cluster(case)


def record_of(case: Case) -> Record:
    return make_record(case.workload, conditions=case.conditions, repeat=case.repeat)


class Listener:
    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[tuple[int, bool]] = []

    def started(self, index: int, case: Case) -> None:
        self.begun.append(index)

    def progressed(self, index: int, heartbeat: Heartbeat) -> None:
        pass

    def finished(self, index: int, record: Record, stored_before: bool) -> None:
        self.ended.append((index, stored_before))


# --- with a stand-in for Ray ----------------------------------------------------------------------


class Machines:
    """Runs `room` cases at once, each a `seconds` of the clock; what comes of a case is what
    `outcome` says of its seed."""

    cpus = 1

    def __init__(
        self, outcome: Callable[[int], Event] | None = None, room: int = 2, seconds: float = 10.0
    ) -> None:
        self.now = 0.0
        self.submitted: list[int] = []
        self.queue: list[tuple[int, Case]] = []
        self.running: dict[int, tuple[Case, float]] = {}
        self.cancelled: set[int] = set()
        self.forced: list[int] = []
        self._outcome, self._room, self._seconds = outcome, room, seconds

    def environment_keys(self, device: str, ranks: bool) -> frozenset[str]:
        return frozenset({"elsewhere", HERE})

    def submit(self, case: Case, needs: Needs, timeout_seconds: float) -> int:
        handle = len(self.submitted)
        self.submitted.append(case.conditions.seed)
        self.queue.append((handle, case))
        return handle

    def next_events(
        self, handles: Sequence[int], timeout_seconds: float
    ) -> list[tuple[int, Event]]:
        assert set(handles) == {h for h, _ in self.queue} | set(self.running)
        for handle, _ in [each for each in self.queue if each[0] in self.cancelled]:
            self.queue = [each for each in self.queue if each[0] != handle]
            return [(handle, Cancelled())]
        for handle in [h for h in self.running if h in self.cancelled]:
            del self.running[handle]
            return [(handle, Cancelled())]
        if self.queue and len(self.running) < self._room:
            handle, case = self.queue.pop(0)
            self.running[handle] = case, self.now + self._seconds
            return [(handle, Begun(1))]
        self.now += timeout_seconds
        for handle, (case, ends) in self.running.items():
            if ends <= self.now:
                del self.running[handle]
                outcome = self._outcome
                return [(handle, outcome(case.conditions.seed) if outcome else ended(case))]
        return []

    def cancel(self, handle: int, force: bool = False) -> None:
        self.cancelled.add(handle)
        if force:
            self.forced.append(handle)


def ended(case: Case, worker: int = 1) -> Ended:
    return Ended(worker, record_dict(record_of(case)), None)


def run(
    store: Store, machines: Any, seeds: Sequence[int], **options: Any
) -> tuple[ClusterOutcome, Listener]:
    listener = Listener()
    clock = {"clock": lambda: machines.now} if isinstance(machines, Machines) else {}
    cases = [planned(seed) for seed in seeds]
    return spread_cases(cases, store, listener, machines, Schedule(**options), **clock), listener


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "records.jsonl")


def seeds_of(records: Sequence[Record]) -> list[int]:
    return sorted(record.conditions.seed for record in records)


def test_every_case_comes_back_to_the_store_once(store: Store) -> None:
    found, heard = run(store, Machines(), range(5))
    assert seeds_of(store.records()) == seeds_of(found.records) == [0, 1, 2, 3, 4]
    assert sorted(heard.begun) == [0, 1, 2, 3, 4]
    assert sorted(heard.ended) == [(i, False) for i in range(5)]
    told = (found.left, found.refused, found.lost, found.num_rescheduled, found.interrupted)
    assert told == ((), (), (), 0, False)


def test_what_is_stored_of_any_machine_of_the_cluster_is_not_sent_again(store: Store) -> None:
    run(store, Machines(), [0, 1])
    machines = Machines()
    found, heard = run(store, machines, [1, 2, 0], resume=True)
    assert machines.submitted == [2]
    assert sorted(heard.ended) == [(0, True), (1, False), (2, True)]
    assert seeds_of(found.records) == [0, 1, 2]


def test_refused_and_lost_cases_have_no_record_and_are_told_apart(store: Store) -> None:
    of = {0: Ended(1, None, "no bitsandbytes"), 1: Lost("the worker died")}
    of |= {2: ended(planned(2).case, worker=7)}
    found, _ = run(store, Machines(of.__getitem__), [0, 1, 2])
    assert [(r.case.conditions.seed, r.reason) for r in found.refused] == [(0, "no bitsandbytes")]
    assert [(r.case.conditions.seed, r.reason) for r in found.lost] == [(1, "the worker died")]
    assert seeds_of(store.records()) == [2]
    assert found.num_rescheduled == 1, "another worker ended it than began it"


def test_the_deadline_takes_back_what_would_not_end_in_time_and_ends_what_runs(
    store: Store,
) -> None:
    """Cases of 100 s, two at once, of 150 s: the first two are expected to take 60 s each, and end;
    when 105 s are left no other may begin, since 60 and the margin of 45 are more."""
    machines = Machines(room=2, seconds=100.0)
    found, heard = run(store, machines, range(6), deadline_seconds=150.0)
    assert 60 + MARGIN_SECONDS < 150 < 100 + 100
    assert seeds_of(found.records) == [0, 1]
    assert sorted(c.conditions.seed for c in found.left) == [2, 3, 4, 5]
    assert sorted(heard.begun)[:2] == [0, 1]
    assert not machines.running
    assert machines.now <= 160.0
    again, _ = run(store, Machines(), range(6), resume=True, deadline_seconds=1000.0)
    assert seeds_of(again.records) == seeds_of(store.records()) == [0, 1, 2, 3, 4, 5]


def test_a_case_that_runs_at_the_deadline_is_ended_and_still_owed(store: Store) -> None:
    machines = Machines(room=1, seconds=1000.0)
    found, _ = run(store, machines, [0], deadline_seconds=120.0)
    assert found.records == ()
    assert [c.conditions.seed for c in found.left] == [0]
    assert 120 <= machines.now < 125


def test_without_time_for_any_none_is_sent(store: Store) -> None:
    machines = Machines()
    found, _ = run(store, machines, [0, 1], deadline_seconds=60.0)
    assert machines.submitted == []
    assert len(found.left) == 2


def test_ctrl_c_keeps_what_ends_in_that_moment_and_takes_back_the_rest(store: Store) -> None:
    machines = Machines(room=2)
    usual = machines.next_events
    looks = iter(range(1000))

    def pressed(handles: Sequence[int], timeout_seconds: float) -> list[tuple[int, Event]]:
        if next(looks) == 3:
            machines.next_events = usual_but_well  # type: ignore[method-assign]
            raise KeyboardInterrupt
        return usual(handles, timeout_seconds)

    def usual_but_well(handles: Sequence[int], timeout_seconds: float) -> list[tuple[int, Event]]:
        machines.next_events = usual  # type: ignore[method-assign]
        handle = min(machines.running)
        return [(handle, ended(machines.running.pop(handle)[0]))]

    machines.next_events = pressed  # type: ignore[method-assign]
    found, _ = run(store, machines, range(4))
    assert found.interrupted
    assert seeds_of(store.records()) == [0]
    assert sorted(c.conditions.seed for c in found.left) == [1, 2, 3]
    assert machines.forced == []


def test_a_worker_that_does_not_let_go_is_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_runs, "END_SECONDS", 0.2)
    machines = Machines()

    def deaf(handles: Sequence[int], timeout_seconds: float) -> list[tuple[int, Event]]:
        if machines.cancelled:
            time.sleep(timeout_seconds)
            return []
        raise KeyboardInterrupt

    machines.next_events = deaf  # type: ignore[method-assign]
    found, _ = run(store, machines, [0])
    assert machines.forced == [0]
    assert len(found.left) == 1


# --- what a cluster is asked and refused ----------------------------------------------------------


def machine(
    address: str = "10.0.0.1", cpus: int = 4, gpus: int = 0, memory_bytes: int = 8
) -> RayNode:
    return RayNode(id=address, address=address, cpus=cpus, gpus=gpus, memory_bytes=memory_bytes)


def of_nodes(*nodes: RayNode) -> RayCluster:
    return RayCluster(ray=None, nodes=nodes, cpus=1)


def test_a_case_must_find_all_that_it_asks_for_on_one_machine() -> None:
    found = of_nodes(machine(gpus=1), machine("10.0.0.2", gpus=2))
    assert found.refusal(Needs(cpus=4, gpus=2, memory_bytes=8)) is None
    said = found.refusal(Needs(cpus=1, gpus=3, memory_bytes=0))
    assert said == "it asks for 3 GPUs, and no machine of the cluster has more than 2"
    assert "asks for 5 processors" in str(found.refusal(Needs(cpus=5, gpus=0, memory_bytes=0)))
    assert "9 B of memory" in str(found.refusal(Needs(cpus=1, gpus=0, memory_bytes=9)))


def test_how_many_run_at_once_is_what_is_scarcest() -> None:
    found = of_nodes(machine(cpus=8, gpus=2), machine(cpus=3, gpus=4))
    assert found.at_once(Needs(cpus=2, gpus=1, memory_bytes=0)) == 2 + 1
    assert found.at_once(Needs(cpus=1, gpus=0, memory_bytes=4)) == 2 + 2
    assert of_nodes(machine()).at_once(Needs(cpus=9, gpus=0, memory_bytes=0)) == 1


SAME = {"python": "3.11.7", "lora-profiler": "0.4.0", "torch": "2.13.0"}


def test_machines_that_have_the_same_do_not_differ() -> None:
    assert differences({"a": SAME, "b": dict(SAME)}, "0.4.0") is None


def test_versions_that_differ_are_named_with_their_machines() -> None:
    other = SAME | {"torch": "2.12.0", "peft": "0.21"}
    found = differences(dict.fromkeys("abcde", SAME) | {"b": other}, "0.4.0")
    assert found is not None
    assert "peft is none on a, c, d and 1 more, 0.21 on b" in found
    assert "torch is 2.13.0 on a, c, d and 1 more, 2.12.0 on b" in found
    assert "python" not in found


def test_a_cluster_with_another_version_of_this_program_is_refused() -> None:
    assert "the cluster has lora-profiler 0.4.0, and this is 0.5.0" in str(
        differences({"a": SAME}, "0.5.0")
    )


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["bench", *arguments])
    return int(left.value.code or 0)


def test_a_wrong_question_is_refused_before_ray_is_asked(
    run: Run, golden_file: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "imported_ray", lambda: pytest.fail("Ray was asked"))
    golden_file.compare_answers("refusals-ray", lambda words: refused(run("bench", *words.split())))


def test_without_ray_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert bench("--suite", "tiny", "--ray", "local") == 2
    assert "pip install 'lora-profiler[cluster]'" in capsys.readouterr().err


def test_where_nobody_listens_it_says_so_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert bench("--suite", "tiny", "--ray", address) == 2
    assert f"no Ray cluster answers at {address}" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert bench("--suite", "tiny", "--ray", "auto") == 2
    assert f"no Ray cluster answers at {address}" in capsys.readouterr().err


def test_auto_passes_over_a_cluster_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_connection.local_address() is None
    (tmp_path / "ray").mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"{address}\n")
        assert ray_connection.local_address() is None
        listener.listen()
        assert ray_connection.local_address() == address


# --- the command ----------------------------------------------------------------------------------


class Told(Machines):
    """A stand-in that the command can ask what it has."""

    def __init__(self, *nodes: RayNode, **options: Any) -> None:
        super().__init__(**options)
        self.nodes, self._like = nodes, of_nodes(*nodes)
        self.has_gpus, self.refusal = self._like.has_gpus, self._like.refusal
        self.at_once = self._like.at_once


def on(machines: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> int:
    @contextmanager
    def reached(address: str, cpus: int) -> Iterator[Told]:
        assert (address, cpus) == ("local", 1)
        yield machines

    monkeypatch.setattr(cluster, "opened", reached)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return bench(
        "--suite", "tiny", "--ray", "local", "--records", str(tmp_path / "r.jsonl"), *arguments
    )


BIG = machine(memory_bytes=2**40)


def test_the_command_tells_of_machines_rows_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on(Told(BIG, BIG), monkeypatch, tmp_path, "--format", "csv") == 0
    out, err = capsys.readouterr()
    assert err.startswith(
        "Training on cpu on 2 machines by Ray, 1 processor a case; records go to "
    )
    assert err.count('"state": "running"') == 4
    assert len(out.splitlines()) == 1 + 4
    assert len(Store(tmp_path / "r.jsonl").records()) == 4
    assert on(Told(BIG), monkeypatch, tmp_path, "--resume") == 0
    assert "All cases are stored for this environment already" in capsys.readouterr().err


def test_the_command_tells_of_refused_lost_and_rescheduled_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = iter([Lost("the worker died"), Ended(1, None, "no bitsandbytes")])
    machines = Told(BIG)

    def next_events(handles: Sequence[int], timeout_seconds: float) -> list[tuple[int, Event]]:
        found = Machines.next_events(machines, handles, timeout_seconds)
        changed = [
            (h, e if isinstance(e, Begun) else next(turns, replace(e, worker=9))) for h, e in found
        ]
        return changed

    machines.next_events = next_events  # type: ignore[method-assign]
    assert on(machines, monkeypatch, tmp_path) == 4
    err = capsys.readouterr().err
    assert "has no record, since Ray lost two workers over it: the worker died" in err
    assert re.search(r"left out \S+: no bitsandbytes", err)
    assert "Begun anew on another worker, since theirs was lost: 2 of the cases." in err


def test_cases_that_no_machine_has_room_for_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines = Told(BIG)
    assert on(machines, monkeypatch, tmp_path, "--device", "cuda") == 2
    err = capsys.readouterr().err
    assert err.count("it asks for 1 GPU, and no machine of the cluster has more than 0") == 4
    assert "none of the 4 cases of tiny for cuda can run on this cluster" in err
    assert machines.submitted == []
    assert on(Told(replace(BIG, gpus=8)), monkeypatch, tmp_path) == 0
    assert "Training on cuda" in capsys.readouterr().err, "where there are GPUs they are taken"


def test_ctrl_c_ends_the_command_and_resume_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machines, pressed = Told(BIG, room=1), []

    def next_events(handles: Sequence[int], timeout_seconds: float) -> list[tuple[int, Event]]:
        if len(handles) == 3 and not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return Machines.next_events(machines, handles, timeout_seconds)

    machines.next_events = next_events  # type: ignore[method-assign]
    assert on(machines, monkeypatch, tmp_path) == 130
    err = capsys.readouterr().err
    assert "Interrupted. What is done is stored: run again with --resume." in err
    assert "for want of time" not in err
    assert len(Store(tmp_path / "r.jsonl").records()) == 1
    again = Told(BIG)
    assert on(again, monkeypatch, tmp_path, "--resume") == 0
    assert len(again.submitted) == 3
    assert len(Store(tmp_path / "r.jsonl").records()) == 4


# --- with Ray -------------------------------------------------------------------------------------


class Here(RayCluster):
    """A cluster whose records are the stand-in's, which come from no environment that a worker
    would tell of."""

    def environment_keys(self, device: str, ranks: bool) -> frozenset[str]:
        return frozenset({HERE})


def measuring() -> list[psutil.Process]:
    """Living processes that measure for a worker of ours."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "quick_child" in line or "lora_profiler.measuring.harness.entry" in line:
            found.append(process)
    return found


@needs_ray
def test_a_cluster_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Twenty cases on four workers, of which one is killed in the middle; two of the cases train
    for real. Then one that takes every worker down with it; then Ctrl-C, and the rest of that run.
    One cluster for all, since it takes seconds to start.
    """
    log, home = tmp_path / "log", tmp_path / "home"
    home.mkdir()
    log.touch()
    monkeypatch.setenv("QUICK_LOG", str(log))
    monkeypatch.setenv("HOME", str(home))
    environment = dict(os.environ)
    child = (sys.executable, quick_child.__file__)
    with opened("local", 1, num_cpus=4, child=child) as own:
        machines = Here(ray=own.ray, nodes=own.nodes, cpus=own.cpus, child=own.child)
        assert [(n.address, n.cpus, n.gpus) for n in machines.nodes] == [("127.0.0.1", 4, 0)]

        store = Store(tmp_path / "twenty.jsonl")
        seeds = [*range(17), quick_child.LOSES_ITS_WORKER_ONCE, *quick_child.REAL]
        found, heard = run(store, machines, seeds)
        listening = {c.laddr.ip for c in _listening()}
        assert listening, "Ray listens somewhere"
        assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert (found.left, found.refused, found.lost, found.num_rescheduled) == ((), (), (), 1)
        assert seeds_of(found.records) == seeds_of(store.records()) == sorted(seeds)
        assert len((tmp_path / "twenty.jsonl").read_text().splitlines()) == 20, "every row once"
        assert sorted(heard.ended) == [(i, False) for i in range(20)]
        attempts = Counter(map(int, log.read_text().split()))
        assert attempts == Counter(seeds) + Counter([quick_child.LOSES_ITS_WORKER_ONCE])
        real = [r for r in store.records() if r.conditions.seed in quick_child.REAL]
        assert [r.measurement.status for r in real] == ["ok", "ok"]
        assert all(
            r.environment.variables["OMP_NUM_THREADS"] == "1" and r.environment.threads == 1
            for r in real
        )
        predicted = {
            p.case.key: p.prediction.peak.total_bytes for p in map(planned, quick_child.REAL)
        }
        for record in real:
            assert record.measurement.peak_requested_bytes == pytest.approx(
                predicted[record.case_key], rel=0.01
            )

        found, _ = run(
            Store(tmp_path / "lost.jsonl"), machines, [quick_child.LOSES_EVERY_WORKER, 1]
        )
        assert [r.case.conditions.seed for r in found.lost] == [quick_child.LOSES_EVERY_WORKER]
        assert seeds_of(found.records) == [1]
        assert log.read_text().split().count(str(quick_child.LOSES_EVERY_WORKER)) == 2

        store = Store(tmp_path / "interrupted.jsonl")
        slow = quick_child.SLOW[0]
        pressing = Pressing(own, when=lambda: str(slow) in log.read_text().split())
        found, _ = run(store, pressing, [slow, *range(6)])
        assert found.interrupted
        assert slow in [c.conditions.seed for c in found.left]
        assert sorted([*seeds_of(found.records), *(c.conditions.seed for c in found.left)]) == [
            *range(6),
            slow,
        ]
        # what was interrupted is ended long before the ten minutes that it takes
        wait_until(lambda: not measuring())
        found, _ = run(store, machines, range(6), resume=True)
        assert seeds_of(store.records()) == [0, 1, 2, 3, 4, 5]
        assert len((tmp_path / "interrupted.jsonl").read_text().splitlines()) == 6
    changed = {name for name, _ in dict(os.environ).items() ^ environment.items()}
    assert changed <= {"PYTHONBREAKPOINT", "RAY_CLIENT_MODE"}, "set by Ray itself"
    assert not list(home.rglob("auth_token"))
    assert capfd.readouterr().out == ""
    wait_until(lambda: not _of_ray())


class Pressing(Here):
    """Ctrl-C, once, when `when` says so."""

    def __init__(self, own: RayCluster, when: Callable[[], bool]) -> None:
        super().__init__(ray=own.ray, nodes=own.nodes, cpus=own.cpus, child=own.child)
        self._when, self._pressed = when, False

    def next_events(
        self, handles: Sequence[Any], timeout_seconds: float
    ) -> list[tuple[Any, Event]]:
        if not self._pressed and self._when():
            self._pressed = True
            raise KeyboardInterrupt
        return super().next_events(handles, 0.1)


def _listening() -> Iterator[Any]:
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            yield from (
                c for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN
            )
        except psutil.Error:
            continue


def _of_ray() -> list[str]:
    return [name for p in psutil.Process().children(recursive=True) if "ray" in (name := p.name())]


@needs_ray
def test_a_worker_measures_in_the_environment_of_a_plain_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with opened("local", 1, num_cpus=1) as own:
        found = own.environment_keys("cpu", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert found == {environment_of("cpu").key}
