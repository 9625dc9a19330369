"""Of claim 2: merging into a 4-bit base. Into the dequantised weight it is as exact as any; what is
quantising it again worth?"""

from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional

from lora_profiler.mathematics.adapters import exact_weight, factors, is_packed, lora_layers
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.layer_outputs import (
    Call,
    layer_calls,
    merged_weight,
    one_path,
    two_paths,
)
from lora_profiler.mathematics.rounding import share_of_limit
from lora_profiler.mathematics.starting_point import SCALING, with_factors
from lora_profiler.mathematics.subject import Subject
from lora_profiler.mathematics.training import mean_loss
from lora_profiler.modeling.nf4 import quantise
from lora_profiler.modeling.third_party import quiet
from lora_profiler.units import percent_text
from lora_profiler.workload import Quantization

ERRORS = ("unmerged_error_of_limit", "merged_error_of_limit")


def evidence(
    subject: Subject, state: dict[str, torch.Tensor], effort: Effort, seed: int
) -> dict[str, Any]:
    """What merging does to the model in NF4 with double quantisation; `checked` is False where
    bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        return {
            "checked": False,
            "reason": 'needs bitsandbytes: pip install "lora-profiler[qlora]"',
        }
    model, held_out = subject.model(), subject.held_out_batches(effort)
    original = linear_weights(model)
    with quiet():
        quantise(model, Quantization(), "float32")
    _keep_training_kernel(model)
    with quiet(), with_factors(model, state, seed) as wrapped:
        calls, _ = layer_calls(wrapped, subject.check_ids(effort))
        layers = {name: layer for name, layer in lora_layers(wrapped).items() if is_packed(layer)}
        unmerged_loss = mean_loss(wrapped, held_out)
        with wrapped.disable_adapter():
            base_loss = mean_loss(wrapped, held_out)
        found = [
            _merged_layer(layer, calls[name], original[name]) for name, layer in layers.items()
        ]
        merged_loss = mean_loss(wrapped, held_out)
    total = {
        name: sum(each[name] for each in found)
        for name in ("weight", "quantised", "update", "error", "overlap")
    }
    return {
        "checked": True,
        "layers": len(found),
        **{name: max(each[name] for each in found) for name in ERRORS},
        "quantisation_error_of_weight": (total["quantised"] / total["weight"]) ** 0.5,
        "update_of_weight": (total["update"] / total["weight"]) ** 0.5,
        "requantisation_error_of_weight": (total["error"] / total["weight"]) ** 0.5,
        "requantisation_error_of_update": (total["error"] / total["update"]) ** 0.5,
        "update_kept": total["overlap"] / total["update"],
        "loss": {
            "base": base_loss,
            "unmerged": unmerged_loss,
            "merged_and_quantised_again": merged_loss,
        },
    }


def _keep_training_kernel(model: Any) -> None:
    """For inference on some CPUs bitsandbytes rounds the scales to bfloat16 for good; what training
    runs on is looked at here."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@torch.no_grad()
def _merged_layer(layer: Any, call: Call, original: torch.Tensor) -> dict[str, float]:
    """Merges one layer twice: here, into the dequantised weight, and as PEFT does, which quantises
    the outcome again.

    Sums of squares: of the merged weight, of what quantising the `original` one changed, of the
    update, of what quantising again changed; `overlap` is the inner product of the update and what
    PEFT's merge changed in all.
    """
    f = factors(layer, SCALING)
    unmerged = two_paths(layer, call.x, f)
    before = exact_weight(layer)
    weight, limit = merged_weight(layer, f, call.x.dtype)
    output = functional.linear(call.x, weight.to(call.x.dtype), layer.get_base_layer().bias)
    merged = one_path(layer, call.x, weight, limit)
    layer.merge()
    after = exact_weight(layer)
    return {
        "unmerged_error_of_limit": share_of_limit(
            call.output.double() - unmerged.output, unmerged.limit
        ),
        "merged_error_of_limit": share_of_limit(output.double() - merged.output, merged.limit),
        "weight": weight.square().sum().item(),
        "quantised": (before - original).square().sum().item(),
        "update": f.update.square().sum().item(),
        "error": (after - weight).square().sum().item(),
        "overlap": ((after - before) * f.update).sum().item(),
    }


def linear_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weight of every linear layer (d x k, float64), by name."""
    from transformers.pytorch_utils import Conv1D

    layers = {
        name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)
    }
    return {
        name: (m.weight.T if isinstance(m, Conv1D) else m.weight).detach().double()
        for name, m in layers.items()
    }


def errors_of_limit(found: dict[str, Any]) -> list[float]:
    """The errors that must be rounding: those of the merge into the dequantised weight, none where
    nothing was checked."""
    return [found[name] for name in ERRORS] if found["checked"] else []


def sentences(found: dict[str, Any]) -> tuple[str, ...]:
    if not found["checked"]:
        return (f"The merge into an NF4 base was not checked: it {found['reason']}.",)
    loss = found["loss"]
    return (
        (
            f"On an NF4 base (itself {percent_text(found['quantisation_error_of_weight'])} off) the"
            " merge into the dequantised weight agrees too. Quantised again, as PEFT's merge does,"
            f" the weight is {percent_text(found['requantisation_error_of_weight'])} off,"
            f" {found['requantisation_error_of_update']:.2f} times the size of the update"
            f" ({percent_text(found['update_of_weight'])} of the weight), and keeps"
            f" {percent_text(found['update_kept'])} of it: held-out loss {loss['base']:.3f} without"
            f" the adapter, {loss['unmerged']:.3f} with it,"
            f" {loss['merged_and_quantised_again']:.3f} merged and quantised again."
        ),
    )
