"""What the page of trainers says of each stack, made of the stacks."""

from collections.abc import Callable, Iterator
from typing import Any

from lora_profiler.facts.stacks import CHECKPOINT_DTYPE, Stack, trainers, versions
from lora_profiler.facts.stacks.stack import METHODS
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.question.option import flag
from lora_profiler.report.labels import METHOD_LABELS

EVERYWHERE = (
    *("batch_size", "seq_len", "accumulation", "dtype", "precision", "optimizer"),
    *("optimizer_impl", "checkpointing", "loss", "hold_outputs", "kernels"),
)
ADAPTED = (*("rank", "alpha", "dropout", "targets", "adapter_dtype", "double_quant", "recipe"),)


def stacks() -> list[Stack]:
    return [stack for name in trainers() for stack in versions(name)]


def table() -> str:
    """Two tables of defaults, and then what each trainer holds and cannot do."""
    return "\n".join((*_table(EVERYWHERE), "", *_table(ADAPTED), "", *_notes()))


def _table(names: tuple[str, ...]) -> Iterator[str]:
    yield "| trainer | " + " | ".join(f"`{flag(name)}`" for name in names) + " |"
    yield "| --- " * (len(names) + 1) + "|"
    for stack in stacks():
        yield f"| `{stack.key}` | " + " | ".join(_cell(stack, name) for name in names) + " |"


def _cell(stack: Stack, name: str) -> str:
    """The value, of each method where methods differ; what the trainer leaves open is the command
    line's default, in brackets."""
    values = {m: _text(stack.defaults[m][name]) for m in METHODS if name in stack.defaults[m]}
    if not values:
        return f"({_text(DEFAULTS[name])})"
    kinds = dict.fromkeys(values.values())
    if len(kinds) == 1:
        return next(iter(kinds))
    of: Callable[[str], str] = lambda kind: ", ".join(  # noqa: E731
        METHOD_LABELS[method] for method, value in values.items() if value == kind
    )
    return "; ".join(f"{of(kind)}: {kind}" for kind in kinds)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "2 x rank"
    return "the checkpoint's" if value == CHECKPOINT_DTYPE else str(value)


def _notes() -> Iterator[str]:
    for stack in stacks():
        yield f"### {stack.key}"
        yield ""
        yield " ".join(stack.about)
        yield ""
        if stack.packing is None:
            rows = "does not pack"
        elif stack.packing.one_row:
            rows = "lays packed rows of a micro-batch end to end, as one row"
        else:
            rows = "keeps packed rows apart"
        yield f"- It {rows}."
        yield from (f"- Held: {text}." for text in stack.holds)
        for gap in stack.gaps:
            of = (
                ""
                if gap.methods == METHODS
                else f" ({', '.join(map(METHOD_LABELS.get, gap.methods))})"
            )
            yield f"- Not priced{of}: {gap.text}."
        for refusal in stack.refusals:
            values = " or ".join(map(str, refusal.values))
            yield f"- Refused: `{' '.join(filter(None, (flag(refusal.option), values)))}`; {refusal.reason}."
        yield ""
