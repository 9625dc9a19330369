"""`verify`: checks the claims asked for, one after the other, on one model."""

import time
from collections.abc import Callable, Mapping, Sequence

from lora_profiler.errors import UsageError
from lora_profiler.mathematics import (
    cost,
    forward_path,
    initialisation,
    intrinsic_dimension,
    merging,
    scaling,
    update_size,
)
from lora_profiler.mathematics.subject import Effort, Subject
from lora_profiler.report.claims import CLAIMS
from lora_profiler.report.claims.claim import Checked, Claim, Evidence, Tell, Watch
from lora_profiler.trace.modeling.third_party import quiet
from lora_profiler.units import bytes_text, count_text

CHECKS: Mapping[int, Callable[[Subject, Effort, int, Tell], Evidence]] = {
    1: update_size.check, 2: merging.check, 3: forward_path.check, 4: initialisation.check,
    5: scaling.check, 6: intrinsic_dimension.check, 7: cost.check,
}  # fmt: skip
_BYTES_A_PARAMETER = {True: 32, False: 16}
"""What the claims hold at most in float32: the model as it came, a copy of it, and either training
(gradients, two averages, the weights before and after, the update) or weights in float64."""


def verify(
    subject: Subject, claims: Sequence[Claim], effort: Effort, seed: int, watch: Watch
) -> list[Checked]:
    done = []
    for claim in claims:
        tell = watch.begin(claim)
        began = time.perf_counter()
        with quiet():
            evidence = CHECKS[claim.id](subject, effort, seed, tell)
        done.append(Checked(claim=claim, evidence=evidence, seconds=time.perf_counter() - began))
        watch.end(done[-1])
    return done


def check_memory(num_parameters: int, claims: Sequence[Claim], available_bytes: int | None) -> None:
    """Raises UsageError where a model is too large to be checked here, before anything is
    loaded."""
    needed = num_parameters * _BYTES_A_PARAMETER[any(claim.trains_in_full for claim in claims)]
    if available_bytes is not None and needed > available_bytes:
        light = ",".join(str(claim.id) for claim in CLAIMS if not claim.trains_in_full)
        raise UsageError(
            f"{count_text(num_parameters)} parameters need up to {bytes_text(needed)} of memory;"
            f" this machine has {bytes_text(available_bytes)}. Take a smaller model, or --claims"
            f" {light} (half)."
        )
