"""The claims that LoRA rests on, a file each: what it says, the type of its evidence, and how that
is judged and said. No torch: `mathematics` measures, under the same file names."""

from typing import Final

from lora_profiler.report.claims import (
    cost,
    forward_path,
    initialisation,
    intrinsic_dimension,
    merging,
    scaling,
    update_size,
)
from lora_profiler.report.claims.claim import Claim

CLAIMS: Final[tuple[Claim, ...]] = (
    update_size.CLAIM, merging.CLAIM, forward_path.CLAIM, initialisation.CLAIM, scaling.CLAIM,
    intrinsic_dimension.CLAIM, cost.CLAIM,
)  # fmt: skip
