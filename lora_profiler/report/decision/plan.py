"""A plan as text: the run to take first, in at most 25 lines of 80 columns, then the front."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from lora_profiler.catalog import find_model
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.planned import SAME, PlannedRun, hours_of
from lora_profiler.report import labels
from lora_profiler.report.answer.short_answer import WIDTH, in_lines
from lora_profiler.report.answer.trainer import short_trainer_lines
from lora_profiler.report.blocks import Block, RowKind, Table, filled, heading, paragraph, table
from lora_profiler.report.decision import plan_words as words
from lora_profiler.report.labels import way_label
from lora_profiler.stacks import Trainer
from lora_profiler.units import GIB, bytes_text, count_text, in_unit, short_count_text
from lora_profiler.workload import TrainSetup

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
        blocks.append(paragraph(*_over_lines(words.run_command(plan.recommended, more))))
    else:
        blocks.append(in_lines(words.nothing_sentence(plan)))
    if plan.front:
        blocks.append(front_table(plan, whole=whole_front))
    if said := list(notes(plan)):
        blocks.append(in_lines(*said))
    return blocks


def _over_lines(command: str) -> list[str]:
    """A command as a shell takes it from several lines."""
    lines = textwrap.wrap(
        command, WIDTH - 2, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _title(plan: TrainingPlan) -> str:
    model = plan.offers[0].workloads[0].model
    every = ((offer.cluster.cards, offer.gpu.key) for offer in plan.offers)
    named = (f"up to {count_text(n)} x {key}" if n > 1 else key for n, key in every)
    names = list(dict.fromkeys(named))
    title = f"{model.id}, {short_count_text(model.num_parameters)} parameters: a plan over"
    whole = f"{title} {', '.join(names)}"
    return whole if len(whole) <= WIDTH else f"{title} {len(names)} kinds of card"


def question_lines(plan: TrainingPlan, trainer: Trainer | None = None) -> list[str]:
    """What was searched: how much, how long, over which ways."""
    ways = plan.offers[0].workloads
    setup = ways[0].setup
    methods = ", ".join(labels.METHOD_LABELS[way.setup.method] for way in ways)
    ranks = ", ".join(map(str, plan.space.ranks)) if any(way.setup.lora for way in ways) else ""
    many = "s" if len(plan.space.ranks) > 1 else ""
    over = f"{methods}; rank{many} {ranks}" if ranks else methods
    batch = f"effective batch {count_text(plan.space.effective_batch)}"
    lines = [f"{batch} x {_length_words(plan, setup)}; {_amount_words(plan)}", f"over {over}"]
    return lines + ([] if trainer is None else short_trainer_lines(trainer, ways))


def _length_words(plan: TrainingPlan, setup: TrainSetup) -> str:
    if plan.amount.data is None:
        return f"{count_text(setup.seq_len)} tokens"
    lengths = plan.amount.data.lengths
    return f"samples of mean {lengths.mean:,.0f}, longest {count_text(lengths.longest)} tokens"


def _amount_words(plan: TrainingPlan) -> str:
    amount = plan.amount
    if not amount.is_known:
        return "times and costs are of a million tokens, since nobody says of how many"
    epochs = f"{amount.epochs:g} epoch{'' if amount.epochs == 1 else 's'} of "
    if amount.data is not None:
        return f"{epochs}{count_text(amount.data.lengths.num_samples)} samples"
    return f"{epochs}{short_count_text(amount.tokens or 0)} tokens"


def _recommendation(plan: TrainingPlan, run: PlannedRun) -> Iterator[str]:
    yield f"Take {words.run_words(run)}: {words.price_words(run)}"
    yield f"  {words.layout_words(run.setup)}"
    room, trains = words.room_words(run), words.trains_words(run)
    yield f"  peak {bytes_text(run.peak_bytes)} a card, {room}; {trains}"
    if run.hours and run.time:
        known = filter(None, (words.interval_words(run.hours), words.cost_interval_words(run)))
        yield f"  {', '.join(known)}; {words.basis_words(run.time)}"
    yield f"Why: {words.reason(plan, run)}"
    yield f"Binds: {words.binding_words(plan, run)}"
    yield from map(words.neighbour_words, plan.neighbours)
    yield from words.other_ends(plan, run)


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
    from lora_profiler.report.learn.findings import committed_findings

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
    ("time", lambda run: words.hours_text(run.hours.middle) if run.hours else "?"),
    ("cost", lambda run: words.money_text(run.cost.middle, "") if run.cost else ""),
)


def front_table(plan: TrainingPlan, *, whole: bool) -> Table:
    """Its runs, the recommended one marked; not `whole`, at most `MOST_ROWS` of them."""
    runs = list(plan.front)
    title = f"The front, {count_text(len(runs))} in all: runs that no other one beats"
    if not whole and len(runs) > MOST_ROWS:
        runs = _told(plan)
        title += f"; {len(runs)} of them, --detail for all"

    def kind(run: PlannedRun) -> RowKind:
        return "peak" if run is plan.recommended else "plain"

    return filled(table(runs, _COLUMNS, title=title, left=7, kind=kind))


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
