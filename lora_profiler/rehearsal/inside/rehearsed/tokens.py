"""Tokenizers that are not on this disk, where the run may pretend them."""

import inspect
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DATA_STOOD_IN: list[str] = []
"""What was stood in for, in words."""
NOT_FOUND: dict[str, Path] = {}
"""Models without a tokenizer on this disk, where none may be simulated -> the model's folder."""
TEXTS: dict[str, str] = {}
"""Kinds of what was made in place of data -> the size of each, in words."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PREPROCESSORS = ("preprocessor_config.json",)
WORDS = tuple(f" {letter}" for letter in "bcdefghjkl")
"""Tokens of their own in most vocabularies, and no stop words, which a and i are."""
WORD = WORDS[0]
_SPACE, _METASPACE = "\u0120", "\u2581"
_PAD, _BEGIN, _END = "<|pad|>", "<s>", "<|end|>"
_IMAGE = "<image>"
_IMAGE_OF_CLASS = re.compile(r"""self\.image_token\b.{0,60}?"(<[^"]+>|\[[A-Z_]+\])\"""")
_OF_PROCESSOR = re.compile(
    r"""\btokenizer(?:\.|, ")(?!(?:pad|bos|eos|unk|sep|cls|mask)_)(\w+_token)(?:_id)?\b"""
)
_CHAT = """\
{%- for message in messages -%}
{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}
{%- else %}{% for part in message['content'] or [] -%}
{{ 'IMAGE' if part['type'] == 'image' else part.get('text', '') }}
{%- endfor %}{% endif %}
{%- if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}END
{%- endfor %}"""
_OF_CHATS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>",
    "<|end_of_text|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>",
    "<think>", "</think>", "<image>", "<|image|>", "<|image_pad|>", "<|vision_start|>",
    "<|vision_end|>", "<|video_pad|>", "<pad>", "<s>", "</s>", "<unk>",
)  # fmt: skip
"""What scripts name of models' vocabularies."""


def write_tokenizer(folder: Path, repository: str = "") -> None:
    """A token a byte, and one for each of the words that a stood-in text is made of; as many as the
    model beside it has, since scripts resize its embeddings to that. Special tokens are those of
    the model's own tokenizer class, those of chats, and what the command line names. Its chats are
    those that TRL knows of a repository of that name."""
    fields = json.loads((folder / "config.json").read_text("utf-8"))
    kind = tokenizer_class(str(fields.get("model_type", "")))
    named = {"pad_token": _PAD, "eos_token": _END} | (_named_tokens(kind) or _first_token(fields))
    given = [word for word in sys.argv[1:] if re.fullmatch(r"<\S+>|\[[A-Z]+\]", word)]
    image = _image_token(str(fields.get("model_type", "")))
    chat = chat_template(repository) or _CHAT.replace("IMAGE", image).replace(
        "END", named["eos_token"]
    )
    marks = re.findall(r"<\|\w+\|>", chat)
    extra = _tokens_of_processor(str(fields.get("model_type", ""))) | {"image_token": image}
    special = [*dict.fromkeys([*named.values(), *_OF_CHATS, *marks, *extra.values(), *given])]
    of_text = (fields.get("text_config") or {}) | {k: v for k, v in fields.items() if v is not None}
    size = of_text.get("vocab_size") or 0
    is_of_pieces = getattr(getattr(kind, "model", None), "__name__", "") == "Unigram"
    if is_of_pieces:
        tokenizer = _pieces(special, int(size), named)
    else:
        place = fields.get("image_token_id", fields.get("image_token_index"))
        tokenizer = _bytes(special, int(size), {image: place} if 0 < (place or 0) < size else {})
    _end_with_marks(tokenizer, named)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    if len(extra) > 1:
        settings["extra_special_tokens"] = extra
    if not _is_encoder(fields):
        (folder / TOKENIZER[-1]).write_text(chat, "utf-8")
    if limit := of_text.get("max_position_embeddings"):
        tokens = limit - 2  # RoBERTa's kind begins behind the position of padding
        settings["model_max_length"] = tokens if tokens & (tokens - 1) == 0 else limit
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def chat_template(repository: str) -> str | None:
    """TRL's copy of the template of that family of models: it looks for those that it knows. The
    one whose words, in their order, leave out the fewest letters of the name."""
    trl = find_spec("trl")
    if trl is None or not trl.submodule_search_locations:
        return None
    name = re.sub(r"[^a-z0-9]", "", repository.lower().rpartition("/")[2])
    found: dict[int, Path] = {}
    for path in sorted(Path(trl.submodule_search_locations[0]).glob("chat_templates/*.jinja")):
        words = path.stem.split("_")
        if match := re.search(".*?".join(words), name):
            found.setdefault(2 * len("".join(words)) - len(match[0]), path)
    return found[max(found)].read_text("utf-8") if found else None


def _first_token(fields: dict[str, Any]) -> dict[str, str]:
    """Of a model whose tokenizer class names no tokens, and whose config class one that begins a
    text."""
    from transformers import CONFIG_MAPPING

    kind = str(fields.get("model_type"))
    begins = kind in CONFIG_MAPPING and getattr(CONFIG_MAPPING[kind](), "bos_token_id", None)
    return {} if begins in (None, False) else {"bos_token": _BEGIN}


def _is_encoder(fields: dict[str, Any]) -> bool:
    """Whether the model fills masks: its tokenizer knows no chats."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as encoders

    names = fields.get("architectures") or ()
    return fields.get("model_type") in encoders and not any("CausalLM" in name for name in names)


def _image_token(model_type: str) -> str:
    """What stands for an image in a text, as transformers' processor of that type has it."""
    named = _IMAGE_OF_CLASS.search(_processor_source(model_type))
    return named[1] if named else _IMAGE


def _tokens_of_processor(model_type: str) -> dict[str, str]:
    """Those that transformers' processor of that type expects of its tokenizer by name."""
    names = _OF_PROCESSOR.findall(_processor_source(model_type))
    return {name: f"<|{name.removesuffix('_token')}|>" for name in names}


def _processor_source(model_type: str) -> str:
    import transformers
    from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES as names

    kind = getattr(transformers, names.get(model_type, ""), None)
    return inspect.getsource(kind.__init__) if kind else ""


def _bytes(special: list[str], size: int, places: dict[str, int]) -> Any:
    """`places`: ids that the model's config gives to some."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = [(_SPACE, word.strip()) for word in WORDS]
    known = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges), *special]
    tokens = _filled(known, size)
    for token, place in places.items():
        at = tokens.index(token)
        tokens[at], tokens[place] = tokens[place], token
    vocabulary = {each: i for i, each in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces(special: list[str], size: int, named: dict[str, str]) -> Any:
    """Of a class that builds SentencePiece's own kind, with padding, end and unknown first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    first = [named[f"{name}_token"] for name in ("pad", "eos", "unk") if f"{name}_token" in named]
    letters = [chr(code) for code in range(33, 127)]
    sentinels = [f"<extra_id_{number}>" for number in range(100)]
    known = dict.fromkeys(
        [*first, *(_METASPACE + word.strip() for word in WORDS), _METASPACE, *letters]
    )
    pieces = _filled([*dict.fromkeys([*known, *special, *sentinels])], size)
    scored = [(piece, 0.0 if piece in known else -100.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=len(first) - 1))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _end_with_marks(tokenizer: Any, named: dict[str, str]) -> None:
    """An encoder's texts begin and end with its marks."""
    first, last = named.get("cls_token"), named.get("sep_token")
    if first and last:
        from tokenizers import processors

        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(each, tokenizer.token_to_id(each)) for each in (first, last)],
        )  # fmt: skip


def _filled(known: list[str], size: int) -> list[str]:
    return [*known, *(f"<|{number}|>" for number in range(max(size - len(known), 0)))]


def write_preprocessor(path: Path, repository: str) -> None:
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
        DATA_STOOD_IN.append(f"the preprocessor of {repository}")


def tokenizer_class(model_type: str) -> Any:
    """transformers' tokenizer of that type, None where it has none."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES as names
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    name: Any = names.get(model_type)
    name = next(filter(None, reversed(name)), None) if isinstance(name, tuple) else name
    return tokenizer_class_from_name(name) if name else None


def _named_tokens(kind: Any) -> dict[str, str]:
    """mask_token, cls_token, ... as the class has them."""
    parameters = inspect.signature(kind.__init__).parameters if kind else {}
    return {
        key: str(parameter.default)
        for key, parameter in parameters.items()
        if key.endswith("_token") and isinstance(parameter.default, str) and parameter.default
    }
