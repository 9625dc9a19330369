"""The fuzz of `benchmarks/truth/fuzz.py`: a little of it, and that it notices what it is there to
notice."""

import json
import random
from typing import Any

import pytest

from benchmarks.truth import fuzz, fuzz_questions


def prediction(*totals: int, exactness: str = "exact", method: str = "lora") -> dict[str, Any]:
    at: dict[str, Any] = {"moment": "setup", "step": "steady"}
    moments = [
        at | {"total_bytes": total, "bytes": {"parameters": total - 1, "inputs": 1}}
        for total in totals
    ]
    peak = max(moments, key=lambda moment: int(moment["total_bytes"]))
    by = {"exactness": exactness, "engine": "analytic", "setup": {"method": method}}
    return {"moments": moments, "peak": peak, **by}


def answer(
    *predictions: dict[str, Any],
    code: int = 0,
    out: str | None = None,
    err: str = "",
    gpu: bool = False,
) -> fuzz.Answer:
    found = fuzz.Answer(["predict", *(["--gpu", "t4"] if gpu else []), "gpt2"], code, 0.1)
    fuzz.read(found, json.dumps({"predictions": predictions}) if out is None else out, err)
    return found


def test_a_little_of_it_finds_nothing_bad() -> None:
    tally = fuzz.run(40, 2, seed=7)
    assert tally.bad == []
    assert tally.counts["calls, exit code 0"] > 5
    assert tally.counts["moments whose categories were added"] > 50


def test_a_seed_asks_the_same_questions() -> None:
    one, other = random.Random("3"), random.Random("3")
    for _ in range(50):
        assert fuzz_questions.question(one, ["gpt2"]) == fuzz_questions.question(other, ["gpt2"])


@pytest.mark.parametrize(
    ("found", "bad"),
    [
        (answer(prediction(10, 20)), []),
        (answer(prediction(10), code=1, gpu=True), []),
        (answer(prediction(10), code=1), ["exit code 1 without a card"]),
        (answer(code=2, out="", err="error: no"), []),
        (answer(code=2, out="", err="no"), ["a refusal without a reason"]),
        (answer(code=3, out="{}", err="error: no"), ["a refusal with output"]),
        (answer(code=4, out="", err="error: no"), ["exit code 4"]),
        (
            answer(code=2, out="", err="error: \nTraceback (most recent call last):\nKeyError: 1"),
            ["traceback: KeyError: 1"],
        ),
        (
            answer(out='{"predictions": [], "alpha": Infinity}'),
            ["not JSON: Infinity is no number in JSON"],
        ),
        (
            answer(prediction(10) | {"peak": {"total_bytes": 9}}),
            ["the peak is not the largest steady moment"],
        ),
    ],
)
def test_what_is_bad_is_noticed(found: fuzz.Answer, bad: list[str]) -> None:
    assert found.bad == bad


def test_categories_that_do_not_add_up_are_noticed() -> None:
    wrong = prediction(10)
    wrong["moments"][0]["bytes"]["inputs"] = 2
    assert answer(wrong).bad == ["categories of setup do not add up"]


def test_a_peak_that_falls_and_engines_that_differ_are_noticed() -> None:
    higher, lower = answer(prediction(20)), answer(prediction(10))
    assert fuzz.compare_sizes(lower, "--rank", higher) == 1 and higher.bad == []
    assert fuzz.compare_sizes(higher, "--rank", lower) == 1
    assert lower.bad == ["the lora peak falls from 20 to 10 as --rank rises"]
    other = answer(prediction(11))
    assert fuzz.compare_engines(lower, other) == 1
    assert other.bad == ["exact peaks: analytic 10, compiled 11"]
    assert fuzz.compare_engines(lower, answer(prediction(12, exactness="estimate"))) == 0
