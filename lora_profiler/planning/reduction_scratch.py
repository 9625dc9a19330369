"""What Adafactor's mean over the rows of a matrix takes for itself on a card, which no rule and no
trace shows: it grows with the number of multiprocessors.

torch 2.13 `aten/src/ATen/native/cuda/Reduce.cuh` (setReduceConfig, global_memory_size): blocks of
128 threads, each over 128 columns, 16 to a multiprocessor; every one of them leaves a float32 for
each of its 128 threads in every column: about a mebibyte a multiprocessor, whatever the matrix. It
is there beside one float32 copy of the matrix fewer than the rules count (transformers
`optimization.py`, Adafactor.step), so that it is the larger where that is small. On cards with
fewer threads to a multiprocessor than sm_80 and sm_90 it is less.
"""

from dataclasses import replace
from math import prod

from lora_profiler.catalog.contexts import most_multiprocessors
from lora_profiler.prediction import Prediction

_THREADS, _BLOCKS = 128, 16
WORDS = (
    "Adafactor's mean over rows takes scratch that grows with the card's multiprocessors, about"
    " 1 MiB each, which is left out."
)


def with_reductions(prediction: Prediction) -> Prediction:
    """An estimate, with the most that the scratch can add, where it may make the peak; else the
    prediction as it is."""
    setup, platform = prediction.workload.setup, prediction.workload.platform
    if setup.device != "cuda":
        return prediction
    step = max(
        (m.total_bytes for m in prediction.moments if m.moment == "optimizer_step"), default=0
    )
    blocks = _BLOCKS * most_multiprocessors(platform.capability or 0)
    if setup.lora is not None:  # narrow matrices, and one block's columns are not full
        highest = step + _THREADS * _THREADS * 4 * blocks
    else:
        copies = 2 if setup.dtype == "float32" else 4
        shapes = [w.shape for _, m in prediction.workload.model.modules() for w in m.weights]
        matrices = [(4 * prod(shape), shape[-1]) for shape in shapes if len(shape) > 1]
        counted = copies * max(size for size, _ in matrices)
        highest = (step - counted) + max(
            (copies - 1) * size + scratch_bytes(columns, blocks) for size, columns in matrices
        )
    if highest <= prediction.peak.total_bytes:
        return prediction
    bound = highest / prediction.peak.total_bytes - 1
    if prediction.exactness == "estimate":
        bound = max(bound, prediction.error_bound or 0.0)
    return replace(
        prediction,
        exactness="estimate",
        error_bound=bound,
        assumptions=(*prediction.assumptions, WORDS),
    )


def scratch_bytes(columns: int, blocks: int) -> int:
    """Of the mean over many rows of so many float32 columns, by as many blocks as a card holds."""
    across = -(-columns // _THREADS)
    return 4 * columns * _THREADS * -(-blocks // across)
