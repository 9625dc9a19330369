"""`--data`: lengths of the samples in a file, or in a folder of files, with the columns that
trainers know."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_profiler._common.packages import missing
from lora_profiler._common.paths import read_regular
from lora_profiler.errors import LoraProfilerError, UsageError, did_you_mean
from lora_profiler.question.batching.sample_lengths import (
    MOST_SAMPLES,
    SampleLengths,
    check_length,
    counted,
)
from lora_profiler.question.model_spec import ModelSpec
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


if TYPE_CHECKING:
    from tokenizers import Tokenizer


JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
TEXT = (".txt", ".text")
COLUMNAR = (".parquet", ".arrow")
SUFFIXES = (*JSON_LINES, ".json", *COLUMNAR, *TEXT)

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, in words, and its columns."""

BYTES_A_TOKEN = 4
"""English prose has 4 to 5 characters a token in vocabularies of 32,000 and more, code and other
scripts fewer; UTF-8 needs more bytes for those."""
_TEXTS_AT_ONCE = _ROWS_AT_ONCE = 1000
MOST_CHARACTERS = 10_000_000_000
"""Of a data set's text; small files of Parquet can unfold to more than anybody waits for."""
MOST_HISTOGRAM_BYTES = 100_000_000
TOKENIZER = "tokenizer.json"


class TokenCounter:
    """Counts the tokens of texts. `note` says how."""

    def __init__(self, model: ModelSpec | None) -> None:
        path = None if model is None else tokenizer_path(model)
        self._tokenizer: Tokenizer | None = None
        if path is not None and not missing(["tokenizers"]):
            self._tokenizer = _loaded(path)
            self.note = f"Tokenised with {path.name} of {model.id if model else path.parent}."
            return
        why = (
            "the tokenizer of the model is not on this machine"
            if path is None
            else "the package tokenizers is not installed"
        )
        self.note = (
            f"Tokens are not counted but estimated, {BYTES_A_TOKEN} bytes of text (in English"
            f" {BYTES_A_TOKEN} characters) each: {why}."
        )

    def counts(self, texts: Iterable[str]) -> Iterator[int]:
        """Tokens of each text, without markers at its ends."""
        if self._tokenizer is None:
            yield from (-(-len(text.encode("utf-8", "replace")) // BYTES_A_TOKEN) for text in texts)
            return
        waiting: list[str] = []
        for text in texts:
            waiting.append(text)
            if len(waiting) == _TEXTS_AT_ONCE:
                yield from self._tokenised(waiting)
                waiting = []
        yield from self._tokenised(waiting)

    def _tokenised(self, texts: Sequence[str]) -> Iterator[int]:
        assert self._tokenizer is not None
        for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
            yield len(encoding.ids)


def tokenizer_path(model: ModelSpec) -> Path | None:
    """Beside the model's config.json on disk, else in the hub's cache; nothing is downloaded."""
    beside = Path(model.source).parent / TOKENIZER
    if model.source not in ("hub", "bundled") and beside.is_file():
        return beside
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model.id, TOKENIZER)
    except HFValidationError:  # a model from disk has a name of its own
        return None
    return Path(cached) if isinstance(cached, str) else None


def _loaded(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        path.open("rb").close()  # as below
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # tokenizers raises plain exceptions of its own
        raise UsageError(f"{path} is no tokenizer: {str(e).splitlines()[0]}.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


Tell = Callable[[str, int, int], None]
"""What is being read, how many rows are done, and of how many."""


def read_data(
    path: str, model: ModelSpec | None = None, tell: Tell = lambda doing, done, of: None
) -> SampleLengths:
    """Lengths of the samples at `path`, in tokens of `model`'s tokenizer where it is at hand:
    JSONL, JSON, Parquet, Arrow, text with a sample a line, or a folder of one of these, as
    `datasets` writes it. `FILE#COLUMN` names the column. `tell` is called now and then.

    Raises UsageError for data that cannot be read, and for data without text.
    """
    place, column = _place(path)
    files = _files(place)
    rows = _counted(chain.from_iterable(map(_rows, files)), files, tell)
    first = next(rows, None)
    if first is None:
        raise UsageError(f"{place} is empty: it has no sample.")
    columns = Columns(list(first[1]), column, str(place))
    counter = TokenCounter(model)
    order = tuple(_lengths(chain([first], rows), columns, counter, place))
    is_counted = columns.sample(first[1], first[0]).tokens is not None
    return SampleLengths(
        counts=counted(order),
        order=order,
        source=f"{place.name}, {_named(columns.names)}",
        notes=() if is_counted else (counter.note,),
    )


def _named(names: tuple[str, ...]) -> str:
    return f"column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _place(path: str) -> tuple[Path, str | None]:
    place = Path(path)
    if place.exists():
        return place, None
    name, mark, column = path.rpartition("#")
    if mark and Path(name).exists():
        return Path(name), column
    raise UsageError(f"There is no file or folder {path}.")


def _files(place: Path) -> list[Path]:
    """The files to read: of a folder those of its training split, all of one kind."""
    if place.is_file():
        return [place]
    for folder in (place / "train", place):
        for suffixes in ((".arrow",), (".parquet",), JSON_LINES, (".json",), TEXT):
            files = [f for f in sorted(folder.glob("*")) if f.suffix.lower() in suffixes]
            files = [f for f in files if not f.name.startswith(("cache-", "state.", "dataset_"))]
            if files:
                return [f for f in files if "train" in f.name.lower()] or files
    raise UsageError(f"{place} has no file of data in it: none ends in {', '.join(SUFFIXES)}.")


def _counted(rows: Iterator[Row], files: Sequence[Path], tell: Tell) -> Iterator[Row]:
    """The same rows, and now and then how many of all these are."""
    total = -1
    for number, row in enumerate(rows):
        if number and number % _ROWS_AT_ONCE == 0:
            total = sum(map(_num_rows, files)) if total < 0 else total
            tell("", number, max(total, number))
        yield row


def _num_rows(path: Path) -> int:
    """As far as that is quickly known: lines, or what a Parquet file says; else 0."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(path).num_rows)
    if suffix not in (*JSON_LINES, *TEXT):
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _rows(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix in COLUMNAR:
        return arrow_rows(path)
    if suffix in JSON_LINES:
        return _json_lines(path)
    if suffix == ".json":
        return _json_rows(path)
    if suffix in TEXT:
        return _text_rows(path)
    more = " --lengths reads a .csv of length,count." if suffix == ".csv" else ""
    raise UsageError(
        f"{path} is no data that is known here; known are {', '.join(SUFFIXES)}.{more}"
    )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with where it stands."""
    number = 0
    try:
        with path.open("rb") as file:
            for number, content in enumerate(file, start=1):
                line = content.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    yield f"{path}, line {number:,},", line
    except UnicodeDecodeError:
        raise UsageError(
            f"{path}, line {number:,}, is no text in UTF-8; save it as UTF-8."
        ) from None
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.") from None


def _json_lines(path: Path) -> Iterator[Row]:
    for where, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            reason = e.msg if isinstance(e, json.JSONDecodeError) else "it cannot be parsed"
            raise UsageError(f"{where} is not valid JSON: {reason}.") from None
        yield where, _as_row(row, where)


def _json_rows(path: Path) -> Iterator[Row]:
    """A list of rows; a file whose lines are JSON each is JSONL under another name."""
    text, again = tee(_lines(path))
    first = next(again, None)
    if first is None:
        return
    if not first[1].lstrip().startswith("["):
        yield from _json_lines(path)
        return
    rows = parsed_json("".join(line for _, line in text), path)
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number:,},"
        yield where, _as_row(row, where)


def _as_row(row: Any, where: str) -> Mapping[str, Any]:
    if isinstance(row, dict):
        return row
    raise UsageError(f"{where} is no row: it has no columns by name.")


def _text_rows(path: Path) -> Iterator[Row]:
    return ((where, {"text": line.rstrip("\r\n")}) for where, line in _lines(path))


def _lengths(
    rows: Iterator[Row], columns: Columns, counter: TokenCounter, place: Path
) -> Iterator[int]:
    """Tokens of each row; texts of many rows are counted at a time."""
    parts: list[tuple[int, int]] = []  # of each row: how many texts it has, and its other tokens
    has_text, characters = False, 0

    def texts() -> Iterator[str]:
        nonlocal has_text, characters
        for where, row in rows:
            sample = columns.sample(row, where)
            if sample.tokens is not None:
                check_length(sample.tokens, where.rstrip(","))
                parts.append((0, sample.tokens))
                has_text = True
                continue
            parts.append((len(sample.texts), sample.markers))
            characters += sum(map(len, sample.texts))
            if characters > MOST_CHARACTERS:
                raise UsageError(
                    f"{place} has more than {MOST_CHARACTERS:,} characters of text; name a part of"
                    " it, or say how long samples are with --lengths."
                )
            has_text = has_text or any(sample.texts)
            yield from sample.texts

    counts = array("q", counter.counts(texts()))
    if not has_text:
        raise UsageError(f"{place} has no text in its {_named(columns.names)}.")
    at = 0
    for num_texts, others in parts:
        yield sum(counts[at : at + num_texts]) + others
        at += num_texts


# --- Parquet and Arrow files, which need PyArrow --------------------------------------------------


class MissingPackageError(LoraProfilerError):
    """A package that reads this kind of file is not installed."""

    exit_code = 4


def arrow_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Raises UsageError for a file that is none, and MissingPackageError without PyArrow."""
    if missing(["pyarrow"]):
        raise MissingPackageError(
            f"{path} needs PyArrow to be read; install it: pip install 'lora-profiler[data]'."
        )
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number:,},", row
    except (pa.ArrowException, OSError) as e:
        reason = str(e).splitlines()[0][:200].rstrip(".")
        raise UsageError(f"{path} cannot be read: {reason}.") from None


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    path.open("rb").close()  # what C++ opens, Python's audit hooks do not see (cli/guarded.py)
    if path.suffix.lower() == ".parquet":
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_ROWS_AT_ONCE)
        return
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_stream(source)  # as `datasets` writes
        except pa.ArrowInvalid:
            source.seek(0)
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(n) for n in range(reader.num_record_batches))
            return
        yield from reader


# --- a histogram: how many samples there are of each length, as CSV or JSON -----------------------


def read_histogram(path: Path) -> SampleLengths:
    """Of JSON an object of counts by length, or a list of pairs or of objects with `length` and
    `count`; of CSV two columns, with or without a heading.

    Raises UsageError for anything else, with the line.
    """
    try:
        text = read_regular(path, MOST_HISTOGRAM_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8; save it as UTF-8.") from None
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.") from None
    pairs = _of_json(text, path) if path.suffix.lower() == ".json" else _of_csv(text, path)
    counts: dict[int, int] = {}
    for where, length, count in pairs:
        check_length(length, where)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_SAMPLES:
            raise UsageError(
                f"{where} has a count of {shown(count)}; it must be a whole number from 0."
            )
        if count:
            counts[length] = counts.get(length, 0) + count
    return SampleLengths(counts=dict(sorted(counts.items())), source=path.name)


def parsed_json(text: str, path: Path) -> Any:
    """Raises UsageError with the line where `text`, which is of `path`, is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        where = f"line {e.lineno:,}: {e.msg}" if isinstance(e, json.JSONDecodeError) else str(e)
        raise UsageError(f"{path} is not valid JSON, {where}.") from None


def _of_csv(text: str, path: Path) -> Iterator[tuple[str, Any, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        cells = [cell.strip() for cell in line.replace(";", ",").replace("\t", ",").split(",")]
        if not any(cells):
            continue
        where = f"{path}, line {number:,},"
        if len(cells) != 2:
            found = f"{len(cells)} cells" if len(cells) > 1 else "one cell"
            raise UsageError(f"{where} has {found}; it needs two, length,count.")
        if number == 1 and not any(cell[:1].isdigit() for cell in cells):
            if "count" in cells[0].lower() or "length" in cells[1].lower():
                raise UsageError(f"{where} is {line.strip()!r}; the columns are length,count.")
            continue  # the heading
        length, count = (int(cell) if is_short_number(cell) else cell for cell in cells)
        yield where, length, count


def _of_json(text: str, path: Path) -> Iterator[tuple[str, Any, Any]]:
    document = parsed_json(text, path)
    entries = list(document.items()) if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise UsageError(f'{path} has no counts by length, as in {{"512": 30}}.')
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, entry {number:,},"
        if isinstance(entry, dict) and {"length", "count"} <= entry.keys():
            length, count = entry["length"], entry["count"]
        elif isinstance(entry, list | tuple) and len(entry) == 2:
            length, count = entry
        else:
            raise UsageError(f"{where} is neither [length, count] nor an object of the two.")
        yield where, int(length) if is_short_number(str(length)) else length, count


def is_short_number(text: str) -> bool:
    """Whether it is a whole number that Python reads: of at most 4,300 digits."""
    return text.isdecimal() and len(text) < 4000
