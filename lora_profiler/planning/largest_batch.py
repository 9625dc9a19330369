"""The largest batch that the prediction allows: where a search that really trains begins."""

from dataclasses import replace

from lora_profiler.planning.engine import peak_bytes, predict
from lora_profiler.planning.fit import Card, judge, largest
from lora_profiler.workload import Workload


def predicted_largest_batch(
    workload: Workload, usable_bytes: int, card: Card | None = None
) -> int | None:
    """The largest micro-batch whose predicted peak, with what `card` needs besides, stays within
    `usable_bytes`; 0 if not even 1.

    Without a card the peak alone counts, as on a CPU with a budget. None where the engine does not
    know the activations.
    """
    if predict(workload).saved_activation_bytes is None:
        return None

    def fits(size: int) -> bool:
        peak = peak_bytes(replace(workload, setup=replace(workload.setup, batch_size=size)))
        return peak <= usable_bytes if card is None else judge(peak, usable_bytes, card) == "fits"

    return largest(fits, guess=workload.setup.batch_size)
