"""A verdict by the simulated allocator, where a tape of the step is at hand."""

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from lora_profiler.catalog.gpus import Gpu
from lora_profiler.planning.reserve import Reserve, Verdict, judge, reserve_for
from lora_profiler.support.engines import profile_unsupported_reason
from lora_profiler.workload import Workload

if TYPE_CHECKING:
    from lora_profiler.compiled.trials import Trials

SURE = 2
"""With so many times the bound on fragmentation to spare nothing is simulated."""
PART = 200
"""Of the peak: how finely the reserve is told."""


class Judged:
    """The verdict on one workload, whose peak is `peak` bytes, `held` of them through every step,
    on `gpu`, of which a program can have `usable` bytes.

    'fits' where the simulated allocator completes its steps with the context at its most; 'tight'
    where the tensors and the context at its least would have room, so that only expandable segments
    or luck would do; else 'does_not_fit'. Without a tape a bound stands for the allocator: see
    `reserve.judge`. `engine` "analytic" has none. `trials` are of what the allocator is asked for,
    where that is known already.
    """

    def __init__(
        self,
        workload: Workload,
        peak: int,
        usable: int,
        gpu: Gpu,
        engine: str = "auto",
        trials: "Trials | None" = None,
        held: int = 0,
    ) -> None:
        self._workload, self._peak, self._usable = workload, peak, usable
        self._engine, self._known = engine, trials
        self.bound = reserve_for(gpu, peak, held)
        """The reserve with a bound on fragmentation, at once."""
        self._by_bound = judge(peak, usable, gpu, held)

    @cached_property
    def verdict(self) -> Verdict:
        spare = self._usable - self._peak - self.bound.total_bytes
        is_sure = spare >= (SURE - 1) * self.bound.fragmentation_bytes
        if is_sure or self._by_bound == "does_not_fit" or self._trials is None:
            return self._by_bound
        room = self._usable - self.bound.context_bytes
        return "fits" if self._trials.completes(room) else "tight"

    @property
    def has_tape(self) -> bool:
        """Whether there is something to simulate."""
        return self._trials is not None

    @cached_property
    def reserve(self) -> Reserve:
        """What the verdict rests on: the least of a run that does not fit; else with what the
        simulated allocator needs, by bisection to a part of the peak, or the bound where no tape is
        at hand."""
        if self.verdict == "does_not_fit":
            return self.bound.least
        if self._trials is None:
            return self.bound
        from lora_profiler.compiled.allocator import GRAIN

        room = self._usable - self.bound.context_bytes
        is_fitting = self.verdict == "fits"
        card = self._trials.smallest_capacity(max(GRAIN, self._peak // PART))
        if is_fitting:
            card = min(card, room)  # on which it was seen to complete
        needed = card - self._peak - self.bound.workspace_bytes
        return replace(self.bound, fragmentation_bytes=max(0, needed), is_simulated=True)

    @cached_property
    def _trials(self) -> "Trials | None":
        return self._known or _trials(self._workload, self._engine)


def _trials(workload: Workload, engine: str) -> "Trials | None":
    """Of what `workload` asks the allocator for; None where no tape is at hand."""
    if (
        engine == "analytic"
        or workload.setup.device != "cuda"
        or profile_unsupported_reason(workload)
    ):
        return None
    from lora_profiler.compiled.requests import trials_for

    return trials_for(workload)
