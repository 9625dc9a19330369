"""Claim 7: what full fine-tuning and LoRA cost in memory and time, predicted beside measured on the
runs of claims 5 and 6."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lora_profiler.harness import Heartbeat, measure
from lora_profiler.mathematics.claim import Finding, Tell, Verdict
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.subject import Subject
from lora_profiler.planning.engine import predict
from lora_profiler.prediction import Prediction
from lora_profiler.records.record import Conditions, Measurement
from lora_profiler.records.statistics import median_interval
from lora_profiler.units import percent_text
from lora_profiler.workload import DTYPE_BYTES, LoraConfig, TrainSetup, Workload, setup_dict

RANK = 16
IMITATED = 4
"""bfloat16 gets the usual sequence divided by this, and is not timed: most CPUs only imitate it, at
a tenth of float32's pace."""
NUMBERS = ("trainable", "gradients", "optimizer_states", "saved_activations", "peak")
CLOSE = 0.01
"""A prediction further off than this is no prediction."""


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Finding:
    """Trains each setup in a process of its own, for memory and then for time, and holds it against
    the prediction."""
    setups = _setups(effort)
    rows = []
    for number, (setup, is_timed) in enumerate(setups):
        words = f"{setup.method} in {setup.dtype}, {setup.batch_size} x {setup.seq_len} tokens"
        tell(words, number, len(setups))

        def told(beat: Heartbeat, number: int = number, words: str = words) -> None:
            tell(f"{words}: {beat.phase}", number, len(setups))

        rows.append(_row(subject, setup, effort, seed, is_timed, told))
    evidence = {"rank": RANK, "rows": rows, "pairs": _pairs(rows)}
    return Finding(verdict=_verdict(evidence), sentences=_sentences(evidence), evidence=evidence)


def _setups(effort: Effort) -> list[tuple[TrainSetup, bool]]:
    """Full and LoRA side by side, and whether their steps are timed."""
    usual = TrainSetup(
        batch_size=effort.batch_size, seq_len=effort.seq_len, device="cpu", dtype="float32"
    )
    found = [(usual, True), (replace(usual, lora=LoraConfig(r=RANK)), True)]
    if "bfloat16" in effort.cost_dtypes:
        short = replace(usual, dtype="bfloat16", seq_len=effort.seq_len // IMITATED)
        found += [
            (replace(short, lora=lora), False)
            for lora in (None, LoraConfig(r=RANK), LoraConfig(r=RANK, adapter_dtype="bfloat16"))
        ]
    return found


def _row(
    subject: Subject, setup: TrainSetup, effort: Effort, seed: int, is_timed: bool, told: Any
) -> dict[str, Any]:
    workload = Workload(model=subject.spec, setup=setup)
    conditions = Conditions(
        seed=seed,
        memory_steps=effort.cost_memory_steps,
        min_timed_steps=effort.cost_steps if is_timed else 0,
        max_timing_seconds=effort.cost_seconds,
    )

    def progress(heartbeat: Heartbeat) -> None:
        told(heartbeat)

    record = measure(
        workload,
        conditions,
        weights=str(subject.folder),
        text=str(subject.text_path),
        progress=progress,
    )
    prediction, measured = predict(workload), record.measurement
    return {
        "setup": setup_dict(setup),
        "status": measured.status,
        "reason": None if measured.failure is None else measured.failure.reason,
        "predicted": _predicted(prediction),
        "measured": _measured(measured),
        "step_seconds": (
            dict(
                zip(("low", "median", "high"), median_interval(measured.step_seconds), strict=True)
            )
            if measured.step_seconds
            else None
        ),
        "steps_timed": len(measured.step_seconds),
        "peak_phase": measured.peak_phase,
        "flops": prediction.flops.total if prediction.flops else None,
    }


def _predicted(prediction: Prediction) -> dict[str, int | None]:
    return {
        "trainable": prediction.parameters.trainable,
        "gradients": prediction.persistent_bytes["gradients"],
        "optimizer_states": prediction.persistent_bytes["optimizer_states"],
        "saved_activations": prediction.saved_activation_bytes,
        "peak": prediction.peak.total_bytes,
    }


def _measured(measured: Measurement) -> dict[str, int | None]:
    return {
        "trainable": measured.num_trainable_parameters,
        "gradients": measured.persistent_bytes.get("gradients"),
        "optimizer_states": measured.persistent_bytes.get("optimizer_states"),
        "saved_activations": measured.saved_activation_bytes,
        "peak": measured.peak_requested_bytes,
    }


def _pairs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each LoRA as a share of full fine-tuning that is alike in dtype and sizes: measured, and
    predicted FLOPs."""
    found = []
    for lora in rows:
        full = next(
            (row for row in rows if row["setup"]["method"] == "full" and _is_alike(row, lora)), None
        )
        if lora["setup"]["method"] == "full" or full is None:
            continue
        times = [row["step_seconds"] for row in (full, lora)]
        found.append(
            {
                "dtype": lora["setup"]["dtype"],
                "adapter_dtype": lora["setup"]["adapter_dtype"],
                "batch_size": lora["setup"]["batch_size"],
                "seq_len": lora["setup"]["seq_len"],
                **{
                    name: _share(lora["measured"][name], full["measured"][name]) for name in NUMBERS
                },
                "flops": _share(lora["flops"], full["flops"]),
                "step_time": times[1]["median"] / times[0]["median"] if all(times) else None,
            }
        )
    return found


def _is_alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a["setup"][name] == b["setup"][name] for name in ("dtype", "batch_size", "seq_len"))


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def errors(rows: Iterable[dict[str, Any]]) -> list[float]:
    """(predicted - measured) / measured of every number that both sides have."""
    pairs = [(row["predicted"][name], row["measured"][name]) for row in rows for name in NUMBERS]
    return [
        (predicted - measured) / measured
        for predicted, measured in pairs
        if predicted is not None and measured
    ]


def averages_kept(row: dict[str, Any]) -> float | None:
    """Optimizer bytes per trained number, in units of what is trained: two, beside a few bytes of
    step counters."""
    setup, measured = row["setup"], row["measured"]
    size = DTYPE_BYTES[setup["adapter_dtype"] or setup["dtype"]]
    return (
        None
        if measured["optimizer_states"] is None
        else measured["optimizer_states"] / (measured["trainable"] * size)
    )


def _verdict(evidence: dict[str, Any]) -> Verdict:
    rows, pairs = evidence["rows"], evidence["pairs"]
    kept = [averages_kept(row) for row in rows]
    if any(each is not None and abs(each - 2) > CLOSE for each in kept):
        return "fails"
    is_lower = all(pair["peak"] is not None and pair["peak"] < 1 for pair in pairs)
    is_predicted = all(abs(error) <= CLOSE for error in errors(rows))
    return "holds" if is_lower and is_predicted and None not in kept else "holds_partly"


def _sentences(evidence: dict[str, Any]) -> tuple[str, ...]:
    rows, pairs = evidence["rows"], evidence["pairs"]
    failed = [row for row in rows if None in row["measured"].values()]
    found = errors(rows)
    worst = max(found, key=abs, default=0.0)
    return (
        *(
            f"{row['setup']['method']} in {row['setup']['dtype']} was not measured whole:"
            f" {row['reason']}."
            for row in failed
        ),
        (
            f"Adam kept two numbers for each one trained in all {len(rows)} runs; predictions of"
            " trained numbers, gradients, Adam's states, saved activations and peak are"
            f" {'exact' if not worst else f'off by {percent_text(abs(worst))} at most'}."
            if _verdict(evidence) != "fails"
            else "Adam did NOT keep two numbers for each one trained."
        ),
        *map(_pair_sentence, pairs),
    )


def _pair_sentence(pair: dict[str, Any]) -> str:
    adapters = (
        f", {pair['adapter_dtype']} adapters" if pair["adapter_dtype"] != pair["dtype"] else ""
    )
    parts = [
        f"{label} {percent_text(pair[name])}"
        for name, label in (
            ("trainable", "trained numbers"),
            ("optimizer_states", "Adam's states"),
            ("saved_activations", "saved activations"),
            ("peak", "peak"),
            ("flops", "FLOPs"),
            ("step_time", "step time"),
        )
        if pair[name] is not None
    ]
    more = pair["saved_activations"] is not None and pair["saved_activations"] > 1
    remark = " It keeps more activations than full fine-tuning." if more else ""
    return (
        f"LoRA r{RANK} as a share of full in {pair['dtype']}{adapters}, {pair['batch_size']} x"
        f" {pair['seq_len']} tokens: {', '.join(parts)}.{remark}"
    )
