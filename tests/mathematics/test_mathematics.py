"""Each claim on tiny real models: what it finds agrees with what is computed here by other
means."""

from dataclasses import asdict, replace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import json

import msgspec
import torch

from claim_subjects import EFFORT, quietly
from lora_profiler.errors import UsageError
from lora_profiler.mathematics import (
    cost,
    forward_path,
    initialisation,
    intrinsic_dimension,
    merging,
    scaling,
    update_size,
)
from lora_profiler.mathematics.adapters import adapted, exact_weight, factors, lora_layers
from lora_profiler.mathematics.intrinsic_dimension import FullTuning, linear_names
from lora_profiler.mathematics.subject import Subject, mean_loss, train
from lora_profiler.mathematics.verify import CHECKS, check_memory, verify
from lora_profiler.measuring.records.record import (
    Conditions,
    Device,
    Environment,
    Measurement,
    Record,
)
from lora_profiler.memory.analytic import predict
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.report.claims import CLAIMS
from lora_profiler.report.claims.merging import Nf4

pytestmark = pytest.mark.usefixtures("one_thread")


def checked(check: Any, subject: Subject) -> Any:
    return check(subject, EFFORT, 0, quietly)


# --- 1 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_sizes_are_those_of_the_predictor_and_of_the_formula(
    name: str, request: pytest.FixtureRequest
) -> None:
    subject: Subject = request.getfixturevalue(name)
    evidence = checked(update_size.check, subject)
    assert evidence.verdict == "holds"
    assert (evidence.example.full, evidence.example.lora) == (16_777_216, 65_536)
    assert evidence.example.fewer > 0.996
    for row in evidence.model.ranks:
        setup = TrainSetup(lora=LoraConfig(r=row.rank), device="cpu")
        assert row.lora == predict(Workload(model=subject.spec, setup=setup)).parameters.adapter
    for layer in evidence.layers:
        d, k, turn = (layer.out_features, layer.in_features, layer.lora_exceeds_full_from_rank)
        assert turn * (d + k) > d * k >= (turn - 1) * (d + k)
        assert layer.full == d * k
        assert all((row.a, row.b) == (row.rank * k, row.rank * d) for row in layer.ranks)
    full = sum(layer.copies * layer.full for layer in evidence.layers)
    turn = evidence.model.lora_exceeds_full_from_rank
    by_rank = {row.rank: row for row in evidence.model.ranks}
    assert evidence.model.full == full
    assert turn * by_rank[1].lora > full >= (turn - 1) * by_rank[1].lora
    assert [row.share_of_full > 1 for row in by_rank.values()] == [rank >= turn for rank in by_rank]
    assert all(
        layer.kind == ("Linear" if name == "llama" else "Conv1D") for layer in evidence.layers
    )


# --- 2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_merged_and_unmerged_agree_in_both_layouts(
    name: str, request: pytest.FixtureRequest
) -> None:
    evidence = checked(merging.check, request.getfixturevalue(name))
    rows = evidence.rows
    assert evidence.verdict == "holds"
    assert {row.layouts[0] for row in rows} == {"Linear", "Conv1D"}
    assert {row.dtype for row in rows} == {"float32", "bfloat16"}
    for row in rows:
        assert row.shapes_equal and row.plain_after_merge
        errors = row.weight_error_of_limit, row.unmerged_error_of_limit, row.merged_error_of_limit
        assert all(0 < error <= 1 for error in errors)
        assert row.output_difference < (1e-4 if row.dtype == "float32" else 0.2)
        assert 0.5 < row.weights_restored_by_unmerge < 1


def test_a_4_bit_base_forgets_the_update_when_it_is_quantised_again(llama: Subject) -> None:
    pytest.importorskip("bitsandbytes")
    nf4 = checked(merging.check, llama).nf4
    assert nf4.checked
    assert 0.05 < nf4.quantisation_error_of_weight < 0.15
    assert 0 < nf4.worst <= 1
    assert nf4.requantisation_error_of_update > 0.5
    assert nf4.update_kept < 0.5
    assert nf4.loss.unmerged < nf4.loss.merged_and_quantised_again


def test_without_bitsandbytes_the_rest_is_checked_and_the_gap_is_said(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "find_spec", lambda name: None)
    evidence = checked(merging.check, llama)
    assert evidence.verdict == "holds_partly"
    assert evidence.nf4 == Nf4(
        checked=False, reason='needs bitsandbytes: pip install "lora-profiler[qlora]"'
    )
    assert "NF4 base was not checked" in evidence.finding[-1]


# --- 3 --------------------------------------------------------------------------------------------


def test_every_layer_is_both_paths_at_once_and_costs_what_is_predicted(llama: Subject) -> None:
    evidence = checked(forward_path.check, llama)
    assert evidence.verdict == "holds"
    for row in evidence.rows:
        assert row.layers == 14
        assert 0 < row.error_of_limit <= 1
        assert row.largest_path_of_output > 1e-3  # the second path is there to be seen
    for cost_row in evidence.costs:
        d, k, r, n = (cost_row.out_features, cost_row.in_features, evidence.rank, evidence.tokens)
        assert cost_row.base_flops == 2 * n * d * k
        assert cost_row.measured_flops == 2 * n * r * (d + k)
        assert cost_row.measured_bytes == 4 * n * (k + r)
        assert min(cost_row.base_seconds, cost_row.adapted_seconds) > 0


# --- 4 --------------------------------------------------------------------------------------------


def test_training_starts_from_the_base_model(llama: Subject) -> None:
    evidence = checked(initialisation.check, llama)
    assert evidence.verdict == "holds"
    with adapted(llama.model(), r=16, alpha=32, seed=0, init_lora_weights="gaussian") as wrapped:
        weights = (layer.lora_A["default"].weight for layer in lora_layers(wrapped).values())
        a = torch.cat([weight.detach().flatten() for weight in weights])
    deviation = 16 * a.std(unbiased=False).item()
    assert evidence.gaussian.moments.count == a.numel()
    assert evidence.gaussian.moments.deviation == pytest.approx(deviation, rel=1e-5)
    assert evidence.default.p_value > 1e-3 > 1e-9 > evidence.default.p_value_as_normal
    assert all(row.equal and row.largest_difference == 0 for row in evidence.logits)
    first, second = evidence.gradients.first, evidence.gradients.second
    assert (first.largest_of_a, evidence.gradients.a_unmoved_by_first_step) == (0, True)
    assert min(first.smallest_norm_of_b, second.largest_of_a) > 0
    assert max(first.error_of_limit, second.error_of_limit) <= 1


# --- 5 --------------------------------------------------------------------------------------------


def test_scaling_shares_runs_that_are_one_and_is_the_same_again(llama: Subject) -> None:
    effort = replace(EFFORT, learning_rates=(1e-3, 1e-2))
    evidence = scaling.check(llama, effort, 0, quietly)
    by_key = {row.key: row for row in evidence.scalings}
    assert [run.factor for run in by_key["fixed"].runs] == [16, 2, 0.25]
    assert [run.factor for run in by_key["none"].runs] == [1, 1, 1]
    assert by_key["fixed"].runs[0] == by_key["fixed_rs"].runs[0]
    assert evidence.trained_runs == 10 + 6  # at r = 1 two ways to scale are one, and two others
    assert by_key["fixed_rs"].levels.first_update.exponent == pytest.approx(
        by_key["fixed"].levels.first_update.exponent + 0.5, abs=1e-3
    )  # the first step of Adam has the same B whatever the scaling is
    assert by_key["fixed"].levels.first_logit_change.level
    assert not by_key["none"].levels.first_logit_change.level
    assert {(row.key, row.rank) for row in evidence.learning_rates} == {
        (key, r) for key in by_key for r in (1, 64)
    }
    few = replace(EFFORT, scaling_ranks=(1, 8))
    first = scaling.check(llama, few, 0, quietly)
    assert first == scaling.check(llama, few, 0, quietly)
    assert first.scalings[0].runs == by_key["fixed"].runs[:2]
    assert first.scalings != scaling.check(llama, few, 1, quietly).scalings


def test_the_first_update_is_what_peft_adds_to_the_weight(llama: Subject) -> None:
    run = checked(scaling.check, llama).scalings[1].runs[1]
    model, batches = llama.model(), llama.training_batches(EFFORT.scaling_steps, EFFORT, 0)
    with adapted(model, r=8, alpha=16, use_rslora=True, seed=0) as wrapped:
        layers = lora_layers(wrapped)
        weight = torch.cat([exact_weight(layer).flatten() for layer in layers.values()]).norm()
        train(wrapped, batches[:1], learning_rate=1e-3, seed=0)
        deltas = [layer.get_delta_weight("default").flatten() for layer in layers.values()]
        update = torch.cat(deltas).norm()
    assert run.first_update == pytest.approx((update / weight).item(), rel=1e-4)


# --- 6 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_update_is_put_back_at_any_rank(name: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(name)
    evidence = checked(intrinsic_dimension.check, subject)
    assert evidence.verdict == "holds"
    assert evidence.changed_share > 0.99
    shares = [row.truncated_gain_share for row in evidence.ranks]
    assert shares[-1] == pytest.approx(1, abs=0.01)  # rank 64 is the full rank of most layers
    assert max(shares[:2]) <= 1.05
    if name == "llama":  # the other has learnt so little that rank 1 holds it all
        assert shares[0] < shares[1]
    for kind in evidence.kinds:
        assert kind.energy_at_8 > kind.random.energy[3]
        assert 1 <= kind.effective_rank <= min(kind.out_features, kind.in_features)
    assert len(evidence.layers) == sum(kind.copies for kind in evidence.kinds)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_full_tuning_takes_the_update_apart_and_puts_it_together(
    name: str, request: pytest.FixtureRequest
) -> None:
    subject: Subject = request.getfixturevalue(name)
    base, held_out = subject.model(), subject.held_out_batches(EFFORT)
    before = {n: p.detach().clone() for n, p in base.named_parameters()}
    tuning = FullTuning(base, subject.training_batches(3, EFFORT, 0), 1e-3, 0, lambda step: None)
    tuned = {n: p.detach().clone() for n, p in tuning.as_tuned().named_parameters()}
    assert all(not torch.equal(before[n], tuned[n]) for n in before)
    linear = {f"{n}.weight" for n in linear_names(subject.model())}
    for n, p in tuning.with_updates(tuning.update).named_parameters():
        torch.testing.assert_close(p, tuned[n] if n in linear else before[n], rtol=0, atol=1e-7)
    nothing = {n: torch.zeros_like(update) for n, update in tuning.update.items()}
    assert mean_loss(tuning.with_updates(nothing), held_out) == mean_loss(subject.model(), held_out)


# --- 7 --------------------------------------------------------------------------------------------


def measured_as_predicted(workload: Workload, **changes: Any) -> Record:
    """What `measure` would return if every prediction were exact; `changes` replace parts of the
    measurement."""
    prediction = predict(workload)
    seconds = 1.0 if workload.setup.lora is None else 0.9
    measurement = Measurement(
        status="ok",
        num_trainable_parameters=prediction.parameters.trainable,
        persistent_bytes={str(name): size for name, size in prediction.persistent_bytes.items()},  # type: ignore[misc]
        saved_activation_bytes=prediction.saved_activation_bytes,
        peak_requested_bytes=prediction.peak.total_bytes,
        step_seconds=(seconds,) * 6,
    )
    device = Device(kind="cpu", name="test")
    return Record(
        workload=workload,
        conditions=Conditions(),
        environment=Environment(python="3", platform="test", packages={}, device=device),
        measurement=replace(measurement, **changes),
    )


def test_costs_are_shares_of_full_and_honest_where_lora_keeps_more(
    llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "measure", lambda workload, *a, **o: measured_as_predicted(workload))
    evidence = cost.check(llama, replace(EFFORT, cost_dtypes=("float32", "bfloat16")), 0, quietly)
    pairs = evidence.pairs
    assert [(p.dtype, p.adapter_dtype, p.seq_len) for p in pairs] == [
        ("float32", "float32", 32),
        ("bfloat16", "float32", 32 // cost.IMITATED),
        ("bfloat16", "bfloat16", 32 // cost.IMITATED),
    ]
    assert pairs[0].step_time == pytest.approx(0.9)
    assert all(p.optimizer_states < 1 for p in pairs)
    assert pairs[1].saved_activations > 1
    assert pairs[1].peak > 1  # of so small a model activations are most of the peak
    assert evidence.verdict == "holds_partly"
    assert "LoRA keeps more activations than full" in " ".join(evidence.finding)
    assert "Predicted sizes are exact." in evidence.finding


STATES = {"gradients": 1, "optimizer_states": 10**9}
NOTHING: dict[str, Any] = {"status": "crash", "persistent_bytes": {}, "step_seconds": ()}
NOTHING["peak_requested_bytes"] = None


@pytest.mark.parametrize(
    ("changes", "verdict", "sentence"),
    [
        ({"persistent_bytes": STATES}, "fails", "does NOT keep two numbers"),
        ({"peak_requested_bytes": 10**6}, "holds_partly", "off by"),
        (NOTHING, "holds_partly", "not measured"),
    ],
)
def test_costs_that_are_not_as_claimed(
    changes: dict[str, Any],
    verdict: str,
    sentence: str,
    llama: Subject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = lambda workload, *a, **o: measured_as_predicted(workload, **changes)  # noqa: E731
    monkeypatch.setattr(cost, "measure", answer)
    evidence = checked(cost.check, llama)
    assert evidence.verdict == verdict
    assert sentence in " ".join(evidence.finding)


def test_costs_measured_for_real_are_as_predicted(llama: Subject) -> None:
    evidence = checked(cost.check, llama)
    assert [row.status in ("ok", "noisy") for row in evidence.rows] == [True, True]
    assert evidence.verdict == "holds"
    assert max(abs(error) for row in evidence.rows for error in row.errors) < 0.01


# --- all ------------------------------------------------------------------------------------------


def test_every_claim_has_a_check_and_leaves_the_subject_as_it_was(llama: Subject) -> None:
    assert set(CHECKS) == {claim.id for claim in CLAIMS} == set(range(1, 8))
    for claim in CLAIMS:
        names = (kind.__module__.rpartition(".")[2] for kind in (CHECKS[claim.id], claim.evidence))
        assert len(set(names)) == 1
    assert {claim.id for claim in CLAIMS if claim.must_hold} == {2, 3, 4}
    before = {n: p.clone() for n, p in llama.model().named_parameters()}
    events: list[tuple[int, str]] = []

    class Watched:
        def begin(self, claim: Any) -> Any:
            events.append((claim.id, "begin"))
            return quietly

        def end(self, check: Any) -> None:
            events.append((check.claim.id, "end"))

    checks = verify(llama, CLAIMS[:4], EFFORT, 0, Watched())
    assert [each.evidence.verdict for each in checks] == ["holds"] * 4
    assert events == [(number, what) for number in (1, 2, 3, 4) for what in ("begin", "end")]
    model = llama.model()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert not lora_layers(model)


def test_adapters_come_and_go(llama: Subject) -> None:
    model = llama.model()
    ids = llama.check_ids(EFFORT)
    before = model(input_ids=ids).logits
    with adapted(model, r=4, alpha=8, seed=3) as wrapped:
        a = {name: factors(layer, 2.0).a for name, layer in lora_layers(wrapped).items()}
        assert all(layer.scaling["default"] == 2 for layer in lora_layers(wrapped).values())
        assert not wrapped.training
    with adapted(model, r=4, alpha=8, seed=3) as wrapped:
        again = {name: factors(layer, 2.0).a for name, layer in lora_layers(wrapped).items()}
        assert all(torch.equal(again[name], a[name]) for name in again)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_model_too_large_for_the_machine_is_refused_before_it_is_loaded() -> None:
    check_memory(135_000_000, CLAIMS, 24 * 2**30)
    check_memory(135_000_000, CLAIMS, None)
    said = r"8,030,261,248 parameters need up to 239\.32 GiB .*--claims 1,2,3,4,5"
    with pytest.raises(UsageError, match=said):
        check_memory(8_030_261_248, CLAIMS, 24 * 2**30)


def test_a_finding_is_made_of_what_json_can_hold(llama: Subject) -> None:
    for claim in CLAIMS[:4]:
        evidence = CHECKS[claim.id](llama, EFFORT, 0, quietly)
        assert isinstance(evidence, claim.evidence)
        written = json.dumps(asdict(evidence), allow_nan=False)
        assert msgspec.json.decode(written, type=claim.evidence) == evidence
        assert evidence.finding
