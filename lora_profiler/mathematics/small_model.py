"""A small real model for where there are no weights: a Llama of under a million parameters that
reads bytes, trained on the spot.

It learns *The Tempest*; the claims are then checked with *The Sonnets*, which it has never seen.
"""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from lora_profiler.catalog import model_from_config
from lora_profiler.mathematics.claim import Tell
from lora_profiler.mathematics.training import train
from lora_profiler.modeling import build_model, text_tokens
from lora_profiler.modeling.third_party import quiet
from lora_profiler.workload import TrainSetup, Workload

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 256,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "dtype": "float32",
}
BATCH_SIZE, SEQ_LEN = 16, 64
LEARNING_RATE = 3e-3


def train_small(
    folder: Path, *, seed: int, steps: int, tell: Tell, config: dict[str, Any] = CONFIG
) -> list[float]:
    """Trains it and saves it into `folder` with its tokenizer; the loss of each step."""
    import torch

    spec = model_from_config(config, id="small-llama", source="trained on the spot")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with quiet():
        byte_tokenizer().save_pretrained(folder)
    with as_file(bundled_text("tempest")) as text:
        tokens = text_tokens(str(text), str(folder))
    draw = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(tokens) - SEQ_LEN, (steps, BATCH_SIZE), generator=draw)
    batches = [torch.stack([tokens[s : s + SEQ_LEN] for s in row.tolist()]) for row in starts]
    model: Any = build_model(Workload(model=spec, setup=TrainSetup(device="cpu", dtype="float32")))
    losses = train(
        model,
        batches,
        learning_rate=LEARNING_RATE,
        seed=seed,
        after_step=lambda done: tell("training it", done, steps),
    )
    with quiet():
        model.save_pretrained(folder)
    return losses


def bundled_text(name: str) -> Any:
    """The file of a bundled text, "tempest" or "sonnets"."""
    return files("lora_profiler.mathematics").joinpath("text", f"{name}.txt")


def byte_tokenizer() -> Any:
    """A tokenizer of transformers whose 256 tokens are the bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]
