"""Every named weight against the real model of transformers, built on the meta device: names,
classes, shapes, ties, order."""

import json
from copy import deepcopy

import pytest

from lora_profiler.errors import ModelNotFoundError
from lora_profiler.facts.catalog import bundled_models, find_model, meta_build, model_from_config
from lora_profiler.facts.catalog.architectures import FAMILIES
from lora_profiler.facts.catalog.bundled import rows
from lora_profiler.memory.analytic.persistent import module_bytes, unquantized
from lora_profiler.question.support.bases import stored_base
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.quantizers.base import get_keys_to_not_convert  # noqa: E402
from transformers.quantizers.quantizers_utils import should_convert_module  # noqa: E402

nn, Conv1D = torch.nn, transformers.pytorch_utils.Conv1D

TINY = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
TIED, EXPERTS = {"tie_word_embeddings": True}, {"num_experts": 4, "num_experts_per_tok": 2}
CASES = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {"head_dim": 16, "num_key_value_heads": None}),
    ("mistral", {}),
    ("mistral", {"head_dim": 24}),
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, **TIED, "head_dim": 16}),
    ("qwen3", {}),
    ("qwen3", {"attention_bias": True, "head_dim": 8}),
    ("phi3", {"pad_token_id": 0}),
    ("gemma", {}),
    ("gemma", {"tie_word_embeddings": False, "head_dim": 12}),
    ("gemma2", {}),
    ("gemma2", {"attention_bias": True, "tie_word_embeddings": False}),
    ("gemma3_text", {}),
    ("gemma3_text", {"sliding_window_pattern": 2, "attention_bias": True}),
    ("olmo2", {}),
    ("olmo2", {"attention_bias": True, "num_key_value_heads": None}),
    ("mixtral", {"num_local_experts": 4}),
    ("mixtral", {"num_local_experts": 2, "tie_word_embeddings": True, "head_dim": 16}),
    ("qwen3_moe", {**EXPERTS, "moe_intermediate_size": 20}),
    ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [1], "head_dim": 16, "attention_bias": True}),
    ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 2}),
    ("gpt2", {"n_inner": 40}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("gpt_neox", {}),
    ("gpt_neox", {"attention_bias": False, "tie_word_embeddings": True, "rotary_pct": 0.5}),
    ("opt", {"ffn_dim": 40, "pad_token_id": 1}),
    ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False, "enable_bias": False}),
    ("opt", {"layer_norm_elementwise_affine": False, "tie_word_embeddings": False}),
    ("opt", {"_remove_final_layer_norm": True}),
]
OTHERS = [
    "bigscience/bloom-560m", "tiiuae/falcon-7b", "google/gemma-3-4b-it", "openai/gpt-oss-20b",
    "google-t5/t5-small", "facebook/bart-base", "google/vit-base-patch16-224",
    "google-bert/bert-base-uncased", "deepseek-ai/DeepSeek-V2-Lite", "Qwen/Qwen3.5-35B-A3B",
    "Qwen/Qwen3-Next-80B-A3B-Instruct", "bigcode/gpt_bigcode-santacoder",
    "moonshotai/Kimi-K2-Instruct", "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "google/gemma-4-26B-A4B",
]  # fmt: skip
PACKED = (
    "FacebookAI/roberta-base", "distilbert/distilbert-base-uncased", "openai-community/gpt2"
)  # fmt: skip
PEFT_KINDS = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def bundled_row(id):
    """Of the catalogue, and its config.json."""
    row = next(row for row in rows() if row["id"] == id)
    model_type = row.get("transformers_model_type") or row["model_type"]
    return row, {"model_type": model_type, "architectures": [row["architecture"]], **row["config"]}


def built(raw, architecture):
    config = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(deepcopy(dict(raw)))
    with torch.device("meta"):
        return getattr(transformers, architecture)(config)


def real_table(model):
    """(name, class, weights) of every module that owns parameters; a weight is (name, shape, the
    first name it has)."""
    first: dict[int, str] = {}
    table = []
    for name, module in model.named_modules():
        weights = []
        for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owner = first.setdefault(id(parameter), f"{name}.{local}")
            weights.append(
                (local, tuple(parameter.shape), None if owner == f"{name}.{local}" else owner)
            )
        if weights:
            kind = next(
                (cls.__name__ for cls in PEFT_KINDS if isinstance(module, cls)),
                type(module).__name__,
            )
            table.append((name, kind, weights))
    return table


def our_table(spec):
    return [
        (name, m.kind, [(w.name, w.shape, w.tied_to) for w in m.weights])
        for name, m in spec.modules()
    ]


def test_every_family_has_cases():
    assert {family for family, _ in CASES} == set(FAMILIES)


EACH_CASE = pytest.mark.parametrize(
    ("family", "change"), CASES, ids=lambda x: x if isinstance(x, str) else "-".join(x) or "plain"
)


def tiny(family, change):
    """The config.json, and what is read of it."""
    sizes = {key: value for key, value in {**TINY, **change}.items() if value is not None}
    raw = {"model_type": family, **sizes}
    return raw, model_from_config(raw, id="tiny", source="test")


@EACH_CASE
def test_a_family_equals_the_real_model(family, change):
    raw, spec = tiny(family, change)
    model = built(raw, spec.architecture)
    assert our_table(spec) == real_table(model)
    assert spec.num_parameters == sum(p.numel() for p in model.parameters())
    head = model.get_output_embeddings()
    assert spec.output_embedding == next(n for n, m in model.named_modules() if m is head)


@EACH_CASE
def test_fields_equal_transformers_own_reading(family, change):
    raw, spec = tiny(family, change)
    config = built(raw, spec.architecture).config
    own_names = {
        "hidden_act": ("hidden_activation", "activation_function"),
        "intermediate_size": ("ffn_dim", "n_inner"),
        "attention_dropout": ("attn_pdrop",),
    }
    compared = 0
    for name, value in spec.config.items():
        real = next(
            (getattr(config, n) for n in (*own_names.get(name, ()), name) if hasattr(config, n)),
            "no such field",
        )
        by_hand = real is None and name in ("head_dim", "intermediate_size")
        worked_out = real == "no such field" or by_hand
        assert worked_out or real == value, name
        compared += not worked_out
    assert compared >= 10


def test_reading_a_config_leaves_it_as_it_was():
    """transformers writes into nested dicts, which here belong to the catalogue: every later answer
    would see it."""
    raw = find_model("meta-llama/Llama-3.2-1B").published
    before = deepcopy(dict(raw))
    meta_build.build(raw, "test")
    assert dict(raw) == before


@pytest.mark.parametrize(
    "entry", [e for e in bundled_models() if e.model_type in FAMILIES], ids=lambda entry: entry.id
)
def test_bundled_fields_of_the_families_equal_transformers_own_reading(entry):
    _, raw = bundled_row(entry.id)
    config = transformers.CONFIG_MAPPING[entry.model_type].from_dict(deepcopy(raw))
    ours = find_model(entry.id).config
    heads = ("num_attention_heads", "num_key_value_heads")
    for name in ("hidden_size", "num_hidden_layers", *heads, "sliding_window"):
        if name in ours and hasattr(config, name):
            assert ours[name] == getattr(config, name), name
    assert ours.get("layer_types") == getattr(config, "layer_types", None)
    if "rope_parameters" in ours:
        # the old name kept beside the new; a copy of another field
        ignored = ("type", "original_max_position_embeddings")
        mine, real = (
            {k: v for k, v in parameters.items() if k not in ignored}
            for parameters in (ours["rope_parameters"], dict(config.rope_parameters))
        )
        assert mine == real


@pytest.mark.grid
@pytest.mark.parametrize("id", OTHERS)
def test_a_bundled_table_equals_the_real_model(id):
    row, raw = bundled_row(id)
    spec = find_model(id)
    assert our_table(spec) == real_table(built(raw, row["architecture"]))
    assert spec.architecture == row["architecture"]


@pytest.mark.grid
@pytest.mark.parametrize("id", [*OTHERS, *PACKED])
def test_a_4_bit_base_packs_the_layers_that_transformers_would(id):
    row, raw = bundled_row(id)
    model = built(raw, row["architecture"])
    left_out = get_keys_to_not_convert(model)
    linear = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))]
    spec, setup = find_model(id), TrainSetup(lora=LoraConfig(), quantization=Quantization())
    packed = {
        name
        for name, module in spec.modules()
        if module_bytes(module, setup, unquantized(spec), stored_base(spec, setup))[1]
    }
    assert packed == {name for name in linear if should_convert_module(name, left_out)}


def test_weightless_modules_are_the_real_ones():
    for id in ("openai-community/gpt2", "Qwen/Qwen3-0.6B", "google/gemma-3-4b-it"):
        row, raw = bundled_row(id)
        model = built(raw, row["architecture"])
        real = {name for name, m in model.named_modules() if name and not list(m.parameters())}
        named = set()
        for pattern in find_model(id).weightless:
            head, star, tail = pattern.partition(".*.")
            layers = {f"{head}.{i}.{tail}" for i in range(100)} & real
            named |= layers if star else {pattern}
        assert named == real


# --- types that are neither declared nor bundled --------------------------------------------------


SCORES = "LlamaForSequenceClassification"
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99}
BUILT = {
    "FalconForCausalLM": {"model_type": "falcon", **TINY},
    "Cohere2ForCausalLM": {"model_type": "cohere2", **TINY, "pad_token_id": 0},
    SCORES: {"model_type": "llama", "architectures": [SCORES], **TINY},
    "MambaForCausalLM": {"model_type": "mamba", **MAMBA},
}


@pytest.mark.parametrize(("architecture", "raw"), BUILT.items())
def test_other_types_are_built_on_the_meta_device(architecture, raw):
    spec = model_from_config(raw, id="x", source="test")
    assert spec.architecture == architecture and spec.num_layers == raw["num_hidden_layers"]
    assert our_table(spec) == real_table(built(raw, architecture))


REFUSED = (
    {"num_hidden_layers": 10**9},
    {"hidden_size": "x"},
    {"hidden_size": -1},
    {"num_attention_heads": 0},
    {"vocab_size": []},
)


@pytest.mark.parametrize("change", REFUSED)
def test_a_config_that_transformers_refuses_is_refused(change):
    raw = {"model_type": "cohere2", **TINY, "pad_token_id": 0, **change}
    with pytest.raises(ModelNotFoundError, match=r"x\.json"):
        model_from_config(raw, id="x", source="x.json")


def test_specs_survive_a_round_trip_through_json():
    spec = find_model("google/gemma-3-1b-it")
    assert json.loads(json.dumps(spec.config)) == spec.config
