"""Claim 2, measured: merged and unmerged layers in two dtypes and two layouts, and merging into a
4-bit base."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional

from lora_profiler.mathematics.adapters import (
    SCALING,
    companion,
    exact_weight,
    factors,
    is_packed,
    layout,
    lora_layers,
    subject_start,
    trained_factors,
    with_factors,
)
from lora_profiler.mathematics.layer_outputs import (
    Call,
    layer_calls,
    merged_weight,
    one_path,
    share_of_limit,
    two_paths,
)
from lora_profiler.mathematics.subject import Effort, Subject, mean_loss
from lora_profiler.question.workload import Dtype, Quantization
from lora_profiler.report.claims.claim import Tell, finite
from lora_profiler.report.claims.merging import MergedRow, Merging, Nf4, Nf4Loss
from lora_profiler.trace.modeling.nf4 import quantise
from lora_profiler.trace.modeling.third_party import quiet

DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Merging:
    """Merges trained adapters on the model and on a tiny one of the other layout, in two dtypes,
    and on the model in NF4."""
    tell("training adapters", 0, 4)
    state = subject_start(subject, effort, seed)
    ids, rows = subject.check_ids(effort), []
    for number, dtype in enumerate(DTYPES):
        tell(f"merging in {dtype}", 1 + number, 4)
        rows.append(_row(subject.model(dtype), subject.spec.id, dtype, state, ids, seed))
    for present in rows[0].layouts:
        other, batches, other_ids = companion(present, effort, seed)
        other_state = trained_factors(other, batches, seed)
        name = f"tiny {other.config.model_type}, random weights"
        rows += [
            _row(other.to(getattr(torch, dtype)), name, dtype, other_state, other_ids, seed)
            for dtype in DTYPES
        ]
    tell("merging in NF4", 3, 4)
    return Merging(rows=tuple(rows), nf4=_nf4(subject, state, effort, seed))


def _row(
    model: Any, name: str, dtype: str, state: dict[str, torch.Tensor], ids: torch.Tensor, seed: int
) -> MergedRow:
    classes = _classes(model)
    with with_factors(model, state, seed) as wrapped:
        calls, logits = layer_calls(wrapped, ids)
        layers = lora_layers(wrapped)
        layouts = sorted({layout(layer) for layer in layers.values()})
        before = {
            name: layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()
        }
        merged = [_merged_layer(layers[name], calls[name]) for name in layers]
        _, merged_logits = layer_calls(wrapped, ids)
        for layer in layers.values():
            layer.unmerge()
        same = sum(
            int((layer.get_base_layer().weight == before[name]).sum())
            for name, layer in layers.items()
        )
        is_plain = _classes(wrapped.merge_and_unload()) == classes
    return MergedRow(
        model=name,
        layouts=tuple(layouts),
        dtype=dtype,
        layers=len(merged),
        shapes_equal=all(layer.shapes_equal for layer in merged),
        plain_after_merge=is_plain,
        weight_error_of_limit=finite(max(layer.weight_error for layer in merged)),
        unmerged_error_of_limit=finite(max(layer.unmerged_error for layer in merged)),
        merged_error_of_limit=finite(max(layer.merged_error for layer in merged)),
        output_difference=finite(max(layer.output_difference for layer in merged)),
        logit_difference=finite(_difference(merged_logits, logits)),
        same_top_token=(merged_logits.argmax(-1) == logits.argmax(-1)).double().mean().item(),
        weights_restored_by_unmerge=same / sum(weight.numel() for weight in before.values()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _MergedLayer:
    """Errors as shares of what rounding can make."""

    shapes_equal: bool
    weight_error: float = torch.inf
    unmerged_error: float = torch.inf
    merged_error: float = torch.inf
    output_difference: float = torch.inf


@torch.no_grad()
def _merged_layer(layer: Any, call: Call) -> _MergedLayer:
    """Merges one layer, and compares its weight and both of its outputs with what they should
    be."""
    f = factors(layer, SCALING)
    if f.update.shape != exact_weight(layer).shape:
        return _MergedLayer(shapes_equal=False)
    unmerged = two_paths(layer, call.x, f)
    weight, weight_limit = merged_weight(layer, f, call.x.dtype)
    layer.merge()
    output = layer(call.x)
    merged = one_path(layer, call.x, weight, weight_limit)
    return _MergedLayer(
        shapes_equal=True,
        weight_error=share_of_limit(exact_weight(layer) - weight, weight_limit),
        unmerged_error=share_of_limit(call.output.double() - unmerged.output, unmerged.limit),
        merged_error=share_of_limit(output.double() - merged.output, merged.limit),
        output_difference=_difference(output, call.output),
    )


def _classes(model: Any) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the root mean square of `b`."""
    return ((a.double() - b.double()).abs().max() / b.double().square().mean().sqrt()).item()


# --- a 4-bit base ---------------------------------------------------------------------------------


def _nf4(subject: Subject, state: dict[str, torch.Tensor], effort: Effort, seed: int) -> Nf4:
    """What merging does to the model in NF4; not checked where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        return Nf4(checked=False, reason='needs bitsandbytes: pip install "lora-profiler[qlora]"')
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
        merged = [_merged_nf4(layer, calls[name], original[name]) for name, layer in layers.items()]
        merged_loss = mean_loss(wrapped, held_out)
    weight, quantised, update, error, overlap = (
        sum(getattr(layer, name) for layer in merged)
        for name in ("weight", "quantised", "update", "error", "overlap")
    )
    return Nf4(
        checked=True,
        layers=len(merged),
        unmerged_error_of_limit=finite(max(layer.unmerged_error for layer in merged)),
        merged_error_of_limit=finite(max(layer.merged_error for layer in merged)),
        quantisation_error_of_weight=finite((quantised / weight) ** 0.5),
        update_of_weight=finite((update / weight) ** 0.5),
        requantisation_error_of_weight=finite((error / weight) ** 0.5),
        requantisation_error_of_update=finite((error / update) ** 0.5),
        update_kept=finite(overlap / update),
        loss=Nf4Loss(
            base=finite(base_loss),
            unmerged=finite(unmerged_loss),
            merged_and_quantised_again=finite(merged_loss),
        ),
    )


def _keep_training_kernel(model: Any) -> None:
    """For inference on some CPUs bitsandbytes rounds the scales to bfloat16 for good; what training
    runs on is looked at here."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _MergedNf4:
    """Errors as shares of what rounding can make, and sums of squares: of the merged weight, of
    what quantising the original one changed, of the update, of what quantising again changed;
    `overlap` is the inner product of the update and what PEFT's merge changed in all.
    """

    unmerged_error: float
    merged_error: float
    weight: float
    quantised: float
    update: float
    error: float
    overlap: float


@torch.no_grad()
def _merged_nf4(layer: Any, call: Call, original: torch.Tensor) -> _MergedNf4:
    """Merges one layer twice: here, into the dequantised weight, and as PEFT does, which quantises
    the outcome again."""
    f = factors(layer, SCALING)
    unmerged = two_paths(layer, call.x, f)
    before = exact_weight(layer)
    weight, limit = merged_weight(layer, f, call.x.dtype)
    output = functional.linear(call.x, weight.to(call.x.dtype), layer.get_base_layer().bias)
    merged = one_path(layer, call.x, weight, limit)
    layer.merge()
    after = exact_weight(layer)
    return _MergedNf4(
        unmerged_error=share_of_limit(call.output.double() - unmerged.output, unmerged.limit),
        merged_error=share_of_limit(output.double() - merged.output, merged.limit),
        weight=weight.square().sum().item(),
        quantised=(before - original).square().sum().item(),
        update=f.update.square().sum().item(),
        error=(after - weight).square().sum().item(),
        overlap=((after - before) * f.update).sum().item(),
    )


def linear_weights(model: Any) -> dict[str, torch.Tensor]:
    from transformers.pytorch_utils import Conv1D

    layers = {
        name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)
    }
    return {
        name: (m.weight.T if isinstance(m, Conv1D) else m.weight).detach().double()
        for name, m in layers.items()
    }
