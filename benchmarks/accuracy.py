"""What is proven, for README, the docs' home and docs/accuracy.md: every part of an answer, what it
was held against, how close it is and how far off at worst, from the committed results of the other
benchmarks.

    python -m benchmarks.accuracy

Prints the tables; `python tests/readme.py --update` puts them into the pages.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from statistics import fmean, median
from typing import Any, NamedTuple

from benchmarks.pages import RESULTS, read_document, table, words_of
from benchmarks.public.grade import headline
from benchmarks.rehearsed import boundary as boundary_verdicts
from benchmarks.rehearsed import files as rehearsed_files
from benchmarks.rehearsed import frameworks as rehearsed_frameworks
from benchmarks.rehearsed import generation as rehearsed_generation
from benchmarks.rehearsed import trainers as rehearsed_trainers
from benchmarks.rehearsed.peaks import Family, compared
from benchmarks.rehearsed.scripts import share_that_ran
from benchmarks.rows import read_rows
from benchmarks.truth.data_lengths import errors as epoch_errors
from benchmarks.truth.estimates import percent, within
from benchmarks.truth.profile_times import error as off_by
from lora_profiler.facts.evidence import command_shares, interval, measured_steps, own_rows
from lora_profiler.report.evidence import errors_of, graded_memory
from lora_profiler.report.labels import LEFT_OUT_LABELS, SOURCE_LABELS, TIER_LABELS
from lora_profiler.units import error_text, percent_text

Errors = Sequence[float]


class Check(NamedTuple):
    """One row of the page: `part` of an answer, what it was held `against`, `cases`, `close`, the
    `worst` of them, and the page of results that has every case."""

    part: str
    against: str
    cases: int
    close: str
    worst: str
    page: str


def check(part: str, against: str, errors: Errors, page: str) -> Check:
    """How many are equal to the byte, where some are, and the mean of absolute errors."""
    equal = sum(error == 0 for error in errors)
    mean = f"mean {percent_text(fmean(map(abs, errors)))}"
    if equal == len(errors):
        return Check(part, against, len(errors), "all equal to the byte", "0", page)
    close = f"{equal:,} equal to the byte, {mean}" if equal else mean
    return Check(part, against, len(errors), close, error_text(max(errors, key=abs)), page)


def stated(page: str, pattern: str) -> tuple[str, ...]:
    """What the one sentence of that form says on a page of results."""
    text = " ".join((RESULTS / f"{page}.md").read_text("utf-8").split())
    (found,) = re.findall(pattern, text)
    return found if isinstance(found, tuple) else (found,)


# --- real steps on a CPU --------------------------------------------------------------------------


def measured_here() -> list[Check]:
    saved, peaks = read_document("saved_bytes"), read_document("peaks")["rows"]
    exact, stored, repeated = (
        [row["error"] for row in peaks if kind(row)]
        for kind in (
            lambda row: row["exactness"] == "exact",
            lambda row: row["exactness"] != "exact" and not _repeats(row),
            lambda row: row["exactness"] != "exact" and _repeats(row),
        )
    )
    ranks = read_document("distributed")["cases"]
    epochs = read_document("data_lengths")
    steps = [epoch_errors(row, with_mask=mask) for row in epochs for mask in (False, True)]
    calibrated = [test["error"] for test in read_document("calibration")["tests"]]
    return [
        Check(
            "Activations saved for backward",
            f"real forward passes of {len(saved['families'])} model types",
            saved["cases"],
            "all equal to the byte"
            if saved["exact"] == saved["cases"]
            else f"{saved['exact']:,} equal to the byte",
            "0" if saved["exact"] == saved["cases"] else "see page",
            "saved_bytes",
        ),
        check("Peak, where the answer says exact", "real steps of tiny models", exact, "peaks"),
        check("Peak, estimate, without checkpointing", "the same", stored, "peaks"),
        check("Peak, estimate, with checkpointing", "the same", repeated, "peaks"),
        check(
            "Peak of a run",
            "runs of this package's own benchmark",
            [row.error for row in own_rows("recorded")],
            "records",
        ),
        check(
            "Peak of each of several ranks",
            "DDP, ZeRO-1 and FSDP2, 2 and 4 processes",
            [case["peak_error"] for case in ranks],
            "distributed",
        ),
        check(
            "Peak of every batch of an epoch",
            "transformers' Trainer over samples of many lengths",
            list(chain.from_iterable(steps)),
            "data_lengths",
        ),
        check(
            "Step time on a calibrated CPU",
            "steps of models that calibration never saw",
            calibrated,
            "calibration",
        ),
    ]


def _repeats(row: Mapping[str, Any]) -> bool:
    return "checkpointing" in row["configuration"]


# --- torch's CUDA build on simulated GPUs ---------------------------------------------------------


def _errors_of(family: Family) -> list[tuple[bool, float]]:
    """Whether the answer says exact, and its error."""
    rows = compared(read_rows(family.rows))
    return [(family.says(row) == "exact", family.error(row)) for row in rows]


def rehearsed() -> list[Check]:
    own = [(row.says_exact, row.error) for row in own_rows("rehearsed")]
    trainers = _errors_of(rehearsed_trainers.FAMILY)
    frameworks = _errors_of(rehearsed_frameworks.FAMILY)
    generated = read_rows(RESULTS / "rehearsed_generation.jsonl")
    right, points, equal, peaks = stated(
        "crossover",
        r"as predicted at \*\*(\d+) of (\d+)\*\* points; (\d+) of (\d+) peaks are equal",
    )
    traces, reserved, mean, worst = stated(
        "rehearsed",
        r"simulated allocator `--trace`: .*? \| all \| (\d+) \|[^:]*?"
        r"\| (\d+) of \d+ \| ([\d.]+%) \| ([\d.]+%) \| \| model types",
    )
    return [
        *_by_claim("Peak", "this package's own loop, models at full size", own, "rehearsed"),
        *_by_claim(
            "Peak with a trainer",
            "transformers' and TRL's own trainers",
            trainers,
            "rehearsed_trainers",
        ),
        *_by_claim(
            "Peak of a trainer's file",
            "commands of axolotl, LLaMA-Factory, LitGPT, torchtune, Unsloth",
            frameworks,
            "rehearsed_frameworks",
        ),
        check(
            "Peak of a public file",
            "its settings in TRL's own trainers",
            [error for _, error in _errors_of(rehearsed_files.FAMILY)],
            "rehearsed_files",
        ),
        check(
            "Peak of generation (GRPO)",
            "transformers' `generate`",
            [rehearsed_generation.error(row) for row in generated if row["status"] == "done"],
            "rehearsed_generation",
        ),
        *_verdicts(),
        Check(
            "Memory that the allocator reserves",
            "torch's caching allocator, from traces",
            int(traces),
            f"{reserved} equal to the byte, mean {_spaced(mean)}",
            _spaced(worst),
            "rehearsed",
        ),
        Check(
            "Where LoRA starts to need more",
            "full and LoRA on both sides of the crossover",
            int(points),
            f"order right in {right}; {equal} of {peaks} peaks equal to the byte",
            "0" if right == points and equal == peaks else "see page",
            "crossover",
        ),
    ]


def _spaced(percentage: str) -> str:
    return f"{float(percentage.removesuffix('%')):.2f} %"


def _by_claim(
    part: str, against: str, errors: Sequence[tuple[bool, float]], page: str
) -> list[Check]:
    exact = [error for says_exact, error in errors if says_exact]
    rest = [error for says_exact, error in errors if not says_exact]
    return [
        check(f"{part}, where the answer says exact", against, exact, page),
        check(f"{part}, estimate", "the same", rest, page),
    ]


def _verdicts() -> Iterator[Check]:
    rows = boundary_verdicts.latest_rows()
    against = {
        True: "the largest batch and one more, the smallest GPU and the next smaller",
        False: "the same, where only a bound of the allocator's need is known",
    }
    for is_simulated, words in against.items():
        found = [row for row in rows if row.get("is_simulated") is is_simulated]
        tries, _, fits, _, refused = boundary_verdicts.counts(found)
        close = "all right" if not fits + refused else f"{tries - fits - refused:,} right"
        worst = f"{fits} wrong to fit, {refused} not to fit" if fits + refused else "0"
        yield Check("Verdict at the limit", words, tries, close, worst, "boundary")


# --- what others measured on GPUs -----------------------------------------------------------------


def published() -> list[Check]:
    memory, command = graded_memory(), command_shares()
    typed = [row for row in read_document("as_typed")["rows"] if row["group"] == "public"]
    errors = [row["guide"][0] / row["measured_bytes"] - 1 for row in typed if row["guide"]]
    share = command["nearly"]
    return [
        *(
            check(
                f"Peak, {TIER_LABELS[tier]}",
                "published peaks, with the library versions of the run replayed",
                [row.error for row in memory if row.tier == tier],
                "public_accuracy",
            )
            for tier in sorted({row.tier for row in memory})
        ),
        Check(
            "Peak, with options that describe the run",
            "the same, by today's command",
            share.rows,
            f"90 % within {percent_text(share.half_width)}",
            error_text(share.worst),
            "public_command",
        ),
        Check(
            "Peak, with model, method, rank, batch, length and GPU only",
            "the same, no trainer named",
            len(errors),
            f"median {percent_text(median(map(abs, errors)))}",
            error_text(max(errors, key=abs)),
            "as_typed",
        ),
        *(
            check(
                f"Step time, {LEFT_OUT_LABELS[what]}",
                "published step times",
                [row.error for row in measured_steps() if row.left_out == what],
                "step_time",
            )
            for what in LEFT_OUT_LABELS
        ),
    ]


# --- one predictor against another, and files -----------------------------------------------------


def cross_checked() -> list[Check]:
    profiles = [row for row in read_document("profiles")["rows"] if row.get("rules")]
    held_out = [row for row in read_document("held_out")["rows"] if "reason" not in row]
    wrong = sum(len(row["wrong"]) for row in held_out)
    cases, worst_rank = stated("ranks", r"(\d+) cases: .*? the worst peak is (\S+ %) off")
    sizes = re.findall(r"(\d+) of (\d+) equal", (RESULTS / "ranks.md").read_text("utf-8"))
    equal, compared_sizes = (sum(map(int, column)) for column in zip(*sizes, strict=True))
    same, times, largest = stated(
        "rehearsed_time", r"(\d+) of (\d+) within 3%: .*? largest ([\d.]+%)"
    )
    near, others, farthest = stated(
        "rehearsed_time_of_others", r"(\d+) of (\d+) within 3%: .*? largest ([\d.]+%)"
    )
    values = [
        int(count.replace(",", ""))
        for count in re.findall(
            r"^\|[^|]+\| \w{7} \| \d+ \| \d+ \| ([\d,]+) \| \d+ \| 0 \|$",
            (RESULTS / "misread_keys.md").read_text("utf-8"),
            re.MULTILINE,
        )
    ]
    return [
        check(
            f"Rules, {len({row['model'] for row in profiles})} models at full size",
            "traces of the real step, compiled",
            [error for row in profiles for error in row["peak_errors"]],
            "profiles",
        ),
        Check(
            f"Compiled profiles, {len({row['type'] for row in held_out})} architectures",
            "fresh traces at sizes that no compilation saw",
            sum(row["points"] for row in held_out),
            "all equal to the byte" if not wrong else f"{wrong} differ",
            "0" if not wrong else "see page",
            "held_out",
        ),
        *_several_micro_batches(),
        *_estimates(),
        Check(
            "Rules for 2 to 64 ranks",
            "traces of the real DDP and FSDP2",
            int(cases),
            f"{equal:,} of {compared_sizes:,} sizes and collectives equal",
            f"{worst_rank} (peak)",
            "ranks",
        ),
        Check(
            "Step time from counted kernels",
            "kernels that a rehearsed step launched",
            int(times),
            f"{same} within 3 %",
            _spaced(largest),
            "rehearsed_time",
        ),
        Check(
            "The same, with trainers",
            "kernels that trainers' own code launched",
            int(others),
            f"{near} within 3 %",
            _spaced(farthest),
            "rehearsed_time_of_others",
        ),
        check(
            "Step time from kernels read off profiles",
            "kernels that were traced, of types that no rule counts",
            [
                off_by(row)
                for row in read_document("profile_times")["rows"]
                if "read_seconds" in row
            ],
            "profile_times",
        ),
        Check(
            "Settings read from public files",
            "axolotl's, LLaMA-Factory's and TRL's own parsers",
            sum(values),
            "none misread",
            "0",
            "misread_keys",
        ),
    ]


def _several_micro_batches() -> Iterator[Check]:
    rows = [row for row in read_document("accumulation")["rows"] if "off" in row]
    worst = max((row["off"] for row in rows), key=abs)
    equal = sum(row["off"] == 0 for row in rows)
    yield Check(
        "Peak with accumulation, from a profile without",
        f"fresh traces of {len({row['type'] for row in rows})} types of models",
        len(rows),
        "all equal to the byte" if equal == len(rows) else f"{equal} equal to the byte",
        f"{worst:,} bytes" if worst else "0",
        "accumulation",
    )


def _estimates() -> Iterator[Check]:
    by_group: dict[str, list[float]] = defaultdict(list)
    for row in read_document("estimates")["rows"]:
        by_group[row["group"]].append(row["error"])
    for group, errors in sorted(by_group.items()):
        share = within(errors, 0.95)
        yield Check(
            f"Peak estimated from a model's modules: {group}",
            "rules and laws of the same types",
            len(errors),
            f"95 of 100 within {percent(share)}",
            f"{100 * max(errors, key=abs):+.2f} %",
            "estimates",
        )


# --- pages ----------------------------------------------------------------------------------------


def proven() -> str:
    """Markdown for docs/accuracy.md."""
    versions = words_of(read_document("peaks")["versions"])
    sections = {
        f"### Measured here, on a CPU\n\n{versions}.": measured_here(),
        "### Rehearsed here, on simulated GPUs\n\ntorch's CUDA build runs the training code over"
        " libraries that compute nothing and count every byte.": rehearsed(),
        "### Measured by others, on GPUs\n\nNo constant was fitted to memory. Step times are"
        " predicted with constants that were fitted without the row in question.": published(),
        "### Two ways to the same number\n\nThey share the question and nothing"
        " else.": cross_checked(),
    }
    text = "\n\n".join(f"{head}\n\n{_table(checks)}" for head, checks in sections.items())
    return f"{text}\n\n### Intervals of a peak\n\n{intervals()}\n\n### Speed\n\n{speed()}"


def _table(checks: Iterable[Check]) -> str:
    rows = (
        (part, against, f"{cases:,}", close, worst, _link(page))
        for part, against, cases, close, worst, page in checks
    )
    heads = "part of the answer | held against | >cases | how close | >worst | every case"
    return "\n".join(table(heads, rows))


def _link(page: str) -> str:
    return f"[{page}](../benchmarks/results/{page}.md)"


def intervals() -> str:
    found, nearly, other = interval(), command_shares()["nearly"], command_shares()["not"]
    source, largest = max(found.by_source.items(), key=lambda item: item[1].rows)
    share = f"{100 * found.nominal:.0f} %"
    sentences = (
        f"With the libraries and kernels of the run replayed, {share} of {found.rows}"
        f" published peaks were within {percent_text(found.half_width)}; the worst is"
        f" {error_text(found.worst)}. Held against the errors of the other sources only,"
        f" {found.inside} of {found.rows} lie inside. {largest.rows} of them are from one source,"
        f" {SOURCE_LABELS[source]}.",
        f"With options only, {share} of {nearly.rows} that options describe were"
        f" within {percent_text(nearly.half_width)}; of {other.rows} with kernels that no option"
        f" names, within {percent_text(other.half_width)}.",
        headline(read_document("peak_intervals")["rows"]),
    )
    links = ", ".join(map(_link, ("public_command", "peak_intervals")))
    return "\n".join([*(f"- {sentence}" for sentence in sentences), f"- Every row: {links}."])


def speed() -> str:
    seconds = {row["name"]: row["median_seconds"] for row in read_document("startup")["results"]}
    ours, accelerate = (
        next(value for name, value in seconds.items() if name.startswith(start))
        for start in ("lora-profile meta-llama", "accelerate")
    )
    rate = {row["what"]: row["per_second"] for row in read_document("throughput")["rows"]}
    swept = next(value for name, value in rate.items() if name.startswith("sweep, analytic, table"))
    compiled = {
        row["what"]: row["median_seconds"] for row in read_document("compile_speed")["rows"]
    }
    profile = next(
        value
        for what, value in compiled.items()
        if what.startswith("a profile of meta-llama/Llama-3.1-8B, LoRA")
    )
    pages = ", ".join(map(_link, ("startup", "throughput", "compile_speed")))
    return (
        f"A whole `lora-profile` process takes {ours:.2f} s, {accelerate / ours:.0f} times less"
        f" than `accelerate estimate-memory --help`. From Python it is"
        f" {rate['peak_bytes, analytic']:,.0f} peaks a second, {swept / 1e6:,.0f} million with"
        f" `sweep`. A profile of an 8B model is made in {profile:.0f} s. Pages: {pages}."
    )


def headlines() -> str:
    """Markdown for the README and the docs' home: what was held against what, in four lines."""
    memory, steps = errors_of(graded_memory()), errors_of(measured_steps())
    (typed,) = (each for each in published() if each.page == "as_typed")
    trainers = [error for _, error in _errors_of(rehearsed_trainers.FAMILY)]
    frameworks = _errors_of(rehearsed_frameworks.FAMILY)
    exact, rest = (
        [error for says_exact, error in frameworks if says_exact is kind] for kind in (True, False)
    )
    runs = [row.error for row in own_rows("recorded")]
    estimates = [row["error"] for row in read_document("estimates")["rows"]]
    ran, scripts, able = share_that_ran(read_rows(RESULTS / "scripts.jsonl"))
    return "\n".join(
        [
            f"- **{memory.rows} peaks that others measured on GPUs**, with their library versions"
            f" replayed: mean error {percent_text(memory.mean)}, worst {error_text(memory.worst)}."
            f" With model, method and sizes only, without the trainer, {typed.cases} are off by"
            f" {typed.close.removeprefix('median ')} at the median: the answer is then a range.",
            f"- **Trainers' own code on simulated GPUs**: {len(trainers)} runs of TRL and"
            f" transformers, {trainers.count(0)} equal to the byte, worst"
            f" {error_text(max(trainers, key=abs))}. Other trainers' commands: {exact.count(0)} of"
            f" {len(exact)} answers that say exact are equal; {len(rest)} estimates are off by"
            f" {percent_text(median(map(abs, rest)))} at the median, worst"
            f" {error_text(max(rest, key=abs))}. Of {scripts} training scripts of other projects,"
            f" as they document them, {ran} run; of the {able} that no missing package, file or"
            f" argument keeps from it, {100 * ran / able:.0f} %.",
            f"- **{len(runs)} runs measured here on a CPU**: mean error"
            f" {percent_text(fmean(map(abs, runs)))}, worst {error_text(max(runs, key=abs))}."
            " Models that neither rules nor laws describe are estimated from their modules: of"
            f" {len(estimates):,} such estimates 95 in 100 are within"
            f" {percent(within(estimates, 0.95))} of rules and laws.",
            f"- **{steps.rows} step times that others measured**: mean error"
            f" {percent_text(steps.mean)}, worst {error_text(steps.worst)}.",
        ]
    )


if __name__ == "__main__":
    print(proven())
