"""How long a step takes, for the page without a server: seconds at a few sizes on each GPU, between
which the page interpolates."""

from collections.abc import Sequence
from typing import Any

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import Gpu
from lora_profiler.memory.kernels import lumped
from lora_profiler.planning.timing import kernels_of, step_time
from lora_profiler.question.workload import Workload
from lora_profiler.steptime import constants_for, rates_of
from lora_profiler.steptime.roofline import Step, loaded, step_of
from space.peaks import resized

TOKENS = (128, 512, 1024, 2048, 8192, 65536)
"""Of a micro-batch: more where products begin to take longer than reading their weights."""
OFF = 0.15
"""How far off a time may be that is interpolated: `tests/project/test_static_page.py` holds it."""
SAMPLES = 4
"""The same tokens in so many samples show what grows with the square of the length."""
DIGITS = 3


def times_of(asked: Workload, gpus: Sequence[Gpu]) -> dict[str, Any] | None:
    """Of a way to train on `gpus`, whose kernels are those of its platform; None where the command
    has no time either.

    `steps`: micro-batches of a step; `host`: seconds to launch the kernels of one, at each of
    `TOKENS`. `gpus`, null for one of unknown speed: at each of `TOKENS` seconds on the device
    without what grows with the square of the length; seconds a token squared of that; seconds of
    the update and of what else a step does, as loading data.
    """
    timed = [gpu for gpu in gpus if rates_of(gpu)]
    if not timed or step_time(resized(asked, 1, TOKENS[-3]), timed[0]).step is None:
        return None
    try:
        whole = [_step(asked, 1, tokens) for tokens in TOKENS]
        parted = _step(asked, SAMPLES, TOKENS[-2] // SAMPLES)
    except LoraProfilerError:
        return None
    launch = constants_for(timed[0])[0].fixed.launch_seconds
    return {
        "steps": asked.setup.accumulation,
        "host": [_rounded(step.micro.launches * launch) for step in whole],
        "gpus": [_seconds(gpu, whole, parted) if rates_of(gpu) else None for gpu in gpus],
    }


def _seconds(gpu: Gpu, whole: Sequence[Step], parted: Step) -> list[float]:
    constants, rates = constants_for(gpu)[0], rates_of(gpu)
    assert rates is not None
    eta, beta = constants.eta, constants.beta
    loads = [loaded(step, rates, constants.fixed) for step in whole]
    device = [load.device_seconds(eta, beta) for load in loads]
    in_parts = loaded(parted, rates, constants.fixed).device_seconds(eta, beta)
    tokens = TOKENS[-2]
    squared = max(0.0, (device[-2] - in_parts) / (tokens**2 * (1 - 1 / SAMPLES)))
    own = [seconds - squared * n * n for seconds, n in zip(device, TOKENS, strict=True)]
    update = loads[0].update_seconds(beta) + loads[0].besides
    return [*map(_rounded, own), _rounded(squared), _rounded(update)]


def _step(asked: Workload, batch: int, length: int) -> Step:
    sized = resized(asked, batch, length)
    kernels = kernels_of(sized, "auto")
    return step_of(kernels._replace(kernels=lumped(kernels.kernels)), sized.setup)


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.{DIGITS}g}")
