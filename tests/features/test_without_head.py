"""Models that are not trained as language models: embeddings, classifiers of texts, and what reads
no text at all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import oracle
from commands import Run
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.memory.compiled import predict_with
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import rules_know
from lora_profiler.question.support.check import check
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report.setup_words import short_trainer_lines
from lora_profiler.trace.compiler import compile_profile

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300, "max_position_embeddings": 130,
    "pad_token_id": 1,
}  # fmt: skip
CASES = {
    "embeddings of Qwen 3": {"model_type": "qwen3", "architectures": ["Qwen3Model"]},
    "embeddings of Gemma 3": {"model_type": "gemma3_text", "architectures": ["AutoModel"]},
    "embeddings of BERT": {"model_type": "bert", "architectures": ["BertModel"]},
    "a reranker": {
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
    },
    "a classifier": {"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]},
    "labels of tokens": {"model_type": "bert", "architectures": ["BertForTokenClassification"]},
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_a_profile_says_what_a_real_step_takes(config: dict[str, Any]) -> None:
    raw = SMALL | config
    model = model_from_config(raw, id="headless", source="test")
    assert model.output_embedding is None
    setup = TrainSetup(device="cpu", dtype="float32", batch_size=3, seq_len=53)
    asked = Workload(model=model, setup=setup)
    assert not rules_know(asked)
    said = predict_with(compile_profile(asked), asked)
    assert said.exactness == "exact"
    assert said.peak.bytes.get("logits_and_loss", 0) < 64 * 1024
    real = oracle.build(raw, setup)
    found = oracle.step_peaks(real, setup)
    peak = max(size for (step, _), size in found.items() if step == 2)
    assert said.peak.total_bytes == pytest.approx(peak, rel=5e-4)


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-Embedding-0.6B",
        "Qwen/Qwen3-Embedding-4B",
        "google/embeddinggemma-300m",
        "BAAI/bge-m3",
        "sentence-transformers/all-MiniLM-L6-v2",
        "Alibaba-NLP/gte-modernbert-base",
    ],
)
def test_bundled_embedding_models_have_no_head(name: str) -> None:
    model = find_model(name)
    assert model.is_embedding
    assert "no logits" in "".join(short_trainer_lines(None, [Workload(model=model)]))
    with pytest.raises(UsageError, match="embedding model"):
        check(Workload(model=model, setup=TrainSetup(loss="trl")), "auto")


def test_a_folder_of_sentence_transformers_has_no_head(tmp_path: Path) -> None:
    raw = SMALL | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    whole = find_model(str(tmp_path))
    (tmp_path / "modules.json").write_text("[]")
    bare = find_model(str(tmp_path))
    assert not whole.is_embedding and bare.is_embedding
    head = SMALL["vocab_size"] * SMALL["hidden_size"]
    assert whole.num_parameters - bare.num_parameters in (0, head)
    assert {name for name, _ in bare.modules()} == {
        name.removeprefix("model.") for name, _ in whole.modules() if name != "lm_head"
    }


SPEECH = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}


@pytest.mark.parametrize("command", ["predict", "bench"])
def test_what_reads_no_text_is_refused_in_one_sentence(
    command: str, run: Run, tmp_path: Path
) -> None:
    speech = tmp_path / "config.json"
    speech.write_text(json.dumps(SPEECH | {"feat_extract_norm": "group"}))
    for name, reads in (("google/vit-base-patch16-224", "images"), (str(speech), "sound")):
        done = run(command, name, "--method", "lora", "--device", "cpu")
        assert done.exit_code == 2
        assert f"reads {reads}" in done.stderr and "rehearse" in done.stderr
        assert done.stdout == ""


def test_a_card_of_a_cpu_is_refused_before_anything_is_traced() -> None:
    model = model_from_config(SMALL | CASES["embeddings of BERT"], id="bert", source="test")
    asked = Workload(model=model, setup=TrainSetup(device="cpu"))
    with pytest.raises(UsageError, match="--device cpu exclude each other"):
        answers([asked], find_gpu("t4"), may_trace=False)


def test_qlora_of_packed_experts_says_what_stays_in_16_bit() -> None:
    model = find_model("Qwen/Qwen3-235B-A22B")
    setup = TrainSetup(lora=LoraConfig(), quantization=Quantization())
    said = short_trainer_lines(None, [Workload(model=model, setup=setup)])[1]
    experts = 94 * 128 * 3 * 4096 * 1536 * 2 / 2**30
    assert said.startswith(f"{experts:.2f} GiB of experts stay in 16 bit; --quantize-experts")
    quantised = replace(setup, quantization=Quantization(quantize_experts=True))
    assert len(short_trainer_lines(None, [Workload(model=model, setup=quantised)])) == 1
