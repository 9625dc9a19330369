"""Models and setups whose steps are traced, and how a trace is read."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

import cases
import families
import oracle
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace import compiler, single_size
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.run import Traced, trace
from lora_profiler.trace.tracer import Trace

torch.set_num_threads(1)

Config = dict[str, Any]
VOCABULARY = 1200
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
}
GROUPED = SIZES | {
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
GPT = {
    "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": VOCABULARY,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NO_PDROP = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
SEQ2SEQ = {
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "vocab_size": VOCABULARY,
}
OTHERS: dict[str, Config] = {
    "bloom": SIZES | NO_DROPOUT | {"n_layer": 2, "n_head": 4},
    "falcon": SIZES | NO_DROPOUT,
    "cohere": GROUPED,
    "stablelm": GROUPED | {"num_attention_heads": 2},
    "starcoder2": GROUPED | {"residual_dropout": 0.0, "embedding_dropout": 0.0},
    "granite": GROUPED,
    "phi": GROUPED,
    "glm": GROUPED | {"head_dim": 12, "pad_token_id": 0},
    "smollm3": GROUPED | {"pad_token_id": 0},
    "gptj": GPT | NO_PDROP | {"rotary_dim": 8},
    "gpt_bigcode": GPT | NO_PDROP,
    "mpt": {"d_model": 48, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 256,
        "vocab_size": VOCABULARY},
    "gpt_oss": GROUPED | {"head_dim": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": GROUPED | {"num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": SIZES | {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 8} | {"v_head_dim": 12,
        "moe_intermediate_size": 40, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
        | {"topk_group": 1, "first_k_dense_replace": 1},
    "t5": SEQ2SEQ | {"d_model": 48, "d_ff": 112, "d_kv": 12, "num_heads": 4, "num_layers": 2,
        "num_decoder_layers": 2, "dropout_rate": 0.0}
        | {"architectures": ["T5ForConditionalGeneration"]},
    "bart": SEQ2SEQ | {"d_model": 48, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4} | {"encoder_ffn_dim": 112,
        "decoder_ffn_dim": 112, "dropout": 0.0, "max_position_embeddings": 256}
        | {"architectures": ["BartForConditionalGeneration"]},
    "whisper": SEQ2SEQ | {"d_model": 48, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4} | {"encoder_ffn_dim": 112,
        "decoder_ffn_dim": 112, "num_mel_bins": 20, "max_source_positions": 120}
        | {"max_target_positions": 256, "architectures": ["WhisperForConditionalGeneration"]},
    "bert": SIZES | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 256} | {"architectures": ["BertForMaskedLM"]},
    "gemma3": {"text_config": GROUPED | {"model_type": "gemma3_text", "head_dim": 12},
        "vision_config": ({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2} | {"image_size": 28, "patch_size": 14,
        "model_type": "siglip_vision_model"}), "image_token_index": VOCABULARY - 1,
        "mm_tokens_per_image": 4, "vocab_size": VOCABULARY,
        "architectures": ["Gemma3ForConditionalGeneration"]},
}  # fmt: skip
LAYERS = {"gpt2": "n_layer"}


def config_of(name: str, **changes: Any) -> Config:
    """A model of two layers; of the families in TINY that one, with more words."""
    if name in OTHERS:
        return {"model_type": name} | OTHERS[name] | changes
    return (
        families.TINY[name]
        | {LAYERS.get(name, "num_hidden_layers"): 2, "vocab_size": VOCABULARY}
        | changes
    )


BASE = TrainSetup(dtype="float32", batch_size=2, seq_len=80, device="cpu")
ALL = LoraConfig(r=4)
HALF = replace(ALL, adapter_dtype="bfloat16")
SETUPS: dict[str, TrainSetup] = {
    "full": BASE,
    "full checkpointed": replace(BASE, checkpointing=True),
    "lora": replace(BASE, lora=ALL),
    "lora checkpointed": replace(BASE, lora=ALL, checkpointing=True),
    "lora dropout accumulated": replace(BASE, lora=replace(ALL, lora_dropout=0.1), accumulation=3),
    "eager": replace(BASE, attention="eager"),
    "forloop": replace(BASE, optimizer_impl="forloop"),
    "fused": replace(BASE, optimizer_impl="fused"),
    "sgd fused": replace(BASE, optimizer="sgd", optimizer_impl="fused"),
    "adafactor": replace(BASE, optimizer="adafactor"),
    "8 bit": replace(BASE, optimizer="adamw_8bit"),
    "8 bit half": replace(BASE, optimizer="adamw_8bit", dtype="bfloat16"),
    "half": replace(BASE, dtype="bfloat16"),
    "half checkpointed": replace(BASE, dtype="bfloat16", checkpointing=True),
    "half lora": replace(BASE, dtype="bfloat16", lora=HALF),
    "half lora checkpointed": replace(BASE, dtype="bfloat16", lora=HALF, checkpointing=True),
    "amp": replace(BASE, precision="amp"),
    "amp checkpointed": replace(BASE, precision="amp", checkpointing=True),
    "amp lora": replace(BASE, precision="amp", lora=ALL),
    "amp lora checkpointed": replace(BASE, precision="amp", lora=ALL, checkpointing=True),
    "amp eager": replace(BASE, precision="amp", attention="eager"),
    "qlora": replace(BASE, lora=ALL, quantization=Quantization()),
    "qlora plain checkpointed": replace(
        BASE, lora=ALL, quantization=Quantization(double_quant=False), checkpointing=True
    ),
    "qlora experts": replace(BASE, lora=ALL, quantization=Quantization(quantize_experts=True)),
    "qlora kbit": replace(BASE, lora=ALL, quantization=Quantization(recipe="kbit")),
    "qlora trl": replace(
        BASE, dtype="bfloat16", lora=HALF, quantization=Quantization(recipe="trl")
    ),
}
ATTENTION_ALONE = {"olmoe", *cases.MIXTURES}
"""Their experts are packed: adapters there are PEFT's parameter wrappers, for which
`test_packed_experts` is."""


def setup_of(name: str, kind: str) -> TrainSetup:
    setup = SETUPS[kind]
    if setup.lora is not None and name in ATTENTION_ALONE:
        return replace(setup, lora=replace(setup.lora, target_modules=cases.ATTENTION))
    if setup.lora is not None and name == "gemma3":
        return replace(
            setup,
            lora=replace(
                setup.lora, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)"
            ),
        )
    return setup


# --- reading a trace ------------------------------------------------------------------------------


def workload_of(config: Config, setup: TrainSetup) -> Workload:
    return Workload(model=model_from_config(dict(config), id="traced", source="test"), setup=setup)


def traced_of(config: Config, setup: TrainSetup) -> Traced:
    return trace(workload_of(config, setup), lambda w: build_model(w, device="meta"))


def peaks_of(found: Trace) -> oracle.Peaks:
    """Peak bytes of each (step, phase) of the oracle, and of whole steps."""
    peaks: oracle.Peaks = {}
    for (step, phase), live in instants(found):
        phase = "forward" if phase == "loss" else phase
        for key in ((step, phase), (step, "step")):
            peaks[key] = max(peaks.get(key, 0), live)
    return peaks


def instants(found: Trace) -> Iterator[tuple[tuple[int, str], int]]:
    """(step, phase) and the live bytes after each event, and at each start of a phase before
    anything happens in it."""
    starts = [m for m in found.marks if not m.note]
    live, current = 0, 0
    for position in range(len(found.events) + 1):
        while current < len(starts) and starts[current].position <= position:
            current += 1
            yield (starts[current - 1].step, starts[current - 1].phase), live
        if position < len(found.events):
            event = found.events[position]
            live += (
                found.births[event].size_bytes if event >= 0 else -found.births[~event].size_bytes
            )
            yield (starts[current - 1].step, starts[current - 1].phase), live


def alive_before_the_second_step(found: Trace) -> Counter[str]:
    """Bytes by category."""
    end = next(m.position for m in found.marks if m.step == 2)
    alive: Counter[str] = Counter()
    for event in found.events[:end]:
        birth = found.births[event if event >= 0 else ~event]
        alive[str(birth.category)] += birth.size_bytes if event >= 0 else -birth.size_bytes
    return alive


# --- the same trace, once -------------------------------------------------------------------------

_on_meta = compiler._on_meta


@cache
def traced_once(workload: Workload) -> Traced:
    """Of the model as it is, for all tests of this process that ask the same."""
    return trace(workload, _on_meta)


def share_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles are made of traces that other tests have made already, unless a test changed how
    models are built, or numbers stand for a loss."""
    monkeypatch.setattr(
        compiler,
        "trace",
        lambda workload, build: (
            traced_once(workload)
            if build is _on_meta and not loss_facts(workload.setup.loss).leaves_stack
            else trace(workload, build)
        ),
    )
    monkeypatch.setattr(single_size, "trace", lambda workload, _: traced_once(workload))
