"""The small parts that claims share, against other ways to the same numbers."""

import math
from statistics import NormalDist

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import given
from hypothesis import strategies as st

from claim_subjects import EFFORT
from lora_profiler.mathematics.adapters import AdapterFactors, without_numbers
from lora_profiler.mathematics.initialisation import kolmogorov_smirnov, moments
from lora_profiler.mathematics.intrinsic_dimension import kind_rows, layer_rows, spectrum
from lora_profiler.mathematics.layer_outputs import gamma, share_of_limit, unit_roundoff
from lora_profiler.mathematics.scaling import change_norm, update_norm
from lora_profiler.mathematics.subject import _batches, effort_for
from lora_profiler.report.claims.scaling import exponent


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- rounding -------------------------------------------------------------------------------------


def test_unit_roundoff_is_half_the_distance_to_the_next_number() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        one = torch.ones((), dtype=dtype)
        step = torch.nextafter(one, one * 2) - one
        assert unit_roundoff(dtype) == step.item() / 2
    assert unit_roundoff(torch.float32) == 2**-24
    assert unit_roundoff(torch.bfloat16) == 2**-8


@given(terms=st.integers(1, 2000), seed=st.integers(0, 10_000), spread=st.floats(0, 6))
def test_no_float32_inner_product_leaves_its_bound(terms: int, seed: int, spread: float) -> None:
    scale = 10 ** (spread * normal(terms, seed=seed + 1))
    x, y = (normal(terms, seed=seed) * scale).float(), normal(terms, seed=seed + 2).float()
    exact, size = (x.double() * y.double()).sum(), (x.double() * y.double()).abs().sum()
    assert share_of_limit((x @ y).double() - exact, gamma(terms) * size) <= 1
    in_order = torch.zeros(())
    for a, b in zip(x, y, strict=True):
        in_order = in_order + a * b
    assert share_of_limit(in_order.double() - exact, gamma(terms) * size) <= 1


def test_a_bound_is_not_so_wide_that_a_wrong_bit_slips_through() -> None:
    assert gamma(576) < 5e-5
    assert gamma(1) == pytest.approx(unit_roundoff(torch.float32), rel=1e-6)


def test_share_of_limit_counts_what_is_no_number_as_broken() -> None:
    assert share_of_limit(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 4.0])) == 0.25
    assert share_of_limit(torch.tensor([1.0]), torch.tensor([0.0])) == math.inf
    assert share_of_limit(torch.tensor([math.nan]), torch.tensor([1.0])) == math.inf
    assert share_of_limit(torch.tensor([math.inf]), torch.tensor([1.0])) == math.inf


# --- distributions --------------------------------------------------------------------------------


def test_distance_is_that_of_its_definition() -> None:
    sample = normal(200)
    cdf = NormalDist().cdf
    ordered = sorted(sample.tolist())
    naive = max(max((i + 1) / 200 - cdf(x), cdf(x) - i / 200) for i, x in enumerate(ordered))
    assert kolmogorov_smirnov(sample, "normal")[0] == pytest.approx(naive, abs=1e-9)
    uniform = (
        torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    )
    ordered = sorted(uniform.tolist())
    naive = max(
        max((i + 1) / 300 - (x + 1) / 2, (x + 1) / 2 - i / 300) for i, x in enumerate(ordered)
    )
    assert kolmogorov_smirnov(uniform, "uniform")[0] == pytest.approx(naive, abs=1e-12)


def test_p_values_are_uniform_where_the_hypothesis_is_true() -> None:
    found = sorted(kolmogorov_smirnov(normal(400, seed=seed), "normal")[1] for seed in range(400))
    for share in (0.05, 0.25, 0.5, 0.75):
        assert sum(p <= share for p in found) / 400 == pytest.approx(share, abs=0.08)


def test_other_distributions_are_told_apart() -> None:
    uniform = (
        torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    )
    assert kolmogorov_smirnov(uniform * math.sqrt(3), "normal")[1] < 1e-9
    assert kolmogorov_smirnov(normal(20_000) / math.sqrt(3), "uniform")[1] < 1e-9
    assert kolmogorov_smirnov(1.05 * normal(20_000), "normal")[1] < 1e-3
    assert kolmogorov_smirnov(normal(20_000) + 0.1, "normal")[1] < 1e-6


def test_moments_and_their_standard_errors() -> None:
    sample = normal(50_000, seed=3)
    m = moments(sample)
    assert (m.mean, m.deviation) == (
        pytest.approx(sample.mean().item()),
        pytest.approx(sample.std(unbiased=False).item()),
    )
    assert m.largest_z < 4
    names = ("mean_z", "deviation_z", "skewness_z", "kurtosis_z")
    z = torch.tensor(
        [[getattr(moments(normal(300, seed=s)), name) for name in names] for s in range(400)]
    )
    assert z.std(0).tolist() == pytest.approx([1, 1, 1, 1], abs=0.12)
    assert moments(sample.square()).largest_z > 50


# --- spectra --------------------------------------------------------------------------------------


@given(d=st.integers(1, 40), k=st.integers(1, 40), seed=st.integers(0, 1000), data=st.data())
def test_a_spectrum_is_the_singular_value_decomposition(
    d: int, k: int, seed: int, data: st.DataObject
) -> None:
    matrix = normal(d, k, seed=seed)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    found = spectrum(matrix)
    torch.testing.assert_close(found.values, values, rtol=1e-6, atol=1e-6)
    rank = data.draw(st.integers(1, min(d, k)))
    best = (u[:, :rank] * values[:rank]) @ v[:rank]
    cut = found.truncated(matrix, rank)
    assert torch.linalg.matrix_rank(cut, atol=1e-6) <= rank
    assert (matrix - cut).norm().item() == pytest.approx((matrix - best).norm().item(), abs=1e-6)
    assert found.energy[rank - 1].item() == pytest.approx(
        (cut.norm() / matrix.norm()).item() ** 2, abs=1e-6
    )
    assert found.energy[-1].item() == pytest.approx(1)


def test_effective_rank_of_what_is_known() -> None:
    assert spectrum(torch.eye(12, 30)).effective_rank == pytest.approx(12)
    assert spectrum(normal(20, 1) @ normal(1, 30)).effective_rank == pytest.approx(1, abs=1e-4)
    two = torch.diag(torch.tensor([3.0, 1.0]))
    assert spectrum(two).effective_rank == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )
    assert (spectrum(two).rank_for(0.9), spectrum(two).rank_for(0.91)) == (1, 2)


def test_rows_of_spectra_keep_energy_at_powers_of_two() -> None:
    weights = {f"layers.{i}.up": normal(8, 20, seed=i) for i in range(3)}
    spectra = {name: spectrum(weight) for name, weight in weights.items()}
    (kind,) = kind_rows(weights, spectra, seed=0)
    assert (kind.name, kind.copies, kind.middle) == ("layers.*.up", 3, "layers.1.up")
    squares = torch.linalg.svdvals(weights["layers.1.up"]).square()
    shares = [(squares[:r].sum() / squares.sum()).item() for r in (1, 2, 4, 8)]
    assert kind.update.energy == pytest.approx(tuple(shares), abs=1e-5)
    assert kind.weight.effective_rank == kind.update.effective_rank  # here the weight is the update
    assert layer_rows(spectra)[1].energy == kind.update.energy
    assert kind.update.places[0] == 1
    assert kind.update.places[-1] == 8
    assert kind.update.values[0] == 1


# --- norms and slopes -----------------------------------------------------------------------------


def factors(seed: int, scaling: float) -> AdapterFactors:
    return AdapterFactors(
        a=normal(3, 20, seed=seed), b=normal(30, 3, seed=seed + 1), scaling=scaling
    )


def test_norms_of_updates_are_those_of_the_whole_matrices() -> None:
    before = {"x": factors(0, 0.5), "y": factors(2, 0.5)}
    after = {"x": factors(4, 0.5), "y": factors(6, 0.5)}
    whole = torch.cat([f.update.flatten() for f in before.values()])
    change = torch.cat([(after[name].update - before[name].update).flatten() for name in before])
    assert update_norm(before) == pytest.approx(whole.norm().item())
    assert change_norm(before, after) == pytest.approx(change.norm().item())
    assert change_norm(before, before) == pytest.approx(0, abs=1e-5)


def test_exponent_finds_the_power() -> None:
    ranks = [1, 2, 4, 8, 64]
    assert exponent(ranks, [3 * r**-0.5 for r in ranks]) == pytest.approx(-0.5)
    assert exponent(ranks, [7.0] * 5) == pytest.approx(0, abs=1e-12)


# --- batches, names, sizes ------------------------------------------------------------------------


def test_batches_are_windows_that_do_not_overlap_until_the_text_is_used_up() -> None:
    tokens = torch.arange(32 * 17 + 5)
    batches = _batches(tokens, 3, EFFORT, seed=1)
    assert [tuple(batch.shape) for batch in batches] == [(8, 32)] * 3
    starts = torch.cat([batch[:, 0] for batch in batches])
    assert set(starts.tolist()) == {32 * i for i in range(17)}
    assert len(set(starts[:17].tolist())) == 17
    assert all(
        torch.equal(row, torch.arange(row[0], row[0] + 32)) for batch in batches for row in batch
    )
    again, other = _batches(tokens, 3, EFFORT, seed=1), _batches(tokens, 3, EFFORT, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(batches, other, strict=True))


def test_names_without_numbers() -> None:
    assert without_numbers("model.layers.17.mlp.up_proj") == "model.layers.*.mlp.up_proj"
    assert without_numbers("transformer.h.3.attn.c_attn") == "transformer.h.*.attn.c_attn"


def test_a_quick_run_is_never_more_than_a_full_one() -> None:
    for size in (1_000_000, 135_000_000):
        quick, full = effort_for(size, quick=True), effort_for(size, quick=False)
        assert quick.batch_size == full.batch_size
        assert set(quick.scaling_ranks) <= set(full.scaling_ranks)
        for name in (
            "seq_len",
            "check_tokens",
            "held_out_batches",
            "merge_steps",
            "timed_calls",
            "scaling_steps",
            "tuning_steps",
        ):
            assert getattr(quick, name) < getattr(full, name)
