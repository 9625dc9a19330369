"""Claim 4, measured: A, B, logits and first gradients under two starts.

With G the gradient of the loss by the layer's output (n x d), the gradient of B is s G^T (x A^T),
that of A is s (G B)^T x. While B is zero, so is the second, whatever the data; the first is not.
After one step B is not zero, and A begins to learn.
"""

import math
from typing import Any, Literal

import torch

from lora_profiler.mathematics.adapters import (
    ADAPTER,
    AdapterFactors,
    adapted,
    factors,
    lora_layers,
)
from lora_profiler.mathematics.layer_outputs import gamma, share_of_limit, unit_roundoff
from lora_profiler.mathematics.subject import Effort, Subject, loss_of
from lora_profiler.question.workload import Dtype
from lora_profiler.report.claims.claim import Tell, finite, worst_of
from lora_profiler.report.claims.initialisation import (
    FirstLogits,
    FirstSteps,
    Gradients,
    Init,
    Initialisation,
    Moments,
    Start,
)

RANK, ALPHA = 16, 32
LEARNING_RATE = 1e-3
MOST_NUMBERS = 1_000_000
"""Tested together; more would take a test nowhere."""
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
STARTS: tuple[Init, ...] = ("gaussian", True)
Kind = Literal["normal", "uniform"]


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Initialisation:
    """Looks at A, B, logits and first gradients, under the Gaussian start that the paper describes
    and under PEFT's default."""
    ids = subject.check_ids(effort)
    tell("the Gaussian start", 0, 4)
    gaussian = _start(subject, "gaussian", seed)
    tell("PEFT's default start", 1, 4)
    default = _start(subject, True, seed)
    tell("logits before the first step", 2, 4)
    logits = [_logits(subject, dtype, init, ids, seed) for dtype in DTYPES for init in STARTS]
    tell("the first gradients", 3, 4)
    return Initialisation(
        rank=RANK,
        alpha=ALPHA,
        gaussian=gaussian,
        default=default,
        logits=tuple(logits),
        gradients=_first_steps(subject, ids, seed),
    )


def _start(subject: Subject, init: Init, seed: int) -> Start:
    """Standardised: by the deviation 1 / r that PEFT's "gaussian" has, or by the bound 1 / sqrt(k)
    of the Kaiming-uniform numbers that are its default."""
    kind: Kind = "normal" if init == "gaussian" else "uniform"
    with (
        torch.no_grad(),
        adapted(subject.model(), r=RANK, alpha=ALPHA, seed=seed, init_lora_weights=init) as wrapped,
    ):
        layers = [factors(layer, ALPHA / RANK) for layer in lora_layers(wrapped).values()]
    scaled = [
        (f.a * (RANK if kind == "normal" else math.sqrt(f.a.shape[1]))).flatten() for f in layers
    ]
    by_layer = [kolmogorov_smirnov(a, kind)[1] for a in scaled]
    sample = torch.cat(scaled)[:MOST_NUMBERS]
    distance, p = kolmogorov_smirnov(sample, kind)
    measured = sample if kind == "normal" else sample * math.sqrt(3)
    return Start(
        init_lora_weights=init,
        distribution=kind,
        expected_deviation="1 / r" if kind == "normal" else "1 / sqrt(3 k)",
        layers=len(layers),
        moments=moments(measured),
        distance=finite(distance),
        p_value=finite(p),
        least_p_value_of_a_layer=finite(min(by_layer)),
        p_value_as_normal=finite(kolmogorov_smirnov(measured, "normal")[1]),
        largest_of_b=finite(max(f.b.abs().max().item() for f in layers)),
    )


@torch.no_grad()
def _logits(
    subject: Subject, dtype: Dtype, init: Init, ids: torch.Tensor, seed: int
) -> FirstLogits:
    model = subject.model(dtype)
    base = model(input_ids=ids, use_cache=False).logits
    with adapted(model, r=RANK, alpha=ALPHA, seed=seed, init_lora_weights=init) as wrapped:
        start = wrapped(input_ids=ids, use_cache=False).logits
    return FirstLogits(
        dtype=dtype,
        init_lora_weights=init,
        equal=torch.equal(base, start),
        numbers=base.numel(),
        largest_difference=finite((base.double() - start.double()).abs().max().item()),
    )


def _first_steps(subject: Subject, ids: torch.Tensor, seed: int) -> FirstSteps:
    with adapted(
        subject.model(), r=RANK, alpha=ALPHA, seed=seed, init_lora_weights="gaussian"
    ) as wrapped:
        before = {name: factors(layer, 1.0).a for name, layer in lora_layers(wrapped).items()}
        optimizer = torch.optim.AdamW(
            [p for p in wrapped.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.0
        )
        first = gradients(wrapped, ids, ALPHA / RANK)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        unmoved = all(
            torch.equal(factors(layer, 1.0).a, before[name])
            for name, layer in lora_layers(wrapped).items()
        )
        second = gradients(wrapped, ids, ALPHA / RANK)
    return FirstSteps(first=first, a_unmoved_by_first_step=unmoved, second=second)


# --- gradients ------------------------------------------------------------------------------------


def gradients(wrapped: Any, batch: torch.Tensor, scaling: float) -> Gradients:
    """Of one backward pass over `batch`. The gradients are left in place for an optimizer."""
    layers = lora_layers(wrapped)
    inputs: dict[str, torch.Tensor] = {}
    upstream: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, args: Any, output: torch.Tensor) -> None:
            inputs[name] = _rows(args[0])
            output.register_hook(lambda gradient: upstream.update({name: _rows(gradient)}))  # type: ignore[no-untyped-call]

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        loss_of(wrapped, batch).backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    errors = [
        _error_of_limit(layer, inputs[name], upstream[name], factors(layer, scaling))
        for name, layer in layers.items()
    ]
    of_a = [_gradient(layer.lora_A).abs().max().item() for layer in layers.values()]
    of_b = [_gradient(layer.lora_B).norm().item() for layer in layers.values()]
    return Gradients(
        largest_of_a=finite(max(of_a)),
        smallest_norm_of_b=finite(min(of_b)),
        error_of_limit=finite(max(errors)),
    )


def _gradient(factor: Any) -> torch.Tensor:
    gradient: torch.Tensor = factor[ADAPTER].weight.grad
    return gradient


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1, tensor.shape[-1]).double()


def _error_of_limit(layer: Any, x: torch.Tensor, g: torch.Tensor, f: AdapterFactors) -> float:
    """Of both gradients of one layer. x: n x k, g: n x d."""
    n, (d, k), r = x.shape[0], (g.shape[1], x.shape[1]), f.a.shape[0]
    u = unit_roundoff(layer.lora_A[ADAPTER].weight.dtype)
    s = abs(f.scaling)
    of_b = f.scaling * g.T @ (x @ f.a.T)
    limit_of_b = (gamma(n) + gamma(k) + 4 * u) * s * g.abs().T @ (x.abs() @ f.a.abs().T)
    of_a = f.scaling * (g @ f.b).T @ x
    limit_of_a = (gamma(n) + gamma(d) + 4 * u) * s * (g.abs() @ f.b.abs()).T @ x.abs()
    assert of_a.shape == (r, k)
    return max(
        share_of_limit(_gradient(layer.lora_B).double() - of_b, limit_of_b),
        share_of_limit(_gradient(layer.lora_A).double() - of_a, limit_of_a),
    )


# --- whether numbers are drawn from a named distribution ------------------------------------------


def moments(sample: torch.Tensor) -> Moments:
    """Moments of a 1-D float64 sample that should be standard normal."""
    n = sample.numel()
    mean = sample.mean()
    centred = sample - mean
    deviation = centred.square().mean().sqrt()
    skewness = (centred**3).mean() / deviation**3
    excess = (centred**4).mean() / deviation**4 - 3
    mean_z = mean.item() * math.sqrt(n)
    deviation_z = (deviation.item() - 1) * math.sqrt(2 * n)
    skewness_z = skewness.item() * math.sqrt(n / 6)
    kurtosis_z = excess.item() * math.sqrt(n / 24)
    return Moments(
        count=n,
        mean=finite(mean.item()),
        deviation=finite(deviation.item()),
        skewness=finite(skewness.item()),
        excess_kurtosis=finite(excess.item()),
        mean_z=finite(mean_z),
        deviation_z=finite(deviation_z),
        skewness_z=finite(skewness_z),
        kurtosis_z=finite(kurtosis_z),
        largest_z=worst_of(
            None if z is None else abs(z)
            for z in map(finite, (mean_z, deviation_z, skewness_z, kurtosis_z))
        ),
    )


def kolmogorov_smirnov(sample: torch.Tensor, kind: Kind) -> tuple[float, float]:
    """(distance, p-value) of a 1-D float64 sample from the standard normal, or from the uniform
    distribution on [-1, 1].

    The p-value is that of the limiting distribution with Stephens's correction, good from some tens
    of numbers on.
    """
    n = sample.numel()
    ordered = sample.sort().values
    below = torch.special.ndtr(ordered) if kind == "normal" else ((ordered + 1) / 2).clamp(0, 1)
    ranks = torch.arange(1, n + 1, dtype=torch.float64) / n
    distance = max((ranks - below).max().item(), (below - ranks + 1 / n).max().item())
    return distance, _kolmogorov_tail((math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance)


def _kolmogorov_tail(x: float) -> float:
    """P(K > x) of Kolmogorov's distribution."""
    if x < 0.2:
        return 1.0
    total = 2 * sum((-1) ** (j - 1) * math.exp(-2 * j * j * x * x) for j in range(1, 101))
    return min(1.0, max(0.0, float(total)))
