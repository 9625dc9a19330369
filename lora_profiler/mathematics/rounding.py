"""How far floating-point results may lie from the exact ones: a priori bounds, so that no tolerance
has to be guessed.

u is the unit roundoff of a dtype, half the distance from 1 to the next number. An inner product of
n terms lies within gamma(n) = n u / (1 - n u) of the exact one, relative to the sum of the terms'
absolute values, in whichever order it is summed. Source: Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., section 3.1.
"""

import torch

ACCUMULATOR = torch.float32
"""What CPU kernels add products of 16-bit and of float32 numbers up in."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """2**-24 of float32, 2**-8 of bfloat16."""
    return torch.finfo(dtype).eps / 2


def gamma(terms: int, dtype: torch.dtype = ACCUMULATOR) -> float:
    """The relative error that adding up `terms` products in `dtype` can make."""
    total = terms * unit_roundoff(dtype)
    assert total < 1, f"{terms} terms are too many for a bound in {dtype}"
    return total / (1 - total)


def share_of_limit(error: torch.Tensor, limit: torch.Tensor) -> float:
    """The largest |error| as a share of its own limit; up to 1 is rounding. 0 / 0 counts as 0, what
    is no number as infinite."""
    shares = torch.where(error == 0, torch.zeros_like(error), error.abs() / limit)
    if shares.numel():
        return torch.nan_to_num(shares, nan=torch.inf, posinf=torch.inf).max().item()
    return 0.0
