"""Tiny real models on which claims are checked in seconds, and ways to break PEFT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_profiler.facts.catalog import find_model
from lora_profiler.mathematics.sources import CONFIG, bundled_text, train_small
from lora_profiler.mathematics.subject import Effort, Subject
from lora_profiler.trace.modeling import text_tokens

LLAMA = CONFIG | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "head_dim": 16,
}
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 2,
    "n_head": 4, "n_positions": 256, "vocab_size": 256, "bos_token_id": None, "eos_token_id": None,
    "dtype": "float32",
}  # fmt: skip
"""With dropout, as transformers has it by default."""

EFFORT = Effort(
    name="quick", batch_size=8, seq_len=32, check_tokens=16, held_out_batches=2, merge_steps=3,
    timed_calls=2, scaling_ranks=(1, 8, 64), scaling_steps=6, scaling_learning_rate=1e-3,
    learning_rates=(), tuning_ranks=(1, 8, 64), tuning_steps=12, full_learning_rate=2e-3,
    lora_learning_rate=1e-2, cost_dtypes=("float32",), cost_memory_steps=2, cost_steps=1,
    cost_seconds=0.1,
)  # fmt: skip


def quietly(doing: str, done: int, total: int) -> None:
    """Told how far a check is, and says nothing."""


def subject_in(folder: Path, config: dict[str, Any], steps: int) -> Subject:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_small(folder, seed=0, steps=steps, tell=quietly, config=config)
    torch.set_num_threads(threads)
    with bundled_text("sonnets").open("rb") as file:
        (folder / "text.txt").write_bytes(file.read()[:20_000])
    tokens = text_tokens(str(folder / "text.txt"), str(folder))
    return Subject(
        spec=find_model(str(folder)),
        folder=folder,
        weights="tiny",
        text_path=folder / "text.txt",
        text="sonnets",
        tokens=tokens,
    )


def tiny_llama(folder: Path) -> Subject:
    return subject_in(folder, LLAMA, steps=80)


def tiny_gpt2(folder: Path) -> Subject:
    return subject_in(folder, GPT2, steps=20)


Break = Callable[[Any], None]


def break_peft(monkeypatch: pytest.MonkeyPatch, break_layer: Break) -> None:
    """Every layer that PEFT makes from now on is handed to `break_layer` once it is made."""
    from peft.tuners.lora.layer import LoraLayer

    made = LoraLayer.update_layer

    def broken(self: Any, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        break_layer(self)

    monkeypatch.setattr(LoraLayer, "update_layer", broken)


def scaled_by_alpha(layer: Any) -> None:
    layer.scaling["default"] = layer.lora_alpha["default"]


def b_not_zero(layer: Any) -> None:
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=1e-3)


class Transposed(torch.nn.Module):
    """A linear layer that reads its weight in the other order."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight.T.reshape(self.weight.shape))


def a_transposed(layer: Any) -> None:
    layer.lora_A["default"] = Transposed(layer.lora_A["default"])


class AlwaysDropout(torch.nn.Module):
    """Dropout that eval mode does not turn off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, 0.1, training=True)


def dropout_left_on(layer: Any) -> None:
    layer.lora_dropout["default"] = AlwaysDropout()
