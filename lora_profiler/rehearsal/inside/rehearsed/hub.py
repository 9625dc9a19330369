"""Calls that would change the hub or ask it for more than files, answered here: a rehearsal has
nothing to publish."""

import gzip
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from .tokens import DATA_STOOD_IN, WORDS

_USER = "user"
_GLOVE = re.compile(r"glove\.(\d+B)\.(\d+)d\.txt")
_GLOVE_WORDS = {"6B": 400_000, "42B": 1_917_494, "840B": 2_196_017}
"""Source: nlp.stanford.edu/projects/glove."""
_WRITES = ("upload_file", "upload_folder", "create_commit", "create_branch", "create_tag")


def publish_nothing() -> None:
    """From here on repositories seem to be made and written."""
    from huggingface_hub import hf_api

    def create_repo(_: Any, repo_id: str, **kwargs: Any) -> Any:
        words = [re.sub(r"[^\w.]+", "-", word) for word in repo_id.split("/")[-2:]]
        name = "/".join(words if len(words) > 1 else [_USER, *words])
        return hf_api.RepoUrl(f"https://huggingface.co/{name}")

    def written(_: Any, *args: Any, run_as_future: bool = False, **kwargs: Any) -> Any:
        result = SimpleNamespace(commit_url="", oid="0" * 40, pr_url=None)
        if not run_as_future:
            return result
        future: Future[Any] = Future()
        future.set_result(result)
        return future

    def whoami(_: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"name": _USER, "orgs": [], "type": "user", "auth": {"accessToken": {}}}

    stubs: dict[str, Callable[..., Any]] = {"create_repo": create_repo, "whoami": whoami}
    for name, stub in (stubs | dict.fromkeys(_WRITES, written)).items():
        setattr(hf_api.HfApi, name, stub)
        if hasattr(hf_api, name):  # of the module's own HfApi
            setattr(hf_api, name, getattr(hf_api.api, name))


def stand_in_for_metrics() -> None:
    """From here on `evaluate.load` answers zeros where it does not find a metric."""
    from evaluate import loading

    original: Callable[..., Any] = loading.load

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(path, *args, **kwargs)
        except (OSError, ImportError):
            DATA_STOOD_IN.append(f"the metric {path}")
            return _Metric(path)

    loading.load = load


def stand_in_for_texts() -> None:
    """From here on nltk takes a text of a language that it has no data of as one sentence."""
    from nltk.tokenize import punkt

    original: Callable[..., Any] = punkt.PunktTokenizer.load_lang

    def load_lang(tokenizer: Any, lang: str = "english") -> None:
        try:
            original(tokenizer, lang)
        except LookupError:
            DATA_STOOD_IN.append(f"nltk's sentences of {lang}")
            tokenizer._params, tokenizer._lang = punkt.PunktParameters(), lang

    punkt.PunktTokenizer.load_lang = load_lang


def stand_in_for_word_lists() -> None:
    """From here on sentence-transformers downloads nothing, but makes lists of words that it knows:
    GloVe's vectors and how many documents have a word."""
    from sentence_transformers.util import file_io

    original: Callable[..., Any] = file_io.http_get

    def http_get(url: str, path: str) -> None:
        name = url.rpartition("/")[2]
        lines = _words_of(name) if os.environ.get("HF_HUB_OFFLINE") else None
        if lines is None:
            original(url, path)
            return
        with gzip.open(path, "wt", 1) if path.endswith(".gz") else open(path, "w") as file:
            file.writelines(lines)
        DATA_STOOD_IN.append(f"the file {name}")

    file_io.http_get = http_get


def _words_of(name: str) -> Iterator[str] | None:
    vectors = _GLOVE.match(name)
    if vectors:
        zeros = " 0" * int(vectors[2])
        return (f"{word}{zeros}\n" for word in _words(_GLOVE_WORDS.get(vectors[1], 400_000)))
    if name.endswith("frequencies.txt"):
        return (f"{word}\t1\n" if word else "2\n" for word in ("", *_words(400_000)))
    return None


def _words(count: int) -> Iterator[str]:
    own = [word.strip() for word in WORDS]
    yield from own
    yield from (f"word{number}" for number in range(len(own), count))


class _Zeros(dict[str, float]):
    def __missing__(self, name: str) -> float:
        return 0.0


class _Metric:
    def __init__(self, name: str) -> None:
        self.name = name

    def add(self, **kwargs: Any) -> None: ...

    def add_batch(self, **kwargs: Any) -> None: ...

    def compute(self, *args: Sequence[Any], **kwargs: Any) -> dict[str, float]:
        return _Zeros({self.name: 0.0})
