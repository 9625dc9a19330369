"""The launcher of a case with several ranks: `python -m lora_profiler.harness.entry --ranks N
CHILD... CASE RESULT`.

It starts N measuring children under torchrun, each with CASE, and a last one alone, which trains on
the same global data and whose losses theirs must equal; then it leaves one record. A rank that
fails ends the others: torchrun sees to that.
"""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lora_profiler.errors import LoraProfilerError
from lora_profiler.harness.case import Case, case_dict, case_from_dict
from lora_profiler.harness.environment import environment
from lora_profiler.harness.gather import gathered, rank_result, with_reference
from lora_profiler.harness.machine import oom_kills
from lora_profiler.harness.process import CHILD, PARENT_VARIABLE
from lora_profiler.records.atomic_write import write_durably
from lora_profiler.records.record import Record, now
from lora_profiler.records.serialize import record_dict, record_from_dict


def main(arguments: Sequence[str]) -> int:
    count, *child, case_path, result_path = arguments[1:]
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # the children's
    case = case_from_dict(json.loads(Path(case_path).read_text("utf-8")))
    started = now()
    kills = oom_kills()
    exits = _run_ranks(int(count), [*child, case_path, result_path])
    killed = (oom_kills() or 0) > (kills or 0)
    records = {rank: _read(rank_result(Path(case_path), rank)) for rank in range(int(count))}
    whole = gathered(
        case,
        records,
        exits,
        killed,
        lambda: environment(case.workload.setup.device, command=case.command),
    )
    record = replace(whole, started_at=started)
    if record.measurement.went_through and not record.is_rehearsed:
        _emit_phase("reference")
        record = with_reference(record, _reference_losses(case, Path(case_path)))
    record = replace(record, ended_at=now())
    write_durably(Path(result_path), json.dumps(record_dict(record), allow_nan=False))
    return 0


def _run_ranks(count: int, command: Sequence[str]) -> dict[int, int]:
    """Runs `command` once a rank; exit codes of the ranks that failed, negative for a signal, not
    of those ended for them."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = ["--standalone", "--local-addr", "127.0.0.1", "--max-restarts", "0", "--no-python"]
    try:
        run(parse_args([*options, "--nproc-per-node", str(count), *command]))  # type: ignore[no-untyped-call]
    except ChildFailedError as e:
        exits = {rank: failure.exitcode for rank, failure in e.failures.items()}
        # which torchrun sends to the others
        own = {rank: code for rank, code in exits.items() if code != -signal.SIGTERM}
        return own or exits
    return {}


def _reference_losses(case: Case, case_path: Path) -> tuple[float, ...]:
    """Of one process that trains on what all ranks trained on: their micro-batches one after
    another, accumulated. None of them where it cannot: one device may not hold what several do,
    and of adapters that it cuts PEFT draws each rank's part by itself: there the first alone, which
    a B of zeros leaves to the base."""
    setup = case.workload.setup
    accumulation = setup.accumulation * setup.batches_at_once
    alone = replace(setup, world_size=1, sharding="none", accumulation=accumulation)
    same = replace(case, workload=replace(case.workload, setup=alone))
    request, answer = case_path.with_suffix(".alone.json"), case_path.with_suffix(".losses.json")
    request.write_text(json.dumps(case_dict(same), allow_nan=False), "utf-8")
    command = [*CHILD, "--losses", str(request), str(answer)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    losses = tuple(json.loads(answer.read_text("utf-8"))) if done.returncode == 0 else ()
    return losses[:1] if setup.sharding == "tp" and setup.lora is not None else losses


def _read(path: Path) -> Record | None:
    try:
        return record_from_dict(json.loads(path.read_text("utf-8")))
    except (OSError, LoraProfilerError, ValueError):
        return None


def _emit_phase(phase: str) -> None:
    print(json.dumps({"phase": phase, "step": None, "done": None}), flush=True)
