"""Verdicts, searches and levers. The bisection runs on made-up predictors, the rest on the real
one."""

import re
from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_profiler import Space, setup_for
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.planning.answers import activation_excess, outweighed_layers
from lora_profiler.planning.engine import peak_bytes, predict
from lora_profiler.planning.fit import Fit, fit, judge, largest, smallest_card
from lora_profiler.planning.memory_savings import best_lever, levers
from lora_profiler.planning.reserve import (
    _WORKSPACE_BYTES,
    FRAGMENTATION_BYTES,
    FRAGMENTATION_PERCENT,
    reserve_for,
)
from lora_profiler.planning.sweep import sweep
from lora_profiler.question.adapters.targets import attention_targets
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.option import MAX_SIZE
from lora_profiler.question.workload import OPTIONS, LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.units import GIB


@dataclass(frozen=True)
class FakeCard:
    usable_bytes: int | None = 24 * GIB
    key: str = "fake"
    name: str = "Fake"
    vendor: str = "nvidia"
    architecture: str = "ada"
    capability: int | None = 89
    usable_is_estimated: bool = False

    def platform(self, torch: tuple[int, int]) -> Platform:
        return Platform(capability=self.capability, torch=torch)


def workload(model: str = "gpt2", **setup: object) -> Workload:
    return Workload(model=find_model(model), setup=TrainSetup(**{"seq_len": 512, **setup}))  # type: ignore[arg-type]


@given(st.integers(0, 3000), st.integers(1, 4000), st.integers(1, 3000))
def test_largest_finds_the_edge_of_any_monotone_question(edge: int, guess: int, limit: int) -> None:
    asked = []

    def accepts(size: int) -> bool:
        asked.append(size)
        assert 1 <= size <= limit
        return size <= edge

    assert largest(accepts, guess, limit) == min(edge, limit)
    assert len(asked) <= 30


def test_largest_at_its_limits() -> None:
    assert largest(lambda size: True) == MAX_SIZE
    assert largest(lambda size: False) == 0


def test_the_highest_rank_is_at_most_that_of_an_update() -> None:
    """numpy's rank of B A, of layers of 768: no more, however much memory is left."""
    model = find_model("openai-community/gpt2")
    lora = LoraConfig(r=8, target_modules=("attn.c_proj",))
    found = fit(
        Workload(model=model, setup=TrainSetup(lora=lora, batch_size=1, seq_len=64)),
        find_gpu("h100_sxm_80gb"),
    )
    made = np.random.default_rng(0)
    update = made.normal(size=(768, 1000)) @ made.normal(size=(1000, 768))
    assert found is not None
    assert found.highest_rank == np.linalg.matrix_rank(update)


@pytest.mark.parametrize("lora", [None, LoraConfig(r=8)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_fit_sizes_are_the_edge_of_the_full_predictor(
    lora: LoraConfig | None, checkpointing: bool
) -> None:
    card = find_gpu("rtx_4090")
    case = workload(lora=lora, checkpointing=checkpointing)
    found = fit(case, card)
    assert found is not None
    assert found.verdict == "fits"
    assert (found.highest_rank is None) == (lora is None)
    edges = [("batch_size", found.largest_batch_size), ("seq_len", found.longest_seq_len)]
    for field, size in edges + ([("lora", found.highest_rank)] if found.highest_rank else []):
        for asked, fits in ((size, True), (size + 1, False)):
            if field == "lora" and asked > 768:
                continue  # no update has a higher one, whatever fits
            value = LoraConfig(r=asked) if field == "lora" else asked
            at = fit(replace(case, setup=replace(case.setup, **{field: value})), card)  # type: ignore[arg-type]
            assert at is not None
            if field == "batch_size":
                assert (at.verdict == "fits") is fits
            else:  # by the bound, on the safe side
                assert (at.verdict == "fits") >= fits


def test_verdict_is_fits_then_tight_then_does_not_fit() -> None:
    card = FakeCard()
    peak = 10 * GIB
    reserve = reserve_for(card, peak)
    least = reserve.workspace_bytes + reserve.least_context_bytes
    assert judge(peak, peak + reserve.total_bytes, card) == "fits"
    assert judge(peak, peak + reserve.total_bytes - 1, card) == "tight"
    assert judge(peak, peak + least, card) == "tight"
    assert judge(peak, peak + least - 1, card) == "does_not_fit"


def test_reserve_names_its_parts() -> None:
    older, hopper, apple = (
        reserve_for(find_gpu(k), 100 * GIB) for k in ("rtx_4090", "h100_sxm_80gb", "apple_m1")
    )
    assert older.workspace_bytes == 2 * 8_519_680
    assert hopper.workspace_bytes == 2 * 32 * 2**20
    assert apple.workspace_bytes == apple.context_bytes == 0
    assert older.fragmentation_bytes == FRAGMENTATION_PERCENT * GIB + FRAGMENTATION_BYTES
    held = reserve_for(find_gpu("rtx_4090"), 100 * GIB, held=60 * GIB)
    assert older.fragmentation_bytes - held.fragmentation_bytes == 15 * GIB
    assert older.context_bytes > older.least_context_bytes > 0
    assert (
        older.total_bytes == older.context_bytes + older.workspace_bytes + older.fragmentation_bytes
    )


def test_every_catalogue_architecture_that_has_wide_workspaces_exists() -> None:
    from lora_profiler.facts.catalog import bundled_gpus

    assert set(_WORKSPACE_BYTES) <= {gpu.architecture for gpu in bundled_gpus()}


def test_sizes_that_fit_leave_room_for_an_estimate_s_error() -> None:
    """At the largest sizes, and on the smallest GPU, the verdict is still that it fits."""
    setup = TrainSetup(lora=LoraConfig(), checkpointing=True, seq_len=512)
    asked = Workload(model=find_model("swiss-ai/Apertus-8B-Instruct-2509"), setup=setup)
    prediction = predict(asked, may_trace=False)
    assert prediction.modules_error
    found = fit(asked, "rtx_4090", prediction=prediction, may_trace=False)
    assert found is not None and found.verdict == "fits"
    sizes = {"seq_len": found.longest_seq_len, "batch_size": found.largest_batch_size}
    for name, largest_size in sizes.items():
        assert largest_size is not None
        for size, verdict in ((largest_size, "fits"), (largest_size + 1, "tight")):
            other = replace(asked, setup=replace(setup, **{name: size}))
            grown = fit(other, "rtx_4090", may_trace=False)
            assert grown is not None and grown.verdict == verdict, (name, size)
    card = smallest_card(prediction)
    assert card is not None
    on_it = fit(asked, card, may_trace=False)
    assert on_it is not None and on_it.verdict == "fits"


def test_fit_adds_up_and_says_none_as_zero() -> None:
    found = fit(workload(), FakeCard(usable_bytes=1 << 20))
    assert isinstance(found, Fit)
    assert found.verdict == "does_not_fit"
    assert found.largest_batch_size == found.longest_seq_len == 0
    assert found.headroom_bytes == found.usable_bytes - found.peak_bytes - found.reserve_bytes < 0


@pytest.mark.usefixtures("no_estimates")
def test_fit_of_unknown_activations_is_only_ever_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    # nothing to trace with
    monkeypatch.setattr("lora_profiler._common.packages.find_spec", lambda name: None)
    case = workload("microsoft/phi-2", lora=LoraConfig())
    assert fit(case, FakeCard()) is None
    no = fit(case, FakeCard(usable_bytes=GIB))
    assert no is not None
    assert no.verdict == "does_not_fit"
    assert levers(case) == ()
    assert best_lever(case) is None


def test_fit_refuses_questions_without_an_answer() -> None:
    with pytest.raises(UsageError, match="--gpu and --device cpu exclude"):
        fit(workload(device="cpu"), FakeCard())
    with pytest.raises(UsageError, match="several memory sizes"):
        fit(workload(), FakeCard(usable_bytes=None))


@pytest.mark.parametrize(
    ("engine", "words"),
    [("analitic", "Did you mean analytic"), ("compiled", "lora-profile compile")],
)
def test_engines_that_cannot_answer_are_refused(engine: str, words: str) -> None:
    for ask in (predict, peak_bytes):
        with pytest.raises(UsageError, match=words):
            ask(workload(), engine)


SETUPS = [
    TrainSetup(seq_len=256),
    TrainSetup(seq_len=1024, batch_size=4),
    TrainSetup(seq_len=1024, batch_size=4, checkpointing=True, optimizer_impl="fused"),
    TrainSetup(seq_len=256, dtype="float32"),
    TrainSetup(seq_len=512, batch_size=2, attention="eager"),
    TrainSetup(seq_len=512, lora=LoraConfig()),
    TrainSetup(seq_len=1024, batch_size=8, lora=LoraConfig(lora_dropout=0.1)),
    TrainSetup(seq_len=1024, lora=LoraConfig(adapter_dtype="bfloat16"), checkpointing=True),
    TrainSetup(seq_len=512, lora=LoraConfig(r=256), quantization=Quantization()),
    TrainSetup(seq_len=64, batch_size=1, lora=LoraConfig(r=8), optimizer="sgd"),
]


@pytest.mark.parametrize("name", ["gpt2", "meta-llama/Llama-3.2-1B"])
@pytest.mark.parametrize("setup", SETUPS, ids=range(len(SETUPS)))
def test_levers_are_predictions_and_the_best_is_their_first(name: str, setup: TrainSetup) -> None:
    case = Workload(model=find_model(name), setup=setup)
    before = peak_bytes(case)
    found = levers(case)
    assert [lever.saved_bytes for lever in found] == sorted(
        (lever.saved_bytes for lever in found), reverse=True
    )
    assert all(
        lever.saved_bytes > 0 and lever.peak_bytes + lever.saved_bytes == before for lever in found
    )
    best = best_lever(case)
    assert (best.saved_bytes if best else 0) == (found[0].saved_bytes if found else 0)


def test_a_lever_does_what_its_option_does() -> None:
    case = workload(lora=LoraConfig(), batch_size=4)
    after = {lever.option: lever.peak_bytes for lever in levers(case)}
    assert after["--checkpointing"] == peak_bytes(
        replace(case, setup=replace(case.setup, checkpointing=True))
    )
    assert after["-b 1 --accumulation 4"] == peak_bytes(
        replace(case, setup=replace(case.setup, batch_size=1, accumulation=4))
    )
    assert "--method qlora" not in {lever.option for lever in levers(case, besides={"qlora"})}


FIELDS = {option.field: option for option in OPTIONS if option.owner is TrainSetup}
CHOICES = {name: get_args(get_type_hints(TrainSetup)[name]) for name in FIELDS}


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n, values in CHOICES.items() for v in values if isinstance(v, str)],
)
@pytest.mark.parametrize("lora", [None, LoraConfig()])
def test_whatever_is_asked_levers_are_only_what_goes_with_it(
    name: str, value: str, lora: LoraConfig | None
) -> None:
    try:
        setup = TrainSetup(batch_size=2, seq_len=64, lora=lora, **{name: value})
        case = Workload(model=find_model("gpt2"), setup=setup)
        before = peak_bytes(case)
    except LoraProfilerError:
        return
    assert all(lever.peak_bytes < before for lever in levers(case))


def test_a_lever_leaves_what_trains_whole_weights_alone() -> None:
    galore = workload(optimizer="galore_adamw", checkpointing=True)
    assert "--method lora --optimizer adamw" in {lever.option for lever in levers(galore)}


def test_activation_excess_has_its_cause_and_its_remedy() -> None:
    model = find_model("meta-llama/Llama-3.1-8B")
    full = predict(Workload(model=model))
    by_default = predict(Workload(model=model, setup=TrainSetup(lora=LoraConfig())))
    excess = activation_excess(full, by_default)
    assert excess is not None
    assert (excess.full_bytes, excess.lora_bytes) == (14_281_122_572, 20_417_364_748)
    assert excess.causes == ("adapter_dtype",)
    assert excess.remedied_bytes < excess.full_bytes
    narrow = predict(
        Workload(model=model, setup=TrainSetup(lora=LoraConfig(adapter_dtype="bfloat16")))
    )
    assert activation_excess(full, narrow) is None


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("gpt2", ("c_attn", "attn.c_proj")),
        ("meta-llama/Llama-3.1-8B", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("EleutherAI/pythia-70m", ("query_key_value", "dense")),
        ("facebook/opt-125m", ("k_proj", "v_proj", "q_proj", "out_proj")),
    ],
)
def test_attention_targets_match_attention_only(name: str, targets: tuple[str, ...]) -> None:
    model = find_model(name)
    assert attention_targets(model) == targets
    prediction = predict(
        Workload(model=model, setup=TrainSetup(lora=LoraConfig(target_modules=targets)))
    )
    trained = {layer.name for layer in prediction.layers if layer.num_trainable_parameters}
    assert trained
    assert all("att" in layer for layer in trained)


def test_outweighed_layers_are_those_whose_adapter_is_larger() -> None:
    small = predict(workload(lora=LoraConfig(r=16)))
    assert outweighed_layers(small) == ()
    large = outweighed_layers(predict(workload(lora=LoraConfig(r=600))))
    assert {
        layer.name.rsplit(".", 2)[-2] + "." + layer.name.rsplit(".", 1)[-1] for layer in large
    } >= {"attn.c_attn"}
    assert all(layer.num_trainable_parameters > layer.num_parameters for layer in large)


def test_a_sweep_of_one_point_is_the_peak() -> None:
    asked = workload(lora=LoraConfig(r=4))
    assert sweep(asked).shape == ()
    assert int(sweep(asked)) == peak_bytes(asked)


# --- checked once ---------------------------------------------------------------------------------


def test_sizes_of_a_workload_that_is_ready_are_not_checked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = []
    monkeypatch.setattr("lora_profiler.planning.engine.check", lambda w, engine: checked.append(w))
    asked = workload(lora=LoraConfig(r=8), packed=256)
    prediction = predict(asked)
    assert checked == [asked]
    found = fit(asked, FakeCard(), prediction=prediction)
    assert found is not None and found.largest_batch_size and found.longest_seq_len
    assert checked == [asked]
    levers(asked, prediction=prediction)
    setups = [other.setup for other in checked]
    assert len(setups) == len(set(setups))  # a lever is another workload, and each is tried once


def test_rows_that_are_packed_only_where_they_are_longer_are_checked_there() -> None:
    asked = workload("facebook/opt-125m", packed=2048)
    assert predict(asked).saved_activation_bytes
    found = fit(asked, FakeCard())
    assert found is not None
    with pytest.raises(UsageError, match="does not separate packed sequences"):
        assert found.longest_seq_len
    with pytest.raises(UsageError, match="does not separate packed sequences"):
        sweep(asked, seq_len=[512, 4096])
    assert sweep(asked, seq_len=[512, 2048]).shape == (2,)


def test_words_of_python_are_taken_in_any_case_or_refused() -> None:
    vera = setup_for("gpt2", "bare", "lora", peft_type="VeRA")
    assert vera == setup_for("gpt2", "bare", "lora", peft_type="vera")
    qlora: Any = "QLoRA"
    assert setup_for("gpt2", "bare", qlora).method == "qlora"
    with pytest.raises(UsageError, match="AdaLoRA is not modelled: its ranks change"):
        setup_for("gpt2", "bare", "lora", peft_type="AdaLoRA")
    words: tuple[tuple[dict[str, Any], str], ...] = (
        ({"optimizer": "adam"}, "unknown optimizer 'adam'. Did you mean adamw"),
        ({"shardings": ("foo",)}, "unknown sharding 'foo'"),
        ({"loss": "fussed"}, "unknown loss 'fussed'. Did you mean fused"),
    )
    for refused, said in words:
        with pytest.raises(UsageError, match=re.escape(said)):
            Space(**refused)
    workload = Workload(model=find_model("gpt2"), setup=TrainSetup())
    with pytest.raises(UsageError, match=re.escape("8xh100. That is several GPUs")):
        fit(workload, "8xh100")
