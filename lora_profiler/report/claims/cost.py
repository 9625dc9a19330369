"""Claim 7: what full fine-tuning and LoRA cost in memory and time, predicted beside measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final

from lora_profiler.question.workload import DTYPE_BYTES
from lora_profiler.report.blocks import Table
from lora_profiler.report.claims.claim import (
    Chart,
    Claim,
    Evidence,
    Series,
    Share,
    Verdict,
    evidence_table,
    percent,
)
from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.units import bytes_text, error_text, percent_text, seconds_text, short_count_text

CLOSE = 0.01
"""A prediction further off than this is no prediction."""


_Bytes = Annotated[int | None, lambda n: "" if n is None else bytes_text(n)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Trained numbers, and bytes of all else. None was not measured, or cannot be predicted."""

    trainable: Annotated[int | None, lambda n: "" if n is None else short_count_text(n)]
    gradients: _Bytes
    optimizer_states: _Bytes
    saved_activations: _Bytes
    peak: _Bytes

    @property
    def values(self) -> tuple[int | None, ...]:
        return tuple(getattr(self, size.name) for size in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeconds:
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """One setup, which is spelled as in a record."""

    setup: Mapping[str, Any]
    status: str
    reason: str | None
    predicted: Sizes
    measured: Sizes
    step_seconds: StepSeconds | None
    steps_timed: int
    peak_phase: str | None
    flops: int | None

    @property
    def method(self) -> Annotated[str, METHOD_LABELS.__getitem__]:
        return str(self.setup["method"])

    @property
    def dtype(self) -> str:
        return str(self.setup["dtype"])

    @property
    def adapter_dtype(self) -> str:
        return str(self.setup["adapter_dtype"] or self.dtype)

    @property
    def dtypes(self) -> str:
        return _dtypes(self.dtype, self.adapter_dtype)

    @property
    def tokens(self) -> str:
        return _tokens(self.setup["batch_size"], self.setup["seq_len"])

    @property
    def step(self) -> str:
        return "" if self.step_seconds is None else seconds_text(self.step_seconds.median)

    @property
    def errors(self) -> list[float]:
        """(predicted - measured) / measured of every number that both sides have."""
        return [
            (predicted - measured) / measured
            for predicted, measured in zip(self.predicted.values, self.measured.values, strict=True)
            if predicted is not None and measured
        ]

    @property
    def averages_kept(self) -> float | None:
        """Optimizer bytes per trained number, in its own size: two, beside step counters."""
        states, trainable = self.measured.optimizer_states, self.measured.trainable
        if states is None or not trainable:
            return None
        return states / (trainable * DTYPE_BYTES[self.adapter_dtype])

    @property
    def peak_error(self) -> str:
        predicted, measured = self.predicted.peak, self.measured.peak
        return error_text((predicted - measured) / measured) if predicted and measured else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPair:
    """LoRA as a share of full fine-tuning that is alike in dtype and sizes: measured, and predicted
    FLOPs."""

    dtype: str
    adapter_dtype: str
    batch_size: int
    seq_len: int
    trainable: Share
    gradients: Share
    optimizer_states: Share
    saved_activations: Share
    peak: Share
    flops: Share
    step_time: Share

    @property
    def tokens(self) -> str:
        return _tokens(self.batch_size, self.seq_len)

    @property
    def dtypes(self) -> str:
        return _dtypes(self.dtype, self.adapter_dtype)


def pairs_of(rows: Sequence[CostRow]) -> tuple[CostPair, ...]:
    """Each LoRA beside full fine-tuning that is alike."""
    full = {(row.dtype, row.tokens): row for row in rows if row.method == "full"}
    loras = [row for row in rows if row.method != "full"]
    pairs = ((full.get((lora.dtype, lora.tokens)), lora) for lora in loras)
    return tuple(_pair(whole, lora) for whole, lora in pairs if whole is not None)


def _pair(full: CostRow, lora: CostRow) -> CostPair:
    shares = {
        size.name: _share(getattr(lora.measured, size.name), getattr(full.measured, size.name))
        for size in fields(Sizes)
    }
    seconds = full.step_seconds, lora.step_seconds
    return CostPair(
        dtype=lora.dtype,
        adapter_dtype=lora.adapter_dtype,
        batch_size=lora.setup["batch_size"],
        seq_len=lora.setup["seq_len"],
        **shares,
        flops=_share(lora.flops, full.flops),
        step_time=seconds[1].median / seconds[0].median if seconds[0] and seconds[1] else None,
    )


def _share(part: int | None, whole: int | None) -> Share:
    return None if part is None or not whole else part / whole


def _dtypes(dtype: str, adapter_dtype: str) -> str:
    return dtype if adapter_dtype == dtype else f"{dtype}, {adapter_dtype} A, B"


def _tokens(batch_size: int, seq_len: int) -> str:
    return f"{batch_size} x {seq_len}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Evidence):
    rank: int
    rows: tuple[CostRow, ...]
    pairs: tuple[CostPair, ...]

    @property
    def _errors(self) -> list[float]:
        return [error for row in self.rows for error in row.errors]

    @property
    def verdict(self) -> Verdict:
        kept = [row.averages_kept for row in self.rows]
        if any(averages is not None and abs(averages - 2) > CLOSE for averages in kept):
            return "fails"
        is_lower = all(pair.peak is not None and pair.peak < 1 for pair in self.pairs)
        is_predicted = all(abs(error) <= CLOSE for error in self._errors)
        return "holds" if is_lower and is_predicted and None not in kept else "holds_partly"

    @property
    def finding(self) -> tuple[str, ...]:
        worst = max(self._errors, key=abs, default=0.0)
        accuracy = f"off by {percent_text(abs(worst))} at most" if worst else "exact"
        kept = "does NOT keep" if self.verdict == "fails" else "keeps"
        return (
            *(
                f"LoRA r{self.rank}, of full: Adam's state {percent(pair.optimizer_states)}, peak"
                f" {percent(pair.peak)}, step time {percent(pair.step_time)}."
                for pair in self.pairs[:1]
            ),
            f"Adam {kept} two numbers for each trained one, in {len(self.rows)} runs.",
            f"Predicted sizes are {accuracy}.",
            *(
                f"In {pair.dtypes}, {pair.tokens} tokens, LoRA keeps more activations than full:"
                f" {percent_text(pair.saved_activations)}."
                for pair in self.pairs
                if pair.saved_activations is not None and pair.saved_activations > 1
            ),
            *(
                f"{METHOD_LABELS[row.method]} in {row.dtype} was not measured whole: {row.reason}."
                for row in self.rows
                if None in row.measured.values
            ),
        )

    def tables(self) -> tuple[Table, ...]:
        measured = {
            "method": "method", "dtype": "dtypes", "tokens": "tokens",
            "trained": "measured.trainable", "gradients": "measured.gradients",
            "Adam": "measured.optimizer_states", "saved": "measured.saved_activations",
            "peak": "measured.peak", "predicted": "peak_error", "step": "step",
        }  # fmt: skip
        named = {label: name for name, label in SHARES.items()}
        shares = {"dtype": "dtypes", "tokens": "tokens"} | named
        return (
            evidence_table(self.rows, measured, "Measured", left=3),
            evidence_table(self.pairs, shares, f"LoRA r{self.rank} as a share of full", left=2),
        )

    def charts(self) -> tuple[Chart, ...]:
        chart = Chart(
            key="lora_of_full",
            heading=CLAIM.title,
            title=f"LoRA r{self.rank} as a share of full fine-tuning",
            x_label="",
            categories=tuple(SHARES.values()),
            y_label="LoRA / full, measured",
            y_is_share=True,
            x_scale="linear",
            series=tuple(
                Series(
                    label=f"{pair.dtypes}, {pair.tokens} tokens",
                    x=tuple(range(len(SHARES))),
                    y=tuple(getattr(pair, name) for name in SHARES),
                )
                for pair in self.pairs
            ),
        )
        return (chart,)


SHARES: Final = {
    "trainable": "trained",
    "gradients": "gradients",
    "optimizer_states": "Adam",
    "saved_activations": "saved",
    "peak": "peak",
    "flops": "FLOPs",
    "step_time": "step time",
}
"""Of a pair: what tables and charts call each."""

CLAIM = Claim(
    id=7,
    title="Memory and speed",
    statement="Adam keeps two numbers for each trained one: training fewer takes less memory.",
    evidence=Cost,
    trains_in_full=True,
)
