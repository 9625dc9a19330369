"""Tokens in eight parts, as both of torchtune's losses cut them (0.7, bd2a0fc)."""

from typing import Any, NamedTuple

from lora_profiler._common.polynomial import Polynomial, total

CHUNKS = 8
"""`num_output_chunks`."""


class Parts(NamedTuple):
    """`tokens` parted in eight: the first `rest` parts have one more than `whole`, None where that
    is no number; `unit` tokens of it are one row of each sequence."""

    tokens: Polynomial
    rest: int
    whole: int | None
    unit: Polynomial

    def share(self, size: int, number: int) -> Polynomial:
        """Bytes of part `number` at `size` bytes a token."""
        more = self.unit * (size * (number < self.rest))
        if self.whole is not None:
            return self.unit * (self.whole * size) + more
        return (self.tokens - self.unit * self.rest) * size // CHUNKS + more

    def shares(self, size: int, first: int = 0, after: int = CHUNKS) -> Polynomial:
        return total(self.share(size, number) for number in range(first, after))


def divides(head: Any) -> bool:
    """Whether an eighth of any tensor of torchtune's losses is a whole number of bytes for each
    token: of the logits and of the hidden state, in 16 bit."""
    assert head.in_features is not None and head.out_features is not None
    return bool(head.in_features % 4 == 0 and head.out_features % 4 == 0)


def refusals(workload: Any) -> dict[str, object]:
    setup = workload.setup
    return {
        f"torchtune's {setup.loss} loss runs without autocast; use --precision pure, or leave"
        " --loss out.": setup.autocast_dtype
    }
