"""Adapter methods of PEFT that no rule describes: traced steps against steps really taken on the
CPU, and what trains against PEFT's own count."""

from dataclasses import replace

import pytest

import oracle
from lora_profiler.errors import UnbuildableError, UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.planning.engine import engines_for, predict
from lora_profiler.planning.setups import setup_for, written_options
from lora_profiler.question.adapter_method import LEFT_OUT, adapter_method, traced_methods
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from tracing import BASE, config_of, peaks_of, traced_of

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64}
HELD_BESIDE = {"fourierft": 224_000}
"""Bytes of tensors that a method keeps beside its parameters and buffers, which the oracle does not
register: two int64 numbers of each of 1,000 frequencies in 14 layers."""
ARGUMENTS = [
    ("lora", 'rank_pattern={"q_proj":8}'),
    ("lora", "init_lora_weights=pissa"),
    ("lora", "lora_bias=true"),
    ("lora", "layer_replication=[[0,2],[1,2]]"),
    ("lokr", "decompose_both=true"),
    ("oft", "block_share=true"),
    ("road", "variant=road_4"),
    ("hra", "apply_GS=true"),
    ("miss", "init_weights=bat"),
]


def setup_of(lora: LoraConfig, *, checkpointing: bool) -> TrainSetup:
    return replace(BASE, lora=lora, checkpointing=checkpointing)


@pytest.mark.grid
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", traced_methods())
def test_every_method_is_equal_to_a_real_step(method: str, checkpointing: bool) -> None:
    feedforward = ("down_proj",) if method == "ia3" else ()
    lora = LoraConfig(peft_type=method, r=4, feedforward_modules=feedforward)
    equal_to_a_real_step(setup_of(lora, checkpointing=checkpointing), HELD_BESIDE.get(method, 0))


@pytest.mark.grid
@pytest.mark.parametrize(("method", "argument"), ARGUMENTS)
def test_arguments_of_a_config_reach_peft(method: str, argument: str) -> None:
    lora = LoraConfig(peft_type=method, r=4, peft_arg=(argument,))
    equal_to_a_real_step(setup_of(lora, checkpointing=False), 0)


def equal_to_a_real_step(setup: TrainSetup, held_beside: int) -> None:
    config = config_of("llama") | WIDE
    model = oracle.build(config, setup)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    real = oracle.step_peaks(model, setup)
    traced = traced_of(config, setup)
    assert peaks_of(traced.trace)[2, "step"] - held_beside == real[2, "step"]
    assert sum(traced.trainable.values()) == trained


def test_the_table_has_what_peft_has() -> None:
    """Each method of layers is answered, or left out for a reason."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    from lora_profiler.question.adapter_method import untraceable_methods

    of_layers = {
        kind.lower()
        for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if isinstance(getattr(tuner, "prefix", None), str)
    }
    assert of_layers == {*traced_methods(), *LEFT_OUT, *untraceable_methods()}
    for method in traced_methods():
        assert hasattr(peft, adapter_method(method).config)


@pytest.mark.parametrize(
    ("method", "argument", "message"),
    [
        ("loha", "alpah=1", "LoHaConfig has no argument 'alpah'"),
        ("loha", "r=4", "--rank says that"),
        ("loha", "alpha", "write it as KEY=VALUE"),
        ("lora", "use_dora=true", "--use-dora says that"),
    ],
)
def test_unknown_arguments(method: str, argument: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LoraConfig(peft_type=method, peft_arg=(argument,))


def test_values_in_json_have_commas_of_their_own() -> None:
    model = find_model("HuggingFaceTB/SmolLM2-135M")
    text = 'rank_pattern={"q_proj":8,"v_proj":4},lora_bias=true'
    setup = setup_for(model, "bare", peft_arg=text)
    assert setup.lora is not None
    assert setup.lora.peft_arguments == {
        "rank_pattern": {"q_proj": 8, "v_proj": 4},
        "lora_bias": True,
    }
    assert written_options(setup)["peft_arg"] == text


def test_without_a_trace_nothing_is_made_up() -> None:
    model = find_model("HuggingFaceTB/SmolLM2-135M")
    setup = TrainSetup(lora=LoraConfig(peft_type="loha"))
    with pytest.raises(UsageError, match="by a trace of PEFT's own code alone"):
        predict(Workload(model=model, setup=setup), "analytic")
    with pytest.raises(UsageError, match="which a quantised base has packed"):
        predict(Workload(model=model, setup=replace(setup, quantization=Quantization())))


def test_a_rank_that_only_some_sizes_go_with() -> None:
    """GraLoRA's rank is a multiple of its blocks: a profile for all ranks cannot be traced."""
    model = model_from_config(config_of("llama") | WIDE, id="tiny", source="test")
    gralora = replace(BASE, lora=LoraConfig(peft_type="gralora", r=4))
    workload = Workload(model=model, setup=gralora)
    (engine,) = engines_for([workload], "auto")
    model_of_peft = oracle.build(config_of("llama") | WIDE, gralora)
    trained = sum(p.numel() for p in model_of_peft.parameters() if p.requires_grad)
    assert predict(workload, engine).parameters.trainable == trained
    odd = replace(workload, setup=replace(gralora, lora=LoraConfig(peft_type="gralora", r=5)))
    with pytest.raises(UnbuildableError, match="r should be divisible by gralora_k"):
        predict(odd, *engines_for([odd], "auto"))


@pytest.mark.parametrize("trainer", ["axolotl", "unsloth", "torchtune", "litgpt", "llamafactory"])
def test_trainers_attach_no_other_methods_than_their_own(trainer: str) -> None:
    model = find_model("HuggingFaceTB/SmolLM2-135M")
    with pytest.raises(UsageError, match="--peft-type vera does not work with"):
        setup_for(model, trainer, peft_type="vera")
    assert setup_for(model, trainer, "full").lora is None
    lora = setup_for(model, trainer, peft_type="LoRA").lora
    assert lora is not None and lora.peft_type == "lora"


def test_methods_are_called_as_their_papers_call_them() -> None:
    titles = {adapter_method(name).title for name in traced_methods()}
    assert {"HiRA", "MiSS", "PVeRA", "RoAd", "DeLoRA", "GraLoRA", "RandLoRA", "FourierFT"} < titles
    assert {"LoRA", "VeRA", "OFT", "LoHa", "LoKr", "HRA", "BEFT", "DEFT", "PEANuT"} < titles
