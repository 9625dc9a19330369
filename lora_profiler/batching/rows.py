"""What a row of a data set is made of: the columns that trainers know, and the text in them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.units import shown

MARKERS_OF_A_MESSAGE = 5
"""Tokens that a chat template puts around a message: its role, where it begins and ends, line
breaks, in ChatML and in Llama 3's template alike."""

_TOKEN_IDS = "input_ids"
_CHATS = ("messages", "conversations", "conversation")
_LENGTHS = ("length", "num_tokens", "n_tokens", "token_count")
_PARTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("prompt", "question"), ("completion", "response", "answer")),
    (("instruction",), ("output", "response", "completion")),
)
"""Columns that make a sample together, each under one of several names."""
_CONTEXT_COLUMNS = ("input", "context", "system")
"""Columns that go with an instruction where they are there."""
_TEXTS = ("text", "content")


class Sample(NamedTuple):
    """A row: its tokens where they are counted already, else its texts and what comes on top of
    their tokens."""

    tokens: int | None
    texts: tuple[str, ...] = ()
    markers: int = 0


class Columns:
    """Which columns of a data set hold the text, told by their names.

    Raises UsageError where none is known, and for a `column` that is not there.
    """

    def __init__(self, names: Sequence[str], column: str | None, where: str) -> None:
        self.names = _chosen(names, column, where)
        self._is_length = column is None and self.names[0].lower() in _LENGTHS
        self._may_be_length = column is not None or self._is_length

    def sample(self, row: Mapping[str, Any], where: str) -> Sample:
        """Raises UsageError for a row without text, or of another kind than its data set's."""
        if missing := [name for name in self.names if name not in row]:
            raise UsageError(f"{where} has no column {missing[0]!r}, which the first one has.")
        values = [row[name] for name in self.names]
        if len(values) == 1:
            (value,) = values
            if self._may_be_length and isinstance(value, int) and not isinstance(value, bool):
                return Sample(tokens=value)
            if self._is_length:
                raise UsageError(f"{where} has {shown(value)} in column {self.names[0]!r}.")
            if self.names == (_TOKEN_IDS,) or _is_token_ids(value):
                return Sample(tokens=len(value))
        texts: list[str] = []
        markers = 0
        for name, value in zip(self.names, values, strict=True):
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, Sequence) and all(isinstance(m, Mapping) for m in value):
                texts += (text for message in value for text in _message_texts(message))
                markers += MARKERS_OF_A_MESSAGE * len(value)
            elif value is not None:
                raise UsageError(
                    f"{where} has {shown(value)} in column {name!r}, which is neither text nor"
                    " messages."
                )
        return Sample(tokens=None, texts=tuple(texts), markers=markers or 1)  # one ends the text


def _chosen(names: Sequence[str], column: str | None, where: str) -> tuple[str, ...]:
    if column is not None:
        if column not in names:
            raise UsageError(
                f"{where} has no column {column!r}; it has"
                f" {_listed(names)}.{did_you_mean(column, names)}"
            )
        return (column,)
    lower = {name.lower(): name for name in reversed(names)}
    for known in (_TOKEN_IDS, *_CHATS):
        if known in lower:
            return (lower[known],)
    for parts in _PARTS:
        chosen = [next((lower[name] for name in part if name in lower), None) for part in parts]
        if all(chosen):
            beside = (lower[name] for name in _CONTEXT_COLUMNS if name in lower)
            return tuple(name for name in (*chosen, *beside) if name is not None)
    for known in (*_TEXTS, *_LENGTHS):
        if known in lower:
            return (lower[known],)
    raise UsageError(
        f"{where} has no column that is known to hold text: it has {_listed(names)}. Known are"
        " messages, conversations, prompt and completion, instruction and output, text, input_ids"
        " and length; FILE#COLUMN names another."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:12]))
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "none"


def _is_token_ids(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(token, int) for token in value)
    )


def _message_texts(message: Mapping[str, Any]) -> Iterator[str]:
    """Of a message as OpenAI (`content`) or ShareGPT (`value`) writes it; of pictures none."""
    content = message.get("content", message.get("value"))
    if isinstance(content, str):
        yield content
    elif isinstance(content, Sequence):
        for part in content:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]
    if calls := message.get("tool_calls"):
        from json import dumps

        yield dumps(calls, default=str)
