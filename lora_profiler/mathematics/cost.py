"""Claim 7, measured: full fine-tuning and LoRA on the setups of claims 5 and 6, each in a process
of its own."""

from dataclasses import replace

from lora_profiler.mathematics.subject import Effort, Subject
from lora_profiler.measuring.harness import Heartbeat, measure
from lora_profiler.measuring.records.checks import median_interval
from lora_profiler.measuring.records.record import Conditions, Measurement
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload, setup_dict
from lora_profiler.report.claims.claim import Tell
from lora_profiler.report.claims.cost import Cost, CostRow, Sizes, StepSeconds, pairs_of

RANK = 16
IMITATED = 4
"""bfloat16 gets the usual sequence divided by this, and is not timed: most CPUs only imitate it, at
a tenth of float32's pace."""


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Cost:
    setups = _setups(effort)
    rows = []
    for number, (setup, is_timed) in enumerate(setups):
        words = f"{setup.method} in {setup.dtype}, {setup.batch_size} x {setup.seq_len} tokens"
        tell(words, number, len(setups))

        def progress(beat: Heartbeat, number: int = number, words: str = words) -> None:
            tell(f"{words}: {beat.phase}", number, len(setups))

        workload = Workload(model=subject.spec, setup=setup)
        conditions = Conditions(
            seed=seed,
            memory_steps=effort.cost_memory_steps,
            min_timed_steps=effort.cost_steps if is_timed else 0,
            max_timing_seconds=effort.cost_seconds,
        )
        record = measure(
            workload,
            conditions,
            weights=str(subject.folder),
            text=str(subject.text_path),
            progress=progress,
        )
        rows.append(_row(setup, predict(workload, may_trace=False), record.measurement))
    return Cost(rank=RANK, rows=tuple(rows), pairs=pairs_of(rows))


def _setups(effort: Effort) -> list[tuple[TrainSetup, bool]]:
    """Full and LoRA side by side, and whether their steps are timed."""
    usual = TrainSetup(
        batch_size=effort.batch_size, seq_len=effort.seq_len, device="cpu", dtype="float32"
    )
    setups = [(usual, True), (replace(usual, lora=LoraConfig(r=RANK)), True)]
    if "bfloat16" in effort.cost_dtypes:
        short = replace(usual, dtype="bfloat16", seq_len=effort.seq_len // IMITATED)
        setups += [
            (replace(short, lora=lora), False)
            for lora in (None, LoraConfig(r=RANK), LoraConfig(r=RANK, adapter_dtype="bfloat16"))
        ]
    return setups


def _row(setup: TrainSetup, prediction: Prediction, measured: Measurement) -> CostRow:
    seconds = None
    if measured.step_seconds:
        low, median, high = median_interval(measured.step_seconds)
        seconds = StepSeconds(low=low, median=median, high=high)
    return CostRow(
        setup=setup_dict(setup),
        status=measured.status,
        reason=None if measured.failure is None else measured.failure.reason,
        predicted=Sizes(
            trainable=prediction.parameters.trainable,
            gradients=prediction.persistent_bytes["gradients"],
            optimizer_states=prediction.persistent_bytes["optimizer_states"],
            saved_activations=prediction.saved_activation_bytes,
            peak=prediction.peak.total_bytes,
        ),
        measured=Sizes(
            trainable=measured.num_trainable_parameters,
            gradients=measured.persistent_bytes.get("gradients"),
            optimizer_states=measured.persistent_bytes.get("optimizer_states"),
            saved_activations=measured.saved_activation_bytes,
            peak=measured.peak_requested_bytes,
        ),
        step_seconds=seconds,
        steps_timed=len(measured.step_seconds),
        peak_phase=measured.peak_phase,
        flops=prediction.flops.total if prediction.flops else None,
    )
