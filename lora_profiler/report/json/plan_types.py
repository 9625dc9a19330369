"""What `lora-profile plan --format json` prints without --cluster, as types: what builds it is
checked against them, and the schema is made of them. Loaded for the schema alone."""

from typing import Literal, TypedDict

from lora_profiler.planning.plan import Bound
from lora_profiler.planning.planned import Counts, Goal, Interval, Refused
from lora_profiler.records.serialize import SetupFields
from lora_profiler.report.json.predict_types import TrainerJson
from lora_profiler.steptime.predict import Basis


class ModelPart(TypedDict):
    id: str
    num_parameters: int


class PriceJson(TypedDict):
    """Of one card's hour. `date`, `provider` and addresses are empty for a price of the user's."""

    per_hour: float
    currency: str
    date: str
    provider: str
    source: str
    read_from: str


class OfferJson(TypedDict):
    """Cards that could be had, up to machines times cards_each."""

    gpu: str
    machines: int
    cards_each: int
    price: PriceJson | None
    interconnect: str | None


class AmountJson(TypedDict):
    """`tokens` of the whole data; null with data, of which there are `num_samples`, and where
    nobody says: times are then of a million tokens."""

    tokens: int | None
    num_samples: int | None
    epochs: float


class SearchedJson(TypedDict):
    effective_batch: int
    ranks: list[int]
    max_hours: float | None
    max_cost: float | None


class TimeJson(TypedDict):
    """Of an optimizer step, on average over the data. `sending_seconds` is null where no link is
    known. `share_of_host`: of a micro-batch's time, what launching its kernels alone would take."""

    step_seconds: Interval
    compute_seconds: float
    sending_seconds: float | None
    share_of_host: float
    basis: Basis


class RunJson(TypedDict):
    """One run: `worst_batch_size` rows of `worst_seq_len` tokens are the batch that `peak_bytes` is
    of. `headroom_bytes` are left on each card beside peak and reserve. `command` asks about it."""

    gpu: str
    machines: int
    cards_each: int
    setup: SetupFields
    worst_batch_size: int
    worst_seq_len: int
    peak_bytes: int
    headroom_bytes: int
    headroom_share: float
    trained_parameters: int
    steps: float
    time: TimeJson | None
    hours: Interval | None
    cost: Interval | None
    command: str


class BindingJson(TypedDict):
    kind: Bound
    without_memory_seconds: float | None


class NeighbourJson(TypedDict):
    """The quickest run of the recommended method and rank with another number of its cards."""

    cards: int
    run: RunJson | None


class RecommendedJson(TypedDict):
    goal: Goal
    run: RunJson
    binding: BindingJson | None
    neighbours: list[NeighbourJson]


class PlanJson(TypedDict):
    """`recommended` is null where nothing fits or nothing is within the limits: `nearest` then says
    in a sentence what would do. `front`: the quickest first."""

    schema_version: Literal["1.0"]
    model: ModelPart
    trainer: TrainerJson | None
    offers: list[OfferJson]
    amount: AmountJson
    searched: SearchedJson
    recommended: RecommendedJson | None
    nearest: str | None
    front: list[RunJson]
    unknown: list[Refused]
    counts: Counts
