"""What other kernels and older libraries ran in place of what a trace of today's shows: kernels
taken away, kernels listed.

Every rule is read from the library that it is about. None was chosen by the error that it leaves.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil

from lora_profiler.memory.kernels import Gemm, Kernel, Phase, merged

FORWARDS: tuple[Phase, ...] = ("forward", "recompute")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Tokens of the micro-batch, and the model's widths."""

    tokens: int
    hidden: int
    inner: int
    vocabulary: int
    q_width: int
    kv_width: int
    layers: int

    @property
    def logits(self) -> int:
        return self.tokens * self.vocabulary


Kernels = tuple[Kernel, ...]
Rewrite = Callable[[Kernels, Sizes], Kernels]


def rewritten(kernels: Kernels, sizes: Sizes, rewrites: Iterable[Rewrite]) -> Kernels:
    for rewrite in rewrites:
        kernels = merged(rewrite(kernels, sizes))
    return kernels


def _copy(op: str, phase: Phase, module: str, read: int, written: int, count: int = 1) -> Kernel:
    return Kernel(
        kind="memory",
        op=op,
        phase=phase,
        module=module,
        read_bytes=read,
        written_bytes=written,
        count=count,
    )


def _named(kernel: Kernel, *ends: str) -> bool:
    return re.search(rf"(?:{'|'.join(ends)})$", kernel.module) is not None


NORMS = (r"norm", r"ln_\w+")


def reentrant(kernels: Kernels, sizes: Sizes) -> Kernels:
    """Reentrant checkpointing, the Trainer's default until transformers 5, runs the whole layer
    again; the other kind stops at the last tensor that backward needs. torch
    `utils/checkpoint.py`."""
    again = [
        k._replace(phase="recompute") for k in kernels if k.phase == "forward" and ".*" in k.module
    ]
    return (*(k for k in kernels if k.phase != "recompute"), *again)


def shifted_logits(element: int) -> Rewrite:
    """transformers up to 4.48 shifts the logits, of `element` bytes: `[..., :-1, :].contiguous()`;
    backward fills zeros and copies the gradient into them."""

    def rewrite(kernels: Kernels, sizes: Sizes) -> Kernels:
        size = element * sizes.logits
        return (
            *kernels,
            _copy("clone", "forward", "", size, size),
            _copy("slice_backward", "backward", "", size, 2 * size),
        )

    return rewrite


def loss_in_16_bit(kernels: Kernels, sizes: Sizes) -> Kernels:
    """GPT-BigCode up to 4.48 gives the loss its 16-bit logits as they are."""
    found = []
    for k in kernels:
        if k.module != "" or k.kind != "memory" or k.moved_bytes < sizes.logits:
            found.append(k)
        elif k.op != "_to_copy":
            found.append(
                k._replace(read_bytes=k.read_bytes // 2, written_bytes=k.written_bytes // 2)
            )
    return tuple(found)


def outputs_in_float32(kernels: Kernels, sizes: Sizes) -> Kernels:
    """accelerate casts what a model under autocast returns, 16-bit logits among it.
    `utils/operations.py`."""
    return (*kernels, _copy("_to_copy", "forward", "", 2 * sizes.logits, 4 * sizes.logits))


def repeated_heads(kernels: Kernels, sizes: Sizes) -> Kernels:
    """Mistral's FlashAttention 2 class repeats keys and values to all heads before the kernel
    (transformers up to 4.47)."""
    few, many = 2 * sizes.tokens * sizes.kv_width, 2 * sizes.tokens * sizes.q_width
    module = "model.layers.*.self_attn"
    more = [_copy("clone", phase, module, few, many, 2 * sizes.layers) for phase in FORWARDS]
    return (*kernels, *more, _copy("sum", "backward", module, many, few, 2 * sizes.layers))


def triton_cross_entropy(element: int) -> Rewrite:
    """Unsloth's kernels in fms-acceleration: forward reads the logits, backward reads them and
    writes the gradient over them. `kernels/unsloth/cross_entropy_loss.py`."""

    def rewrite(kernels: Kernels, sizes: Sizes) -> Kernels:
        gone = {
            "_log_softmax",
            "nll_loss_forward",
            "nll_loss_backward",
            "_log_softmax_backward_data",
        }
        size = element * sizes.logits
        return (
            *(k for k in kernels if k.op not in gone),
            _copy("cross_entropy", "forward", "", size, 0),
            _copy("cross_entropy", "backward", "", size, size),
        )

    return rewrite


def attention_dropout(kernels: Kernels, sizes: Sizes) -> Kernels:
    """FlashAttention draws a byte a score where attention has dropout (`dropout.h`, `philox.cuh`):
    six integer instructions, of which an A100's multiprocessor does 64 a clock beside 2,048 FLOPs
    of its tensor cores. At the shares of the peak that attention reaches that is 26 % of a score's
    two products of 128 forward, and 8 % of its five backward."""
    more = {"attention_forward": 0.26, "attention_backward": 0.08}
    return tuple(k._replace(flops=round(k.flops * (1 + more.get(k.kind, 0)))) for k in kernels)


def fused_norms(kernels: Kernels, sizes: Sizes) -> Kernels:
    """One kernel a norm: x read, y written; backward dy and x read, dx written. What autograd adds
    to dx stays."""
    size = 2 * sizes.tokens * sizes.hidden

    def is_sum(k: Kernel) -> bool:
        return k.phase == "backward" and k.op in ("add", "add_") and k.written_bytes == size

    kept = [k for k in kernels if not _named(k, *NORMS) or is_sum(k)]
    counts = {
        phase: sum(
            k.count for k in kernels if _named(k, *NORMS) and k.op == "rsqrt" and k.phase == phase
        )
        for phase in FORWARDS
    }
    return (
        *kept,
        *(_copy("rms_norm", phase, "norm", size, size, counts[phase]) for phase in FORWARDS),
        _copy("rms_norm_backward", "backward", "norm", 2 * size, size, counts["forward"]),
    )


def fused_rope(kernels: Kernels, sizes: Sizes) -> Kernels:
    """One kernel for queries and one for keys, in place, forward and backward."""
    gone = {"mul", "neg", "cat", "add", "add_", "slice_backward"}
    kept = [k for k in kernels if not (_named(k, "self_attn") and k.op in gone)]
    passes: tuple[Phase, ...] = ("forward", "recompute", "backward")
    ran = {k.phase for k in kernels if _named(k, "self_attn")}
    widths = (2 * sizes.tokens * sizes.q_width, 2 * sizes.tokens * sizes.kv_width)
    return (
        *kept,
        *(
            _copy("rope", p, "model.layers.*.self_attn", size, size, sizes.layers)
            for p in passes
            if p in ran
            for size in widths
        ),
    )


def flash_rotation(kernels: Kernels, sizes: Sizes) -> Kernels:
    """Qwen's own code makes queries and keys float32, turns them by flash-attention's kernel, one
    for queries and one for keys, and makes them 16-bit again (`modeling_qwen.py`
    `apply_rotary_pos_emb`). The sum over chunks of c_attn stays."""
    gone, packed = {"mul", "neg", "cat", "add", "add_"}, 2 * sizes.tokens * 3 * sizes.q_width
    turns = [k for k in kernels if _named(k, "attn") and k.op in gone and k.written_bytes != packed]
    size = 4 * sizes.tokens * sizes.q_width
    return (
        *(k for k in kernels if k not in turns),
        *(
            _copy("rotary", p, "model.layers.*.attn", size, size, 2 * sizes.layers)
            for p in dict.fromkeys(k.phase for k in turns)
        ),
    )


def liger_loss(trains_head: bool) -> Rewrite:
    """Liger's fused linear cross-entropy, as fms-acceleration's plugin has it: logits a chunk at a
    time, cast to float32, the loss kernel reads them twice and writes the gradient over them, which
    is cast back, scaled and multiplied. `kernels/liger/fused_linear_cross_entropy.py`."""

    def rewrite(kernels: Kernels, sizes: Sizes) -> Kernels:
        n, h, v = sizes.tokens, sizes.hidden, sizes.vocabulary
        chunk = 1 << (ceil(n / ceil(v / h)) - 1).bit_length()
        count = ceil(n / chunk)
        kept = [
            k
            for k in kernels
            if not (k.module in ("", "lm_head") and k.moved_bytes >= sizes.logits)
        ]
        weight, rows, logits = 2 * h * v, 2 * chunk * h, chunk * v
        products = [
            _gemm("forward", chunk, v, h, rows + weight, 2 * logits, count),
            _gemm("forward", chunk, h, v, 2 * logits + weight, rows, count),
        ]
        if trains_head:
            products.append(
                _gemm("forward", v, h, chunk, 2 * logits + rows + weight, weight, count)
            )
        return (
            *kept,
            *products,
            _copy("_to_copy", "forward", "lm_head", 2 * logits, 4 * logits, count),
            _copy("cross_entropy", "forward", "lm_head", 8 * logits, 4 * logits, count),
            _copy("_to_copy", "forward", "lm_head", 4 * logits, 2 * logits, count),
            _copy("mul", "forward", "lm_head", 2 * logits, 2 * logits, count),
        )

    return rewrite


def _gemm(phase: Phase, m: int, n: int, k: int, read: int, written: int, count: int) -> Kernel:
    gemm = Gemm(m=m, n=n, k=k)
    return Kernel(
        kind="gemm",
        op="mm",
        phase=phase,
        module="lm_head",
        read_bytes=read,
        written_bytes=written,
        dtype="bfloat16",
        gemm=gemm,
        flops=gemm.flops,
        count=count,
    )


def fused_lora(kernels: Kernels, sizes: Sizes) -> Kernels:
    """Unsloth's adapters as fms-acceleration has them: no casts and copies; what the adapter makes
    is added in place; backward makes dY B and A X anew, and masks an input's gradient by where the
    dropped input is not zero. `fused_ops/unsloth_lora/{utils.py,bnb/fast_lora.py}`."""
    adapted = {k.module for k in kernels if k.gemm is not None and _is_skinny(k.gemm)}
    kept = [
        k
        for k in kernels
        if k.module not in adapted or k.kind != "memory" or k.op == "native_dropout"
    ]
    more = []
    for k in kernels:
        if k.module not in adapted or k.gemm is None:
            continue
        if k.gemm.k <= _MOST_RANK and k.phase != "backward":  # (tokens x rank) by (rank x outputs)
            more.append(
                _copy("add_", k.phase, k.module, 2 * k.written_bytes, k.written_bytes, k.count)
            )
        elif k.gemm.k <= _MOST_RANK:  # (tokens x rank) by (rank x inputs)
            inputs = k.written_bytes
            more.append(_copy("ne", "backward", k.module, inputs, inputs // 2, k.count))
            more.append(_copy("mul", "backward", k.module, inputs + inputs // 2, inputs, k.count))
            more.append(_copy("add_", "backward", k.module, 2 * inputs, inputs, k.count))
            if re.search(r"[kv]_proj$", k.module):  # the bases' gradients of q, k and v are summed
                more.append(_copy("add_", "backward", k.module, 2 * inputs, inputs, k.count))
        elif (
            k.phase == "backward" and k.gemm.n <= _MOST_RANK < k.gemm.m and k.gemm.m == sizes.tokens
        ):
            more.append(k)  # dY B once more
        elif k.phase == "forward" and k.gemm.n <= _MOST_RANK:
            more.append(k._replace(phase="backward"))  # A X once more
    return (*kept, *more)


_MOST_RANK = 64


def _is_skinny(gemm: Gemm) -> bool:
    return min(gemm.m, gemm.n, gemm.k) <= _MOST_RANK


def compiled_layers(kernels: Kernels, sizes: Sizes) -> Kernels:
    """What Inductor makes of a torchtune layer: chains of elementwise operators with one reduction
    are one kernel. The residual sum goes with the norm behind it, backward with its gradient;
    weights of norms sum over dy and x once more. The rotation of keys writes all heads, their
    gradient is summed in one; SwiGLU is one kernel, whose backward makes the product again.
    """
    x, inner = 2 * sizes.tokens * sizes.hidden, 2 * sizes.tokens * sizes.inner
    q, kv = 2 * sizes.tokens * sizes.q_width, 2 * sizes.tokens * sizes.kv_width
    passes = [p for p in FORWARDS if any(k.phase == p for k in kernels)]
    norms = {
        p: sum(k.count for k in kernels if _named(k, "norm") and k.op == "rsqrt" and k.phase == p)
        for p in FORWARDS
    }
    kept = [
        k for k in kernels if k.kind != "memory" or (".*" not in k.module and not _named(k, "norm"))
    ]
    count = sizes.layers
    return (
        *kept,
        *(_copy("add_norm", p, "norm", 2 * x, 2 * x, norms[p]) for p in passes),
        _copy("add_norm_backward", "backward", "norm", 3 * x, x, norms["forward"]),
        _copy("norm_weight_backward", "backward", "norm", 2 * x, 0, norms["forward"]),
        *(_copy("rotate", p, "self_attn", q, q, count) for p in (*passes, "backward")),
        *(_copy("rotate", p, "self_attn", kv, q, count) for p in passes),
        *(_copy("expand", p, "self_attn", kv, q, count) for p in passes),
        _copy("sum_heads", "backward", "self_attn", q, kv, 2 * count),
        *(_copy("swiglu", p, "mlp", 2 * inner, inner, count) for p in passes),
        _copy("swiglu_backward", "backward", "mlp", 3 * inner, 3 * inner, count),
    )


def compiled_chunked_loss(kernels: Kernels, sizes: Sizes) -> Kernels:
    """torchtune's chunked loss, compiled: the cast is a part of it, forward reads the 16-bit
    logits, backward writes their gradient."""
    size = 2 * sizes.logits
    gone = [
        k
        for k in kernels
        if k.module == "" and k.kind == "memory" and k.moved_bytes >= sizes.logits
    ]
    return (
        *(k for k in kernels if k not in gone),
        _copy("cross_entropy", "forward", "", size, 0),
        _copy("cross_entropy", "backward", "", size, size),
    )


def without_head(start: str) -> Rewrite:
    """A model without the head over the vocabulary, whose modules begin with `start`, and without
    the loss over its logits."""

    def rewrite(kernels: Kernels, sizes: Sizes) -> Kernels:
        rest = [k for k in kernels if not k.module.startswith(start)]
        return tuple(k for k in rest if k.module or k.moved_bytes < sizes.logits)

    return rewrite
