"""The text of short training scripts: calls, and data in place of one's own."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lora_profiler.question.workload import TrainSetup

_STEPS: Final = 100
_WIDTH = 99


class Code(str):
    """An expression, written as it is."""


ROWS = (
    "def rows(count: int) -> list:",
    '    """Random tokens: put your own data in their place."""',
    "    vocabulary = model.get_input_embeddings().num_embeddings",
    "    tokens = torch.randint(0, vocabulary, (count, MAX_LENGTH))",
    '    return [{"input_ids": row, "labels": row} for row in tokens]',
    "",
    "",
)
"""Lines of a function that makes rows of MAX_LENGTH tokens for `model`."""


def run_arguments(setup: TrainSetup) -> dict[str, Any]:
    """TrainingArguments of a short run that saves and reports nothing, evaluated after each step
    where the question evaluates."""
    evaluated = setup.eval_batch_size
    return {
        "eval_strategy": "no" if evaluated is None else "steps",
        "eval_steps": None if evaluated is None else 1,
        "per_device_eval_batch_size": evaluated,
        "learning_rate": 2e-4,
        "max_steps": _STEPS,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def assigned(name: str, function: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Lines that call `function` and keep what it returns."""
    yield from f"{name} = {called(function, arguments)}".split("\n")


def called(function: str, arguments: Mapping[str, Any], indent: int = 0) -> str:
    """A call, in one line where there is room; the argument of no name stands first, those that are
    None are left out."""
    words = [
        (f"{key}=" if key else "") + (value if isinstance(value, Code) else _text(value))
        for key, value in arguments.items()
        if value is not None
    ]
    line = f"{function}({', '.join(words)})"
    if "\n" not in line and len(line) + indent + 16 <= _WIDTH:
        return line
    inner, outer = " " * (indent + 4), " " * indent
    return "\n".join([f"{function}(", *(f"{inner}{word}," for word in words), f"{outer})"])


def _text(value: Any) -> str:
    """A literal, texts in double quotes."""
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(k)}: {_text(v)}' for k, v in value.items())}}}"
    return repr(value)
