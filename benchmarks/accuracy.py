"""Accuracy as README and docs/accuracy.md tell it, from the committed results of the other
benchmarks.

    python -m benchmarks.accuracy

Prints all; `python tests/readme.py --update` puts it into the pages.
"""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from benchmarks.pages import read_document as results
from benchmarks.pages import words_of
from benchmarks.public_rows.grade import headline
from benchmarks.rehearsed_peaks import compared
from benchmarks.rehearsed_trainers import FAMILY
from benchmarks.rows import read_rows
from lora_profiler.evidence import MeasuredMemory, MeasuredStep, interval, measured_steps
from lora_profiler.report.evidence import (
    command_words,
    coverage_words,
    errors_of,
    graded_memory,
    interval_words,
)
from lora_profiler.report.labels import LEFT_OUT_LABELS, TIER_LABELS


def error_row(what: str, rows: Sequence[dict[str, Any]]) -> str:
    errors = [row["error"] for row in rows]
    worst = max(rows, key=lambda row: abs(row["error"]))
    return (
        f"| {what} | {len(rows)} | {mean(abs(e) for e in errors):.2%} | {worst['error']:+.2%} |"
        f" {worst['configuration']} |"
    )


def measured_line() -> str:
    """The committed records of the harness."""
    found = []
    for name, folder in results("records").items():
        peak = next(e for e in folder["errors"] if e["metric"] == "peak_requested_bytes")
        worst = "-".join(peak["worst_record"].split("-")[:-2])
        found.append(
            f"- **Real training runs**, {folder['records']} records of the harness ({name}): the"
            f" peak is {peak['mean_absolute']:.2%} off in the mean, {peak['worst']:+.2%} at worst"
            f" ({worst}); by metric and category, every miss with its reason, in"
            " `benchmarks/results/records.md`.\n"
        )
    return "".join(found)


def rehearsed_with_trainers() -> tuple[int, int, float]:
    """Runs of the trainers themselves, how many of them equal, and the furthest error."""
    rows = compared(read_rows(FAMILY.rows))
    errors = [FAMILY.error(row) for row in rows]
    return len(errors), sum(error == 0 for error in errors), max(errors, key=abs)


def trainers_line() -> str:
    count, equal, worst = rehearsed_with_trainers()
    return (
        f"- **Trainers themselves, rehearsed**: transformers' Trainer, TRL's SFTTrainer and"
        f" DPOTrainer, {count} runs of models at full size over torch's CUDA build on pretended"
        f" cards; what `--trainer` says is equal to the byte in {equal}, {worst:+.4%} off at worst"
        " (`benchmarks/results/rehearsed_trainers.md`)."
    )


def profiles_line() -> str:
    """Two predictors at full size."""
    rows = results("profiles")["rows"]
    compared = [row for row in rows if row.get("rules")]
    points = sum(len(row["peak_errors"]) for row in compared)
    equal = sum(not error for row in compared for error in row["peak_errors"])
    worst = max((abs(error) for row in compared for error in row["peak_errors"]), default=0.0)
    return (
        "- **Rules against compiled traces**, two predictors that share nothing but the question:"
        f" {len(compared):,} steps of {len({row['model'] for row in compared})} models at full"
        f" size; {equal:,} of {points:,} peaks equal to the byte, the rest up to {worst:.2%} apart"
        " (`benchmarks/results/profiles.md`)."
    )


def held_out_line() -> str:
    """Profiles where no compilation has looked."""
    rows = [row for row in results("held_out")["rows"] if "reason" not in row]
    return (
        f"- **Compiled profiles against fresh traces**, {sum(row['points'] for row in rows):,}"
        f" points that no compilation has seen, {len({row['type'] for row in rows})} architectures:"
        " peaks of the three phases, the peak's moment and its categories differ in"
        f" {sum(len(row['wrong']) for row in rows)} (`benchmarks/results/held_out.md`)."
    )


def ranks_line() -> str:
    cases = results("distributed")["cases"]
    equal = 0
    for case in cases:
        held, told = (
            case["record"]["measurement"]["persistent_bytes"],
            case["predicted_persistent_bytes"],
        )
        equal += all(held.get(name, 0) == size for name, size in told.items())
    worst = max((case["peak_error"] for case in cases), key=abs)
    losses = max(case["loss_difference"] for case in cases)
    return (
        f"- **Several ranks**, {len(cases)} cases of 2 and 4 processes on a CPU, DDP, ZeRO-1 and"
        f" FSDP2: persistent bytes equal in {equal}, the peak {100 * worst:+.2f} % off at worst,"
        f" losses {losses:.0e} from one process; rules against the real wrappers traced for up to"
        " 64 ranks: `benchmarks/results/distributed.md`, `ranks.md`."
    )


def public_lines() -> list[str]:
    """Public measurements, as the package brings them: memory by tier with the interval of a peak,
    steps by what was left out."""
    found, memory = interval(), graded_memory()
    tiers = {
        tier: [row for row in memory if row.tier == tier]
        for tier in sorted({row.tier for row in memory})
    }
    steps = {
        what: [row for row in measured_steps() if row.left_out == what] for what in LEFT_OUT_LABELS
    }
    return [
        f"- **Public measurements**, {len(memory) + len(measured_steps())} that others"
        " published, each with its address on the dashboard's page Evidence"
        " (`benchmarks/results/public_accuracy.md`, `step_time.md`):",
        "",
        "| measured by others | rows | mean error | median | 90th percentile | worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            _public_row(f"memory, tier {tier}: {TIER_LABELS[tier]}", rows)
            for tier, rows in tiers.items()
        ),
        *(
            _public_row(f"time of a step, {LEFT_OUT_LABELS[what]}", rows)
            for what, rows in steps.items()
        ),
        "",
        f"No constant was fitted to memory. {interval_words(found)}. {coverage_words(found)}"
        f" {command_words()} All of those are in `benchmarks/results/public_command.md`."
        " Misses, with what is known of them, and what was left out are on the page too."
        f" {headline(results('peak_intervals')['rows'])} The latter are open: which"
        " version, kernels, recipe and trainer (`benchmarks/results/peak_intervals.md`).",
    ]


def _public_row(what: str, rows: Sequence[MeasuredMemory | MeasuredStep]) -> str:
    e = errors_of(rows)
    return f"| {what} | {e.rows} | {e.mean:.2%} | {e.median:.2%} | {e.p90:.2%} | {e.worst:+.2%} |"


def headlines() -> str:
    """Markdown for the README: four rows, what was held against what, and the worst of each."""
    saved, peaks, memory = results("saved_bytes"), results("peaks")["rows"], graded_memory()
    rows = [
        (
            "saved activations, real forward passes",
            saved["cases"],
            f"{saved['exact']:,} equal to the byte",
            "",
        ),
        (
            "peak of real steps on a CPU, tiny models",
            len(peaks),
            *_mean_and_worst([row["error"] for row in peaks]),
        ),
        (
            "trainers' own code at full size, on pretended cards",
            (trained := rehearsed_with_trainers())[0],
            f"{trained[1]} equal to the byte",
            f"{trained[2]:+.2%}",
        ),
        ("peaks that others measured on GPUs, their stack replayed", len(memory), *_of(memory)),
        ("step times that others measured", len(measured_steps()), *_of(measured_steps())),
    ]
    head = ["| predicted against | rows | mean error | worst |", "| --- | ---: | ---: | ---: |"]
    return "\n".join(
        [
            *head,
            *(
                f"| {what} | {count:,} | {mean_error} | {worst} |"
                for what, count, mean_error, worst in rows
            ),
        ]
    )


def _mean_and_worst(errors: Sequence[float]) -> tuple[str, str]:
    return f"{mean(abs(e) for e in errors):.2%}", f"{max(errors, key=abs):+.2%}"


def _of(rows: Sequence[MeasuredMemory | MeasuredStep]) -> tuple[str, str]:
    e = errors_of(rows)
    return f"{e.mean:.2%}", f"{e.worst:+.2%}"


def table() -> str:
    """Markdown: saved bytes, peaks by what the answer claims, speed. A list has an empty line
    before it, without which Python-Markdown makes it a part of the paragraph."""
    saved, peaks, start, speed = (
        results(name) for name in ("saved_bytes", "peaks", "startup", "throughput")
    )
    rows = peaks["rows"]
    exact = [row for row in rows if row["exactness"] == "exact"]
    rest = [row for row in rows if row["exactness"] != "exact"]
    scratch = [row for row in exact if row["tensors"] is not None]
    stored = [row for row in rest if "checkpointing" not in row["configuration"]]
    repeated = [row for row in rest if "checkpointing" in row["configuration"]]
    seconds = {row["name"]: row["median_seconds"] for row in start["results"]}
    ours = next(
        value for name, value in seconds.items() if name.startswith("lora-profile meta-llama")
    )
    accelerate = next(value for name, value in seconds.items() if name.startswith("accelerate"))
    rate = {row["what"]: row["per_second"] for row in speed["rows"]}
    swept = next(value for name, value in rate.items() if name.startswith("sweep, analytic, table"))
    compiled = {row["what"]: row["median_seconds"] for row in results("compile_speed")["rows"]}
    profile = next(
        value
        for what, value in compiled.items()
        if what.startswith("a profile of meta-llama/Llama-3.1-8B, LoRA")
    )
    return "\n".join(
        [
            f"Measured on CPU with {words_of(peaks['versions'])}; nothing here has been measured on"
            " a GPU yet.",
            "",
            f"- **Saved activations**: {saved['exact']:,} of {saved['cases']:,} real forward"
            f" passes equal to the byte ({len(saved['families'])} families;"
            " `benchmarks/results/saved_bytes.md`).",
            f"- **Peak of a real training step**, {len(rows)} seeded configurations"
            " (`benchmarks/results/peaks.md`):",
            "",
            "| the answer says | runs | mean error | worst | worst case |",
            "| --- | ---: | ---: | ---: | --- |",
            error_row("exact", exact),
            error_row("estimate, no checkpointing", stored),
            error_row("estimate, checkpointing", repeated),
            "",
            f"{len(exact) - len(scratch)} of {len(exact)} exact answers are within 1 %"
            + "".join(
                f"; the other, a step of {row['real']['step'] / 1e6:.1f} MB, is"
                f" {abs(row['predicted'] - row['tensors'])} B from what its tensors reach, and the"
                " rest is scratch inside a CPU kernel"
                for row in scratch
            )
            + ". The models are tiny and most vocabularies small, so that peaks inside layers,"
            " which are the estimates, occur often. The bounds that an estimate states are the"
            " largest errors of these rows, rounded up; `python -m benchmarks.peaks --fresh SEED`"
            " measures rows on which nothing was set.",
            "",
            trainers_line(),
            measured_line() + profiles_line(),
            held_out_line(),
            ranks_line(),
            *public_lines(),
            "",
            f"- **Speed**: {ours:.2f} s for a whole `lora-profile` process,"
            f" {accelerate / ours:.0f} times faster than `accelerate estimate-memory --help`"
            f" beside it; {rate['peak_bytes, analytic']:,.0f} peaks a second one at a time,"
            f" {swept / 1e6:,.0f} million by `sweep`; {profile:.0f} s from nothing to a profile"
            " of an 8B model (`benchmarks/results/startup.md`, `throughput.md`,"
            " `compile_speed.md`).",
        ]
    )


if __name__ == "__main__":
    print(table())
