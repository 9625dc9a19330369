"""`adapter_config.json` as PEFT itself writes it: what trains against PEFT's own count of the same
file, the bytes of a step against one really taken, and each refusal by its key."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

import oracle
from lora_profiler import predict
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.adapters import adapters, saved_modules
from lora_profiler.question.support.generations import as_made
from lora_profiler.question.workload import LoraConfig
from lora_profiler.trainer_files.peft_config import NAME, PeftConfig, read_peft_config
from lora_profiler.trainer_files.reading import read_content
from tracing import BASE, config_of, peaks_of, traced_of

peft = pytest.importorskip("peft")
BY_PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("LoraConfig", {}),
    "a list": ("LoraConfig", {"r": 4, "lora_alpha": 32, "target_modules": ["q_proj", "up_proj"]}),
    "a pattern": ("LoraConfig", {"target_modules": r".*\.1\..*(k|v)_proj"}),
    "everywhere": ("LoraConfig", {"target_modules": "all-linear", "exclude_modules": ["v_proj"]}),
    "dora": ("LoraConfig", {"use_dora": True, "use_rslora": True, "modules_to_save": ["lm_head"]}),
    "some layers": (
        "LoraConfig",
        {"layers_to_transform": [1], "layers_pattern": ["layers"], "target_modules": ["o_proj"]},
    ),
    "one layer": ("LoraConfig", {"layers_to_transform": 0, "target_modules": ["o_proj"]}),
    "patterns": ("LoraConfig", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 64}}),
    "biases": ("LoraConfig", {"bias": "lora_only", "lora_bias": True}),
    "pissa": ("LoraConfig", {"init_lora_weights": "pissa"}),
    "mica": ("LoraConfig", {"init_lora_weights": "mica"}),
    "excluded by a pattern": ("LoraConfig", {"exclude_modules": r".*layers\.0\..*"}),
    "vera": ("VeraConfig", {"r": 16, "vera_dropout": 0.1, "d_initial": 0.2}),
    "ia3": ("IA3Config", {"target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "oft": ("OFTConfig", {"oft_block_size": 8, "target_modules": ["q_proj"]}),
    "loha": ("LoHaConfig", {"r": 3, "alpha": 5, "rank_dropout": 0.1, "target_modules": ["q_proj"]}),
    "lokr": ("LoKrConfig", {"decompose_both": True, "target_modules": ["q_proj", "v_proj"]}),
    "miss": ("MissConfig", {"r": 8, "init_weights": "bat", "target_modules": ["q_proj"]}),
    "hra": ("HRAConfig", {"r": 4, "apply_GS": True, "target_modules": ["k_proj"]}),
    "road": ("RoadConfig", {"variant": "road_4", "group_size": 8, "target_modules": ["q_proj"]}),
    "fourier": ("FourierFTConfig", {"n_frequency": 100, "target_modules": ["q_proj"]}),
    "randlora": ("RandLoraConfig", {"r": 4, "target_modules": ["q_proj", "v_proj"]}),
}  # fmt: skip
LLAMA = config_of(
    "llama", hidden_size=64, intermediate_size=128, num_attention_heads=4, head_dim=16
)


def saved(folder: Path, name: str, **arguments: Any) -> Path:
    getattr(peft, name)(**{"task_type": "CAUSAL_LM", **arguments}).save_pretrained(str(folder))
    return folder


def lora_of(config: PeftConfig) -> LoraConfig:
    lora = setup_for(model_from_config(LLAMA, id="tiny", source="test"), **config.options).lora
    assert lora is not None
    return lora


def as_peft_makes_it(folder: Path) -> Any:
    model = oracle.build(LLAMA, BASE)
    return peft.get_peft_model(model, peft.PeftConfig.from_pretrained(str(folder)))


@pytest.mark.parametrize("case", BY_PEFT)
def test_what_trains_is_what_peft_trains(case: str, tmp_path: Path) -> None:
    name, arguments = BY_PEFT[case]
    folder = saved(tmp_path, name, **arguments)
    setup = replace(BASE, lora=lora_of(read_peft_config(str(folder))))
    model = as_peft_makes_it(folder)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(traced_of(LLAMA, setup).trainable.values()) == trained


@pytest.mark.parametrize("case", ["dora", "everywhere", "mica", "lokr"])
def test_a_step_is_equal_to_a_real_one(case: str, tmp_path: Path) -> None:
    name, arguments = BY_PEFT[case]
    folder = saved(tmp_path, name, **arguments)
    setup = replace(BASE, lora=lora_of(read_peft_config(str(folder))))
    real = oracle.step_peaks(as_peft_makes_it(folder), setup)
    assert peaks_of(traced_of(LLAMA, setup).trace)[2, "step"] == real[2, "step"]


@pytest.mark.parametrize("own", [None, ["embed_tokens"], ["score", "classifier"]])
def test_a_classifier_of_sequences_is_peft_s(own: list[str] | None, tmp_path: Path) -> None:
    saved(tmp_path, "LoraConfig", task_type="SEQ_CLS", modules_to_save=own)
    config = read_peft_config(str(tmp_path))
    setup = setup_for(model_from_config(LLAMA, id="tiny", source="test"), **config.options)
    assert setup.lora is not None
    spec = as_made(model_from_config(LLAMA, id="tiny", source="test"), setup)
    found = sum(adapter.num_parameters(setup.lora.r) for adapter in adapters(spec, setup.lora))
    found += sum(m.num_parameters for _, m in saved_modules(spec, setup.lora))
    fields = transformers.LlamaConfig(**LLAMA, num_labels=1)
    real = peft.get_peft_model(
        transformers.LlamaForSequenceClassification(fields),
        peft.PeftConfig.from_pretrained(str(tmp_path)),
    )
    trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert found == trained
    with pytest.raises(UsageError, match="--loss and --peft-config exclude each other"):
        predict("gpt2", peft_config=tmp_path, method="lora", loss="trl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_magic": True}, "LoraConfig has no argument 'use_magic'"),
        ({"task_type": "TOKEN_CLS"}, "task_type is 'TOKEN_CLS'; modelled are CAUSAL_LM, SEQ_2"),
        ({"task_type": None, "auto_mapping": {"base_model_class": "LlamaForTokenClassification"}},
         "auto_mapping names LlamaForTokenClassification"),
        ({"peft_type": "MAGIC"}, "unknown peft_type 'MAGIC'"),
        ({"peft_type": "ADALORA"}, "ADALORA is not modelled: its ranks change as it trains"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING is not modelled: it trains extra prompt"),
        ({"peft_type": "C3A"}, "C3A is not modelled: its Fourier"),
        ({"peft_type": 7}, "peft_type is 7"),
        ({"r": 0}, "rank is 0"),
        ({"r": "8"}, "rank is '8'"),
        ({"lora_dropout": 1.5}, "dropout is 1.5"),
        ({"use_dora": "yes"}, "use_dora is 'yes'; PEFT writes true or false"),
        ({"target_modules": []}, "target modules are empty"),
        ({"target_modules": {"q_proj": 1}}, "target_modules is {'q_proj': 1}"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'; PEFT writes a list"),
        ({"layers_to_transform": [-1]}, r"layers_to_transform is \[-1\]"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3"),
    ],
)  # fmt: skip
def test_what_no_option_stands_for_is_refused_by_its_key(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, "LoraConfig") / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UsageError, match=message) as raised:
        read_peft_config(str(path))
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("OFTConfig", {"r": 4, "oft_block_size": 0}, r"OFT by its number of blocks \(r\)"),
        ("SupertuningConfig", {}, "r is null; Supertuning without a rank is not modelled"),
    ],
)
def test_methods_that_are_sized_otherwise(
    name: str, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path, name, target_modules=["q_proj"], **arguments)
    with pytest.raises(UsageError, match=message):
        read_peft_config(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"peft_type": "LORA", ', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('["LORA"]', "is no JSON object"),
        ("{}", "names no peft_type"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_files_that_are_no_config(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=message):
        read_peft_config(str(tmp_path))
    with pytest.raises(UsageError, match="There is no file"):
        read_peft_config(str(tmp_path / "elsewhere"))


def test_bookkeeping_and_what_is_off_change_nothing(tmp_path: Path) -> None:
    plain = read_peft_config(str(saved(tmp_path, "LoraConfig")))
    content = json.loads((tmp_path / NAME).read_text()) | {
        "peft_version": "0.3.0",
        "inference_mode": True,
        "fan_in_fan_out": True,
        "merge_weights": False,
        "enable_lora": None,
        "auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True},
    }
    (tmp_path / NAME).write_text(json.dumps(content))
    assert read_peft_config(str(tmp_path)) == plain
    few = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": None}
    (tmp_path / NAME).write_text(json.dumps(few))
    assert read_peft_config(str(tmp_path)) == plain


def test_values_with_separators_of_their_own_come_back(tmp_path: Path) -> None:
    pattern = {r"layers\.(0|1),x=y": 2, "a=b": 4}
    saved(tmp_path, "LoraConfig", rank_pattern=pattern, target_modules=["attention"])
    lora = lora_of(read_peft_config(str(tmp_path)))
    assert lora.peft_arguments == {"rank_pattern": pattern}
    assert lora.target_modules == r"(.*\.)?attention"


def test_the_command_s_question_is_that_of_the_options(tmp_path: Path) -> None:
    base = "HuggingFaceTB/SmolLM2-135M"
    named = ["q_proj", "v_proj"]
    saved(tmp_path, "LoraConfig", r=4, target_modules=named, base_model_name_or_path=base)
    found = predict(peft_config=tmp_path, method="lora")
    by_options = predict(base, method="lora", rank=4, alpha=8, targets="q_proj,v_proj")
    assert found.prediction == by_options.prediction
    other = predict("gpt2", peft_config=saved(tmp_path, "LoraConfig", r=2), method="lora")
    assert (
        other.prediction
        == predict("gpt2", method="lora", rank=2, alpha=8, targets="default").prediction
    )


def test_beside_what_it_decides_it_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "LoraConfig")
    for option in ({"rank": 16}, {"use_dora": True}, {"peft_type": "vera"}, {"peft_arg": "a=1"}):
        with pytest.raises(UsageError, match="and --peft-config exclude each other"):
            predict("gpt2", peft_config=tmp_path, **option)
    with pytest.raises(UsageError, match="--peft-config needs LoRA"):
        predict("gpt2", peft_config=tmp_path, method="full")
    with pytest.raises(UsageError, match="MODEL is missing; the adapter's config names no base"):
        predict(peft_config=tmp_path)
    with pytest.raises(UsageError, match=r"use `lora-profile .* --peft-config FILE`"):
        predict(tmp_path / NAME)
    assert predict("gpt2", peft_config=tmp_path, adapter_dtype="bfloat16", method="lora").peak_bytes


def test_a_script_s_mica_is_not_the_same_training() -> None:
    text = (
        "from transformers import AutoModelForCausalLM, Trainer\n"
        "from peft import LoraConfig, get_peft_model\n"
        "model = AutoModelForCausalLM.from_pretrained('gpt2')\n"
        "model = get_peft_model(model, LoraConfig(r=4, init_lora_weights='mica'))\n"
        "Trainer(model=model).train()\n"
    )
    rows = {row.key: row for row in read_content("run.py", text.encode()).keys}
    assert rows["init_lora_weights"].missing == "MiCA's frozen B, answered as trained"
