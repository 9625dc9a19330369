"""Which torch traces run in: a rule that holds for some versions names them."""

import torch

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
"""Major and minor version."""
