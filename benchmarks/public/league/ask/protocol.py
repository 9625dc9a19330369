"""How a question reaches an estimator's own code: JSON on stdin, an answer for each on stdout.

Every file beside this one runs under the Python of one estimator's environment, as a program, so
that none sees another's libraries or this project's. An answer is bytes, or the reason of a
refusal. What an estimator says on stdout meanwhile goes to stderr.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Question = Mapping[str, Any]
"""Fields of `benchmarks.public.league.questions.Question`."""
GIB, MIB = 2**30, 2**20
QUERY_VALUE = ["q_proj", "v_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


class RefusedError(Exception):
    """The estimator has no option for what ran; the message says for what."""


def answer(estimate: Callable[[Question], float]) -> None:
    """Answers every question with the bytes that `estimate` returns, and with its error's message
    where it raises one."""
    answers = []
    with contextlib.redirect_stdout(sys.stderr):
        for question in json.load(sys.stdin):
            try:
                answers.append({"bytes": round(estimate(question))})
            except Exception as error:  # an estimator's own refusals have types of their own
                said = str(error).strip().splitlines() or [type(error).__name__]
                answers.append({"refused": said[0]})
    json.dump(answers, sys.stdout)


def one_card(question: Question) -> None:
    if question["sharding"] == "fsdp":
        raise RefusedError("no option for weights shared by several GPUs")


def llama_shaped(question: Question) -> None:
    """The widths that estimators ask for one by one have these names."""
    if "hidden_size" not in question["config"]:
        raise RefusedError("config.json has no hidden_size")


def smallest(question: Question, names: Mapping[str, list[str]]) -> str:
    """The first of the names, which go from small to large, whose layers have all those adapted."""
    for name, layers in names.items():
        if set(question["targets"]) <= set(layers):
            return name
    raise RefusedError(f"no option for adapters on {', '.join(question['targets'])}")


def heads(question: Question) -> tuple[int, int]:
    """Of attention, and of keys and values."""
    config = question["config"]
    count = config["num_attention_heads"]
    return count, config.get("num_key_value_heads") or count


def folder(question: Question) -> str:
    """With the model's config.json alone."""
    path = Path(tempfile.mkdtemp()) / question["model"].rpartition("/")[2]
    path.mkdir()
    (path / "config.json").write_text(json.dumps(question["config"]), "utf-8")
    return str(path)
