"""Claim 7: what full fine-tuning and LoRA cost in memory and time, predicted beside measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from lora_profiler.report.blocks import Table, table
from lora_profiler.report.claims.claim import (
    Chart,
    Claim,
    Evidence,
    Number,
    Series,
    Verdict,
    listed,
    percent,
)
from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.units import bytes_text, error_text, percent_text, seconds_text, short_count_text
from lora_profiler.workload import DTYPE_BYTES

CLOSE = 0.01
"""A prediction further off than this is no prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Trained numbers, and bytes of all else. None was not measured, or cannot be predicted."""

    trainable: int | None
    gradients: int | None
    optimizer_states: int | None
    saved_activations: int | None
    peak: int | None

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
    def method(self) -> str:
        return str(self.setup["method"])

    @property
    def dtype(self) -> str:
        return str(self.setup["dtype"])

    @property
    def adapter_dtype(self) -> str:
        """That of what is trained."""
        return str(self.setup["adapter_dtype"] or self.dtype)

    @property
    def tokens(self) -> tuple[int, int]:
        """Batch size and sequence length."""
        return self.setup["batch_size"], self.setup["seq_len"]

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
    def peak_error_text(self) -> str:
        predicted, measured = self.predicted.peak, self.measured.peak
        return error_text((predicted - measured) / measured) if predicted and measured else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """LoRA as a share of full fine-tuning that is alike in dtype and sizes: measured, and predicted
    FLOPs."""

    dtype: str
    adapter_dtype: str
    batch_size: int
    seq_len: int
    trainable: Number
    gradients: Number
    optimizer_states: Number
    saved_activations: Number
    peak: Number
    flops: Number
    step_time: Number

    @property
    def tokens(self) -> str:
        return _tokens(self.batch_size, self.seq_len)

    @property
    def shares(self) -> tuple[Number, ...]:
        return tuple(getattr(self, name) for name in _SHARES)

    @property
    def sentence(self) -> str:
        adapters = f", {self.adapter_dtype} adapters" if self.adapter_dtype != self.dtype else ""
        parts = [
            f"{label} {percent_text(share)}"
            for (_, label), share in zip(_SHARES.values(), self.shares, strict=True)
            if share is not None and label != "gradients"
        ]
        more = (self.saved_activations or 0) > 1
        remark = " It keeps more activations than full fine-tuning." if more else ""
        what = f"as a share of full in {self.dtype}{adapters}, {self.tokens} tokens"
        return f"{what}: {', '.join(parts)}.{remark}"


def pairs_of(rows: Sequence[CostRow]) -> tuple[Pair, ...]:
    """Each LoRA beside full fine-tuning that is alike."""
    full = {(row.dtype, row.tokens): row for row in rows if row.method == "full"}
    loras = [row for row in rows if row.method != "full"]
    pairs = ((full.get((lora.dtype, lora.tokens)), lora) for lora in loras)
    return tuple(_pair(whole, lora) for whole, lora in pairs if whole is not None)


def _pair(full: CostRow, lora: CostRow) -> Pair:
    shares = {
        size.name: _share(getattr(lora.measured, size.name), getattr(full.measured, size.name))
        for size in fields(Sizes)
    }
    batch_size, seq_len = lora.tokens
    seconds = full.step_seconds, lora.step_seconds
    return Pair(
        dtype=lora.dtype,
        adapter_dtype=lora.adapter_dtype,
        batch_size=batch_size,
        seq_len=seq_len,
        **shares,
        flops=_share(lora.flops, full.flops),
        step_time=seconds[1].median / seconds[0].median if seconds[0] and seconds[1] else None,
    )


def _share(part: int | None, whole: int | None) -> Number:
    return None if part is None or not whole else part / whole


def _dtypes(dtype: str, adapter_dtype: str) -> str:
    return dtype if adapter_dtype == dtype else f"{dtype}, {adapter_dtype} A, B"


def _tokens(batch_size: int, seq_len: int) -> str:
    return f"{batch_size} x {seq_len}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Evidence):
    rank: int
    rows: tuple[CostRow, ...]
    pairs: tuple[Pair, ...]

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
    def sentences(self) -> tuple[str, ...]:
        worst = max(self._errors, key=abs, default=0.0)
        accuracy = f"off by {percent_text(abs(worst))} at most" if worst else "exact"
        return (
            *(
                f"{row.method} in {row.dtype} was not measured whole: {row.reason}."
                for row in self.rows
                if None in row.measured.values
            ),
            (
                f"Adam kept two numbers for each one trained in all {len(self.rows)} runs;"
                " predictions of trained numbers, gradients, Adam's states, saved activations and"
                f" peak are {accuracy}."
                if self.verdict != "fails"
                else "Adam did NOT keep two numbers for each one trained."
            ),
            *(f"LoRA r{self.rank} {pair.sentence}" for pair in self.pairs),
        )

    @property
    def headline(self) -> str:
        if not self.pairs or self.pairs[0].peak is None:
            return "not measured"
        pair = self.pairs[0]
        time = "" if pair.step_time is None else f", step time {percent_text(pair.step_time)}"
        states = percent(pair.optimizer_states)
        return f"of full: Adam's states {states}, peak {percent(pair.peak)}{time}"

    def tables(self) -> tuple[Table, ...]:
        return (
            table(
                self.rows,
                (
                    ("method", lambda row: METHOD_LABELS[row.method]),
                    ("dtype", lambda row: _dtypes(row.dtype, row.adapter_dtype)),
                    ("tokens", lambda row: _tokens(*row.tokens)),
                    ("trained", lambda row: _size(row.measured.trainable, short_count_text)),
                    ("gradients", lambda row: _size(row.measured.gradients)),
                    ("Adam", lambda row: _size(row.measured.optimizer_states)),
                    ("saved", lambda row: _size(row.measured.saved_activations)),
                    ("peak", lambda row: _size(row.measured.peak)),
                    ("predicted", lambda row: row.peak_error_text),
                    (
                        "step",
                        lambda r: seconds_text(r.step_seconds.median) if r.step_seconds else "",
                    ),
                ),
                title="Measured",
                left=3,
            ),
            table(
                self.pairs,
                (
                    ("dtype", lambda pair: _dtypes(pair.dtype, pair.adapter_dtype)),
                    ("tokens", lambda pair: pair.tokens),
                    *(
                        (label, lambda pair, name=name: percent(getattr(pair, name), none=""))
                        for name, (label, _) in _SHARES.items()
                    ),
                ),
                title=f"LoRA r{self.rank} as a share of full",
                left=2,
            ),
        )

    def charts(self) -> tuple[Chart, ...]:
        x = tuple(range(len(_SHARES)))
        names = (f"{p.dtype}, {p.adapter_dtype} adapters, {p.tokens} tokens" for p in self.pairs)
        chart = Chart(
            key="lora_of_full",
            title=f"LoRA r{self.rank} as a share of full fine-tuning",
            x_label="",
            categories=tuple(label for _, label in _SHARES.values()),
            y_label="LoRA / full, measured",
            y_is_share=True,
            x_scale="linear",
            series=tuple(
                Series(label=name, x=x, y=pair.shares)
                for name, pair in zip(names, self.pairs, strict=True)
            ),
        )
        return (chart,)


_SHARES: Final = {
    "trainable": ("trained", "trained numbers"),
    "gradients": ("gradients", "gradients"),
    "optimizer_states": ("Adam", "Adam's states"),
    "saved_activations": ("saved", "saved activations"),
    "peak": ("peak", "peak"),
    "flops": ("FLOPs", "FLOPs"),
    "step_time": ("step", "step time"),
}
"""Of a pair: the head of its column, and what sentences and charts call it."""


def _size(size: int | None, text: Callable[[int], str] = bytes_text) -> str:
    return "" if size is None else text(size)


def _caption(chart: Chart) -> tuple[str, ...]:
    """What is saved most, and what is not saved at all, in each setting."""
    sentences = []
    for series in chart.series:
        points = [(chart.categories[int(x)], y) for x, y in series.points]
        if not points:
            continue
        name, share = min(points, key=lambda point: point[1])
        more = [f"{what} {percent_text(y)}" for what, y in points if y >= 1]
        beyond = f"not less than in full: {listed(more)}" if more else "all is less than in full"
        sentences.append(f"{series.label}: of the {name} {percent_text(share)} are left; {beyond}.")
    return tuple(sentences)


CLAIM = Claim(
    id=7,
    title="Memory and speed",
    statement=(
        "Adam keeps two running averages for every trained number, so that training fewer of"
        " them takes less memory."
    ),
    evidence=Cost,
    trains_in_full=True,
    figures={"Memory and speed": {"lora_of_full": _caption}},
)
