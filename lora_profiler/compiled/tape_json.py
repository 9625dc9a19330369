"""A folded tape as JSON: distinct births, deaths and marks once, and blocks as lists of their
numbers."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.compiled.tape import Birth, Death, Event, Layout, Mark, Run, Tape


def tape_json(tape: Tape) -> dict[str, Any]:
    known: dict[Event, int] = {}
    for run in tape.runs:
        for block in run.blocks:
            for event in block:
                known.setdefault(event, len(known))
    kinds = {Birth: "b", Death: "d", Mark: "m"}
    return {
        "events": [[kinds[type(event)], *event] for event in known],
        "runs": [
            [run.direction, [[known[event] for event in block] for block in run.blocks]]
            for run in tape.runs
        ],
    }


def tape_from_json(data: Mapping[str, Any], layout: Layout | None) -> Tape:
    kinds: dict[str, type[Birth] | type[Death] | type[Mark]] = {"b": Birth, "d": Death, "m": Mark}
    events: list[Event] = [kinds[kind](*fields) for kind, *fields in data["events"]]
    runs = (
        Run(direction, tuple(tuple(events[i] for i in block) for block in blocks))
        for direction, blocks in data["runs"]
    )
    return Tape(tuple(runs), layout)
