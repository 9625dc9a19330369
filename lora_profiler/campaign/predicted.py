"""Where the search for the largest batch begins: at what the prediction says the device, or the
budget, holds."""

from dataclasses import replace

from lora_profiler.catalog import Gpu, match_device
from lora_profiler.harness import Case
from lora_profiler.harness.nvml import open_device
from lora_profiler.planning.largest_batch import predicted_largest_batch


def predicted_start(case: Case) -> int | None:
    """The predicted largest batch of `case`; None where the memory of the device, or the
    activations, are not known."""
    budget, setup = case.conditions.budget_bytes, case.workload.setup
    if setup.device == "cuda":
        card = _card()
        usable = budget or (card.usable_bytes if card else None)
        return (
            None
            if usable is None
            else predicted_largest_batch(case.workload, usable, card or _unknown(usable))
        )
    return None if budget is None else predicted_largest_batch(case.workload, budget)


def _card() -> Gpu | None:
    """The card that a run would take, with the memory that its driver reports."""
    with open_device() as nvml:
        name, total = nvml.name(), nvml.total_bytes()
    if total is None:
        return None
    known = match_device(name, total) if name else None
    return replace(known or _unknown(total), memory_bytes_usable=total)


def _unknown(usable_bytes: int) -> Gpu:
    return Gpu(
        key="unknown",
        name="a card",
        vendor="nvidia",
        architecture="unknown",
        memory_bytes_usable=usable_bytes,
    )
