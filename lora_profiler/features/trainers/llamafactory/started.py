"""`llamafactory-cli train FILE`. Source: LLaMA-Factory 0.9.4 `launcher.py`, `hparams/parser.py`."""

from lora_profiler.trainer_files.commands import Started

STARTED = Started(
    framework="llamafactory",
    words=(("llamafactory-cli", "train"), ("lmf", "train")),
    is_for_each_gpu=True,
    variables=(("NPROC_PER_NODE", "nproc_per_node"), ("NNODES", "nnodes")),
)
