"""Which torch traces run in: a rule that holds for some versions names them."""

import torch

from lora_profiler.platform import version_of

TORCH = version_of(torch.__version__) or (0, 0)
"""Major and minor version."""
