"""The smallest cards of the catalogue that a workload fits."""

from lora_profiler.catalog import Gpu, bundled_gpus
from lora_profiler.compiled.regime import regime_of
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.engine import engine_for_search, on_card, peak_bytes_checked
from lora_profiler.planning.reserve import held_bytes
from lora_profiler.planning.simulated import Judged
from lora_profiler.platform import Platform
from lora_profiler.prediction import Prediction

NEAR = 0.9
"""A card whose memory is below this share of the peak on the usual card is not tried: kernels of
other capabilities hold more, hardly less."""


def smallest_cards(prediction: Prediction, engine: str = "auto") -> tuple[Gpu, ...]:
    """Of NVIDIA's cards that have the arithmetic of the workload, all of the smallest memory that
    it fits, each asked about with its own kernels; empty where no single card suffices, where the
    activations are not known, and for another device than cuda.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload
        >>> from lora_profiler import find_model, predict, smallest_cards
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig()))
        >>> smallest_cards(predict(workload))[0].memory_gib_marketed
        8.0
    """
    workload = prediction.workload
    setup = workload.setup
    if prediction.saved_activation_bytes is None or setup.device != "cuda":
        return ()
    answerer, held = engine_for_search(prediction, engine), held_bytes(prediction)
    needs_bfloat16 = setup.dtype == "bfloat16" or setup.precision != "pure"
    peaks: dict[Platform, int | None] = {workload.platform: prediction.peak.total_bytes}
    room_of: dict[Platform, int] = {}  # least that was seen to suffice
    smallest: list[Gpu] = []
    for card in _by_memory():
        usable = card.usable_bytes or 0
        if smallest and card.memory_gib_marketed != smallest[0].memory_gib_marketed:
            break
        own = on_card(workload, card)
        if (needs_bfloat16 and not own.platform.has_bfloat16) or (
            usable < NEAR * prediction.peak.total_bytes
        ):
            continue
        if own.platform not in peaks:
            try:
                peaks[own.platform] = peak_bytes_checked(own, answerer)
            except LoraProfilerError:  # nobody knows the step with other kernels
                is_same = regime_of(own).kernels == regime_of(workload).kernels
                peaks[own.platform] = prediction.peak.total_bytes if is_same else None
        peak = peaks[own.platform]
        if peak is None:
            continue
        judged = Judged(own, peak, usable, card, answerer, held=held)
        room = usable - judged.bound.context_bytes
        if room >= room_of.get(own.platform, 2 * usable) or judged.verdict == "fits":
            room_of.setdefault(own.platform, room)
            smallest.append(card)
    return tuple(sorted(smallest, key=lambda card: -(card.usable_bytes or 0)))


def _by_memory() -> list[Gpu]:
    """Of one memory those with the least to use first: what suffices there suffices on the
    others."""
    known = [card for card in bundled_gpus() if card.vendor == "nvidia" and card.usable_bytes]
    return sorted(known, key=lambda card: (card.memory_gib_marketed or 0, card.usable_bytes or 0))
