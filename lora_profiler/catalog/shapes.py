"""`data/shapes.json`: the weights of the bundled models whose family is not declared in
`architectures`.

One line a model: `{"output": name, "weightless": [name], "parts": [part]}`. A part is a module
`[name, kind, [[weight, shape, tied_to?]]]` or a stack `[name, [kind's modules], [[kind,
repeats]]]`. Written by `benchmarks/extract_shapes.py` from transformers on the meta device.
"""

import json
from typing import Any

from lora_profiler.catalog.config import data_text
from lora_profiler.model_spec import Module, Stack, Weight

Described = tuple[tuple[Module | Stack, ...], str | None, tuple[str, ...]]
"""(parts, output embedding, weightless modules)"""


def table(id: str) -> Described:
    """The weights of the bundled model called `id`, which is in the table."""
    text = data_text("shapes.json")
    start = text.index(f"\n{json.dumps(id)}: ") + 1
    line = text[start : text.index("\n", start)]
    row = json.loads("{" + line.rstrip(",") + "}")[id]
    return tuple(_decode(part) for part in row["parts"]), row["output"], tuple(row["weightless"])


def encode(described: Described) -> dict[str, Any]:
    """What `table` reads back."""
    parts, output, weightless = described
    return {
        "output": output,
        "weightless": list(weightless),
        "parts": [_encode(part) for part in parts],
    }


def _encode(part: Module | Stack) -> list[Any]:
    if isinstance(part, Module):
        weights = [
            [w.name, list(w.shape), w.tied_to] if w.tied_to else [w.name, list(w.shape)]
            for w in part.weights
        ]
        return [part.name, part.kind, weights]
    runs: list[list[int]] = []
    for kind in part.order:
        if runs and runs[-1][0] == kind:
            runs[-1][1] += 1
        else:
            runs.append([kind, 1])
    return [part.name, [[_encode(module) for module in kind] for kind in part.kinds], runs]


def _decode(part: list[Any]) -> Module | Stack:
    if isinstance(part[1], list):
        name, kinds, runs = part
        return Stack(
            name=name,
            kinds=tuple(tuple(_module(module) for module in kind) for kind in kinds),
            order=tuple(kind for kind, repeats in runs for _ in range(repeats)),
        )
    return _module(part)


def _module(part: list[Any]) -> Module:
    name, kind, weights = part
    return Module(
        name=name,
        kind=kind,
        weights=tuple(
            Weight(name=w[0], shape=tuple(w[1]), tied_to=w[2] if len(w) > 2 else None)
            for w in weights
        ),
    )
