"""Adafactor's scratch on a card, against rehearsals on torch's CUDA build."""

import json
from pathlib import Path

import pytest

from lora_profiler import Platform, TrainSetup, Workload, find_model, predict
from lora_profiler.planning.reserve import WORDS, scratch_bytes

ROOT = Path(__file__).parents[2]
ROWS = [
    json.loads(line)
    for line in (ROOT / "benchmarks/results/rehearsed_trainers.jsonl").read_text().splitlines()
]


def asked(model: str, capability: int) -> Workload:
    setup = TrainSetup(batch_size=1, seq_len=64, optimizer="adafactor")
    spec = find_model(model, offline=True)
    return Workload(model=spec, setup=setup, platform=Platform(capability=capability))


@pytest.mark.parametrize(("capability", "exactness"), [(80, "exact"), (90, "estimate")])
def test_a_small_model_is_an_estimate_where_the_card_is_wide(
    capability: int, exactness: str
) -> None:
    """108 MiB or 132, beside a copy of the embedding of 108 MiB."""
    told = predict(asked("HuggingFaceTB/SmolLM2-135M", capability), "analytic")
    assert told.exactness == exactness
    assert (WORDS in told.assumptions) == (exactness == "estimate")


def test_a_large_model_is_exact_on_any_card() -> None:
    assert predict(asked("meta-llama/Llama-3.2-1B", 90), "analytic").exactness == "exact"


def test_the_bound_holds_where_it_was_rehearsed() -> None:
    found = [r for r in ROWS if "adafactor" in r["key"] and "h100" in r["key"]]
    assert len(found) == 6
    for row in found:
        counted = row["requested_bytes"] - row["workspaces_bytes"]
        told = predict(asked("HuggingFaceTB/SmolLM2-135M", 90), "analytic").error_bound
        assert told is not None
        assert row["predicted_bytes"] < counted <= row["predicted_bytes"] * (1 + told)


def test_the_scratch_is_that_of_the_allocator_s_log() -> None:
    """576 columns on the 132 multiprocessors of a pretended H100 SXM."""
    assert scratch_bytes(576, 132 * 16) == 124_747_776
