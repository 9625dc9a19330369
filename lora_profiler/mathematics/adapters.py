"""PEFT's adapters on a model for as long as a block runs, the exact values of the layers that it
makes, and the adapters on which claims 2 and 3 look: rank 16, trained for some steps, so that B
holds something.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from lora_profiler.facts.catalog import model_from_config
from lora_profiler.mathematics.subject import Effort, Subject, train
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.modeling.third_party import quiet, refusals

ADAPTER = "default"
"""PEFT's own name for the only adapter of a model."""

RANK, ALPHA, DROPOUT = 16, 32, 0.1
SCALING = ALPHA / RANK
LEARNING_RATE = 1e-3
"""Of the trained adapters of claims 2 and 3."""


@contextmanager
def adapted(
    model: nn.Module,
    *,
    r: int,
    alpha: float,
    seed: int,
    use_rslora: bool = False,
    init_lora_weights: Literal["gaussian"] | bool = True,
    dropout: float = 0.0,
) -> Iterator[Any]:
    """Inside, `model` with LoRA on every linear layer as PEFT wraps it, in eval mode; afterwards as
    it was, but frozen.

    A and B are drawn from `seed`. Everything not named here is PEFT's default: float32 adapters
    among it. Raises UnbuildableError where PEFT refuses.
    """
    torch.manual_seed(seed)
    with quiet(), refusals("PEFT refuses LoRA on the linear layers of this model"):
        import peft  # which says at once what other libraries lack

        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=r,
            lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT declares an int and takes any number
            lora_dropout=dropout,
            use_rslora=use_rslora,
            init_lora_weights=init_lora_weights,
            target_modules="all-linear",
        )
        wrapped = peft.get_peft_model(model, config)
    try:
        yield wrapped.eval()
    finally:
        wrapped.unload()


def lora_layers(wrapped: nn.Module) -> dict[str, Any]:
    """PEFT's layer of every adapted linear layer, by the name that the layer has in the base
    model."""
    from peft.tuners.lora import LoraLayer

    return {
        name.removeprefix("base_model.model."): layer
        for name, layer in wrapped.named_modules()
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_A
    }


def without_numbers(name: str) -> str:
    """'model.layers.7.mlp.up_proj' -> 'model.layers.*.mlp.up_proj'."""
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def layout(layer: Any) -> str:
    """The class of the frozen layer under PEFT's: "Linear", "Conv1D", whose weight lies transposed,
    or "Linear4bit"."""
    return type(layer.get_base_layer()).__name__


def exact_weight(layer: Any) -> torch.Tensor:
    """The frozen weight W (d x k) of a PEFT layer in float64, dequantised where it is packed;
    merged if the layer is."""
    weight = layer.get_base_layer().weight
    if is_packed(layer):
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    exact: torch.Tensor = (weight.T if layout(layer) == "Conv1D" else weight).detach().double()
    return exact


def is_packed(layer: Any) -> bool:
    return getattr(layer.get_base_layer().weight, "quant_state", None) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFactors:
    """A (r x k) and B (d x r) of a layer in float64, and the scaling that they should have."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    @property
    def update(self) -> torch.Tensor:
        return self.scaling * (self.b @ self.a)


def factors(layer: Any, scaling: float) -> AdapterFactors:
    """The factors that a PEFT layer holds; `scaling` is worked out by the caller, never read from
    the layer."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return AdapterFactors(a=a.detach().double(), b=b.detach().double(), scaling=scaling)


def factor_state(wrapped: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of every A and B, by layer and letter."""
    state = {}
    for name, layer in lora_layers(wrapped).items():
        state[f"{name}.A"] = layer.lora_A[ADAPTER].weight.detach().clone()
        state[f"{name}.B"] = layer.lora_B[ADAPTER].weight.detach().clone()
    return state


def load_factors(wrapped: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put what `factor_state` copied into another adapted model of the same shapes."""
    with torch.no_grad():
        for name, layer in lora_layers(wrapped).items():
            layer.lora_A[ADAPTER].weight.copy_(state[f"{name}.A"])
            layer.lora_B[ADAPTER].weight.copy_(state[f"{name}.B"])


# --- trained adapters -----------------------------------------------------------------------------

_SIZES = {"vocab_size": 256, "bos_token_id": None, "eos_token_id": None}
OTHER_LAYOUT: Mapping[str, dict[str, Any]] = {
    "Linear": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        **_SIZES,
    },
    "Conv1D": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        **_SIZES,
    },
}
"""For a model whose layers are of one class, a tiny one of transformers, with random weights, whose
layers are of the other."""


def trained_factors(model: Any, batches: list[torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """A and B of every linear layer after one step for each batch. The model is left frozen and
    otherwise as it was."""
    with adapted(model, r=RANK, alpha=ALPHA, dropout=DROPOUT, seed=seed) as wrapped:
        train(wrapped, batches, learning_rate=LEARNING_RATE, seed=seed)
        return factor_state(wrapped)


@contextmanager
def with_factors(model: Any, state: Mapping[str, torch.Tensor], seed: int) -> Iterator[Any]:
    """Inside, `model` adapted with those factors, in eval mode."""
    with adapted(model, r=RANK, alpha=ALPHA, dropout=DROPOUT, seed=seed) as wrapped:
        load_factors(wrapped, state)
        yield wrapped


def companion(
    layout: str, effort: Effort, seed: int
) -> tuple[Any, list[torch.Tensor], torch.Tensor]:
    """(model, batches to train adapters on, ids to look at) of the tiny model for subjects of
    `layout`; all tokens are random."""
    config = OTHER_LAYOUT[layout]
    spec = model_from_config(config, id=f"tiny-{config['model_type']}", source="made here")
    model = build_model(
        Workload(model=spec, setup=TrainSetup(device="cpu", dtype="float32"))
    ).eval()
    draw = torch.Generator().manual_seed(seed)
    batches = [torch.randint(0, 256, (4, 32), generator=draw) for _ in range(effort.merge_steps)]
    return model, batches, torch.randint(0, 256, (1, effort.check_tokens), generator=draw)


def subject_start(subject: Subject, effort: Effort, seed: int) -> dict[str, torch.Tensor]:
    """`trained_factors` of the subject on its own text, in float32."""
    return trained_factors(
        subject.model(), subject.training_batches(effort.merge_steps, effort, seed), seed
    )
