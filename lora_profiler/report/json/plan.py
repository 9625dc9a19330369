"""A plan as the JSON of `lora-profile plan --format json` without --cluster."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.planned import Offer, PlannedRun
from lora_profiler.report.answer.trainer import trainer_dict
from lora_profiler.report.decision.plan_words import nothing_sentence, run_command
from lora_profiler.report.json import plain
from lora_profiler.stacks import Trainer
from lora_profiler.workload import setup_dict

if TYPE_CHECKING:
    from lora_profiler.report.json import plan_types as types
    from lora_profiler.report.json.predict_types import TrainerJson

SCHEMA_VERSION: Literal["1.0"] = "1.0"


def plan_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `plan --format json` prints without --cluster.

    Examples:
        >>> from lora_profiler import plan_schema
        >>> plan_schema()["type"]
        'object'
    """
    from lora_profiler.report.json.plan_types import PlanJson
    from lora_profiler.report.json.schema import payload_schema

    return payload_schema(PlanJson, title="lora-profile plan --format json")


def plan_payload(
    plan: TrainingPlan, trainer: Trainer | None = None, more: Sequence[str] = ()
) -> "types.PlanJson":
    """The whole document; bytes are integers, what is not known is null. `more` as in
    `report.plan.plan_blocks`."""
    first = plan.offers[0].workloads[0]
    amount, data = plan.amount, plan.amount.data
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {"id": first.model.id, "num_parameters": first.model.num_parameters},
        "trainer": cast("TrainerJson | None", trainer_dict(trainer, first)),
        "offers": [_offer_dict(offer) for offer in plan.offers],
        "amount": {
            "tokens": amount.tokens,
            "num_samples": data.lengths.num_samples if data else None,
            "epochs": amount.epochs,
        },
        "searched": {
            "effective_batch": plan.space.effective_batch,
            "ranks": list(plan.space.ranks),
            "max_hours": plan.budget.max_hours,
            "max_cost": plan.budget.max_cost,
        },
        "recommended": _recommended_dict(plan, more),
        "nearest": nothing_sentence(plan) if plan.recommended is None else None,
        "front": [_run_dict(run, more) for run in plan.front],
        "unknown": [plain(refused) for refused in plan.unknown],
        "counts": plain(plan.counts),
    }


def _offer_dict(offer: Offer) -> "types.OfferJson":
    return {
        "gpu": offer.gpu.key,
        "machines": offer.cluster.machines,
        "cards_each": offer.cluster.cards_each,
        "price": cast("types.PriceJson", plain(offer.price)) if offer.price else None,
        "interconnect": offer.network.key if offer.network else None,
    }


def _recommended_dict(plan: TrainingPlan, more: Sequence[str]) -> "types.RecommendedJson | None":
    if plan.recommended is None:
        return None
    binding = plan.binding
    return {
        "goal": plan.goal,
        "run": _run_dict(plan.recommended, more),
        "binding": cast("types.BindingJson", plain(binding)) if binding else None,
        "neighbours": [
            {"cards": each.cards, "run": _run_dict(each.run, more) if each.run else None}
            for each in plan.neighbours
        ],
    }


def _run_dict(run: PlannedRun, more: Sequence[str]) -> "types.RunJson":
    worst, time = run.worst.setup, run.time
    return {
        "gpu": run.cluster.gpu.key,
        "machines": run.cluster.machines,
        "cards_each": run.cluster.cards_each,
        "setup": setup_dict(run.setup),
        "worst_batch_size": worst.batch_size,
        "worst_seq_len": worst.seq_len,
        "peak_bytes": run.peak_bytes,
        "headroom_bytes": run.headroom_bytes,
        "headroom_share": run.headroom_share,
        "trained_parameters": run.trained,
        "steps": run.steps,
        "time": {
            "step_seconds": plain(time.step),
            "compute_seconds": time.compute_seconds,
            "sending_seconds": time.sending_seconds,
            "share_of_host": time.share_of_host,
            "basis": time.basis,
        }
        if time
        else None,
        "hours": plain(run.hours) if run.hours else None,
        "cost": plain(run.cost) if run.cost else None,
        "command": run_command(run, more),
    }
