"""What lives from step to step: equal to real models after two real optimizer steps, module by
module and tensor by tensor."""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product

import pytest

import cases
import truth
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.persistent import state_bytes
from lora_profiler.memory.analytic.plan import plan_for
from lora_profiler.question.base import nf4_bytes
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

Sizes = dict[str, tuple[int, int, int]]
SMALL = {"batch_size": 2, "seq_len": 8, "device": "cpu"}
WRAPPERS = re.compile(
    r"\.(base_layer|lora_[AB]\.default|lora_magnitude_vector\.default|original_module|modules_to_save\.default)(?=\.|$)"
)
PARAMETRIZED = re.compile(r"\.parametrizations\.(\w+)\.(original|0\.weight)$")
"""Names of a parameter that torch makes of another, and of what is beside that."""


def agree(name, lora=None, *, changes=None, **fields) -> None:
    """Compare a real run of two steps with the prediction: totals, modules, single tensors. `lora`
    may be the name of one of `cases.methods`; `changes` are of the model's config."""
    config = cases.CONFIGS[name] | (changes or {})
    if isinstance(lora, str):
        lora = cases.methods(cases.family(name))[lora]
    setup = measured = TrainSetup(lora=lora, **SMALL, **fields)
    if lora and setup.quantization and setup.quantization.recipe == "trl":
        measured = replace(setup, lora=replace(lora, adapter_dtype="bfloat16"))
    real, states = truth.persistent(config, measured).values()
    model = model_from_config(dict(config), id=str(sorted(config.items())), source="test")
    workload = Workload(model=model, setup=setup)
    prediction = predict(workload)

    found = prediction.persistent_bytes
    parameters, gradients, optimizer = (sum(sizes[i] for sizes in real.values()) for i in range(3))
    assert found["parameters"] + found["adapters"] == parameters
    assert found["adapters"] == sum(
        sizes[0] for name, sizes in real.items() if "lora_" in name or "modules_to_save" in name
    )
    assert found["quantization_state"] == sum(states.values())
    assert found["gradients"] == gradients
    assert found["optimizer_states"] == optimizer

    rows = {
        row.name: (row.parameter_bytes, row.gradient_bytes, row.optimizer_state_bytes)
        for row in prediction.layers
    }
    assert {name: sizes for name, sizes in rows.items() if any(sizes)} == by_module(real, states)
    assert trained_tensors(workload) == Counter((g, s) for name, (_, g, s) in real.items() if g)


def by_module(real: Sizes, states: dict[str, int]) -> Sizes:
    """The sizes of parameters summed by the module's name in the base model; quantisation states
    count as parameters."""
    result: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    states = {PARAMETRIZED.sub(r".\1", name): size for name, size in states.items()}
    for name, sizes in real.items():
        name = PARAMETRIZED.sub(r".\1", name)
        module = WRAPPERS.sub("", name.removeprefix("base_model.model.")).rpartition(".")[0]
        for i, size in enumerate(sizes):
            result["optimizer" if name == "code books" else module][i] += size
        result[module or "optimizer"][0] += states.get(name, 0)
    return {name: (a, b, c) for name, (a, b, c) in result.items()}


def trained_tensors(workload: Workload) -> Counter[tuple[int, int]]:
    """(gradient, optimizer state) bytes of every trainable tensor as predicted, unordered."""
    at = (1, 1, workload.setup.lora.r if workload.setup.lora else 1)
    result: Counter[tuple[int, int]] = Counter()
    for tensor, count in plan_for(workload).state.trainable.items():
        states = state_bytes(tensor, workload.setup)
        result[tensor.bytes.evaluate(*at), states.evaluate(*at)] += count
    return result


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["full", "few", "all"])
@pytest.mark.parametrize("name", cases.CONFIGS)
def test_adamw(name, method, dtype):
    agree(name, method, dtype=dtype)


@pytest.mark.parametrize("name", cases.TINY_NAMES)
def test_bfloat16_adapters(name):
    agree(name, "bf16")


@pytest.mark.parametrize("adapter_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [n for n in cases.CONFIGS if cases.family(n) in cases.MIXTURES])
def test_expert_adapters(name, adapter_dtype):
    agree(name, LoraConfig(r=3, adapter_dtype=adapter_dtype))


OPTIMIZERS = [
    *product(["adamw"], ("foreach", "forloop", "fused")),
    *product(("sgd", "rmsprop"), ("foreach", "forloop")),
    *product(("adafactor", "adamw_8bit", "paged_adamw_32bit", "lion", "lion_8bit"), ["foreach"]),
]


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize(
    "lora",
    [None, LoraConfig(r=40), LoraConfig(r=4, adapter_dtype="bfloat16")],
    ids=["full", "r40", "bf16"],
)
@pytest.mark.parametrize(("optimizer", "implementation"), OPTIMIZERS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3_moe-varied"])
def test_other_optimizers(name, optimizer, implementation, lora):
    """Rank 40 makes adapters of both more and fewer than 4096 elements, where 8-bit AdamW
    changes."""
    if lora and cases.family(name) in cases.MIXTURES:
        lora = replace(lora, target_modules=cases.ATTENTION)
    agree(name, lora, optimizer=optimizer, optimizer_impl=implementation)


@pytest.mark.parametrize("adapter_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox-varied"])
def test_dora(name, adapter_dtype):
    """A magnitude for each output of each adapted layer, in the adapter's dtype."""
    agree(name, LoraConfig(r=3, use_dora=True, adapter_dtype=adapter_dtype))


def test_muon():
    agree("gpt2", LoraConfig(r=3), optimizer="muon")


UNTIED = {"tie_word_embeddings": False}
EXTRAS = [
    ("llama", {"modules_to_save": ("lm_head",)}),
    ("llama", {"modules_to_save": ("lm_head", "embed_tokens")}),
    ("llama", {"modules_to_save": ("norm",), "target_modules": ("q_proj", "down_proj")}),
    ("llama-varied", {"layers_to_transform": (1, 3), "target_modules": ("gate_proj", "o_proj")}),
    ("llama-varied", {"layers_to_transform": (0,), "modules_to_save": ("lm_head",),
        "target_modules": ("up_proj",)}),
    ("gpt2", {"modules_to_save": ("wte",), "target_modules": ("c_attn",)}),
    ("gpt2-varied", {"layers_to_transform": (3,), "target_modules": ("c_proj",)}),
    ("gpt_neox", {"modules_to_save": ("embed_in", "embed_out"), "layers_to_transform": (2,),
        "target_modules": ("dense", "query_key_value")}),
    ("opt", {"modules_to_save": ("lm_head",)}),
    ("gemma", {"layers_to_transform": (0, 2), "use_rslora": True, "target_modules": ("v_proj",
        "down_proj")}),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "fields"), EXTRAS)
def test_saved_modules_and_chosen_layers(name, fields, dtype):
    agree(name, LoraConfig(r=4, **fields), changes=UNTIED, dtype=dtype)


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("double_quant", [True, False], ids=["double", "plain"])
@pytest.mark.parametrize("recipe", ["stock", "kbit", "trl"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "opt-varied", "mixtral"])
def test_qlora(name, recipe, double_quant, dtype):
    """The k-bit recipe makes biases float32; the first forward pass of a 4-bit layer turns its own
    back to the compute dtype."""
    quantization = Quantization(double_quant=double_quant, recipe=recipe)
    agree(name, "all", quantization=quantization, dtype=dtype)


@pytest.mark.parametrize("double_quant", [True, False], ids=["double", "plain"])
@pytest.mark.parametrize("recipe", ["stock", "kbit"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe-varied"])
def test_experts_in_4_bit(name, recipe, double_quant):
    """By bitsandbytes' own parametrization; under axolotl's loop routers are float32."""
    base = Quantization(double_quant=double_quant, recipe=recipe, quantize_experts=True)
    adapters = LoraConfig(r=4, target_modules=cases.ATTENTION)
    agree(name, adapters, quantization=base)
    agree(name, adapters, quantization=base, precision="amp", loop_state="axolotl")


@pytest.mark.parametrize(
    ("rows", "columns", "plain", "double"),
    [
        (1024, 1024, 589_888, 542_020),
        (256, 100, 14_464, 14_300),
        (4096, 1024, 2_359_360, 2_164_804),
    ],
)
def test_nf4_of_one_matrix(rows, columns, plain, double):
    """Taken from bitsandbytes."""
    assert sum(nf4_bytes(rows * columns, double_quant=False)) == plain
    assert sum(nf4_bytes(rows * columns, double_quant=True)) == double


@pytest.mark.parametrize("elements", [1, 63, 64, 65, 4096, 16384, 16385, 999_999])
def test_nf4_against_bitsandbytes(elements):
    import torch
    from bitsandbytes.functional import quantize_4bit

    for double_quant in (True, False):
        packed, state = quantize_4bit(
            torch.ones(elements), quant_type="nf4", compress_statistics=double_quant
        )
        tensors = [state.absmax, state.code]
        if double_quant:
            tensors += [state.offset, state.state2.absmax, state.state2.code]
        assert nf4_bytes(elements, double_quant) == (packed.nbytes, sum(t.nbytes for t in tensors))


def test_full_fine_tuning_by_hand():
    """Bytes a parameter: 2 + 2 + 4 in bfloat16, 4 + 4 + 8 in float32; adapters of a bfloat16 base
    16."""
    model = cases.spec_of("llama")
    parameters = model.num_parameters
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        found = predict(Workload(model=model, setup=TrainSetup(dtype=dtype))).persistent_bytes
        assert dict(found) == {
            "parameters": size * parameters,
            "quantization_state": 0,
            "adapters": 0,
            "gradients": size * parameters,
            "optimizer_states": 2 * size * parameters,
        }
    found = predict(Workload(model=model, setup=TrainSetup(lora=LoraConfig(r=4))))
    adapter = found.parameters.adapter
    assert (found.persistent_bytes["adapters"], found.persistent_bytes["gradients"]) == (
        4 * adapter,
        4 * adapter,
    )
    assert found.persistent_bytes["optimizer_states"] == 8 * adapter


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", ["stock", "kbit", "trl"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_a_base_in_int8(name, recipe, dtype):
    """A byte a weight and a scale for each output; biases in the dtype of the layer's input."""
    quantization = Quantization(quant_type="int8", recipe=recipe)
    agree(name, "all", quantization=quantization, dtype=dtype)
