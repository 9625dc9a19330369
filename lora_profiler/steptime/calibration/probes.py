"""The process of the probes: `python -m lora_profiler.steptime.calibration.probes DEVICE` measures
rates of small pieces of work.

Standard output carries one JSON line before each probe, and last the `Micro`. Each probe runs in
blocks until its time is up, and the lower quartile of its blocks counts.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor

from lora_profiler.measuring.harness.machine import last_cache_bytes
from lora_profiler.measuring.harness.process import die_with_parent
from lora_profiler.question.workload import Device, Dtype
from lora_profiler.steptime.calibration.calibrate import Micro
from lora_profiler.steptime.roofline import HALF_TILE, attention_bytes_per_element
from lora_profiler.trace.modeling.operator_kernels import kernel_of

PROBE_SECONDS = 0.25
BLOCK_SECONDS = 0.02
"""So long that the clock and the wait for the device do not matter."""
LEAST_BLOCKS = 5
MIB = 2**20
LARGE_BYTES = {"cpu": 64 * MIB, "cuda": 512 * MIB}
LARGEST_BYTES = 512 * MIB
"""Of one tensor that is to lie in memory: four times the last cache at least, but never more than
this."""
FRESH_BYTES = 64 * MIB
SIDE = {"cpu": 1024, "cuda": 8192}
SLOW_SIDE = 256
"""Of a product that a CPU may have to imitate, as bfloat16 without its instructions."""
NARROW_SIDES = (8, 16, 32, 64, 128, 256, 512)
NARROW_BY = 512
ATTENTION = {"cpu": (1, 8, 256, 64), "cuda": (4, 16, 2048, 128)}
"""Batch, heads, tokens, width of a head."""
NF4_SIDE = {"cpu": 1024, "cuda": 4096}


def seconds(call: Callable[[], object], synchronise: Callable[[], None]) -> float:
    """Of one call: the lower quartile over blocks of calls, the first left out; whatever else goes
    on only makes one longer."""
    synchronise()
    began = time.perf_counter()
    call()
    synchronise()
    count = max(1, math.ceil(BLOCK_SECONDS / max(time.perf_counter() - began, 1e-6)))
    blocks: list[float] = []
    ends = time.perf_counter() + PROBE_SECONDS
    while len(blocks) <= LEAST_BLOCKS or time.perf_counter() < ends:
        began = time.perf_counter()
        for _ in range(count):
            call()
        synchronise()
        blocks.append((time.perf_counter() - began) / count)
    return quantiles(blocks[1:], n=4, method="inclusive")[0]


class Probes:
    """All probes of one device; what one of them found is there for the next."""

    def __init__(self, device: Device) -> None:
        self.device: Device = device
        self.on_cpu = device == "cpu"
        self.synchronise: Callable[[], None] = (
            (lambda: None) if self.on_cpu else torch.accelerator.synchronize
        )
        self.cache_bytes = (last_cache_bytes() or 0) if self.on_cpu else 0

    def run(self, tell: Callable[[str], None]) -> Micro:
        tell("bandwidth")
        rates: dict[str, Any] = {
            "bandwidth": self.bandwidth(self.large_bytes),
            "cache_bytes": self.cache_bytes,
        }
        if self.cache_bytes:
            rates["cached_bandwidth"] = self.bandwidth(self.cache_bytes // 16)
        if self.on_cpu:
            tell("fresh memory")
            rates["fresh_bandwidth"] = self.fresh_bandwidth()
        tell("products")
        rates["products"] = products = self.products()
        if self.on_cpu:
            rates["narrow"] = self.narrow(products["float32"])
        tell("attention")
        dtype: Dtype = "float32" if self.on_cpu else self.half
        rates["attention_dtype"] = dtype
        rates["attention_forward"], rates["attention_backward"] = self.attention(
            dtype, rates["bandwidth"]
        )
        if self.on_cpu:
            tell("operators")
            rates["operators"] = self.operators()
        tell("4-bit weights")
        rates["dequantisation"] = self.dequantisation()
        return Micro(**rates)

    @property
    def large_bytes(self) -> int:
        return min(LARGEST_BYTES, max(LARGE_BYTES[self.device], 4 * self.cache_bytes))

    def bandwidth(self, size_bytes: int) -> float:
        """Of z = x + y, each of `size_bytes`, over memory that is there already."""
        x, y, z = (torch.ones(size_bytes // 4, device=self.device) for _ in range(3))
        return 3 * (size_bytes // 4 * 4) / self.seconds(lambda: torch.add(x, y, out=z))

    def fresh_bandwidth(self) -> float | None:
        """None where writing to fresh memory takes no longer than to old."""
        old = torch.ones(FRESH_BYTES // 4)
        longer = self.seconds(lambda: torch.zeros(FRESH_BYTES // 4)) - self.seconds(old.zero_)
        return FRESH_BYTES / longer if longer > 0 else None

    @property
    def half(self) -> Dtype:
        """The 16-bit dtype that the device multiplies in: torch imitates bfloat16 on cards from
        before it."""
        has_bfloat16 = self.on_cpu or torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if has_bfloat16 else "float16"

    def products(self) -> dict[Dtype, float]:
        """Of square matrices, in float32 without TF32 and in the 16-bit dtype."""
        side = SIDE[self.device]
        narrow = SLOW_SIDE if self.on_cpu else side
        return {
            "float32": self.product(side, side, side, "float32"),
            self.half: self.product(narrow, narrow, narrow, self.half),
        }

    def product(self, rows: int, columns: int, inner: int, dtype: Dtype) -> float:
        """FLOP/s of a linear layer's forward product: x (rows x inner) by the transpose of w
        (columns x inner).

        On a CPU one pair after another of so many that together they are twice the last cache: a
        step too meets each weight and each activation cold.
        """
        kind = getattr(torch, dtype)
        pairs = 1 + 2 * self.cache_bytes // ((rows + columns) * inner * kind.itemsize)
        xs, ws = (
            [torch.randn(n, inner, device=self.device).to(kind) for _ in range(pairs)]
            for n in (rows, columns)
        )
        turn = cycle(zip(xs, ws, strict=True))

        def one() -> Tensor:
            x, w = next(turn)
            return torch.mm(x, w.t())

        return 2 * rows * columns * inner / self.seconds(one)

    def narrow(self, whole: float) -> tuple[tuple[float, float], ...]:
        """As shares of `whole`: the mean time over which of the three sides is the narrow one."""
        shares = []
        for side in NARROW_SIDES:
            shapes = (
                (side, NARROW_BY, NARROW_BY),
                (NARROW_BY, side, NARROW_BY),
                (NARROW_BY, NARROW_BY, side),
            )
            rates = [self.product(*shape, "float32") for shape in shapes]
            shares.append((float(side), len(rates) / sum(1 / rate for rate in rates) / whole))
        return tuple(shares)

    def attention(self, dtype: Dtype, bandwidth: float) -> tuple[float, float]:
        """(forward, backward) of causal fused attention: two and five products of the halved
        square, as `Kernel.flops` counts; on a card in whole tiles, and without backward's passes
        before and after them, as `roofline` counts."""
        batch, heads, tokens, width = ATTENTION[self.device]
        shape, kind = (batch, heads, tokens, width), getattr(torch, dtype)
        query, key, value = (
            torch.randn(shape, device=self.device, dtype=kind, requires_grad=True) for _ in range(3)
        )

        def forward() -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True
            )

        out = forward()
        gradient = torch.ones_like(out)
        back = self.seconds(
            lambda: torch.autograd.grad(out, (query, key, value), gradient, retain_graph=True)
        )
        product = 2 * batch * heads * tokens * tokens * width // 2
        if not self.on_cpu:
            product += 2 * query.numel() * HALF_TILE
            back -= query.numel() * attention_bytes_per_element(query.itemsize) / bandwidth
        with torch.no_grad():
            return 2 * product / self.seconds(forward), 5 * product / back

    def operators(self) -> dict[str, float]:
        """Bytes/s, counted as the tracer counts them."""
        return {
            name: moved_bytes(operator) / self.seconds(operator.on("cpu"))
            for name, operator in OPERATORS.items()
        }

    def dequantisation(self) -> float | None:
        """Bytes/s of packed weights and scales read and of 16-bit weights (float32 ones on a CPU)
        written; None if it fails."""
        side = NF4_SIDE[self.device]
        kind = torch.float32 if self.on_cpu else getattr(torch, self.half)
        try:
            from bitsandbytes.functional import dequantize_4bit, quantize_4bit

            weight = torch.randn(side, side, device=self.device, dtype=kind)
            packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
            taken = self.seconds(lambda: dequantize_4bit(packed, state))
        except Exception:  # not installed, a missing library, a device without kernels
            return None
        moved = packed.nbytes + 4 * state.absmax.numel() + weight.nbytes
        return float(moved / taken)

    def seconds(self, call: Callable[[], object]) -> float:
        return seconds(call, self.synchronise)


@contextmanager
def quiet_stdout() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Whatever libraries print goes to standard error; the lines to the parent go where standard
    output went."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with lines:
        yield lambda what: print(json.dumps(what), file=lines, flush=True)


def main(device: Device) -> None:
    with quiet_stdout() as tell:
        micro = Probes(device).run(lambda probe: tell({"probe": probe}))
        tell({"micro": asdict(micro)})


# --- operators that a CPU computes longer than it moves their bytes -------------------------------


aten = torch.ops.aten
ROWS, COLUMNS = 512, 1024
"""2 MiB a tensor: more than a core's own caches hold, less than the last one."""


@dataclass(frozen=True, slots=True)
class Operator:
    """`make` gives the arguments on a device, tensors of ROWS x COLUMNS in float32."""

    func: Any
    make: Callable[[str], tuple[Any, ...]]

    def on(self, device: str) -> Callable[[], object]:
        """A call that can be repeated."""
        arguments = self.make(device)
        return lambda: self.func(*arguments)


def _tensor(device: str) -> Tensor:
    return (
        torch.empty(ROWS, COLUMNS, device=device) if device == "meta" else torch.rand(ROWS, COLUMNS)
    )


def _of(count: int, *rest: Any) -> Callable[[str], tuple[Any, ...]]:
    """`count` tensors, then the rest."""
    return lambda device: (*(_tensor(device) for _ in range(count)), *rest)


def _norm(device: str) -> tuple[Any, ...]:
    row = _tensor(device)[0]
    return _tensor(device), [COLUMNS], row, row, 1e-5


def _norm_backward(device: str) -> tuple[Any, ...]:
    row, column = _tensor(device)[0], _tensor(device)[:, :1].contiguous()
    return _tensor(device), _tensor(device), [COLUMNS], column, column, row, row, [True, True, True]


# The exponential functions of activations and softmax, roots and sines, random masks and
# normalisations. All others (sums, products by elements, copies, reductions) go at the speed of the
# memory or of the cache that they read.
OPERATORS: Mapping[str, Operator] = {
    "silu": Operator(aten.silu.default, _of(1)),
    "silu_backward": Operator(aten.silu_backward.default, _of(2)),
    "gelu": Operator(aten.gelu.default, _of(1)),
    "gelu_backward": Operator(aten.gelu_backward.default, _of(2)),
    "tanh": Operator(aten.tanh.default, _of(1)),
    "sigmoid": Operator(aten.sigmoid.default, _of(1)),
    "exp": Operator(aten.exp.default, _of(1)),
    "cos": Operator(aten.cos.default, _of(1)),
    "sin": Operator(aten.sin.default, _of(1)),
    "_softmax": Operator(aten._softmax.default, _of(1, 1, False)),
    "_softmax_backward_data": Operator(
        aten._softmax_backward_data.default, _of(2, 1, torch.float32)
    ),
    "_log_softmax": Operator(aten._log_softmax.default, _of(1, 1, False)),
    "_log_softmax_backward_data": Operator(
        aten._log_softmax_backward_data.default, _of(2, 1, torch.float32)
    ),
    "native_layer_norm": Operator(aten.native_layer_norm.default, _norm),
    "native_layer_norm_backward": Operator(aten.native_layer_norm_backward.default, _norm_backward),
    "native_dropout": Operator(aten.native_dropout.default, _of(1, 0.1, True)),
    "bernoulli_": Operator(aten.bernoulli_.float, _of(1, 0.9)),
}


def moved_bytes(operator: Operator) -> int:
    """Of one call, as the tracer counts it."""
    arguments = operator.make("meta")
    kernel = kernel_of(operator.func, arguments, {}, operator.func(*arguments), "forward", "")
    assert kernel is not None
    return kernel.moved_bytes


if __name__ == "__main__":
    die_with_parent()
    main(sys.argv[1])  # type: ignore[arg-type]  # the parent names a device
