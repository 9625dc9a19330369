"""Two predictors that share nothing but the question: the rules against compiled traces, at full size, for the catalogue.

    python -m benchmarks.profiles [--models TEXT] [--deadline SECONDS] [--jobs N]        seconds a model; needs the test extra

For every model of the catalogue, full and LoRA, with and without checkpointing, a profile is compiled (CUDA rules) and asked at
several sizes. Where the rules know the family, saved bytes, persistent bytes, FLOPs and the peak are compared with theirs; of
every other type it is told that a profile answers, or why none does. Writes `results/profiles.md` and `results/profiles.json`;
rows that are there already are kept, so that a run that was cut off goes on.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_profiler.catalog import bundled_models, find_model
from lora_profiler.errors import LoraProfilerError
from lora_profiler.workload import LoraConfig, TrainSetup, Workload

RESULTS = Path(__file__).resolve().parent / "results"
BASE = TrainSetup(optimizer_impl="foreach", batch_size=2, seq_len=512)
SETUPS = {
    "full": BASE,
    "full, checkpointing": replace(BASE, checkpointing=True),
    "LoRA": replace(BASE, lora=LoraConfig(r=16)),
    "LoRA, checkpointing": replace(BASE, lora=LoraConfig(r=16), checkpointing=True),
}
SIZES = ((2, 512, 16), (2, 2048, 8), (4, 1024, 64), (16, 8192, 16))
"""(batch, sequence, rank) at which both are asked."""


def asked(name: str) -> Iterator[tuple[str, Workload]]:
    model = find_model(name, offline=True)
    for label, setup in SETUPS.items():
        yield label, Workload(model=model, setup=setup)


def rows_of(name: str) -> list[dict[str, Any]]:
    """One row a setup: what the profile is, and where the rules say otherwise. Runs in a process of its own."""
    import warnings

    from lora_profiler.compiled.profile import packed
    from lora_profiler.traced.compiler import compile_profile

    warnings.simplefilter("ignore")
    found = []
    for label, workload in asked(name):
        began = time.perf_counter()
        row: dict[str, Any] = {"model": name, "type": workload.model.model_type, "setup": label}
        try:
            profile = compile_profile(workload)
        except LoraProfilerError as e:
            found.append(row | {"reason": str(e)})
            continue
        except Exception as e:  # whatever a library raises on a meta tensor belongs into the table
            found.append(row | {"reason": f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"})
            continue
        row |= {
            "seconds": round(time.perf_counter() - began, 1),
            "bytes": len(packed(profile)),
            "folded": profile.layout is not None,
            "instants": len(profile.instants),
            "kernels": list(profile.kernels),
        }
        found.append(row | _compared(workload, profile))
    return found


def _compared(workload: Workload, profile: Any) -> dict[str, Any]:
    from lora_profiler.compiled import predict_with
    from lora_profiler.planning.engine import predict, rules_know

    if not rules_know(workload):
        return {"rules": None}
    wrong: list[str] = []
    errors, exact = [], 0
    for batch, seq, rank in SIZES:
        setup = workload.setup
        lora = replace(setup.lora, r=rank) if setup.lora else None
        at = replace(workload, setup=replace(setup, batch_size=batch, seq_len=seq, lora=lora))
        if any((seq >= w) != full for w, full in zip(_windows(at), profile.facts.windows_filled, strict=True)):
            continue
        mine, rules = predict_with(profile, at), predict(at, "analytic")
        for field in ("saved_activation_bytes", "persistent_bytes", "parameters", "flops"):
            if getattr(mine, field) != getattr(rules, field):
                wrong.append(
                    f"{field} at {batch} x {seq}, rank {rank}: {getattr(mine, field)} traced, {getattr(rules, field)} by rules"
                )
        error = rules.peak.total_bytes / mine.peak.total_bytes - 1
        errors.append(error)
        if rules.exactness == "exact":
            exact += 1
            if error:
                wrong.append(f"peak at {batch} x {seq}, rank {rank}: {error:+.4%} and said to be exact")
    return {"rules": "equal" if not wrong else "differ", "differences": wrong, "peak_errors": errors, "exact": exact}


def _windows(workload: Workload) -> tuple[int, ...]:
    from lora_profiler.compiled.facts import windows_of

    return windows_of(workload.model)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", metavar="TEXT", help="only models whose name contains it")
    parser.add_argument("--deadline", type=float, default=None, metavar="SECONDS", help="start no model after so long")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    path = RESULTS / "profiles.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    done = {row["model"] for row in rows}
    names = [
        m.id for m in sorted(bundled_models(), key=lambda m: m.num_parameters) if options.models in m.id and m.id not in done
    ]
    began = time.monotonic()
    with ProcessPoolExecutor(options.jobs, max_tasks_per_child=4) as pool:
        waiting = iter(names)
        running = {pool.submit(rows_of, name): name for name, _ in zip(waiting, range(options.jobs), strict=False)}
        while running:
            finished = next(as_completed(running))
            name = running.pop(finished)
            rows += finished.result()
            write(rows)
            print(f"{len({r['model'] for r in rows})} models, {time.monotonic() - began:.0f} s: {name}", flush=True)
            late = options.deadline is not None and time.monotonic() - began > options.deadline
            following = None if late else next(waiting, None)
            if following is not None:
                running[pool.submit(rows_of, following)] = following
    return 1 if any(row.get("rules") == "differ" for row in rows) else 0


def write(rows: list[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: (row["type"], row["model"]))
    (RESULTS / "profiles.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n", "utf-8")
    made = [row for row in rows if "reason" not in row]
    compared = [row for row in made if row["rules"] is not None]
    exact = sum(row["exact"] for row in compared)
    estimates = [e for row in compared for e in row["peak_errors"] if e]
    points = sum(len(row["peak_errors"]) for row in compared)
    num_models, folded = len({r["model"] for r in rows}), sum(row["folded"] for row in made)
    equal = sum(row["rules"] == "equal" for row in compared)
    seconds, size = _median([row["seconds"] for row in made]), _median([row["bytes"] for row in made])
    lines = [
        "# Rules against compiled traces, at full size",
        "",
        f"`python -m benchmarks.profiles`: {num_models} models of the catalogue, full and LoRA (all linears), with and without",
        f"checkpointing, CUDA rules, batch 2 and more. {len(made)} of {len(rows)} steps have a profile; why the others have none",
        "stands below.",
        "",
        f"- {len(compared)} profiles are of families that the rules know: saved bytes, persistent bytes, parameters and",
        f"  FLOPs, and the peaks that the rules call exact, are equal in {equal} of them at every size asked ({points} points).",
        f"- The rules call {exact} peaks exact; {len(estimates)} of all {points} differ, by at most",
        f"  {max(map(abs, estimates), default=0):.3%}.",
        f"- {len(made) - len(compared)} profiles are of types that the rules do not know.",
        f"- A profile takes {seconds:.1f} s and {size:,.0f} B (medians, two processes a core); {folded} are folded.",
        "",
        "## Where the rules say otherwise",
        "",
        *(
            [f"- {r['model']}, {r['setup']}: {'; '.join(r['differences'][:3])}" for r in compared if r["differences"]]
            or ["Nowhere."]
        ),
        "",
        "## Without a profile",
        "",
        *([f"- {r['model']} ({r['type']}), {r['setup']}: {r['reason']}" for r in rows if "reason" in r] or ["None."]),
    ]
    (RESULTS / "profiles.md").write_text("\n".join(lines) + "\n", "utf-8")


def _median(values: list[float]) -> float:
    from statistics import median

    return median(values) if values else 0.0


if __name__ == "__main__":
    sys.exit(main())
