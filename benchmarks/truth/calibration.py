"""Step time on this machine: constants that `lora-profile calibrate` measured, against training
steps that it never saw.

    python -m benchmarks.truth.calibration [--write]

Calibrates as the command does, measures the test steps below with the harness, traces each and
predicts its time by the constants. No test step's model is one of those that constants are fitted
to, and a row that was fitted is refused as a test (`steptime.fit.Fitted.error`). Prints the report;
`--write` writes it to `results/calibration.md`, and everything to `results/calibration.json`. Five
minutes on two idle cores.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from benchmarks.pages import parser_of, table, tell
from benchmarks.truth import suite_models
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.measuring.harness import measure
from lora_profiler.measuring.records.record import Conditions, Record
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.report.catalogues import calibration_blocks, calibration_payload
from lora_profiler.report.render import markdown
from lora_profiler.runs.comparison.throughput import quantile
from lora_profiler.steptime.calibration.calibrate import Calibration, calibrate
from lora_profiler.steptime.fit import Fitted, LocalConstants, Measured

CONDITIONS = Conditions(memory_steps=2, min_timed_steps=6, max_timing_seconds=3.0)
GOAL = 10
"""Median absolute error, in %, that the test steps are to reach."""


def _models() -> dict[str, ModelSpec]:
    """Wide and shallow, narrow and deep with a large vocabulary, and two families besides
    Llama's."""
    configs = {
        "wide": {
            **suite_models.MEDIUM["llama"],
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "vocab_size": 7_000,
        },
        "deep": {
            **suite_models.MEDIUM["qwen2"],
            "hidden_size": 224,
            "intermediate_size": 640,
            "num_hidden_layers": 9,
            "num_attention_heads": 4,
            "vocab_size": 26_000,
        },
        "conv1d": {
            **suite_models.MEDIUM["gpt2"],
            "n_embd": 448,
            "n_layer": 4,
            "n_head": 7,
            "vocab_size": 11_000,
        },
        "relu": {
            **suite_models.MEDIUM["opt"],
            "hidden_size": 352,
            "word_embed_proj_dim": 352,
            "ffn_dim": 1408,
            "num_hidden_layers": 5,
            "num_attention_heads": 11,
            "vocab_size": 14_000,
        },
    }
    return {
        name: model_from_config(config, id=f"test-{name}", source="file")
        for name, config in configs.items()
    }


def test_steps() -> Iterator[Workload]:
    """Models, methods and sizes in turn; none of the models is fitted to. Float32, as a CPU without
    bfloat16 trains."""
    full = TrainSetup(dtype="float32", device="cpu")
    lora, fused = replace(full, lora=LoraConfig(r=16)), replace(full, optimizer_impl="fused")
    two = LoraConfig(r=32, target_modules=("q_proj", "v_proj"))
    models, gemma, smol = (
        _models(),
        suite_models.medium("gemma2"),
        suite_models.whole("HuggingFaceTB/SmolLM2-135M"),
    )
    wide, deep, conv1d, relu = models.values()
    yield _step(wide, full, 2, 144)
    yield _step(wide, replace(full, checkpointing=True), 1, 224)
    yield _step(wide, replace(lora, lora=LoraConfig(r=8)), 1, 352)
    yield _step(wide, replace(lora, checkpointing=True), 2, 80)
    yield _step(deep, full, 3, 128)
    yield _step(deep, replace(lora, lora=LoraConfig(r=32)), 2, 112)
    yield _step(deep, replace(lora, lora=two, checkpointing=True), 1, 416)
    yield _step(conv1d, fused, 2, 72)
    yield _step(conv1d, lora, 5, 112)
    yield _step(relu, lora, 4, 64)
    yield _step(relu, replace(full, accumulation=2), 1, 192)
    yield _step(gemma, full, 2, 128)
    yield _step(gemma, lora, 3, 120)
    yield _step(smol, replace(lora, lora=LoraConfig(r=8)), 1, 160)


def _step(model: ModelSpec, setup: TrainSetup, batch_size: int, seq_len: int) -> Workload:
    return Workload(model=model, setup=replace(setup, batch_size=batch_size, seq_len=seq_len))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A test step: its record, the seconds predicted, (predicted - measured) / measured, and where
    they go."""

    record: Record
    predicted: float
    error: float
    by_kind: dict[str, float]

    @property
    def measured(self) -> float:
        return median(self.record.measurement.step_seconds)


def measured_steps() -> list[Record]:
    """Every test step, one process each, with nothing else going on here."""
    found = []
    for workload in test_steps():
        record = measure(workload, CONDITIONS)
        found.append(record)
        print(f"{record.case_key}: {record.measurement.status}", flush=True)
    return [record for record in found if record.measurement.went_through]


def outcome(record: Record, local: LocalConstants) -> Outcome:
    from lora_profiler.trace.kernels import step_kernels

    constants = local.constants
    load = local.load(step_kernels(record.workload), record.workload.setup)
    fitted = Fitted(constants.eta, constants.beta, frozenset(constants.rows))
    row = Measured(record.case_key, load, median(record.measurement.step_seconds))
    device = load.by_part(constants.eta, constants.beta)
    parts = {**{str(part): seconds for part, seconds in device.items()}, "launches": load.host}
    return Outcome(record, load.seconds(constants.eta, constants.beta), fitted.error(row), parts)


def three(errors: Sequence[float]) -> str:
    """Median, 90th percentile and largest of absolute errors, in %."""
    found = sorted(100 * abs(error) for error in errors)
    return f"{quantile(found, 0.5):.1f} / {quantile(found, 0.9):.1f} / {found[-1]:.1f}"


def report(calibration: Calibration, took: float, outcomes: Sequence[Outcome]) -> str:
    made = calibration.local.provenance
    lines = [
        "# Step time by constants measured on the machine itself",
        "",
        f"Written by `python -m benchmarks.truth.calibration --write` on {made.measured_at}:"
        f" {made.device}, {made.threads} threads,",
        f"torch {made.torch}. Errors are (predicted - measured) / measured of a step's seconds,"
        " in %.",
        "",
        f"Calibrating took {took:.0f} s. {len(outcomes)} test steps, of models that nothing was"
        " fitted to. The rules for a CPU",
        "were chosen with page faults, single operators and steps of other models and sizes in"
        " sight, never with these steps:",
        "",
        "| | median / p90 / max | to be reached |",
        "| --- | ---: | ---: |",
        f"| test steps | {three([each.error for each in outcomes])} | {GOAL} |",
        "| fitted steps, their model left out |"
        f" {three(list(calibration.local.errors.values()))} | |",
        "",
        "## Test steps",
        "",
        *table(
            "model | method | >batch x tokens | >measured | >predicted | >error | status",
            map(_cells, outcomes),
        ),
        "",
        "## Calibration",
        "",
        markdown(calibration_blocks(calibration, None)).rstrip(),
        "",
    ]
    return "\n".join(lines)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    workload, measurement = outcome.record.workload, outcome.record.measurement
    setup = workload.setup
    return (
        workload.model.id,
        _method(setup),
        f"{setup.batch_size} x {setup.seq_len}",
        f"{outcome.measured:.3f} s",
        f"{outcome.predicted:.3f} s",
        f"{100 * outcome.error:+.1f}",
        ", ".join((measurement.status, *measurement.flags)),
    )


def _method(setup: TrainSetup) -> str:
    words = [setup.method]
    if setup.lora is not None:
        targets = setup.lora.target_modules
        words.append(
            f"rank {setup.lora.r} on"
            f" {targets if isinstance(targets, str) else ', '.join(targets or ())}"
        )
    words += ["checkpointed"] if setup.checkpointing else []
    words += [f"{setup.accumulation} micro-batches"] if setup.accumulation > 1 else []
    words += [setup.optimizer_impl] if setup.optimizer_impl != "foreach" else []
    return ", ".join(words)


def document(calibration: Calibration, took: float, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "calibrating_seconds": round(took, 1),
        **calibration_payload(calibration, None),
        "tests": [
            {
                "id": each.record.case_key,
                "model": each.record.workload.model.id,
                "setup": asdict(each.record.workload.setup),
                "status": each.record.measurement.status,
                "flags": list(each.record.measurement.flags),
                "other_cpu_share": each.record.measurement.other_cpu_share,
                "step_seconds": list(each.record.measurement.step_seconds),
                "measured_seconds": each.measured,
                "predicted_seconds": each.predicted,
                "error": each.error,
                "by_kind": each.by_kind,
            }
            for each in outcomes
        ],
    }


def main() -> None:
    options = parser_of(__doc__, write=False).parse_args()
    began = time.monotonic()
    calibration = calibrate(
        "cpu", lambda what, done, total: print(f"[{done}/{total}] {what}", flush=True)
    )
    took = time.monotonic() - began
    outcomes = [outcome(record, calibration.local) for record in measured_steps()]
    text, whole = report(calibration, took, outcomes), document(calibration, took, outcomes)
    tell("calibration", text, whole, writes=options.write)


if __name__ == "__main__":
    main()
