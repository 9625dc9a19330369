"""A plan by trying everything: every layout on every number of cards, each asked of the public
predictors alone, with nothing shared, bounded or left out. What `make_plan` is held against."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from lora_profiler import (
    Amount,
    LoraProfilerError,
    Prediction,
    Space,
    TrainSetup,
    UsageError,
    Workload,
    predict,
    step_time,
)
from lora_profiler.planning.over_data import mean_timing, worst_batch
from lora_profiler.planning.pareto import Objectives, dominates
from lora_profiler.planning.placement import communication
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.planned import Offer
from lora_profiler.planning.reserve import held_bytes, judge, reserve_for
from lora_profiler.question.batching.batches import Batches
from lora_profiler.question.workload import Sharding

SHARDINGS: tuple[Sharding, ...] = ("ddp", "zero1", "fsdp", "fsdp-no-reshard")


@dataclass(frozen=True)
class Tried:
    """One way on all of so many cards, and what it comes to."""

    card: str
    setup: TrainSetup
    hours: float
    cost: float | None
    objectives: Objectives


def every_setup(asked: TrainSetup, space: Space, world: int) -> Iterator[TrainSetup]:
    """Of one method; what does not go together is no setup."""
    each = space.effective_batch // world
    for rank, micro, checkpointing, loss, optimizer, sharding in product(
        space.ranks if asked.lora else (None,),
        [n for n in range(1, each + 1) if each % n == 0],
        (False, True),
        ("plain", "fused"),
        ("adamw", "adamw_8bit"),
        SHARDINGS if world > 1 else ("none",),
    ):
        try:
            yield replace(
                asked,
                lora=replace(asked.lora, r=rank) if asked.lora and rank else None,
                batch_size=micro,
                accumulation=each // micro,
                checkpointing=checkpointing,
                loss=loss,  # type: ignore[arg-type]  # both are
                optimizer=optimizer,  # type: ignore[arg-type]  # both are
                world_size=world,
                sharding=sharding,
            )
        except UsageError:
            continue


def try_everything(
    offers: Sequence[Offer], amount: Amount, space: Space, worlds: Sequence[int]
) -> list[Tried]:
    """All that fits, of offers of linked cards. 8-bit AdamW stands where AdamW fits in no layout of
    a method, rank and number of cards."""
    found: list[Tried] = []
    for offer in offers:
        for world, asked in product(worlds, offer.workloads):
            if world > offer.cluster.cards:
                continue
            by_rank: dict[int, list[Tried]] = {}
            for setup in every_setup(asked.setup, space, world):
                tried = _tried(replace(asked, setup=setup), offer, amount)
                if tried is not None:
                    by_rank.setdefault(setup.lora.r if setup.lora else 0, []).append(tried)
            for rank in by_rank.values():
                found += [t for t in rank if t.setup.optimizer == "adamw"] or rank
    return found


def _tried(workload: Workload, offer: Offer, amount: Amount) -> Tried | None:
    setup, gpu = workload.setup, offer.gpu
    usable = gpu.usable_bytes or 0
    batches = amount.data.batches(setup) if amount.data else None
    try:
        worst = worst_batch(workload, batches) if batches else workload
        prediction = predict(worst, may_trace=False)
    except LoraProfilerError:
        return None
    peak = prediction.peak.total_bytes
    if judge(peak, usable, gpu, held_bytes(prediction)) != "fits":
        return None
    seconds = _step_seconds(workload, prediction, offer, batches)
    hours = seconds * _steps(setup, amount, batches) / 3600
    cost = hours * setup.world_size * offer.price.per_hour if offer.price else None
    objectives = Objectives(
        card=gpu.key,
        cards=setup.world_size,
        seconds=_rounded(hours * 3600),
        card_seconds=_rounded(hours * 3600 * setup.world_size),
        cost=None if cost is None else _rounded(cost),
        headroom_share=(usable - peak - reserve_for(gpu, peak, held_bytes(prediction)).total_bytes)
        / usable,
        trained=prediction.parameters.trainable,
        concessions=(setup.quantization is not None) + (setup.optimizer == "adamw_8bit"),
    )
    return Tried(gpu.key, setup, hours, cost, objectives)


def _rounded(value: float) -> float:
    """Sums in another order differ in the last digits."""
    return float(f"{value:.9g}")


def _step_seconds(
    workload: Workload, worst: Prediction, offer: Offer, batches: Batches | None
) -> float:
    if batches is None:
        timing = step_time(workload, offer.gpu)
    else:
        timing = mean_timing(worst.workload, batches, offer.gpu, "auto")
    assert timing.step is not None
    sent = communication(worst, offer.network)
    sending = (sent.seconds or 0.0) if sent else 0.0
    return timing.step.time.seconds + sending


def _steps(setup: TrainSetup, amount: Amount, batches: Batches | None) -> float:
    if batches is not None:
        each = math.ceil(batches.num_batches / (setup.accumulation * setup.world_size))
        return amount.epochs * each
    sequences = setup.batch_size * setup.accumulation * setup.world_size
    return math.ceil(amount.epochs * (amount.tokens or 0) / (sequences * setup.seq_len))


def front_of(tried: Sequence[Tried]) -> set[tuple[str, TrainSetup]]:
    return {
        (t.card, t.setup)
        for t in tried
        if not any(dominates(other.objectives, t.objectives) for other in tried)
    }


def front_of_plan(plan: TrainingPlan) -> set[tuple[str, TrainSetup]]:
    return {(run.cluster.gpu.key, run.setup) for run in plan.front}
