"""Claim 4: A starts Gaussian and B zero, so that training starts exactly from the base model."""

import math
from dataclasses import asdict
from typing import Any, Literal

import torch

from lora_profiler.mathematics.adapters import adapted, factors, lora_layers
from lora_profiler.mathematics.claim import Finding, Tell, Verdict
from lora_profiler.mathematics.distribution import Kind, kolmogorov_smirnov, moments
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.first_gradients import gradients
from lora_profiler.mathematics.subject import Subject
from lora_profiler.units import count_text

RANK, ALPHA = 16, 32
LEARNING_RATE = 1e-3
LEAST_P, MOST_Z = 1e-6, 6.0
"""Beyond these a sample is not what it should be: one seed in a million goes astray by chance."""
MOST_NUMBERS = 1_000_000
"""Tested together; more would take a test nowhere."""
DTYPES = ("float32", "bfloat16")
Init = Literal["gaussian"] | bool
"""PEFT's option `init_lora_weights`; True is its default, Kaiming uniform."""
STARTS: tuple[Init, ...] = ("gaussian", True)


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Finding:
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
    first_steps = _first_steps(subject, ids, seed)
    evidence = {
        "rank": RANK,
        "alpha": ALPHA,
        "gaussian": gaussian,
        "default": default,
        "logits": logits,
        "gradients": first_steps,
    }
    return Finding(verdict=_verdict(evidence), sentences=_sentences(evidence), evidence=evidence)


def _start(subject: Subject, init: Init, seed: int) -> dict[str, Any]:
    """A and B of every layer before training. Standardised: by the deviation 1 / r that PEFT's
    "gaussian" has, or by the bound 1 / sqrt(k) of the Kaiming-uniform numbers that are its default.
    """
    kind: Kind = "normal" if init == "gaussian" else "uniform"
    with (
        torch.no_grad(),
        adapted(subject.model(), r=RANK, alpha=ALPHA, seed=seed, init_lora_weights=init) as wrapped,
    ):
        found = [factors(layer, ALPHA / RANK) for layer in lora_layers(wrapped).values()]
    scaled = [
        (f.a * (RANK if kind == "normal" else math.sqrt(f.a.shape[1]))).flatten() for f in found
    ]
    each = [kolmogorov_smirnov(a, kind)[1] for a in scaled]
    sample = torch.cat(scaled)[:MOST_NUMBERS]
    distance, p = kolmogorov_smirnov(sample, kind)
    measured = sample if kind == "normal" else sample * math.sqrt(3)
    return {
        "init_lora_weights": init,
        "distribution": kind,
        "expected_deviation": "1 / r" if kind == "normal" else "1 / sqrt(3 k)",
        "layers": len(found),
        "moments": asdict(moments(measured)) | {"largest_z": moments(measured).largest_z},
        "distance": distance,
        "p_value": p,
        "least_p_value_of_a_layer": min(each),
        "p_value_as_normal": kolmogorov_smirnov(measured, "normal")[1],
        "largest_of_b": max(f.b.abs().max().item() for f in found),
    }


@torch.no_grad()
def _logits(
    subject: Subject, dtype: str, init: Init, ids: torch.Tensor, seed: int
) -> dict[str, Any]:
    model = subject.model(dtype)  # type: ignore[arg-type]
    base = model(input_ids=ids, use_cache=False).logits
    with adapted(model, r=RANK, alpha=ALPHA, seed=seed, init_lora_weights=init) as wrapped:
        start = wrapped(input_ids=ids, use_cache=False).logits
    return {
        "dtype": dtype,
        "init_lora_weights": init,
        "equal": torch.equal(base, start),
        "numbers": base.numel(),
        "largest_difference": (base.double() - start.double()).abs().max().item(),
    }


def _first_steps(subject: Subject, ids: torch.Tensor, seed: int) -> dict[str, Any]:
    """Gradients before the first step and before the second one, of the Gaussian start."""
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
    return {"first": asdict(first), "a_unmoved_by_first_step": unmoved, "second": asdict(second)}


def _verdict(evidence: dict[str, Any]) -> Verdict:
    gaussian, default, steps = evidence["gaussian"], evidence["default"], evidence["gradients"]
    is_gaussian = gaussian["p_value"] >= LEAST_P and gaussian["moments"]["largest_z"] <= MOST_Z
    is_start = gaussian["largest_of_b"] == default["largest_of_b"] == 0 and all(
        each["equal"] for each in evidence["logits"]
    )
    first, second = steps["first"], steps["second"]
    is_learning = (
        first["largest_of_a"] == 0 < first["smallest_norm_of_b"] and second["largest_of_a"] > 0
    )
    by_chain_rule = max(first["error_of_limit"], second["error_of_limit"]) <= 1
    return "holds" if is_gaussian and is_start and is_learning and by_chain_rule else "fails"


def _sentences(evidence: dict[str, Any]) -> tuple[str, ...]:
    gaussian, default, logits, steps = (
        evidence[name] for name in ("gaussian", "default", "logits", "gradients")
    )
    equal = all(each["equal"] for each in logits)
    worst = max(each["largest_difference"] for each in logits)
    m = gaussian["moments"]
    return (
        'With init_lora_weights="gaussian" A is normal with deviation 1 / r (p ='
        f" {gaussian['p_value']:.2g} on "
        f"{count_text(m['count'])} numbers, skewness {m['skewness']:+.4f}, excess kurtosis"
        f" {m['excess_kurtosis']:+.4f}), and B "
        f"is {'zero' if gaussian['largest_of_b'] == 0 else 'NOT zero'}.",
        (
            "PEFT's own default is not Gaussian: A is uniform within 1 / sqrt(k), whatever the"
            f" rank (p = {default['p_value']:.2g}; as a normal sample p ="
            f" {default['p_value_as_normal']:.1g})."
        ),
        (
            "Before the first step the logits equal the base model's bit for bit, in float32 and"
            " bfloat16."
            if equal
            else (
                "Before the first step the logits do NOT equal the base model's: they differ by up"
                f" to {worst:.2g}."
            )
        ),
        (
            "The first gradient of A is"
            f" {'exactly zero' if steps['first']['largest_of_a'] == 0 else 'NOT zero'}, since it is"
            " B's transpose times the rest; that of B is not, so the first step moves B alone, and"
            " A learns from the second on."
        ),
    )
