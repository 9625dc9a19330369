"""A plan as the JSON of `lora-profile plan --format json` without --cluster, and its types."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, TypedDict

from lora_profiler.facts.stacks import Trainer
from lora_profiler.measuring.records.serialize import SetupFields
from lora_profiler.planning.plan import Binding, TrainingPlan
from lora_profiler.planning.planned import Counts, EstimateRange, Goal, PlannedRun, Refused
from lora_profiler.question.workload import Method, setup_dict
from lora_profiler.report.decision.plan import miss_words, names_of, nothing_sentence, run_command
from lora_profiler.report.json import SCHEMA_VERSION, part, payload_schema
from lora_profiler.report.json.predict import TrainerJson
from lora_profiler.report.setup_words import trainer_dict
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

    step_seconds: EstimateRange
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
    hours: EstimateRange | None
    cost: EstimateRange | None
    command: str


class NeighbourJson(TypedDict):
    """The quickest run of the recommended method and rank with another number of its cards."""

    cards: int
    run: RunJson | None


class RecommendedJson(TypedDict):
    goal: Goal
    run: RunJson
    binding: Binding | None
    neighbours: list[NeighbourJson]


class MethodJson(TypedDict):
    """The best run of a method for the goal, within the limits if any is; null where none fits:
    `nearest` then says by how much, and what would do."""

    method: Method
    run: RunJson | None
    nearest: str | None


class PlanJson(TypedDict):
    """`recommended` is null where nothing fits or nothing is within the limits: `nearest` then says
    in a sentence what would do. `methods`: one for each method asked for. `front`: the quickest
    first."""

    schema_version: Literal["1.0"]
    model: ModelPart
    trainer: TrainerJson | None
    offers: list[OfferJson]
    amount: AmountJson
    searched: SearchedJson
    recommended: RecommendedJson | None
    nearest: str | None
    methods: list[MethodJson]
    front: list[RunJson]
    unknown: list[Refused]
    counts: Counts


def plan_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `plan --format json` prints without --cluster.

    Examples:
        >>> from lora_profiler.report.json.plan import plan_schema
        >>> plan_schema()["type"]
        'object'
    """
    return payload_schema(PlanJson, title="lora-profile plan --format json")


def plan_payload(
    plan: TrainingPlan, trainer: Trainer | None = None, more: Sequence[str] = ()
) -> PlanJson:
    """The whole document; bytes are integers, what is not known is null. `more` as in
    `report.decision.plan.plan_blocks`."""
    first, data = plan.offers[0].workloads[0], plan.amount.data
    recommended, names = plan.recommended, names_of(plan)
    return part(
        PlanJson,
        plan,
        schema_version=SCHEMA_VERSION,
        model=part(ModelPart, first.model),
        trainer=trainer_dict(trainer, first),
        offers=[
            part(
                OfferJson,
                offer,
                offer.cluster,
                gpu=offer.gpu.key,
                interconnect=offer.network.key if offer.network else None,
            )
            for offer in plan.offers
        ],
        amount=part(
            AmountJson, plan.amount, num_samples=data.lengths.num_samples if data else None
        ),
        searched=part(SearchedJson, plan.space, plan.budget),
        recommended=part(
            RecommendedJson,
            plan,
            run=_run(recommended, more),
            neighbours=[
                part(NeighbourJson, each, run=_run(each.run, more) if each.run else None)
                for each in plan.neighbours
            ],
        )
        if recommended
        else None,
        nearest=nothing_sentence(plan) if recommended is None else None,
        methods=[
            part(
                MethodJson,
                each,
                run=_run(each.run, more) if each.run else None,
                nearest=None if each.run else miss_words(each, names),
            )
            for each in plan.methods
        ],
        front=[_run(run, more) for run in plan.front],
    )


def _run(run: PlannedRun, more: Sequence[str]) -> RunJson:
    worst, time = run.worst.setup, run.time
    return part(
        RunJson,
        run,
        run.cluster,
        gpu=run.cluster.gpu.key,
        setup=setup_dict(run.setup),
        worst_batch_size=worst.batch_size,
        worst_seq_len=worst.seq_len,
        trained_parameters=run.trained,
        time=part(TimeJson, time, step_seconds=asdict(time.step)) if time else None,
        command=run_command(run, more),
    )
