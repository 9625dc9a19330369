"""Tokenizers that are not on this disk, where the run may pretend them."""

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

DATA_STOOD_IN: list[str] = []
"""What was stood in for, in words."""
TEXTS: dict[str, str] = {}
"""Kinds of what was made in place of data -> the size of each, in words."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
PREPROCESSORS = ("preprocessor_config.json",)
WORD = " a"
"""A token of its own in most vocabularies."""
_SPACE = "\u0120"
_PAD, _END = "<|pad|>", "<|end|>"
_OF_CHATS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>",
    "<|end_of_text|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>",
    "<think>", "</think>", "<image>", "<|image|>", "<|image_pad|>", "<|vision_start|>",
    "<|vision_end|>", "<|video_pad|>", "<pad>", "<s>", "</s>", "<unk>",
)  # fmt: skip
"""What scripts name of models' vocabularies."""


def write_tokenizer(folder: Path) -> None:
    """A token a byte, and one for each of the words that a stood-in text is made of; as many as the
    model beside it has, since scripts resize its embeddings to that. Special tokens are those of
    the model's own tokenizer class, those of chats, and what the command line names."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fields = json.loads((folder / "config.json").read_text("utf-8"))
    named = _named_tokens(str(fields.get("model_type", "")))
    given = [word for word in sys.argv[1:] if re.fullmatch(r"<\S+>|\[[A-Z]+\]", word)]
    merge = (_SPACE, WORD.strip())
    special = [*dict.fromkeys([_PAD, _END, *named.values(), *_OF_CHATS, *given])]
    known = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "".join(merge), *special]
    size = fields.get("vocab_size") or fields.get("text_config", {}).get("vocab_size") or 0
    others = range(max(int(size) - len(known), 0))
    vocabulary = {each: i for i, each in enumerate([*known, *(f"<|{n}|>" for n in others)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[merge]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _end_with_marks(tokenizer, named, vocabulary)
    each = "{{ message['role'] }}: {{ message['content'] }}" + named.get("eos_token", _END)
    chat = f"{{% for message in messages %}}{each}{{% endfor %}}"
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": _PAD,
        "eos_token": _END,
        **named,
        "chat_template": chat,
    }
    if limit := fields.get("max_position_embeddings"):
        settings["model_max_length"] = limit
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def write_preprocessor(path: Path) -> None:
    """Of images or audio, as transformers' class for that type of model is by default."""
    from transformers.models.auto import auto_mappings

    kind = json.loads(path.with_name("config.json").read_text("utf-8")).get("model_type")
    images: Any = auto_mappings.IMAGE_PROCESSOR_MAPPING_NAMES.get(kind)
    audio = auto_mappings.FEATURE_EXTRACTOR_MAPPING_NAMES.get(kind)
    if isinstance(images, dict):
        images = images.get("torchvision") or images.get("pil")
    fields = {"image_processor_type": images, "feature_extractor_type": audio}
    if named := {field: name for field, name in fields.items() if name}:
        path.write_text(json.dumps(named), "utf-8")
        DATA_STOOD_IN.append(f"the preprocessor of {path.parent.name}")


def _named_tokens(model_type: str) -> dict[str, str]:
    """mask_token, cls_token, ... as transformers' tokenizer of that type has them."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES as names
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    name: Any = names.get(model_type)
    name = next(filter(None, reversed(name)), None) if isinstance(name, tuple) else name
    kind: Any = tokenizer_class_from_name(name) if name else None
    if kind is None:
        return {}
    return {
        key: str(parameter.default)
        for key, parameter in inspect.signature(kind.__init__).parameters.items()
        if key.endswith("_token") and isinstance(parameter.default, str) and parameter.default
    }


def _end_with_marks(tokenizer: Any, named: dict[str, str], vocabulary: dict[str, int]) -> None:
    """An encoder's texts begin and end with its marks."""
    first, last = named.get("cls_token"), named.get("sep_token")
    if not first or not last:
        return
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])],
    )  # fmt: skip
