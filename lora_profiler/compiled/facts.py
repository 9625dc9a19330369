"""The facts of a workload that a profile cannot leave open, and the smallest sizes for which they hold."""

from lora_profiler.compiled.profile import Facts, profile_key
from lora_profiler.model_spec import ModelSpec
from lora_profiler.workload import Workload

_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention", "index_topk")
RANK_COUNTS_IN_STEPS = ("adamw_8bit",)
"""Optimizers whose states come in blocks or change their form with a tensor's size: their bytes are no polynomial in the rank."""


def windows_of(model: ModelSpec) -> tuple[int, ...]:
    """Lengths at which attention changes, as far as the config names them, in tokens."""
    published = [model.config, model.published, *(v for v in model.published.values() if isinstance(v, dict))]
    found = {config.get(name) for config in published for name in _WINDOWS}
    return tuple(sorted(w for w in found if isinstance(w, int) and not isinstance(w, bool) and w > 1))


def facts_of(workload: Workload) -> Facts:
    setup = workload.setup
    fixed = setup.lora is not None and setup.optimizer in RANK_COUNTS_IN_STEPS
    return Facts(
        one_sample=setup.batch_size == 1,
        one_token=setup.seq_len == 1,
        windows_filled=tuple(setup.seq_len >= w for w in windows_of(workload.model)),
        accumulates=setup.accumulation > 1,
        rank=setup.lora.r if fixed and setup.lora else None,
    )


def key_of(workload: Workload) -> str:
    """The key of the profile that answers `workload`."""
    return profile_key(workload.model, workload.setup, facts_of(workload))


def least_sizes(facts: Facts, windows: tuple[int, ...]) -> tuple[int, int]:
    """The smallest (batch, sequence) for which `facts` hold."""
    filled = [w for w, full in zip(windows, facts.windows_filled, strict=True) if full]
    return 1 if facts.one_sample else 2, 1 if facts.one_token else max([2, *filled])


def below(facts: Facts, windows: tuple[int, ...]) -> int | None:
    """The length from which on `facts` hold no more; None where there is no such length."""
    if facts.one_token:
        return 2
    return min((w for w, full in zip(windows, facts.windows_filled, strict=True) if not full), default=None)
