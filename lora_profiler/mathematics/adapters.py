"""PEFT's adapters on a model for as long as a block runs, and the exact values of the layers that
it makes."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from lora_profiler.modeling.third_party import quiet, refusals

ADAPTER = "default"
"""PEFT's own name for the only adapter of a model."""


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

    found = {
        name: m
        for name, m in wrapped.named_modules()
        if isinstance(m, LoraLayer) and ADAPTER in m.lora_A
    }
    return {name.removeprefix("base_model.model."): layer for name, layer in found.items()}


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
    """Whether the frozen weight of a PEFT layer is in 4 bit."""
    return getattr(layer.get_base_layer().weight, "quant_state", None) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """A (r x k) and B (d x r) of a layer in float64, and the scaling that they should have."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    @property
    def update(self) -> torch.Tensor:
        """scaling B A, d x k."""
        return self.scaling * (self.b @ self.a)


def factors(layer: Any, scaling: float) -> Factors:
    """The factors that a PEFT layer holds; `scaling` is worked out by the caller, never read from
    the layer."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return Factors(a=a.detach().double(), b=b.detach().double(), scaling=scaling)


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
