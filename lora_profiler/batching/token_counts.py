"""From text to a number of tokens: by the model's tokenizer where it is at hand, else by bytes."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_profiler._common.versions import missing
from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES_A_TOKEN = 4
"""English prose has 4 to 5 characters a token in vocabularies of 32,000 and more, code and other
scripts fewer; UTF-8 needs more bytes for those."""
_TEXTS_AT_ONCE = 1000
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
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # tokenizers raises plain exceptions of its own
        raise UsageError(f"{path} is no tokenizer: {str(e).splitlines()[0]}.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
