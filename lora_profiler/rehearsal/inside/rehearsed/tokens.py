"""Tokenizers and data sets that are not on this disk, where the run may pretend them."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .settings import Settings

DATA_STOOD_IN: list[str] = []
"""What was stood in for, in words."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
WORD = " a"
"""A token of its own in most vocabularies."""
_SPACE = "\u0120"
_ROWS = 512
_SPLITS = ("train", "validation", "test")
_OF_TRAINERS = {
    "DPOTrainer": ("prompt", "chosen", "rejected"),
    "RewardTrainer": ("chosen", "rejected"),
    "GRPOTrainer": ("prompt",),
}
_QUESTIONS = ("prompt", "instruction", "question", "query")
"""A quarter as long as the texts beside them: trainers leave out a row without room for an
answer."""
_READ = re.compile(
    r"""\b(?:examples?|batch|samples?|rows?|items?|elements?|data|dataset|x)\[\s*["'](\w+)["']\s*\]"""
)
_LISTED = re.compile(r"""(?:remove_columns=\[|rename_column\()([^\])]*)""")
_MADE = ("input_ids", "attention_mask", "labels", "token_type_ids", "position_ids")
"""What a tokenizer gives, or a script names anew."""


def write_tokenizer(folder: Path) -> None:
    """A token a byte, and one for each of the words that a stood-in text is made of; as many as the
    model beside it has, since scripts resize its embeddings to that."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merge, special = (_SPACE, WORD.strip()), ["<|pad|>", "<|end|>"]
    known = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "".join(merge), *special]
    others = range(_vocabulary_size(folder / "config.json") - len(known))
    vocabulary = {each: i for i, each in enumerate([*known, *(f"<|{n}|>" for n in others)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[merge]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    each = "{{ message['role'] }}: {{ message['content'] }}<|end|>"
    chat = f"{{% for message in messages %}}{each}{{% endfor %}}"
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|pad|>",
        "eos_token": "<|end|>",
        "chat_template": chat,
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def _vocabulary_size(config: Path) -> int:
    fields = json.loads(config.read_text("utf-8"))
    return int(fields.get("vocab_size") or fields.get("text_config", {}).get("vocab_size") or 0)


# --- data sets ------------------------------------------------------------------------------------


def stand_in_for_data(settings: Settings) -> None:
    """From here on `datasets.load_dataset` makes what it does not find."""
    from datasets import load

    original: Callable[..., Any] = load.load_dataset

    def load_dataset(path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(path, *args, **kwargs)
        except (OSError, ValueError):  # not on this disk, and nobody may be asked
            split = kwargs.get("split")
            return _made(path, split, settings, is_streamed=bool(kwargs.get("streaming")))

    load.load_dataset = load_dataset


def _made(path: str, split: Any, settings: Settings, *, is_streamed: bool) -> Any:
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    columns = settings.columns or columns_of(_source_of_script())
    DATA_STOOD_IN.append(f"the data set {path} ({', '.join(columns)})")
    rows = {name: [_value(name, settings.tokens, row) for row in range(_ROWS)] for name in columns}
    made = Dataset.from_dict(rows)
    if is_streamed:
        made = made.to_iterable_dataset()
    if split is not None:
        return made
    kind = IterableDatasetDict if is_streamed else DatasetDict
    return kind(dict.fromkeys(_SPLITS, made))


def _value(column: str, tokens: int, row: int) -> Any:
    if column in ("label", "labels", "idx", "id", "index"):
        return row % 2 if "label" in column else row
    return WORD * max(tokens // 4 if column in _QUESTIONS else tokens, 1)


def _source_of_script() -> str:
    place = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return Path(place).read_text("utf-8") if place else ""
    except (OSError, UnicodeDecodeError):
        return ""


def columns_of(source: str) -> tuple[str, ...]:
    """Those that a script reads, so far as its text says; one of texts where it says nothing."""
    for trainer, columns in _OF_TRAINERS.items():
        if trainer in source:
            return columns
    names = [match[1] for match in _READ.finditer(source)]
    for match in _LISTED.finditer(source):
        names += re.findall(r"""["'](\w+)["']""", match[1])
    names = [name for name in names if name not in (*_SPLITS, *_MADE)]
    return tuple(dict.fromkeys(names)) or ("text",)
