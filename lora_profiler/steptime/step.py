"""One optimizer step, out of the kernels of its micro-batch and the setup that says how often they
run and what the update is."""

from lora_profiler.errors import UsageError
from lora_profiler.kernels import StepKernels
from lora_profiler.steptime.roofline import Step
from lora_profiler.steptime.update import fresh_bytes, update_bytes
from lora_profiler.workload import TrainSetup


def step_of(kernels: StepKernels, setup: TrainSetup) -> Step:
    """The step of `setup`, whose micro-batch launches `kernels`.

    Raises UsageError for an optimizer whose update is not counted.
    """
    moved = update_bytes(setup, kernels.trainable)
    if moved is None:
        raise UsageError(
            f"the time of {setup.optimizer}'s update is not known; ask about adamw, adamw_8bit or"
            " sgd."
        )
    fresh = fresh_bytes(setup, kernels.trainable)
    return Step(
        micro=kernels, accumulation=setup.accumulation, update_bytes=moved, fresh_bytes=fresh
    )
