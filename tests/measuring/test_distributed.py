"""Several ranks: they hold what the rules say, learn what one process learns, and none outlives a
case that ends badly."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import several_ranks
import time_limit
from lora_profiler.cli.main import main
from lora_profiler.errors import UsageError
from lora_profiler.measuring.harness import (
    Case,
    Heartbeat,
    MeasurementError,
    make_case,
    measure_case,
    runner,
)
from lora_profiler.measuring.harness.case import case_dict
from lora_profiler.measuring.harness.gather import gathered, rank_result, with_reference
from lora_profiler.measuring.harness.preflight import refuse
from lora_profiler.measuring.records.record import Conditions, Failure, Record
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import (
    LoraConfig,
    Optimizer,
    Quantization,
    TrainSetup,
    Workload,
)
from lora_profiler.report.json.bench import bench_payload
from lora_profiler.report.measured.measurements import ranks_lines, ranks_table
from record_checks import problems
from records import ENVIRONMENT, make_record
from several_ranks import FULL, LORA, MODEL, SETUPS
from waiting import wait_for_the_end_of

TESTS = Path(__file__).parents[1]


def case(setup: TrainSetup = FULL, conditions: Conditions | None = None) -> Case:
    return make_case(
        Workload(model=MODEL, setup=setup),
        conditions or Conditions(min_timed_steps=0, memory_steps=2),
    )


# --- what two ranks hold and learn ----------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks measured of each setup."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, *options, str(TESTS / "several_ranks.py"), str(folder)]
    subprocess.run(command, check=True, env=environment, timeout=280)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow("two ranks")
@pytest.mark.parametrize("name", SETUPS)
def test_ranks_hold_what_the_rules_say(found: list[dict[str, Any]], name: str) -> None:
    prediction = predict(Workload(model=MODEL, setup=SETUPS[name]))
    highest = max((ranks[name] for ranks in found), key=lambda r: sum(r["persistent"].values()))
    told = {category: size for category, size in prediction.persistent_bytes.items() if size}
    assert {c: size for c, size in highest["persistent"].items() if c != "buffers"} == told
    peak = max(ranks[name]["peak"][1] for ranks in found)
    assert peak == pytest.approx(prediction.peak.total_bytes, rel=0.01)


@pytest.mark.slow("two ranks")
@pytest.mark.parametrize("name", [n for n in SETUPS if SETUPS[n].precision != "fsdp-mixed"])
def test_ranks_learn_what_one_process_learns(found: list[dict[str, Any]], name: str) -> None:
    """FSDP's mixed precision computes as no process alone does."""
    setup = SETUPS[name]
    batches = setup.batches_at_once * setup.accumulation
    one = replace(setup, world_size=1, sharding="none", accumulation=batches)
    alone, steps = several_ranks.training(one), several_ranks.CONDITIONS.memory_steps
    losses = [float(alone.step(lambda step, phase: None)) for _ in range(steps)]
    mean = [sum(step) / 2 for step in zip(*(ranks[name]["losses"] for ranks in found), strict=True)]
    if setup.sharding == "tp":
        assert found[0][name]["losses"] == pytest.approx(found[1][name]["losses"], rel=1e-6)
        if setup.lora is not None:  # of what it cuts PEFT draws each rank's part by itself
            mean, losses = mean[:1], losses[:1]
    else:
        own = [ranks[name]["losses"] for ranks in found]
        assert own[0] != own[1], "each rank has a batch of its own"
    assert mean == pytest.approx(losses, rel=1e-6)


@pytest.mark.slow("two ranks")
@pytest.mark.parametrize("name", SETUPS)
def test_the_tracker_sees_the_weights_that_come_and_go(
    found: list[dict[str, Any]], name: str
) -> None:
    """The two ways of measuring agree where nothing but tensors takes memory."""
    one = found[0][name]
    for phase in ("setup", "zero"):
        assert one["tracked"][phase] == pytest.approx(one["steady"][phase], rel=0.005)
    if name.startswith("fsdp"):
        assert one["attribution"]["communication"] > one["persistent"]["parameters"] / 2


# --- one record -----------------------------------------------------------------------------------


def test_a_case_of_two_ranks_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    heard: list[Heartbeat] = []
    setup = replace(LORA, lora=LoraConfig(r=3))
    conditions = Conditions(min_timed_steps=2, memory_steps=2, max_timing_seconds=2.0)
    record = measure_case(case(setup, conditions), progress=heard.append)
    m = record.measurement
    assert m.went_through, m.failure
    assert problems(record) == []
    assert [r.rank for r in m.ranks] == [0, 1]
    assert m.peak_requested_bytes == max(r.peak_requested_bytes or 0 for r in m.ranks)
    assert m.reference_loss == pytest.approx(m.loss[:2], rel=1e-6)
    assert len(m.step_seconds) >= 2
    # the first rank speaks for all, then the one that trains alone
    assert {h.rank for h in heard} == {0, None}
    assert record_from_dict(json.loads(json.dumps(record_dict(record)))) == record
    table = ranks_table(record)
    assert table is not None and [row.cells[0] for row in table.rows] == ["rank 0", "rank 1"]
    assert len(ranks_lines(record)) == 2
    assert bench_payload([record], ())["ranks"][0]["imbalance"] == m.rank_imbalance


# --- what ends badly ------------------------------------------------------------------------------

BEGINNING = """
    import json, os, signal, sys, time
    from pathlib import Path
    from lora_profiler.measuring.harness.process import die_with_parent
    die_with_parent()
    rank = int(os.environ["RANK"])
    def say(line):
        os.write(1, f"{line}\\n".encode())  # in one piece: the ranks share a pipe
    def beat(phase, step):
        say(json.dumps({"phase": phase, "step": step, "done": None, "rank": rank}))
    if rank == 0:
        say(os.environ["ENVIRONMENT"])
    beat("forward", 1)
    Path(os.environ["PIDS"], str(rank)).write_text(str(os.getpid()))
    while len(list(Path(os.environ["PIDS"]).iterdir())) < 2:
        time.sleep(0.05)
"""


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """The process ids that two ranks have left; afterwards none of them is alive."""
    monkeypatch.setenv("PIDS", str(tmp_path))
    monkeypatch.setenv("ENVIRONMENT", json.dumps({"environment": asdict(ENVIRONMENT)}))
    yield lambda: [int(path.read_text()) for path in tmp_path.iterdir()]


def ranks_that(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", textwrap.dedent(BEGINNING) + textwrap.dedent(program))


def test_a_rank_that_dies_is_named_and_takes_the_others_along(
    pids: Callable[[], list[int]],
) -> None:
    program = """
        if rank == 1:
            beat("backward", 2)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    """
    record = measure_case(case(), timeout_seconds=100.0, child=ranks_that(program))
    m = record.measurement
    assert m.status == "crash" and m.failure is not None
    assert m.failure.reason == "rank 1 was ended by signal 9 and left no result"
    told = (m.failure.rank, m.failure.phase, m.failure.step, m.failure.exit_code)
    assert told == (1, "backward", 2, -9)
    assert [r.exit_code for r in m.ranks] == [None, -9]
    assert len(pids()) == 2
    wait_for_the_end_of(*pids())
    assert problems(record) == []


def test_a_rank_that_hangs_is_named_and_none_is_left(
    pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit passes when both were heard of, and the first has come further."""
    program = """
        while rank == 0:
            beat("backward", 1)
            time.sleep(0.1)
        time.sleep(600)
    """
    ranks, keep = set(), runner._Ended.keep

    def keep_too(ended: Any, heartbeat: Heartbeat) -> bool:
        ranks.add(heartbeat.rank)
        return keep(ended, heartbeat)

    monkeypatch.setattr(runner._Ended, "keep", keep_too)
    progress = time_limit.passes(lambda h: h.phase == "backward" and 1 in ranks, monkeypatch)
    record = measure_case(case(), progress=progress, child=ranks_that(program))
    m = record.measurement
    assert m.status == "timeout" and m.failure is not None
    assert "rank 1" in m.failure.reason
    assert (m.failure.rank, m.failure.phase, m.failure.step) == (1, "forward", 1)
    assert len(pids()) == 2
    wait_for_the_end_of(*pids())


def test_a_rank_that_failed_leaves_at_once(tmp_path: Path) -> None:
    """Its record is there, and nothing that runs at the end of a process, such as NCCL's
    destructor, can wait for the others."""
    program = """
        import atexit, sys, time
        from lora_profiler.measuring.harness.worker import main
        atexit.register(time.sleep, 600)
        print("its last words", end="")
        sys.exit(main(sys.argv[1:]))
    """
    no_device = replace(FULL, device="xpu", world_size=1, sharding="none")
    asked, result = tmp_path / "case.json", tmp_path / "result.json"
    asked.write_text(json.dumps(case_dict(make_case(Workload(model=MODEL, setup=no_device)))))
    command = [sys.executable, "-c", textwrap.dedent(program), str(asked), str(result)]
    environment = {**os.environ, "RANK": "1", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "its last words")
    record = record_from_dict(json.loads(rank_result(asked, 1).read_text()))
    assert record.measurement.status == "unsupported" and not result.exists()


def test_ranks_end_with_a_launcher_that_is_killed(pids: Callable[[], list[int]]) -> None:
    program = "os.kill(os.getppid(), signal.SIGKILL) if rank == 0 else None\ntime.sleep(600)"
    record = measure_case(case(), timeout_seconds=100.0, child=ranks_that(program))
    assert record.measurement.status == "crash"
    assert len(pids()) == 2
    wait_for_the_end_of(*pids())


def of_rank(status: str, reason: str, peak: int) -> Record:
    workload = Workload(model=MODEL, setup=FULL)
    failure = None if status == "ok" else Failure(reason=reason, phase="backward", step=1)
    return make_record(workload, status=status, failure=failure, peak_requested_bytes=peak)


def together(told: dict[int, Any], exits: dict[int, int], was_killed: bool = False) -> Record:
    """The record of records of ranks, None of one that left none, and of exit codes."""
    environment = of_rank("ok", "", 1).environment
    return gathered(case(), told, exits, was_killed, lambda: environment)


CLOSED = "RuntimeError: Connection closed by peer"
OF_GLOO = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer"


@pytest.mark.parametrize(
    ("records", "exits", "status"),
    [
        ({0: ("crash", CLOSED), 1: ("oom", "out of memory")}, {0: 1, 1: 1}, "oom"),
        ({0: ("crash", OF_GLOO)}, {0: 1, 1: -11}, "crash"),
        ({0: ("crash", OF_GLOO), 1: ("crash", "ValueError: its own")}, {0: 1, 1: 1}, "crash"),
        ({0: ("ok", "")}, {}, "crash"),
        ({0: ("ok", ""), 1: ("invalid", "the loss is nan at step 1")}, {1: 1}, "invalid"),
    ],
)
def test_the_first_cause_is_the_failure(
    records: dict[int, tuple[str, str]], exits: dict[int, int], status: str
) -> None:
    told = {r: of_rank(*records[r], 1000 + r) if r in records else None for r in (0, 1)}
    m = together(told, exits).measurement
    assert m.failure is not None
    assert (m.status, m.failure.rank) == (status, 1)
    assert "rank 1" in m.failure.reason


def test_memory_that_the_kernel_took_back_is_host_oom() -> None:
    m = together({0: None, 1: None}, {1: -signal.SIGKILL}, was_killed=True).measurement
    assert m.status == "host_oom"


def test_other_losses_than_those_of_one_process_make_a_record_invalid() -> None:
    record = together({r: of_rank("ok", "", 9) for r in (0, 1)}, {})
    losses = record.measurement.loss
    assert with_reference(record, losses).measurement.status == "ok"
    wrong = with_reference(record, (losses[0], losses[1] * (1 + 1e-5))).measurement
    assert wrong.status == "invalid"
    assert wrong.failure is not None and "at step 2" in wrong.failure.reason
    unchecked = with_reference(record, ()).measurement
    assert unchecked.status == "ok" and "losses_not_compared" in unchecked.flags


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharding", ["zero1-deepspeed", "zero2", "zero3", "fsdp1"])
def test_shardings_that_nothing_here_runs_are_refused(sharding: Any) -> None:
    with pytest.raises(
        UsageError, match=f"sharding {sharding} cannot be measured.*; take ddp, zero1, fsdp"
    ):
        refuse(Workload(model=MODEL, setup=replace(FULL, sharding=sharding)), Conditions())


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "adafactor"])
def test_states_that_cannot_be_shared_are_refused(optimizer: Optimizer) -> None:
    with pytest.raises(UsageError, match="use --optimizer adamw or sgd, or --sharding ddp"):
        refuse(Workload(model=MODEL, setup=replace(FULL, optimizer=optimizer)), Conditions())
    refuse(
        Workload(model=MODEL, setup=replace(FULL, optimizer=optimizer, sharding="ddp")),
        Conditions(),
    )


def test_more_ranks_than_devices_are_refused() -> None:
    setup = replace(FULL, device="cuda")
    with pytest.raises(
        MeasurementError, match="2 ranks need a CUDA device each, and 1 can be seen here"
    ):
        refuse(Workload(model=MODEL, setup=setup), Conditions(), devices=lambda: 1)
    refuse(Workload(model=MODEL, setup=setup), Conditions(), devices=lambda: 2)


def test_4_bit_weights_of_another_dtype_are_refused() -> None:
    config = dict(MODEL.published) | {"quantization_config": {"bnb_4bit_quant_storage": "uint8"}}
    packed = replace(MODEL, published=config)
    setup = replace(LORA, quantization=Quantization())
    with pytest.raises(
        UsageError, match=r"FSDP cannot shard these 4-bit weights \(uint8\) with float32"
    ):
        refuse(Workload(model=packed, setup=setup), Conditions(weights="hub"))
    refuse(Workload(model=packed, setup=setup), Conditions())


def test_two_numbers_of_ranks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "gpt2", "--nproc", "2", "--world-size", "3", "--sharding", "ddp"]
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "--nproc 2 and --world-size 3 are not one number" in capsys.readouterr().err


def test_a_checker_finds_what_does_not_hold_together() -> None:
    record = gathered(
        case(),
        {r: of_rank("ok", "", 9) for r in (0, 1)},
        {},
        False,
        lambda: of_rank("ok", "", 1).environment,
    )
    whole = with_reference(record, record.measurement.loss)
    about_ranks = lambda r: [p for p in problems(r) if "rank" in p]  # noqa: E731  # short for this test
    assert about_ranks(whole) == []
    for change in (
        {"ranks": whole.measurement.ranks[:1]},
        {"peak_requested_bytes": 10},
        {"reference_loss": ()},
    ):
        assert about_ranks(replace(whole, measurement=replace(whole.measurement, **change)))  # type: ignore[arg-type]
