"""Asks torch which kernel scaled_dot_product_attention takes, for a grid of calls, and keeps the
answers.

    python benchmarks/truth/sdpa_choices.py [--out FILE] [--control]

Writes `tests/data/sdpa_choices.json`, or FILE. Runs on any torch that sees a "cuda" device, a real
card or libraries that pretend one: the choice is made on the host, from the card's compute
capability, torch's version, and cuDNN's. What the file holds of this version, capability and
setting is replaced. --control makes the calls instead, with their backward, and says where what
they left for backward is not the choice.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OUT = Path(__file__).parents[2] / "tests" / "data" / "sdpa_choices.json"
LETTERS = {0: "m", 1: "f", 2: "e", 3: "c", -1: "x"}
WIDTHS = [
    (w, w)
    for w in (32, 36, 40, 60, 64, 72, 80, 96, 100, 112, 128, 160, 192, 200, 224, 256, 264, 512)
] + [(192, 128), (128, 64)]
BATCH = 2
DTYPES = ("float32", "float16", "bfloat16")
HEADS = {"8/8": (8, 8, False), "8/2 gqa": (8, 2, True), "8/1": (8, 1, False)}
MASKS = ("causal", "none", "bool", "additive")
DROPOUTS = (0.0, 0.1, 0.125)
GRADS = ("on", "off")
LENGTHS = {"128": (128, 128), "127": (127, 127), "1": (1, 1), "64/128": (64, 128)}
SETTING = "TORCH_CUDNN_SDPA_DEPRIORITIZED"
AXES = ("torch", "sm", "setting", "grad", "dtype", "heads", "mask", "dropout", "length")
MERGED = ("grad", "length", "dropout", "mask", "heads", "dtype", "sm", "torch", "setting")
"""The order in which rows that differ in one axis alone become one row."""
ORDERS: dict[str, list[str]] = {
    "grad": list(GRADS),
    "dtype": list(DTYPES),
    "heads": list(HEADS),
    "mask": list(MASKS),
    "dropout": [str(d) for d in DROPOUTS],
    "length": list(LENGTHS),
}
ARGUMENTS = {
    "call": (
        "torch._fused_sdp_choice(query, key, value, mask, dropout, is_causal, scale=None,"
        " enable_gqa=...)"
    ),
    "tensors": (
        f"contiguous, batch {BATCH}, (batch, heads, length, width), on the device, requires_grad"
    ),
    "grad": "off: under torch.no_grad(), as the first forward of a checkpointed layer is",
    "widths": (
        "of query and key, and of value where it is another; a row's letter at that place is the"
        " choice"
    ),
    "letters": {
        "m": "math",
        "f": "flash",
        "e": "efficient",
        "c": "cudnn",
        "x": "no backend or an error",
    },
    "heads": "of query / of key and value; gqa: enable_gqa=True",
    "mask": (
        "causal: is_causal=True without a mask; none: neither; bool, or additive in query's dtype:"
        " (batch, 1, query, key)"
    ),
    "length": "of query and key, or of query / of key",
    "setting": f"default, or {SETTING}=1 in the environment",
}
Cell = tuple[str, ...]


def arguments(cell: Cell, widths: tuple[int, int], *, transposed: bool) -> list[Any]:
    """Query, key, value, mask, dropout and is_causal."""
    _, name, heads, mask, dropout, length = cell
    dtype = getattr(torch, name)
    of_query, of_key, _ = HEADS[heads]
    queries, keys = LENGTHS[length]

    def made(n: int, rows: int, width: int) -> Tensor:
        shape = (BATCH, rows, n, width) if transposed else (BATCH, n, rows, width)
        tensor = torch.empty(shape, dtype=dtype, device="cuda", requires_grad=True)
        return tensor.transpose(1, 2) if transposed else tensor

    kind = {"bool": torch.bool, "additive": dtype}.get(mask)
    given = (
        None if kind is None else torch.empty(BATCH, 1, queries, keys, dtype=kind, device="cuda")
    )
    qkv = (
        made(of_query, queries, widths[0]),
        made(of_key, keys, widths[0]),
        made(of_key, keys, widths[1]),
    )
    return [*qkv, given, float(dropout), mask == "causal"]


def choice(cell: Cell, widths: tuple[int, int]) -> str:
    given = arguments(cell, widths, transposed=False)
    try:
        with torch.set_grad_enabled(cell[0] == "on"):
            return LETTERS[
                torch._fused_sdp_choice(*given, scale=None, enable_gqa=HEADS[cell[2]][2])
            ]
    except RuntimeError:
        return "x"


def called(cell: Cell, widths: tuple[int, int]) -> str:
    """The kernel by the node of autograd's graph, behind those of flash's padding; tensors lie as
    transformers has them."""
    given = arguments(cell, widths, transposed=True)
    try:
        out = F.scaled_dot_product_attention(*given, enable_gqa=HEADS[cell[2]][2])
    except RuntimeError as error:
        return f"forward: {str(error).splitlines()[0]}"
    node, letter = out.grad_fn, "m"
    for _ in range(4):
        if node is None:
            break
        if node.name().startswith("ScaledDotProduct"):
            letter = {"F": "f", "E": "e", "C": "c"}[node.name().removeprefix("ScaledDotProduct")[0]]
            break
        node = node.next_functions[0][0] if node.next_functions else None
    try:
        out.sum().backward()
    except RuntimeError as error:
        return f"{letter}, backward: {str(error).splitlines()[0]}"
    return letter


def grid() -> Iterator[Cell]:
    return itertools.product(GRADS, DTYPES, HEADS, MASKS, ORDERS["dropout"], LENGTHS)


def control() -> None:
    unlike: Counter[str] = Counter()
    equal = 0
    for cell in grid():
        for widths in WIDTHS if cell[0] == "on" else ():
            said, done = choice(cell, widths), called(cell, widths)
            equal += said == done
            if said != done:
                unlike[f"{said} -> {done}: {' '.join(cell)}"] += 1
    print(
        f"{key_of_this()}: {equal} calls took what the choice says, {sum(unlike.values())} did not"
    )
    for text, n in sorted(unlike.items()):
        print(f"  {n} x {text}")


def key_of_this() -> Cell:
    major, minor = torch.cuda.get_device_capability()
    setting = f"{SETTING}=1" if os.environ.get(SETTING) == "1" else "default"
    return torch.__version__, f"{major}{minor}", setting


def facts() -> dict[str, Any]:
    asked = [r for r in importlib.metadata.requires("torch") or [] if "nvidia-cudnn" in r]
    seen, compiled = (
        ".".join(map(str, v))
        for v in (torch._C._cudnn.getRuntimeVersion(), torch._C._cudnn.getCompileVersion())
    )  # type: ignore[attr-defined]
    return {
        "cuda": torch.version.cuda,
        "cudnn_pinned": asked[0].split(";")[0].strip() if asked else None,
        "cudnn_compiled_with": compiled,
        "cudnn_seen": seen,
        "compiled_for": " ".join(torch.cuda.get_arch_list()),
    }


def rank(axis: str, value: str) -> Any:
    """Where a value stands on its axis; cards and versions by their numbers."""
    if axis in ORDERS:
        return ORDERS[axis].index(value)
    return int(value) if axis == "sm" else value


def expanded(rows: list[dict[str, Any]]) -> dict[Cell, str]:
    return {
        cell: row["widths"]
        for row in rows
        for cell in itertools.product(*(row[axis] for axis in AXES))
    }


def compressed(cells: dict[Cell, str]) -> list[dict[str, Any]]:
    """Rows that differ in one axis alone become one row, axis by axis; what they say is
    unchanged."""
    boxes = [(tuple((value,) for value in cell), letters) for cell, letters in cells.items()]
    for axis in (AXES.index(name) for name in MERGED):
        alike: dict[Any, set[str]] = defaultdict(set)
        for box, letters in boxes:
            alike[box[:axis], box[axis + 1 :], letters].update(box[axis])
        boxes = [
            ((*before, tuple(sorted(values, key=lambda v: rank(AXES[axis], v))), *after), letters)
            for (before, after, letters), values in alike.items()
        ]
    boxes.sort(
        key=lambda b: [
            [rank(axis, v) for v in values] for axis, values in zip(AXES, b[0], strict=True)
        ]
    )
    rows = [
        {**dict(zip(AXES, map(list, box), strict=True)), "widths": letters}
        for box, letters in boxes
    ]
    assert expanded(rows) == cells
    return rows


def written(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = json.dumps(about, indent=1, ensure_ascii=False)
    return (
        '{"about": '
        + head
        + ',\n"rows": [\n'
        + ",\n".join(json.dumps(row) for row in rows)
        + "\n]}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--control", action="store_true")
    asked = parser.parse_args()
    if asked.control:
        return control()
    kept = (
        json.loads(asked.out.read_text())
        if asked.out.exists()
        else {"about": {"torch": {}, "cards": {}}, "rows": []}
    )
    key = key_of_this()
    cells = {cell: letters for cell, letters in expanded(kept["rows"]).items() if cell[:3] != key}
    for cell in grid():
        cells[(*key, *cell)] = "".join(choice(cell, widths) for widths in WIDTHS)
    about = {
        "what": (
            "The kernel that scaled_dot_product_attention takes, as the real CUDA build of torch"
            " says it over libraries that compute nothing: capability and cuDNN's version are their"
            " word, the choice is torch's own code."
        ),
        "limits": (
            "What is chosen, not whether the card then runs it: no build here has kernels for sm_70"
            " (compiled_for), and whether cuDNN supports what was chosen is not asked."
        ),
        "script": "benchmarks/truth/sdpa_choices.py",
        "arguments": ARGUMENTS,
        "torch": dict(sorted({**kept["about"]["torch"], key[0]: facts()}.items())),
        "cards": dict(
            sorted(
                {**kept["about"]["cards"], key[1]: torch.cuda.get_device_name()}.items(),
                key=lambda c: int(c[0]),
            )
        ),
        "widths": [f"{q}" if q == v else f"{q}/{v}" for q, v in WIDTHS],
    }
    asked.out.write_text(written(about, compressed(cells)))
    print(f"{key}: {len(cells)} cells of {len(WIDTHS)} widths in {asked.out}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(
        0
    )  # a process over libraries that compute nothing may abort at its end, after backward
