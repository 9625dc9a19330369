"""A command run over the stub libraries on a simulated card, in a process group and a folder of
its own, until its steps are done."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from lora_profiler._common.paths import hub_cache
from lora_profiler.errors import RehearsalError, UsageError
from lora_profiler.facts.catalog import Gpu
from lora_profiler.facts.catalog.gpus import processor_table
from lora_profiler.measuring.records.locks import WorkingFolder
from lora_profiler.rehearsal.build import Stubs
from lora_profiler.rehearsal.environment import is_python
from lora_profiler.rehearsal.result import OF_LAUNCHERS, Rehearsal, best_of, read_result
from lora_profiler.units import MIB

MOST_CARDS = 64
"""MOST_CARDS of stubs/device.h."""
_SIZES = {
    60: (65_536, 49_152, 2048, 32),
    70: (98_304, 98_304, 2048, 32),
    75: (65_536, 65_536, 1024, 16),
    80: (167_936, 166_912, 2048, 32),
    86: (102_400, 101_376, 1536, 16),
    89: (102_400, 101_376, 1536, 24),
    90: (233_472, 232_448, 2048, 32),
    100: (233_472, 232_448, 2048, 32),
    103: (233_472, 232_448, 2048, 32),
    120: (102_400, 101_376, 1536, 24),
    121: (102_400, 101_376, 1536, 24),
}
"""By compute capability: shared memory of a multiprocessor and of one block in bytes, threads and
blocks of a multiprocessor. Source: "Technical Specifications per Compute Capability" in NVIDIA's
CUDA programming guide."""
_USUAL_CAPABILITY, _USUAL_MULTIPROCESSORS, _USUAL_L2_MIB = 80, 108, 40
"""Of an A100, for custom:24GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretendedCard:
    """`context_bytes`: what the driver takes of it for each process, an estimate. `is_custom`: only
    its memory was given, all else is an A100's."""

    key: str
    name: str
    capability: int
    multiprocessors: int
    l2_bytes: int
    total_bytes: int
    context_bytes: int
    is_custom: bool = False

    def environment(self, count: int) -> dict[str, str]:
        """What `count` of them are told to the stub libraries by."""
        shared, shared_per_block, threads, blocks = _SIZES[self.capability]
        fields = {
            "name": self.name.replace("|", " "),
            "major": self.capability // 10,
            "minor": self.capability % 10,
            "multiprocessors": self.multiprocessors,
            "shared_per_multiprocessor": shared,
            "shared_per_block": shared_per_block,
            "threads_per_multiprocessor": threads,
            "blocks_per_multiprocessor": blocks,
            "l2_bytes": self.l2_bytes,
            "total_bytes": self.total_bytes,
            "context_bytes": self.context_bytes,
        }
        text = "|".join(f"{name}={value}" for name, value in fields.items())
        return {"LORA_PROFILER_CARD": text, "LORA_PROFILER_CARDS": str(count)}


def pretended(gpu: Gpu, context_bytes: int) -> PretendedCard:
    """Raises UsageError for a card that runs no CUDA, or of no fixed size."""
    usable = gpu.usable_bytes
    is_custom = gpu.vendor == "custom"
    capability = _USUAL_CAPABILITY if is_custom else gpu.capability
    if gpu.vendor not in ("custom", "nvidia") or capability not in _SIZES or usable is None:
        raise UsageError(
            f"{gpu.key} cannot be simulated; a rehearsal runs torch's CUDA build, for NVIDIA GPUs."
        )
    multiprocessors, l2_mib = processor_table().get(
        gpu.key, (_USUAL_MULTIPROCESSORS, _USUAL_L2_MIB)
    )
    return PretendedCard(
        key=gpu.key,
        name=gpu.name,
        capability=capability,
        multiprocessors=multiprocessors,
        l2_bytes=l2_mib * MIB,
        total_bytes=usable,
        context_bytes=context_bytes,
        is_custom=is_custom,
    )


_TIMES_MORE = 8
"""Rows of a second run."""
_GRACE_SECONDS = 5
"""Between asking a process group to end and ending it."""
_GUARD = "import os, sys; os.read(0, 1); os.killpg(int(sys.argv[1]), 9)"
"""Reads from a pipe that ends when this process does, also when it is killed; then no process of
the script's group is left. A signal by the kernel would reach the first of them alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`is_online`: the hub may be asked for configs and tokenizers that are missing; never for
    weights of a model whose config is here. `pretends_data`: missing tokenizers and data sets are
    stood in for, these with `columns`, () to read them off the script, `rows` and texts of
    `tokens`, on average with `varied_lengths`. `with_work`: one more step is run, whose kernels are
    written down for its time. `changes`: names of settings of transformers' arguments that are
    others than the script's. `minutes`: after which the script is ended, with all that it
    started."""

    command: tuple[str, ...]
    python: Path
    card: PretendedCard
    count: int = 1
    steps: int = 3
    snapshot: Path | None = None
    is_online: bool = False
    pretends_data: bool = False
    columns: tuple[str, ...] = ()
    rows: int = 512
    tokens: int = 1024
    varied_lengths: bool = False
    with_work: bool = False
    changes: tuple[str, ...] = ()
    minutes: float | None = None


def rehearse(request: Request, stubs: Stubs, output: int) -> list[Rehearsal]:
    """Results of all ranks, rank by rank; where simulated data ended before the steps were done,
    those of a second run with more rows. `output`: the descriptor where the script's own output
    goes.

    Raises RehearsalError where the script wrote none, KeyboardInterrupt after it has ended all that
    it started."""
    began = time.monotonic()
    results = _rehearse_once(request, stubs, output)
    if not any(each.ran_out_of_rows for each in results):
        return results
    left = request.minutes and max(request.minutes - (time.monotonic() - began) / 60, 0.0)
    more = replace(request, rows=_TIMES_MORE * request.rows, minutes=left)
    return _rehearse_once(more, stubs, output)


def _rehearse_once(request: Request, stubs: Stubs, output: int) -> list[Rehearsal]:
    with WorkingFolder() as name:
        folder = Path(name)
        _link_hub_cache(folder / "hub")
        environment = _environment(request, stubs, folder)
        try:
            code = _run(words_of(request), environment, output, request.minutes)
        except subprocess.TimeoutExpired:
            within = f"was still running after {request.minutes:g} minutes (--minutes)"
            raise RehearsalError(f"{' '.join(request.command)} {within}{_when(folder)}.") from None
        results = [read_result(path) for path in sorted(folder.glob("result-*.json"))]
        if not results or (code and all(each.left_early for each in results)):
            raise RehearsalError(_ended(request, folder, code))
    return best_of(results)


def _ended(request: Request, folder: Path, code: int) -> str:
    """How a command ended that left no result, and what to do."""
    by_signal = f"was ended by signal {-code} ({_signal_name(-code)})"
    how = by_signal if code < 0 else f"ended with exit code {code}"
    sentences = [f"{' '.join(request.command)} {how}{_when(folder)}."]
    if code == -signal.SIGKILL:
        sentences.append("SIGKILL often means that this machine's own memory ran out.")
    failures = [json.loads(path.read_text("utf-8")) for path in folder.glob("failure-*.json")]
    own = [each for each in failures if each["type"] not in OF_LAUNCHERS] or failures
    if own:
        failure = own[0]
        sentences.append(f"Its own error: {failure['type']}: {failure['message']}")
        if failure["missing_module"]:
            sentences.append(f"Install its package: `{request.python} -m pip install NAME`")
        elif failure["is_of_network"] and not request.is_online:
            sentences.append("Without --online nothing is downloaded.")
    return "\n".join(sentences)


def _when(folder: Path) -> str:
    steps = [int(path.read_text("utf-8")) for path in folder.glob("steps-*")]
    return f" before step {max(steps) + 1}" if steps else " before it used the GPU"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of real time
        return "of real time"


def words_of(request: Request) -> list[str]:
    """What to run: a name without a path is the environment's own Python, torchrun, accelerate or
    trl. Raises RehearsalError."""
    first, *rest = request.command
    if os.sep not in first:
        if is_python(first):
            return [str(request.python), *rest]
        beside = request.python.with_name(first)
        if beside.exists():
            return [str(beside), *rest]
    if shutil.which(first) is None:
        raise RehearsalError(f"There is no command {first}.")
    return [first, *rest]


def _environment(request: Request, stubs: Stubs, folder: Path) -> dict[str, str]:
    settings = {
        "steps": request.steps,
        "snapshot": str(request.snapshot.absolute()) if request.snapshot else None,
        "models": str(files("lora_profiler.facts.catalog") / "data" / "models.json"),
        "pretends_data": request.pretends_data,
        "columns": request.columns,
        "rows": request.rows,
        "tokens": request.tokens,
        "varied_lengths": request.varied_lengths,
        "with_work": request.with_work,
        "changes": request.changes,
    }
    environment = dict(os.environ)
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    environment |= over_stubs(stubs, request.card, request.count)
    environment |= {
        "PYTHONPATH": _before(environment["PYTHONPATH"], os.environ, "PYTHONPATH"),
        "PATH": _before(str(request.python.parent), environment, "PATH"),
        "LORA_PROFILER_RUN": str(folder),
        "LORA_PROFILER_RUN_SETTINGS": json.dumps(settings),
        "HF_HUB_CACHE": str(folder / "hub"),
        "WANDB_MODE": "disabled",  # three steps without values are no run for anybody's records
    }
    if not request.is_online:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


def over_stubs(stubs: Stubs, card: PretendedCard, count: int) -> dict[str, str]:
    """Variables that put a process over the stub libraries, with `count` such cards. PYTHONPATH is
    what has to stand before the process' own."""
    variables = card.environment(count) | {
        "PYTHONPATH": str(files("lora_profiler.rehearsal") / "inside"),
        "TRITON_LIBCUDA_PATH": str(stubs.folder),
    }
    libraries = [str(path) for path in stubs.libraries]
    if re.search(r"\s", str(stubs.folder)):  # LD_PRELOAD would be split there
        libraries = [path.name for path in stubs.libraries]
        variables["LD_LIBRARY_PATH"] = _before(str(stubs.folder), os.environ, "LD_LIBRARY_PATH")
    return variables | {"LD_PRELOAD": _before(":".join(libraries), os.environ, "LD_PRELOAD")}


def _before(first: str, environment: Mapping[str, str], name: str) -> str:
    return f"{first}:{environment[name]}" if environment.get(name) else first


def _link_hub_cache(folder: Path) -> None:
    """This run's view of the user's cache of the hub: what is added to it goes with the run."""
    folder.mkdir()
    for entry in Path(hub_cache()).glob("*--*"):
        (folder / entry.name).symlink_to(entry.absolute())


def _run(
    command: Sequence[str], environment: Mapping[str, str], output: int, minutes: float | None
) -> int:
    """Raises subprocess.TimeoutExpired."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    with _ended_with(process), _guarded(process.pid):
        return process.wait(None if minutes is None else 60 * minutes)


@contextmanager
def _guarded(group: int) -> Iterator[None]:
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(group)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()  # before its pipe is closed
        guard.communicate()


@contextmanager
def _ended_with(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Whatever happens inside, nobody of the process' group is left after it: launchers leave
    workers, and loaders theirs."""
    try:
        yield
    except BaseException:
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        raise
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
