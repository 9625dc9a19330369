"""Public measurements of memory, each predicted with the libraries and kernels that ran it
replayed; how far off the predicted peaks were; and the measured peak nearest to a question.

No constant was fitted to any of them.
"""

from collections.abc import Mapping
from functools import cache
from math import log
from typing import Literal, NamedTuple

from lora_profiler.facts.evidence.documents import document
from lora_profiler.question.workload import FULLY_SHARDED, Method, Workload

Reading = Literal["peak", "at rest", "after the update", "reserved"]
"""What a counter counted: the allocator's peak, what is allocated between steps or after an update,
what is reserved."""


class MeasuredMemory(NamedTuple):
    """One counter of one run, in bytes of one card; `cards` of them shared the model where there
    are several.

    `card` by its key, `parameters` and `model_type` of the model, `batch_size` and `seq_len` of a
    micro-batch. `stack` is what was replayed, `tier` 1 where all conditions are published, 2 where
    one or two are inferred. `apart` is why the row is no test, "" for one that is; `why` what is
    known of an error beyond the interval, else "". `url` is where it was published, `source` the
    first part of the id.
    """

    id: str
    source: str
    model: str
    model_type: str
    parameters: int
    method: Method
    checkpointing: bool
    batch_size: int
    seq_len: int
    card: str
    cards: int
    reading: Reading
    stack: str
    tier: int
    measured_bytes: int
    predicted_bytes: int
    apart: str
    why: str
    url: str

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return (self.predicted_bytes - self.measured_bytes) / self.measured_bytes

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return self.batch_size * self.seq_len

    @property
    def is_graded(self) -> bool:
        """The counter is exact, and the stack was known without the row."""
        return not self.apart and self.reading != "reserved"


class SourceShare(NamedTuple):
    """Of `rows` peaks of one source, `inside` lay within `half_width`, which the other sources'
    errors gave."""

    rows: int
    inside: int
    half_width: float


Description = Literal["exactly", "nearly", "not"]
"""How well options describe a run: all that ran, all but the versions of its libraries at least, or
not, as where kernels ran that no option names."""


class CommandShare(NamedTuple):
    """Of `rows` public peaks that options describe as well, asked of the command without a replay,
    nine in ten lay within `half_width` of the measured one, where each source weighs the same;
    `worst` is the largest error, signed.

    Tested on rows that did not set it: of the peaks, each against the errors of all sources but
    its own that options describe as well, `inside` were within; of a source that is the only one
    `by_source` says nothing.
    """

    rows: int
    half_width: float
    worst: float
    inside: int
    by_source: Mapping[str, SourceShare]


class Interval(NamedTuple):
    """How far off predicted peaks are: within `half_width` of the measured one, as a share of it,
    with a probability of `nominal` for a row like the graded ones.

    The split-conformal quantile of their absolute errors (Vovk, Gammerman and Shafer, Algorithmic
    Learning in a Random World, 2005), where each source weighs the same, whatever rows it has
    (Dunn, Wasserman and Ramdas, Distribution-Free Prediction Sets for Two-Layer Hierarchical
    Models, 2022). Tested on rows that did not set it: of `rows` peaks, each
    against the errors of all sources but its own, `inside` were within; `low` and `high` are the 95
    % binomial interval of that share. `worst` is the largest error, signed.
    """

    nominal: float
    half_width: float
    rows: int
    inside: int
    low: float
    high: float
    worst: float
    by_source: Mapping[str, SourceShare]


@cache
def measured_memory() -> tuple[MeasuredMemory, ...]:
    return tuple(MeasuredMemory(**row) for row in document("memory")["rows"])


@cache
def interval() -> Interval:
    data = document("memory")["interval"]
    shares = {source: SourceShare(**share) for source, share in data["by_source"].items()}
    return Interval(**{**data, "by_source": shares})


@cache
def command_shares() -> Mapping[Description, CommandShare]:
    """By description; those without a row are left out."""
    shares = document("command")["by_description"]
    return {
        description: CommandShare(
            **{**share, "by_source": {s: SourceShare(**of) for s, of in share["by_source"].items()}}
        )
        for description, share in shares.items()
    }


def nearest_peak(workload: Workload) -> MeasuredMemory:
    """The measured peak that is most like the workload: on several cards where they share its
    weights, else on one.

    Of the same method first, then with checkpointing or without as asked, then of the same model
    type, wherever there is such a row; of those the one whose parameters and tokens of a
    micro-batch are the fewest times larger or smaller. Of equals the first, and rows whose
    conditions are all published stand first. Rows that are no test count: they say so.
    """
    setup, model = workload.setup, workload.model
    tokens = setup.batch_size * setup.seq_len

    def distance(row: MeasuredMemory) -> tuple[bool, bool, bool, float]:
        times = abs(log(row.parameters / model.num_parameters)) + abs(log(row.tokens / tokens))
        return (
            row.method != setup.method,
            row.checkpointing != setup.checkpointing,
            row.model_type != model.model_type,
            times,
        )

    shared = setup.sharding in FULLY_SHARDED
    return min(
        (row for row in measured_memory() if row.reading == "peak" and (row.cards > 1) == shared),
        key=distance,
    )
