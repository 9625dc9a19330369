"""Quantisation-aware training as trainers' files ask for it; the expected options are worked out
from the frameworks' sources."""

from pathlib import Path
from typing import Any

import pytest

from lora_profiler.catalog import find_model
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.trainer_file import TrainerFile, gaps, on_model


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """A file's reading: `read(text, name)`."""

    def run(text: str, name: str = "file.yaml") -> TrainerFile:
        (tmp_path / name).write_text(text)
        return read_files([tmp_path / name])

    return run


AXOLOTL = "base_model: meta-llama/Llama-3.2-3B\nsequence_len: 2048\nmicro_batch_size: 1\nqat:\n"
TORCHTUNE = """\
model:
  _component_: torchtune.models.{builder}
tokenizer:
  max_seq_len: 1024
optimizer:
  _component_: torch.optim.AdamW
  fused: true
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
quantizer:
  _component_: torchtune.training.quantization.{quantizer}
  groupsize: 256
"""
INT8_INT4 = "Int8DynActInt4WeightQATQuantizer"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("  activation_dtype: int8\n  weight_dtype: int4\n", ("int8-int4", 32)),
        ("  weight_dtype: int4\n  group_size: 128\n", ("int4", 128)),
        ("  activation_dtype: fp8\n  weight_dtype: int4\n", ("fp8-int4", 32)),
        ("  activation_dtype: float8_e4m3fn\n  weight_dtype: fp8\n", ("fp8-fp8", 32)),
    ],
)
def test_axolotl(read: Any, lines: str, expected: tuple[str, int]) -> None:
    file = read(AXOLOTL + lines)
    assert (file.options["qat"], file.options["qat_group_size"]) == expected
    assert not file.not_modelled


@pytest.mark.parametrize(
    ("lines", "gap"),
    [
        (
            "  weight_dtype: nvfp4\n",
            "quantisation-aware training in nvfp4, at which torchao 0.17 and 0.18 stop as axolotl"
            " asks for it",
        ),
        ("  weight_dtype: int4\n  quantize_embedding: true\n", "a fake-quantised embedding"),
    ],
)
def test_what_is_missing_of_axolotl(read: Any, lines: str, gap: str) -> None:
    assert [row.missing for row in read(AXOLOTL + lines).not_modelled] == [gap]


@pytest.mark.parametrize(
    ("builder", "model", "loss"),
    [
        ("llama3.llama3_8b", "meta-llama/Meta-Llama-3-8B", "plain"),
        ("llama3_2.llama3_2_1b", "meta-llama/Llama-3.2-1B", "torchtune"),
        ("llama3.lora_llama3_8b", "meta-llama/Meta-Llama-3-8B", "torchtune"),
    ],
)
def test_torchtune(read: Any, builder: str, model: str, loss: str) -> None:
    """Its loss calls a head that is rounded once for each part of the tokens; one that is tied is
    not rounded, nor is one without an adapter."""
    file = read(TORCHTUNE.format(builder=builder, quantizer=INT8_INT4))
    told = on_model(file, find_model(model, offline=True))
    assert (told.options["qat"], told.options["qat_group_size"]) == ("8da4w", 256)
    assert told.options["loss"] == loss
    missing = [gap.text for gap in gaps(told) if "fake-quantised" in gap.text]
    assert [("too low" in text) for text in missing] == [True] * (loss == "plain")


def test_another_quantizer_of_torchtune_is_missing(read: Any) -> None:
    text = TORCHTUNE.format(builder="llama3.llama3_8b", quantizer="Int4WeightOnlyQATQuantizer")
    missing = [row.missing for row in read(text).not_modelled]
    assert missing == ["quantisation-aware training by Int4WeightOnlyQATQuantizer"]


CALLS = """\
from unsloth import FastLanguageModel
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="unsloth/Llama-3.2-1B-Instruct", max_seq_length=2048, full_finetuning={full},
    qat_scheme="{scheme}",
)
trainer = SFTTrainer(model=model, args=SFTConfig(per_device_train_batch_size=2))
"""


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("int4", {"qat": "int4", "qat_group_size": 128}),
        ("phone-deployment", {"qat": "int8-int4", "qat_group_size": 32}),
    ],
)
def test_unsloth(read: Any, scheme: str, options: dict[str, Any]) -> None:
    file = read(CALLS.format(full=True, scheme=scheme), "train.py")
    assert options.items() <= file.options.items()
    with_adapters = read(CALLS.format(full=False, scheme=scheme), "train.py")
    assert any("fake-quantised adapters" in row.missing for row in with_adapters.not_modelled)
