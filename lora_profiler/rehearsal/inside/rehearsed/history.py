"""The allocator's log, played through: a second count of the requested peak, and what was held when
it was reached, and what every step leaves behind."""

import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import median_low
from typing import Any

from .peaks import Key
from .tensors import Owner

Label = str
"""What `mark` of steps.py wrote into the log: "3 backward", or "3 forward model.layers.0.mlp"."""
_LARGEST = 12
_FRAMES = 4
_LARGE_BYTES = 1 << 20
_WORKSPACE_BYTES = (8_519_680, 33_554_432)
"""Of one handle of cuBLAS, before Hopper and since: torch's aten/src/ATen/cuda/CUDABlas.cpp."""
_LEAKED_BYTES = 1 << 17
"""A step's; over 10,000 steps that is more than 1 GiB. A loss kept without its graph is less."""
_FEWEST_STEPS = 4
"""The first one makes optimizer states; of the others three show that memory grows and goes on."""
_LIBRARIES = tuple({f"{sysconfig.get_path(each)}/" for each in ("stdlib", "purelib", "platlib")})


@dataclass(eq=False)
class Piece:
    """One allocation from birth to death; `born` and `died` are places in the log, `died` None for
    what lives on."""

    address: int
    bytes: int
    born: int
    label: Label
    frames: list[dict[str, Any]]
    died: int | None = None
    owner: Owner | None = None


@dataclass(frozen=True)
class Log:
    """Of one device. `peaks`: (step, phase) -> the largest sum of living pieces' bytes, and where
    in the log it was reached. `spans`: (step, phase) -> its first and last place in the log.
    `ran_out`: where memory ran out last."""

    pieces: list[Piece]
    peaks: dict[Key, tuple[int, int]]
    spans: dict[Key, tuple[int, int]]
    ran_out: int | None = None

    def alive(self, at: int) -> list[Piece]:
        """After the log's entry `at`."""
        return [
            piece
            for piece in self.pieces
            if piece.born <= at and (piece.died is None or piece.died > at)
        ]


def phase_of(label: Label) -> Key:
    step, _, rest = label.partition(" ")
    return (int(step), rest.partition(" ")[0]) if step.isdigit() else (0, "setup")


def play(entries: Iterable[Mapping[str, Any]]) -> Log:
    """An entry of a thread that knows no label has that of the entry before."""
    pieces: list[Piece] = []
    living: dict[int, Piece] = {}
    peaks: dict[Key, tuple[int, int]] = {}
    spans: dict[Key, tuple[int, int]] = {}
    held_bytes, label, ran_out = 0, "0 setup", None
    for at, entry in enumerate(entries):
        label = entry.get("user_metadata") or label
        key = phase_of(label)
        spans[key] = spans.get(key, (at, at))[0], at
        action = entry["action"]
        if action == "alloc":
            piece = Piece(entry["addr"], entry["size"], at, label, entry.get("frames", []))
            pieces.append(piece)
            living[piece.address] = piece
            held_bytes += piece.bytes
            if held_bytes > peaks.get(key, (-1, 0))[0]:
                peaks[key] = held_bytes, at
        elif action == "free_completed" and entry["addr"] in living:
            piece = living.pop(entry["addr"])
            piece.died = at
            held_bytes -= piece.bytes
        elif action == "oom":
            ran_out = at
    return Log(pieces, peaks, spans, ran_out)


def name_pieces(log: Log, owners: Mapping[int, Owner], at: int) -> None:
    """Gives an owner to each piece that was alive at that place of the log and has none yet."""
    for piece in log.alive(at):
        if piece.owner is None:
            piece.owner = owners.get(piece.address)


def held_at_peak(log: Log, key: Key, head: str) -> dict[str, Any]:
    """What was held at the peak of that phase. `head`: the module that makes the logits, "" where
    it is not known."""
    return held(log, key, log.peaks[key][1], head)


def held(log: Log, key: Key, at: int, head: str) -> dict[str, Any]:
    """What was held after entry `at`, which lies in the phase `key`: bytes by category, and the
    largest pieces with their stacks."""
    alive = log.alive(at)
    categories: dict[str, int] = defaultdict(int)
    of_loss = {piece for piece in log.pieces if piece.owner is None and _is_of_loss(piece, head)}
    sizes = {piece.bytes for piece in of_loss if piece.bytes >= _LARGE_BYTES}
    named = [
        (piece, "logits and loss" if piece in of_loss else _category(piece, log, key, sizes))
        for piece in alive
    ]
    for piece, category in named:
        categories[category] += piece.bytes
    largest = sorted(named, key=lambda pair: (-pair[0].bytes, pair[1], _name(pair[0])))[:_LARGEST]
    return {
        "step": key[0],
        "phase": key[1],
        "requested_bytes": sum(piece.bytes for piece in alive),
        "categories": dict(sorted(categories.items(), key=lambda item: -item[1])),
        "largest": [
            {
                "bytes": piece.bytes,
                "category": category,
                "name": _name(piece),
                "phase": phase_of(piece.label)[1],
                "stack": _stack(piece.frames),
            }
            for piece, category in largest
        ],
    }


def find_leak(log: Log, steps: int) -> dict[str, Any] | None:
    """What each of `steps` whole steps leaves behind: bytes a step, and the script's line that
    allocated most of what is still alive two steps later, "" where no line is known. None where
    memory does not grow with every step from the second on, or where steps are too few."""
    if steps < _FEWEST_STEPS:
        return None
    ends = {
        step: max((last for key, (_, last) in log.spans.items() if key[0] <= step), default=0)
        for step in range(2, steps + 1)
    }
    # without what the step itself made, which the next one may replace
    kept = [
        sum(each.bytes for each in log.alive(end) if 0 < phase_of(each.label)[0] < step)
        for step, end in ends.items()
    ]
    growth = [later - earlier for earlier, later in pairwise(kept)]
    if min(growth) < _LEAKED_BYTES:
        return None
    stay = [
        [each for each in log.alive(ends[step + 2]) if phase_of(each.label)[0] == step]
        for step in range(2, steps - 1)
    ]
    if not all(stay):  # rows that get longer grow, too
        return None
    bytes_at: dict[str, int] = defaultdict(int)
    for piece in chain(*stay):
        bytes_at[_line_of_script(piece.frames)] += piece.bytes
    return {
        "bytes_per_step": median_low(growth),  # what one step makes for all later ones left out
        "where": max(bytes_at, key=lambda line: bytes_at[line]),
    }


def _line_of_script(frames: list[dict[str, Any]]) -> str:
    """The innermost line outside of libraries; of a library where all are."""
    own = [each for each in frames if not each["filename"].startswith((*_LIBRARIES, "<"))]
    return next(iter(_stack(own or frames)), "")


def _name(piece: Piece) -> str:
    return piece.owner[1] if piece.owner else module_of(piece.label)


def module_of(label: Label) -> str:
    parts = label.split(" ", 2)
    return parts[2] if len(parts) == 3 else ""


def _category(piece: Piece, log: Log, peak: Key, bytes_of_loss: set[int]) -> str:
    """`bytes_of_loss`: sizes of the logits and what the loss keeps of them, by which their
    gradients are known: the backward pass runs where no line of the script is."""
    if piece.owner is not None:
        return piece.owner[0]
    born = phase_of(piece.label)
    was_there = born[0] < peak[0] or peak[0] <= 1
    if was_there and piece.died is None and piece.bytes in _WORKSPACE_BYTES:
        return "workspaces of BLAS"
    if born[1] == "setup":
        return "held since before training"
    if born[1] == "backward":
        if piece.bytes in bytes_of_loss:
            return "logits and loss"
        return "temporaries of the backward pass"
    if born[1] == "optimizer":
        return "temporaries of the optimizer"
    if peak[1] == "optimizer":
        return "inputs and outputs still held"
    passes = born == peak and piece.died is not None and piece.died <= log.spans[peak][1]
    return "temporaries of the forward pass" if passes else "saved for the backward pass"


def _is_of_loss(piece: Piece, head: str) -> bool:
    if phase_of(piece.label)[1] != "forward":
        return False
    if head != "" and module_of(piece.label) == head:
        return True
    # the innermost first; a trainer's own functions are all called by one for the loss
    for frame in piece.frames:
        name = frame["name"].lower()
        if "loss" in name or "cross_entropy" in name:
            return True
        if name == "forward":
            return False
    return False


def _stack(frames: list[dict[str, Any]]) -> list[str]:
    """The innermost lines of the script and its libraries; torch's own say little."""
    own = [
        frame
        for frame in frames
        if "/torch/" not in frame["filename"] and "/rehearsed/" not in frame["filename"]
    ]
    return [
        f"{frame['filename']}:{frame['line']} {frame['name']}"
        for frame in (own or frames)[:_FRAMES]
    ]
