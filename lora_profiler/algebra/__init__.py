"""Exact integer polynomials in batch, sequence and rank: what both predictors compute with. No
torch, no NumPy."""

from lora_profiler.algebra.polynomial import Exponents, Polynomial, undominated

__all__ = ["Exponents", "Polynomial", "undominated"]
