"""Plans of five real situations: what is recommended, how long the search takes, against one
prediction, whether trying everything comes to the same, and the recommended run's memory rehearsed.

    python -m benchmarks.truth.plans [--try-everything | --rehearse] [--only TEXT]

The plans and the times of their search; the front of every layout, each asked about alone; the
recommended run on pretended cards, with the Python that LORA_PROFILER_CUDA_PYTHON names. --only
takes situations whose title has the text. Each writes its part of `results/plans.json` and the
whole of `results/plans.md`. Seconds are of the process (`time.process_time`), so that what else
runs on the machine counts little; ratios count less still.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.pages import RESULTS, page_of, parser_of, table, write_json
from benchmarks.rehearsed.first_rank import rehearsed_first_rank
from benchmarks.rehearsing import steady_bytes
from benchmarks.truth.exhaustive_plans import front_of, front_of_plan, try_everything
from lora_profiler import (
    Amount,
    LoraProfilerError,
    Space,
    TrainingData,
    find_model,
    make_plan,
    offers_of,
    predict,
    step_time,
)
from lora_profiler.facts.catalog.gpus import table_prices
from lora_profiler.planning.placement import find_network
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.planned import Offer, PlannedRun
from lora_profiler.question.batching.data import read_lengths
from lora_profiler.question.workload import Workload
from lora_profiler.report.decision.plan import layout_words, price_words, run_words
from lora_profiler.units import GIB

JSON, PAGE = RESULTS / "plans.json", RESULTS / "plans.md"
TWENTY = (
    "t4", "l4", "a10", "a10g", "rtx_3090", "rtx_4090", "rtx_5090", "a40", "rtx_a6000", "l40s",
    "a100_sxm_40gb", "a100_pcie_80gb", "a100_sxm_80gb", "h100_pcie_80gb", "h100_sxm_80gb",
    "h100_nvl_94gb", "gh200_96gb", "h200_sxm_141gb", "b200_180gb", "b300_288gb",
)  # fmt: skip


@dataclass(frozen=True)
class Situation:
    """`worlds` are the numbers of cards to try."""

    title: str
    model: str
    cards: tuple[str, ...]
    ranks: tuple[int, ...] = (8, 16, 32, 64, 128)
    effective_batch: int = 16
    tokens: int | None = 10_000_000
    lengths: str = ""
    epochs: float = 1.0
    interconnect: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    worlds: tuple[int, ...] = (1,)

    @property
    def amount(self) -> Amount:
        if self.lengths:
            data = TrainingData(lengths=read_lengths(self.lengths))
            return Amount(data=data, epochs=self.epochs)
        return Amount(tokens=self.tokens, epochs=self.epochs)

    @property
    def space(self) -> Space:
        return Space(effective_batch=self.effective_batch, ranks=self.ranks)

    @property
    def offers(self) -> tuple[Offer, ...]:
        return offers_of(
            find_model(self.model),
            self.cards,
            prices=table_prices(),
            network=find_network(self.interconnect) if self.interconnect else None,
            **dict(self.options),
        )


SITUATIONS = (
    Situation("8B on one 24 GB card", "meta-llama/Llama-3.1-8B", ("rtx_4090",)),
    Situation(
        "70B on 2 x 24 GB, 8 x 80 GB",
        "meta-llama/Llama-3.1-70B",
        ("2xrtx_4090", "8xh100_sxm_80gb"),
        worlds=(1, 2, 4, 8),
    ),
    Situation("1B on a T4", "meta-llama/Llama-3.2-1B", ("t4",)),
    Situation(
        "7B, 50,000 conversations, 3 epochs",
        "Qwen/Qwen2.5-7B",
        ("rtx_4090", "l40s", "a100_sxm_80gb"),
        tokens=None,
        lengths="mean=600,max=4096,samples=50000",
        epochs=3,
    ),
    Situation(
        "405B on 16 x 8 H100",
        "meta-llama/Llama-3.1-405B",
        ("16x8xh100_sxm_80gb",),
        effective_batch=128,
        ranks=(16,),
        interconnect="ndr",
        worlds=(1, 2, 4, 8, 16, 32, 64, 128),
    ),
    Situation("8B over twenty cards", "meta-llama/Llama-3.1-8B", TWENTY),
)


def planned(situation: Situation) -> tuple[TrainingPlan, float]:
    """The plan, and the seconds that the search took."""
    offers, amount = situation.offers, situation.amount
    before = time.process_time()
    plan = make_plan(offers, amount, situation.space)
    return plan, time.process_time() - before


def one_answer_seconds(run: PlannedRun) -> float:
    """A prediction and a step time of the recommended run, of a size next to it, so that rules are
    known and numbers are not."""
    setup = run.setup
    other = replace(run.workload, setup=replace(setup, seq_len=setup.seq_len + 8))
    before = time.process_time()
    step_time(other, run.cluster.gpu, "auto", predict(other, may_trace=False))
    return time.process_time() - before


def search_part(situation: Situation) -> dict[str, Any]:
    plan, seconds = planned(situation)
    best = plan.recommended
    assert best is not None and best.hours is not None
    answer = one_answer_seconds(best)
    return {
        "recommended": run_words(best),
        "layout": layout_words(best.setup),
        "price": price_words(best),
        "peak_bytes": best.peak_bytes,
        "headroom_share": round(best.headroom_share, 4),
        "binds": plan.binding.kind if plan.binding else None,
        "front": len(plan.front),
        "considered": plan.counts.considered,
        "fitting": plan.counts.fitting,
        "timed": plan.counts.timed,
        "seconds": round(seconds, 2),
        "answer_ms": round(1000 * answer, 2),
        "ratio": round(seconds / answer, 1),
    }


def everything_part(situation: Situation) -> dict[str, Any]:
    plan, _ = planned(situation)
    before = time.process_time()
    tried = try_everything(situation.offers, situation.amount, situation.space, situation.worlds)
    best = plan.recommended
    found = front_of(tried)
    return {
        "tried": len(tried),
        "seconds": round(time.process_time() - before, 1),
        "same_front": front_of_plan(plan) == found,
        "recommended_on_it": best is not None and (best.cluster.gpu.key, best.setup) in found,
    }


def rehearsal_part(situation: Situation) -> dict[str, Any]:
    """Of two micro-batches at most, whose memory is that of more; of several ranks the first."""
    plan, _ = planned(situation)
    best = plan.recommended
    assert best is not None
    setup = best.worst.setup
    short = replace(setup, accumulation=min(setup.accumulation, 2))
    workload = Workload(model=best.worst.model, setup=short, platform=best.worst.platform)
    try:
        if setup.world_size == 1:
            rehearsed = predict(workload, "rehearsed")
            asked, found_bytes = rehearsed.workload, rehearsed.peak.total_bytes
        else:
            asked, document = rehearsed_first_rank(workload, best.cluster.gpu)
            found_bytes = steady_bytes(document)
    except LoraProfilerError as e:
        return {"refused": str(e).split("\n")[0]}
    told = predict(replace(workload, platform=asked.platform), may_trace=False)
    return {
        "run": run_words(best),
        "rehearsed_bytes": found_bytes,
        "predicted_bytes": told.peak.total_bytes,
        "exactness": told.exactness,
        "torch": asked.platform.torch_text,
    }


PARTS = {"search": search_part, "everything": everything_part, "rehearsal": rehearsal_part}


def _recommended(title: str, s: Mapping[str, Any]) -> tuple[str, ...]:
    memory = f"{s['peak_bytes'] / GIB:.2f}", f"{100 * s['headroom_share']:.0f} %"
    return title, s["recommended"], s["layout"], s["price"], *memory, s["binds"]


def _search(title: str, s: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (f"{s[name]:,}" for name in ("considered", "fitting", "timed", "front"))
    return title, *counts, f"{s['seconds']:.2f}", f"{s['answer_ms']:.1f}", f"{s['ratio']:.0f}"


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    searches = [parts["search"] for parts in results.values()]
    return page_of(
        "Plans of real situations",
        "`python -m benchmarks.truth.plans`, `--try-everything`, `--rehearse`. Prices are those"
        " of\n"
        "`lora_profiler/facts/catalog/data/prices.csv`, with their dates. A *one answer* is a"
        " prediction\n"
        "and a step time of the recommended run, next to its size: the floor of predicting.",
        table(
            "situation | recommended | layout | hours, money | >peak, GiB | >left | binds",
            map(_recommended, results, searches),
        ),
        table(
            "situation | >ways | >fit | >timed | >front | >search, s | >one answer, ms | >ratio",
            map(_search, results, searches),
        ),
        "## Tried in full",
        _listed(results, "everything", _everything_words),
        "## The recommended run's memory, rehearsed",
        "Of several ranks the first alone (`benchmarks/rehearsed/first_rank.py`).",
        _listed(results, "rehearsal", _rehearsal_words),
    )


def _listed(
    results: Mapping[str, Mapping[str, Any]], part: str, words: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    return [f"- {title}: {words(parts[part])}" for title, parts in results.items() if part in parts]


def _everything_words(part: Mapping[str, Any]) -> str:
    same = "the same front" if part["same_front"] else "ANOTHER FRONT"
    return f"{part['tried']:,} that fit, {same}, in {part['seconds']:,} s."


def _rehearsal_words(part: Mapping[str, Any]) -> str:
    if "refused" in part:
        return f"not rehearsed: {part['refused']}"
    told, found = part["predicted_bytes"], part["rehearsed_bytes"]
    error = "equal to the byte" if told == found else f"{100 * (told / found - 1):+.3f} %"
    return (
        f"{part['run']}: predicted {told:,} ({part['exactness']}), rehearsed {found:,} bytes with"
        f" torch {part['torch']}: {error}."
    )


def main() -> None:
    asked = parser_of(__doc__, try_everything=False, rehearse=False, only="").parse_args()
    name = "everything" if asked.try_everything else "rehearsal" if asked.rehearse else "search"
    results = json.loads(JSON.read_text()) if JSON.exists() else {}
    for situation in SITUATIONS:
        if asked.only not in situation.title:
            continue
        part = PARTS[name](situation)
        print(situation.title, part, flush=True)
        results.setdefault(situation.title, {})[name] = part
        ordered = {s.title: results[s.title] for s in SITUATIONS if s.title in results}
        write_json(JSON, ordered)
    PAGE.write_text(page({t: p for t, p in ordered.items() if "search" in p}))


if __name__ == "__main__":
    main()
