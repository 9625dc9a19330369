"""Quantisation-aware training: torchao's own layers traced and trained on the CPU, and the rules
against both."""

from dataclasses import replace
from typing import Any

import pytest

import oracle
from lora_profiler.catalog import model_from_config
from lora_profiler.modeling import build_model
from lora_profiler.traced.run import trace
from lora_profiler.workload import LoraConfig, TrainSetup, Workload
from test_traced import close
from tracing import peaks_of

pytest.importorskip("torchao")

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 640,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
FULL = TrainSetup(device="cpu", dtype="bfloat16", batch_size=2, seq_len=96, qat="int8-int4")
LORA = replace(FULL, lora=LoraConfig(r=4))


def workload_of(setup: TrainSetup, **config: Any) -> Workload:
    model = model_from_config(LLAMA | config, id="tiny", source="test")
    return Workload(model=model, setup=setup)


SETUPS = {
    **{qat: replace(FULL, qat=qat) for qat in ("8da4w", "int8-int4", "int4", "fp8-fp8")},
    "fp8-int4": replace(FULL, qat="fp8-int4"),
    "lora": LORA,
    "lora 8da4w": replace(LORA, qat="8da4w"),
    "lora int4": replace(LORA, qat="int4"),
    "checkpointed": replace(FULL, checkpointing=True),
    "lora checkpointed": replace(LORA, checkpointing=True),
    "float32": replace(FULL, dtype="float32"),
    "amp": replace(FULL, dtype="float32", precision="amp"),
    "accumulated": replace(FULL, accumulation=2),
    "evaluated": replace(FULL, eval_batch_size=4),
    "groups of 64": replace(FULL, qat_group_size=64),
}


@pytest.mark.parametrize("kind", SETUPS)
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_traced_steps_are_real_ones(kind: str, tied: bool) -> None:
    more = {"hidden_size": 128} if kind == "fp8-int4" else {}
    workload = workload_of(SETUPS[kind], tie_word_embeddings=tied, **more)
    found = peaks_of(trace(workload, lambda w: build_model(w, device="meta")).trace)
    close(found, oracle.step_peaks(build_model(workload), workload.setup))
