"""`measure`: one case in one fresh process. The parent never imports torch, makes no context on the
device, and waits asleep.

Whatever happens to the child becomes a record: a result that it wrote, or what its exit code, its
last heartbeat and its log tell. Only the process group that was started here is ever ended.
"""

import contextlib
import json
import os
import platform
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.measuring.harness.case import Case, make_case, write_case
from lora_profiler.measuring.harness.environment import without_paths
from lora_profiler.measuring.harness.machine import oom_kills
from lora_profiler.measuring.harness.preflight import (
    MeasurementError,
    allocator_settings,
    refuse_on_this_machine,
)
from lora_profiler.measuring.harness.pretended import LIMITS, RUN_VARIABLE, Pretended, unknown_card
from lora_profiler.measuring.harness.process import (
    CHILD,
    PARENT_VARIABLE,
    SPIN_VARIABLE,
    end_group,
    is_crowded,
    python_path,
)
from lora_profiler.measuring.records.locks import WorkingFolder
from lora_profiler.measuring.records.record import (
    Conditions,
    Device,
    Environment,
    Failure,
    Measurement,
    Readings,
    Record,
    Status,
    now,
    readings_from_dict,
)
from lora_profiler.measuring.records.serialize import RecordError, decoded, record_from_dict
from lora_profiler.question.workload import Workload

TERMINATE_SECONDS = 10.0
"""What a child has between SIGTERM and SIGKILL."""
LOG_BYTES = 4000
DEFAULT_TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Where a child stands: a stage before the first step or a phase of a step, and steps done of a
    timing pass; which of several ranks it is, and what it read since it last said so."""

    phase: str
    step: int | None = None
    done: int | None = None
    rank: int | None = None
    read: Readings = field(default_factory=Readings)


class MeasurementInterrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal that is taken for it, while a child ran; `record` tells where it
    stood."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record


def measure(
    workload: Workload,
    conditions: Conditions | None = None,
    *,
    weights: str | None = None,
    text: str | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    progress: Callable[[Heartbeat], None] = lambda heartbeat: None,
) -> Record:
    """Trains `workload` for real in a fresh process and returns what was measured; running out of
    memory is a result.

    weights: None for random ones built from the config, "hub", a folder or a .gguf file; text: a
    file to train on instead of random tokens.

    Raises UsageError or MeasurementError for what is refused before a process starts,
    MeasurementInterrupted on Ctrl-C.

    Examples:
        >>> from lora_profiler import Conditions, TrainSetup, Workload, find_model, measure
        >>> model = find_model("EleutherAI/pythia-14m")
        >>> setup = TrainSetup(seq_len=128, device="cpu")
        >>> record = measure(Workload(model=model, setup=setup), Conditions(min_timed_steps=0))
        >>> record.measurement.peak_requested_bytes
        165302104
    """
    for name, given in (("weights", weights), ("text", text)):
        if given is None and conditions and (said := getattr(conditions, name)) != "random":
            raise UsageError(f"conditions name {name} {said!r}; add {name}={said!r} to measure().")
    case = make_case(workload, conditions, weights=weights, text=text)
    return measure_case(case, timeout_seconds=timeout_seconds, progress=progress)


def measure_case(
    case: Case,
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    progress: Callable[[Heartbeat], None] = lambda heartbeat: None,
    result_path: Path | None = None,
    child: tuple[str, ...] = CHILD,
    pretended: Pretended | None = None,
) -> Record:
    """`measure` for a case; `result_path` is where the child leaves its record, so that it survives
    this process. With `pretended` it is a rehearsed record of that card.

    A result that cannot be read stays beside it, as NAME.unreadable.json.
    """
    refuse_on_this_machine(case.workload, case.conditions, pretended)
    child = pretended.child if pretended else child
    started = now()
    with WorkingFolder() as folder:
        result = result_path or Path(folder) / "result.json"
        case_path = Path(folder) / "case.json"
        write_case(case_path, case)
        with open(Path(folder) / "log", "w+b") as log:
            command = [*_launcher(case, child), *child, str(case_path), str(result)]
            variables = child_environment(case.weights, pretended)
            if pretended is not None:
                variables[RUN_VARIABLE] = str(folder)
            ended = _run(command, log, timeout_seconds, progress, variables)
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            tail = log.read().decode("utf-8", "replace")
        if result.exists():
            try:
                return _with_whereabouts(
                    record_from_dict(json.loads(result.read_text("utf-8"))), ended
                )
            except (LoraProfilerError, ValueError, RecursionError) as e:
                ended.unreadable = str(e)
                result.replace(result.with_suffix(".unreadable.json"))
    record = _failed(case, ended, tail, started, pretended)
    if ended.interrupted:
        raise MeasurementInterrupted(record)
    return record


def _launcher(case: Case, child: tuple[str, ...]) -> tuple[str, ...]:
    """What stands before the child's command where there are to be several of them."""
    count = case.workload.setup.world_size
    own = child if child[1:] == CHILD[1:] else CHILD
    return () if count == 1 else (*own, "--ranks", str(count))


def _with_whereabouts(record: Record, ended: "_Ended") -> Record:
    """`record`, which its launcher left, with where the rank stood that died without a word."""
    failure = record.measurement.failure
    heard = (
        ended.ranks.get(failure.rank) if failure is not None and failure.rank is not None else None
    )
    if failure is None or failure.phase is not None or not heard:
        return record
    stood = replace(failure, phase=heard[-1].phase, step=heard[-1].step)
    return replace(record, measurement=replace(record.measurement, failure=stood))


def environment_of(
    device: str, *, ranks: bool = False, pretended: Pretended | None = None
) -> Environment:
    """The environment of a child that trains on `device`, asked of one, since only there torch is
    imported; of one of several `ranks`, to which torchrun gives one thread each unless told
    otherwise; of one that rehearses where `pretended` says.

    Raises MeasurementError where not even that runs.
    """
    command = [*(pretended.child if pretended else CHILD), "--environment", device]
    env = child_environment(None, pretended)
    if ranks:
        env.setdefault("OMP_NUM_THREADS", "1")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=env, check=False
        )
        environment: Environment = decoded(
            Environment, json.loads(done.stdout.splitlines()[-1]), "environment"
        )
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, RecordError) as e:
        raise MeasurementError(
            f"a process that measures on {device} could not be started: {e}"
        ) from None
    return environment


@dataclass(slots=True)
class _Ended:
    """How a child ended: its exit code (negative: the signal), and what was heard of it.
    `unreadable`: why its result is none."""

    exit_code: int = 0
    timed_out: bool = False
    interrupted: bool = False
    killed_for_memory: bool = False
    unreadable: str | None = None
    last: Heartbeat = Heartbeat(phase="start")
    ranks: dict[int, list[Heartbeat]] = field(default_factory=dict)
    environment: Any = None

    def keep(self, heartbeat: Heartbeat) -> bool:
        """Keeps it; whether it speaks for the case: of several ranks the first does."""
        if heartbeat.rank is not None:
            self.ranks.setdefault(heartbeat.rank, []).append(heartbeat)
        if heartbeat.rank:
            return False
        self.last = heartbeat
        return True

    def furthest_behind(self, world_size: int) -> Heartbeat | None:
        """Where the one rank stands that has come less far than all others; None if there is no
        such rank."""
        if world_size == 1 or self.last.phase == "reference":
            return None
        first, second, *_ = sorted(range(world_size), key=self._progress_of)
        if self._progress_of(first) == self._progress_of(second):
            return None
        heard = self.ranks.get(first)
        return heard[-1] if heard else Heartbeat(phase="start", rank=first)

    def _progress_of(self, rank: int) -> int:
        return len(self.ranks.get(rank, ()))


def _run(
    command: list[str],
    log: IO[bytes],
    timeout_seconds: float,
    progress: Callable[[Heartbeat], None],
    env: Mapping[str, str],
) -> _Ended:
    ended = _Ended()
    kills = oom_kills()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
        env=env,
    )
    news: queue.SimpleQueue[Heartbeat | None] = queue.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(process, news, ended), daemon=True)
    try:  # from here on, so that an interrupt that comes at once is a result too
        listener.start()
        threading.Thread(target=_await_end, args=(process, news), daemon=True).start()
        deadline = time.monotonic() + timeout_seconds
        while True:
            heartbeat = news.get(timeout=max(0.0, deadline - time.monotonic()))
            if heartbeat is None:
                break
            progress(heartbeat)
    except queue.Empty:
        ended.timed_out = True
    except KeyboardInterrupt:
        ended.interrupted = True
    finally:
        end_group(process, (signal.SIGTERM, TERMINATE_SECONDS))
        if listener.ident is not None:
            listener.join(timeout=1.0)
    ended.exit_code = process.returncode
    after = oom_kills()
    ended.killed_for_memory = (
        process.returncode == -9 and kills is not None and after is not None and after > kills
    )
    return ended


def child_environment(weights: str | None, pretended: Pretended | None = None) -> dict[str, str]:
    """This process's environment, the package importable, and the allocator's settings under both
    of their names; what a pretended card takes on top."""
    env = {
        **os.environ,
        "PYTHONPATH": python_path(),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "USE_HUB_KERNELS": "NO",  # of transformers: predictions are without them
        PARENT_VARIABLE: str(os.getpid()),
    }
    settings = allocator_settings(env)
    if settings:  # torch 2.9 read some of them under the old name only
        env["PYTORCH_ALLOC_CONF"] = env["PYTORCH_CUDA_ALLOC_CONF"] = settings
    if is_crowded():
        env.setdefault(SPIN_VARIABLE, "0")
    if weights != "hub":
        env["HF_HUB_OFFLINE"] = "1"
    if pretended is not None:
        env |= pretended.variables
        places = (pretended.variables["PYTHONPATH"], os.environ.get("PYTHONPATH"))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        env.pop("CUDA_VISIBLE_DEVICES", None)
    return env


def _listen(
    process: "subprocess.Popen[bytes]", news: "queue.SimpleQueue[Heartbeat | None]", ended: _Ended
) -> None:
    """Passes heartbeats on, and keeps the last one."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            try:
                message = json.loads(line)
                if "phase" in message:
                    heard = Heartbeat(
                        phase=str(message["phase"]),
                        step=message["step"],
                        done=message["done"],
                        rank=message.get("rank"),
                        read=readings_from_dict(message.get("read", {})),
                    )
                    if ended.keep(heard):
                        news.put(heard)
                elif "measurement" not in message:
                    ended.environment = message["environment"]
            except (ValueError, KeyError, TypeError):  # not ours
                continue


def _await_end(
    process: "subprocess.Popen[bytes]", news: "queue.SimpleQueue[Heartbeat | None]"
) -> None:
    """Says with None that the child has ended. It is not reaped here: its group keeps its number
    until it has been ended."""
    if hasattr(os, "waitid"):
        # ended and reaped by the other thread, which then hears nothing new
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()
    news.put(None)


def _failed(
    case: Case, ended: _Ended, log: str, started: str, pretended: Pretended | None
) -> Record:
    status: Status = "crash"
    reason = f"the measured process ended with exit code {ended.exit_code} and left no result"
    last, rank = ended.last, None
    if ended.interrupted:
        status, reason = "interrupted", "interrupted from outside"
    elif ended.timed_out:
        status, reason = "timeout", "the time limit passed; the process was ended"
        behind = ended.furthest_behind(case.workload.setup.world_size)
        if behind is not None:
            last, rank = behind, behind.rank
            reason = (
                f"the time limit passed while all waited for rank {rank}; the processes were ended"
            )
    elif ended.killed_for_memory:
        status = "host_oom"
        reason = "the kernel ended the process because the machine ran out of memory"
    elif ended.unreadable is not None:
        reason = without_paths(
            f"the measured process left a result that cannot be read: {ended.unreadable}"
        )[:600]
    elif ended.exit_code < 0:
        reason = f"the measured process was ended by signal {-ended.exit_code}"
    failure = Failure(
        reason=reason,
        phase=last.phase,
        step=last.step,
        exit_code=ended.exit_code,
        rank=rank,
        log=without_paths(log)[-1500:] or None if status == "crash" else None,
    )
    return Record(
        workload=case.workload,
        conditions=case.conditions,
        environment=_environment(case, ended, pretended),
        measurement=Measurement(status=status, failure=failure),
        repeat=case.repeat,
        started_at=started,
        ended_at=now(),
    )


def _environment(case: Case, ended: _Ended, pretended: Pretended | None) -> Environment:
    if ended.environment is not None:
        with contextlib.suppress(RecordError):
            environment: Environment = decoded(Environment, ended.environment, "environment")
            return environment
    device = case.workload.setup.device
    try:
        ranks = case.workload.setup.world_size > 1
        return environment_of(device, ranks=ranks, pretended=pretended)
    except MeasurementError:
        return Environment(
            python=platform.python_version(),
            platform=platform.platform(),
            packages={},
            device=unknown_card() if pretended else Device(kind=device, name="unknown"),
            command=case.command,
            limits=LIMITS if pretended else (),
        )
