"""Singular values of a matrix, what they say of its rank, its best approximation of a lower rank,
and spectra as rows of results."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import torch

from lora_profiler.mathematics.adapters import without_numbers
from lora_profiler.report.claims.intrinsic_dimension import Curve, Kind, LayerSummary

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""At which the share of energy is kept."""
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Of a d x k matrix M: its n = min(d, k) singular values, falling (1-D float64), and an
    orthonormal basis (n x n, columns in the same order) of the smaller of its two sides, which is
    the left one if `is_left`.
    """

    values: torch.Tensor
    basis: torch.Tensor
    is_left: bool

    @property
    def energy(self) -> torch.Tensor:
        """Share of the squared Frobenius norm that the best approximation of rank 1, 2, ... holds
        (1-D)."""
        squares = self.values.square()
        return squares.cumsum(0) / squares.sum()

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the normalised singular values (Roy and Vetterli 2007): n if all
        are equal, 1 if one is not 0."""
        p = self.values / self.values.sum()
        return torch.exp(torch.special.entr(p).sum()).item()

    def rank_for(self, share: float) -> int:
        """The least rank whose best approximation holds `share` of the energy."""
        return int((self.energy < share).sum().item()) + 1

    def truncated(self, matrix: torch.Tensor, rank: int) -> torch.Tensor:
        """The best approximation of `matrix`, from which the spectrum is, of at most that rank, in
        the matrix's own dtype."""
        basis = self.basis[:, :rank].to(matrix.dtype)
        return basis @ (basis.T @ matrix) if self.is_left else (matrix @ basis) @ basis.T


def spectrum(matrix: torch.Tensor) -> Spectrum:
    """By the eigenvectors of M M^T or M^T M, whichever is smaller, in float64: values are good to
    1e-8 of the largest."""
    exact = matrix.double()
    is_left = exact.shape[0] <= exact.shape[1]
    eigenvalues, vectors = torch.linalg.eigh(exact @ exact.T if is_left else exact.T @ exact)
    return Spectrum(
        values=eigenvalues.flip(0).clamp(min=0).sqrt(), basis=vectors.flip(1), is_left=is_left
    )


# --- rows of results ------------------------------------------------------------------------------


def layer_rows(spectra: Mapping[str, Spectrum]) -> tuple[LayerSummary, ...]:
    """One row for each layer."""
    return tuple(
        LayerSummary(
            name=name,
            effective_rank=round(s.effective_rank, 2),
            rank_for_90_percent=s.rank_for(0.9),
            energy=_energies(s),
        )
        for name, s in spectra.items()
    )


def kind_rows(
    weights: Mapping[str, torch.Tensor], spectra: Mapping[str, Spectrum], seed: int
) -> tuple[Kind, ...]:
    """One row for each kind of layer: medians over its copies, the singular values of its middle
    copy, and the same of that copy's weight and of a Gaussian matrix."""
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
            Kind(
                name=kind,
                copies=len(names),
                out_features=weight.shape[0],
                in_features=weight.shape[1],
                effective_rank=median(spectra[name].effective_rank for name in names),
                rank_for_90_percent=median(spectra[name].rank_for(0.9) for name in names),
                energy_at_8=median(_at(spectra[name].energy, 8) for name in names),
                middle=middle,
                update=_curve(spectra[middle]),
                weight=_curve(spectrum(weight)),
                random=_curve(spectrum(random)),
            )
        )
    return tuple(rows)


def _curve(s: Spectrum) -> Curve:
    """At some tens of places between the first and the last."""
    n = len(s.values)
    places = sorted({round(n ** (i / 40)) for i in range(41)})
    values = (s.values / s.values[0]).tolist()
    return Curve(
        effective_rank=round(s.effective_rank, 2),
        rank_for_90_percent=s.rank_for(0.9),
        energy=_energies(s),
        places=tuple(places),
        values=tuple(round(values[place - 1], _DIGITS) for place in places),
    )


def _energies(s: Spectrum) -> tuple[float, ...]:
    return tuple(round(_at(s.energy, r), _DIGITS) for r in RANKS if r <= len(s.values))


def _at(energy: torch.Tensor, rank: int) -> float:
    return float(energy[min(rank, len(energy)) - 1])
