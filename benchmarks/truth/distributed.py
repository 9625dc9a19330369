"""Several ranks on the CPU: what each holds and how high it goes, against its prediction, and
losses against one process.

    python -m benchmarks.truth.distributed [--write] [--timeout SECONDS]

The table, from what is stored; with --write what is missing is measured first, about a minute a
case on two cores, each within --timeout, and `results/distributed.json` and
`results/distributed.md` are written. Say it again to go on.

2 and 4 gloo processes; DDP, FSDP2 with and without resharding after forward, and ZeRO-1; full, LoRA
and QLoRA; models of two or three layers. A case without a prediction has its measurement alone.
Needs the test extra.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, page_of, parser_of, table, write_json, write_page
from benchmarks.truth.suite_models import MEDIUM
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.measuring.harness import Case, make_case, measure_case
from lora_profiler.measuring.records.record import Conditions, Record
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import LoraConfig, Quantization, Sharding, TrainSetup, Workload

CONDITIONS = Conditions(min_timed_steps=0, memory_steps=3)
SMALL = {
    "vocab_size": 1003, "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": None,
}  # fmt: skip
"""An odd vocabulary and sizes that 4 does not divide, so that shards are padded."""
SMALL_GPT2 = {"vocab_size": 1003, "n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": 128}
PEAK_TOLERANCE = 0.01
LORA = LoraConfig(r=6)


def workload(
    family: str, method: str, world_size: int, sharding: Sharding, **changes: Any
) -> Workload:
    sizes: dict[str, Any] = dict(SMALL_GPT2 if family == "gpt2" else SMALL)
    if family == "qwen3":
        sizes |= {"tie_word_embeddings": True, "head_dim": 24}
    model = model_from_config({**MEDIUM[family], **sizes}, id=f"small-{family}", source="file")
    lora, base = None if method == "full" else LORA, Quantization() if method == "qlora" else None
    setup = TrainSetup(
        device="cpu", dtype="float32", batch_size=2, seq_len=48, world_size=world_size,
        sharding=sharding, lora=lora, quantization=base,
    )  # fmt: skip
    return Workload(model=model, setup=replace(setup, **changes))


def workloads() -> Iterator[Workload]:
    """The grid first, then what else a setup can say."""
    methods = ("full", "lora", "qlora")
    for ranks, shardings in ((2, ("ddp", "fsdp", "fsdp-no-reshard")), (4, ("ddp", "fsdp"))):
        for sharding in shardings:
            for method in methods:
                yield workload("llama", method, ranks, sharding)  # type: ignore[arg-type]
    for method in methods:
        yield workload("llama", method, 2, "fsdp", dtype="bfloat16")
    yield workload("llama", "lora", 2, "ddp", dtype="bfloat16")
    yield workload("llama", "full", 2, "fsdp", checkpointing=True)
    yield workload("llama", "lora", 2, "fsdp", checkpointing=True, batch_size=3)
    yield workload("llama", "full", 2, "ddp", accumulation=2)
    yield workload("qwen3", "full", 2, "fsdp")
    yield workload("qwen3", "lora", 4, "fsdp")
    yield workload("gpt2", "full", 2, "fsdp")
    yield workload("gpt2", "lora", 2, "ddp")
    yield workload("llama", "full", 2, "zero1")
    yield workload("llama", "lora", 4, "zero1")
    yield workload("llama", "lora", 2, "fsdp", lora=replace(LORA, lora_dropout=0.1))
    yield workload("llama", "full", 2, "fsdp", optimizer_impl="fused")


# --- measuring ------------------------------------------------------------------------------------


def stored(path: Path) -> dict[str, Record]:
    if not path.exists():
        return {}
    rows = json.loads(path.read_text("utf-8"))["cases"]
    return {r.case_key: r for r in (record_from_dict(row["record"]) for row in rows)}


def measured(
    cases: list[Case], known: dict[str, Record], path: Path, timeout_seconds: float
) -> None:
    """Adds to `known`, and writes after every case."""
    for number, case in enumerate(cases, 1):
        if case.key in known:
            continue
        began = time.perf_counter()
        known[case.key] = measure_case(case, timeout_seconds=timeout_seconds)
        m = known[case.key].measurement
        print(
            f"{number}/{len(cases)} {name_of(case.workload)}: {m.status},"
            f" {time.perf_counter() - began:.0f} s",
            file=sys.stderr,
        )
        write_json(path, {"cases": list(map(document, rows_of(cases, known)))})


# --- comparing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One case; without a prediction `refusal` says why."""

    record: Record
    prediction: Prediction | None
    refusal: str = ""

    @property
    def persistent(self) -> dict[str, tuple[int, int]]:
        """(predicted, measured) by category, of the rank that holds most: of what a prediction
        counts as persistent."""
        if self.prediction is None:
            return {}
        by_rank = (r.persistent_bytes for r in self.record.measurement.ranks)
        held = max(by_rank, key=lambda sizes: sum(sizes.values()), default={})
        return {c: (size, held.get(c, 0)) for c, size in self.prediction.persistent_bytes.items()}

    @property
    def persistent_is_equal(self) -> bool:
        return all(predicted == measured for predicted, measured in self.persistent.values())

    @property
    def peak_error(self) -> float | None:
        """(predicted - measured) / measured, of the highest rank."""
        peak = self.record.measurement.peak_requested_bytes
        return (
            None
            if self.prediction is None or not peak
            else (self.prediction.peak.total_bytes - peak) / peak
        )

    @property
    def loss_difference(self) -> float | None:
        """The largest, relative, between the ranks' mean and one process."""
        m = self.record.measurement
        pairs = list(zip(m.loss, m.reference_loss, strict=False))
        return max(abs(mine - one) / abs(one) for mine, one in pairs) if pairs else None


def rows_of(cases: list[Case], known: dict[str, Record]) -> list[Row]:
    return [row_of(known[case.key]) for case in cases if case.key in known]


def row_of(record: Record) -> Row:
    try:
        return Row(record, predict(record.workload))
    except (UsageError, LoraProfilerError) as e:
        return Row(record, None, str(e))


def name_of(workload: Workload) -> str:
    s = workload.setup
    rest = [
        s.dtype if s.dtype != "float32" else "",
        "checkpointing" if s.checkpointing else "",
        f"accumulation {s.accumulation}" if s.accumulation > 1 else "",
        s.optimizer_impl if s.optimizer_impl != "foreach" else "",
        f"dropout {s.lora.lora_dropout:g}" if s.lora and s.lora.lora_dropout else "",
    ]
    return ", ".join(
        filter(None, [workload.model.id, s.method, f"{s.sharding} x {s.world_size}", *rest])
    )


def document(row: Row) -> dict[str, Any]:
    told = row.prediction
    return {
        "name": name_of(row.record.workload),
        "record": record_dict(row.record),
        "predicted_persistent_bytes": dict(told.persistent_bytes) if told else None,
        "predicted_peak_bytes": told.peak.total_bytes if told else None,
        "peak_error": row.peak_error,
        "loss_difference": row.loss_difference,
        "refusal": row.refusal or None,
    }


def as_markdown(rows: list[Row]) -> str:
    told = [row for row in rows if row.prediction is not None]
    equal = sum(row.persistent_is_equal for row in told)
    errors = [row.peak_error for row in told if row.peak_error is not None]
    within = sum(abs(error) <= PEAK_TOLERANCE for error in errors)
    through = sum(row.record.measurement.went_through for row in rows)
    losses = [row.loss_difference for row in rows if row.loss_difference is not None]
    apart = f"at most {max(losses, default=0):.1e} apart (relative)"
    misses = [line for row in told for line in _misses(row)]
    return page_of(
        "Several ranks on the CPU, measured and predicted",
        "`python -m benchmarks.truth.distributed --write`, gloo processes on one machine, torch"
        f" {version('torch')}.\nPersistent bytes are what a prediction counts as such, of the rank"
        " that holds most; losses are the mean of the ranks\nagainst one process on the same global"
        " data.",
        [
            f"- {through} of {len(rows)} cases went through.",
            f"- Losses: {len(losses)} compared, {apart}.",
            f"- Persistent bytes by category equal to the prediction: {equal} of {len(told)}.",
            f"- Peaks within 1 % of the prediction: {within} of {len(told)}.",
            *([f"- Without a prediction: {n}."] if (n := len(rows) - len(told)) else []),
        ],
        table(
            "case | status | persistent bytes a rank | peak a rank, bytes | >imbalance"
            " | >predicted peak | >error | >loss difference",
            map(_cells, rows),
        ),
        *(["## Where prediction and measurement differ", misses] if misses else []),
    )


def _cells(row: Row) -> list[str]:
    m, told = row.record.measurement, row.prediction
    held = [sum(n for c, n in r.persistent_bytes.items() if c != "buffers") for r in m.ranks]
    return [
        name_of(row.record.workload),
        m.status,
        _alike(held),
        _alike([r.peak_requested_bytes or 0 for r in m.ranks]),
        "" if m.rank_imbalance is None else f"{100 * m.rank_imbalance:.2f} %",
        "" if told is None else f"{told.peak.total_bytes:,}",
        "" if row.peak_error is None else f"{100 * row.peak_error:+.3f} %",
        "" if row.loss_difference is None else f"{row.loss_difference:.1e}",
    ]


def _alike(sizes: list[int]) -> str:
    """One number where all ranks have the same."""
    return ", ".join(f"{size:,}" for size in (sizes[:1] if len(set(sizes)) == 1 else sizes))


def _misses(row: Row) -> Iterator[str]:
    name, peak = name_of(row.record.workload), row.record.measurement.peak_requested_bytes
    for category, (predicted, found) in row.persistent.items():
        if predicted != found:
            numbers = f"{predicted:,} predicted, {found:,} measured ({predicted - found:+,})"
            yield f"- {name}: {category} {numbers}."
    if row.prediction and row.peak_error is not None and abs(row.peak_error) > PEAK_TOLERANCE:
        numbers = f"{row.prediction.peak.total_bytes:,} predicted, {peak:,} measured"
        yield f"- {name}: peak {numbers} ({100 * row.peak_error:+.2f} %)."


def main() -> int:
    options = parser_of(__doc__, write=False, timeout=600.0).parse_args()
    path = RESULTS / "distributed.json"
    cases = [make_case(each, CONDITIONS) for each in workloads()]
    known = stored(path)
    if options.write:
        measured(cases, known, path, options.timeout)
    rows = rows_of(cases, known)
    text = as_markdown(rows)
    print(text)
    if options.write:
        write_json(path, {"cases": list(map(document, rows))})
        write_page("distributed", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
