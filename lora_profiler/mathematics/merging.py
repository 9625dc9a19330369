"""Claim 2: (alpha / r) B A has W's shape, and merged and unmerged layers agree to the rounding of
their dtype."""

from typing import Any

import torch

from lora_profiler.mathematics import nf4_merging
from lora_profiler.mathematics.adapters import exact_weight, factors, layout, lora_layers
from lora_profiler.mathematics.claim import Finding, Tell, Verdict
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.layer_outputs import (
    Call,
    layer_calls,
    merged_weight,
    one_path,
    two_paths,
)
from lora_profiler.mathematics.rounding import share_of_limit
from lora_profiler.mathematics.starting_point import (
    SCALING,
    companion,
    subject_start,
    trained_factors,
    with_factors,
)
from lora_profiler.mathematics.subject import Subject
from lora_profiler.units import percent_text

DTYPES = ("float32", "bfloat16")
ERRORS = ("weight_error_of_limit", "unmerged_error_of_limit", "merged_error_of_limit")
"""Of a row: the largest error found, as a share of what rounding alone can make. Above 1 the claim
fails."""


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Finding:
    """Merges trained adapters on the model and on a tiny one of the other layout, in two dtypes,
    and on the model in NF4."""
    tell("training adapters", 0, 4)
    state = subject_start(subject, effort, seed)
    ids, rows = subject.check_ids(effort), []
    for number, dtype in enumerate(DTYPES):
        tell(f"merging in {dtype}", 1 + number, 4)
        model = subject.model(dtype)  # type: ignore[arg-type]
        rows.append(_row(model, subject.spec.id, dtype, state, ids, seed))
    for present in rows[0]["layouts"]:
        other, batches, other_ids = companion(present, effort, seed)
        other_state = trained_factors(other, batches, seed)
        name = f"tiny {other.config.model_type}, random weights"
        rows += [
            _row(other.to(getattr(torch, dtype)), name, dtype, other_state, other_ids, seed)
            for dtype in DTYPES
        ]
    tell("merging in NF4", 3, 4)
    nf4 = nf4_merging.evidence(subject, state, effort, seed)
    evidence = {"rows": rows, "nf4": nf4}
    return Finding(verdict=_verdict(evidence), sentences=_sentences(evidence), evidence=evidence)


def _row(
    model: Any, name: str, dtype: str, state: dict[str, torch.Tensor], ids: torch.Tensor, seed: int
) -> dict[str, Any]:
    classes = _classes(model)
    with with_factors(model, state, seed) as wrapped:
        calls, logits = layer_calls(wrapped, ids)
        layers = lora_layers(wrapped)
        layouts = sorted({layout(layer) for layer in layers.values()})
        before = {
            name: layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()
        }
        found = [_merged_layer(layers[name], calls[name]) for name in layers]
        _, merged_logits = layer_calls(wrapped, ids)
        for layer in layers.values():
            layer.unmerge()
        same = sum(
            int((layer.get_base_layer().weight == before[name]).sum())
            for name, layer in layers.items()
        )
        is_plain = _classes(wrapped.merge_and_unload()) == classes
    return {
        "model": name,
        "layouts": layouts,
        "dtype": dtype,
        "layers": len(found),
        "shapes_equal": all(each["shapes_equal"] for each in found),
        "plain_after_merge": is_plain,
        **{name: max(each[name] for each in found) for name in ERRORS},
        "output_difference": max(each["output_difference"] for each in found),
        "logit_difference": _difference(merged_logits, logits),
        "same_top_token": (merged_logits.argmax(-1) == logits.argmax(-1)).double().mean().item(),
        "weights_restored_by_unmerge": same / sum(weight.numel() for weight in before.values()),
    }


@torch.no_grad()
def _merged_layer(layer: Any, call: Call) -> dict[str, Any]:
    """Merges one layer, and compares its weight and both of its outputs with what they should
    be."""
    f = factors(layer, SCALING)
    if f.update.shape != exact_weight(layer).shape:
        return {
            "shapes_equal": False,
            "output_difference": torch.inf,
            **dict.fromkeys(ERRORS, torch.inf),
        }
    unmerged = two_paths(layer, call.x, f)
    weight, weight_limit = merged_weight(layer, f, call.x.dtype)
    layer.merge()
    output = layer(call.x)
    merged = one_path(layer, call.x, weight, weight_limit)
    return {
        "shapes_equal": True,
        "weight_error_of_limit": share_of_limit(exact_weight(layer) - weight, weight_limit),
        "unmerged_error_of_limit": share_of_limit(
            call.output.double() - unmerged.output, unmerged.limit
        ),
        "merged_error_of_limit": share_of_limit(output.double() - merged.output, merged.limit),
        "output_difference": _difference(output, call.output),
    }


def _classes(model: Any) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the root mean square of `b`."""
    return ((a.double() - b.double()).abs().max() / b.double().square().mean().sqrt()).item()


def _verdict(evidence: dict[str, Any]) -> Verdict:
    rows, nf4 = evidence["rows"], evidence["nf4"]
    errors = [row[name] for row in rows for name in ERRORS] + nf4_merging.errors_of_limit(nf4)
    if max(errors) > 1 or not all(row["shapes_equal"] and row["plain_after_merge"] for row in rows):
        return "fails"
    return "holds" if nf4["checked"] else "holds_partly"


def _sentences(evidence: dict[str, Any]) -> tuple[str, ...]:
    rows = evidence["rows"]
    worst = max(row[name] for row in rows for name in ERRORS)
    by_dtype = {
        dtype: max(row["output_difference"] for row in rows if row["dtype"] == dtype)
        for dtype in DTYPES
    }
    within = "within" if worst <= 1 else "NOT within"
    float32, bfloat16 = rows[0], rows[1]
    return (
        (
            f"Merged and unmerged outputs and merged weights lie {within} the rounding of their"
            f" dtype: the largest error is {worst:.3g} of what rounding can make. The outputs"
            f" differ by at most {by_dtype['float32']:.1e} in float32 and"
            f" {by_dtype['bfloat16']:.1e} in bfloat16, relative to their root mean square."
        ),
        (
            "Merging cannot be undone to the bit: unmerge gives back"
            f" {percent_text(float32['weights_restored_by_unmerge'])} of the weights in float32,"
            f" {percent_text(bfloat16['weights_restored_by_unmerge'])} in bfloat16."
        ),
        *nf4_merging.sentences(evidence["nf4"]),
    )
