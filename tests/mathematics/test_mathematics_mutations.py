"""A check that cannot fail is a defect: PEFT, or what is learnt, is broken in one way at a time,
and its claim fails."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from peft.tuners.lora.layer import Linear

from claim_subjects import (
    EFFORT,
    a_transposed,
    b_not_zero,
    break_peft,
    dropout_left_on,
    quietly,
    scaled_by_alpha,
)
from lora_profiler.mathematics.intrinsic_dimension import Spectrum
from lora_profiler.mathematics.subject import Subject
from lora_profiler.mathematics.verify import CHECKS

pytestmark = pytest.mark.usefixtures("one_thread")


def evidence_of(claim: int, subject: Subject) -> Any:
    return CHECKS[claim](subject, EFFORT, 0, quietly)


@pytest.mark.grid
@pytest.mark.parametrize(
    ("break_layer", "claim"),
    [
        (scaled_by_alpha, 2),
        (scaled_by_alpha, 3),
        (scaled_by_alpha, 4),  # by the chain rule
        (b_not_zero, 4),
        (a_transposed, 2),
        (a_transposed, 3),
        (dropout_left_on, 2),
        (dropout_left_on, 3),
    ],
)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_broken_layer_breaks_its_claims(
    name: str,
    break_layer: Callable[[Any], None],
    claim: int,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject: Subject = request.getfixturevalue(name)
    break_peft(monkeypatch, break_layer)
    assert evidence_of(claim, subject).verdict == "fails"


def test_b_that_is_not_zero_is_seen_everywhere(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_peft(monkeypatch, b_not_zero)
    evidence = evidence_of(4, llama)
    assert not any(row.equal for row in evidence.logits)
    assert evidence.gaussian.largest_of_b > 0
    assert evidence.gradients.first.largest_of_a > 0
    assert not evidence.gradients.a_unmoved_by_first_step


@pytest.mark.parametrize(
    "other",
    [
        lambda layer: torch.nn.init.normal_(layer.lora_A["default"].weight, std=0.07),
        lambda layer: torch.nn.init.uniform_(layer.lora_A["default"].weight, -0.1, 0.1),
    ],
    ids=["another deviation", "uniform"],
)
def test_an_a_that_is_not_the_gaussian_one(
    other: Callable[[Any], None], llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_peft(monkeypatch, other)
    assert evidence_of(4, llama).verdict == "fails"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_merge_that_transposes_breaks_the_merge_alone(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one mistake that shapes do not show: a square update added the wrong way round."""
    subject: Subject = request.getfixturevalue(name)
    right = Linear.get_delta_weight

    def transposed(self: Any, adapter: str) -> torch.Tensor:
        update = right(self, adapter)
        return update.T if update.shape[0] == update.shape[1] else update

    monkeypatch.setattr(Linear, "get_delta_weight", transposed)
    assert evidence_of(2, subject).verdict == "fails"
    assert evidence_of(3, subject).verdict == "holds"


def test_a_merge_that_is_a_thousandth_off_is_no_rounding(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Linear.get_delta_weight
    monkeypatch.setattr(
        Linear, "get_delta_weight", lambda self, adapter: 1.001 * right(self, adapter)
    )
    evidence = evidence_of(2, llama)
    assert evidence.verdict == "fails"
    assert "NOT within" in evidence.finding[0]


def test_a_4_bit_layer_that_scales_wrongly_is_seen_though_the_others_are_right(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    break_peft(
        monkeypatch,
        lambda layer: scaled_by_alpha(layer) if type(layer).__name__ == "Linear4bit" else None,
    )
    evidence = evidence_of(2, llama)
    assert evidence.verdict == "fails"
    assert all(row.merged_error_of_limit <= 1 for row in evidence.rows)


def test_a_rank_that_is_one_too_high_is_counted(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def thicker(layer: Any) -> None:
        r = layer.r["default"] + 1
        layer.lora_A["default"] = torch.nn.Linear(layer.in_features, r, bias=False)
        layer.lora_B["default"] = torch.nn.Linear(r, layer.out_features, bias=False)

    break_peft(monkeypatch, thicker)
    assert evidence_of(1, llama).verdict == "fails"


def test_without_alpha_over_r_the_learning_rate_has_to_follow_the_rank(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evidence_of(5, llama).verdict == "holds_partly"
    break_peft(monkeypatch, scaled_by_alpha)
    assert evidence_of(5, llama).verdict == "fails"


def test_directions_that_do_not_matter_keep_no_gain(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Spectrum.truncated

    def least(self: Spectrum, matrix: torch.Tensor, rank: int) -> torch.Tensor:
        flipped = Spectrum(
            values=self.values.flip(0), basis=self.basis.flip(1), is_left=self.is_left
        )
        return right(flipped, matrix, rank)

    monkeypatch.setattr(Spectrum, "truncated", least)
    assert evidence_of(6, llama).verdict == "fails"
