"""The widths of OFT's rotations, as PEFT makes them.

Source: peft 0.21.2, `tuners/oft/layer.py` (`OFTLayer.update_layer`, `adjust_oft_parameters`).
"""


def block_size(in_features: int, asked: int) -> int:
    """The divisor of `in_features` nearest to `asked`, the lower of two equally near; all of it
    where that is no wider."""
    if asked >= in_features:
        return in_features
    lower = next(size for size in range(asked, 0, -1) if in_features % size == 0)
    higher = next(size for size in range(asked, in_features + 1) if in_features % size == 0)
    return lower if asked - lower <= higher - asked else higher


def skew_elements(width: int) -> int:
    """The numbers above the diagonal of a square matrix."""
    return width * (width - 1) // 2
