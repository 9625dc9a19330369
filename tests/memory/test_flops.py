"""FLOPs of a step: equal to torch's counter wherever that counts, and to formulas worked out by
hand.

torch's counter knows no formula for SDPA on the CPU nor for grouped matrix products, so attention
is eager here, and the experts' products are checked by hand.
"""

from dataclasses import replace

import pytest

import cases
import truth
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.prediction import FlopCount
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

MLP = {"gpt2": "c_fc", "gpt_neox": "dense_h_to_4h", "opt": "fc1", "phi3": "gate_up_proj"}
SMALL = {"batch_size": 2, "seq_len": 24, "device": "cpu"}
CUDA = {"batch_size": 3, "seq_len": 80}


def flops(model: ModelSpec, **fields) -> FlopCount:
    prediction = predict(Workload(model=model, setup=TrainSetup(**fields)))
    assert prediction.flops is not None
    assert sum(row.flops for row in prediction.layers) == prediction.flops.total
    return prediction.flops


def targets(name: str, which: str) -> LoraConfig | None:
    family = cases.family(name)
    if which == "mlp":
        last = "o_proj" if family in cases.MIXTURES else "up_proj"
        return LoraConfig(r=4, target_modules=(MLP.get(family, last),))
    return cases.methods(family)[which]


def of_experts(name: str, *, trains: bool, checkpointing: bool) -> tuple[int, int, int]:
    """Grouped products of all mixture layers at 48 tokens: each token passes `k` experts of three h
    x f matrices."""
    config = cases.CONFIGS[name]
    if cases.family(name) not in cases.MIXTURES:
        return 0, 0, 0
    dense = len(config.get("mlp_only_layers", ()))
    layers = (config["num_hidden_layers"] - dense) // config.get("decoder_sparse_step", 1)
    width = config.get("moe_intermediate_size", config["intermediate_size"])
    products = layers * 2 * 48 * config["num_experts_per_tok"] * 3 * config["hidden_size"] * width
    return products, products * (1 + trains), products * checkpointing


def as_counted(
    name: str, lora: LoraConfig | None, checkpointing: bool, *, experts_train: bool
) -> None:
    """By torch, beside the products of experts, which it does not count."""
    setup = TrainSetup(lora=lora, checkpointing=checkpointing, attention="eager", **SMALL)
    counted = truth.flops(cases.CONFIGS[name], setup)
    found = predict(Workload(model=cases.spec_of(name), setup=setup)).flops
    more = of_experts(name, trains=experts_train, checkpointing=checkpointing)
    for part, of_them in zip(("forward", "backward", "recompute"), more, strict=True):
        assert getattr(found, part) == counted[part] + of_them, part
    assert (found.recompute > 0) == checkpointing


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("which", ["full", "few", "mlp", "all"])
@pytest.mark.parametrize("name", cases.CONFIGS)
def test_equal_to_torchs_counter(name, which, checkpointing):
    """Forward, backward and recompute apart."""
    lora = targets(name, which)
    as_counted(name, lora, checkpointing, experts_train=lora is None)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", [n for n in cases.CONFIGS if cases.family(n) in cases.MIXTURES])
def test_adapters_on_experts(name, checkpointing):
    """PEFT makes BA of gate_up_proj three times a forward pass and of down_proj twice; the grouped
    products come on top."""
    as_counted(name, LoraConfig(r=4), checkpointing, experts_train=True)


@pytest.mark.parametrize("name", cases.TINY_NAMES)
def test_forward_flops_of_each_linear(name):
    """In full fine-tuning a linear costs its forward product three times."""
    setup = TrainSetup(attention="eager", **SMALL)
    real = truth.forward_flops_of_linears(cases.CONFIGS[name], setup)
    prediction = predict(Workload(model=cases.spec_of(name), setup=setup))
    rows = {row.name: row.flops for row in prediction.layers}
    assert len(real) > 3
    assert {linear: rows[linear] for linear in real} == {n: 3 * size for n, size in real.items()}


# --- by hand --------------------------------------------------------------------------------------

SHAPES = {
    "q_proj": "hq", "k_proj": "hk", "v_proj": "hk", "o_proj": "qh", "gate_proj": "hf",
    "up_proj": "hf", "down_proj": "fh",
}  # fmt: skip


def by_hand(model: ModelSpec, setup: TrainSetup) -> tuple[int, int, int]:
    """A walk over Llama's linears: a frozen one needs its input's gradient only where that input
    requires one."""
    c, lora = model.config, setup.lora
    tokens, rank = setup.batch_size * setup.seq_len, lora.r if lora else 0
    head_dim, heads, groups = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
    size = {"h": c["hidden_size"], "f": c["intermediate_size"]}
    size |= {"q": heads * head_dim, "k": groups * head_dim}
    attention = 4 * setup.batch_size * setup.seq_len**2 * heads * head_dim
    chosen = lora.target_modules if lora else ()
    if chosen == "all-linear":
        chosen = tuple(SHAPES)
    ahead = back = again = 0

    def linear(name: str, wants: bool) -> bool:
        nonlocal ahead, back
        i, o = (size[letter] for letter in SHAPES[name])
        low = name in chosen
        ahead += 2 * tokens * (i * o + low * rank * (i + o))
        back += 2 * tokens * i * o * (wants + (lora is None))
        back += 2 * tokens * rank * (i + 2 * o + i * wants) * low
        return wants or low or lora is None

    wants = lora is None or setup.checkpointing
    for _ in range(model.num_layers):
        before = ahead
        qkv = [linear(name, wants) for name in ("q_proj", "k_proj", "v_proj")]
        ahead += attention
        back += attention * 5 // 2 * any(qkv)
        wants = linear("o_proj", any(qkv)) or wants
        inner = [linear(name, wants) for name in ("gate_proj", "up_proj")]
        wants = linear("down_proj", any(inner)) or wants
        last = rank if "down_proj" in chosen else size["f"]
        again += (ahead - before - 2 * tokens * last * size["h"]) * setup.checkpointing
    head = 2 * tokens * size["h"] * c["vocab_size"]
    return ahead + head, back + head * (wants + (lora is None)), again


SUBSETS = [
    None, ("q_proj", "v_proj"), ("gate_proj",), ("down_proj",), ("o_proj", "up_proj"), ("k_proj",),
    "all-linear",
]  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("chosen", SUBSETS, ids=str)
@pytest.mark.parametrize("name", ["meta-llama/Meta-Llama-3-8B", "HuggingFaceTB/SmolLM2-135M"])
def test_any_set_of_targets(name, chosen, checkpointing):
    model, lora = find_model(name), LoraConfig(r=24, target_modules=chosen) if chosen else None
    setup = TrainSetup(lora=lora, checkpointing=checkpointing, **CUDA)
    found = flops(model, lora=lora, checkpointing=checkpointing, **CUDA)
    assert (found.forward, found.backward, found.recompute) == by_hand(model, setup)
    assert found.tokens == 240
    assert found.per_token == found.total // 240


def linear_parameters(model: ModelSpec) -> tuple[int, int, int]:
    """Of all linears, of the output head, and of every `down_proj`."""
    sizes = {
        name: m.in_features * m.out_features
        for name, m in model.modules()
        if m.is_linear and m.in_features and m.out_features
    }
    down = sum(n for name, n in sizes.items() if name.endswith("down_proj"))
    return sum(sizes.values()), sizes["lm_head"], down


def test_closed_forms_of_llama():
    """The sums of the walk, as one writes them down."""
    model, rank, tokens = find_model("meta-llama/Meta-Llama-3-8B"), 16, 240
    every, head, down = linear_parameters(model)
    low = 41_943_040  # LoRA parameters at rank 16
    attention = 4 * 3 * 80**2 * 4096 * 32
    lora = LoraConfig(r=rank)

    full = flops(model, **CUDA)
    assert full.forward == 2 * tokens * every + attention
    assert full.backward == 4 * tokens * every + attention * 5 // 2
    again = flops(model, checkpointing=True, **CUDA).recompute
    assert again == 2 * tokens * (every - head - down) + attention

    adapted = flops(model, lora=lora, **CUDA)
    first_layer = 2 * tokens * 4096 * (4096 + 1024 + 1024) + 2 * tokens * rank * 4096 * 3
    assert adapted.forward == 2 * tokens * (every + low) + attention
    assert (
        adapted.backward == 2 * tokens * every + 4 * tokens * low - first_layer + attention * 5 // 2
    )

    again = flops(model, lora=lora, checkpointing=True, **CUDA)
    assert again.backward == adapted.backward + first_layer
    whole = 2 * tokens * (every - head + low) + attention
    assert again.recompute == whole - 2 * tokens * rank * 4096 * 32


def test_only_the_last_layers_adapted_cost_nothing_below():
    model = find_model("meta-llama/Meta-Llama-3-8B")
    lora = LoraConfig(r=8, target_modules=("q_proj",), layers_to_transform=(31,))
    found = flops(model, lora=lora, **CUDA)
    h, f, kv, tokens = 4096, 14336, 1024, 240
    # o, gate, up, down; q, k and v take the embedding side's ungraded input
    layer = 2 * tokens * (h * h + 3 * h * f)
    low_rank = 2 * tokens * 8 * (h + 2 * h)
    attention = 4 * 3 * 80**2 * 4096
    assert found.backward == layer + low_rank + attention * 5 // 2 + 2 * tokens * h * 128_256
    assert kv == model.config["num_key_value_heads"] * model.config["head_dim"]


@pytest.mark.parametrize(
    ("kernel", "backward"), [("auto", 5), ("flash", 5), ("efficient", 5), ("eager", 4)]
)
def test_attention_core(kernel, backward):
    """4 b s^2 H d forward; backward 2.5 times that where the kernel makes the scores again, twice
    where they were kept."""
    model = find_model("meta-llama/Meta-Llama-3-8B")
    rows = predict(Workload(model=model, setup=TrainSetup(attention=kernel, **CUDA))).layers
    ahead = 4 * 3 * 80**2 * 32 * 128
    found = [row.flops for row in rows if row.name.endswith(".self_attn")]
    assert found == [ahead + ahead * backward // 2] * 32


@pytest.mark.parametrize(("checkpointing", "limit"), [(False, 2 / 3), (True, 3 / 4)])
def test_lora_saves_at_best_a_third_and_with_checkpointing_a_quarter(checkpointing, limit):
    """Full fine-tuning counted without what the early stop of checkpointing spares it."""
    model = find_model("meta-llama/Meta-Llama-3-8B")
    common = {"batch_size": 1, "seq_len": 64, "checkpointing": checkpointing}
    full = flops(model, **common).total + 2 * 64 * linear_parameters(model)[2] * checkpointing
    assert flops(model, lora=LoraConfig(r=1), **common).total / full == pytest.approx(
        limit, rel=0.01
    )
    assert flops(model, lora=LoraConfig(r=256), **common).total / full > limit


def test_qlora_costs_what_lora_costs():
    model = find_model("meta-llama/Meta-Llama-3-8B")
    lora = LoraConfig(r=16)
    assert flops(model, lora=lora, quantization=Quantization(), **CUDA) == flops(
        model, lora=lora, **CUDA
    )


def test_experts_count_only_where_active():
    """Mixtral with two of four experts costs as much as with two of eight, but for the router."""
    few = model_from_config(
        cases.CONFIGS["mixtral"] | {"num_local_experts": 4}, id="few", source="test"
    )
    many = model_from_config(
        cases.CONFIGS["mixtral"] | {"num_local_experts": 8}, id="many", source="test"
    )
    router = 3 * 2 * 48 * 48 * 4
    assert flops(many, **SMALL).forward - flops(few, **SMALL).forward == router
    assert flops(replace(many), **SMALL).backward - flops(few, **SMALL).backward == 2 * router
