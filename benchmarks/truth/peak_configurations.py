"""Which configurations `peaks` trains: seeded draws, the same on every machine."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cases
import families
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.question.workload import Quantization, TrainSetup, Workload

SEEDS = (2024, 1, 2, 3)
COUNT = 168
"""Configurations a seed: every family twelve times."""
MAX_LOGITS = 16_000_000
VOCABULARIES = (256, 256, 1000, 4000, 8000, 16_000, 32_000, 50_000, 100_000, 150_000)
DTYPES = (
    *[("float32", "pure")] * 3,
    *[("bfloat16", "pure")] * 4,
    ("float32", "amp"),
    ("bfloat16", "amp"),
)
OPTIMIZERS = (
    ("adamw", "foreach"),
    ("adamw", "foreach"),
    ("adamw", "fused"),
    ("adamw", "fused"),
    ("adamw", "forloop"),
    ("sgd", "foreach"),
    ("sgd", "fused"),
    ("sgd", "forloop"),
    ("adafactor", "foreach"),
    ("adamw_8bit", "foreach"),
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A model as config.json spells it and how it is trained."""

    number: int
    config: Mapping[str, Any]
    method: str
    setup: TrainSetup

    @property
    def workload(self) -> Workload:
        model = model_from_config(dict(self.config), id=f"peak-{self.number}", source="benchmark")
        return Workload(model=model, setup=self.setup)

    def __str__(self) -> str:
        c, s = self.config, self.setup
        width = c.get("hidden_size", c.get("n_embd"))
        optimizer = (
            s.optimizer
            if s.optimizer in ("adafactor", "adamw_8bit")
            else f"{s.optimizer} {s.optimizer_impl}"
        )
        parts = [
            f"{c['model_type']} h{width} V{c['vocab_size']}",
            self.method,
            s.dtype if s.precision == "pure" else f"{s.dtype} autocast",
            s.attention,
            f"b{s.batch_size} s{s.seq_len}",
            optimizer,
        ]
        return ", ".join([*parts, "checkpointing"] if s.checkpointing else parts)


def configurations(seeds: Sequence[int] = SEEDS) -> list[Configuration]:
    """The same list on every machine: every family in turn, the rest drawn."""
    found: list[Configuration] = []
    for seed in seeds:
        draw = random.Random(seed)
        found += [_configuration(len(found) + turn, turn, draw) for turn in range(COUNT)]
    return found


def _configuration(number: int, turn: int, draw: random.Random) -> Configuration:
    family = list(families.TINY)[turn % len(families.TINY)]
    vocabulary = VOCABULARIES[turn // len(families.TINY) % len(VOCABULARIES)]
    config = _config(family, vocabulary, draw)
    dtype, precision = draw.choice(DTYPES)
    names = ["full", "full", "few", "all", "dropout", "bf16", "nf4"]
    method = draw.choice([n for n in names if dtype == "bfloat16" or n != "bf16"])
    lora = cases.methods(family, draw.choice([4, 16]))["all" if method == "nf4" else method]
    quantization = Quantization(double_quant=draw.random() < 0.5) if method == "nf4" else None
    optimizer, implementation = draw.choice(OPTIMIZERS)
    sizes = [
        (b, s) for b in (1, 2, 4) for s in (32, 64, 128, 256) if b * s * vocabulary <= MAX_LOGITS
    ]
    batch, seq = draw.choice(sizes)
    setup = TrainSetup(
        lora=lora,
        quantization=quantization,
        batch_size=batch,
        seq_len=seq,
        dtype=dtype,  # type: ignore[arg-type]
        precision="pure" if quantization else precision,  # type: ignore[arg-type]
        optimizer=optimizer,  # type: ignore[arg-type]
        optimizer_impl=implementation,  # type: ignore[arg-type]
        checkpointing=draw.random() < 0.5,
        attention=draw.choice(["auto", "auto", "eager"]),  # type: ignore[arg-type]
        device="cpu",
    )
    return Configuration(number, config, method, setup)


def _config(family: str, vocabulary: int, draw: random.Random) -> dict[str, Any]:
    """A model of the family with 4 heads, as wide as its vocabulary lets memory be."""
    width = draw.choice(
        [64, 128, 256] if vocabulary <= 16_000 else [64, 128] if vocabulary <= 50_000 else [64]
    )
    layers, inner = draw.choice([2, 4, 6]), draw.choice([2, 3, 4]) * width
    config = dict(families.TINY[family]) | {"vocab_size": vocabulary}
    if family == "gpt2":
        return config | {"n_embd": width, "n_layer": layers, "n_positions": 512}
    config |= {"hidden_size": width, "num_hidden_layers": layers, "max_position_embeddings": 512}
    if family == "opt":
        return config | {"word_embed_proj_dim": width, "ffn_dim": inner}
    config |= {"intermediate_size": inner}
    if family == "gpt_neox":
        return config
    config |= {"num_key_value_heads": draw.choice([1, 2, 4])}
    if "head_dim" in config:
        config |= {"head_dim": width // 4}
    if family == "qwen3_moe":
        config |= {"moe_intermediate_size": width // 2}
    if family in ("mistral", "gemma2", "gemma3_text"):
        config |= {"sliding_window": draw.choice([64, 4096])}
    if family in ("llama", "qwen2", "qwen3", "olmo2"):
        config |= {"tie_word_embeddings": draw.random() < 0.5}
    return config
