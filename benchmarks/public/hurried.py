"""Public rows as a user in a hurry asks for them: the model, the method, the sizes, checkpointing
where the run had it, and with or without the name of the trainer.
"""

from collections.abc import Sequence
from typing import Final

from benchmarks.public.conditions import NotExpressibleError, Row, source_of
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import find_model

TRAINERS: Final = {
    "fms": "transformers", "litgpt-rt": "litgpt", "litgpt-hub": "litgpt",
    "torchtune-flags": "torchtune", "fsdp_qlora": "loop", "swift": "transformers",
    "peft": "peft-bench",
}  # fmt: skip
"""The library that a source names, as --trainer takes it."""
SHARDINGS: Final = {
    "none": [],
    "FSDP FULL_SHARD": ["--sharding", "fsdp1"],
    "DDP via FSDP NO_SHARD": ["--sharding", "ddp"],
}


def hurried(row: Row, *, with_trainer: bool) -> Sequence[str]:
    """The words behind `lora-profile`. Raises NotExpressibleError for a source, a model, a method,
    a length or a sharding that no such question has."""
    source, method = source_of(row), row["method"].partition(" ")[0]
    if source not in TRAINERS:
        raise NotExpressibleError(f"whose loop {source} is has no name")
    if method not in ("full", "lora", "qlora") or "GPTQ" in row["method"]:
        raise NotExpressibleError(f"method {row['method']}")
    if not row["model_config"] or not _is_known(row["model_config"]):
        raise NotExpressibleError(f"{row['model']} is no model of the catalogue")
    if not row["seq_len"].isdecimal() or not row["batch"].isdecimal():
        raise NotExpressibleError("a batch or length that is not stated")
    if row["parallelism"] not in SHARDINGS or (row["parallelism"] == "none") != (
        row["n_gpus"] == "1"
    ):
        raise NotExpressibleError(f"{row['n_gpus']} GPUs, {row['parallelism']}")
    words = [row["model_config"], "--method", method]
    words += ["--batch-size", row["batch"], "--seq-len", row["seq_len"]]
    words += [] if method == "full" else ["--rank", row["rank"]]
    is_on = row["grad_checkpointing"].startswith("yes")
    words += ["--checkpointing" if is_on else "--no-checkpointing"]
    words += ["--trainer", TRAINERS[source]] if with_trainer else []
    sharding = SHARDINGS[row["parallelism"]]
    return [*words, *sharding, *(["--world-size", row["n_gpus"]] if sharding else [])]


def _is_known(name: str) -> bool:
    try:
        find_model(name, offline=True, on_disk=False)
    except LoraProfilerError:
        return False
    return True
