"""A config.json of a quantised checkpoint is answered for what it is, or refused in words: never as
a 16-bit model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import cases
import oracle
from commands import Run, refused
from golden_files import Golden
from lora_profiler.dashboard.answered import answered, uploaded_model
from lora_profiler.dashboard.question import Question
from lora_profiler.errors import (
    LoraProfilerError,
    ModelNotFoundError,
    UnsupportedModelError,
    UsageError,
)
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.planning.engine import peak_bytes, predict
from lora_profiler.planning.sweep import sweep
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import UNMODELLED_BASES
from lora_profiler.question.support.model_types import MODEL_TYPES, ModelType
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report.json.predict import predict_schema

BASE: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "torch_dtype": "bfloat16",
}  # fmt: skip
NF4: dict[str, Any] = {
    "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True, "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None, "llm_int8_threshold": 6.0,
    "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes",
}  # fmt: skip
"""As transformers writes it into the config.json of a model that was loaded in 4 bit and saved."""


def by(method: str, **fields: Any) -> dict[str, Any]:
    """What a quantiser writes."""
    return {"quant_method": method, **fields}


UNORDERED = {"damp_percent": 0.01, "desc_act": False, "sym": True}
NOT_PACKED = ["model.layers.*.self_attn", "lm_head"]
HEAD = ["lm_head"]
IN_GROUPS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "gptq": (
        "GPTQ, 4 bit",
        by("gptq", bits=4, group_size=128, checkpoint_format="marlin", **UNORDERED),
    ),
    "awq": ("AWQ, 4 bit", by("awq", bits=4, group_size=128, version="gemv", zero_point=True)),
    "autoround": (
        "AutoRound, 4 bit",
        by("auto-round", bits=4, packing_format="auto_round:auto_gptq"),
    ),
    "fp8": (
        'FP8).*"dequantize": true',
        by("fp8", activation_scheme="static", fmt="e4m3", weight_block_size=[128, 128]),
    ),
    "fbgemm": (
        "FBGEMM FP8",
        by("fbgemm_fp8", activation_scale_ub=1200.0, modules_to_not_convert=[]),
    ),
    "mxfp4": ('MXFP4).*"dequantize": true', by("mxfp4", modules_to_not_convert=NOT_PACKED)),
    "compressed": (
        "compressed-tensors",
        by("compressed-tensors", config_groups=IN_GROUPS, format="pack-quantized", ignore=HEAD),
    ),
    "int8": ("bitsandbytes 8-bit", by("bitsandbytes", load_in_8bit=True, load_in_4bit=False)),
    "int8 of old": ("bitsandbytes 8-bit", {"load_in_8bit": True, "llm_int8_threshold": 6.0}),
    "fp4": ("bitsandbytes 4-bit FP4", NF4 | {"bnb_4bit_quant_type": "fp4"}),
    "fp4 by default": ("bitsandbytes 4-bit FP4", {"load_in_4bit": True}),
    "nf4 for fsdp": (
        "bitsandbytes NF4 packed into bfloat16",
        NF4 | {"bnb_4bit_quant_storage": "bfloat16"},
    ),
    "torchao": (
        "torchao",
        by("torchao", quant_type={"default": {"_type": "Int4WeightOnlyConfig"}}),
    ),
    "hqq": (
        "HQQ",
        by("hqq", quant_config={"weight_quant_params": {"nbits": 4}}, skip_modules=HEAD),
    ),
    "aqlm": ("AQLM", by("aqlm", in_group_size=8, nbits_per_codebook=16, num_codebooks=1)),
    "eetq": ("EETQ", by("eetq", weights="int8", modules_to_not_convert=None)),
    "quanto": ("Quanto", by("quanto", weights="int4", activations=None)),
    "modelopt": ("ModelOpt", by("modelopt", quant_algo="NVFP4")),
    "of the future": ("zq9", by("zq9")),
}


def config(tmp_path: Path, quantization: Any, **more: Any) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(BASE | {"quantization_config": quantization} | more))
    return str(path)


def read(**more: Any) -> ModelSpec:
    return model_from_config(BASE | more, id="x", source="file.json")


def nf4_model(**changes: Any) -> ModelSpec:
    return read(quantization_config=NF4 | changes)


def told(run: Run, *words: str) -> dict[str, Any]:
    """What is predicted, as JSON."""
    done = run("predict", *words, "--full", "--format", "json")
    assert done.exit_code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize(("words", "quantization"), REFUSED.values(), ids=REFUSED)
def test_what_training_on_is_not_known_is_refused_by_name(
    words: str, quantization: dict[str, Any]
) -> None:
    for raw in (
        BASE | {"quantization_config": quantization},
        BASE | {"compression_config": quantization},
        BASE | {"text_config": {"quantization_config": quantization}},
    ):
        with pytest.raises(
            UnsupportedModelError, match=rf"stored quantised \({words.replace(')', '[)]')}"
        ) as refused:
            model_from_config(raw, id="x", source="file.json")
        assert refused.value.exit_code == 3
        said = str(refused.value)
        assert "Training on those" in said and "model that it was made from" in said


@pytest.mark.parametrize("command", ["predict", "bench", "compile", "plan"])
def test_every_command_says_the_same(run: Run, tmp_path: Path, command: str) -> None:
    more = ["--cluster", "4xh100_sxm_80gb"] if command == "plan" else []
    done = run(command, config(tmp_path, REFUSED["gptq"][1]), *more)
    assert done.exit_code == 3 and done.stdout == ""
    assert "its weights are stored quantised (GPTQ, 4 bit)" in done.stderr


def test_the_refusal_names_a_bundled_model_of_the_same_sizes() -> None:
    known = find_model("Qwen/Qwen2.5-7B", offline=True)
    raw = dict(known.published) | {"quantization_config": REFUSED["awq"][1]}
    same = r"made from \(Qwen/Qwen2\.5-7B\S* has the same sizes"
    with pytest.raises(UnsupportedModelError, match=same):
        model_from_config(raw, id="Qwen/Qwen2.5-7B-Instruct-AWQ", source="hub")


@pytest.mark.parametrize("double_quant", [True, False])
def test_an_nf4_checkpoint_is_answered_as_qlora_on_its_base(
    run: Run, tmp_path: Path, double_quant: bool
) -> None:
    def asked(path: str, *options: str) -> list[dict[str, Any]]:
        document = told(run, path, "-s", "128", *options)
        jsonschema.validate(document, predict_schema())
        found: list[dict[str, Any]] = document["predictions"]
        return found

    path = config(tmp_path, NF4 | {"bnb_4bit_use_double_quant": double_quant})
    (own,), (as_lora,) = asked(path), asked(path, "--method", "lora", "--method", "qlora")
    assert own == as_lora
    base = tmp_path / "base.json"
    base.write_text(json.dumps(BASE))
    constants = "--double-quant" if double_quant else "--no-double-quant"
    (qlora,) = asked(str(base), "--method", "qlora", constants)
    assert own["model"].pop("checkpoint_quantization") == "NF4"
    assert qlora["model"].pop("checkpoint_quantization") is None
    *rest, words = own.pop("assumptions")
    assert rest == qlora.pop("assumptions")
    assert words.startswith("The checkpoint is stored in NF4 by bitsandbytes, with")
    for one in (own, qlora):
        one["model"] = one["model"]["num_layers"]
        one["trainer"] = one["trainer"]["name"]  # only one question gives --double-quant itself
    assert own == qlora


def test_setups_that_an_nf4_checkpoint_cannot_be_trained_with_end_with_2(
    run: Run, golden_file: Golden, tmp_path: Path
) -> None:
    path = config(tmp_path, NF4)

    def answer(words: str) -> str:
        return refused(run("predict", path, *words.split())).replace(path, "FILE")

    golden_file.compare_answers("refusals-nf4", answer)


def test_python_asks_for_the_4_bit_base_too() -> None:
    model = nf4_model()
    with pytest.raises(UsageError, match="LoRA on it is QLoRA"):
        Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
    with pytest.raises(UsageError, match="trained in full"):
        Workload(model=model)
    qlora = TrainSetup(lora=LoraConfig(), quantization=Quantization(), seq_len=64)
    asked = Workload(model=model, setup=qlora)
    assert sweep(asked, seq_len=[64]).tolist() == [peak_bytes(asked)]
    assert peak_bytes(asked) == predict(asked).peak.total_bytes
    assert model != read()


def test_the_dtype_is_that_of_the_checkpoint_unless_given(run: Run, tmp_path: Path) -> None:
    path = config(tmp_path, NF4 | {"bnb_4bit_compute_dtype": "float16"}, torch_dtype="float16")
    assert told(run, path)["predictions"][0]["setup"]["dtype"] == "float16"
    mixed = run("predict", config(tmp_path, NF4 | {"bnb_4bit_compute_dtype": "float32"}))
    assert mixed.exit_code == 2 and "Use --dtype float32" in mixed.stderr


@pytest.mark.parametrize("skipped", [["lm_head"], ["lm_head", "multi_modal_projector", "merger"]])
def test_skipping_the_head_alone_is_what_qlora_does(skipped: list[str]) -> None:
    assert nf4_model(llm_int8_skip_modules=skipped) == nf4_model()


@pytest.mark.parametrize(
    ("skipped", "words"),
    [
        ([], "lm_head is in 4 bit"),
        (["lm_head", "model.layers.*.mlp"], "no patterns"),
        (["(.*)*x"], "no patterns"),
        ("lm_head", "must be a list"),
        (["lm_head"] * 1001, "must be a list of up to 1000 names"),
    ],
)
def test_lists_of_modules_that_cannot_be_followed_are_refused(skipped: Any, words: str) -> None:
    with pytest.raises(ModelNotFoundError) as refused:
        nf4_model(llm_int8_skip_modules=skipped)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("skipped", "count"), [(["lm_head", "model.layers.1"], 7), (["lm_head", "down_proj"], 3)]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_that_a_checkpoint_keeps_in_16_bit_are_counted_so(
    skipped: list[str], count: int, checkpointing: bool
) -> None:
    """As in Unsloth's dynamic 4 bit; the trace builds the model with transformers' own quantiser
    and the file's list."""
    model = nf4_model(llm_int8_skip_modules=skipped)
    assert model.stored and len(model.stored.in_16_bit) == count
    setup = TrainSetup(
        lora=LoraConfig(r=4), quantization=Quantization(), seq_len=48, checkpointing=checkpointing
    )
    asked = Workload(model=model, setup=setup)
    ruled, traced = (predict(asked, engine=engine) for engine in ("analytic", "traced"))
    assert ruled.peak.total_bytes == traced.peak.total_bytes
    assert ruled.saved_activation_bytes == traced.saved_activation_bytes
    assert dict(ruled.persistent_bytes) == dict(traced.persistent_bytes)
    everywhere = predict(replace(asked, model=nf4_model()))
    assert ruled.peak.total_bytes > everywhere.peak.total_bytes
    assert peak_bytes(asked) == ruled.peak.total_bytes
    assert any(f"keeps {count} linear layers in 16 bit" in text for text in ruled.assumptions)


@pytest.mark.parametrize("value", [None, {}])
def test_an_empty_field_says_nothing(value: Any) -> None:
    assert read(quantization_config=value) == read()


@pytest.mark.parametrize("value", ["gptq", 4, [1], {"bits": 4}, {"quant_method": 3}])
def test_a_field_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ModelNotFoundError):
        read(quantization_config=value)


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_weights_turned_back_into_16_bit_are_asked_for_in_the_file_and_said(
    run: Run, tmp_path: Path, method: str
) -> None:
    document = told(run, config(tmp_path, by(method, dequantize=True)))
    for answer in document["predictions"]:
        assert answer["model"]["checkpoint_quantization"] == method.upper()
        assert any("weights turned back into bfloat16" in text for text in answer["assumptions"])


@pytest.mark.parametrize(
    ("name", "scheme"), [("openai/gpt-oss-20b", "MXFP4"), ("deepseek-ai/DeepSeek-V3", "FP8")]
)
def test_bundled_models_that_are_published_quantised_say_so(
    run: Run, name: str, scheme: str
) -> None:
    done = run("predict", name, "--engine", "analytic", "--detail")
    assert done.exit_code == 0
    assert f"The checkpoint is stored in {scheme}, on which" in done.stdout
    assert "turned back into bfloat16" in done.stdout.replace("\n  ", " ")
    listed = run("models", name)
    assert scheme.lower() in listed.stdout and "bfloat16" not in listed.stdout
    plain = told(run, "gpt2")
    assert plain["predictions"][0]["model"]["checkpoint_quantization"] is None


def test_the_dashboard_answers_and_refuses_alike() -> None:
    content = json.dumps(BASE | {"quantization_config": NF4}).encode()
    found = answered(uploaded_model("config.json", content), Question())
    assert [p.workload.setup.method for p in found.predictions] == ["qlora"]
    content = json.dumps(BASE | {"quantization_config": REFUSED["gptq"][1]}).encode()
    with pytest.raises(LoraProfilerError, match="GPTQ, 4 bit"):
        uploaded_model("config.json", content)


def test_what_transformers_trains_nothing_on_is_said():
    """By its own quantizers, whose answer is read from their code: most need a package, or a
    configuration, to be made."""
    import inspect

    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    from lora_profiler.facts.catalog.quantized import _SCHEMES, _UNTRAINABLE

    def refuses(kind: type) -> bool:
        body = inspect.getsource(kind.is_trainable.fget)
        returned = [line.strip() for line in body.splitlines() if line.strip().startswith("return")]
        return returned == ["return False"]

    named = {name: kind for name, kind in AUTO_QUANTIZER_MAPPING.items() if name in _SCHEMES}
    assert {name for name, kind in named.items() if refuses(kind)} == _UNTRAINABLE
    with pytest.raises(UnsupportedModelError, match="refused by transformers"):
        read(quantization_config=by("spqr"))


def test_a_trainer_takes_no_adapters_on_mxfp4():
    """With transformers' own words, from its Trainer's check of a model with PEFT's adapters."""
    from transformers import Mxfp4Config
    from transformers.quantizers.quantizer_mxfp4 import Mxfp4HfQuantizer
    from transformers.trainer_utils import validate_quantization_for_training

    model = oracle.build(cases.CONFIGS["llama"], TrainSetup(lora=LoraConfig(r=2), device="cpu"))
    model.is_quantized, model.hf_quantizer = True, Mxfp4HfQuantizer(Mxfp4Config())
    with pytest.raises(ValueError, match="MXFP4 but that quantization method do not support"):
        validate_quantization_for_training(model)
    assert UNMODELLED_BASES["mxfp4"].startswith("transformers trains nothing on it")


@pytest.mark.parametrize("name", ["falcon", "llama"])
def test_whose_linear_layers_transformers_quantises(name: str) -> None:
    """Read off the class that transformers builds, by its own condition (`type(m) is nn.Linear`)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        name, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=128
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = [
        m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "head" not in n
    ]
    is_own = MODEL_TYPES.get(name, ModelType()).own_linears
    assert layers and {type(layer) is torch.nn.Linear for layer in layers} == {not is_own}


def test_a_base_whose_layers_stay_in_16_bit_is_named(run: Run) -> None:
    done = run("tiiuae/falcon-7b", "--method", "qlora")
    assert "leaves the linear layers of tiiuae/falcon-7b in 16 bit" in done.stderr
    assert "linear layers" not in run("tiiuae/falcon-7b", "--method", "lora").stderr
