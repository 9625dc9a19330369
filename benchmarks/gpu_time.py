"""How long a case takes on an H100, before any has been measured there: enough to plan a campaign
of pieces of ten minutes.

A plain sum of what a case does one after the other. The constants are guesses on the safe side, to
be replaced by `stage_seconds` of the first records: a campaign that runs goes by what its cases
really took.
"""

from lora_profiler.analytic import predict
from lora_profiler.harness import Case
from lora_profiler.harness.telemetry import MIN_BLOCK_SECONDS
from lora_profiler.workload import TrainSetup

START_SECONDS = 13.0
"""Interpreter, torch, transformers and PEFT, the context, and the exit."""
BUILD_SECONDS = 1.5
BUILD_PARAMETERS_PER_SECOND = 4e9
"""Random weights made on the card, and packed to 4 bit there."""
FLOPS_PER_SECOND = {"bfloat16": 400e12, "float16": 400e12, "float32": 40e12}
"""Whole steps at half of what a large matrix product reaches (798 TFLOP/s were seen in
bfloat16)."""
BYTES_PER_SECOND = 2e12
"""Of an optimizer that reads and writes everything that it trains; a copy was seen at 3e12."""
OPERATIONS_PER_LAYER = {"full": 150, "lora": 450, "qlora": 500}
"""Torch operations of a whole step, checkpointing left out."""
LAUNCH_SECONDS, TRACKED_SECONDS = 8e-6, 80e-6
"""What the host needs for one of them, bare and under the storage tracker."""
MEMORY_STEPS_BESIDE = 2
"""The tracked step and the forward pass that counts saved tensors."""
IDLE_SECONDS = 5.0
"""Of the energy meter, before a timing that may last long enough for it."""
WARMUP_SECONDS, TIMING_SECONDS = 1.5, 2.0
"""At least, whatever the steps take."""


def step_seconds(case: Case) -> float:
    """One optimizer step: arithmetic or launches, whichever is longer, then the optimizer."""
    prediction, setup = predict(case.workload), case.workload.setup
    assert prediction.flops is not None, "every model of the campaign is known to the predictor"
    rate = FLOPS_PER_SECOND["bfloat16" if setup.precision == "amp" else setup.dtype]
    arithmetic = prediction.flops.total / rate
    launches = _operations(setup, case.workload.model.num_layers) * LAUNCH_SECONDS
    moved = 2 * sum(
        prediction.persistent_bytes[name] for name in ("adapters", "gradients", "optimizer_states")
    )
    return setup.accumulation * max(arithmetic, launches) + moved / BYTES_PER_SECOND


def case_seconds(case: Case) -> float:
    """Wall time of the whole case, its process included."""
    step, conditions, setup = step_seconds(case), case.conditions, case.workload.setup
    build = BUILD_SECONDS + case.workload.model.num_parameters / BUILD_PARAMETERS_PER_SECOND
    tracked = (
        setup.accumulation * _operations(setup, case.workload.model.num_layers) * TRACKED_SECONDS
    )
    memory = (conditions.memory_steps + MEMORY_STEPS_BESIDE) * step + tracked
    timing = 0.0
    if conditions.min_timed_steps:
        timing = IDLE_SECONDS if conditions.max_timing_seconds >= MIN_BLOCK_SECONDS else 0.0
        timing += max(WARMUP_SECONDS, 5 * step)
        timing += min(
            conditions.max_timing_seconds, max(TIMING_SECONDS, conditions.min_timed_steps * step)
        )
    return START_SECONDS + build + memory + timing


def _operations(setup: TrainSetup, layers: int) -> int:
    return layers * OPERATIONS_PER_LAYER[setup.method] * (4 if setup.checkpointing else 3) // 3
