"""The training steps that constants are fitted to: two made-up models, {full, LoRA, QLoRA} x {few,
many tokens}, and a tiny one.

Each method and each size meets both models, so that leaving one model out leaves every kind of step
in. The tiny model's kernels do next to nothing: what its step takes is launching them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lora_profiler.catalog import model_from_config
from lora_profiler.model_spec import ModelSpec
from lora_profiler.records.record import Conditions
from lora_profiler.workload import Device, Dtype, LoraConfig, Quantization, TrainSetup, Workload

CONDITIONS = Conditions(memory_steps=2, min_timed_steps=6, max_timing_seconds=3.0)
FIT_CASES = 6
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _llama(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        **_TOKENS,
    }


def _neox(hidden: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    """LayerNorm, GELU and biases, where Llama has RMSNorm and SiLU and none."""
    return {
        "model_type": "gpt_neox",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        **_TOKENS,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Configs by name; (batch, tokens) of a small and of a large step."""

    models: Mapping[str, dict[str, Any]]
    small: tuple[int, int]
    large: tuple[int, int]


_SIZES: Mapping[Device, _Sizes] = {
    "cpu": _Sizes(
        models={"llama": _llama(384, 1024, 4, 6, 2, 12_000), "neox": _neox(320, 4, 5, 20_000)},
        small=(1, 96),
        large=(3, 256),
    ),
    "cuda": _Sizes(
        models={"llama": _llama(2048, 5632, 8, 16, 4, 32_000), "neox": _neox(2048, 8, 16, 50_000)},
        small=(1, 1024),
        large=(4, 2048),
    ),
}
"""On a CPU a step takes a fraction of a second; on a card it fills the multiprocessors and fits
into 24 GiB."""


def tiny(device: Device, dtype: Dtype) -> Workload:
    model = _model("tiny", _llama(32, 64, 4, 2, 2, 64))
    return Workload(model=model, setup=_setup(device, dtype, LoraConfig(r=4), (1, 8)))


def fit_cases(device: Device, dtype: Dtype, four_bit: bool) -> tuple[Workload, ...]:
    """In `dtype`, the one that the probes name. Without a 4-bit base that works, checkpointed LoRA
    stands for QLoRA: it too repeats what a forward pass does.

    Full steps in float16 are SGD's: without a scaled loss AdamW's are NaN from the second on, and
    only their update differs.
    """
    sizes = _SIZES[device]
    llama, neox = (_model(name, config) for name, config in sizes.models.items())
    full, lora = (
        _setup(device, dtype, adapter, sizes.small) for adapter in (None, LoraConfig(r=16))
    )
    if dtype == "float16":
        full = replace(full, optimizer="sgd")
    third = (
        replace(lora, quantization=Quantization())
        if four_bit
        else replace(lora, checkpointing=True)
    )
    turns = ((llama, full, neox), (neox, lora, llama), (llama, third, neox))
    few = [Workload(model=model, setup=setup) for model, setup, _ in turns]
    batch, tokens = sizes.large
    many = [
        Workload(model=model, setup=replace(setup, batch_size=batch, seq_len=tokens))
        for _, setup, model in turns
    ]
    return (*few, *many)


def _model(name: str, config: Mapping[str, Any]) -> ModelSpec:
    return model_from_config(dict(config), id=f"calibration-{name}", source="file")


def _setup(
    device: Device, dtype: Dtype, lora: LoraConfig | None, size: tuple[int, int]
) -> TrainSetup:
    return TrainSetup(lora=lora, dtype=dtype, device=device, batch_size=size[0], seq_len=size[1])
