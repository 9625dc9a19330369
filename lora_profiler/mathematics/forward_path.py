"""Claim 3: h = W x + (alpha / r) B (A x), computed independently for every layer; and what the
second path costs."""

from typing import Any

from lora_profiler.mathematics.adapters import factors, lora_layers
from lora_profiler.mathematics.claim import Finding, Tell, Verdict
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.layer_outputs import layer_calls, two_paths
from lora_profiler.mathematics.path_cost import added_share, model_seconds, path_costs
from lora_profiler.mathematics.rounding import share_of_limit
from lora_profiler.mathematics.starting_point import (
    ALPHA,
    RANK,
    SCALING,
    subject_start,
    with_factors,
)
from lora_profiler.mathematics.subject import Subject
from lora_profiler.units import bytes_text, percent_text

DTYPES = ("float32", "bfloat16")


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Finding:
    """Compares every adapted layer's output in a real forward pass with the formula, and measures
    what the adapters add."""
    tell("training adapters", 0, 4)
    state = subject_start(subject, effort, seed)
    ids, rows = subject.check_ids(effort), []
    for number, dtype in enumerate(DTYPES):
        tell(f"every layer's output in {dtype}", 1 + number, 4)
        with with_factors(subject.model(dtype), state, seed) as wrapped:  # type: ignore[arg-type]
            calls, _ = layer_calls(wrapped, ids)
            layers = lora_layers(wrapped)
            errors = {name: _error_of_limit(layers[name], call) for name, call in calls.items()}
            path_share = max(_path_share(layers[name], call) for name, call in calls.items())
        worst = max(errors, key=lambda name: errors[name])
        rows.append(
            {
                "dtype": dtype,
                "layers": len(errors),
                "error_of_limit": errors[worst],
                "worst_layer": worst,
                "largest_path_of_output": path_share,
            }
        )
    tell("what the second path costs", 3, 4)
    with with_factors(subject.model(), state, seed) as wrapped:
        costs = path_costs(wrapped, effort.check_tokens, effort.timed_calls, seed)
        seconds = model_seconds(subject.model(), wrapped, ids, max(5, effort.timed_calls // 3))
    evidence = {
        "rank": RANK,
        "alpha": ALPHA,
        "rows": rows,
        "tokens": effort.check_tokens,
        "costs": costs,
        "model": seconds,
    }
    return Finding(verdict=_verdict(evidence), sentences=_sentences(evidence), evidence=evidence)


def _error_of_limit(layer: Any, call: Any) -> float:
    expected = two_paths(layer, call.x, factors(layer, SCALING))
    return share_of_limit(call.output.double() - expected.output, expected.limit)


def _path_share(layer: Any, call: Any) -> float:
    """The size of the second path's output relative to the layer's, both as norms: what a check
    would miss without it."""
    f = factors(layer, SCALING)
    path = f.scaling * (call.x.double() @ f.a.T) @ f.b.T
    return float((path.norm() / call.output.double().norm()).item())


def _verdict(evidence: dict[str, Any]) -> Verdict:
    if max(row["error_of_limit"] for row in evidence["rows"]) > 1:
        return "fails"
    pairs = [
        (cost[f"predicted_{name}"], cost[f"measured_{name}"])
        for cost in evidence["costs"]
        for name in ("flops", "bytes")
    ]
    return (
        "holds" if all(predicted == measured for predicted, measured in pairs) else "holds_partly"
    )


def _sentences(evidence: dict[str, Any]) -> tuple[str, ...]:
    rows, costs, model = evidence["rows"], evidence["costs"], evidence["model"]
    worst = max(row["error_of_limit"] for row in rows)
    kept = bytes_text(sum(cost["copies"] * cost["measured_bytes"] for cost in costs))
    is_met = "equals" if worst <= 1 else "does NOT equal"
    agree = "as predicted" if _verdict(evidence) == "holds" else "not all as predicted"
    flops = added_share(costs, "measured_flops", "base_flops")
    layer_time = added_share(costs, "adapted_seconds", "base_seconds") - 1
    model_time = model["adapted_seconds"] / model["base_seconds"] - 1
    return (
        (
            f"The output of each of the {rows[0]['layers']} layers {is_met} W x + (alpha / r) B (A"
            f" x) in float32 and in bfloat16: the largest error is {worst:.3g} of what rounding can"
            " make."
        ),
        (
            f"The second path adds {percent_text(flops)} to the FLOPs of the adapted layers and"
            f" {kept} to what backward keeps, {agree}. To the time of the layers it adds"
            f" {100 * layer_time:.0f} %, to that of the whole forward pass {100 * model_time:.0f}"
            " %: thin products use a processor worse than thick ones."
        ),
    )
