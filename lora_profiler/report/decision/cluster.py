"""The plan for a cluster as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lora_profiler.facts.stacks import Trainer
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.placement import (
    MOST_REMEDY_CARDS,
    Cluster,
    Network,
    Placement,
    PlacementOption,
    remedy,
)
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import setup_dict
from lora_profiler.report.answer.predictions import assumption_lines
from lora_profiler.report.answer.verdicts import worded
from lora_profiler.report.blocks import Block, Sign, Table, VerdictLine, advice, dim, table
from lora_profiler.report.decision.plan import gpus_text, sharding_name
from lora_profiler.report.json import picked
from lora_profiler.report.labels import capital, method_label
from lora_profiler.report.setup_words import asked_words, sending_words, trainer_dict, trainer_lines
from lora_profiler.report.terminal import SIGNS
from lora_profiler.units import GIB, count_text, in_unit, short_in_unit


def cluster_blocks(
    model: ModelSpec,
    options: Sequence[PlacementOption],
    cluster: Cluster,
    network: Network | None,
    trainer: Trainer | None = None,
    *,
    detail: bool = False,
) -> list[Block]:
    """A verdict for each method, a row for each placement, and what was assumed; with `detail` all
    that numbers rest on."""
    wholes = [option.whole.prediction for option in options]
    by_method: dict[str, list[PlacementOption]] = {}
    for option in options:
        by_method.setdefault(method_label(option.whole.prediction), []).append(option)
    blocks: list[Block] = [_verdict(mine, cluster) for mine in by_method.values()]
    for mine in by_method.values():
        if all(option.least is None for option in mine):
            blocks.append(advice(_remedy_words(mine[0], cluster)))
    asked = [mine[0].whole.prediction for mine in by_method.values()]
    dtypes = list(dict.fromkeys(prediction.workload.setup.dtype for prediction in wholes))
    training, attention = asked_words([_on_one_gpu(prediction) for prediction in asked], dtypes)
    question = [
        f"{training} on each GPU.",
        f"{attention}.",
        *trainer_lines(trainer, [prediction.workload for prediction in asked]),
    ]
    basis = _basis(wholes)
    shown = basis if detail else [*basis[:1], "What numbers rest on: --detail"]
    return [*blocks, _table(options), dim(*question, sending_words(network), *shown)]


def _on_one_gpu(prediction: Prediction) -> Prediction:
    setup = replace(prediction.workload.setup, world_size=1, sharding="none")
    return replace(prediction, workload=replace(prediction.workload, setup=setup))


def _verdict(options: Sequence[PlacementOption], cluster: Cluster) -> VerdictLine:
    """'LoRA r16 fits 8 × H100 with FSDP: 28.3 of 79.1 GiB a GPU; 4 GPUs are enough.'"""
    name = capital(method_label(options[0].whole.prediction))
    machines = f" in {count_text(cluster.machines)} machines" if cluster.machines > 1 else ""
    gpus = f"{gpus_text(cluster.cards, cluster.gpu, {})}{machines}"
    usable = short_in_unit(cluster.gpu.usable_bytes or 0, GIB)
    fitting = [option for option in options if option.whole.verdict == "fits"]
    best = min(options, key=lambda option: _total(option.whole))
    if not fitting:
        sign: Sign = "tight" if best.whole.verdict == "tight" else "does_not_fit"
        needs = f" needs {_gib(best.whole)} GiB a GPU with {sharding_name(best.sharding)}"
        words = f"{worded(sign, name, gpus)}:"
        return VerdictLine(sign=sign, words=words, rest=f"{needs}, each has {usable}.")
    best = min(fitting, key=lambda o: (o.low_seconds or 0.0, _total(o.whole)))
    least = min(o.least.world_size for o in options if o.least)
    enough = f"; {count_text(least)} GPU{'s are' if least > 1 else ' is'} enough"
    words = f"{worded('fits', name, gpus)} with {sharding_name(best.sharding)}:"
    held = f" {_gib(best.whole)} of {usable} GiB a GPU"
    return VerdictLine(sign="fits", words=words, rest=f"{held}{enough * (least < cluster.cards)}.")


def _total(placement: Placement) -> int:
    return placement.prediction.peak.total_bytes


def _gib(placement: Placement) -> str:
    return short_in_unit(_total(placement), GIB)


def _table(options: Sequence[PlacementOption]) -> Table:
    def step(option: PlacementOption) -> str:
        low, high = option.low_seconds, option.high_seconds
        return "?" if low is None else f"{low:.2f} to {high or 0:.2f} s"

    def rates(option: PlacementOption) -> str:
        rates = option.tokens_per_second
        return "?" if rates is None else f"{rates[0]:,.0f} to {rates[1]:,.0f}"

    return table(
        options,
        (
            ("", lambda o: SIGNS[o.whole.verdict]),
            ("", lambda o: method_label(o.whole.prediction)),
            ("sharding", lambda o: sharding_name(o.sharding)),
            ("GiB/GPU", lambda o: _peak(o.whole)),
            ("GPUs", lambda o: count_text(o.least.world_size) if o.least else "more"),
            ("step", step),
            ("tokens/s", rates),
        ),
        left=3,
        spare=("tokens/s",),
    )


def _peak(placement: Placement) -> str:
    """A lower bound where activations are not known."""
    text = in_unit(_total(placement), GIB)
    return text if placement.prediction.is_whole else f">= {text}"


def _remedy_words(option: PlacementOption, cluster: Cluster) -> str:
    """'Full fits 16 × H100 with FSDP and `--checkpointing`.'"""
    workload = option.whole.prediction.workload
    alone = replace(workload.setup, world_size=1, sharding="none")
    found = remedy(replace(workload, setup=alone), cluster)
    name = capital(method_label(option.whole.prediction))
    if found is None:
        also = "" if workload.setup.checkpointing else ", even with --checkpointing"
        return f"{name} does not fit {gpus_text(MOST_REMEDY_CARDS, cluster.gpu, {})} either{also}."
    switch = " and `--checkpointing`" if found.checkpointing else ""
    return f"{name} fits {gpus_text(found.cards, cluster.gpu, {}, found.sharding)}{switch}."


def _basis(predictions: Sequence[Prediction]) -> list[str]:
    """How far the peaks can be trusted, and what they take for granted."""
    known = [p for p in predictions if p.is_whole]
    bound = max((p.error_bound or 0 for p in known), default=0)
    within = f", or estimates within {100 * bound:g} % where checked" if bound else ""
    lines = [f"Peaks: computed byte for byte{within}; not measured on GPUs."]
    if len(known) < len(predictions):
        lines = ["Peaks are lower bounds: activations are not known."]
    return [*lines, *assumption_lines(predictions)]


def cluster_payload(
    model: ModelSpec,
    options: Sequence[PlacementOption],
    cluster: Cluster,
    network: Network | None,
    trainer: Trainer | None = None,
) -> dict[str, Any]:
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
