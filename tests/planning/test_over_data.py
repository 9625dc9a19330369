"""Answers over data: memory of the worst batch, time of the average one, from Python and from the
command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from commands import Run, refused
from golden_files import Golden
from loading import modules_after
from lora_profiler import (
    LoraConfig,
    TrainingData,
    TrainSetup,
    UsageError,
    Workload,
    find_gpu,
    find_model,
    lengths_of,
    step_time,
)
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.question.batching.data import read_lengths
from lora_profiler.report.answer.verdicts import long_samples_lines
from lora_profiler.report.json.predict import answer_dict

GPU = find_gpu("a100_sxm_80gb")
CONVERSATIONS = read_lengths("mean=600,max=4096")


def _workload(**changes: object) -> Workload:
    setup = TrainSetup(lora=LoraConfig(), batch_size=4, checkpointing=True)
    return Workload(
        model=find_model("Qwen/Qwen2.5-0.5B"),
        setup=replace(setup, **changes),  # type: ignore[arg-type]
    )


def test_memory_is_that_of_the_worst_batch_and_time_the_mean_of_all() -> None:
    """Every length is timed here; the answer times four."""
    data = TrainingData(lengths=CONVERSATIONS, pad_to_multiple_of=256)
    (answer,) = answers([_workload()], GPU, data=data)
    epoch = answer.over_data
    assert epoch is not None and answer.timing and answer.timing.step and answer.fit
    worst = answer.prediction.workload.setup
    assert (worst.batch_size, worst.seq_len) == (4, 4096)
    assert epoch.worst.peak_bytes == answer.fit.peak_bytes == answer.prediction.peak.total_bytes
    assert epoch.worst.peak_bytes == peak_bytes(answer.prediction.workload)
    median = replace(answer.prediction.workload, setup=replace(worst, seq_len=epoch.median.seq_len))
    assert epoch.median.peak_bytes == peak_bytes(median)
    total = sum(epoch.batches.counts.values())
    seconds = 0.0
    for length, count in epoch.batches.counts.items():
        timing = step_time(replace(median, setup=replace(worst, seq_len=length)), GPU)
        assert timing.step
        seconds += count / total * timing.step.time.seconds
    time = answer.timing.step.time
    assert time.seconds == pytest.approx(seconds, rel=0.01)
    assert sum(time.parts.values()) == pytest.approx(time.seconds)
    assert time.low < time.seconds < time.high
    assert answer.speed_gap is None
    document = answer_dict(answer)["data"]
    assert document["epoch_seconds"] == pytest.approx(2500 * time.seconds)
    assert document["steps_per_epoch"] == 2500
    assert document["total_seconds"] is None


@pytest.mark.parametrize(
    ("batching", "changes", "sizes"),
    [
        ("packed", {"attention": "flash"}, (1, 8192, 300, True)),
        ("packed", {}, (1, 8192, 300, False)),
        ("packed-axolotl", {"attention": "flash"}, (1, 8192, 300, True)),
        ("packed-wrapped", {}, (4, 2048, None, False)),
    ],
)
def test_packed_batches_are_rows_as_the_trainer_makes_them(
    batching: str, changes: dict[str, str], sizes: tuple[int, int, int | None, bool]
) -> None:
    data = TrainingData(lengths=lengths_of([300] * 1200), batching=batching)  # type: ignore[arg-type]
    (answer,) = answers([_workload(**changes)], data=data)
    setup = answer.prediction.workload.setup
    rows, length, packed, is_flattened = sizes
    fullest = length - 4 * (2048 % 300) if batching == "packed" else length
    assert (setup.batch_size, setup.seq_len, setup.packed) == (rows, fullest, packed)
    assert setup.is_flattened == is_flattened


def test_steps_are_counted_over_ranks_and_accumulation() -> None:
    data = TrainingData(lengths=lengths_of([50] * 1001))
    setup = {"accumulation": 3, "world_size": 2, "sharding": "ddp", "batch_size": 2}
    (answer,) = answers([_workload(**setup)], data=data)
    assert answer.over_data is not None
    assert answer.over_data.batches.num_batches == 501
    assert answer.over_data.steps_per_epoch == 84  # 501 / 6, and a last one


def test_a_packed_length_beside_data_is_refused() -> None:
    with pytest.raises(UsageError, match="--batching packed"):
        answers([_workload(packed=64)], data=TrainingData(lengths=CONVERSATIONS))


def test_the_command_line_says_what_python_says(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    message = {"role": "user", "content": "abcd" * 90}
    path.write_text(
        "".join(json.dumps({"messages": [message] * (1 + n % 5)}) + "\n" for n in range(50))
    )
    done = run(
        "gpt2", "--method", "full", "-b", "4", "--data", str(path), "--epochs", "2", "--gpu",
        "t4", "--full", "--format", "json", "--trainer", "bare",
    )  # fmt: skip
    (answer,) = json.loads(done.stdout)["predictions"]
    data = answer["data"]
    assert answer["setup"]["seq_len"] == data["worst"]["seq_len"] == 5 * 95
    assert data["worst"]["peak_bytes"] == answer["peak"]["total_bytes"]
    assert data["lengths"]["num_samples"] == 50 and data["num_batches"] == 13
    assert "4 bytes of text" in data["lengths"]["notes"][0]
    assert data["total_seconds"] == pytest.approx(2 * data["epoch_seconds"])
    assert data["epoch_seconds"] == pytest.approx(13 * answer["step_time"]["seconds"])
    cut = run("gpt2", "--method", "full", "-b", "4", "-s", "200", "--data", str(path))
    assert "worst batch 4 × 200 tokens" in cut.stdout
    assert len(cut.stdout.splitlines()) <= 25
    whole = run("gpt2", "--method", "full", "-b", "4", "-s", "200", "--data", str(path), "--detail")
    assert "worst batch, 4 x 200 tokens" in whole.stdout
    assert "30 samples (60.00 %) are longer and cut." in whole.stdout


def test_contradictions_are_one_line(run: Run, golden_file: Golden) -> None:
    golden_file.compare_answers("refusals-data", lambda words: refused(run(*words.split())))


def test_nothing_of_it_is_loaded_for_other_questions() -> None:
    code = (
        "from lora_profiler.cli.main import root; root.main(['gpt2', '-s', '512'{}], 'x',"
        " standalone_mode=False)"
    )
    assert not {m for m in modules_after(code.format("")) if "lora_profiler.question.batching" in m}
    loaded = modules_after(code.format(", '--lengths', 'mean=60,max=512'"))
    assert "lora_profiler.question.batching.sample_lengths" in loaded
    assert loaded.isdisjoint({"numpy", "pyarrow", "tokenizers", "statistics", "huggingface_hub"})


def test_recorded_epochs_are_predicted_again() -> None:
    """Of transformers' Trainer, with its samplers and TRL's packing: `benchmarks.truth.data_lengths`."""
    from benchmarks.truth import data_lengths

    rows = json.loads((data_lengths.RESULTS / "data_lengths.json").read_text())
    assert len(rows) == len(data_lengths.distributions()) * len(data_lengths.RULES) == 15
    for row in rows:
        lengths, rule = data_lengths.distributions()[row["lengths"]], row["rule"]
        said = data_lengths.predicted(lengths, rule, row["shapes"])
        assert said == row["predicted"]
        came = [(count, length) for count, length, _ in row["shapes"]]
        assert len(came) == said["num_batches"]
        tokens = sum(count * length for count, length in came)
        if rule == "packed":
            assert tokens == round(said["processed_tokens"])
            assert max(came) <= tuple(said["worst"])
        else:
            assert tokens == pytest.approx(said["processed_tokens"], rel=0.12)
            assert max(came) == tuple(said["worst"])
        for with_mask in (False, True):
            assert all(abs(e) < 0.0025 for e in data_lengths.errors(row, with_mask=with_mask))


def test_a_few_long_samples_do_not_decide_alone() -> None:
    """Held against the same data without them, and cut there."""
    lengths = [400] * 4999 + [6577]
    workload = Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig(), batch_size=4))
    card = find_gpu("t4")
    (answer,) = answers([workload], card, data=TrainingData(lengths=lengths_of(lengths)))
    assert answer.fit is not None and answer.fit.verdict == "does_not_fit"
    long = answer.long_samples
    assert long is not None and long.samples == 1 and 400 < long.seq_len < 6577
    assert answer_dict(answer)["data"]["long_samples"] == {"samples": 1, "seq_len": long.seq_len}
    said = (
        f"1 of 5,000 samples is longer than {long.seq_len:,} tokens. LoRA r16 fits without it:"
        f" `--seq-len {long.seq_len}`."
    )
    assert list(long_samples_lines(answer)) == [said]
    for data in (
        TrainingData(lengths=lengths_of([400] * 4999)),
        TrainingData(lengths=lengths_of(lengths), max_length=long.seq_len),
    ):
        (other,) = answers([workload], card, data=data)
        assert other.fit is not None and other.fit.verdict == "fits"
        assert other.long_samples is None
    rounded = TrainingData(lengths=lengths_of(lengths), pad_to_multiple_of=512)
    cut = answers([workload], card, data=rounded)[0].long_samples
    assert cut is not None and cut.seq_len % 512 == 0
    many = TrainingData(lengths=lengths_of([400] * 900 + [6577] * 100))
    assert answers([workload], card, data=many)[0].long_samples is None


@pytest.mark.parametrize(
    ("trainer", "more", "longest"),
    [
        (None, (), 6577),
        ("trl-sft", (), 1024),  # its max_length
        ("axolotl", (), 2048),  # its sequence_len
        ("trl-sft", ("-s", "4096"), 4096),
        ("transformers", (), 6577),  # which cuts nothing
    ],
)
def test_samples_are_cut_where_the_trainer_cuts_them(
    run: Run, trainer: str | None, more: tuple[str, ...], longest: int
) -> None:
    by = ("--trainer", trainer) if trainer else ()
    asked = ("predict", "Qwen/Qwen2.5-0.5B", "--method", "lora", *by, *more)
    done = run(*asked, "--lengths", "mean=400,samples=5000", "--full", "--format", "json")
    (found,) = json.loads(done.stdout)["predictions"]
    assert found["setup"]["seq_len"] == longest


def test_a_file_cuts_samples_where_it_says(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "qlora.yml"
    file.write_text(
        "base_model: Qwen/Qwen2.5-0.5B\nadapter: lora\nlora_r: 8\nlora_target_linear: true\n"
        "sequence_len: 1536\nmicro_batch_size: 2\noptimizer: adamw_torch\nbf16: true\n"
    )
    done = run(
        "predict", str(file), "--lengths", "mean=400,samples=5000", "--full", "--format", "json"
    )
    (found,) = json.loads(done.stdout)["predictions"]
    assert found["setup"]["seq_len"] == 1536


def test_the_whole_answer_says_that_only_long_samples_do_not_fit(run: Run) -> None:
    words = "meta-llama/Llama-3.1-8B --method qlora --trainer bare --gpu t4 -b 4 --checkpointing"
    lengths = ["--lengths", "mean=300,max=8000,samples=5000", "--detail"]
    done = run(*words.split(), *lengths)
    assert done.exit_code == 1 and "longer than" in " ".join(done.stdout.split())
