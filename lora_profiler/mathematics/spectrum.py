"""Singular values of a matrix, what they say of its rank, and its best approximation of a lower
rank."""

from dataclasses import dataclass

import torch


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
