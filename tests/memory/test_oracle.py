"""The oracle against numbers that others took from real runs of the same library versions, and
against itself."""

import pytest
import torch

import families
import oracle
import truth
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup
from reference import PARAMETERS, RESIZED, RESIZED_SAVED, SAVED, WIDE

QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")


def small(**fields) -> TrainSetup:
    return TrainSetup(**({"batch_size": 2, "seq_len": 24, "device": "cpu"} | fields))


@pytest.mark.parametrize("family", SAVED)
def test_saved_bytes_of_the_reference_table(family):
    few = LoraConfig(r=4, target_modules=("c_attn",) if family == "gpt2" else ("q_proj", "v_proj"))
    many = LoraConfig(
        r=4, target_modules=QKVO if family in ("mixtral", "qwen3_moe") else "all-linear"
    )
    setups = (
        small(),
        small(lora=few),
        small(lora=many),
        small(checkpointing=True),
        small(lora=many, checkpointing=True),
        small(attention="eager"),
        small(dtype="float32"),
        small(batch_size=1, seq_len=17),
    )
    assert (
        tuple(truth.saved_bytes(families.TINY[family], setup) for setup in setups) == SAVED[family]
    )


@pytest.mark.parametrize("family", PARAMETERS)
def test_parameter_count(family):
    assert (
        sum(p.numel() for p in oracle.build(families.TINY[family], small()).parameters())
        == PARAMETERS[family]
    )


@pytest.mark.parametrize(("rank", "batch", "seq", "dtype", "expected"), RESIZED_SAVED)
def test_saved_bytes_in_rank_and_size(rank, batch, seq, dtype, expected):
    config = families.TINY["llama"] | RESIZED
    assert (
        truth.saved_bytes(
            config, small(batch_size=batch, seq_len=seq, dtype=dtype, lora=LoraConfig(r=rank))
        )
        == expected
    )


def wide(**fields) -> TrainSetup:
    return small(seq_len=256, **fields)


# in float32: a CPU without bfloat16 takes minutes; benchmarks/truth/peaks.py has hundreds of others
PEAKS = [
    (wide(dtype="float32", checkpointing=True), (671_049_908, 736_577_700, 887_454_124)),
    (
        wide(dtype="float32", lora=LoraConfig(target_modules=("q_proj", "v_proj"))),
        (370_456_984, 434_936_200, 179_788_112),
    ),
]


@pytest.mark.parametrize(("setup", "expected"), PEAKS)
def test_peaks_of_the_reference_table(setup, expected):
    peaks = truth.peaks(WIDE, setup)
    assert tuple(peaks[2, phase] for phase in oracle.PHASES) == expected
    assert peaks[2, "step"] == max(expected)
    assert peaks[1, "backward"] < peaks[2, "backward"]


def test_the_two_trackers_agree():
    setup = small(seq_len=256, dtype="float32", lora=LoraConfig(r=4, adapter_dtype="float32"))
    config = WIDE | {"vocab_size": 2000}
    by_allocator = truth.peaks(config, setup)
    by_dispatch = truth.tensor_peaks(config, setup)
    for step in (1, 2):
        assert by_dispatch[step, "forward"] == pytest.approx(
            by_allocator[step, "forward"], rel=1e-4
        )
        assert by_dispatch[step, "step"] == pytest.approx(by_allocator[step, "step"], rel=1e-3)


def test_saved_storages_name_their_module():
    setup = small()
    storages = oracle.saved_by_storage(oracle.build(families.TINY["llama"], setup), setup)
    gate = [s for s in storages if s.module == "model.layers.1.mlp.act_fn"]
    assert gate == [
        oracle.Saved(2 * 48 * 112, "model.layers.1.mlp.act_fn", torch.bfloat16, (2, 24, 112))
    ]


def test_persistent_bytes_of_lora():
    setup = small(lora=LoraConfig(r=4))
    model = oracle.build(families.TINY["llama"], setup)
    sizes = oracle.persistent_bytes(model, setup, oracle.make_optimizer(model, setup))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj."
    assert sizes[prefix + "base_layer.weight"] == (2 * 48 * 48, 0, 0)
    assert sizes[prefix + "lora_A.default.weight"] == (4 * 4 * 48, 4 * 4 * 48, 2 * 4 * 4 * 48 + 4)


def test_persistent_bytes_of_8bit_adamw():
    """Two one-byte states and a scale per 256 elements; fp32 states below 4096 elements; two code
    books in all."""
    setup = small(optimizer="adamw_8bit")
    model = oracle.build(families.TINY["llama"], setup)
    sizes = oracle.persistent_bytes(model, setup, oracle.make_optimizer(model, setup))
    assert sizes["model.layers.0.mlp.up_proj.weight"][2] == 2 * 48 * 112 + 2 * 4 * 21
    assert sizes["model.layers.0.self_attn.q_proj.weight"][2] == 2 * 4 * 48 * 48
    assert sizes["code books"] == (0, 0, 2048)


@pytest.mark.parametrize("adapter_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapter_dtype_is_what_the_setup_says(dtype, adapter_dtype):
    model = oracle.build(
        families.TINY["gpt2"], small(dtype=dtype, lora=LoraConfig(r=4, adapter_dtype=adapter_dtype))
    )
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {
        getattr(torch, adapter_dtype)
    }
    assert {p.dtype for n, p in model.named_parameters() if "lora_" not in n} == {
        getattr(torch, dtype)
    }


@pytest.mark.parametrize("double_quant", [True, False])
def test_nf4_bytes(double_quant):
    setup = small(quantization=Quantization(double_quant=double_quant), lora=LoraConfig(r=4))
    model = oracle.build(families.TINY["llama"], setup)
    name = "base_model.model.model.layers.0.mlp.gate_proj.base_layer.weight"
    blocks = 48 * 112 // 64
    assert model.get_parameter(name).untyped_storage().nbytes() == 48 * 112 // 2
    expected = blocks + 4 + 1024 + 64 + 4 if double_quant else 4 * blocks + 64
    assert oracle.quantization_state_bytes(model)[name] == expected
    assert oracle.saved_activation_bytes(model, setup) == SAVED["llama"][2]


def test_flops_of_llama():
    """Linears only, plus eager attention's two products: 2 x tokens x weights forward, twice that
    backward."""
    setup = small(attention="eager", checkpointing=True)
    model = oracle.build(families.TINY["llama"], setup)
    linears = {
        n: m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)
    }
    scores = 3 * 2 * (2 * 2 * 4 * 24 * 24 * 12)
    counted = oracle.flops(model, setup)
    assert counted["forward"] == 2 * 48 * sum(linears.values()) + scores
    assert counted["backward"] == 2 * (2 * 48 * sum(linears.values()) + scores)
    down = sum(
        size for name, size in linears.items() if name.endswith("down_proj")
    )  # its output is not needed again
    assert (
        counted["recompute"]
        == 2 * 48 * (sum(linears.values()) - linears["lm_head"] - down) + scores
    )
    by_module = oracle.forward_flops_by_module(model, setup)
    assert by_module[""] == counted["forward"]
    assert by_module["model.layers.1.mlp.up_proj"] == 2 * 48 * 48 * 112


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("attention", ["auto", "eager"])
@pytest.mark.parametrize(
    "config",
    [*families.TINY.values(), *families.VARIED.values()],
    ids=[*families.TINY, *(f"{n}-varied" for n in families.VARIED)],
)
def test_every_family_trains(config, attention, lora):
    setup = small(attention=attention, lora=lora)
    assert truth.trains(config, setup)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "sgd", "adafactor"])
def test_every_optimizer_trains(optimizer):
    setup = small(optimizer=optimizer, dtype="float32")
    model = oracle.build(families.TINY["llama"], setup)
    sizes = oracle.persistent_bytes(model, setup, oracle.make_optimizer(model, setup))
    assert sum(gradient for _, gradient, _ in sizes.values()) == 4 * PARAMETERS["llama"]
    assert (sum(state for _, _, state in sizes.values()) == 0) == (optimizer == "sgd")


@pytest.mark.parametrize("recipe", ["stock", "kbit", "trl"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_recipe_trains(family, recipe):
    lora = LoraConfig(r=4, adapter_dtype="bfloat16" if recipe == "trl" else "float32")
    setup = small(quantization=Quantization(recipe=recipe), lora=lora, checkpointing=True)
    model = oracle.build(families.TINY[family], setup)
    oracle.run_steps(
        model, setup, oracle.make_optimizer(model, setup), oracle.make_batch(model, setup), 2
    )
    norms = {
        p.dtype
        for n, p in model.named_parameters()
        if "lora" not in n and ("norm" in n or "ln_" in n)
    }
    assert norms == {torch.float32 if recipe == "kbit" else torch.bfloat16}
