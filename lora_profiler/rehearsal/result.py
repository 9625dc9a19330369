"""What a rehearsal came to: as the script's process wrote it, and what can be said of it in
words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_profiler.errors import RehearsalError

Status = Literal["done", "out_of_memory", "refused", "error", "ended"]
STATUSES: tuple[Status, ...] = ("out_of_memory", "refused", "error", "ended", "done")
"""The worst first. refused: the card's software would not do it, as products in bfloat16 on a T4.
ended: before its steps."""
EXIT_CODES: Mapping[Status, int] = {
    "done": 0,
    "out_of_memory": 1,
    "refused": 1,
    "error": 4,
    "ended": 4,
}
SCHEMA = 1
OF_LAUNCHERS = ("CalledProcessError", "ChildFailedError", "ProcessExitedException")
COUNTERS = ("requested_bytes", "allocated_bytes", "reserved_bytes")
PHASES = ("setup", "forward", "backward", "optimizer", "evaluation")
Peak = Mapping[str, int]
_PREDICTED_WITHOUT = {"kernels-community/liger-kernels", "kernels-community/rotary"}
PartOfRun = Literal["setup", "first_step", "steady", "whole"]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Of one rank. `document` is what its process wrote; the fields are those that answers go
    by."""

    document: Mapping[str, Any]

    @property
    def status(self) -> Status:
        status: Status = self.document["status"]
        return status

    @property
    def rank(self) -> int:
        return int(self.document["rank"])

    @property
    def world_size(self) -> int:
        return int(self.document["world_size"])

    @property
    def steps(self) -> int:
        return int(self.document["steps"])

    @property
    def left_early(self) -> bool:
        """Before any step and without an error of its own, as launchers do and `sys.exit`."""
        return self.status == "ended" and not self.steps

    @property
    def ran_out_of_rows(self) -> bool:
        """It trained on simulated data, to their end."""
        return self.status == "ended" and self.steps > 0 and bool(self.document["data_stood_in"])

    def peak(self, part: PartOfRun) -> Peak | None:
        peak: Peak | None = self.document["peaks"][part]
        return peak

    def phases(self) -> Mapping[tuple[str, str], Peak]:
        """("first" or "later", phase) -> the largest of each counter; setup has no step."""
        by_phase: dict[tuple[str, str], dict[str, int]] = {}
        for row in sorted(self.document["phases"], key=_place):
            step = "" if row["step"] == 0 else "first" if row["step"] == 1 else "later"
            peaks = by_phase.setdefault((step, row["phase"]), dict.fromkeys(COUNTERS, 0))
            for counter in COUNTERS:
                peaks[counter] = max(peaks[counter], row[counter])
        return by_phase

    @property
    def work(self) -> Mapping[str, Any] | None:
        """What one more step launched, or the reason why it is not known; None where none was
        run."""
        work: Mapping[str, Any] | None = self.document.get("work")
        return work

    @property
    def launches(self) -> tuple[int, int] | None:
        """Kernels and library calls of the last step that ended."""
        launches = self.document["launches"]
        return (launches[-1]["kernels"], launches[-1]["library_calls"]) if launches else None


@dataclass(frozen=True, slots=True)
class Tried:
    """One more rehearsal with a `change`; without a result there is a `reason`."""

    change: str
    result: Rehearsal | None
    reason: str = ""

    @property
    def reserved_bytes(self) -> int | None:
        whole = self.result.peak("whole") if self.result else None
        return whole["reserved_bytes"] if whole else None


def _place(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["step"], PHASES.index(row["phase"])


def read_result(path: Path) -> Rehearsal:
    document = json.loads(path.read_text("utf-8"))
    if document.get("schema") != SCHEMA or document.get("status") not in STATUSES:
        raise RehearsalError(f"{path.name} is no result of this version's rehearsal.")
    return Rehearsal(document)


def best_of(results: Sequence[Rehearsal]) -> list[Rehearsal]:
    """One result a rank, rank by rank: of several processes of a rank the one that trained most, or
    that failed."""
    by_rank: dict[int, Rehearsal] = {}
    for result in results:
        other = by_rank.get(result.rank)
        if other is None or _weight(result) > _weight(other):
            by_rank[result.rank] = result
    return [by_rank[rank] for rank in sorted(by_rank)]


def _weight(result: Rehearsal) -> tuple[bool, int]:
    """A launcher fails because the process that it started did, whose own words are the ones to
    tell."""
    error = result.document["error"] or {}
    failed = result.status not in ("done", "ended") and error.get("type") not in OF_LAUNCHERS
    return failed, result.steps


def worst_of(results: Sequence[Rehearsal]) -> Rehearsal:
    """The rank to tell of: one that failed, else the one whose peak is the largest."""

    def key(result: Rehearsal) -> tuple[int, int]:
        whole = result.peak("whole")
        return STATUSES.index(result.status), -(whole["requested_bytes"] if whole else 0)

    return min(results, key=key)


def limits(result: Rehearsal, *, is_custom: bool) -> list[str]:
    """What this answer takes for granted, a sentence each."""
    document = result.document
    facts = document["facts"]
    sentences = ["The script ran unchanged: real allocator and kernels, no values computed."]
    if is_custom:
        sentences.append("Only the GPU's memory was given; everything else is an A100's.")
    if document["largest_case"]:
        sentences.append(
            "Sizes that depend on values are the largest possible: every element of "
            f"{', '.join(document['largest_case'])}."
        )
    if names := document["decomposed"]:
        sentences.append(
            f"{', '.join(names)} gave empty tensors of the right sizes; cuSOLVER's workspaces count"
            " as 0."
        )
    if values := document["values_read"]:
        sentences.append(
            f"The script read {values:,} value{'s' * (values > 1)} from the GPU: true for a bool,"
            " else 0."
        )
    if facts.get("has_experts"):
        sentences.append(
            "The router sends all tokens to the same experts here: in training, values decide."
        )
    by_cudnn = ["attention"] * ("cudnn" in document["attention"])
    by_cudnn += ["convolutions"] * document["convolutions"]
    if by_cudnn:
        sentences.append(
            f"cuDNN ran {' and '.join(by_cudnn)}; its workspace is not known and counts as 0."
        )
    if document["recurrent"]:
        sentences.append("cuDNN ran recurrent layers; what it keeps of them is an estimate.")
    dtypes: Mapping[str, str] = document["dtypes_of_holes"]
    sentences += [
        f"{name}'s weights are not on this disk; {dtype} zeros of the same size were used."
        for name, dtype in dtypes.items()
    ]
    if names := document["kernels_stood_in"]:
        sentences.append(f"Kernels that are not on this disk, simulated: {', '.join(names)}.")
    if not _PREDICTED_WITHOUT.isdisjoint(names):
        sentences.append("A prediction is for USE_HUB_KERNELS=NO, which turns them off.")
    if names := document["kernels_of_torch"]:
        sentences.append(
            f"Kernels that are not on this disk: {', '.join(names)}. Plain torch ran instead."
        )
    if document["data_stood_in"]:
        sentences.append(f"Not on this disk, so simulated: {'; '.join(document['data_stood_in'])}.")
    if result.world_size > 1:
        sentences.append(
            "Collectives moved nothing but small messages; NCCL's own buffers are not counted."
        )
    if document["steps"] < 2 and result.status == "done":
        sentences.append(
            "One step only: it makes the optimizer states, so later steps may need more."
        )
    return sentences
