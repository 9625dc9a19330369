"""Two ranks of torchrun that run the memory pass of several setups in one process group: far
quicker than a case each.

torchrun --nproc-per-node 2 tests/several_ranks.py FOLDER          leaves FOLDER/RANK.json
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

import families
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.measuring.harness.memory_pass import MemoryResult, memory_pass
from lora_profiler.measuring.harness.process_group import joined, spread
from lora_profiler.measuring.harness.training import Training, TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.modeling import build_model, make_optimizer

MODEL = model_from_config(
    dict(families.TINY["llama"]) | {"vocab_size": 515}, id="tiny", source="test"
)
"""An odd vocabulary: shards of the embedding are padded."""
FULL = TrainSetup(
    device="cpu", dtype="float32", batch_size=2, seq_len=24, world_size=2, sharding="fsdp"
)
LORA = replace(FULL, lora=LoraConfig(r=3, lora_dropout=0.1))
SETUPS = {
    "ddp full, accumulated": replace(FULL, sharding="ddp", accumulation=2),
    "zero1 full": replace(FULL, sharding="zero1"),
    "tp full": replace(FULL, sharding="tp"),
    "tp lora": replace(FULL, sharding="tp", lora=LoraConfig(r=3), optimizer_impl="fused"),
    "fsdp full": FULL,
    "fsdp lora, dropout": LORA,
    "fsdp qlora": replace(LORA, lora=LoraConfig(r=3), quantization=Quantization()),
    "fsdp full, mixed": replace(FULL, precision="fsdp-mixed"),
    "fsdp full, trl's loss": replace(FULL, loss="trl"),
    "fsdp full, torchtune's loss": replace(FULL, loss="torchtune"),
    "zero1 full, fused loss": replace(FULL, sharding="zero1", loss="fused"),
    "fsdp-no-reshard lora, checkpointed": replace(
        LORA, sharding="fsdp-no-reshard", lora=LoraConfig(r=3), checkpointing=True
    ),
}
CONDITIONS = Conditions(memory_steps=3)


def training(setup: TrainSetup, rank: int = 0) -> Training:
    model = build_model(Workload(model=MODEL, setup=setup))
    shared = spread(model, setup)
    batches = TrainingBatches(setup, CONDITIONS, MODEL.config["vocab_size"], rank=rank)
    return Training(model, make_optimizer(model, setup), setup, batches, spread=shared)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    with joined(FULL) as ranks:
        for name, setup in SETUPS.items():
            result = MemoryResult()
            memory_pass(training(setup, ranks.rank), CONDITIONS, result, lambda step, phase: None)
            found[name] = {
                "losses": result.losses, "persistent": result.persistent, "peak": result.peak,
                "steady": result.steady, "tracked": result.tracked,
                "attribution": result.attribution, "saved": result.saved_activation_bytes,
            }  # fmt: skip
        (folder / f"{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
