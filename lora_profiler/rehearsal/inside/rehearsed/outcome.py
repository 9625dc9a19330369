"""One process' result, as JSON beside those of the other ranks."""

import json
import os
import pickle
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from . import kernels
from .changes import CHANGED
from .flash_attention import FLASH_STOOD_IN
from .history import Log, find_leak, held, held_at_peak, name_pieces, play
from .hub_kernels import PLAIN_KERNELS, STOOD_IN_KERNELS
from .kernels_by_name import attention_kernels, runs_convolutions, runs_recurrent
from .peaks import COUNTERS, Key, Peaks
from .settings import Settings
from .tensors import Owner
from .tokens import DATA_STOOD_IN, NOT_FOUND, TEXTS, TOKENIZER
from .trained_model import training_summary
from .values import DECOMPOSED, LARGEST_CASE, LAST_READ
from .weights import STOOD_IN

SCHEMA = 1
_MANY_KERNELS = 15
_REFUSED = (
    "compute capability",
    "no kernel image",
    "not supported on",
    "only supported on",
    "only supported for",
    "enough GPU RAM to fit",  # transformers, of a quantised model that device_map would offload
)


class Run(Protocol):
    """What a recorder knows at the end. `owners`: of storages, by address; `head`: the module that
    makes the logits; `launches`: (kernels, library calls) of each step."""

    settings: Settings
    peaks: Peaks
    steps_done: int
    started: float
    optimizers: list[torch.optim.Optimizer]
    inputs: dict[str, list[int]]
    input_bytes: int
    autocast: str | None
    holds_outputs: bool
    holds_cache: bool
    backward_passes: int
    owners: dict[int, Owner]
    head: str
    out_of_memory: dict[str, Any] | None
    launches: list[tuple[int, int]]
    kernel_names: dict[str, int]

    @property
    def is_done(self) -> bool: ...


def write(run: Run, status: str, error: Mapping[str, Any] | None) -> None:
    """Whole or not there."""
    settings = run.settings
    _put(_path(settings), _document(run, status, error))


def add_work(settings: Settings, work: Mapping[str, Any]) -> None:
    """What the step after those that were asked for runs, or why it is not known."""
    path = _path(settings)
    _put(path, json.loads(path.read_text("utf-8")) | {"work": work})


def _path(settings: Settings) -> Path:
    return settings.folder / f"result-{settings.rank}-{os.getpid()}.json"


def _put(path: Path, document: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(document), "utf-8")
    os.replace(partial, path)


def _document(run: Run, status: str, error: Mapping[str, Any] | None) -> dict[str, Any]:
    snapshot = torch.cuda.memory._snapshot()
    if run.settings.snapshot is not None and run.settings.rank == 0:
        with open(run.settings.snapshot, "wb") as file:
            pickle.dump(snapshot, file)
    device = _busiest(run.peaks)
    log = (
        play(snapshot["device_traces"][device])
        if device < len(snapshot["device_traces"])
        else Log([], {}, {})
    )
    of_device = run.peaks.of.get(device, {})
    count = torch.cuda.device_count()
    return {
        "schema": SCHEMA,
        "status": status,
        "rank": run.settings.rank,
        "world_size": run.settings.world_size,
        "torch": torch.__version__,
        "device": _device(device),
        "other_devices": {
            str(other): _largest(peaks.values())
            for other, peaks in run.peaks.of.items()
            if other != device and other < count
        },
        "steps": run.steps_done,
        "seconds": round(time.time() - run.started, 1),
        "peaks": _peaks(of_device),
        "phases": [
            {"step": step, "phase": phase, **peaks}
            for (step, phase), peaks in sorted(of_device.items())
        ],
        "second_count": _second_count(of_device, log),
        "retries": run.peaks.retries(device),
        "held": _held(run, log),
        "leak": find_leak(log, run.steps_done),
        "launches": [
            {"kernels": launched, "library_calls": called} for launched, called in run.launches
        ],
        "attention": attention_kernels(run.kernel_names),
        "convolutions": runs_convolutions(run.kernel_names),
        "recurrent": runs_recurrent(run.kernel_names),
        "kernels": dict(
            sorted(run.kernel_names.items(), key=lambda item: (-item[1], item[0]))[:_MANY_KERNELS]
        ),
        "out_of_memory": run.out_of_memory,
        "error": error,
        "largest_case": LARGEST_CASE,
        "decomposed": DECOMPOSED,
        "last_read": LAST_READ,
        "weights_of_holes": list(STOOD_IN),
        "dtypes_of_holes": STOOD_IN,
        "kernels_stood_in": list(dict.fromkeys((*FLASH_STOOD_IN, *STOOD_IN_KERNELS))),
        "kernels_of_torch": list(dict.fromkeys(PLAIN_KERNELS)),
        "data_stood_in": list(dict.fromkeys(DATA_STOOD_IN)),
        "data_sizes": TEXTS,
        "pretends_data": run.settings.pretends_data,
        "without_tokenizer": [
            name
            for name, folder in NOT_FOUND.items()  # not even after the script looked for it
            if not any(folder.glob(f"snapshots/*/{TOKENIZER[0]}"))
        ],
        "changed": CHANGED,
        "values_read": kernels.values_read(),
        "facts": {
            **training_summary(run.optimizers),
            "inputs": run.inputs,
            "input_bytes": run.input_bytes,
            "autocast": run.autocast,
            "holds_outputs": run.holds_outputs,
            "holds_cache": run.holds_cache,
            "accumulation": run.backward_passes,
        },
    }


def _busiest(peaks: Peaks) -> int:
    return max(
        peaks.of,
        key=lambda device: _largest(peaks.of[device].values())["reserved_bytes"],
        default=0,
    )


def _largest(peaks: Iterable[Mapping[str, int]]) -> dict[str, int]:
    peaks = list(peaks)
    return {counter: max((each[counter] for each in peaks), default=0) for counter in COUNTERS}


def _peaks(of_device: Mapping[Key, Mapping[str, int]]) -> dict[str, dict[str, int] | None]:
    """Before training, in the first step, in all later ones, and of the whole."""
    parts = {
        "setup": [peaks for (step, _), peaks in of_device.items() if step == 0],
        "first_step": [peaks for (step, _), peaks in of_device.items() if step == 1],
        "steady": [peaks for (step, _), peaks in of_device.items() if step > 1],
        "whole": list(of_device.values()),
    }
    return {name: _largest(peaks) if peaks else None for name, peaks in parts.items()}


def _second_count(of_device: Mapping[Key, Mapping[str, int]], log: Log) -> dict[str, Any]:
    """The requested peak by the allocator's log beside that by its counters."""
    from_log = max((peak for peak, _ in log.peaks.values()), default=0)
    return {
        "requested_bytes": from_log,
        "is_equal": from_log == _largest(of_device.values())["requested_bytes"],
    }


def _held(run: Run, log: Log) -> dict[str, Any] | None:
    """At the peak of the last step; where memory ran out, then."""
    if run.out_of_memory is not None and log.ran_out is not None and not run.is_done:
        name_pieces(log, run.owners, log.ran_out)
        key = run.out_of_memory["step"], run.out_of_memory["phase"]
        return held(log, key, log.ran_out, run.head)
    last = run.settings.steps if run.is_done else max((s for s, _ in log.peaks), default=0)
    peaks = {key: peak for key, (peak, _) in log.peaks.items() if _trains(key, last)}
    if not peaks:
        return None
    end = log.pieces[-1].born
    before_optimizer = log.spans.get((last, "optimizer"), (end + 1, 0))[0] - 1
    name_pieces(log, run.owners, before_optimizer)
    name_pieces(log, run.owners, end)
    return held_at_peak(log, max(peaks, key=lambda key: peaks[key]), run.head)


def _trains(key: Key, step: int) -> bool:
    return key[0] == step and key[1] != "evaluation"


def _device(device: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "total_bytes": properties.total_memory,
        "count": torch.cuda.device_count(),
    }


def status_of(error: BaseException) -> str:
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, torch.OutOfMemoryError):
            return "out_of_memory"
        if any(words in str(each) for words in _REFUSED):
            return "refused"
        each = each.__cause__ or each.__context__
    return "error"


def error_summary(error: BaseException) -> dict[str, Any]:
    """`where`: the innermost lines outside torch."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/torch/" not in code.co_filename and "/rehearsed/" not in code.co_filename:
            lines.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return {"type": type(error).__name__, "message": str(error), "where": lines[::-1][:4]}
