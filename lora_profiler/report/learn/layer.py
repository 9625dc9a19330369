"""One dense layer, in numbers: what its full update has, and what A and B have instead."""

from dataclasses import dataclass

GRADIENT_BYTES, ADAM_BYTES = 4, 8
"""Of each number that trains in float32: its gradient, and Adam's two running averages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraLayer:
    """W is d x k (out x in features); its update is B A with B of d x r and A of r x k, times alpha
    / r. All counts are exact."""

    d: int = 4096
    k: int = 4096
    r: int = 8
    alpha: int = 16

    @property
    def full(self) -> int:
        """Numbers of the full update."""
        return self.d * self.k

    @property
    def b(self) -> int:
        return self.d * self.r

    @property
    def a(self) -> int:
        return self.r * self.k

    @property
    def lora(self) -> int:
        """Numbers of A and B."""
        return self.a + self.b

    @property
    def share(self) -> float:
        """What LoRA trains, of the full update."""
        return self.lora / self.full

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    @property
    def largest_smaller_rank(self) -> int:
        """The highest rank at which A and B have fewer numbers than the full update; 0 where none
        has."""
        return (self.full - 1) // (self.d + self.k)


def gradient_bytes(numbers: int) -> int:
    """Bytes of their gradients, in float32."""
    return GRADIENT_BYTES * numbers


def adam_bytes(numbers: int) -> int:
    """Bytes of Adam's two averages, in float32; the step counters, 4 bytes a tensor, are left
    out."""
    return ADAM_BYTES * numbers
