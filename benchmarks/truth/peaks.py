"""Peak memory of a training step: predicted against what the CPU allocator recorded, over seeded
configurations.

    python -m benchmarks.truth.peaks [--only NUMBER ... | --again | --fresh SEED]

Each configuration is a small transformers + PEFT model that trains for two real steps; the second
is compared. Writes `results/peaks.md` and `results/peaks.json`: the signed errors (predicted / real
- 1) split by whether the answer claims to be exact and by the moment that it names, the worst ones,
and the errors of each phase. About ten minutes on one core; needs the test extra. --only prints
single configurations and writes nothing; --again compares the peaks recorded last with what is
predicted now, in seconds; --fresh measures the configurations of another seed, which no bound was
set on, and writes nothing.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch

import oracle
from benchmarks.pages import (
    RESULTS,
    page_of,
    parser_of,
    read_document,
    table,
    versions_of,
    words_of,
    write_lines,
    write_page,
)
from benchmarks.truth.peak_configurations import SEEDS, VOCABULARIES, Configuration, configurations
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.prediction import Prediction
from lora_profiler.question.workload import TrainSetup

VERSIONS = versions_of("torch", "transformers", "peft", "bitsandbytes")
PHASES = {
    "forward": ("last_layer_forward", "end_of_forward"),
    "backward": ("loss_backward", "last_layer_backward", "first_layer_backward"),
    "optimizer": ("optimizer_step",),
}


@dataclass(frozen=True, slots=True)
class Row:
    """`real` are the allocator's peaks of the second step by phase, and of the whole as "step".

    `tensors` is the peak that tensors alone reach, measured where an exact answer is off by more
    than 1 %: the allocator also sees what a CPU kernel takes for itself, which shows in a step of
    less than a megabyte.
    """

    configuration: Configuration
    real: Mapping[str, int]
    prediction: Prediction
    tensors: int | None = None

    @property
    def error(self) -> float:
        return self.prediction.peak.total_bytes / self.real["step"] - 1

    @property
    def moment(self) -> str:
        return self.prediction.peak.moment

    @property
    def steady(self) -> dict[str, int]:
        return {m.moment: m.total_bytes for m in self.prediction.moments if m.step == "steady"}

    @property
    def phase_errors(self) -> dict[str, float]:
        found = {
            phase: max(self.steady[m] for m in names if m in self.steady)
            for phase, names in PHASES.items()
        }
        return {phase: size / self.real[phase] - 1 for phase, size in found.items()}

    @property
    def inside_error(self) -> float | None:
        """Of the backward moments inside layers, where one of them really is the peak of
        backward."""
        if self.real["backward"] <= self.steady["loss_backward"]:
            return None
        return (
            max(self.steady["last_layer_backward"], self.steady["first_layer_backward"])
            / self.real["backward"]
            - 1
        )


def measure(configuration: Configuration) -> Row:
    peaks = oracle.step_peaks(
        oracle.build(configuration.config, configuration.setup), configuration.setup
    )
    return judged(configuration, {name: peaks[2, name] for name in (*oracle.PHASES, "step")})


def judged(configuration: Configuration, real: Mapping[str, int]) -> Row:
    row = Row(configuration, real, predict(configuration.workload))
    if row.prediction.exactness != "exact" or abs(row.error) <= 0.01:
        return row
    model = oracle.build(configuration.config, configuration.setup)
    return replace(
        row, tensors=oracle.step_peaks(model, configuration.setup, source="dispatch")[2, "step"]
    )


# --- reporting ------------------------------------------------------------------------------------


def percent(value: float) -> str:
    return f"{100 * value:+.3f} %"


COLUMNS = ">runs | >lowest | >median | >highest | >mean of absolute | >within 1 %"


def by(title: str, groups: Iterable[tuple[str, list[float]]]) -> list[str]:
    """A table of errors: how many, lowest, median, highest, mean of the absolute values, share
    within 1 %."""
    rows = (
        (
            *(name, len(errors), percent(min(errors)), percent(median(errors))),
            *(percent(max(errors)), f"{100 * mean(map(abs, errors)):.3f} %"),
            f"{100 * sum(abs(e) <= 0.01 for e in errors) / len(errors):.0f} %",
        )
        for name, errors in groups
        if errors
    )
    return table(f"{title} | {COLUMNS}", rows)


def grouped(rows: list[Row], key: Callable[[Row], str]) -> list[tuple[str, list[float]]]:
    names = sorted({key(r) for r in rows})
    return [(name, [r.error for r in rows if key(r) == name]) for name in names]


def as_markdown(rows: list[Row], seconds: int) -> str:
    exact = [r for r in rows if r.prediction.exactness == "exact"]
    estimates = [r for r in rows if r.prediction.exactness == "estimate"]
    answers = (("says exact", exact), ("says estimate", estimates))
    checkpointing = [("with checkpointing", True), ("without", False)]

    def setup(row: Row) -> TrainSetup:
        return row.configuration.setup

    def inside(on: bool) -> list[float]:
        errors = (r.inside_error for r in rows if setup(r).checkpointing == on)
        return [error for error in errors if error is not None]

    families = {r.configuration.config["model_type"] for r in rows}
    blocks: list[str | list[str]] = [
        f"{len(rows)} configurations of {len(families)} families, vocabularies of\n"
        f"{min(VOCABULARIES)} to {max(VOCABULARIES)}; two real steps on the CPU each, the second"
        " compared. Real: torch's\nrecord of its CPU allocator, kernel scratch included, on one"
        " thread. Errors are predicted / real - 1.\n"
        f"`python -m benchmarks.truth.peaks`, {seconds} s, with {words_of(VERSIONS)}.",
        by("answer", [(name, [r.error for r in some]) for name, some in answers]),
        by("moment of an exact peak", grouped(exact, lambda r: r.moment)),
        by("moment of an estimated peak", grouped(estimates, lambda r: r.moment)),
        by("phase, its own peak", [(p, [r.phase_errors[p] for r in rows]) for p in PHASES]),
        by("backward inside a layer", [(name, inside(on)) for name, on in checkpointing]),
        by(
            "estimates",
            [
                (name, [r.error for r in estimates if setup(r).checkpointing == on])
                for name, on in checkpointing
            ],
        ),
        by("family", grouped(rows, lambda r: str(r.configuration.config["model_type"]))),
        by(
            "vocabulary",
            sorted(
                grouped(rows, lambda r: str(r.configuration.config["vocab_size"])),
                key=lambda group: int(group[0]),
            ),
        ),
        by("optimizer", grouped(rows, lambda r: f"{setup(r).optimizer} {setup(r).optimizer_impl}")),
        by("trains", grouped(rows, lambda r: r.configuration.method)),
        by("precision", grouped(rows, lambda r: f"{setup(r).dtype} {setup(r).precision}")),
    ]
    for title, some in (("exact", exact), ("estimate", estimates)):
        worst = sorted(some, key=lambda r: -abs(r.error))[:10]
        blocks += [
            f"## The ten worst answers that say {title}",
            table(
                ">error | moment | configuration",
                (
                    (percent(r.error), r.moment, f"{r.configuration.number}: {r.configuration}")
                    for r in worst
                ),
            ),
            *(
                f"Configuration {r.configuration.number}: predicted"
                f" {r.prediction.peak.total_bytes:,} B, tensors alone reach {r.tensors:,} B; the"
                f" allocator saw {r.real['step']:,} B, the rest of it scratch inside CPU kernels."
                for r in some
                if r.tensors is not None
            ),
        ]
    return page_of("Peak memory of a training step, predicted and real", *blocks)


def write_rows(rows: list[Row], seconds: int) -> None:
    answers = {
        kind: [abs(r.error) for r in rows if r.prediction.exactness == kind]
        for kind in ("exact", "estimate")
    }
    head = {
        "versions": VERSIONS,
        "seconds": seconds,
        "worst": {kind: round(max(errors, default=0.0), 6) for kind, errors in answers.items()},
    }
    write_lines(RESULTS / "peaks.json", head, map(_row, rows))


def _row(r: Row) -> dict[str, Any]:
    return {
        "number": r.configuration.number,
        "configuration": str(r.configuration),
        "exactness": r.prediction.exactness,
        "moment": r.moment,
        "predicted": r.prediction.peak.total_bytes,
        "real": dict(r.real),
        "tensors": r.tensors,
        "error": round(r.error, 6),
        "inside_error": None if r.inside_error is None else round(r.inside_error, 6),
        "phase_errors": {phase: round(e, 6) for phase, e in r.phase_errors.items()},
    }


def recorded() -> dict[int, Mapping[str, int]]:
    """The real peaks of the last whole run, by the number of the configuration."""
    rows = read_document("peaks")["rows"]
    known = {c.number: str(c) for c in configurations()}
    assert known == {r["number"]: r["configuration"] for r in rows}, (
        "the configurations have changed: run the benchmark again"
    )
    return {r["number"]: r["real"] for r in rows}


def main() -> int:
    parser = parser_of(__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", type=int, nargs="+", default=[], metavar="NUMBER")
    which.add_argument("--again", action="store_true")
    which.add_argument("--fresh", type=int, metavar="SEED")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if options.again:
        real, seconds = recorded(), read_document("peaks")["seconds"]
        write([judged(c, real[c.number]) for c in configurations()], seconds)
        return 0
    started, rows = time.perf_counter(), []
    for configuration in configurations(SEEDS if options.fresh is None else (options.fresh,)):
        if options.only and configuration.number not in options.only:
            continue
        row = measure(configuration)
        rows.append(row)
        phases = " ".join(f"{phase} {percent(e)}" for phase, e in row.phase_errors.items())
        answer = f"{row.prediction.exactness}, {row.moment} {percent(row.error)}"
        print(f"{configuration.number}: {answer} | {phases} | {configuration}", flush=True)
    if options.fresh is not None:
        by_answer = [
            (kind, [r.error for r in rows if r.prediction.exactness == kind])
            for kind in ("exact", "estimate")
        ]
        print(*by("fresh", by_answer), sep="\n")
    elif not options.only:
        write(rows, round(time.perf_counter() - started))
    return 0


def write(rows: list[Row], seconds: int) -> None:
    write_page("peaks", as_markdown(rows, seconds))
    write_rows(rows, seconds)


if __name__ == "__main__":
    sys.exit(main())
