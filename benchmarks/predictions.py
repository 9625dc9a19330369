"""Predictions of a whole suite, written down and hashed before it is measured, and whether that is
what happened.

The file is `benchmarks/predictions/SUITE.json`. Its `sha256` is that of everything else in it, as
JSON with sorted keys and no spaces. It says which version of the predictor wrote it: a later,
better one never changes what was said before the run.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import lora_profiler
from benchmarks.suites import home_device
from lora_profiler.analytic import predict
from lora_profiler.analytic.kernels import counted_kernels
from lora_profiler.catalog import find_gpu
from lora_profiler.catalog.gpus import context_of
from lora_profiler.errors import UncountedError, UsageError
from lora_profiler.gpu_platform import Platform
from lora_profiler.harness import Case
from lora_profiler.harness.environment import source
from lora_profiler.records.load import read_records
from lora_profiler.records.locks import write_durably
from lora_profiler.records.record import Record
from lora_profiler.records.serialize import workload_dict
from lora_profiler.steptime import predict_step_time

BENCHMARKS = Path(__file__).resolve().parent
PREDICTIONS, RECORDS = BENCHMARKS / "predictions", BENCHMARKS / "records"
PACKAGE = Path(lora_profiler.__file__).resolve().parent
PREDICTOR = (
    "adapters",
    "algebra",
    "analytic",
    "catalog",
    "planning",
    "support",
    "steptime",
    "features",
    "feature.py",
    "kernels.py",
    "loss.py",
    "optimizer.py",
    "gpu_platform.py",
    "model_spec.py",
    "option.py",
    "option_values.py",
    "prediction.py",
    "question",
    "workload.py",
)
"""Parts of the package that a prediction can depend on."""

Found: TypeAlias = dict[str, Any]
"""A predictions file as it was read."""


HOPPER = Platform(capability=90)
"""What the suites for CUDA are made for."""
CARDS = ("h100_sxm_80gb", "h200_sxm_141gb")
"""For which the time of a step is foretold: no step of either was ever fitted."""


def predicted(case: Case) -> dict[str, Any]:
    """One case and everything that is foretold of it, in JSON's own types."""
    workload = case.workload
    p = predict(replace(workload, platform=HOPPER) if workload.setup.device == "cuda" else workload)
    steady = {
        m.moment: {name: size for name, size in m.bytes.items() if size}
        for m in p.moments
        if m.step == "steady"
    }
    return {
        "key": case.key,
        "workload": workload_dict(case.workload),
        "conditions": asdict(case.conditions),
        "engine": p.engine,
        "peak_bytes": p.peak.total_bytes,
        "peak_moment": p.peak.moment,
        "fits": fits(case, p.peak.total_bytes),
        "exactness": p.exactness,
        "error_bound": p.error_bound,
        "attention_kernel": p.attention_kernel,
        "assumptions": list(p.assumptions),
        "parameters": asdict(p.parameters),
        "persistent_bytes": dict(p.persistent_bytes),
        "saved_activation_bytes": p.saved_activation_bytes,
        "moments": steady,
        "step1_bytes": {m.moment: m.total_bytes for m in p.moments if m.step == 1},
        "flops": None if p.flops is None else asdict(p.flops),
        "step_seconds": step_seconds(case),
    }


def step_seconds(case: Case) -> dict[str, list[float]] | None:
    """(at least, expected, at most) by card, of steps on CUDA whose kernels have rules; else
    None."""
    if case.workload.setup.device != "cuda":
        return None
    workload = replace(case.workload, platform=HOPPER)
    try:
        kernels = counted_kernels(workload)
        times = {card: predict_step_time(kernels, find_gpu(card), workload.setup) for card in CARDS}
    except (UncountedError, UsageError):
        return None
    return {
        card: [round(each, 6) for each in (time.low, time.seconds, time.high)]
        for card, time in times.items()
        if time is not None
    }


def fits(case: Case, peak_bytes: int) -> bool | None:
    """Whether the peak is foretold to fit the card that a budget emulates, beside what a CUDA
    context takes; None without one."""
    budget = case.conditions.budget_bytes
    beside = context_of("h100_sxm_80gb").most_bytes if case.workload.setup.device == "cuda" else 0
    return None if budget is None else peak_bytes + beside <= budget


def predictions(suite: str, cases: Sequence[Case]) -> Found:
    """What the present version predicts of a suite; repeats of a case have one prediction."""
    tree = source()
    body = {
        "suite": suite,
        "predicted_by": {
            "version": lora_profiler.__version__,
            "commit": tree.commit,
            "dirty": tree.dirty,
            "source_sha256": predictor_hash(),
        },
        "cases": [predicted(case) for case in {case.key: case for case in cases}.values()],
    }
    return {**body, "sha256": digest(body)}


def digest(data: Mapping[str, Any]) -> str:
    """The hash of a predictions file, its own entry left out."""
    body = {name: value for name, value in data.items() if name != "sha256"}
    return sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def predictor_hash(package: Path = PACKAGE) -> str:
    """Of every file in `PREDICTOR`, names included: equal hashes predict the same."""
    found = sha256()
    for path in sorted(path for part in PREDICTOR for path in _files(package / part)):
        found.update(
            path.relative_to(package).as_posix().encode()
            + b"\0"
            + sha256(path.read_bytes()).digest()
        )
    return found.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (
            p for p in path.rglob("*") if p.is_file() and p.suffix in (".py", ".json", ".csv")
        )


def path_of(suite: str, folder: Path = PREDICTIONS) -> Path:
    return folder / f"{suite}.json"


def write(
    suite: str, cases: Sequence[Case], folder: Path = PREDICTIONS, force: bool = False
) -> Path:
    """Writes the predictions of a suite, one case a line. Raises UsageError where there are some,
    unless `force`."""
    path = path_of(suite, folder)
    if path.exists() and not force:
        raise UsageError(
            f"{path.name} is there already; predictions made before a run are not rewritten without"
            " --force."
        )
    found = predictions(suite, cases)
    head = json.dumps({name: value for name, value in found.items() if name != "cases"}, indent=1)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in found["cases"])
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(path, head.removesuffix("\n}") + ',\n "cases": [\n' + lines + "\n]}\n")
    return path


def read(suite: str, folder: Path = PREDICTIONS) -> Found | None:
    """The predictions that were written, None where there are none. Raises ValueError for a file
    that is no JSON."""
    path = path_of(suite, folder)
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def device_of(found: Found) -> str:
    """The device that the predictions are for, which all cases of a suite share."""
    device: str = found["cases"][0]["workload"]["setup"]["device"]
    return device


# --- checks ---------------------------------------------------------------------------------------


def file_problems(found: Mapping[str, Any], cases: Sequence[Case]) -> list[str]:
    """Whether the file is as it was written, and of this suite as it is now."""
    problems = []
    if found.get("sha256") != digest(found):
        problems.append(
            "The hash is not that of the contents: the predictions were changed after they were"
            " written."
        )
    foretold, asked = {case["key"] for case in found["cases"]}, {case.key for case in cases}
    if asked - foretold:
        problems.append(
            f"{len(asked - foretold)} cases of the suite have no prediction,"
            f" {min(asked - foretold)} the first."
        )
    if foretold - asked:
        problems.append(
            f"{len(foretold - asked)} predictions are of no case of the suite,"
            f" {min(foretold - asked)} the first."
        )
    return problems


def changed_since(found: Mapping[str, Any], cases: Sequence[Case]) -> list[str]:
    """Keys of the cases of which the present version predicts something else."""
    now = {case.key: json.loads(json.dumps(predicted(case))) for case in cases}
    return [
        case["key"] for case in found["cases"] if case["key"] in now and now[case["key"]] != case
    ]


def record_problems(
    found: Mapping[str, Any], records: Sequence[Record], committed_at: datetime | None
) -> list[str]:
    """Records that say they belong to the suite but were not foretold, or began before the
    predictions were committed."""
    foretold = {case["key"] for case in found["cases"]}
    problems = [
        f"{r.id} was measured, but not predicted." for r in records if r.case_key not in foretold
    ]
    if committed_at is None:
        return problems
    for record in records:
        if record.started_at is None or datetime.fromisoformat(record.started_at) < committed_at:
            problems.append(
                f"{record.id} was started at {record.started_at}, before the predictions of"
                f" {committed_at} were there."
            )
    return problems


def records_of(suite: str, folder: Path = RECORDS) -> list[Record]:
    """Committed records that the campaign made for the suite on the device that it is made for, by
    the command that they keep.

    A rehearsal on another device measures other cases, of which nothing was foretold here.
    """
    found = [
        record for path in sorted(folder.rglob("*.jsonl")) for record in read_records(path).records
    ]
    found = [record for record in found if record.workload.setup.device == home_device(suite)]
    return [
        record
        for record in found
        if (record.environment.command or "").startswith(command_of(suite))
    ]


def command_of(suite: str) -> str:
    """What records of a campaign keep as their command, up to its options."""
    return f"python -m benchmarks.campaign run {suite} "


def committed_at(path: Path) -> datetime | None:
    """When the file as it is now was committed, by the author's clock, which a rebase keeps; None
    if it is not, or no git."""
    if _git(path.parent, "diff", "--quiet", "HEAD", "--", path.name) is None:
        return None
    stamp = _git(path.parent, "log", "-1", "--format=%aI", "--", path.name)
    return datetime.fromisoformat(stamp.strip()) if stamp and stamp.strip() else None


def under_git(folder: Path = BENCHMARKS) -> bool:
    """Whether git can be asked here."""
    return _git(folder, "rev-parse", "HEAD") is not None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
