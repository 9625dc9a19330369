"""Claim 3, measured: h = W x + (alpha / r) B (A x), computed independently for every layer, and
what an adapter adds to a layer in FLOPs, bytes kept for backward, and time."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from lora_profiler.mathematics.adapters import (
    ADAPTER,
    ALPHA,
    RANK,
    SCALING,
    exact_weight,
    factors,
    lora_layers,
    subject_start,
    with_factors,
    without_numbers,
)
from lora_profiler.mathematics.layer_outputs import Call, layer_calls, share_of_limit, two_paths
from lora_profiler.mathematics.subject import Effort, Subject
from lora_profiler.question.workload import Dtype
from lora_profiler.report.claims.claim import Tell, finite
from lora_profiler.report.claims.forward_path import ForwardPath, ModelSeconds, PathCost, PathRow

DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> ForwardPath:
    """Compares every adapted layer's output in a real forward pass with the formula, and measures
    what the adapters add."""
    tell("training adapters", 0, 4)
    state = subject_start(subject, effort, seed)
    ids, rows = subject.check_ids(effort), []
    for number, dtype in enumerate(DTYPES):
        tell(f"every layer's output in {dtype}", 1 + number, 4)
        with with_factors(subject.model(dtype), state, seed) as wrapped:
            calls, _ = layer_calls(wrapped, ids)
            layers = lora_layers(wrapped)
            errors = {name: _error_of_limit(layers[name], call) for name, call in calls.items()}
            path_share = max(_path_share(layers[name], call) for name, call in calls.items())
        worst = max(errors, key=lambda name: errors[name])
        rows.append(
            PathRow(
                dtype=dtype,
                layers=len(errors),
                error_of_limit=finite(errors[worst]),
                worst_layer=worst,
                largest_path_of_output=finite(path_share),
            )
        )
    tell("what the second path costs", 3, 4)
    with with_factors(subject.model(), state, seed) as wrapped:
        costs = path_costs(wrapped, effort.check_tokens, effort.timed_calls, seed)
        seconds = _model_seconds(subject.model(), wrapped, ids, max(5, effort.timed_calls // 3))
    return ForwardPath(
        rank=RANK,
        alpha=ALPHA,
        rows=tuple(rows),
        tokens=effort.check_tokens,
        costs=costs,
        model=seconds,
    )


def _error_of_limit(layer: Any, call: Call) -> float:
    expected = two_paths(layer, call.x, factors(layer, SCALING))
    return share_of_limit(call.output.double() - expected.output, expected.limit)


def _path_share(layer: Any, call: Call) -> float:
    """The size of the second path's output relative to the layer's, both as norms: what a check
    would miss without it."""
    f = factors(layer, SCALING)
    path = f.scaling * (call.x.double() @ f.a.T) @ f.b.T
    return float((path.norm() / call.output.double().norm()).item())


# --- what the second path costs -------------------------------------------------------------------


def path_costs(wrapped: nn.Module, tokens: int, calls: int, seed: int) -> tuple[PathCost, ...]:
    """One row for each kind of adapted layer, on random inputs of `tokens` tokens, without dropout.

    predicted_flops: 2 tokens r (d + k). predicted_bytes: the cast input for A's gradient and A's
    output for B's, tokens (k + r) in the adapter's dtype; a frozen layer alone keeps nothing.
    Seconds are medians of `calls` forward passes each, taken in turn.
    """
    kinds: dict[str, list[Any]] = {}
    for name, layer in lora_layers(wrapped).items():
        kinds.setdefault(without_numbers(name), []).append(layer)
    draw = torch.Generator().manual_seed(seed)
    return tuple(_cost(name, layers, tokens, calls, draw) for name, layers in kinds.items())


def _cost(name: str, layers: list[Any], tokens: int, calls: int, draw: torch.Generator) -> PathCost:
    layer = layers[0]
    base, a = layer.get_base_layer(), layer.lora_A[ADAPTER].weight
    (d, k), r = exact_weight(layer).shape, a.shape[0]
    x = torch.randn(1, tokens, k, generator=draw, dtype=base.weight.dtype).requires_grad_()
    base_flops = _flops(base, x)
    base_seconds, adapted_seconds = _seconds_in_turn(lambda: base(x), lambda: layer(x), calls)
    return PathCost(
        name=name,
        copies=len(layers),
        out_features=d,
        in_features=k,
        base_flops=base_flops,
        predicted_flops=2 * tokens * r * (d + k),
        measured_flops=_flops(layer, x) - base_flops,
        predicted_bytes=tokens * (k + r) * a.element_size(),
        measured_bytes=_saved_bytes(layer, x) - _saved_bytes(base, x),
        base_seconds=base_seconds,
        adapted_seconds=adapted_seconds,
    )


def _model_seconds(model: Any, wrapped: Any, ids: torch.Tensor, calls: int) -> ModelSeconds:
    """Median seconds of a forward pass over `ids` of the whole model, and of its adapted copy,
    taken in turn."""
    base, adapted = _seconds_in_turn(
        lambda: model(input_ids=ids, use_cache=False),
        lambda: wrapped(input_ids=ids, use_cache=False),
        calls,
    )
    return ModelSeconds(base_seconds=base, adapted_seconds=adapted)


def _flops(module: nn.Module, x: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        module(x)
    return int(counter.get_total_flops())


def _saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the storages that autograd keeps for backward of one forward pass, each once,
    parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(kept.values())


@torch.no_grad()
def _seconds_in_turn(
    a: Callable[[], object], b: Callable[[], object], calls: int
) -> tuple[float, float]:
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(calls + 1):  # the first call of each warms up
        for durations, call in zip(seconds, (a, b), strict=True):
            began = time.perf_counter()
            call()
            durations.append(time.perf_counter() - began)
    return median(seconds[0][1:]), median(seconds[1][1:])
