"""Data sets that are not on this disk, where the run may pretend them: few rows, with the columns
that are known of a data set, that its script reads, or that it asks for as it runs."""

import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any

from .lengths import size_in_words, tokens_of_row
from .settings import Settings
from .tokens import DATA_STOOD_IN, TEXTS, WORD, WORDS

PIXELS = 512
_SPLITS = ("train", "validation", "test")
_OTHER_SPLITS = ("eval", "dev")
_MARK = "simulated"
_KNOWN = Path(__file__).with_name("data_sets.json")
_PUBLISHED_ROWS = {"nanobeir-en:queries": 50}
"""Of small data sets that are read whole before training, as evaluators do."""
_OF_TRAINERS = {
    "KTOTrainer": ("prompt", "completion", "label"),
    "BCOTrainer": ("prompt", "completion", "label"),
    "PRMTrainer": ("prompt", "completions", "labels"),
    "StepwiseRewardTrainer": ("prompt", "completions", "labels"),
    "RewardTrainer": ("chosen", "rejected"),
    "GKDTrainer": ("messages",),
    "GOLDTrainer": ("messages",),
    **dict.fromkeys(
        ("GRPOTrainer", "RLOOTrainer", "OnlineDPOTrainer", "NashMDTrainer", "XPOTrainer"),
        ("prompt",),
    ),
    **dict.fromkeys(("DPOTrainer", "CPOTrainer", "ORPOTrainer"), ("prompt", "chosen", "rejected")),
}
_QUESTIONS = ("prompt", "instruction", "question", "query", "premise", "anchor")
_ANSWERS = ("completion", "chosen", "rejected", "response", "output")
"""A question is a quarter of a row, and an answer what it leaves: trainers leave out a row without
room for an answer, or longer than they take."""
_OF_TEMPLATES = 32
_TIMES_MORE_IN_FILES = 8
"""Rows: a script takes parts of a file by number, and finds no more than are there."""
_IMAGES = re.compile(
    r"(image|(^|_)img($|_)|photo|picture|pixel_values)(?!.*(name|path|url|id|caption)s?$)"
)
_LABELS = re.compile(r"label$|^is_|^class$|^target$", re.IGNORECASE)
_SCORES = re.compile("score|similarity|rating|margin")
_NUMBERED = re.compile(r"(\w+_)1\.\.(\d+):#")
_READ = re.compile(
    r"""\b(?:examples?|batch|samples?|rows?|items?|elements?|data|dataset|x)"""
    r"""(?:\[|\.get\()\s*["'](\w+)["']\s*[\],)]"""
)
_LISTED = re.compile(r"""(?:remove_columns=\[|rename_column\(|select_columns\(\[?)([^\])]*)""")
_DEFAULT = re.compile(r"""add_argument\(\s*["'](--\w+)["'][^)]*?default=["'](\w+)["']""")
_OPTION = re.compile(r"--\w*(?:column|field)s?(?:[_-]\w+)?")
_MADE = ("input_ids", "attention_mask", "labels", "token_type_ids", "position_ids")
"""What a tokenizer gives, or a script names anew."""
_MISSING = re.compile(
    r"columns?\b.*?(\[[^\]]*\]|\{[^}]*\}|'[^']*'|\w+) (?:(?:is )?not in|doesn't exist)",
    re.IGNORECASE,
)
_ON_DEMAND = (
    "__getitem__", "__getitems__", "map", "filter", "remove_columns", "rename_column",
    "rename_columns", "select_columns", "cast_column", "sort", "unique", "class_encode_column",
)  # fmt: skip


def stand_in_for_data(settings: Settings) -> None:
    """From here on `datasets.load_dataset` makes what it does not find."""
    from datasets import Dataset, load

    original: Callable[..., Any] = load.load_dataset

    def load_dataset(path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(path, *args, **kwargs)
        except (OSError, ValueError):  # not on this disk, and nobody may be asked
            subset = kwargs.get("name", args[0] if args else None)
            streams = bool(kwargs.get("streaming"))
            return _made(path, subset, kwargs.get("split"), settings, is_streamed=streams)

    load.load_dataset = load_dataset
    for name in _ON_DEMAND:
        setattr(Dataset, name, _with_columns_on_demand(getattr(Dataset, name), settings))
    Dataset.filter = _leaves_some(Dataset.filter)
    Dataset.select = _as_many_as_there_are(Dataset.select)
    Dataset.train_test_split = _split_at_a_quarter(Dataset.train_test_split)
    random.sample = _of_all_there_are(random.sample)


def _made(path: str, subset: Any, split: Any, settings: Settings, *, is_streamed: bool) -> Any:
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    columns = settings.columns or known_columns(path, subset) or columns_of(_sources())
    names = ", ".join(column.partition(":")[0] for column in columns)
    DATA_STOOD_IN.append(f"the data set {path} ({names})")
    published = _PUBLISHED_ROWS.get(_part_name(path, subset), settings.rows)
    made = Dataset.from_dict({"_": [0] * min(settings.rows, published)})
    made = _with_columns(made, columns, settings)
    made = made.remove_columns("_")
    made.info.description = _MARK
    if is_streamed:
        made = made.to_iterable_dataset()
    if split is not None:
        return [made for _ in split] if isinstance(split, list | tuple) else made
    kind = IterableDatasetDict if is_streamed else DatasetDict

    class Splits(kind):  # type: ignore[misc, valid-type]
        """Has every split that is asked for."""

        def __missing__(self, name: str) -> Any:
            return self[_SPLITS[0]]

        def __getitem__(self, name: Any) -> Any:
            return dict.__getitem__(self, name)

    return Splits(dict.fromkeys(_SPLITS, made))


def stand_in_for_files_of_data(settings: Settings) -> None:
    """From here on `hf_hub_download` makes JSON of a data set that it does not find."""
    from huggingface_hub import file_download

    original: Callable[..., Any] = file_download.hf_hub_download

    def hf_hub_download(repo_id: str, filename: str, **kwargs: Any) -> Any:
        try:
            return original(repo_id, filename, **kwargs)
        except OSError:  # of huggingface_hub, too
            if kwargs.get("repo_type") != "dataset" or not filename.endswith((".json", ".jsonl")):
                raise
            return str(_made_file(repo_id, filename, settings))

    file_download.hf_hub_download = hf_hub_download


def _made_file(repository: str, name: str, settings: Settings) -> Path:
    """One row a line; a list where the script loads it whole."""
    source = _sources()
    columns = settings.columns or known_columns(repository, None) or columns_of(source)
    DATA_STOOD_IN.append(f"the file {name} of {repository} ({', '.join(columns)})")
    rows = [
        {each: _value(each, settings, row) for each in columns}
        for row in range(_TIMES_MORE_IN_FILES * settings.rows)
    ]
    path = settings.folder / "data" / repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    is_whole = name.endswith(".json") and "json.load(" in source
    text = json.dumps(rows) if is_whole else "\n".join(map(json.dumps, rows))
    path.write_text(text, "utf-8")
    return path


# --- columns and their values ---------------------------------------------------------------------


def known_columns(path: str, subset: Any) -> tuple[str, ...]:
    """Of a data set by its name, or by that of its part alone; () where nothing is known of it.
    "prompt:u" holds messages, "doc_ids:*" lists of ten, "positive:#0" ids, all 0;
    "negative_1..50:#" are 50 columns, each with the id that its name ends in."""
    known: dict[str, list[str]] = json.loads(_KNOWN.read_text("utf-8"))
    part = _part_name(path, subset)
    name, _, subset = part.partition(":")
    for each in (part, name, f":{subset}"):
        if each in known:
            return tuple(column for named in known[each] for column in _each_of(named))
    return ()


def _part_name(path: str, subset: Any) -> str:
    return f"{path.rpartition('/')[2]}:{subset}".lower()


def _each_of(named: str) -> list[str]:
    numbered = _NUMBERED.fullmatch(named)
    if numbered is None:
        return [named]
    return [f"{numbered[1]}{each}:#{each}" for each in range(1, int(numbered[2]) + 1)]


def _with_columns(dataset: Any, names: Iterable[str], settings: Settings) -> Any:
    from datasets import Dataset

    made = dataset.flatten_indices() if dataset._indices is not None else dataset
    for spec in names:
        name, _, roles = spec.partition(":")
        values = [_value(name, settings, row, roles) for row in range(len(made))]
        kind = None if roles else _feature(name)
        made = Dataset.add_column(made, name, values, feature=kind)
    return made


def _feature(name: str) -> Any:
    """As datasets declares it, where the values do not say."""
    from datasets import ClassLabel, Image, List

    if _IMAGES.search(name):
        return List(Image()) if name == "images" else Image()
    return ClassLabel(names=["0", "1"]) if _LABELS.search(name) else None


def _value(name: str, settings: Settings, row: int, roles: str = "") -> Any:
    """By what columns of that name hold in published data sets; with `roles`, "ua" or a part of it,
    a conversation of a user and an assistant; with "*" ten of them, with "*3" three; with "#" an
    id, the row's or the one that follows."""
    if roles.startswith("*"):
        count = int(roles[1:] or 10)
        if _SCORES.search(name):
            return [0.5 - 2 * each for each in range(count)]  # the best first
        return [_value(name.removesuffix("s"), settings, each) for each in range(count)]
    if roles.startswith("#"):
        return int(roles[1:] or row)
    tokens = tokens_of_row(settings, row)
    question = _text(tokens // 4, row)
    answer = _text(tokens - tokens // 4 - _OF_TEMPLATES, row)
    text = question if name in _QUESTIONS else answer if name in _ANSWERS else _text(tokens, row)
    if _IMAGES.search(name):
        TEXTS["images"] = f"{PIXELS} x {PIXELS} pixels"
        image = {"bytes": _picture(), "path": None}
        return [image] if name == "images" else image
    if roles := "ua" if name in ("messages", "conversation", "conversations") else roles:
        TEXTS["conversations"] = size_in_words(settings)
        said = {"u": _said("user", question), "a": _said("assistant", answer)}
        return [said[role] for role in roles]
    if _LABELS.search(name):
        return row % 2
    if _SCORES.search(name):
        return 0.5
    if name.endswith("arguments"):
        return "{}"
    if re.search(r"(^|[_-])(id|ids|idx|index|[qp]id\d?)$", name):
        ids = [str(each) for each in range(10)]  # as BEIR has them
        return ids if name.endswith("-ids") else str(row) if "-" in name or name == "_id" else row
    several = [_text(tokens, 8 * row + each) for each in range(8)]
    nested: dict[str, Any] = {
        "completions": [text, text],
        "responses": [text, text],
        "negatives": several,
        "labels": [True, False],
        "passages": {"passage_text": several, "is_selected": [1] + [0] * 7, "url": [""] * 8},
        "answers": {"text": [question], "answer_start": [0]},
        "translation": dict.fromkeys(("en", "de", "fr", "ro"), question),
    }
    if name not in nested:
        TEXTS["texts"] = size_in_words(settings)
    return nested.get(name, text)


def _text(tokens: int, row: int) -> str:
    """Texts differ, since samplers leave out a row that a batch has, by words of one token."""
    begin = "".join(WORDS[int(digit)] for digit in f"{row % 1000:03}"[: max(tokens, 1)])
    return begin + WORD * (tokens - 3)


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


@cache
def _picture() -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (PIXELS, PIXELS)).save(file, "PNG")
    return file.getvalue()


def _sources() -> str:
    """Of the script and of what it imports from its own folder."""
    place = getattr(sys.modules.get("__main__"), "__file__", None)
    if not place:
        return ""
    folder = Path(place).resolve().parent
    files = {Path(place).resolve(): None}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and folder in Path(file).resolve().parents:
            files[Path(file).resolve()] = None
    texts = []
    for file in files:
        try:
            texts.append(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
    return "\n".join(texts)


def columns_of(source: str, words: Sequence[str] = ()) -> tuple[str, ...]:
    """Those that a script reads, so far as its text and its command line say; one of texts where
    they say nothing."""
    given = _columns_given([*_columns_by_default(source), *(words or sys.argv[1:])])
    for trainer, columns in _OF_TRAINERS.items():
        if re.search(rf"\b{trainer}\b", source):
            return columns
    names = [*given, *(match[1] for match in _READ.finditer(source))]
    for match in _LISTED.finditer(source):
        names += re.findall(r"""["'](\w+)["']""", match[1])
    names = [name for name in names if name not in (*_SPLITS, *_OTHER_SPLITS, *_MADE)]
    return tuple(dict.fromkeys(names)) or ("text",)


def _columns_by_default(source: str) -> list[str]:
    """`add_argument("--image_column", type=str, default="image")` as words of a command line."""
    return [f"{option}={value}" for option, value in _DEFAULT.findall(source)]


def _columns_given(words: Sequence[str]) -> list[str]:
    """`--image_column img`, `--dataset_field query response`, `--caption_column=text`."""
    names: list[str] = []
    takes = False
    for word in words:
        option, _, value = word.partition("=")
        if option.startswith("-"):
            takes = bool(_OPTION.fullmatch(option)) and not value
            names += [value] * (bool(value) and bool(_OPTION.fullmatch(option)))
        elif takes:
            names.append(word)
    return [name for name in names if name.isidentifier()]


# --- as the script goes on with them --------------------------------------------------------------


def _with_columns_on_demand(method: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    """A column that is not there is made when it is read, and the call begins anew."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if method.__name__ == "__getitem__" and isinstance(args[0], str):  # read later on
            _add_columns(self, [args[0]], settings)
        while True:
            try:
                return method(self, *args, **kwargs)
            except (KeyError, ValueError) as error:
                before = set(self.column_names)
                missing = _add_columns(self, _missing_columns(error), settings)
                if not missing:
                    raise
                removed = kwargs.get("remove_columns")
                if removed and set(removed) >= before:
                    kwargs["remove_columns"] = [*removed, *missing]

    return call


def _add_columns(dataset: Any, names: Sequence[str], settings: Settings) -> list[str]:
    """Those that it lacked, in place; of a data set of the user's own none."""
    missing = [name for name in names if name not in dataset.column_names]
    if not missing or dataset.info.description != _MARK:
        return []
    added = _with_columns(dataset.with_format(None), missing, settings)
    dataset._data, dataset._indices = added._data, added._indices
    dataset._info, dataset._fingerprint = added._info, added._fingerprint
    DATA_STOOD_IN.append(f"its columns {', '.join(missing)}")
    return missing


def _missing_columns(error: Exception) -> list[str]:
    words = str(error.args[0]) if error.args else ""
    named = _MISSING.search(words)
    if named:
        return re.findall(r"\w+", named[1])
    return [words] if isinstance(error, KeyError) and words else []


def _leaves_some(keep: Callable[..., Any]) -> Callable[..., Any]:
    """A script keeps rows by values that simulated ones do not have, as images below some size."""

    @wraps(keep)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = keep(self, *args, **kwargs)
        return kept if len(kept) or self.info.description != _MARK else self

    return call


def _as_many_as_there_are(select: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(select)
    def call(self: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
        if self.info.description == _MARK and len(self):
            wanted = list(indices)[: len(self)]
            indices = [index % len(self) for index in wanted] or range(len(self))
        return select(self, indices, *args, **kwargs)

    return call


def _of_all_there_are(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Where a script draws more of simulated rows than there are."""

    @wraps(draw)
    def call(population: Any, k: int, **kwargs: Any) -> Any:
        return draw(population, min(k, len(population)) if DATA_STOOD_IN else k, **kwargs)

    return call


def _split_at_a_quarter(split: Callable[..., Any]) -> Callable[..., Any]:
    """Where a script holds back more rows than there are."""

    @wraps(split)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return split(self, *args, **kwargs)
        except ValueError:
            if self.info.description != _MARK:
                raise
            return split(self, test_size=0.25, seed=kwargs.get("seed"))

    return call
