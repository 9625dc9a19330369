"""A plan as text: the run to take and why in two lines, the ways to compare it with in a table, and
with --detail every run that no other one beats; where none is to be taken, what is nearest."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from lora_profiler.facts.catalog import Gpu, find_model
from lora_profiler.facts.stacks import GUIDE, Trainer
from lora_profiler.planning.plan import (
    MethodPlan,
    NearestFit,
    Neighbour,
    TrainingPlan,
    nearest_runs,
)
from lora_profiler.planning.planned import (
    EstimateRange,
    Goal,
    PlannedRun,
    PlannedTime,
    cost_of,
    hours_of,
    is_within,
)
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.workload import TrainSetup
from lora_profiler.report import labels
from lora_profiler.report.answer.verdicts import short_gpu_names
from lora_profiler.report.blocks import (
    Block,
    RowKind,
    Table,
    VerdictLine,
    advice,
    cell_table,
    dim,
    filled,
    paragraph,
    shell_command,
    table,
    with_words_last,
)
from lora_profiler.report.labels import capital, way_label
from lora_profiler.report.setup_words import predict_command, short_trainer_lines
from lora_profiler.report.terminal import SIGNS
from lora_profiler.units import (
    GIB,
    bytes_text,
    count_text,
    seconds_text,
    short_between_text,
    short_count_text,
    short_in_unit,
    short_seconds_text,
)

Names = Mapping[str, str]
"""Of GPUs by their keys."""


def sharding_name(sharding: str) -> str:
    """'FSDP', 'ZeRO-1', 'FSDP without resharding'; '' on one GPU."""
    if sharding.startswith("zero"):
        return f"ZeRO-{sharding.removeprefix('zero')}"
    name, _, more = sharding.partition("-")
    return {"none": ""}.get(name, name.upper()) + (f"-{more}" if more else "")


def gpus_text(cards: int, gpu: Gpu, names: Names, sharding: str = "none") -> str:
    """'8 × H100 with FSDP', 'one H100'."""
    number = f"{count_text(cards)} ×" if cards > 1 else "one"
    how = f" with {sharding_name(sharding)}" if sharding != "none" else ""
    return f"{number} {names.get(gpu.key) or short_gpu_names([gpu])[gpu.key]}{how}"


def run_words(run: PlannedRun, names: Names | None = None) -> str:
    """'LoRA r16 on 2 × RTX 4090 with DDP, 8-bit AdamW'."""
    gpus = gpus_text(run.cluster.cards, run.cluster.gpu, names or {}, run.setup.sharding)
    eight = ", 8-bit AdamW" if run.setup.optimizer == "adamw_8bit" else ""
    return f"{spoken(run.setup)} on {gpus}{eight}"


def spoken(setup: TrainSetup) -> str:
    """'LoRA r16', 'full fine-tuning': in a sentence."""
    return "full fine-tuning" if setup.method == "full" else way_label(setup)


def price_words(run: PlannedRun) -> str:
    """'84 min, 0.99 USD', as far as it is known."""
    parts = [hours_text(run.hours.middle) if run.hours else "time not known"]
    if run.cost and run.price:
        parts.append(money_text(run.cost.middle, run.price.currency))
    return ", ".join(parts)


def hours_text(hours: float) -> str:
    return short_seconds_text(3600 * hours)


def money_text(amount: float, currency: str) -> str:
    decimals = 2 if amount < 100 else 0
    number = "<0.01" if 0 < amount < 0.005 else f"{amount:,.{decimals}f}"
    return f"{number} {currency}".rstrip()


def layout_words(setup: TrainSetup) -> str:
    """'batch 2 × 8 accumulation, checkpointing, fused loss, AdamW'."""
    words = [f"batch {setup.batch_size} × {setup.accumulation} accumulation"]
    if setup.world_size > 1:
        words[0] += f" on each of {setup.world_size} GPUs"
    words.append("checkpointing" if setup.checkpointing else "no checkpointing")
    words += [f"{setup.loss} loss"] if setup.loss != "plain" else []
    words.append(optimizer_facts(setup.optimizer).label)
    words += [f"{setup.dtype} weights"] if setup.dtype != "bfloat16" else []
    return ", ".join(words)


def room_words(run: PlannedRun) -> str:
    """'795.62 MiB (3 %) free'."""
    return f"{bytes_text(run.headroom_bytes)} ({percent(run.headroom_share)}) free"


def basis_words(time: PlannedTime) -> str:
    return labels.BASIS_LABELS[time.basis]


def interval_words(hours: EstimateRange) -> str:
    return short_between_text(3600 * hours.low, 3600 * hours.high)


def cost_interval_words(run: PlannedRun) -> str:
    """'0.84 to 1.23 USD'; "" where it is not known."""
    if run.cost is None or run.price is None:
        return ""
    low, high = (money_text(end, "") for end in (run.cost.low, run.cost.high))
    ends = low if low == high else f"{low} to {high}"
    return f"{ends} {run.price.currency}".rstrip()


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "<1 %"


def gib_text(count: int) -> str:
    return short_in_unit(count, GIB)


def run_command(run: PlannedRun, more: Sequence[str]) -> str:
    link = ["--interconnect", run.network.key] if run.network and run.cluster.cards > 1 else []
    return predict_command(run.workload, run.cluster.gpu.key, *link, *more)


# --- the plan -------------------------------------------------------------------------------------


_GOALS: Final[dict[Goal, tuple[str, str, str]]] = {
    "cheapest": ("cheapest", "Costs", "more than"),
    "quickest": ("fastest", "Takes", "longer than"),
}


def names_of(plan: TrainingPlan) -> Names:
    nearest = [each.nearest for each in plan.methods if each.nearest]
    gpus = [offer.gpu for offer in plan.offers] + [g for n in nearest for g in n.smallest_cards]
    return short_gpu_names(dict.fromkeys(gpus))


def reason(plan: TrainingPlan, run: PlannedRun) -> str:
    """One sentence: what the run is best at, of all that was searched within the limits, or by how
    little another one is better, and what speaks for this one."""
    if plan.goal not in _GOALS:
        return "Leaves the most memory free; no time is known."
    within, (best, verb, more) = _limit_words(plan), _GOALS[plan.goal]
    of = cost_of if plan.goal == "cheapest" else hours_of
    able = (other for other in plan.front if is_within(other, plan.budget))
    rivals = [other for other in able if of(other) < of(run)]
    if not rivals:
        is_priced = all(offer.price for offer in plan.offers) or plan.goal != "cheapest"
        gpus = f"GPUs {'offered' if is_priced else 'with a price'}"
        return f"The {best} that fits the {gpus}{within}."
    least = min(rivals, key=of)
    rival, mine = (run_words(each, names_of(plan)) for each in (least, run))
    method, _, place = rival.partition(" on ")
    if rival == mine:
        rival = f"with {layout_words(least.setup)}"
    elif mine.endswith(f" on {place}"):
        rival = method
    excess = f"{verb} {percent(of(run) / of(least) - 1)} {more} {rival}"
    return f"{excess}, the {best}{within}, and {_merit(plan, run, least)}."


def _merit(plan: TrainingPlan, run: PlannedRun, least: PlannedRun) -> str:
    """What a run has that one which is a little cheaper or faster has not."""
    if run.concessions < least.concessions:
        has_base = least.setup.quantization is not None and run.setup.quantization is None
        return "needs no 4-bit weights" if has_base else "needs no 8-bit optimizer"
    if run.trained > least.trained:
        mine, other = run.setup.lora, least.setup.lora
        return f"has rank {mine.r}" if mine and other and mine.r > other.r else "trains more"
    of = hours_of if plan.goal == "cheapest" else cost_of
    if of(run) < of(least):
        less = percent(1 - of(run) / of(least))
        return f"takes {less} less time" if plan.goal == "cheapest" else f"costs {less} less"
    return "leaves more memory free"


def miss_words(each: MethodPlan, names: Names) -> str:
    """'does not fit 8 × H100 with FSDP: needs 82.1 GiB a GPU, 12.2 over; 16 × H100 would fit'."""
    nearest = each.nearest
    if nearest is None:
        return f"not planned: {each.reason or 'its memory is not known'}"
    gpus = gpus_text(nearest.cards, nearest.gpu, names, nearest.layout.setup.sharding)
    needs = f"{gib_text(nearest.peak_bytes)} GiB a GPU, {gib_text(nearest.missing_bytes)} over"
    would = "no single GPU fits it, nor as many as share the effective batch"
    if enough := _enough(nearest, names):
        would = f"{' or '.join(enough)} would fit"
    return f"does not fit {gpus}: needs {needs}; {would}"


def _enough(nearest: NearestFit, names: Names) -> list[str]:
    """['4 × T4', 'one RTX 3090'], as far as anything would fit."""
    return [gpus_text(cards, gpu, names) for cards, gpu in _sufficient(nearest)]


def _sufficient(nearest: NearestFit) -> Iterator[tuple[int, Gpu]]:
    """The fewest of the same GPU, and the smallest other one, of those the shortest name."""
    if nearest.enough_cards is not None:
        yield nearest.enough_cards, nearest.gpu
    if nearest.smallest_cards:
        yield 1, min(nearest.smallest_cards, key=lambda gpu: len(gpu.key))


def _limit_words(plan: TrainingPlan) -> str:
    parts = []
    if plan.budget.max_hours is not None:
        parts.append(f"{plan.budget.max_hours:g} h")
    if plan.budget.max_cost is not None:
        parts.append(money_text(plan.budget.max_cost, _currency(plan)))
    return f" within {' and '.join(parts)}" if parts else ""


def _currency(plan: TrainingPlan) -> str:
    return next((offer.price.currency for offer in plan.offers if offer.price), "")


def binding_words(plan: TrainingPlan, run: PlannedRun) -> str:
    """What keeps it from being faster."""
    binding, time = plan.binding, run.time
    if binding is None or time is None:
        return "What limits the speed is not known without a time."
    step, free = time.step.middle, binding.without_memory_seconds
    if binding.kind == "memory" and free is not None:
        faster = f"{seconds_text(free, step)} instead of {seconds_text(step)}"
        return f"Limited by memory: with more, a step would take {faster}."
    if binding.kind == "network":
        sending = seconds_text(time.sending_seconds or 0.0, step)
        return f"Limited by the network: sending takes {sending} of a {seconds_text(step)} step."
    share = f"{100 * time.share_of_host:.0f} % of a step"
    if binding.kind == "launch":
        return f"Limited by kernel launches, {share}: a faster GPU helps little."
    return f"Limited by compute; kernel launches alone would take {share}."


def neighbour_words(plan: TrainingPlan, neighbour: Neighbour) -> str:
    """'With 2 × A100 and ZeRO-1: 3.8 h, 12.02 USD.'; where so many were not offered, it says so."""
    gpu = plan.recommended.cluster.gpu if plan.recommended else plan.offers[0].gpu
    offered = max(offer.cluster.cards for offer in plan.offers if offer.gpu == gpu)
    name = names_of(plan)[gpu.key]
    beyond = "" if neighbour.cards <= offered else ", not offered"
    if neighbour.run is None:
        return f"With {count_text(neighbour.cards)} × {name}{beyond}: no layout is known to fit."
    how = sharding_name(neighbour.run.setup.sharding)
    cards = f"{count_text(neighbour.cards)} × {name}{f' and {how}' if how else ''}"
    return f"With {cards}{beyond}: {price_words(neighbour.run)}."


# --- where nothing is to be recommended -----------------------------------------------------------


def nothing_words(plan: TrainingPlan) -> tuple[str, str]:
    """Where no run is recommended: ("No plan fits", what is nearest)."""
    return _budget_words(plan) if plan.front else _fit_words(plan, _leanest(plan))


def _leanest(plan: TrainingPlan) -> NearestFit | None:
    nearest = [each.nearest for each in plan.methods if each.nearest]
    return min(nearest, key=lambda each: each.missing_bytes, default=None)


def nothing_sentence(plan: TrainingPlan) -> str:
    return ": ".join(nothing_words(plan))


def _budget_words(plan: TrainingPlan) -> tuple[str, str]:
    """("No plan is within 1 h", "the fastest is ...")."""
    nearest, names = nearest_runs(plan.front), names_of(plan)
    ends = {
        "fastest": (plan.budget.max_hours, nearest.quickest),
        "cheapest": (plan.budget.max_cost, nearest.cheapest),
    }
    parts = [
        f"the {name} is {run_words(run, names)}, {price_words(run)}"
        for name, (limit, run) in ends.items()
        if limit is not None and run is not None
    ]
    known = "; ".join(parts) or "no time is known for these GPUs"
    return f"No plan is{_limit_words(plan)}", f"{known}."


def _fit_words(plan: TrainingPlan, nearest: NearestFit | None) -> tuple[str, str]:
    """("No plan fits", "QLoRA r8 needs 44.1 GiB a GPU, 20.6 more than an RTX 4090 has free.")."""
    if nearest is None:
        known = (each.reason for each in plan.methods if each.reason)
        return "No plan can be made", next(known, "the memory of these methods is not known")
    gpus = gpus_text(nearest.cards, nearest.gpu, names_of(plan))
    way, peak = spoken(nearest.layout.setup), gib_text(nearest.peak_bytes)
    least = f"{way} needs {peak} GiB and overhead a GPU"
    return f"No plan fits {gpus}", f"{least}, {gib_text(nearest.missing_bytes)} too much."


# --- the screen -----------------------------------------------------------------------------------


def plan_blocks(
    plan: TrainingPlan,
    *,
    trainer: Trainer | None = None,
    more: Sequence[str] = (),
    detail: bool = False,
    price_from: str = "",
) -> list[Block]:
    """`more` are the arguments that say how much is trained on, for the command of the run;
    `price_from` is where people say what they pay, the option where it is empty."""
    run = plan.recommended
    blocks: list[Block] = []
    if run is None:
        words, rest = nothing_words(plan)
        blocks.append(VerdictLine(sign="does_not_fit", words=f"{words}:", rest=f" {rest}"))
        blocks += _what_would_do(plan)
    else:
        words = f"Take {run_words(run, names_of(plan))}:"
        blocks.append(VerdictLine(sign="fits", words=words, rest=f" {price_words(run)}."))
        blocks.append(paragraph(reason(plan, run)))
    blocks += [ways_table(plan)] if plan.front else []
    if run is not None:
        blocks += [paragraph(*_about(plan, run, detail=detail))]
        blocks.append(shell_command(run_command(run, more)))
    asked = (*question_lines(plan, trainer), *notes(plan, price_from))
    if not detail or not plan.front:
        return [*blocks, dim(*asked, *_more(plan, trainer))]
    return [*blocks, front_table(plan), dim(*asked, *evidence_lines(plan))]


def _what_would_do(plan: TrainingPlan) -> Iterator[Block]:
    """More GPUs, another one, or wider limits, as options of the next plan."""
    if plan.front:
        ends, budget = nearest_runs(plan.front), plan.budget
        run = ends.quickest if budget.max_cost is None else ends.cheapest
        if run is None or run.hours is None:
            return
        limits = {
            "--max-hours": (budget.max_hours, run.hours.middle),
            "--max-cost": (budget.max_cost, run.cost.middle if run.cost else 0),
        }
        wider = [
            f"{name} {math.ceil(100 * needed) / 100:g}"
            for name, (limit, needed) in limits.items()
            if limit is not None and needed > limit
        ]
        yield advice(f"Allow {run_words(run, names_of(plan))}: `{' '.join(wider)}`")
    elif (nearest := _leanest(plan)) and (gpus := _enough(nearest, names_of(plan))):
        keys = [f"{n}x{gpu.key}".removeprefix("1x") for n, gpu in _sufficient(nearest)]
        way = capital(spoken(nearest.layout.setup))
        yield advice(f"{way} fits {' or '.join(gpus)}: `--gpus {','.join(keys)}`")


def _about(plan: TrainingPlan, run: PlannedRun, *, detail: bool) -> Iterator[str]:
    """What limits the run, how sure its time is, and other numbers of the same GPUs."""
    yield binding_words(plan, run)
    if run.hours and run.time:
        known = filter(None, (interval_words(run.hours), cost_interval_words(run)))
        yield f"Expect {', '.join(known)}: {basis_words(run.time)}."
    for neighbour in plan.neighbours:
        yield neighbour_words(plan, neighbour)
    yield f"{capital(layout_words(run.setup))}."
    if detail:
        trains = f"trains {short_count_text(run.trained)} parameters"
        yield f"Peak {bytes_text(run.peak_bytes)} a GPU, {room_words(run)}; {trains}."


def question_lines(plan: TrainingPlan, trainer: Trainer | None = None) -> list[str]:
    ways = plan.offers[0].workloads
    setup = ways[0].setup
    methods = ", ".join(labels.adapter_label(way.setup) for way in ways)
    has_rank = any(way.setup.lora and way.setup.lora.has_rank for way in ways)
    ranks = plan.space.ranks
    several = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 2 else ", ".join(map(str, ranks))
    over = f"{methods} (rank {several})" if has_rank else methods
    tokens, amount = f"{count_text(setup.seq_len)} tokens", plan.amount
    much = f"{short_count_text(amount.tokens or 0)} tokens"
    if amount.data is not None:
        lengths = amount.data.lengths
        tokens = f"{lengths.mean:,.0f} tokens on average (at most {count_text(lengths.longest)})"
        much = f"{count_text(lengths.num_samples)} samples"
    extent = f"{amount.epochs:g} epoch{'' if amount.epochs == 1 else 's'} of {much}"
    if not amount.is_known:
        extent = "per million tokens (--tokens says how many)"
    loop = [] if trainer is None else short_trainer_lines(trainer, ways)
    batch = f"Batch {count_text(plan.space.effective_batch)} × {tokens}, {extent}."
    lines = [batch, f"{'. '.join((f'Searched {over}', *loop))}."]
    chosen = plan.recommended
    if chosen is not None and chosen.doubt_bytes:
        share = f"{100 * chosen.doubt_bytes / chosen.peak_bytes:.0f} %"
        lines.append(f"Within {share}: estimated from the model's layers; that much is left free.")
    return lines


def notes(plan: TrainingPlan, price_from: str = "") -> Iterator[str]:
    """What is not known, and how old the prices are; `price_from` is where people say what they
    pay."""
    for refused in plan.unknown:
        yield f"{', '.join(refused.cards)}: {refused.reason}"
    if plan.recommended is not None:
        names = {w.setup.method: labels.adapter_label(w.setup) for w in plan.offers[0].workloads}
        for each in plan.methods:
            if each.reason:
                yield f"{capital(names[each.method])} is not compared: {each.reason}"
    batch = plan.space.effective_batch
    for cluster in dict.fromkeys(offer.cluster for offer in plan.offers):
        if batch % cluster.cards:
            yield (
                f"Not tried: {cluster.cards} × {short_gpu_names([cluster.gpu])[cluster.gpu.key]}"
                f" cannot share batch {count_text(batch)}. Try --effective-batch"
                f" {math.lcm(batch, cluster.cards)}"
            )
    yours = price_from or f"--price {plan.offers[0].gpu.key}=2.49/h"
    prices = [offer.price for offer in plan.offers if offer.price and offer.price.date]
    if prices:
        first, last = min(p.date for p in prices), max(p.date for p in prices)
        dates = first if first == last else f"{first} to {last}"
        providers = ", ".join(sorted({p.provider for p in prices}))
        yield f"{providers} prices of {dates}. Your own: {yours}"
    if not any(offer.price for offer in plan.offers):
        yield f"No price is known. Yours: {yours}"
    if any(run.time and run.time.sending_seconds is None for run in plan.front):
        yield "Times of several machines leave out sending: --interconnect names their link."


def _more(plan: TrainingPlan, trainer: Trainer | None) -> Iterator[str]:
    """What shows more; a file can be written of any trainer where the question names none."""
    if plan.recommended is None:
        return
    runs = len(plan.front)
    every = f"All {count_text(runs)} best trade-offs" if runs > 1 else "More"
    is_open = trainer is not None and trainer.stack.name == GUIDE
    yield f"{every}: --detail." + (" A config to train with: --write axolotl FILE" * is_open)


def evidence_lines(plan: TrainingPlan) -> Iterator[str]:
    from lora_profiler.report.learn import committed

    found = committed() if len(plan.space.ranks) > 1 else None
    if found is not None:
        model = find_model(found["model"]["id"], offline=True)
        size = short_count_text(model.num_parameters)
        claim = next(claim for claim in found["claims"] if claim["id"] == INTRINSIC)
        yield (
            f"Is a low rank enough? On {model.id} ({size}), `lora-profile verify` found:"
            f" {claim['finding'][0]}"
        )


INTRINSIC = 6
"""The claim of `verify` about what is kept at a rank."""

# --- tables ---------------------------------------------------------------------------------------


def ways_table(plan: TrainingPlan) -> Table:
    """The recommended run, the best of each method or why it has none, and the ends of the front:
    the cheapest, the fastest, the one that trains most."""
    names, rows, text_of = names_of(plan), [], dict(_COLUMNS)
    for run, note in _ways(plan).items():
        cells = (
            gpus_text(run.cluster.cards, run.cluster.gpu, names),
            *(text_of[name](run) for name in ("sharding", "GiB", "free", "time", "cost")),
            note,
        )
        sign = SIGNS["fits"] if run is plan.recommended else ""
        rows.append((sign, capital(way_label(run.setup)), *cells))
    for each in plan.methods:
        if (nearest := each.nearest) is not None:
            enough = _enough(nearest, names)
            cells = (
                gpus_text(nearest.cards, nearest.gpu, names),
                sharding_name(nearest.layout.setup.sharding),
                gib_text(nearest.peak_bytes),
                *("no", "", ""),
                f"fits {min(enough, key=len)}" if enough else "fits no GPU",
            )
            label = capital(labels.adapter_label(nearest.layout.setup))
            rows.append((SIGNS["does_not_fit"], label, *cells))
    money = _currency(plan) or "cost"
    columns = ("", "", "GPUs", "sharding", "GiB", "free", "time", money, "")
    ways = cell_table(columns, rows, left=4)._replace(spare=("sharding", "free"))
    return filled(with_words_last(ways))


def _ways(plan: TrainingPlan) -> dict[PlannedRun, str]:
    """Runs to show with a word on each, the recommended one first."""
    timed = [run for run in plan.front if run.hours]
    most = max(timed, key=lambda run: (run.trained, -hours_of(run)), default=None)
    ends = (
        (plan.recommended, "recommended"),
        (min((r for r in timed if r.cost), key=cost_of, default=None), "cheapest"),
        (min(timed, key=hours_of, default=None), "fastest"),
        (most, "highest rank" if most and most.setup.lora else "trains most"),
        *((each.run, "") for each in plan.methods),
    )
    ways: dict[PlannedRun, str] = {}
    for run, note in ends:
        if run is not None:
            eight = "8-bit AdamW" if run.setup.optimizer == "adamw_8bit" else ""
            over = "" if is_within(run, plan.budget) else "over your limit"
            ways.setdefault(run, note if run is plan.recommended else over or note or eight)
    return ways


_COLUMNS: Final[tuple[tuple[str, Callable[[PlannedRun], str]], ...]] = (
    ("", lambda run: capital(way_label(run.setup))),
    ("batch", lambda run: f"{run.setup.batch_size} × {run.setup.accumulation}"),
    ("ckpt", lambda run: "yes" if run.setup.checkpointing else ""),
    ("loss", lambda run: run.setup.loss if run.setup.loss != "plain" else ""),
    ("optimizer", lambda run: run.setup.optimizer if run.setup.optimizer != "adamw" else ""),
    ("sharding", lambda run: sharding_name(run.setup.sharding)),
    ("GiB", lambda run: gib_text(run.peak_bytes)),
    ("free", lambda run: percent(run.headroom_share)),
    ("trained", lambda run: short_count_text(run.trained)),
    ("time", lambda run: hours_text(run.hours.middle) if run.hours else "?"),
    ("cost", lambda run: money_text(run.cost.middle, "") if run.cost else ""),
)
_SPARE = ("batch", "trained", "loss", "optimizer", "ckpt", "sharding", "free")


def front_table(plan: TrainingPlan) -> Table:
    """All runs that no other one beats, the recommended one marked."""
    names = names_of(plan)

    def kind(run: PlannedRun) -> RowKind:
        return "peak" if run is plan.recommended else "plain"

    def gpus(run: PlannedRun) -> str:
        return gpus_text(run.cluster.cards, run.cluster.gpu, names)

    title = f"{count_text(len(plan.front))} best trade-offs of time, cost, memory and rank"
    columns = (_COLUMNS[0], ("GPUs", gpus), *_COLUMNS[1:])
    return filled(table(plan.front, columns, title=title, left=7, kind=kind, spare=_SPARE))
