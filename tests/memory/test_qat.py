"""Quantisation-aware training: torchao's own layers traced and trained on the CPU, and the rules
against both."""

from dataclasses import replace
from typing import Any

import pytest
from test_traced import close

import oracle
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.analytic.kernels.count import counted_kernels
from lora_profiler.planning.engine import predict
from lora_profiler.question.support.bases import RULED
from lora_profiler.question.support.check import check
from lora_profiler.question.workload import LoraConfig, Qat, Quantization, TrainSetup, Workload
from lora_profiler.trace.kernels import step_kernels
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.run import trace
from tracing import peaks_of

pytest.importorskip("torchao")

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 640, "max_position_embeddings": 256, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
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


@pytest.mark.grid
@pytest.mark.parametrize("kind", SETUPS)
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_traced_steps_are_real_ones(kind: str, tied: bool) -> None:
    more = {"hidden_size": 128} if kind == "fp8-int4" else {}
    workload = workload_of(SETUPS[kind], tie_word_embeddings=tied, **more)
    found = peaks_of(trace(workload, lambda w: build_model(w, device="meta")).trace)
    close(found, oracle.step_peaks(build_model(workload), workload.setup))


ON_CARDS = {
    **{name: SETUPS[name] for name in ("lora", "checkpointed", "lora checkpointed", "amp")},
    "full": FULL,
    "tied": FULL,
    "some layers": replace(FULL, lora=LoraConfig(r=4, target_modules=("q_proj", "v_proj"))),
    "amp lora": replace(LORA, precision="amp"),
    "liger": replace(FULL, kernels="liger"),
    "fsdp": replace(FULL, world_size=2, sharding="fsdp"),
    "ddp": replace(FULL, world_size=2, sharding="ddp"),
}


@pytest.mark.grid
@pytest.mark.parametrize("kind", ON_CARDS)
@pytest.mark.parametrize("qat", RULED)
def test_rules_say_what_a_trace_says(kind: str, qat: Qat) -> None:
    """To the byte: the loss's backward holds all of these peaks but one."""
    tied = kind == "tied"
    setup = replace(ON_CARDS[kind], qat=qat, device="cuda")
    workload = workload_of(setup, tie_word_embeddings=tied)
    found = peaks_of(trace(workload, lambda w: build_model(w, device="meta")).trace)
    assert predict(workload, "analytic").peak.total_bytes == found[2, "step"]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_counted_kernels_are_as_many_as_traced(kind: str) -> None:
    """Bytes of what makes the scales are told for their final dtype: a part in five hundred."""
    workload = workload_of(replace(ON_CARDS[kind], device="cuda"))
    mine, traced = counted_kernels(workload).kernels, step_kernels(workload).kernels
    assert sum(k.count for k in mine) == sum(k.count for k in traced)
    moved = [sum(k.count * (k.read_bytes + k.written_bytes) for k in ks) for ks in (mine, traced)]
    assert moved[0] == pytest.approx(moved[1], rel=0.002)


def test_beside_adapters_torchtune_replaces_their_layers_alone() -> None:
    setup = replace(LORA, qat="8da4w", lora=LoraConfig(r=4, target_modules=("q_proj",)))
    model = build_model(workload_of(setup), device="meta")
    replaced = [n for n, m in model.named_modules() if hasattr(m, "weight_fake_quantizer")]
    assert len(replaced) == 3 and all(name.endswith("q_proj.base_layer") for name in replaced)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qat_group_size": 48}, "groups of 48 do not go into the 64 inputs of"),
        ({"qat": "fp8-int4"}, "groups of 128"),
        ({"loss": "torchtune"}, "--loss torchtune"),
        ({"sharding": "zero2", "world_size": 2}, "--sharding zero2"),
        ({"lora": LoraConfig(use_dora=True)}, "--use-dora"),
        ({"lora": LoraConfig(), "quantization": Quantization()}, "--method qlora"),
    ],
)
def test_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(workload_of(replace(FULL, **changes)), "auto")
