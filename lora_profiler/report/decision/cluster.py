"""The plan for a cluster as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.network import Network
from lora_profiler.planning.placement import MOST_REMEDY_CARDS, Cluster, Option, Placement, remedy
from lora_profiler.prediction import Prediction
from lora_profiler.report import labels
from lora_profiler.report.answer.predictions import assumption_lines
from lora_profiler.report.blocks import Block, Table, heading, paragraph, table
from lora_profiler.report.json import picked
from lora_profiler.report.labels import method_label
from lora_profiler.report.setup_words import (
    adapter_line,
    attention_words,
    trainer_dict,
    trainer_lines,
    training_line,
)
from lora_profiler.stacks import Trainer
from lora_profiler.units import GIB, between_text, bytes_text, count_text, in_unit, short_count_text
from lora_profiler.workload import setup_dict


def cluster_blocks(
    model: ModelSpec,
    options: Sequence[Option],
    cluster: Cluster,
    network: Network | None,
    trainer: Trainer | None = None,
) -> list[Block]:
    """The question, a row for each placement, the fewest cards, and what numbers rest on."""
    wholes = [option.whole.prediction for option in options]
    setup = wholes[0].workload.setup
    dtypes = list(dict.fromkeys(prediction.workload.setup.dtype for prediction in wholes))
    kernels = list(dict.fromkeys(prediction.attention_kernel for prediction in wholes))
    asked = [
        training_line(replace(setup, world_size=1, sharding="none"), dtypes) + " a rank",
        attention_words(setup, kernels),
    ]
    by_method = {p.workload.setup.method: p.workload for p in wholes}
    asked += trainer_lines(trainer, list(by_method.values()))
    adapted = {
        method_label(p): adapter_line(p.workload.setup) for p in wholes if p.workload.setup.lora
    }
    size = f"{short_count_text(model.num_parameters)} parameters"
    machines = f" in {count_text(cluster.machines)} machines" if cluster.machines > 1 else ""
    each = f"{bytes_text(cluster.gpu.usable_bytes or 0)} each"
    cards = f"{count_text(cluster.cards)} x {cluster.gpu.key}{machines}, {each}"
    title = f"{model.id} ({size}) on {cards}"
    return [
        heading(title),
        paragraph(*asked, *adapted.values()),
        _table(options),
        paragraph(*fewest_lines(options, cluster), _time_words(network)),
        paragraph(*_basis(wholes)),
    ]


def _table(options: Sequence[Option]) -> Table:
    def sent(option: Option) -> str:
        found = option.communication
        return in_unit(found.sent_bytes, GIB) if found else ""

    def step(option: Option) -> str:
        low, high = option.low_seconds, option.high_seconds
        return "?" if low is None else between_text(low, high or 0)

    def rates(option: Option) -> str:
        rates = option.tokens_per_second
        return "?" if rates is None else f"{rates[0]:,.0f} to {rates[1]:,.0f}"

    return table(
        options,
        (
            ("", lambda o: method_label(o.whole.prediction)),
            ("sharding", lambda o: o.sharding),
            (
                "cards needed",
                lambda o: count_text(o.least.world_size) if o.least else "none of these",
            ),
            ("GiB a rank then", lambda o: _peak(o.least)),
            ("GiB on all", lambda o: _peak(o.whole)),
            ("verdict", lambda o: labels.VERDICT_LABELS[o.whole.verdict]),
            ("sent, GiB", sent),
            ("step", step),
            ("tokens a second", rates),
        ),
        spare=("tokens a second", "sent, GiB", "GiB a rank then"),
    )


def _peak(placement: Placement | None) -> str:
    """A lower bound where activations are not known."""
    if placement is None:
        return ""
    text = in_unit(placement.prediction.peak.total_bytes, GIB)
    return text if placement.prediction.is_whole else f">= {text}"


def fewest_lines(options: Sequence[Option], cluster: Cluster) -> list[str]:
    """For each method the fewest cards that any sharding fits on, and what would do where none
    does."""
    lines = []
    for label in dict.fromkeys(method_label(o.whole.prediction) for o in options):
        mine = [o for o in options if method_label(o.whole.prediction) == label]
        fitting = [(o.least.world_size, o.sharding) for o in mine if o.least is not None]
        if not fitting:
            lines.append(f"{label}: no sharding fits; {_remedy_words(mine[0], cluster)}.")
            continue
        fewest = min(number for number, _ in fitting)
        names = [sharding for number, sharding in fitting if number == fewest]
        how = "" if fewest == 1 else f", sharded as {' or '.join(names)}"
        cards = f"{count_text(fewest)} {'card' if fewest == 1 else 'cards'}"
        lines.append(f"{label}: fits on {cards}{how}.")
    return lines


def _remedy_words(option: Option, cluster: Cluster) -> str:
    """'with --checkpointing 4 cards would do, sharded as fsdp'."""
    setup = option.whole.prediction.workload.setup
    asked = replace(setup, world_size=1, sharding="none")
    found = remedy(replace(option.whole.prediction.workload, setup=asked), cluster)
    if found is None:
        both = "" if setup.checkpointing else " with --checkpointing"
        return f"{MOST_REMEDY_CARDS} cards would not do either{both}"
    switch = "with --checkpointing " if found.checkpointing else ""
    how = f", sharded as {found.sharding}" if found.cards > 1 else ""
    cards = f"{count_text(found.cards)} card{'s' if found.cards > 1 else ''}"
    return f"{switch}{cards} would do{how}"


def _basis(predictions: Sequence[Prediction]) -> list[str]:
    """How far the peaks can be trusted, and what they take for granted."""
    known = [p for p in predictions if p.is_whole]
    bound = max((p.error_bound or 0 for p in known), default=0)
    within = f", or estimates within {100 * bound:g} % wherever they were checked" if bound else ""
    lines = [f"Peaks are exact{within}."]
    if len(known) < len(predictions):
        lines = ["Peaks are lower bounds: activations are not known."]
    return [*lines, *assumption_lines(predictions)]


def _time_words(network: Network | None) -> str:
    if network is None:
        link = "--interconnect adds what the ranks send each other"
        return f"Times are of compute alone, on all cards; {link}."
    at_least = f"at least as long as compute or sending over {network.key} at its full rate"
    at_most = "whichever is longer, at most both one after the other"
    return f"Times are on all cards: {at_least}, {at_most}."


def cluster_payload(
    model: ModelSpec,
    options: Sequence[Option],
    cluster: Cluster,
    network: Network | None,
    trainer: Trainer | None = None,
) -> dict[str, Any]:
    """The plan in JSON's own types; bytes are integers, what is not known is null."""
    return {
        "schema_version": "1.0",
        "model": {"id": model.id, "num_parameters": model.num_parameters},
        "cluster": {
            "gpu": cluster.gpu.key,
            **picked(cluster, "machines cards_each"),
            "usable_bytes": cluster.gpu.usable_bytes,
            "interconnect": network.key if network else None,
        },
        "options": [
            {
                "setup": setup_dict(option.whole.prediction.workload.setup),
                "trainer": trainer_dict(trainer, option.whole.prediction.workload),
                "least": _placement_dict(option.least) if option.least else None,
                "whole": _placement_dict(option.whole),
                "sent_bytes": option.communication.sent_bytes if option.communication else 0,
                **picked(option, "low_seconds high_seconds"),
            }
            for option in options
        ],
    }


def _placement_dict(placement: Placement) -> dict[str, Any]:
    peak = placement.prediction.peak
    return {
        **picked(placement, "world_size verdict"),
        "exactness": placement.prediction.exactness,
        "peak_bytes": peak.total_bytes,
        "moment": peak.moment,
        "bytes": dict(peak.bytes),
        "persistent_bytes": dict(placement.prediction.persistent_bytes),
    }
