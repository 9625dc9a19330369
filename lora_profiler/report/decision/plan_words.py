"""One run of a plan in words: what to take, why, what binds it; and what is nearest where nothing
is to be taken."""

from collections.abc import Iterator, Sequence

from lora_profiler.planning.plan import Neighbour, TrainingPlan
from lora_profiler.planning.plan_nearest import NearestFit, NearestRuns, nearest_fit, nearest_runs
from lora_profiler.planning.planned import (
    SAME,
    Goal,
    Interval,
    PlannedRun,
    RunTime,
    cost_of,
    hours_of,
)
from lora_profiler.report import labels
from lora_profiler.report.labels import way_label
from lora_profiler.report.setup_words import predict_command
from lora_profiler.units import bytes_text, count_text, seconds_text, short_count_text
from lora_profiler.workload import TrainSetup

_GOALS: dict[Goal, str] = {
    "cheapest": "costs least",
    "quickest": "is the quickest",
    "roomiest": "leaves most memory free; no time is known",
}


def run_words(run: PlannedRun) -> str:
    """'LoRA r16 on 2 x rtx_4090 (ddp), 8-bit AdamW'."""
    cards = f"{count_text(run.cluster.cards)} x " if run.cluster.cards > 1 else ""
    sharding = f" ({run.setup.sharding})" if run.setup.sharding != "none" else ""
    eight = ", 8-bit AdamW" if run.setup.optimizer == "adamw_8bit" else ""
    return f"{way_label(run.setup)}{eight} on {cards}{run.cluster.gpu.key}{sharding}"


def price_words(run: PlannedRun) -> str:
    """'1 h 20 min, 0.99 USD', as far as it is known."""
    parts = [hours_text(run.hours.middle) if run.hours else "time not known"]
    if run.cost and run.price:
        parts.append(money_text(run.cost.middle, run.price.currency))
    return ", ".join(parts)


def hours_text(hours: float) -> str:
    return seconds_text(3600 * hours)


def money_text(amount: float, currency: str) -> str:
    decimals = 2 if amount < 100 else 0
    return f"{amount:,.{decimals}f}{f' {currency}' if currency else ''}"


def layout_words(setup: TrainSetup) -> str:
    """'micro-batch 2 x 8, checkpointing, fused loss, adamw'."""
    checkpointing = "checkpointing" if setup.checkpointing else "no checkpointing"
    micro = f"micro-batch {setup.batch_size} x {setup.accumulation}"
    ranks = f" on each of {setup.world_size} ranks" if setup.world_size > 1 else ""
    weights = "" if setup.dtype == "bfloat16" else f", {setup.dtype} weights"
    return f"{micro}{ranks}, {checkpointing}, {setup.loss} loss, {setup.optimizer}{weights}"


def room_words(run: PlannedRun) -> str:
    """'795.62 MiB (3 %) left beside the reserve'."""
    share = f"{100 * run.headroom_share:.0f} %" if run.headroom_share >= 0.01 else "<1 %"
    return f"{bytes_text(run.headroom_bytes)} ({share}) left beside the reserve"


def trains_words(run: PlannedRun) -> str:
    return f"trains {short_count_text(run.trained)} parameters"


def basis_words(time: RunTime) -> str:
    return f"times: {labels.BASIS_LABELS[time.basis]}"


def interval_words(hours: Interval) -> str:
    return f"{hours_text(hours.low)} to {hours_text(hours.high)}"


def cost_interval_words(run: PlannedRun) -> str:
    """'0.84 to 1.23 USD'; "" where it is not known."""
    if run.cost is None or run.price is None:
        return ""
    high = money_text(run.cost.high, run.price.currency)
    return f"{money_text(run.cost.low, '')} to {high}"


def reason(plan: TrainingPlan, run: PlannedRun) -> str:
    """One sentence: what the run is best at, and why it stands before those that are as good."""
    within = _limit_words(plan)
    if plan.goal == "roomiest":
        return f"it {_GOALS[plan.goal]}."
    of = cost_of if plan.goal == "cheapest" else hours_of
    rivals = [other for other in plan.front if of(other) < of(run)]
    if not rivals:
        return f"it {_GOALS[plan.goal]}{within}."
    least = min(rivals, key=of)
    better = "has fewer concessions" if run.concessions < least.concessions else "trains more"
    if run.concessions == least.concessions and run.trained == least.trained:
        other, word = (hours_of, "quicker") if plan.goal == "cheapest" else (cost_of, "cheaper")
        better = f"is {word}" if other(run) < other(least) else "leaves more memory free"
    rival = run_words(least)
    if rival == run_words(run):
        rival = f"the same with {layout_words(least.setup)}"
    near = f"within {100 * SAME:.0f} % of {rival} ({price_words(least)})"
    return f"{near}, which {_GOALS[plan.goal]}{within}, and it {better}."


def _limit_words(plan: TrainingPlan) -> str:
    parts = []
    if plan.budget.max_hours is not None:
        parts.append(f"{plan.budget.max_hours:g} h")
    if plan.budget.max_cost is not None:
        currency = next((offer.price.currency for offer in plan.offers if offer.price), "")
        parts.append(money_text(plan.budget.max_cost, currency))
    return f" within {' and '.join(parts)}" if parts else ""


def binding_words(plan: TrainingPlan, run: PlannedRun) -> str:
    """What keeps it from being quicker."""
    binding, time = plan.binding, run.time
    if binding is None or time is None:
        return "not known without a time."
    step, free = time.step.middle, binding.without_memory_seconds
    if binding.kind == "memory" and free is not None:
        quicker = f"{seconds_text(free, step)}, not {seconds_text(step)}"
        return f"memory. If every layout fitted, a step would take {quicker}."
    if binding.kind == "network":
        sending = seconds_text(time.sending_seconds or 0.0, step)
        parts = f"sending takes {sending}, computing {seconds_text(time.compute_seconds, step)}"
        return f"the network. Of {seconds_text(step)} a step {parts}."
    share = f"launching kernels alone would take {100 * time.share_of_host:.0f} % of a step"
    if binding.kind == "launch":
        return f"launches: {share}, so that a faster card helps little."
    return f"compute; {share}, and no layout that does not fit would be quicker."


def neighbour_words(neighbour: Neighbour) -> str:
    """'With 2 cards (zero1): 40 min 33 s, 1.00 USD; micro-batch ...'."""
    cards = f"{count_text(neighbour.cards)} card{'' if neighbour.cards == 1 else 's'}"
    if neighbour.run is None:
        return f"With {cards}: no layout is known to fit."
    other = neighbour.run
    how = "" if other.setup.sharding == "none" else f" ({other.setup.sharding})"
    return f"With {cards}{how}: {price_words(other)}; {layout_words(other.setup)}"


def other_ends(plan: TrainingPlan, run: PlannedRun) -> Iterator[str]:
    """The ends of the front, where they are other runs."""
    timed = [other for other in plan.front if other.hours]
    ends = {
        "Quickest": min(timed, key=hours_of, default=None),
        "Cheapest": min((o for o in timed if o.cost), key=cost_of, default=None),
        "Trains most": max(timed, key=lambda o: (o.trained, -hours_of(o)), default=None),
    }
    said: list[PlannedRun] = [run]
    for name, other in ends.items():
        if other is not None and other not in said:
            said.append(other)
            yield f"{name}: {run_words(other)}, {price_words(other)}"


def run_command(run: PlannedRun, more: Sequence[str]) -> str:
    link = ["--interconnect", run.network.key] if run.network and run.cluster.cards > 1 else []
    return predict_command(run.workload, run.cluster.gpu.key, *link, *more)


# --- where nothing is to be recommended -----------------------------------------------------------


def nothing_words(plan: TrainingPlan) -> tuple[str, str]:
    """Where no run is recommended: that, and what is nearest, as ("No plan fits", "the leanest,
    ...")."""
    if plan.front:
        return _budget_words(plan, nearest_runs(plan))
    return _fit_words(plan, nearest_fit(plan))


def nothing_sentence(plan: TrainingPlan) -> str:
    """The same in one line."""
    return ": ".join(nothing_words(plan))


def _budget_words(plan: TrainingPlan, nearest: NearestRuns) -> tuple[str, str]:
    """("No plan is within 1 h", "the quickest is ...")."""
    parts = []
    for limit, name, run in (
        (plan.budget.max_hours, "quickest", nearest.quickest),
        (plan.budget.max_cost, "cheapest", nearest.cheapest),
    ):
        if limit is not None and run is not None:
            parts.append(f"the {name} is {run_words(run)}, {price_words(run)}")
    known = "; ".join(parts) or "no time is known of these cards"
    return f"No plan is{_limit_words(plan)}", f"{known}."


def _fit_words(plan: TrainingPlan, nearest: NearestFit | None) -> tuple[str, str]:
    """("No plan fits", "the leanest, QLoRA r8 ..., lacks 3.20 GiB on t4; 2 of them would do, or
    one rtx_3090 (24 GB).")."""
    if nearest is None:
        why = plan.refusals[0] if plan.refusals else "nothing is known of these ways to train"
        return "No plan can be made", why
    setup = nearest.layout.setup
    cards = f"{nearest.cards} x " if nearest.cards > 1 else ""
    lacks = f"{bytes_text(nearest.missing_bytes)} more than {cards}{nearest.gpu.key}"
    lean = (
        f"{way_label(setup)}, {layout_words(setup)}, needs {bytes_text(nearest.peak_bytes)} a card,"
        f" {lacks} can have beside the reserve"
    )
    would = []
    if nearest.enough_cards is not None:
        would.append(f"{count_text(nearest.enough_cards)} x {nearest.gpu.key}")
    if nearest.smallest_cards:
        card = nearest.smallest_cards[0]
        would.append(f"one {card.key} ({card.memory_gib_marketed:g} GB)")
    if not would:
        return "No plan fits", f"the leanest, {lean}; no card of the catalogue would do."
    return "No plan fits", f"the leanest, {lean}. What would do: {' or '.join(would)}."
