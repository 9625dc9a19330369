"""A plan as text: one run in words, and what is nearest where none is to be taken; then the run to
take first, in at most 25 lines of 80 columns, and the front."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from lora_profiler.catalog import find_model
from lora_profiler.planning.plan import MethodPlan, Neighbour, TrainingPlan
from lora_profiler.planning.plan_nearest import NearestFit, NearestRuns, nearest_runs
from lora_profiler.planning.planned import (
    SAME,
    Goal,
    Interval,
    PlannedRun,
    PlannedTime,
    cost_of,
    hours_of,
    is_within,
)
from lora_profiler.report import labels
from lora_profiler.report.answer.short_answer import WIDTH, in_lines
from lora_profiler.report.blocks import Block, RowKind, Table, filled, heading, shell_command, table
from lora_profiler.report.labels import way_label
from lora_profiler.report.setup_words import predict_command, short_trainer_lines
from lora_profiler.stacks import Trainer
from lora_profiler.units import GIB, bytes_text, count_text, in_unit, seconds_text, short_count_text
from lora_profiler.workload import TrainSetup

_GOALS: dict[Goal, str] = {
    "cheapest": "costs less",
    "quickest": "is quicker",
    "roomiest": "leaves more memory free; no time is known",
}
_BEST: dict[Goal, str] = {"cheapest": "the cheapest", "quickest": "the quickest"}


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
    number = "<0.01" if 0 < amount < 0.005 else f"{amount:,.{decimals}f}"
    return f"{number} {currency}".rstrip()


def layout_words(setup: TrainSetup) -> str:
    """'micro-batch 2 x 8, checkpointing, fused loss, adamw'."""
    checkpointing = "checkpointing" if setup.checkpointing else "no checkpointing"
    micro = f"micro-batch {setup.batch_size} x {setup.accumulation}"
    ranks = f" on each of {setup.world_size} ranks" if setup.world_size > 1 else ""
    weights = "" if setup.dtype == "bfloat16" else f", {setup.dtype} weights"
    return f"{micro}{ranks}, {checkpointing}, {setup.loss} loss, {setup.optimizer}{weights}"


def room_words(run: PlannedRun) -> str:
    """'795.62 MiB (3 %) left after the reserve'."""
    share = f"{100 * run.headroom_share:.0f} %" if run.headroom_share >= 0.01 else "<1 %"
    return f"{bytes_text(run.headroom_bytes)} ({share}) left after the reserve"


def trains_words(run: PlannedRun) -> str:
    return f"trains {short_count_text(run.trained)} parameters"


def basis_words(time: PlannedTime) -> str:
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
    """One sentence: what the run is best at, of all that was searched within the limits, and why it
    comes before those that are as good."""
    within = _limit_words(plan)
    of = cost_of if plan.goal == "cheapest" else hours_of
    rivals = [
        other
        for other in plan.front
        if of(other) < of(run) and is_within(other, plan.budget) and plan.goal in _BEST
    ]
    if not rivals:
        where = f" on {_offered_words(plan)}{within}"
        return f"no other run{where} {_GOALS[plan.goal]}."
    least = min(rivals, key=of)
    better = "makes fewer concessions" if run.concessions < least.concessions else "trains more"
    if run.concessions == least.concessions and run.trained == least.trained:
        other, word = (hours_of, "quicker") if plan.goal == "cheapest" else (cost_of, "cheaper")
        better = f"is {word}" if other(run) < other(least) else "leaves more memory free"
    rival = run_words(least)
    if rival == run_words(run):
        rival = f"the same with {layout_words(least.setup)}"
    near = f"within {100 * SAME:.0f} % of {rival} ({price_words(least)})"
    return f"{near}, {_BEST[plan.goal]}{within}, and it {better}."


def _offered_words(plan: TrainingPlan) -> str:
    """'the GPUs offered'; where money decides and is not known of all, 'the priced GPUs'."""
    is_priced = all(offer.price for offer in plan.offers) or plan.goal != "cheapest"
    return "the GPUs offered" if is_priced else "the GPUs with a price"


def method_lines(plan: TrainingPlan) -> Iterator[str]:
    """A line for each method but that of the recommended run, or of the leanest where nothing
    fits: its best run, or why it has none."""
    leanest = _leanest(plan)
    for each in plan.methods:
        if each.nearest is not None and each.nearest is leanest:
            continue
        if each.run is None:
            yield f"{labels.METHOD_LABELS[each.method]}: {miss_words(each)}"
        elif each.run is not plan.recommended:
            yield f"{run_words(each.run)}: {price_words(each.run)}{_over_words(plan, each.run)}"


def _over_words(plan: TrainingPlan, run: PlannedRun) -> str:
    return "" if is_within(run, plan.budget) else ", over your limit"


def miss_words(each: MethodPlan) -> str:
    """'does not fit 8 x h100_sxm_80gb (fsdp): needs 82.14 GiB a GPU, 12.24 GiB over; 16 would
    do'."""
    nearest = each.nearest
    if nearest is None:
        return f"not planned: {each.reason or 'nothing is known of it'}"
    setup = nearest.layout.setup
    cards = f"{nearest.cards} x " if nearest.cards > 1 else ""
    how = "" if setup.sharding == "none" else f" ({setup.sharding})"
    needs = f"{bytes_text(nearest.peak_bytes)} a GPU, {bytes_text(nearest.missing_bytes)} over"
    return f"does not fit {cards}{nearest.gpu.key}{how}: needs {needs}; {_would_words(nearest)}"


def _would_words(nearest: NearestFit) -> str:
    """'4 x t4 or one rtx_3090 (24 GB) would do'."""
    would = []
    if nearest.enough_cards is not None:
        would.append(f"{count_text(nearest.enough_cards)} x {nearest.gpu.key}")
    if nearest.smallest_cards:
        card = nearest.smallest_cards[0]
        would.append(f"one {card.key} ({card.memory_gib_marketed:g} GB)")
    if not would:
        return "no single GPU would do, nor as many as share the effective batch"
    return f"{' or '.join(would)} would do"


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


def neighbour_words(plan: TrainingPlan, neighbour: Neighbour) -> str:
    """'With 2 GPUs (zero1): 40 min 33 s, 1.00 USD; micro-batch ...'; where so many were not
    offered, it says so."""
    count = f"{count_text(neighbour.cards)} GPU{'' if neighbour.cards == 1 else 's'}"
    gpu = plan.recommended and plan.recommended.cluster.gpu
    offered = max(offer.cluster.cards for offer in plan.offers if offer.gpu == gpu)
    beyond = "" if neighbour.cards <= offered else ", which you did not offer"
    if neighbour.run is None:
        return f"With {count}{beyond}: no layout is known to fit."
    other = neighbour.run
    how = "" if other.setup.sharding == "none" else f" ({other.setup.sharding})"
    return f"With {count}{how}{beyond}: {price_words(other)}; {layout_words(other.setup)}"


def other_ends(plan: TrainingPlan, run: PlannedRun) -> Iterator[str]:
    """The ends of the front, where they are other runs than those of `method_lines`."""
    timed = [other for other in plan.front if other.hours]
    ends = {
        "Quickest": min(timed, key=hours_of, default=None),
        "Cheapest": min((o for o in timed if o.cost), key=cost_of, default=None),
        "Trains most": max(timed, key=lambda o: (o.trained, -hours_of(o)), default=None),
    }
    said: list[PlannedRun | None] = [run, *(each.run for each in plan.methods)]
    for name, other in ends.items():
        if other is not None and other not in said:
            said.append(other)
            yield f"{name}: {run_words(other)}, {price_words(other)}{_over_words(plan, other)}"


def run_command(run: PlannedRun, more: Sequence[str]) -> str:
    link = ["--interconnect", run.network.key] if run.network and run.cluster.cards > 1 else []
    return predict_command(run.workload, run.cluster.gpu.key, *link, *more)


# --- where nothing is to be recommended -----------------------------------------------------------


def nothing_words(plan: TrainingPlan) -> tuple[str, str]:
    """Where no run is recommended: ("No plan fits", what is nearest)."""
    if plan.front:
        return _budget_words(plan, nearest_runs(plan.front))
    return _fit_words(plan, _leanest(plan))


def _leanest(plan: TrainingPlan) -> NearestFit | None:
    """What lacks least of all methods, where none fits."""
    nearest = [each.nearest for each in plan.methods if each.nearest]
    if plan.front:
        return None
    return min(nearest, key=lambda each: each.missing_bytes, default=None)


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
        known = (each.reason for each in plan.methods if each.reason)
        return "No plan can be made", next(known, "nothing is known of these ways to train")
    setup = nearest.layout.setup
    cards = f"{nearest.cards} x " if nearest.cards > 1 else ""
    lacks = f"{bytes_text(nearest.missing_bytes)} more than {cards}{nearest.gpu.key}"
    lean = (
        f"{way_label(setup)}, {layout_words(setup)}, needs {bytes_text(nearest.peak_bytes)} a GPU,"
        f" {lacks} has free after the reserve"
    )
    return "No plan fits", f"the leanest, {lean}; {_would_words(nearest)}."


MOST_ROWS = 20
"""Of the front, where not all of it is asked for."""


def plan_blocks(
    plan: TrainingPlan,
    *,
    trainer: Trainer | None = None,
    more: Sequence[str] = (),
    whole_front: bool = False,
) -> list[Block]:
    """`more` are the arguments that say how much is trained on, for the command of the run."""
    blocks: list[Block] = [heading(_title(plan)), in_lines(*question_lines(plan, trainer))]
    if plan.recommended is not None:
        blocks.append(in_lines(*_recommendation(plan, plan.recommended)))
        blocks.append(shell_command(run_command(plan.recommended, more)))
    else:
        blocks.append(in_lines(nothing_sentence(plan), *method_lines(plan)))
    if plan.front:
        blocks.append(front_table(plan, whole=whole_front))
    if said := list(notes(plan)):
        blocks.append(in_lines(*said))
    return blocks


def _title(plan: TrainingPlan) -> str:
    model = plan.offers[0].workloads[0].model
    every = ((offer.cluster.cards, offer.gpu.key) for offer in plan.offers)
    named = (f"up to {count_text(n)} x {key}" if n > 1 else key for n, key in every)
    names = list(dict.fromkeys(named))
    whole = f"a plan over {', '.join(names)}"
    kinds = f"a plan over {len(names)} kinds of GPU" if len(names) > 1 else whole
    size = f", {short_count_text(model.num_parameters)} parameters"
    titles = [f"{model.id}{size}: {whole}", f"{model.id}{size}: {kinds}", f"{model.id}: {kinds}"]
    return next((title for title in titles if len(title) <= WIDTH), titles[-1])


def question_lines(plan: TrainingPlan, trainer: Trainer | None = None) -> list[str]:
    """What was searched: how much, how long, over which ways."""
    ways = plan.offers[0].workloads
    setup = ways[0].setup
    methods = ", ".join(labels.METHOD_LABELS[way.setup.method] for way in ways)
    ranks = ", ".join(map(str, plan.space.ranks)) if any(way.setup.lora for way in ways) else ""
    many = "s" if len(plan.space.ranks) > 1 else ""
    over = f"{methods}; rank{many} {ranks}" if ranks else methods
    batch = f"effective batch {count_text(plan.space.effective_batch)}"
    tokens, amount = f"{count_text(setup.seq_len)} tokens", plan.amount
    much = f"{short_count_text(amount.tokens or 0)} tokens"
    if amount.data is not None:
        lengths = amount.data.lengths
        longest = count_text(lengths.longest)
        tokens = f"samples of mean {lengths.mean:,.0f}, longest {longest} tokens"
        much = f"{count_text(lengths.num_samples)} samples"
    asked = f"{amount.epochs:g} epoch{'' if amount.epochs == 1 else 's'} of {much}"
    if not amount.is_known:
        asked = "times and costs are of a million tokens, as no number of tokens is given"
    whose = [] if trainer is None else short_trainer_lines(trainer, ways)
    return [f"{batch} x {tokens}; {asked}", "; ".join((f"over {over}", *whose))]


def _recommendation(plan: TrainingPlan, run: PlannedRun) -> Iterator[str]:
    yield f"Take {run_words(run)}: {price_words(run)}"
    yield f"  {layout_words(run.setup)}"
    room, trains = room_words(run), trains_words(run)
    yield f"  peak {bytes_text(run.peak_bytes)} a card, {room}; {trains}"
    if run.hours and run.time:
        known = filter(None, (interval_words(run.hours), cost_interval_words(run)))
        yield f"  {', '.join(known)}; {basis_words(run.time)}"
    yield f"Why: {reason(plan, run)}"
    yield f"Binds: {binding_words(plan, run)}"
    yield from method_lines(plan)
    yield from other_ends(plan, run)
    for neighbour in plan.neighbours:
        yield neighbour_words(plan, neighbour)


# --- notes and the front --------------------------------------------------------------------------


def notes(plan: TrainingPlan, price_from: str = "--price KEY=2.49/h") -> Iterator[str]:
    """What is not known, how old the prices are, and whether a low rank is enough; `price_from` is
    where people say what they pay."""
    for refused in plan.unknown:
        yield f"{', '.join(refused.cards)}: {refused.reason}"
    prices = [offer.price for offer in plan.offers if offer.price and offer.price.date]
    if prices:
        first, last = min(p.date for p in prices), max(p.date for p in prices)
        dates = first if first == last else f"{first} to {last}"
        providers = ", ".join(sorted({p.provider for p in prices}))
        changed = f"may have changed; {price_from} takes yours"
        yield f"Prices are those of {providers} on {dates}, and {changed}."
    if not any(offer.price for offer in plan.offers):
        yield f"No price is known: {price_from} adds money."
    if any(run.time and run.time.sending_seconds is None for run in plan.front):
        yield "Times of several machines are without sending: --interconnect names their link."
    if len(plan.space.ranks) > 1 and (evidence := _evidence()):
        yield evidence


def _evidence() -> str | None:
    """What `verify` found of low ranks on a real model."""
    from lora_profiler.report.learn import committed_findings

    found = committed_findings()
    claim = next((c for c in found.claims if c.id == INTRINSIC), None) if found else None
    if found is None or claim is None:
        return None
    size = short_count_text(find_model(found.model, offline=True).num_parameters)
    return (
        "Is a low rank enough? Evidence, no promise: of what a short full fine-tuning of"
        f" {found.model} ({size}) learned, lora-profile verify found kept at {claim.headline}."
    )


INTRINSIC = 6
"""The claim of `verify` about what is kept at a rank."""
_COLUMNS: Final[tuple[tuple[str, Callable[[PlannedRun], str]], ...]] = (
    ("", lambda run: way_label(run.setup)),
    ("on", lambda run: f"{run.cluster.cards} x {run.cluster.gpu.key}".removeprefix("1 x ")),
    ("micro-batch", lambda run: f"{run.setup.batch_size} x {run.setup.accumulation}"),
    ("ckpt", lambda run: "yes" if run.setup.checkpointing else ""),
    ("loss", lambda run: run.setup.loss if run.setup.loss != "plain" else ""),
    ("optimizer", lambda run: run.setup.optimizer if run.setup.optimizer != "adamw" else ""),
    ("sharding", lambda run: run.setup.sharding if run.setup.sharding != "none" else ""),
    ("peak, GiB", lambda run: in_unit(run.peak_bytes, GIB)),
    ("left", lambda run: f"{100 * run.headroom_share:.0f} %"),
    ("trained", lambda run: short_count_text(run.trained)),
    ("time", lambda run: hours_text(run.hours.middle) if run.hours else "?"),
    ("cost", lambda run: money_text(run.cost.middle, "") if run.cost else ""),
)

_SPARE = ("micro-batch", "trained", "loss", "optimizer", "ckpt", "sharding", "left")


def front_table(plan: TrainingPlan, *, whole: bool) -> Table:
    """Its runs, the recommended one marked; not `whole`, at most `MOST_ROWS` of them."""
    runs = list(plan.front)
    title = f"The front, {count_text(len(runs))} in all: runs that no other one beats"
    if not whole and len(runs) > MOST_ROWS:
        runs = _told(plan)
        title += f"; {len(runs)} of them, --detail for all"

    def kind(run: PlannedRun) -> RowKind:
        return "peak" if run is plan.recommended else "plain"

    return filled(table(runs, _COLUMNS, title=title, left=7, kind=kind, spare=_SPARE))


def _told(plan: TrainingPlan) -> list[PlannedRun]:
    """Of each number of cards and method the run that trains most of the quickest ones, and the
    recommended; the quickest `MOST_ROWS` of them."""
    groups: dict[tuple[str, int, str], PlannedRun] = {}
    for run in plan.front:  # the quickest first
        key = run.cluster.gpu.key, run.cluster.cards, run.setup.method
        best = groups.setdefault(key, run)
        if hours_of(run) <= (1 + SAME) * hours_of(best) and run.trained > best.trained:
            groups[key] = run
    told = sorted(groups.values(), key=hours_of)[:MOST_ROWS]
    if plan.recommended is not None and plan.recommended not in told:
        told = sorted([*told[: MOST_ROWS - 1], plan.recommended], key=hours_of)
    return told
