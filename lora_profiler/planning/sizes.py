"""Batches and lengths around a question, and which of them fit a card: what a map of what fits is
drawn from."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from lora_profiler.catalog.gpus import Gpu
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.engine import engine_for_search, peak_bytes_checked, resized
from lora_profiler.planning.reserve import Verdict, held_bytes
from lora_profiler.planning.simulated import Judged
from lora_profiler.prediction import Prediction

BATCHES = tuple(2**n for n in range(7))
RANKS = tuple(2**n for n in range(10))
LONGEST_COLUMNS = 9
"""Lengths on a map; the longest ones that the model was made for."""
LENGTHS = tuple(2**n for n in range(7, 18))
BEYOND = 1
UNKNOWN_LENGTH = 8192
"""Up to here where a config does not say for what length its model was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeFit:
    """One batch and length: its steady-state peak and the card's verdict, both None where the
    engine has no answer."""

    batch_size: int
    seq_len: int
    peak_bytes: int | None
    verdict: Verdict | None


def size_fits(prediction: Prediction, gpu: Gpu, engine: str = "auto") -> tuple[SizeFit, ...]:
    """The workload of `prediction` at every batch and length of a grid, its own among them, by
    batch and then by length.

    Each is predicted anew. The grid ends `BEYOND` steps after the last batch and the last length
    that fit at any other. Empty where the engine does not know the activations, and for a card sold
    with several sizes.
    """
    usable, workload = gpu.usable_bytes, prediction.workload
    if usable is None or prediction.saved_activation_bytes is None:
        return ()
    answerer, held = engine_for_search(prediction, engine), held_bytes(prediction)
    rows = []
    for batch in batches(workload.setup.batch_size):
        for length in lengths(workload.setup.seq_len, workload.model.trained_length):
            try:
                setup = replace(workload.setup, batch_size=batch, seq_len=length)
                other = resized(workload, setup, answerer)
                peak = peak_bytes_checked(other, answerer)
            except LoraProfilerError:
                # a size at which other rules hold, for which there is no profile
                rows.append(
                    SizeFit(batch_size=batch, seq_len=length, peak_bytes=None, verdict=None)
                )
                continue
            verdict = Judged(other, peak, usable, gpu, answerer, held=held).verdict
            rows.append(SizeFit(batch_size=batch, seq_len=length, peak_bytes=peak, verdict=verdict))
    requested = workload.setup.batch_size, workload.setup.seq_len
    return tuple(_to_the_border(rows, *requested))


def _to_the_border(rows: Sequence[SizeFit], batch_size: int, seq_len: int) -> list[SizeFit]:
    """Without what lies far beyond the last that fits, but for the size that was asked."""
    fitting = [row for row in rows if row.verdict == "fits"]
    near = _around(
        {row.batch_size for row in rows}, {row.batch_size for row in fitting}, batch_size
    )
    short = _around({row.seq_len for row in rows}, {row.seq_len for row in fitting}, seq_len)
    return [row for row in rows if row.batch_size in near and row.seq_len in short]


def _around(sizes: Collection[int], fitting: Collection[int], requested: int) -> set[int]:
    last = max(fitting, default=0)
    beyond = sorted(size for size in sizes if size > last)[:BEYOND]
    return {*(size for size in sizes if size <= last), *beyond, requested}


def batches(batch_size: int) -> Sequence[int]:
    """Powers of two, and the one that was asked."""
    return sorted({*BATCHES, batch_size})


def lengths(seq_len: int, made_for: int | None) -> Sequence[int]:
    """Powers of two up to what the model was made for, and the one that was asked."""
    usual = [length for length in LENGTHS if length <= (made_for or UNKNOWN_LENGTH)] or [LENGTHS[0]]
    return sorted({*usual[-LONGEST_COLUMNS:], seq_len})
