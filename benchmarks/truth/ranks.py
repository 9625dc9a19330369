"""Several ranks by rule against the real DDP and FSDP2, traced under a fake process group; and how
long plans take.

    python -m benchmarks.truth.ranks [--write]

Prints the report; `--write` writes it to `results/ranks.md`. Ten minutes on one core; needs the
test extra.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import cycle, product
from time import perf_counter
from typing import Any

from benchmarks.pages import page_of, parser_of, table, write_page
from benchmarks.truth.suite_models import MEDIUM
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.memory.analytic import predict as by_rule
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.placement import find_cluster, find_network, plan
from lora_profiler.question.workload import (
    FULLY_SHARDED,
    LoraConfig,
    Quantization,
    Sharding,
    TrainSetup,
    Workload,
)
from lora_profiler.report.decision.cluster import cluster_blocks
from lora_profiler.report.render import markdown
from lora_profiler.trace import predict as by_trace

WORLDS = (2, 8, 64)
SHARDINGS: tuple[Sharding, ...] = ("ddp", "fsdp", "fsdp-no-reshard")
EXACT = ("setup", "end_of_forward", "loss_backward", "optimizer_step")
MODELS = ("llama", "qwen2", "qwen3", "mistral", "phi3", "gpt2", "gpt_neox", "opt")
PLANS = (
    ("meta-llama/Llama-3.1-70B", "8xh100_sxm_80gb", "nvlink4"),
    ("meta-llama/Llama-3.1-70B", "4x8xh100_sxm_80gb", "ndr"),
    ("meta-llama/Llama-3.1-405B", "16x8xh100_sxm_80gb", "ndr"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What agreed of one case: persistent bytes by category, exact moments, collectives; and the
    peak's relative error."""

    workload: Workload
    persistent: bool
    moments: bool
    traffic: bool
    error: float


def cases() -> Iterator[Workload]:
    """Every model with every sharding and world size, full and LoRA in turn, with and without
    checkpointing."""
    turns = cycle(
        [
            {"lora": None, "checkpointing": False},
            {"lora": LoraConfig(r=6), "checkpointing": True},
            {"lora": None, "checkpointing": True},
            {"lora": LoraConfig(r=16, adapter_dtype="bfloat16"), "checkpointing": False},
        ]
    )
    for name, sharding, world in product(MODELS, SHARDINGS, WORLDS):
        model = model_from_config(MEDIUM[name], id=name, source="benchmark")
        asked: Any = {"batch_size": 2, "seq_len": 96, "world_size": world, **next(turns)}
        yield Workload(model=model, setup=TrainSetup(sharding=sharding, **asked))


def outcome(workload: Workload) -> Outcome:
    rule, trace = by_rule(workload), by_trace(workload)
    return Outcome(
        workload=workload,
        persistent=dict(rule.persistent_bytes) == dict(trace.persistent_bytes),
        moments=_moments(rule) == _moments(trace),
        traffic=_traffic(rule) == _traffic(trace),
        error=rule.peak.total_bytes / trace.peak.total_bytes - 1,
    )


def _moments(prediction: Prediction) -> dict[str, int]:
    return {
        m.moment: m.total_bytes
        for m in prediction.moments
        if m.moment in EXACT and m.step == "steady"
    }


def _traffic(prediction: Prediction) -> dict[object, object]:
    """Counts too where the trace has them: DDP's buckets are traced before they are filled anew."""
    counted = prediction.workload.setup.sharding in FULLY_SHARDED
    return {
        (t.collective, t.phase): (t.count if counted else None, t.size_bytes)
        for t in prediction.traffic
    }


def report(outcomes: list[Outcome], plans: list[str]) -> str:
    worst = max(outcomes, key=lambda o: abs(o.error))
    setup = worst.workload.setup
    alone = [_alone(o.workload) for o in outcomes if abs(o.error) > 0.01]
    rows = []
    for sharding, world in product(SHARDINGS, WORLDS):
        asked = [(o.workload.setup.sharding, o.workload.setup.world_size) for o in outcomes]
        mine = [o for o, key in zip(outcomes, asked, strict=True) if key == (sharding, world)]
        agreed = [
            sum(getattr(o, part) for o in mine) for part in ("persistent", "moments", "traffic")
        ]
        counts = [f"{n} of {len(mine)} equal" for n in agreed]
        furthest = f"{100 * max((o.error for o in mine), key=abs):+.2f} %"
        rows.append([sharding, world, len(mine), *counts, furthest])
    return page_of(
        "Several ranks",
        f"`python -m benchmarks.truth.ranks --write`; torch {version('torch')}, transformers"
        f" {version('transformers')}, peft {version('peft')}.",
        f"{len(outcomes)} cases: {len(MODELS)} families, full and LoRA, with and without"
        " checkpointing, rules of CUDA. Rules against the real `DistributedDataParallel` and"
        " `fully_shard`, traced on the meta device under a fake process group. Exact moments"
        f" are {', '.join(EXACT)}. Inside a layer rules are estimates, as they are for one"
        f" process: the worst peak is {100 * worst.error:+.2f} % off"
        f" ({worst.workload.model.id}, {setup.sharding} over {setup.world_size}"
        f" ranks){_beside_one(alone)}.",
        table(
            "sharding | ranks | cases | persistent bytes | exact moments | collectives"
            " | peak, worst",
            rows,
        ),
        plans,
    )


def _beside_one(alone: list[float]) -> str:
    if not alone:
        return ""
    return (
        f"; of the {len(alone)} over 1 % off, one process alone is up to {100 * max(alone):.2f} %"
        " off in the same moment"
    )


def _alone(workload: Workload) -> float:
    """Relative error of one process alone in the moment of the peak."""
    one = replace(workload, setup=replace(workload.setup, world_size=1, sharding="none"))
    rule, trace = by_rule(one), by_trace(one)
    moment = by_rule(workload).peak.moment
    a, b = (max(m.total_bytes for m in p.moments if m.moment == moment) for p in (rule, trace))
    return abs(a / b - 1)


def plans() -> Iterator[str]:
    lora = LoraConfig()
    for name, *of in PLANS:
        model, cluster, network = (
            find_model(name, offline=True),
            find_cluster(of[0]),
            find_network(of[1]),
        )
        setups = [TrainSetup(checkpointing=True, lora=each) for each in (None, lora)]
        setups.append(TrainSetup(checkpointing=True, lora=lora, quantization=Quantization()))
        began = perf_counter()
        options = plan([Workload(model=model, setup=setup) for setup in setups], cluster, network)
        took = perf_counter() - began
        blocks = cluster_blocks(model, options, cluster, network, detail=True)
        yield f"{markdown(blocks)}\nPlanned in {took:.1f} s.\n"


def main() -> None:
    options = parser_of(__doc__, write=False).parse_args()
    found = []
    for workload in cases():
        found.append(outcome(workload))
        last, setup = found[-1], workload.setup
        agreed = (last.persistent, last.moments, last.traffic)
        asked = (workload.model.id, setup.sharding, setup.world_size)
        print(*asked, *agreed, f"{last.error:+.4f}", file=sys.stderr)
    text = report(found, list(plans()))
    print(text)
    if options.write:
        write_page("ranks", text)


if __name__ == "__main__":
    main()
