"""Liger-Kernel's own functions, run by Triton's interpreter on the CPU, against the stand-ins of
`features/kernels/_fused_torch.py`.

    pip install --no-deps liger-kernel==0.6.2 triton
    TRITON_INTERPRET=1 python -m benchmarks.truth.liger [--write]

Seconds; writes `results/liger.md`. What autograd keeps of each call, which results lie in an
input's place, and how far results and gradients are apart. Later releases ask numbers for a method
that the interpreter does not give them.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.pages import parser_of, write_page
from lora_profiler.features.kernels import _fused_torch as liger

EPS = 1e-6


class Seen(NamedTuple):
    """`kept`: bytes of each tensor that autograd keeps, and the input whose storage it is; `over`:
    results that lie in an input's storage; `numbers`: results and gradients."""

    kept: list[tuple[int, int | None]]
    over: list[bool]
    numbers: list[Tensor]


def seen(function: Callable[..., Any], inputs: Sequence[Tensor], trained: int) -> Seen:
    """One forward and backward pass; the first `trained` inputs are results of something that takes
    a gradient."""
    leaves = [t.clone().requires_grad_() for t in inputs[:trained]]
    given = [*(leaf * 1 for leaf in leaves), *inputs[trained:]]
    places = [t.untyped_storage().data_ptr() for t in given]
    kept: list[tuple[int, int | None]] = []

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        kept.append((tensor.nbytes, places.index(place) if place in places else None))
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        found = function(*given)
    results = found if isinstance(found, tuple) else (found,)
    over = [t.untyped_storage().data_ptr() in places for t in results]
    weights = [torch.linspace(-1, 1, t.numel()).reshape(t.shape) for t in results]
    numbers = [t.detach().clone() for t in results]
    torch.autograd.backward(list(results), weights)
    return Seen(kept, over, [*numbers, *(leaf.grad for leaf in leaves if leaf.grad is not None)])


def pairs() -> dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Tensor], int]]:
    """Name -> (Liger's function, the stand-in, inputs, how many take a gradient)."""
    import triton.language
    from liger_kernel.ops import geglu, rms_norm, rope, swiglu

    def rsqrt(x: Any) -> Any:
        """Looked up when it is called: the interpreter puts its own there, and runs no function of
        CUDA's library."""
        return triton.language.rsqrt(x)

    rms_norm.rsqrt = rsqrt
    geglu.tanh = lambda x: 2 * triton.language.sigmoid(2 * x) - 1
    torch.manual_seed(0)
    table = torch.randn(1, 7, 8).repeat(1, 1, 2)
    q, k = (torch.randn(2, 7, heads, 16).transpose(1, 2) for heads in (4, 2))
    return {
        "RMSNorm": (
            lambda x, w: rms_norm.LigerRMSNormFunction.apply(x, w, EPS, 0.0, "llama", True, None),
            lambda x, w: liger._RmsNorm.apply(x, w, EPS, False),  # type: ignore[no-untyped-call]
            [torch.randn(2, 5, 48), torch.randn(48)],
            2,
        ),
        "RMSNorm of Gemma 3": (
            lambda x, w: rms_norm.LigerRMSNormFunction.apply(x, w, EPS, 1.0, "gemma", False, None),
            lambda x, w: liger._RmsNorm.apply(x, w, EPS, True),  # type: ignore[no-untyped-call]
            [torch.randn(2, 5, 48), torch.randn(48)],
            2,
        ),
        "SwiGLU": (
            swiglu.LigerSiLUMulFunction.apply,
            lambda gate, up: liger._Glu.apply(gate, up, False),  # type: ignore[no-untyped-call]
            [torch.randn(2, 5, 112), torch.randn(2, 5, 112)],
            2,
        ),
        "GeGLU": (
            geglu.LigerGELUMulFunction.apply,
            lambda gate, up: liger._Glu.apply(gate, up, True),  # type: ignore[no-untyped-call]
            [torch.randn(2, 5, 112), torch.randn(2, 5, 112)],
            2,
        ),
        "rotary embedding": (
            rope.LigerRopeFunction.apply,
            liger._Rotary.apply,
            [q, k, table.cos(), table.sin()],
            2,
        ),
    }


def report() -> tuple[str, bool]:
    """The report, and whether all is alike."""
    lines = [
        "# Liger-Kernel's functions and their stand-ins",
        "",
        "`TRITON_INTERPRET=1 python -m benchmarks.truth.liger`: liger-kernel"
        f" {version('liger-kernel')} by the interpreter of triton",
        f"{version('triton')}, torch {torch.__version__}, on the CPU, in float32.",
        "",
        "| function | kept by both, bytes | same | results in an input's place | same | results"
        " and gradients, furthest apart |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    alike = True
    for name, (theirs, ours, inputs, trained) in pairs().items():
        real, mine = seen(theirs, inputs, trained), seen(ours, inputs, trained)
        apart = max(
            float((a - b).abs().max()) for a, b in zip(real.numbers, mine.numbers, strict=True)
        )
        alike = alike and real.kept == mine.kept and real.over == mine.over and apart < 1e-4
        kept = ", ".join(
            f"{size} ({'new' if place is None else f'input {place + 1}'})"
            for size, place in real.kept
        )
        over = ", ".join("yes" if each else "no" for each in real.over)
        lines.append(
            f"| {name} | {kept} | {real.kept == mine.kept} | {over} | {real.over == mine.over} |"
            f" {apart:.1e} |"
        )
    return "\n".join(lines) + "\n", alike


def main() -> int:
    parser = parser_of(__doc__, write=False)
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") != "1":  # read when triton is imported, which torch does
        parser.error(
            "set TRITON_INTERPRET=1: without an accelerator Triton's interpreter runs the kernels."
        )
    text, alike = report()
    print(text)
    if options.write:
        write_page("liger", text)
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main())
