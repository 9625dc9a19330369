"""docs/measuring.md explains every word that a record can hold, with the limits that the program
has."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lora_profiler.measuring.harness import driver_view, runner, telemetry, timing_pass
from lora_profiler.measuring.records.checks import AT_REST, half_width_limit
from lora_profiler.measuring.records.record import (
    BUSY_SHARE,
    PERTURBED_SHARE,
    STATUSES,
    UNATTRIBUTED_SHARE,
    Conditions,
    Device,
    DeviceSample,
    Energy,
    Environment,
    Failure,
    Flag,
    Measurement,
    PhaseSample,
    RankMeasurement,
    Record,
    Telemetry,
)
from lora_profiler.memory.prediction import CATEGORIES, PHASES
from lora_profiler.report.measured.run_labels import STAGE_LABELS
from lora_profiler.runs.campaign.runs import MARGIN_SECONDS
from lora_profiler.units import MIB

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "measuring.md").read_text("utf-8")
FLAGS: tuple[str, ...] = Flag.__args__  # type: ignore[attr-defined]
KINDS = (
    Conditions, Device, DeviceSample, Energy, Environment, Failure, Measurement, PhaseSample,
    RankMeasurement, Record, Telemetry,
)  # fmt: skip
WORDS = set(re.findall(r"`(\w+)`", TEXT))


def explanations(heading: str) -> dict[str, str]:
    """The table under a heading: first cell, without its marks, to what stands beside it."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    assert rows, heading
    return dict(rows)


@pytest.mark.parametrize(
    ("heading", "words"), [("Statuses", STATUSES), ("Flags", FLAGS), ("Phases of a step", PHASES)]
)
def test_every_word_has_its_explanation_and_there_is_no_other(
    heading: str, words: tuple[str, ...]
) -> None:
    found = explanations(heading)
    assert tuple(sorted(found)) == tuple(sorted(words))
    assert all(len(text.split()) >= 5 for text in found.values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_is_named(kind: type) -> None:
    assert {f.name for f in fields(kind)} - WORDS == set()


def test_every_category_and_stage_is_named() -> None:
    assert set(CATEGORIES) - WORDS == set()
    assert set(STAGE_LABELS) - {"start"} - WORDS == set()


@pytest.mark.parametrize(
    "statement",
    [
        f"({Conditions().memory_steps} by default)",
        (
            f"SIGKILL {'ten' if runner.TERMINATE_SECONDS == 10 else runner.TERMINATE_SECONDS}"
            " seconds later"
        ),
        f"more than {BUSY_SHARE:.0%}".replace("%", " %"),
        f"by more than {PERTURBED_SHARE:.1%}".replace("%", " %"),
        f"more than {UNATTRIBUTED_SHARE:.0%} of the peak".replace("%", " %"),
        f"over {PERTURBED_SHARE:.1%} more than the allocator".replace("%", " %"),
        f"less in {' or '.join(f'`{phase}`' for phase in AT_REST)}",
        f"idle device had more than {driver_view.IDLE_BYTES // MIB} MiB in use",
        f"over {driver_view.UNEXPLAINED_BYTES // MIB} MiB are explained by neither",
        f"below {telemetry.LEAST_CLOCK_SHARE:.0%} of the default".replace("%", " %"),
        f"within {half_width_limit('cuda'):.0%} of it ({half_width_limit('cpu'):.0%} on a CPU)".replace(
            "%", " %"
        ),
        (
            f"at least {max(timing_pass.WARMUP_MIN_STEPS, timing_pass.DRIFT_WINDOW)} steps and"
            f" {timing_pass.WARMUP_MIN_SECONDS:g} s"
        ),
        f"the last {timing_pass.DRIFT_WINDOW} is below {timing_pass.DRIFT_LIMIT:.0%} a step".replace(
            "%", " %"
        ),
        f"at most {timing_pass.WARMUP_MAX_STEPS} steps, {timing_pass.WARMUP_MAX_SECONDS:g} s",
        f"{'five' if telemetry.IDLE_SECONDS == 5 else telemetry.IDLE_SECONDS} idle seconds",
        (
            "blocks under"
            f" {'ten' if telemetry.MIN_BLOCK_SECONDS == 10 else telemetry.MIN_BLOCK_SECONDS}"
            " seconds give none"
        ),
        f"with {MARGIN_SECONDS:g} s to spare",
    ],
)
def test_limits_are_those_of_the_program(statement: str) -> None:
    assert statement in " ".join(TEXT.split())


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:lora_profiler|tests|benchmarks)/[\w./]*)`", TEXT)) - {
        "lora_profiler/records.jsonl",
        "benchmarks/records/",
    }
    assert named
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_options_it_speaks_of_exist() -> None:
    from lora_profiler.cli.bench import bench_command
    from lora_profiler.cli.compare import compare_command
    from lora_profiler.cli.main import predict_command

    commands = (bench_command, compare_command, predict_command)
    known = {option for command in commands for each in command.params for option in each.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= known
