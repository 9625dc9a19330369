"""The adapters on which claims 2 and 3 look: rank 16, trained for some steps, so that B holds
something; and a second layout."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from lora_profiler.catalog import model_from_config
from lora_profiler.mathematics.adapters import adapted, factor_state, load_factors
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.subject import Subject
from lora_profiler.mathematics.training import train
from lora_profiler.modeling import build_model
from lora_profiler.workload import TrainSetup, Workload

RANK, ALPHA, DROPOUT = 16, 32, 0.1
SCALING = ALPHA / RANK
LEARNING_RATE = 1e-3

_SIZES = {"vocab_size": 256, "bos_token_id": None, "eos_token_id": None}
OTHER_LAYOUT: Mapping[str, dict[str, Any]] = {
    "Linear": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        **_SIZES,
    },
    "Conv1D": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        **_SIZES,
    },
}
"""For a model whose layers are of one class, a tiny one of transformers, with random weights, whose
layers are of the other."""


def trained_factors(model: Any, batches: list[torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """A and B of every linear layer after one step for each batch. The model is left frozen and
    otherwise as it was."""
    with adapted(model, r=RANK, alpha=ALPHA, dropout=DROPOUT, seed=seed) as wrapped:
        train(wrapped, batches, learning_rate=LEARNING_RATE, seed=seed)
        return factor_state(wrapped)


@contextmanager
def with_factors(model: Any, state: Mapping[str, torch.Tensor], seed: int) -> Iterator[Any]:
    """Inside, `model` adapted with those factors, in eval mode."""
    with adapted(model, r=RANK, alpha=ALPHA, dropout=DROPOUT, seed=seed) as wrapped:
        load_factors(wrapped, state)
        yield wrapped


def companion(
    layout: str, effort: Effort, seed: int
) -> tuple[Any, list[torch.Tensor], torch.Tensor]:
    """(model, batches to train adapters on, ids to look at) of the tiny model for subjects of
    `layout`; all tokens are random."""
    config = OTHER_LAYOUT[layout]
    spec = model_from_config(config, id=f"tiny-{config['model_type']}", source="made here")
    model = build_model(
        Workload(model=spec, setup=TrainSetup(device="cpu", dtype="float32"))
    ).eval()
    draw = torch.Generator().manual_seed(seed)
    batches = [torch.randint(0, 256, (4, 32), generator=draw) for _ in range(effort.merge_steps)]
    return model, batches, torch.randint(0, 256, (1, effort.check_tokens), generator=draw)


def subject_start(subject: Subject, effort: Effort, seed: int) -> dict[str, torch.Tensor]:
    """`trained_factors` of the subject on its own text, in float32."""
    return trained_factors(
        subject.model(), subject.training_batches(effort.merge_steps, effort, seed), seed
    )
