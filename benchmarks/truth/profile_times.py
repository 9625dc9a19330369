"""Step times whose kernels are read off a profile, against those whose kernels are traced.

    python -m benchmarks.truth.profile_times

Every type of models that no rule counts, by the smallest model with its facts: full, LoRA and
QLoRA by transformers' Trainer on an RTX 4090, 1 x 2,048 tokens. The same constants price both, so
that the difference is that of the kernels alone. Writes `results/profile_times.md` and
`results/profile_times.json`; about ten minutes on one core, needs the test extra.
"""

import warnings
from collections.abc import Iterator
from statistics import mean, median
from typing import Any

from benchmarks.pages import page_of, parser_of, table, write_document, write_page
from benchmarks.truth.bundle import laws_asked, workload_of
from lora_profiler.errors import LoraProfilerError, UncountedError
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.memory.compiled import has_profile
from lora_profiler.memory.compiled.kernels import profile_kernels
from lora_profiler.memory.kernels import StepKernels
from lora_profiler.question.loop import nearest_traced
from lora_profiler.question.workload import Workload
from lora_profiler.steptime import predict_step_time

GPU = find_gpu("rtx_4090")
METHODS = ("full", "lora", "qlora")


def workloads() -> Iterator[Workload]:
    models = {w.model.id: w.model for label, w in laws_asked() if label.endswith("guide lora 1")}
    for model in models.values():
        for method in METHODS:
            asked = workload_of(model, f"plain transformers {method}")
            workload = Workload(model=model, setup=nearest_traced(asked.setup))
            if has_profile(workload):
                yield workload


def row_of(workload: Workload) -> dict[str, Any]:
    row = {
        "model": workload.model.id,
        "type": workload.model.model_type,
        "method": workload.setup.method,
    }
    try:
        read = profile_kernels(workload)
    except UncountedError as e:
        return row | {"no": str(e).partition(": ")[2].partition(";")[0] or str(e)}
    from lora_profiler.trace.kernels import step_kernels

    try:
        traced = step_kernels(workload)
    except LoraProfilerError as e:
        return row | {"no": f"no trace: {e}"}
    return row | {
        "traced_seconds": seconds(traced, workload),
        "read_seconds": seconds(read, workload),
    }


def seconds(kernels: StepKernels, workload: Workload) -> float:
    found = predict_step_time(kernels, GPU, workload.setup)
    assert found is not None
    return found.seconds


def error(row: dict[str, Any]) -> float:
    return float(row["read_seconds"] / row["traced_seconds"] - 1)


def markdown(rows: list[dict[str, Any]]) -> str:
    timed = sorted((r for r in rows if "read_seconds" in r), key=error)
    errors = [error(row) for row in timed]
    worst = max(errors, key=abs)
    return page_of(
        "Step times read off profiles",
        f"`python -m benchmarks.truth.profile_times`: {len(timed)} steps of"
        f" {len({r['type'] for r in timed})} types that no rule counts, mean error"
        f" {100 * mean(map(abs, errors)):.1f} %, median {100 * median(map(abs, errors)):.1f} %,"
        f" worst {100 * worst:+.1f} %. An error is that of the step's time with kernels read off a"
        " profile, against kernels traced; the same constants price both.",
        table(
            "model | type | method | >traced, s | >read off, s | >error, %",
            (
                [
                    row["model"],
                    row["type"],
                    row["method"],
                    f"{row['traced_seconds']:.3f}",
                    f"{row['read_seconds']:.3f}",
                    f"{100 * error(row):+.1f}",
                ]
                for row in timed
            ),
        ),
        "Not timed:",
        table(
            "model | type | method | since",
            ([r["model"], r["type"], r["method"], r["no"]] for r in rows if "no" in r),
        ),
    )


def main() -> None:
    parser_of(__doc__).parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for workload in workloads():
        rows.append(row_of(workload))
        print(rows[-1], flush=True)
    write_document("profile_times", {"gpu": GPU.key, "rows": rows})
    write_page("profile_times", markdown(rows))


if __name__ == "__main__":
    main()
