"""Single facts of a card and its software, one small function each: what the rules of prediction
and of step time rest on.

Every fact takes the device, leaves nothing behind, and returns plain numbers: bytes as ints, times
in seconds, rates per second. On a CPU those that need a caching allocator or a queue of kernels are
left out; the rest run, at a smaller size.
"""

import gc
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.card_probes import SMALLER_ON_CPU, peak_of, saved, seconds_of, sized, wait
from lora_profiler.harness.environment import environment
from lora_profiler.harness.nvml import open_device
from lora_profiler.records.locks import write_durably

Fact = Callable[[str], Any]

BACKENDS = {
    "auto": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
ATTENTION_SHAPES = ((1, 32, 8, 2048, 128), (4, 14, 2, 1024, 64), (1, 32, 32, 4096, 128))
"""Batch, heads, key/value heads, sequence, width: as in 8B Llama, 0.5B Qwen, and without grouped
heads."""
PRODUCTS = (
    (8192, 8192, 8192, "bfloat16"),
    (2048, 4096, 4096, "bfloat16"),
    (2048, 4096, 14336, "bfloat16"),
    (8192, 2048, 8192, "bfloat16"),
    (4096, 896, 4864, "bfloat16"),
    (2048, 4096, 128256, "bfloat16"),
    (2048, 4096, 16, "bfloat16"),
    (2048, 16, 4096, "bfloat16"),
    (2048, 4096, 16, "float32"),
    (2048, 16, 4096, "float32"),
    (8192, 8192, 8192, "float32"),
)
"""Rows, inner size, columns, dtype: the largest that a card can show, then layers of real models
and adapters of rank 16."""


def measure(device: str, folder: Path) -> dict[str, Any]:
    """Every fact that `device` can tell, written to `folder`/kernels.json after each; one that
    fails says how."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    with open_device() as nvml:
        idle = nvml.used_bytes() if device == "cuda" else None
        if device == "cuda":
            torch.zeros(1, device=device)
            torch.cuda.synchronize()
            used = nvml.used_bytes()
            found["context"] = {
                "idle_used_bytes": idle,
                "used_bytes": used,
                "reserved_bytes": torch.cuda.memory_reserved(),
            }
    found = {
        "environment": asdict(environment(device, command="python -m benchmarks.campaign kernels")),
        **found,
    }
    for name, fact in facts(device).items():
        began = time.perf_counter()
        try:
            found[name] = fact(device)
        except Exception as e:  # a kernel that this card or torch does not have is a fact, too
            found[name] = {"failed": f"{type(e).__name__}: {e}"[:300]}
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        write_durably(folder / "kernels.json", json.dumps(found, indent=1) + "\n")
        print(
            f"{name}: {json.dumps(found[name])[:300]} ({time.perf_counter() - began:.1f} s)",
            flush=True,
        )
    return found


def facts(device: str) -> Mapping[str, Fact]:
    """Facts by name, in the order in which they are best measured: workspaces while no product was
    made yet."""
    anywhere: dict[str, Fact] = {
        "dropout_saves": dropout_saves,
        "layer_norm_saves": layer_norm_saves,
        "attention": attention,
        "products": products,
        "copies": copies,
        "launches": launches,
    }
    if device != "cuda":
        return anywhere
    first: dict[str, Fact] = {"workspaces": workspaces}
    last: dict[str, Fact] = {
        "promotion_copies": promotion_copies,
        "cross_entropy": cross_entropy,
        "adamw": adamw,
    }
    return first | anywhere | last


# --- memory ---------------------------------------------------------------------------------------


def workspaces(device: str) -> dict[str, int]:
    """Bytes that stay allocated after the first matrix product, after its gradient, and after one
    with a bias in float32."""
    x = torch.randn(16, 16, device=device, dtype=torch.bfloat16, requires_grad=True)
    before = torch.cuda.memory_allocated()
    y = x @ x
    torch.cuda.synchronize()
    forward = torch.cuda.memory_allocated() - before - y.untyped_storage().nbytes()
    y.sum().backward()
    del y
    x.grad = None
    torch.cuda.synchronize()
    backward = torch.cuda.memory_allocated() - before - forward
    plain = torch.randn(16, 16, device=device)
    before = torch.cuda.memory_allocated()
    functional.linear(plain, plain, plain[0])
    torch.cuda.synchronize()
    return {
        "forward_bytes": forward,
        "backward_more_bytes": backward,
        "bias_more_bytes": torch.cuda.memory_allocated() - before,
    }


def dropout_saves(device: str) -> dict[str, Any]:
    """What dropout keeps for its backward pass: the mask's dtype and bytes an element."""
    x = torch.randn(sized(1 << 24, device), device=device, dtype=torch.bfloat16, requires_grad=True)
    with saved() as kept:
        functional.dropout(x, 0.1)
    return {"elements": x.numel(), "saved": kept}


def layer_norm_saves(device: str) -> list[dict[str, Any]]:
    """What a bfloat16 LayerNorm keeps: its input, and mean and deviation of each row in which
    dtype."""
    norm = nn.LayerNorm(512, device=device, dtype=torch.bfloat16)
    x = torch.randn(4, 256, 512, device=device, dtype=torch.bfloat16, requires_grad=True)
    with saved() as kept:
        norm(x)
    return kept


def promotion_copies(device: str) -> dict[str, int]:
    """Peak of bfloat16 + float32 over its start: the result alone, unless the smaller operand is
    copied first."""
    half = torch.randn(1 << 24, device=device, dtype=torch.bfloat16)
    single = torch.randn(1 << 24, device=device)
    with peak_of() as peak:
        total = half + single
    return {"result_bytes": total.untyped_storage().nbytes(), "peak_bytes": peak[0]}


def cross_entropy(device: str) -> list[dict[str, Any]]:
    """Peak and time of the loss over bfloat16 logits as transformers makes it, from logits that
    exist to their gradient."""
    rows = []
    for tokens, vocabulary in ((2048, 128256), (4096, 32000)):
        logits = torch.randn(
            tokens, vocabulary, device=device, dtype=torch.bfloat16, requires_grad=True
        )
        labels = torch.randint(0, vocabulary, (tokens,), device=device)

        def step(logits: torch.Tensor = logits, labels: torch.Tensor = labels) -> None:
            logits.grad = None
            functional.cross_entropy(logits.float(), labels).backward()

        step()
        logits.grad = None
        with peak_of() as peak:
            step()
        count = tokens * vocabulary
        seconds = seconds_of(step, device)
        rows.append(
            {
                "logits": count,
                "peak_bytes": peak[0],
                "bytes_a_logit": round(peak[0] / count, 3),
                "seconds": seconds,
            }
        )
    return rows


def adamw(device: str) -> list[dict[str, Any]]:
    """Temporaries and time of an AdamW step over 24 bfloat16 matrices, by implementation."""
    rows = []
    for implementation in ("foreach", "fused", "forloop"):
        parameters = [
            nn.Parameter(torch.randn(2048, 2048, device=device, dtype=torch.bfloat16))
            for _ in range(24)
        ]
        foreach, fused = implementation == "foreach", implementation == "fused"
        optimizer = torch.optim.AdamW(parameters, foreach=foreach, fused=fused)
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        with peak_of() as peak:
            optimizer.step()
        rows.append(
            {
                "implementation": implementation,
                "parameter_bytes": sum(p.nbytes for p in parameters),
                "peak_bytes": peak[0],
                "seconds": seconds_of(optimizer.step, device),
            }
        )
    return rows


# --- attention ------------------------------------------------------------------------------------


def attention(device: str) -> list[dict[str, Any]]:
    """What each kernel of SDPA keeps beyond queries, keys and values, its peak, and its time;
    causal, without a mask."""
    rows = []
    for dtype in ("bfloat16", "float32"):
        for shape in ATTENTION_SHAPES[: 1 if dtype == "float32" else None]:
            for name in BACKENDS:
                row: dict[str, Any] = {"kernel": name, "dtype": dtype, "shape": shape}
                try:
                    row |= _attention(device, name, getattr(torch, dtype), shape)
                except RuntimeError as e:
                    row["failed"] = str(e).partition("\n")[0][:200]
                rows.append(row)
    return rows


def _attention(
    device: str, kernel: str, dtype: torch.dtype, shape: tuple[int, int, int, int, int]
) -> dict[str, Any]:
    batch, heads, groups, length, width = shape
    length = length // SMALLER_ON_CPU if device == "cpu" else length
    q, k, v = (
        torch.randn(batch, count, length, width, device=device, dtype=dtype, requires_grad=True)
        for count in (heads, groups, groups)
    )
    backend = BACKENDS[kernel]

    def forward() -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=heads != groups
        )

    with nullcontext() if backend is None else sdpa_kernel(backend):
        with saved(besides=(q, k, v)) as kept:
            out = forward()
        found: dict[str, Any] = {"node": type(out.grad_fn).__name__, "saved": kept}
        gradient = torch.randn_like(out)
        out.backward(gradient)
        del out

        def step() -> None:
            q.grad = k.grad = v.grad = None
            forward().backward(gradient)

        if device == "cuda":
            q.grad = k.grad = v.grad = None
            with peak_of() as peak:
                step()
            found["peak_bytes"] = peak[0]
        ahead = seconds_of(forward, device)
        whole = seconds_of(step, device)
    flops = (
        2 * batch * heads * length * length * width
    )  # half of the two products, for the causal mask
    return found | {
        "forward_seconds": ahead,
        "step_seconds": whole,
        "causal_forward_flops_per_s": flops / ahead,
    }


# --- speed ----------------------------------------------------------------------------------------


def products(device: str) -> list[dict[str, Any]]:
    """FLOP/s of x @ W.T on random data."""
    rows = []
    for rows_, inner, columns, dtype in PRODUCTS:
        m, k, n = (sized(size, device) for size in (rows_, inner, columns))
        x = torch.randn(m, k, device=device, dtype=getattr(torch, dtype))
        weight = torch.randn(n, k, device=device, dtype=getattr(torch, dtype))

        def product(x: torch.Tensor = x, weight: torch.Tensor = weight) -> torch.Tensor:
            return functional.linear(x, weight)

        seconds = seconds_of(product, device)
        rows.append(
            {
                "m": m,
                "k": k,
                "n": n,
                "dtype": dtype,
                "seconds": seconds,
                "flops_per_s": 2 * m * k * n / seconds,
            }
        )
    return rows


def copies(device: str) -> dict[str, float]:
    """Bytes a second, read and written counted, of a copy and of an addition in float32."""
    x = torch.randn(sized(1 << 28, device), device=device)
    y = torch.empty_like(x)
    copied = seconds_of(lambda: y.copy_(x), device)
    added = seconds_of(lambda: torch.add(x, y, out=y), device)
    return {"copy_bytes_per_s": 2 * x.nbytes / copied, "add_bytes_per_s": 3 * x.nbytes / added}


def launches(device: str, count: int = 2000) -> dict[str, float]:
    """Seconds that the host needs to launch the smallest kernel, and that one takes from end to end
    in a long series."""
    x = torch.zeros(1, device=device)
    for _ in range(100):
        x.add_(1)
    wait(device)
    began = time.perf_counter()
    for _ in range(count):
        x.add_(1)
    launched = time.perf_counter() - began
    wait(device)
    return {
        "host_seconds": launched / count,
        "whole_seconds": (time.perf_counter() - began) / count,
    }
