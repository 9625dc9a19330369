"""What autograd keeps: equal to `saved_tensors_hooks` on real models to the byte, and to formulas
worked out by hand.

The whole grid is run by `benchmarks/truth/saved_bytes.py`; here are 200 of its cases, drawn by a fixed
seed.
"""

import re
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

import cases
import reference
import truth
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.prediction import Prediction
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from oracle import Saved

QV = ("q_proj", "v_proj")
TOY: dict[str, Any] = {"batch_size": 2, "seq_len": 24, "device": "cpu"}
RESIDUAL_DROPOUT = ("gpt2-varied", "opt_no_bias-varied")
"""Their dropouts are booked with the projection before them."""
LAYER = re.compile(r".+?\.(?:layers|h)\.\d+")
IN_LAYER = re.compile(rf"({LAYER.pattern})(?:\.([^.]+))?")


def saved(model: ModelSpec, **fields) -> int:
    return saved_in(model, TrainSetup(**fields))


def saved_in(model: ModelSpec, setup: TrainSetup) -> int:
    found = predict(Workload(model=model, setup=setup)).saved_activation_bytes
    assert found is not None
    return found


def agree(name: str, lora: LoraConfig | None, **fields) -> None:
    """Of a config of `CONFIGS` as much as autograd keeps."""
    setup = TrainSetup(lora=lora, **TOY, **fields)
    assert saved_in(cases.spec_of(name), setup) == truth.saved_bytes(cases.CONFIGS[name], setup)


def in_rows(prediction: Prediction) -> dict[str, int]:
    """What each module keeps that keeps anything."""
    rows = prediction.layers
    return {row.name: row.saved_activation_bytes for row in rows if row.saved_activation_bytes}


# --- against real models --------------------------------------------------------------------------


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("case", cases.sample(200, seed=20), ids=str)
def test_equal_to_autograd(case):
    storages = truth.saved_storages(cases.CONFIGS[case.config], case.setup)
    prediction = predict(cases.workload(case))
    assert prediction.saved_activation_bytes == sum(s.bytes for s in storages)
    ours = in_rows(prediction)
    assert prediction.saved_activation_bytes == sum(ours.values())
    if case.setup.batch_size > 1:  # with one sample a rotary table has the shape of a single head
        real = real_by_module(storages, {row.name for row in prediction.layers}, case)
        depth = 1 if case.config in RESIDUAL_DROPOUT else 2
        assert by_part(ours, depth) == by_part(real, depth)


def real_by_module(storages: list[Saved], names: set[str], case: cases.Case) -> dict[str, int]:
    """Bytes by the predictor's name of a module: PEFT's wrappers removed, functions without weights
    given to their parent."""
    result: dict[str, int] = defaultdict(int)
    for storage in storages:
        name = storage.module.removeprefix("base_model.model").removeprefix(".")
        inner = re.sub(r"\.(base_layer|lora_\w+)\b.*$", "", name)
        name = "rotary_emb" if is_shared(storage, case) else inner
        while name and name not in names and not LAYER.fullmatch(name):
            name = name.rpartition(".")[0]
        result[name or "loss"] += storage.bytes
    return result


def is_shared(storage: Saved, case: cases.Case) -> bool:
    """Rotary tables, and the mask that GPT-2 hands to its checkpointed layers: the only ones
    without a batch dimension or with one for heads."""
    size, seq = case.setup.batch_size, case.setup.seq_len
    mask = case.setup.checkpointing and storage.shape == (size, 1, seq, seq)
    return mask or (len(storage.shape) > 2 and storage.shape[0] == 1 and seq in storage.shape)


def by_part(sizes: dict[str, int], depth: int) -> dict[str, int]:
    """Summed over the layers (depth 1) or their parts (2: norms, attention, MLP); what lies outside
    them with the loss."""
    result: dict[str, int] = defaultdict(int)
    for name, size in sizes.items():
        outside = name if name == "rotary_emb" else "outside"
        layer = IN_LAYER.match(name)
        result[".".join(filter(None, layer.groups()[:depth])) if layer else outside] += size
    return result


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("method", ["full", "all", "dropout"])
@pytest.mark.parametrize("name", [n for n in cases.CONFIGS if n not in RESIDUAL_DROPOUT])
def test_every_module_keeps_what_autograd_keeps_there(name, method):
    """Module by module, but for Gemma 2's cap of the logits, which is booked with the head and runs
    in no module."""
    lora = cases.methods(cases.family(name))[method]
    case = cases.Case(name, method, TrainSetup(lora=lora, **TOY))
    prediction = predict(cases.workload(case))
    names = {row.name for row in prediction.layers}
    real = real_by_module(truth.saved_storages(cases.CONFIGS[name], case.setup), names, case)
    ours = in_rows(prediction)
    if cases.family(name) == "gemma2":
        for sizes in (ours, real):
            sizes["loss"] += sizes.pop("lm_head", 0)
    assert ours == real


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["full", "all"])
@pytest.mark.parametrize("name", cases.CONFIGS)
def test_autocast(name, method, dtype):
    agree(name, cases.methods(cases.family(name))[method], dtype=dtype, precision="amp")


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("recipe", ["stock", "kbit", "trl"])
@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "gpt2", "opt-varied", "gemma2-varied", "qwen3_moe-varied"]
)
def test_qlora(name, recipe, checkpointing):
    """A first forward pass is let by: in it, 4-bit layers replace biases that the k-bit recipe made
    float32."""
    lora = cases.methods(cases.family(name))["bf16" if recipe == "trl" else "all"]
    in_4_bit = {"lora": lora, "quantization": Quantization(recipe=recipe)}
    setup = TrainSetup(checkpointing=checkpointing, **in_4_bit, **TOY)
    real = truth.saved_bytes_of_the_second_pass(cases.CONFIGS[name], setup)
    assert saved_in(cases.spec_of(name), setup) == real


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("precision", ["pure", "amp"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe-varied"])
def test_experts_in_4_bit(name, precision, checkpointing):
    """Autograd keeps them as they are brought back, in 16 bit and whole; and under autocast a copy
    of each router that axolotl has in float32."""
    loop = {"precision": precision, "loop_state": "axolotl", "checkpointing": checkpointing}
    in_4_bit = Quantization(quantize_experts=True)
    agree(name, LoraConfig(r=4, target_modules=cases.ATTENTION), quantization=in_4_bit, **loop)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe-varied"])
def test_experts_of_some_layers_named_by_their_parameters(name, checkpointing):
    named = ("0.mlp.experts.gate_up_proj", "1.mlp.experts.down_proj", "mlp.gate.weight")
    lora = LoraConfig(r=3, target_modules=QV, target_parameters=named)
    agree(name, lora, checkpointing=checkpointing)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe-varied"])
def test_expert_adapters_under_autocast_are_an_estimate(name):
    """Not followed to the byte, and the answer says so."""
    setup = TrainSetup(
        lora=LoraConfig(r=3), batch_size=2, seq_len=16, precision="amp", device="cpu"
    )
    real = truth.saved_bytes(cases.CONFIGS[name], setup)
    found = predict(Workload(model=cases.spec_of(name), setup=setup))
    assert found.exactness == "estimate"
    assert abs(found.saved_activation_bytes - real) <= 1024


def test_the_grid_is_large_and_covers_every_family():
    assert len(cases.grid()) >= 1000
    assert len(set(map(str, cases.grid()))) == len(cases.grid())
    assert {cases.family(c.config) for c in cases.sample(200, seed=20)} == {
        c["model_type"] for c in cases.CONFIGS.values()
    }


# --- toy numbers that others took from the same versions ------------------------------------------


@pytest.mark.parametrize("family", reference.SAVED)
def test_toy_models(family):
    model = cases.spec_of(family)
    few = LoraConfig(r=4, target_modules=cases.FEW.get(family, QV))
    every = cases.methods(family)["all"]
    assert (
        saved(model, **TOY),
        saved(model, **TOY, lora=few),
        saved(model, **TOY, lora=every),
        saved(model, **TOY, checkpointing=True),
        saved(model, **TOY, lora=every, checkpointing=True),
        saved(model, **TOY, attention="eager"),
        saved(model, **TOY, dtype="float32"),
        saved(model, **TOY | {"batch_size": 1, "seq_len": 17}),
    ) == reference.SAVED[family]


@pytest.mark.parametrize(
    ("family", "unpadded", "padding"),
    [
        ("llama", (324_556, 277_900, 464_524, 52_612, 43_012), 4_608),
        ("gpt2", (421_708, 358_540, 531_340, 43_780, 38_596), 6_144),
    ],
)
def test_toy_models_by_the_rules_of_cuda(family, unpadded, padding):
    """Flash adds 24 bytes of random state a layer; LayerNorm's statistics are float32.

    Heads of 12 are padded to 16, and q, k, v and the output kept so: of 48 tokens in bfloat16, a
    layer keeps 18,432 bytes instead of 13,824 for Llama; 24,576 instead of 18,432 for GPT-2, whose
    q, k and v were parts of one tensor of the same size. The output without its padding is a copy
    of 4,608 bytes, which the projection after it keeps where it trains.
    """
    few, every = LoraConfig(r=4, target_modules=cases.FEW.get(family, QV)), LoraConfig(r=4)
    again = {"checkpointing": True}
    setups = ({}, {"lora": few}, {"lora": every}, again, {"lora": every} | again)
    on_cuda = TOY | {"device": "cuda"}
    found = tuple(saved(cases.spec_of(family), **on_cuda, **fields) for fields in setups)
    added = (padding + 4_608, padding, padding, 0, 0)
    assert found == tuple(bare + 3 * more for bare, more in zip(unpadded, added, strict=True))


@pytest.mark.parametrize(("rank", "batch", "seq", "dtype", "expected"), reference.RESIZED_SAVED)
def test_rank_and_size(rank, batch, seq, dtype, expected):
    config = cases.CONFIGS["llama"] | reference.RESIZED
    model = model_from_config(config, id="resized", source="test")
    asked = {"batch_size": batch, "seq_len": seq, "dtype": dtype, "device": "cpu"}
    assert saved(model, **asked, lora=LoraConfig(r=rank)) == expected


# --- published sizes ------------------------------------------------------------------------------


def changed(name: str, **fields) -> ModelSpec:
    """A bundled model with other config fields."""
    model = find_model(name)
    fingerprint = f"{model.fingerprint}-{sorted(fields.items())}"
    return replace(model, config={**model.config, **fields}, fingerprint=fingerprint)


NO_DROPOUT = {"attention_dropout": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
SMOL, QWEN = "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B"
PUBLISHED = [
    (SMOL, {}, 1, 256, (240_663_564, 216_870_924, 337_293_324, 59_771_916, 360_951_820)),
    (QWEN, {}, 2, 96, (382_627_588, 337_012_228, 494_200_324, 125_634_820, 581_518_852)),
    ("gpt2", NO_DROPOUT, 2, 128, (184_548_356, 165_080_068, 222_292_996, 56_578_052, 316_689_412)),
]


@pytest.mark.parametrize(("name", "fields", "batch", "seq", "expected"), PUBLISHED)
def test_published_sizes(name, fields, batch, seq, expected):
    """Full; q and v; all linears; all with checkpointing; all on a float32 model. Taken from real
    models on the CPU."""
    model, every = changed(name, **fields), LoraConfig(r=16)
    few = LoraConfig(r=16, target_modules=cases.FEW.get(model.model_type, QV))
    common = {"batch_size": batch, "seq_len": seq, "device": "cpu"}
    assert (
        saved(model, **common),
        saved(model, **common, lora=few),
        saved(model, **common, lora=every),
        saved(model, **common, lora=every, checkpointing=True),
        saved(model, **common, lora=every, dtype="float32"),
    ) == expected


# --- Llama-3-8B by hand ---------------------------------------------------------------------------

LLAMA3 = "meta-llama/Meta-Llama-3-8B"
ALL, ALL16 = LoraConfig(r=16), LoraConfig(r=16, adapter_dtype="bfloat16")
DROPPED16 = replace(ALL16, lora_dropout=0.05)
FLASH: dict[str, object] = {"device": "cuda"}
EAGER: dict[str, object] = {"device": "cpu", "attention": "eager"}
F32: dict[str, object] = {"device": "cpu", "dtype": "float32"}
MASKED: dict[str, object] = {"device": "cpu"}

# what trains; setup; bytes a token of a later layer, of layer 0 and of the head; in each also per r
# and per s
HAND = {
    "full": (None, FLASH, (200_840, 200_840, 545_804), 0, 0),
    "q and v": (LoraConfig(target_modules=QV), FLASH, (172_168, 155_780, 529_420), 8, 0),
    "all": (ALL, FLASH, (295_048, 278_660, 529_420), 28, 0),
    "all, bf16 adapters": (ALL16, FLASH, (184_456, 168_068, 529_420), 14, 0),
    "all, dropout": (replace(ALL, lora_dropout=0.05), FLASH, (333_960, 305_284, 529_420), 28, 0),
    "all, bf16 adapters, dropout": (DROPPED16, FLASH, (256_136, 227_460, 529_420), 14, 0),
    "full, masked": (None, MASKED, (213_128, 213_128, 545_804), 0, 2),
    "all, masked": (ALL, MASKED, (307_336, 290_948, 529_420), 28, 2),
    "full, eager": (None, EAGER, (213_000, 213_000, 545_804), 0, 192),
    "all, eager": (ALL, EAGER, (299_016, 282_628, 529_420), 28, 192),
    "full, float32": (None, F32, (368_776, 368_776, 562_188), 0, 0),
    "all, float32": (ALL, F32, (336_008, 319_620, 529_420), 28, 0),
}


@pytest.mark.parametrize(
    ("batch", "seq", "rank"), [(1, 2048, 16), (2, 1000, 16), (3, 4096, 64), (8, 129, 1), (1, 64, 8)]
)
@pytest.mark.parametrize("row", HAND)
def test_llama3_by_hand(row, batch, seq, rank):
    """Rows with a mask are Mistral's: the same layers with a sliding window that the sequence
    fills."""
    lora, fields, (later, first, head), per_rank, per_seq = HAND[row]
    model = find_model(LLAMA3)
    if fields is MASKED:
        model = replace(changed(LLAMA3, sliding_window=64), model_type="mistral")
    tokens, wide = batch * seq, fields.get("dtype") == "float32"
    expected = tokens * (first + 31 * later + head + 32 * (per_rank * rank + per_seq * seq)) + 4
    expected += (1024 if wide else 512) * seq
    expected += 32 * 24 if fields is FLASH else 0
    expected += 8 * tokens if lora is None else 0
    expected += 8 if batch == 1 else 0
    lora = replace(lora, r=rank) if lora else None
    assert saved(model, batch_size=batch, seq_len=seq, lora=lora, **fields) == expected


LLAMA3_TOTALS = [
    ({}, 14_281_122_572),
    ({"lora": LoraConfig(target_modules=QV)}, 12_343_329_548),
    ({"lora": ALL}, 20_417_364_748),
    ({"checkpointing": True}, 1_654_693_900),
    ({"lora": ALL, "checkpointing": True}, 1_621_123_084),
    ({"lora": LoraConfig(target_modules=QV), "checkpointing": True}, 1_621_123_084),
]


@pytest.mark.parametrize(("fields", "expected"), LLAMA3_TOTALS)
def test_llama3_totals(fields, expected):
    assert saved(find_model(LLAMA3), batch_size=1, seq_len=2048, **fields) == expected


def test_lora_with_the_defaults_keeps_more_than_full_fine_tuning():
    """2048 tokens of Llama-3-8B, GB: 14.28 full; 20.42, 13.15 (bfloat16 adapters), 12.34 (q and v),
    22.94 (dropout)."""
    loras = (None, ALL, ALL16, LoraConfig(target_modules=QV), replace(ALL, lora_dropout=0.05))
    found = [saved(find_model(LLAMA3), batch_size=1, seq_len=2048, lora=lora) for lora in loras]
    assert [round(size / 1e9, 2) for size in found] == [14.28, 20.42, 13.15, 12.34, 22.94]


@pytest.mark.parametrize(("batch", "seq", "rank"), [(2, 512, 16), (4, 100, 8)])
def test_gpt2_by_hand(batch, seq, rank):
    """By the rules of CUDA: 24 bytes a layer of random state, float32 statistics of LayerNorm."""
    model, tokens = changed("gpt2", **NO_DROPOUT), batch * seq
    common = {"batch_size": batch, "seq_len": seq}
    few = LoraConfig(r=rank, target_modules=("c_attn",))
    end = 12 * 24 + 4
    assert saved(model, **common) == tokens * (12 * 43_072 + 204_116) + end + 8 * tokens + 8 * seq
    adapted = tokens * (11 * 36_928 + 35_384 + 12 * 4 * rank + 202_580) + end
    assert saved(model, **common, lora=few) == adapted
    every = tokens * (12 * (55_360 + 16 * rank) - 1544 + 202_580) + end
    assert saved(model, **common, lora=replace(few, target_modules="all-linear")) == every


@pytest.mark.parametrize(("batch", "seq", "rank"), [(2, 512, 16), (4, 100, 8)])
def test_mixtral_by_hand(batch, seq, rank):
    """Per layer 24 bytes of random state and 8 group offsets; the experts' part does not depend on
    the routing."""
    model, tokens = find_model("mistralai/Mixtral-8x7B-v0.1"), batch * seq
    common = {"batch_size": batch, "seq_len": seq}
    vocabulary, norm = 4 * 32_000 + 8, 6 * 4096 + 4
    end = 32 * 56 + 512 * seq + 4
    full = tokens * (32 * 348_412 + norm + 2 * 4096 + vocabulary + 8) + end
    assert saved(model, **common) == full
    lora = LoraConfig(r=rank, target_modules=cases.ATTENTION)
    first = 4 * 4096 + 4  # layer 0's norm keeps nothing: its input needs no gradient
    adapted = tokens * (32 * (307_452 + 16 * rank) - first + norm - 2 * 4096 + vocabulary) + end
    assert saved(model, **common, lora=lora) == adapted


def test_expert_adapters_keep_merged_copies_of_the_weights():
    """PEFT makes W + BA of every expert stack anew, and autograd keeps it: 2.82 GB a layer of
    Mixtral-8x7B."""
    model = find_model("mistralai/Mixtral-8x7B-v0.1")
    common = {"batch_size": 1, "seq_len": 8}
    attention = saved(model, **common, lora=LoraConfig(target_modules=cases.ATTENTION))
    merged = saved(model, **common, lora=LoraConfig()) - attention
    assert merged == pytest.approx(32 * 8 * 3 * 4096 * 14336 * 2, rel=0.01)
