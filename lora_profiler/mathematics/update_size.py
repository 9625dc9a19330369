"""Claim 1: how many numbers a full update has, and how many A and B have, counted in PEFT's own
layers."""

import torch
from torch import nn

from lora_profiler.mathematics.adapters import (
    ADAPTER,
    adapted,
    layout,
    lora_layers,
    without_numbers,
)
from lora_profiler.mathematics.subject import Effort, Subject
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.report.claims.claim import Tell
from lora_profiler.report.claims.update_size import (
    AlikeLayers,
    Example,
    LayerRank,
    Model,
    ModelRank,
    UpdateSize,
)
from lora_profiler.trace.modeling import build_model, count_parameters
from lora_profiler.trace.modeling.third_party import quiet

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
EXAMPLE = (4096, 4096, 8)
"""d, k and r of the textbook's example."""

Place = tuple[str, str, int, int]
"""Linear layers that are alike: name without numbers, class, d, k."""
Count = tuple[int, int]
"""Numbers in A, in B."""


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> UpdateSize:
    """Counts what trains at every rank, in full and with PEFT's layers on every linear layer of the
    model, without its data."""
    workload = Workload(model=subject.spec, setup=TrainSetup(device="cpu", dtype="float32"))
    model = build_model(workload, device="meta")
    weights, _ = count_parameters(model)
    by_rank: dict[int, dict[Place, list[Count]]] = {}
    for number, r in enumerate(RANKS):
        tell(f"counting at rank {r}", number, len(RANKS))
        with torch.device("meta"), adapted(model, r=r, alpha=r, seed=seed) as wrapped:
            by_rank[r] = _counted(wrapped)
    places = {place: len(counts) for place, counts in by_rank[RANKS[0]].items()}
    return UpdateSize(
        example=_example(),
        layers=tuple(_layer(place, copies, by_rank) for place, copies in places.items()),
        model=_model(places, by_rank, weights),
        counts_equal_formula=(_are_as_stated(by_rank) and all(_turns(d, k) for *_, d, k in places)),
    )


def _counted(wrapped: nn.Module) -> dict[Place, list[Count]]:
    counts: dict[Place, list[Count]] = {}
    for name, layer in lora_layers(wrapped).items():
        shape = layer.get_base_layer().weight.shape
        d, k = reversed(shape) if layout(layer) == "Conv1D" else shape
        count = layer.lora_A[ADAPTER].weight.numel(), layer.lora_B[ADAPTER].weight.numel()
        counts.setdefault((without_numbers(name), layout(layer), d, k), []).append(count)
    return counts


def _are_as_stated(by_rank: dict[int, dict[Place, list[Count]]]) -> bool:
    """Whether every A has r x k numbers and every B d x r."""
    return all(
        count == (r * k, d * r)
        for r, by_place in by_rank.items()
        for (*_, d, k), counts in by_place.items()
        for count in counts
    )


def _first_rank_above(full: int, thin: int) -> int:
    """The least rank r with r x `thin` above `full`."""
    return full // thin + 1


def _turns(d: int, k: int) -> bool:
    """Whether PEFT trains more than d x k numbers from the rank on that the formula says, and no
    more at the one before."""
    rank = _first_rank_above(d * k, d + k)
    return _trained(d, k, rank) > d * k and (rank == 1 or _trained(d, k, rank - 1) <= d * k)


def _trained(d: int, k: int, r: int) -> int:
    """What PEFT trains in one layer of d x k at rank r."""
    with quiet(), torch.device("meta"):
        from peft import LoraConfig, inject_adapter_in_model

        alone = inject_adapter_in_model(
            LoraConfig(r=r, target_modules=["0"]), nn.Sequential(nn.Linear(k, d, bias=False))
        )
    return sum(p.numel() for p in alone.parameters() if p.requires_grad)


def _example() -> Example:
    d, k, r = EXAMPLE
    full, lora = d * k, _trained(d, k, r)
    return Example(
        out_features=d, in_features=k, rank=r, full=full, lora=lora, fewer=1 - lora / full
    )


def _layer(place: Place, copies: int, by_rank: dict[int, dict[Place, list[Count]]]) -> AlikeLayers:
    name, kind, d, k = place
    return AlikeLayers(
        name=name,
        kind=kind,
        copies=copies,
        out_features=d,
        in_features=k,
        full=d * k,
        lora_exceeds_full_from_rank=_first_rank_above(d * k, d + k),
        ranks=tuple(
            LayerRank(rank=r, a=counts[place][0][0], b=counts[place][0][1])
            for r, counts in by_rank.items()
        ),
    )


def _model(
    places: dict[Place, int], by_rank: dict[int, dict[Place, list[Count]]], weights: int
) -> Model:
    full = sum(copies * d * k for (*_, d, k), copies in places.items())
    thin = sum(copies * (d + k) for (*_, d, k), copies in places.items())
    rows = []
    for r, by_place in by_rank.items():
        a, b = (sum(count[i] for counts in by_place.values() for count in counts) for i in (0, 1))
        rows.append(ModelRank(rank=r, a=a, b=b, lora=a + b, share_of_full=(a + b) / full))
    return Model(
        weights=weights,
        full=full,
        lora_exceeds_full_from_rank=_first_rank_above(full, thin),
        ranks=tuple(rows),
    )
