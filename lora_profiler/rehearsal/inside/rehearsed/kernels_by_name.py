"""What kernels' names tell."""

import re
from collections.abc import Iterable, Mapping

_ATTENTION = (
    ("flash", re.compile(r"flash_(fwd|bwd)|flash_attn|FlashAttn", re.IGNORECASE)),
    ("efficient", re.compile(r"fmha_cutlass|AttentionKernel|AttentionBackwardKernel")),
    ("cudnn", re.compile(r"cudnnBackendExecute attention")),
)
_CONVOLUTIONS = re.compile(r"cudnnBackendExecute$|cudnn\w*Convolution\w*(Forward|Backward)")
"""The stub library names executions of attention apart."""


def between(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    counts = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in counts.items() if count}


def attention_kernels(names: Iterable[str]) -> list[str]:
    """Which fused kernels are among them; none means the scores were kept, by torch's math kernel
    or by the model itself."""
    names = list(names)
    return [kind for kind, pattern in _ATTENTION if any(pattern.search(name) for name in names)]


def runs_convolutions(names: Iterable[str]) -> bool:
    return any(_CONVOLUTIONS.search(name) for name in names)


def runs_recurrent(names: Iterable[str]) -> bool:
    """Whether cuDNN ran an LSTM, a GRU or an RNN."""
    return any("cudnnRNN" in name for name in names)
