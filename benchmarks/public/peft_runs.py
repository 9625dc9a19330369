"""PEFT's own benchmark (`method_comparison/MetaMathQA`): the setup of each of its runs."""

import re
from collections.abc import Mapping
from dataclasses import replace

from benchmarks.public.conditions import NotExpressibleError, Row, rank_of
from lora_profiler.question.workload import LoraConfig, Optimizer, TrainSetup

TOKENS = 4_178_051 / 20_000
"""Of a sample on average, by the results' own count."""
PADDED = 217
"""With padding: batches of 4 are padded to their longest, and are made of 80 samples in order of
their length (`MetaMathQA/utils.py` BucketIterator). Log-normal lengths of that mean, with a spread
of 40 to 70 % before they are cut at 1,300 characters, give 215 to 219."""
COUNTED = TOKENS + 1
"""What the benchmark counts for its tokens per second: one more a sample, for the end."""
_NAMES = re.compile(
    r"full-finetuning/llama-3\.2-3B-lr_[\d.]+|lora/llama-3\.2-3B-rank(\d+)(-target-mlp)?"
)


_QV = ("q_proj", "v_proj")
_IA3 = LoraConfig(
    peft_type="ia3",
    target_modules=("k_proj", "v_proj", "down_proj"),
    feedforward_modules=("down_proj",),
)
_OTHER_METHODS: Mapping[tuple[str, str, str], LoraConfig] = {
    ("lora/llama-3.2-3B-rank32-dora", "dora", "32"): LoraConfig(
        r=32, target_modules=_QV, use_dora=True
    ),
    ("lora/llama-3.2-3B-rank32-lorafa", "lora-fa", "32"): LoraConfig(r=32, target_modules=_QV),
    ("lora/llama-3.2-3B-rank64-rslora", "rslora", "64"): LoraConfig(
        r=64, target_modules=_QV, use_rslora=True
    ),
    ("ia3/llama-3.2-3B-default", "ia3", ""): _IA3,
    ("ia3/llama-3.2-3B-lr_0.001", "ia3", ""): _IA3,
    ("ia3/llama-3.2-3B-all-attn-5k-lr0.005", "ia3", ""): LoraConfig(
        peft_type="ia3",
        target_modules=tuple(f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")),
        feedforward_modules=("up_proj", "gate_proj", "down_proj"),
    ),
    ("oft/llama-3.2-3B-rank32", "oft", "32"): LoraConfig(
        peft_type="oft", target_modules=_QV, oft_block_size=3072 // 32
    ),
    ("vera/llama-3.2-3B-default", "vera", "256"): LoraConfig(
        peft_type="vera", target_modules=_QV, r=256
    ),
}
"""By the name, method and rank of a file with that `peft_config`; OFT's 32 are blocks of a layer's
inputs, of which q and v have 3,072."""


def setup_of(row: Row) -> TrainSetup:
    """Raises NotExpressibleError."""
    name = row["id"].removeprefix("peft:").split("@")[0]
    if row["method"] not in ("full", "lora"):
        config = _OTHER_METHODS.get((name, row["method"], row["rank"]))
        if config is None or " ".join(config.target_modules or ()) != row["target_modules"]:
            raise NotExpressibleError(f"what {name!r} configures is not known")
        optimizer: Optimizer = "lorafa" if row["method"] == "lora-fa" else "adamw"
        own = replace(config, lora_dropout=0.0)
        return TrainSetup(lora=own, optimizer=optimizer, batch_size=4, seq_len=PADDED)
    match = _NAMES.fullmatch(name)
    if match is None or (match[1] or "") != row["rank"]:
        raise NotExpressibleError(f"what {name!r} configures is not known")
    lora = None
    if row["method"] == "lora":
        modules = tuple(row["target_modules"].split())
        if match[2] != (None if "q_proj" in modules else "-target-mlp"):
            raise NotExpressibleError(f"{name!r} has no adapters on {row['target_modules']!r}")
        lora = LoraConfig(r=rank_of(row), lora_dropout=0.0, target_modules=modules)
    return TrainSetup(lora=lora, batch_size=4, seq_len=PADDED)
