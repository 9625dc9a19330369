"""A 4-bit weight turned back: one kernel, before it two more where the scales are quantised too.

bitsandbytes `backends/cuda/ops.py`; sizes of the packed form as in `analytic/persistent.py`.
"""

from lora_profiler.analytic.kernels.launches import Launches
from lora_profiler.analytic.persistent import NF4_BLOCK, NF4_NESTED_BLOCK
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor

_CODE_BOOK_BYTES = 256 * 4
_OFFSET_BYTES = 4


def unpack(weight: Tensor, scope: str, launches: Launches) -> None:
    """Adds the kernels that make `weight` in the compute dtype."""
    count = launches.size(weight.elements)
    blocks = -(-count // NF4_BLOCK)
    scales = 4 * blocks
    if launches.double_quant:
        nested = 4 * -(-blocks // NF4_NESTED_BLOCK)
        launches.dequantise(
            scope, "dequantize_blockwise", blocks + nested + _CODE_BOOK_BYTES, scales
        )
        launches.memory(scope, "add", scales + _OFFSET_BYTES, scales)
    launches.dequantise(
        scope, "dequantize_4bit", -(-count // 2) + scales, count * ITEMSIZE[launches.compute], count
    )
