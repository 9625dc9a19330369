"""What `lora-profile bench --format json` and `compare` print, as types: what builds it is checked
against them, and the schema is made of them. Loaded for the schema alone."""

from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, get_type_hints

from lora_profiler.comparison.errors import Comparison, ErrorSummary, Metric
from lora_profiler.comparison.regressions import Change, SetupChange
from lora_profiler.records.record import Status
from lora_profiler.records.serialize import RecordFields

if TYPE_CHECKING:
    ChangeJson = Any
    SummaryJson = Any
else:  # a dataclass as JSON has it, beside what follows from it or leads it
    ChangeJson = TypedDict("ChangeJson", get_type_hints(Change) | {"is_beyond_noise": bool})
    ChangeJson.__doc__ = """A number that a case has on both sides.

    relative_change: (after - before) / before; null where it was 0 before. is_beyond_noise: bytes:
    any difference; medians: of 6 samples or more, with intervals that lie apart.
    """
    _NAMES = dict.fromkeys(("engine", "method", "family", "model", "device"), NotRequired[str])
    _ERRORS = {name: kind for name, kind in get_type_hints(ErrorSummary).items() if name != "group"}
    SummaryJson = TypedDict("SummaryJson", {"metric": Metric, "category": str, **_NAMES, **_ERRORS})
    SummaryJson.__doc__ = """Errors by metric, category and what --by names.

    n: claims; those where 0 was measured have no relative error. worst: the largest in size, with
    its sign; worst_under: the lowest below 0, worst_over: the highest above 0, null if none is.
    """


class RanksJson(TypedDict):
    """How the ranks of a record stand to each other. `imbalance` is how much lower the lowest peak
    is than the highest, as a share of it."""

    record_id: str
    peak_requested_bytes: list[int | None]
    persistent_bytes: list[int | None]
    max_peak_requested_bytes: int | None
    imbalance: float | None


class LargestBatchJson(TypedDict):
    """What bench --largest-batch proved of one model and method.

    setup: as in a workload, batch_size null. batch_size: trained in two processes, and one more ran
    out of memory; 0 if not even 1 trained. upper: the largest that trained; above batch_size only
    if not monotone: a batch trained that is larger than one that did not. emulated: a budget stood
    in for the device's memory. predicted: where the search began. record_ids: every probe, in
    order.
    """

    model: str
    setup: dict[str, Any]
    batch_size: int
    upper: int
    monotone: bool
    emulated: bool
    predicted: int | None
    record_ids: list[str]


class Refusal(TypedDict):
    """A record that nothing could predict."""

    record_id: str
    reason: str


class Outcome(TypedDict):
    """The statuses of the runs of a case that both sides have."""

    case_key: str
    before: list[Status]
    after: list[Status]


class BenchJson(TypedDict):
    """Raw samples of real runs and how predictions stand to them. Bytes are integers; what was not
    measured is null, never 0; a missing phase or category was not seen. New keys may be added under
    the same schema_version.

    ranks: one entry a record of several ranks; absent without one. largest_batches: bench
    --largest-batch. summaries, refusals: compare. against, changes, setup_changes, outcomes:
    compare --against; `against` are the records after, where `records` are those before, and
    nothing is predicted then.
    """

    schema_version: Literal["1.0"]
    records: list[RecordFields]
    comparisons: list[Comparison]
    ranks: NotRequired[list[RanksJson]]
    largest_batches: NotRequired[list[LargestBatchJson]]
    summaries: NotRequired[list[SummaryJson]]
    refusals: NotRequired[list[Refusal]]
    against: NotRequired[list[RecordFields]]
    changes: NotRequired[list[ChangeJson]]
    setup_changes: NotRequired[list[SetupChange]]
    outcomes: NotRequired[list[Outcome]]
