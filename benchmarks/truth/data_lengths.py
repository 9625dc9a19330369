"""Batches and peaks of real epochs against what lengths of samples predict.

    python -m benchmarks.truth.data_lengths [--again]

Five distributions of lengths, three rules of making batches: a tiny model is trained for an epoch
by transformers' Trainer, with its own samplers and TRL's packing and collator, over torch's record
of its CPU allocator. Every batch's shape and every step's peak is held against the prediction.
Writes `results/data_lengths.md` and `results/data_lengths.json`; a few minutes on one core. Needs
the test extra, trl and datasets; --again predicts anew, from the shapes and peaks recorded last,
and needs neither.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import families
from benchmarks.pages import RESULTS, page_of, parser_of, table, words_of, write_page
from lora_profiler import TrainingData, TrainSetup, Workload, lengths_of
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import peak_bytes

SAMPLES, BATCH_SIZE, LONGEST = 96, 4, 128
CONFIG = dict(families.TINY["llama"]) | {"vocab_size": 2000, "hidden_size": 64}
SETUP = TrainSetup(
    batch_size=BATCH_SIZE, dtype="float32", optimizer_impl="fused", device="cpu", seq_len=LONGEST
)
RULES = ("random", "grouped", "packed")


def distributions() -> dict[str, list[int]]:
    """The same lengths on every machine."""
    draw = random.Random(7)
    return {
        "conversations": [
            min(LONGEST, max(1, round(draw.lognormvariate(3.2, 0.85)))) for _ in range(SAMPLES)
        ],
        "short, some long": [
            draw.randint(100, LONGEST) if draw.random() < 0.05 else draw.randint(8, 24)
            for _ in range(SAMPLES)
        ],
        "uniform": [draw.randint(1, LONGEST) for _ in range(SAMPLES)],
        "two kinds": [draw.choice((20, 90)) + draw.randint(0, 9) for _ in range(SAMPLES)],
        "beyond the cut": [draw.randint(50, 2 * LONGEST) for _ in range(SAMPLES)],
    }


def workload() -> Workload:
    return Workload(model=model_from_config(dict(CONFIG), id="tiny", source="test"), setup=SETUP)


def data(lengths: Sequence[int], rule: str) -> TrainingData:
    return TrainingData(lengths=lengths_of(lengths), batching=rule, max_length=LONGEST)  # type: ignore[arg-type]


def predicted(lengths: Sequence[int], rule: str, shapes: Sequence[Any]) -> dict[str, Any]:
    """What is said of the data, and the peak of every shape that came."""
    (answer,) = answers([workload()], data=data(lengths, rule))
    epoch = answer.over_data
    assert epoch is not None
    setup = answer.prediction.workload.setup
    peaks = [
        peak_bytes(replace(workload(), setup=shaped(setup, rows, length, is_padded)))
        for rows, length, is_padded in shapes
    ]
    return {
        "worst": [epoch.worst.batch_size, epoch.worst.seq_len],
        "worst_peak_bytes": epoch.worst.peak_bytes,
        "worst_expected": epoch.worst.expected_per_epoch,
        "median": [epoch.median.batch_size, epoch.median.seq_len],
        "median_peak_bytes": epoch.median.peak_bytes,
        "num_batches": epoch.batches.num_batches,
        "processed_tokens": epoch.batches.processed_tokens,
        "step_peaks": peaks,
    }


def shaped(setup: TrainSetup, rows: int, length: int, is_padded: bool) -> TrainSetup:
    """The setup of one batch that came."""
    return replace(setup, batch_size=rows, seq_len=length, padding=0.5 if is_padded else 0.0)


def trained(lengths: Sequence[int], rule: str) -> dict[str, Any]:
    """The second epoch by the Trainer, whose optimizer has its states: rows, length and whether
    there is padding of each batch, and each step's peak."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from trl import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from lora_profiler.measuring.harness.counters import AllocatorRecord

    torch.manual_seed(0)
    config = AutoConfig.for_model(**CONFIG)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    ids = [[(7 * n + k) % 1999 + 1 for k in range(length)] for n, length in enumerate(lengths)]
    if rule == "packed":
        dataset = pack_dataset(Dataset.from_dict({"input_ids": ids}), LONGEST, "bfd")
    else:
        dataset = Dataset.from_dict({"input_ids": [row[:LONGEST] for row in ids]})
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=rule == "packed")
    shapes: list[tuple[int, int, bool]] = []

    def logged(examples: list[dict[str, Any]]) -> Any:
        batch = collate(examples)
        mask = batch.get("attention_mask")
        shapes.append((*batch["input_ids"].shape, mask is not None and not bool(mask.all())))
        return batch

    tensors = [*model.parameters(), *model.buffers()]
    existing = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    record = AllocatorRecord(existing)

    class Marks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            record.mark(state.global_step + 1, "forward")

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH_SIZE,
                num_train_epochs=2,
                train_sampling_strategy="group_by_length" if rule == "grouped" else "random",
                remove_unused_columns=False,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=dataset,
            data_collator=logged,
            callbacks=[Marks()],
        )
        record.start()
        trainer.train()
        timeline = record.stop()
    peaks: Counter[int] = Counter()
    for (step, _), peak in timeline.peaks().items():
        peaks[step] = max(peaks[step], peak.size_bytes)
    first, steps = len(shapes) // 2, len(shapes)
    return {
        "shapes": shapes[first:],
        "peaks": [peaks[step] for step in range(first + 1, steps + 1)],
        "versions": {n: version(n) for n in ("torch", "transformers", "trl", "datasets")},
    }


HEADS = (
    "lengths | batches | worst | >MiB | >an epoch | longest that came | >MiB | median | >MiB"
    " | median that came | >MiB | >tokens processed | >that came"
)


def cells(row: Mapping[str, Any]) -> list[str]:
    said = row["predicted"]
    came = sorted(zip(row["shapes"], row["peaks"], strict=True), key=lambda batch: batch[0][1])
    whole = [batch for batch in came if batch[0][0] == said["worst"][0]]
    return [
        row["lengths"],
        row["rule"],
        *_cells(said["worst"], said["worst_peak_bytes"]),
        f"{said['worst_expected']:.2g}",
        *_cells(*whole[-1]),
        *_cells(said["median"], said["median_peak_bytes"]),
        *_cells(*whole[(len(whole) - 1) // 2]),
        f"{said['processed_tokens']:,.0f}",
        f"{sum(count * length for count, length, _ in row['shapes']):,}",
    ]


def _cells(shape: Sequence[int], peak: int) -> tuple[str, str]:
    return f"{shape[0]} x {shape[1]}", f"{peak / 2**20:.2f}"


def errors(row: Mapping[str, Any], *, with_mask: bool) -> list[float]:
    """Of each step's peak, by the shape of its own batch, with a padded token in it or without.
    What packing leaves over is left out: it may be one sample, which has no mask."""
    steps = zip(row["shapes"], row["predicted"]["step_peaks"], row["peaks"], strict=True)
    return [
        ours / real - 1
        for (_, length, masked), ours, real in steps
        if masked == with_mask and (row["rule"] != "packed" or length > LONGEST)
    ]


def _range(rows: Sequence[Mapping[str, Any]], *, with_mask: bool) -> str:
    every = [error for row in rows for error in errors(row, with_mask=with_mask)]
    return f"{len(every)} steps, errors from {min(every):+.3%} to {max(every):+.3%}"


def main() -> None:
    again = parser_of(__doc__, again=False).parse_args().again
    path = RESULTS / "data_lengths.json"
    recorded = {(r["lengths"], r["rule"]): r for r in json.loads(path.read_text())} if again else {}
    rows = []
    for name, lengths in distributions().items():
        for rule in RULES:
            real = recorded.get((name, rule)) or trained(lengths, rule)
            row = {
                "lengths": name,
                "rule": rule,
                **{key: real[key] for key in ("shapes", "peaks", "versions")},
                "predicted": predicted(lengths, rule, real["shapes"]),
            }
            rows.append(row)
            path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
            print(name, rule, flush=True)
    text = page_of(
        "Epochs over lengths of samples",
        f"`python -m benchmarks.truth.data_lengths`: {SAMPLES} samples, batches of {BATCH_SIZE},"
        f" cut at {LONGEST}; {words_of(rows[0]['versions'])}. The second of two epochs by"
        " transformers' Trainer, float32, fused AdamW, on a CPU; *worst* and *median* are"
        " predicted, with the expected number of batches an epoch as long as the worst.",
        table(HEADS, map(cells, rows)),
        "Peak of each step, predicted for the shape of its own batch:",
        [
            f"- without a padded token: {_range(rows, with_mask=False)}",
            f"- with one, which brings a mask: {_range(rows, with_mask=True)}",
        ],
    )
    write_page("data_lengths", text)


if __name__ == "__main__":
    main()
