"""Lengths of samples and the batches made of them: against every draw there is, transformers'
sampler, rows that TRL packed, and axolotl's rule as it is written there."""

import json
import random
from itertools import permutations
from pathlib import Path

import pytest

from golden_files import Golden
from lora_profiler import UsageError, lengths_of
from lora_profiler.question.batching.batches import (
    BATCHINGS,
    MEGABATCHES,
    batches_of,
    best_fit_decreasing,
    first_fit,
    grouped_by_length,
    wrapped,
)
from lora_profiler.question.batching.data import lengths_from, read_lengths
from lora_profiler.question.batching.files import read_data

TRL = json.loads((Path(__file__).parents[1] / "data" / "packed_by_trl.json").read_text())


@pytest.mark.parametrize(("batch_size", "factor"), [(2, 1.45), (4, 2.0), (8, 2.66)])
def test_conversations_pad_as_they_were_measured_to(batch_size: int, factor: float) -> None:
    lengths = read_lengths("mean=600,max=4096")
    assert lengths.mean == pytest.approx(600, abs=0.5)
    drawn = batches_of(lengths, batch_size=batch_size)
    assert drawn.padding_factor == pytest.approx(factor, abs=0.01)
    packed = batches_of(lengths, batching="packed", batch_size=batch_size, max_length=4096)
    assert packed.padding_factor == pytest.approx(1)
    assert not packed.has_padding
    assert packed.longest == batch_size * 4096


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 9])
def test_random_batches_are_expected_as_often_as_all_draws_have_them(
    batch_size: int, multiple: int
) -> None:
    samples = [3, 3, 5, 8, 13, 21, 21]
    counts: dict[int, float] = {}
    tokens = total = 0
    for order in permutations(samples):
        total += 1
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            length = -(-max(batch) // multiple) * multiple
            tokens += len(batch) * length
            if len(batch) == min(batch_size, len(samples)):
                counts[length] = counts.get(length, 0) + 1
    made = batches_of(lengths_of(samples), batch_size=batch_size, pad_to_multiple_of=multiple)
    assert made.counts == pytest.approx({n: c / total for n, c in sorted(counts.items())})
    assert made.processed_tokens == pytest.approx(tokens / total)
    assert made.num_batches == -(-len(samples) // batch_size)


@pytest.mark.parametrize(("count", "batch_size"), [(7, 2), (40, 4), (1000, 3), (5, 8)])
def test_groups_are_those_of_the_length_grouped_sampler(count: int, batch_size: int) -> None:
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    draw = random.Random(count)
    lengths = [draw.randint(1, 500) for _ in range(count)]
    indices = get_length_grouped_indices(
        lengths, batch_size, generator=torch.Generator().manual_seed(5)
    )
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(5)).tolist()
    assert grouped_by_length([lengths[i] for i in drawn], batch_size) == [
        lengths[i] for i in indices
    ]
    assert MEGABATCHES == 50


def test_grouped_epochs_hold_every_token_once_and_the_longest_first() -> None:
    draw = random.Random(1)
    samples = [draw.randint(1, 400) for _ in range(998)]
    made = batches_of(lengths_of(samples), batching="grouped", batch_size=4)
    assert made.longest == max(samples)
    assert made.rest is not None and made.rest[0] == 2
    assert sum(made.counts.values()) == pytest.approx(249)
    drawn = batches_of(lengths_of(samples), batch_size=4)
    assert 1 < made.padding_factor < 1.1 < drawn.padding_factor


@pytest.mark.parametrize("case", TRL["cases"], ids=["small", "blocks"])
def test_rows_are_packed_as_trl_packed_them(case: dict) -> None:  # type: ignore[type-arg]
    lengths, row_length = case["lengths"], case["row_length"]
    assert best_fit_decreasing(lengths, row_length, split=False) == case["bfd"]
    assert best_fit_decreasing(lengths, row_length, split=True) == case["bfd_split"]
    assert wrapped(lengths, row_length) == case["wrapped"]


@pytest.mark.parametrize("seed", range(6))
def test_first_fit_is_axolotls(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(1, 400 if seed % 2 else 3) for _ in range(700)]
    rows: list[list[int]] = []  # src/axolotl/utils/samplers/multipack.py: pack_group
    for length in lengths:
        for row in rows:
            if sum(row) + length <= 512 and len(row) < 200:
                row.append(length)
                break
        else:
            rows.append([length])
    assert first_fit(lengths, 512) == rows


@pytest.mark.parametrize("batching", [b for b in BATCHINGS if b.startswith("packed")])
def test_packed_rows_hold_all_tokens(batching: str) -> None:
    draw = random.Random(2)
    samples = [draw.randint(1, 600) for _ in range(1500)]
    made = batches_of(lengths_of(samples), batching=batching, batch_size=2, max_length=512)  # type: ignore[arg-type]
    cut = sum(min(n, 512) for n in samples)
    kept = sum(n for n in samples if n <= 512)
    expected = {"packed": cut, "packed-axolotl": kept}.get(batching, sum(samples))
    assert made.num_tokens == expected
    longer = sum(n > 512 for n in samples)
    assert made.cut_samples == (longer if batching in ("packed", "packed-axolotl") else 0)
    assert 1 <= made.padding_factor < 1.02
    assert made.longest == (512 if batching == "packed-wrapped" else 1024)


def test_more_samples_than_can_be_packed_are_counted_all_the_same() -> None:
    many = read_lengths("mean=600,max=4096,samples=1000000000")
    assert batches_of(many, batch_size=4).num_batches == 250_000_000
    with pytest.raises(UsageError, match="too many to be packed or grouped"):
        batches_of(many, batching="packed", max_length=4096)


def test_the_longest_packed_batch_is_as_rare_as_drawing_the_fullest_rows() -> None:
    """Ten rows of one sample each, two of them full: one of 45 pairs has both."""
    made = batches_of(
        lengths_of([10, 10, *range(6, 9), *range(6, 9), 6, 7]),
        batching="packed",
        batch_size=2,
        max_length=10,
    )
    assert made.longest == 20
    assert made.expected_longest == pytest.approx(5 / 45, rel=0.15)


def test_parts_have_the_mean_of_all() -> None:
    made = batches_of(read_lengths("mean=600,max=4096"), batch_size=4)
    parts = made.parts(4)
    assert len(parts) == 4
    assert sum(share for _, share in parts) == pytest.approx(1)
    mean = sum(n * c for n, c in made.counts.items()) / sum(made.counts.values())
    assert sum(length * share for length, share in parts) == pytest.approx(mean, abs=1)
    assert batches_of(lengths_of([7] * 10), batch_size=2).parts(4) == [(7, 1.0)]


@pytest.mark.parametrize(
    ("figures", "mean", "median", "p95"),
    [
        ("median=400,p95=2000", None, 400, 2000),
        ("mean=600,median=400,max=8192", 600, 400, None),
        ("mean=600,p95=1500", 600, None, 1500),
        ("mean=3000,max=4096,sigma=1.5", 3000, None, None),
        ("mean=300,min=100,max=2000,samples=777", 300, None, None),
    ],
)
def test_figures_come_out_as_they_went_in(
    figures: str, mean: int | None, median: int | None, p95: int | None
) -> None:
    lengths = read_lengths(figures)
    assert mean is None or lengths.mean == pytest.approx(mean, rel=0.002)
    assert median is None or abs(lengths.quantile(0.5) - median) <= 1
    assert p95 is None or abs(lengths.quantile(0.95) - p95) <= 2
    assert lengths.num_samples == (777 if "samples" in figures else 10_000)


def test_figures_that_no_distribution_has_are_refused(golden_file: Golden) -> None:
    def answer(figures: str) -> str:
        with pytest.raises(UsageError) as caught:
            lengths_from(figures)
        return str(caught.value)

    golden_file.compare_answers("figures-of-lengths", answer)


def _written(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_columns_that_trainers_know_are_read(tmp_path: Path) -> None:
    """Four bytes a token; one ends a text, five surround a message."""
    chat = {"messages": [{"role": "user", "content": "a" * 40}, {"role": "x", "content": "b" * 8}]}
    shared = {"conversations": [{"from": "human", "value": "é" * 20}]}
    rows: dict[str, tuple[dict[str, object], int]] = {
        "chat": (chat, 10 + 2 + 2 * 5),
        "shared": (shared, 10 + 5),
        "pair": ({"prompt": "a" * 9, "completion": "b" * 3}, 3 + 1 + 1),
        "alpaca": ({"instruction": "a" * 4, "input": "", "output": "b" * 4}, 1 + 1 + 1),
        "text": ({"text": "a" * 17, "id": 4}, 5 + 1),
        "ids": ({"input_ids": [1, 2, 3]}, 3),
        "length": ({"length": 77}, 77),
    }
    for name, (row, tokens) in rows.items():
        lengths = read_data(_written(tmp_path / f"{name}.jsonl", row, row))
        assert lengths.order == (tokens, tokens), name
        assert bool(lengths.notes) == (name not in ("ids", "length")), name
    array = tmp_path / "array.json"
    array.write_text(json.dumps([{"text": "a" * 8}, {"text": "b" * 400}]))
    assert read_data(str(array)).order == (3, 101)
    assert read_data(_written(tmp_path / "odd.jsonl", {"my": "a" * 8}) + "#my").order == (3,)
    plain = tmp_path / "lines.txt"
    plain.write_text("abcd\n\nabcdefgh\n")
    assert read_data(str(plain)).order == (2, 3)


def test_data_that_cannot_be_read_are_refused_by_line(golden_file: Golden, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"

    def answer(text: str) -> str:
        path.write_text(json.loads(text))
        with pytest.raises(UsageError) as caught:
            read_data(str(path))
        return str(caught.value).replace(str(path), "data.jsonl")

    golden_file.compare_answers("data-that-cannot-be-read", answer)


def test_a_column_or_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = _written(tmp_path / "d.jsonl", {"text": "a"})
    with pytest.raises(UsageError, match=r"has no column 'txt'; it has 'text'. Did you mean text"):
        read_data(f"{path}#txt")
    with pytest.raises(UsageError, match="no file or folder"):
        read_data(str(tmp_path / "none.jsonl"))
    (tmp_path / "x.bin").write_bytes(b"\x00")
    with pytest.raises(UsageError, match="no data that is known here"):
        read_data(str(tmp_path / "x.bin"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no file of data"):
        read_data(str(tmp_path / "empty"))


def test_histograms_are_read_and_refused_by_line(tmp_path: Path) -> None:
    csv, as_json = tmp_path / "h.csv", tmp_path / "h.json"
    csv.write_text("length,count\n100,3\n50,2\n100,1\n")
    as_json.write_text('{"100": 4, "50": 2}')
    assert lengths_from(str(csv)).counts == lengths_from(str(as_json)).counts == {50: 2, 100: 4}
    as_json.write_text('[{"length": 50, "count": 2}, [100, 4]]')
    assert lengths_from(str(as_json)).counts == {50: 2, 100: 4}
    for text, words in (
        ("length,count\n0,3\n", "line 2, has a length of 0"),
        ("100,3\n200,x\n", "line 2, has a count of 'x'"),
        ("100,3,1\n", "line 1, has 3 cells"),
        ("length,count\n100\n", "line 2, has one cell"),
        ("count,length\n3,100\n", "line 1, is 'count,length'; the columns are length,count"),
        ("length,count\n", "has no sample"),
    ):
        csv.write_text(text)
        with pytest.raises(UsageError, match=words):
            lengths_from(str(csv))


def test_parquet_arrow_and_folders_are_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = pa.table({"text": ["a" * 8, "b" * 40], "n": [1, 2]})
    parquet.write_table(rows, tmp_path / "d.parquet")
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    arrow = str(folder / "data-00000-of-00001.arrow")
    with pa.OSFile(arrow, "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    assert read_data(str(tmp_path / "d.parquet")).order == (3, 11)
    assert read_data(str(tmp_path / "saved")).order == (3, 11)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="cannot be read"):
        read_data(str(tmp_path / "broken.parquet"))


def test_a_tokenizer_beside_the_model_counts(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from lora_profiler import find_model

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = find_model(str(tmp_path))
    lengths = read_data(_written(tmp_path / "d.jsonl", {"text": "a bcdef a a"}), model)
    assert lengths.order == (5,)
    assert "Tokenised with tokenizer.json" in lengths.notes[0]


def test_reading_many_rows_says_how_far_it_is(tmp_path: Path) -> None:
    path, told = tmp_path / "many.jsonl", list[tuple[str, int, int]]()
    path.write_text('{"text": "eight ch"}\n' * 2500)
    lengths = read_data(str(path), tell=lambda *at: told.append(at))
    assert lengths.num_samples == 2500
    assert told == [("", 1000, 2500), ("", 2000, 2500)]
