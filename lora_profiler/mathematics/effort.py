"""How much is run: the sizes that buy certainty with time."""

from dataclasses import dataclass
from typing import Literal

SMALL_PARAMETERS = 10_000_000
"""A model with fewer is fed more tokens a step, which costs it little, and learns at a higher rate,
as narrow models do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Sizes of a run. A step is one optimizer step on `batch_size` x `seq_len` tokens.

    check_tokens: on which layers are compared with their formula. held_out_batches: on which losses
    are measured. merge_steps: that give the adapters of claims 2 and 3 something to add.
    timed_calls: of a layer. scaling_learning_rate: at which claim 5 trains every rank.
    learning_rates: that it tries at its outermost ranks. full_learning_rate, lora_learning_rate: of
    claim 6. cost_memory_steps: that claim 7 watches the allocator for. cost_steps, cost_seconds: of
    its timing.
    """

    name: Literal["quick", "full"]
    batch_size: int
    seq_len: int
    check_tokens: int
    held_out_batches: int
    merge_steps: int
    timed_calls: int
    scaling_ranks: tuple[int, ...]
    scaling_steps: int
    scaling_learning_rate: float
    learning_rates: tuple[float, ...]
    tuning_ranks: tuple[int, ...]
    tuning_steps: int
    full_learning_rate: float
    lora_learning_rate: float
    cost_dtypes: tuple[Literal["float32", "bfloat16"], ...]
    cost_memory_steps: int
    cost_steps: int
    cost_seconds: float


SMALL_MODEL_STEPS = {True: 150, False: 600}
"""Of training the small model that stands in where there are no weights; True is quick."""


def effort_for(num_parameters: int, *, quick: bool) -> Effort:
    """What is run on a model of that many parameters: minutes on two cores, or under two minutes
    with `quick`."""
    is_small = num_parameters < SMALL_PARAMETERS
    powers = (1, 2, 4, 8, 16, 32, 64, 128)
    return Effort(
        name="quick" if quick else "full",
        batch_size=8 if is_small else 1,
        seq_len=64 if quick else 128,
        check_tokens=32 if quick else 128,
        held_out_batches=2 if quick else 6,
        merge_steps=3 if quick else 10,
        timed_calls=10 if quick else 30,
        scaling_ranks=(1, 8, 64) if quick else powers,
        scaling_steps=3 if quick else 12,
        scaling_learning_rate=1e-3 if is_small else 3e-4,
        learning_rates=() if quick else (3e-4, 1e-3, 3e-3, 1e-2),
        tuning_ranks=(1, 8) if quick else powers,
        tuning_steps=8 if quick else 30,
        full_learning_rate=1e-3 if is_small else 1e-4,
        lora_learning_rate=5e-3 if is_small else 1e-3,
        cost_dtypes=("float32",) if quick else ("float32", "bfloat16"),
        cost_memory_steps=2,
        cost_steps=3 if quick else 5,
        cost_seconds=6.0 if quick else 20.0,
    )
