"""Of claim 6: spectra as rows of results, beside those of the weights themselves and of random
matrices of the same shape."""

from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

from lora_profiler.mathematics.adapters import without_numbers
from lora_profiler.mathematics.spectrum import Spectrum, spectrum

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""At which the share of energy is kept."""
_DIGITS = 6


def layer_rows(spectra: Mapping[str, Spectrum]) -> list[dict[str, Any]]:
    """One row for each layer: effective rank, the rank that holds 90 % of the energy, and the
    energy held at `RANKS`."""
    return [{"name": name, **_summary(s)} for name, s in spectra.items()]


def kind_rows(
    weights: Mapping[str, torch.Tensor], spectra: Mapping[str, Spectrum], seed: int
) -> list[dict[str, Any]]:
    """One row for each kind of layer: medians over its copies, the singular values of its middle
    copy relative to the largest, and the same of that copy's weight and of a Gaussian matrix.
    """
    kinds: dict[str, list[str]] = {}
    for name in spectra:
        kinds.setdefault(without_numbers(name), []).append(name)
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for kind, names in kinds.items():
        middle = names[len(names) // 2]
        weight = weights[middle]
        random = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        rows.append(
            {
                "name": kind,
                "copies": len(names),
                "out_features": weight.shape[0],
                "in_features": weight.shape[1],
                "effective_rank": median(spectra[name].effective_rank for name in names),
                "rank_for_90_percent": median(spectra[name].rank_for(0.9) for name in names),
                "energy_at_8": median(_at(spectra[name].energy, 8) for name in names),
                "middle": middle,
                "update": _curve(spectra[middle]),
                "weight": _curve(spectrum(weight)),
                "random": _curve(spectrum(random)),
            }
        )
    return rows


def _summary(s: Spectrum) -> dict[str, Any]:
    return {
        "effective_rank": round(s.effective_rank, 2),
        "rank_for_90_percent": s.rank_for(0.9),
        "energy": [round(_at(s.energy, r), _DIGITS) for r in RANKS if r <= len(s.values)],
    }


def _curve(s: Spectrum) -> dict[str, Any]:
    """The summary, and singular values relative to the largest at some tens of places between the
    first and the last."""
    n = len(s.values)
    places = sorted({round(n ** (i / 40)) for i in range(41)})
    values = (s.values / s.values[0]).tolist()
    return {
        **_summary(s),
        "places": places,
        "values": [round(values[place - 1], _DIGITS) for place in places],
    }


def _at(energy: torch.Tensor, rank: int) -> float:
    return float(energy[min(rank, len(energy)) - 1])
