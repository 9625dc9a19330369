"""One run of a plan in words and numbers: what it trains on which GPUs, how long, for how much, and
the command that predicts it."""

from collections.abc import Mapping, Sequence

from lora_profiler.catalog import Gpu
from lora_profiler.optimizer import optimizer_facts
from lora_profiler.planning.planned import Interval, PlannedRun, PlannedTime
from lora_profiler.report import labels
from lora_profiler.report.gpu_names import short_gpu_names
from lora_profiler.report.labels import way_label
from lora_profiler.report.setup_words import predict_command
from lora_profiler.units import (
    GIB,
    bytes_text,
    count_text,
    short_count_text,
    short_in_unit,
    short_seconds_text,
)
from lora_profiler.workload import TrainSetup

Names = Mapping[str, str]
"""Of GPUs by their keys."""


def sharding_name(sharding: str) -> str:
    """'FSDP', 'ZeRO-1', 'FSDP without resharding'; '' on one GPU."""
    if sharding.startswith("zero"):
        return f"ZeRO-{sharding.removeprefix('zero')}"
    name, _, more = sharding.partition("-")
    return {"none": ""}.get(name, name.upper()) + (f"-{more}" if more else "")


def gpus_text(cards: int, gpu: Gpu, names: Names) -> str:
    """'8 × H100', 'one H100'."""
    number = f"{count_text(cards)} ×" if cards > 1 else "one"
    return f"{number} {names.get(gpu.key) or short_gpu_names([gpu])[gpu.key]}"


def run_words(run: PlannedRun, names: Names | None = None) -> str:
    """'LoRA r16 on 2 × RTX 4090 with DDP, 8-bit AdamW'."""
    how = sharding_name(run.setup.sharding)
    gpus = gpus_text(run.cluster.cards, run.cluster.gpu, names or {})
    eight = ", 8-bit AdamW" if run.setup.optimizer == "adamw_8bit" else ""
    return f"{spoken(run.setup)} on {gpus}{f' with {how}' if how else ''}{eight}"


def spoken(setup: TrainSetup) -> str:
    """'LoRA r16', 'full fine-tuning': in a sentence."""
    return "full fine-tuning" if setup.method == "full" else way_label(setup)


def cell_text(setup: TrainSetup) -> str:
    """'LoRA r16', 'Full': in a table."""
    return labels.METHOD_LABELS["full"].title() if setup.method == "full" else way_label(setup)


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
    return f"{bytes_text(run.headroom_bytes)} ({share_text(run)}) free"


def share_text(run: PlannedRun) -> str:
    return f"{100 * run.headroom_share:.0f} %" if run.headroom_share >= 0.01 else "<1 %"


def trains_words(run: PlannedRun) -> str:
    return f"trains {short_count_text(run.trained)} parameters"


def basis_words(time: PlannedTime) -> str:
    return labels.BASIS_LABELS[time.basis]


def interval_words(hours: Interval) -> str:
    """'42 to 61 min', '80 min to 2.1 h'."""
    low, high = hours_text(hours.low), hours_text(hours.high)
    unit = high.partition(" ")[2]
    return f"{low.removesuffix(f' {unit}')} to {high}"


def cost_interval_words(run: PlannedRun) -> str:
    """'0.84 to 1.23 USD'; "" where it is not known."""
    if run.cost is None or run.price is None:
        return ""
    high = money_text(run.cost.high, run.price.currency)
    return f"{money_text(run.cost.low, '')} to {high}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "<1 %"


def gib_text(count: int) -> str:
    return short_in_unit(count, GIB)


def run_command(run: PlannedRun, more: Sequence[str]) -> str:
    link = ["--interconnect", run.network.key] if run.network and run.cluster.cards > 1 else []
    return predict_command(run.workload, run.cluster.gpu.key, *link, *more)
