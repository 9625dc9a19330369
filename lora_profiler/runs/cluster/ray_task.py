"""What runs inside a Ray worker. Workers live on from task to task, so that each case gets the
process of its own that it gets anywhere: the worker starts it, waits, and hands its record back as
JSON. Nothing here imports Ray or torch.
"""

import json
import os
import platform
from collections.abc import Iterator
from typing import Any

from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.harness import environment_of, measure_case
from lora_profiler.measuring.harness.case import case_from_dict
from lora_profiler.measuring.harness.environment import packages
from lora_profiler.measuring.records.serialize import record_dict


def versions() -> dict[str, str]:
    """Of Python and of what a record names, as this worker would import them."""
    return {"python": platform.python_version(), **packages()}


def environment_key(device: str, ranks: bool, cpus: int) -> str:
    """Of a case that trains on `device` here, with several ranks or not. Raises
    MeasurementError."""
    _give_threads(cpus)
    return environment_of(device, ranks=ranks).key


def measured(
    case_text: str, timeout_seconds: float, cpus: int, child: tuple[str, ...] | None
) -> Iterator[str]:
    """Two JSON objects: {"worker"} with this process's id when the case begins; then {"worker",
    "record"}, or {"worker", "refused"} with the reason where it cannot run here. `child` stands in
    for the measured process in tests.

    Two whatever happens, since Ray skips as many of a task that it runs again as were handed out
    before its worker was lost.
    """
    worker = os.getpid()
    yield json.dumps({"worker": worker})
    _give_threads(cpus)
    options: dict[str, Any] = {} if child is None else {"child": child}
    try:
        record = measure_case(
            case_from_dict(json.loads(case_text)), timeout_seconds=timeout_seconds, **options
        )
    except LoraProfilerError as e:
        yield json.dumps({"worker": worker, "refused": str(e)})
    else:
        yield json.dumps({"worker": worker, "record": record_dict(record)}, allow_nan=False)


def _give_threads(cpus: int) -> None:
    """Ray sets the variable too, to what it gave the first task of a worker."""
    os.environ["OMP_NUM_THREADS"] = str(cpus)
