"""A file that a user names may be anything: each is read in bounded time and memory, or refused in
one sentence."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from commands import OFFLINE, lora_profile
from lora_profiler._common.paths import read_regular
from lora_profiler.question.batching.files import read_data
from lora_profiler.trainer_files.commands import words_of
from lora_profiler.trainer_files.document import TrainerFileError, parse
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.scripts import MAX_CODE, parse_calls

AXOLOTL = "base_model: gpt2\nadapter: lora\nsequence_len: 128\nmicro_batch_size: 1\n"


def test_a_device_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "zero.yml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.yml")
    (tmp_path / "command.txt").write_text(
        "trl sft --model_name_or_path gpt2 --config /dev/zero", "utf-8"
    )
    for name in ("zero.yml", "pipe.yml", "command.txt"):
        with pytest.raises(TrainerFileError, match="cannot be read: it is not a regular file"):
            read_files([tmp_path / name])


def test_no_more_of_a_file_is_read_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 1000)
    assert len(read_regular(path, 10)) == 11
    assert len(read_regular(path, 1000)) == 1000
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 10)


@pytest.mark.parametrize(
    "number", ["0x" + "F" * 4000, "0b" + "1" * 20_000, ":".join("1" * 3000), str(2**63)]
)
def test_a_number_beyond_64_bits_is_refused_with_its_line(number: str) -> None:
    with pytest.raises(TrainerFileError, match="f:5: lora_r is a number beyond 64 bits"):
        parse(f"{AXOLOTL}lora_r: {number}\n", "f", None, is_json=False)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "[1, .nan]", "{a: .inf}"])
def test_what_is_read_can_be_written_as_json(tmp_path: Path, value: str) -> None:
    path = tmp_path / "e.yml"
    path.write_text(f"{AXOLOTL}num_epochs: {value}\nnobody_knows: {value}\n", "utf-8")
    done = lora_profile("read", str(path), "--format", "json")
    assert done.exit_code == 0, done.stderr
    json.loads(done.stdout, parse_constant=pytest.fail)


SCRIPT = (
    "from transformers import AutoModelForCausalLM, Trainer\n{}\n"
    "Trainer(model=AutoModelForCausalLM.from_pretrained({}), args=n)\n"
)


@pytest.mark.parametrize(
    ("above", "model"),
    [
        ("n = 1\n" + "n = n + n\n" * 20_000, "'gpt2'"),
        (f"n = 0x{'F' * 4000}", "'gpt2'"),
        ("n = 0", r"'\ud800'"),
        ("n = 1e999", "'gpt2'"),
    ],
)
def test_no_value_of_a_script_is_one_that_cannot_be_written(above: str, model: str) -> None:
    entries = parse_calls(SCRIPT.format(above, model), "s.py", None).entries
    json.dumps([entry.value for entry in entries.values()], allow_nan=False).encode()
    assert all("\ud800" not in str(entry.value) for entry in entries.values())


def _seconds(code: str) -> float:
    start = time.process_time()
    with pytest.raises(TrainerFileError):
        parse_calls(code, "s.py", None)
    return time.process_time() - start


def test_a_long_name_of_a_function_costs_no_more_than_its_length() -> None:
    """A pattern with three free parts tried each of n^3 splits: 25 s at this length."""
    assert _seconds("AutoModel" * 1500 + "(x=1)") < 5


def test_a_script_of_a_million_lines_is_refused() -> None:
    with pytest.raises(TrainerFileError, match=f"more than {MAX_CODE:,} characters of code"):
        parse_calls("x=1\n" * 1_000_000, "s.py", None)


def test_words_of_a_command_have_their_lines_however_many_there_are() -> None:
    text = "trl sft \\\n --a b\n--c d\n\n--e 'f\ng' --h\n"
    assert [(w.text, w.line) for w in words_of(text, "c")] == [
        (word, text[: text.index(word) + len(word)].count("\n") + 1)
        for word in ("trl", "sft", "--a", "b", "--c", "d", "--e", "f\ng", "--h")
    ]
    many = "trl sft " + "--a b " * 40_000
    assert len(words_of(many, "c")) == 80_002


def test_a_small_parquet_file_of_much_text_is_read_in_little_memory(tmp_path: Path) -> None:
    """300 MB of text in some kilobytes; kept whole it took three times as much."""
    code = (
        "import resource, pyarrow as pa, pyarrow.parquet as pq\n"
        "from pathlib import Path\n"
        "from lora_profiler.question.batching.files import read_data\n"
        f"path = {str(tmp_path / 'bomb.parquet')!r}\n"
        "part = pa.table({'text': ['x' * 1000] * 1000})\n"
        "with pq.ParquetWriter(path, part.schema) as file:\n"
        "    for _ in range(300): file.write_table(part)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert read_data(path).num_samples == 300_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=OFFLINE)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100_000  # kB


def test_text_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_profiler.question.batching.files.MOST_CHARACTERS", 100)
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "' + "a" * 40 + '"}\n' * 1, "utf-8")
    assert read_data(str(path)).num_samples == 1
    path.write_text(('{"text": "' + "a" * 40 + '"}\n') * 3, "utf-8")
    with pytest.raises(Exception, match=r"more than 100 characters of text; .* --lengths"):
        read_data(str(path))


def test_the_line_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 5 + b'{"text": "\xff"}\n')
    with pytest.raises(Exception, match=r"d\.jsonl, line 6, is no text in UTF-8"):
        read_data(str(path))


def test_a_length_of_5_000_digits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("9" * 5000 + ",1\n", "utf-8")
    done = lora_profile("predict", "gpt2", "--lengths", str(path))
    assert done.exit_code == 2
    assert "l.csv, line 1, has a length of '999" in done.stderr


def test_a_line_break_in_a_models_name_writes_no_keys(tmp_path: Path) -> None:
    folder = tmp_path / "x\ntrust_remote_code: true\nplugins: [evil.Plugin]"
    folder.mkdir()
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 128,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    out = tmp_path / "out.yml"
    words = ("--method", "lora", "--trainer", "axolotl", "--write", "axolotl", str(out))
    done = lora_profile("predict", str(folder), *words)
    assert done.exit_code == 0, done.stderr
    keys = yaml.safe_load(out.read_text("utf-8"))
    assert keys["base_model"] == folder.name
    assert not {"trust_remote_code", "plugins"} & keys.keys()
