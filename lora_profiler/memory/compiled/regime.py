"""The regime of a workload: what a profile cannot leave open, and the smallest sizes for which it
holds."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from lora_profiler.memory.compiled.profile import Regime, profile_key
from lora_profiler.memory.compiled.tape import LEAST_UNITS, Layout
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.optimizers import counts_in_steps
from lora_profiler.question.support.sdpa import (
    MASK_ALIGNMENT,
    SdpaCall,
    cuda_backend,
    efficient_keeps_seeds,
    efficient_takes_grouped,
    repeats_for_math,
)
from lora_profiler.question.workload import Dtype, Workload

_OF_STATES = re.compile(r"mamba_|ssm_|linear_(num|key|value|conv)")
_WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "local_attention",
    "index_topk",
)


@lru_cache(maxsize=256)
def windows_of(model: ModelSpec) -> tuple[int, ...]:
    """Lengths at which attention changes, as far as the config names them, in tokens."""
    published = [
        model.config,
        model.published,
        *(v for v in model.published.values() if isinstance(v, dict)),
    ]
    windows = {
        value // (2 if name == "local_attention" else 1)  # ModernBERT's, of both sides
        for config in published
        for name in _WINDOWS
        if isinstance(value := config.get(name), int)
    }
    return tuple(sorted(w for w in windows if w > 1))


CUDNN = ("cudnn", "cudnn")
"""Of a regime: for calls without a mask and with one."""


def under_flash(regime: Regime) -> Regime | None:
    """The regime under flash attention; None of one that has other kernels than cuDNN's."""
    return regime._replace(kernels=()) if regime.kernels == CUDNN else None


def regime_of(workload: Workload) -> Regime:
    setup = workload.setup
    fixed = setup.lora is not None and counts_in_steps(setup)
    return Regime(
        one_sample=setup.batch_size == 1,
        one_token=setup.seq_len == 1,
        windows_filled=tuple(setup.seq_len >= w for w in windows_of(workload.model)),
        accumulates=setup.accumulation > 1,
        rank=setup.lora.r if fixed and setup.lora else None,
        kernels=_kernels(workload),
        padded=setup.is_padded,
        unaligned=setup.seq_len % MASK_ALIGNMENT > 0 and pads_masks(workload),
        length=setup.seq_len if walks_over_tokens(workload.model) else None,
    )


@lru_cache(maxsize=256)
def walks_over_tokens(model: ModelSpec) -> bool:
    """Whether layers take tokens in chunks, one after the other or padded to whole ones: state
    spaces and linear attention. How many there are is the number of events of a trace, or a size
    that is rounded up, so that a length stays what it was."""
    kinds = model.config.get("layer_types") or ("mamba",)
    is_built = any("mamba" in kind or "linear" in kind for kind in kinds)
    return is_built and any(_OF_STATES.match(name) for name in model.config)


def one_of_each_regime(workload: Workload) -> Iterator[Workload]:
    """The workload at one size for each regime: one sample or several, windows that the sequence
    fills or does not, rows of masks that are padded or not. Of layers that walk over tokens, whose
    traces are long, the workload alone."""
    if walks_over_tokens(workload.model):
        yield workload
        return
    examples: dict[Regime, Workload] = {}
    firsts = (2, *windows_of(workload.model))
    lengths = [seq for first in firsts for seq in range(first, first + MASK_ALIGNMENT)]
    for batch in (1, 2):
        for seq in lengths:
            sized = replace(workload.setup, batch_size=batch, seq_len=seq)
            example = replace(workload, setup=sized)
            examples.setdefault(regime_of(example), example)
    yield from examples.values()


def pads_masks(workload: Workload) -> bool:
    """Whether the efficient kernel gets a mask, of padding, of a filled window, of ALiBi or of
    T5's relative positions, whose rows are padded to a multiple of `MASK_ALIGNMENT`."""
    setup, model = workload.setup, workload.model
    is_masked = (
        setup.is_padded
        or any(setup.seq_len >= window for window in windows_of(model))
        or bool(model.config.get("alibi"))
        or "relative_attention_num_buckets" in model.config
    )
    if not is_masked or setup.device != "cuda" or setup.attention in ("eager", "math", "cudnn"):
        return False
    chosen = kernel_choice(workload, workload.platform).masked
    return setup.attention != "auto" or "efficient" in chosen


def _kernels(workload: Workload) -> tuple[str, ...]:
    """What the platform's choice of attention kernels is, empty where it is that of the usual one.

    A config that does not tell the width of its heads is asked about usual widths; more keys than
    needed cost traces, no truth.
    """
    setup, platform, usual = workload.setup, workload.platform, Platform()
    if platform == usual or setup.device != "cuda" or setup.attention not in ("auto", "efficient"):
        return ()
    if setup.attention == "efficient":
        return (
            ("grouped",)
            if efficient_takes_grouped(platform) != efficient_takes_grouped(usual)
            else ()
        )
    chosen = kernel_choice(workload, platform)
    if chosen == kernel_choice(workload, usual):
        return ()
    names = ["/".join(dict.fromkeys(kind)) for kind in (chosen.plain, chosen.masked)]
    return (*names, *(("seeds",) if chosen.seeds else ()))


class KernelChoice(NamedTuple):
    """Names of attention's kernels, without a mask and with one; `seeds` where the efficient one
    keeps its seed and offset on the card."""

    plain: tuple[str, ...]
    masked: tuple[str, ...]
    seeds: bool


def kernel_choice(workload: Workload, platform: Platform) -> KernelChoice:
    """What `platform` takes for the calls of `workload`."""
    setup = workload.setup
    dtype = setup.lowered_dtype or setup.dtype
    return _kernel_choice(workload.model, dtype, platform, repeats_for_math(setup))


@lru_cache(maxsize=256)
def _kernel_choice(
    model: ModelSpec, dtype: Dtype, platform: Platform, repeats: bool
) -> KernelChoice:
    """The same for every batch and length. `repeats`: heads, rather than take the math kernel."""
    config = model.config
    dropout = next((config[name] for name in _DROPOUTS if config.get(name)), 0.0)
    call = SdpaCall(dtype=dtype, head_dim=0, value_dim=0, dropout=dropout)
    calls = [call._replace(head_dim=width, value_dim=value) for width, value in _widths(config)]
    plain = [cuda_backend(call._replace(grouped=True), platform) for call in calls]
    if repeats:
        both = zip(plain, calls, strict=True)
        plain = [cuda_backend(c, platform) if kernel == "math" else kernel for kernel, c in both]
    masked = [cuda_backend(call._replace(masked=True), platform) for call in calls]
    seeds = "efficient" in (*plain, *masked) and efficient_keeps_seeds(platform, dropout)
    return KernelChoice(tuple(plain), tuple(masked), seeds)


_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate")
"""What configs call the dropout of attention's weights."""
_USUAL_WIDTHS = ((64, 64), (128, 128), (256, 256), (192, 128))


def _widths(config: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """(q and k, v): features of a head, as the config says."""
    if config.get("qk_nope_head_dim") and config.get("v_head_dim"):
        return (
            (config["qk_nope_head_dim"] + config.get("qk_rope_head_dim", 0), config["v_head_dim"]),
        )
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    width = config.get("head_dim") or (
        hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else None
    )
    return ((width, width),) if isinstance(width, int) else _USUAL_WIDTHS


def key_of(workload: Workload) -> str:
    """The key of the profile that answers `workload`."""
    return profile_key(workload.model, workload.setup, regime_of(workload))


def least_sizes(regime: Regime, windows: tuple[int, ...]) -> tuple[int, int]:
    """The smallest (batch, sequence) for which `regime` holds."""
    filled = [w for w, full in zip(windows, regime.windows_filled, strict=True) if full]
    return 1 if regime.one_sample else 2, 1 if regime.one_token else max([2, *filled])


def below(regime: Regime, windows: tuple[int, ...]) -> int | None:
    """The length from which on `regime` holds no more; None where there is no such length."""
    if regime.one_token:
        return 2
    return min(
        (w for w, full in zip(windows, regime.windows_filled, strict=True) if not full),
        default=None,
    )


def valid_sizes(
    regime: Regime,
    windows: tuple[int, ...],
    layout: Layout | None,
    num_layers: int,
    *,
    has_rank: bool,
) -> dict[str, tuple[int, int | None]]:
    """The smallest and the largest sizes that a profile answers for, None for no end."""
    batch, seq = least_sizes(regime, windows)
    beyond = below(regime, windows)
    return {
        "batch_size": (batch, 1 if regime.one_sample else None),
        "seq_len": (regime.length or seq, regime.length or (beyond and beyond - 1)),
        "rank": (regime.rank, regime.rank) if regime.rank else (1, None if has_rank else 1),
        "num_layers": (
            (num_layers, num_layers) if layout is None else (layout.layers(LEAST_UNITS), None)
        ),
    }
