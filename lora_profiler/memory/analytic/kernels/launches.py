"""Where counted kernels go: sizes become numbers here, and each kernel gets its phase, its module
and its count."""

from dataclasses import dataclass, field, replace
from typing import Any

from lora_profiler._common.polynomial import Polynomial, Values
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Tensor
from lora_profiler.memory.kernels import Gemm, Kernel, Kind, Phase, launches_of
from lora_profiler.question.base import NF4_BLOCK, NF4_NESTED_BLOCK
from lora_profiler.question.workload import Dtype

_OPERATORS = {
    "shift": "add",
    "mask": "add",
    "scale": "mul",
    "swish": "silu",
    "swish_backward": "silu_backward",
    "gelu_pytorch_tanh": "gelu",
    "gelu_pytorch_tanh_backward": "gelu_backward",
    "relu_backward": "threshold_backward",
    "_to_int": "_to_copy",
    "clamp_scale": "clamp",
    "fused_norm": "rms_norm",
    "fused_swiglu": "swiglu",
    "bmm_transposed": "bmm",
}
"""What torch calls it, where the ledger says more or transformers another name."""
_CODE_BOOK_BYTES = 256 * 4
_OFFSET_BYTES = 4


@dataclass(slots=True, eq=False)
class Launches:
    """The kernels of one part of the model that occurs `count` times, under `module`; `scope` is
    the module in it whose kernels come next.

    `at`: batch, sequence and rank; `rows` of the micro-batch, one where those of `packed` sequences
    are flattened; `compute`: the dtype that 4-bit weights are unpacked to, `double_quant` how they
    are stored, `unpacks_at_once`: scales and weights by one kernel; `accumulates`: gradients of
    earlier micro-batches are there already.
    """

    at: Values
    rows: int
    packed: bool
    compute: Dtype
    double_quant: bool
    accumulates: bool
    unpacks_at_once: bool = False
    padded: bool = False
    module: str = ""
    scope: str = ""
    count: int = 1
    phase: Phase = "forward"
    kernels: list[Kernel] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.at.batch * self.at.seq

    @property
    def masks(self) -> int:
        """Masks of one kind: one for all samples, of packed rows and padded sequences one each."""
        return self.rows if self.packed or self.padded else 1

    def under(self, module: str, count: int = 1) -> "Launches":
        """The same list, for another part."""
        return replace(self, module=module, count=count)

    def size(self, polynomial: Polynomial) -> int:
        return polynomial.evaluate(*self.at)

    def bytes(self, tensor: Tensor, dtype: str | None = None) -> int:
        """Of the tensor, or of its elements in another dtype."""
        return self.size(tensor.elements) * ITEMSIZE[dtype or tensor.dtype]

    def stored_bytes(self, tensor: Tensor) -> int:
        """Bytes that an activation has in memory: an expanded one has fewer than its elements
        take."""
        return min(self.bytes(tensor), self.size(tensor.storage.bytes))

    def memory(self, op: str, read: int, written: int) -> None:
        """A kernel that only moves bytes."""
        self._add("memory", _OPERATORS.get(op, op), read, written)

    def product(self, op: str, gemm: Gemm, dtype: str, read: int, written: int) -> None:
        op = _OPERATORS.get(op, op)
        self._add("gemm", op, read, written, gemm=gemm, flops=gemm.flops, dtype=dtype)

    def attention(
        self,
        op: str,
        kind: Kind,
        flops: int,
        dtype: str,
        read: int,
        written: int,
        *,
        is_grouped: bool,
    ) -> None:
        launches = launches_of(op, is_grouped=is_grouped)
        self._add(kind, op, read, written, flops=flops, dtype=dtype, launches=launches)

    def dequantise(self, op: str, read: int, written: int, parameters: int = 0) -> None:
        self._add("dequantise", op, read, written, parameters=parameters)

    def _add(self, kind: Kind, op: str, read: int, written: int, **computed: Any) -> None:
        """`computed` are further fields of `Kernel`."""
        computed.setdefault("launches", launches_of(op))
        self.kernels.append(
            Kernel(
                kind=kind,
                op=op,
                phase=self.phase,
                module=".".join(part for part in (self.module, self.scope) if part),
                read_bytes=read,
                written_bytes=written,
                count=self.count,
                **computed,
            )
        )


def unpack(weight: Tensor, launches: Launches) -> None:
    """Adds the kernels that make a 4-bit `weight` in the compute dtype: one, before it two more
    where the scales are quantised too (bitsandbytes `backends/cuda/ops.py`).

    Unsloth's is one that moves its bytes as fast as any (unsloth 2026.10 `kernels/nf4.py`)."""
    count = launches.size(weight.elements)
    blocks = -(-count // NF4_BLOCK)
    packed, written = -(-count // 2), count * ITEMSIZE[launches.compute]
    scales, nested = 4 * blocks, blocks + 4 * -(-blocks // NF4_NESTED_BLOCK) + _CODE_BOOK_BYTES
    if launches.unpacks_at_once:
        read = packed + (nested if launches.double_quant else scales)
        launches.memory("triton _nf4_dequant_kernel", read, written)
        return
    if launches.double_quant:
        launches.dequantise("dequantize_blockwise", nested, scales)
        launches.memory("add", scales + _OFFSET_BYTES, scales)
    launches.dequantise("dequantize_4bit", packed + scales, written, count)
