"""`llamafactory-cli train FILE`. Source: LLaMA-Factory 0.9.4 `launcher.py`, `hparams/parser.py`."""

from lora_profiler.trainer_files.commands import FORCED, Started

STARTED = Started(
    framework="llamafactory",
    words=(("llamafactory-cli", "train"), ("lmf", "train")),
    is_for_each_gpu=True,
    idle=("export", "chat", "webchat", "api", "eval", "webui", "env", "version", "help"),
    variables=(
        *((name, FORCED) for name in ("FORCE_TORCHRUN", "USE_MCA", "USE_MEGATRON_BRIDGE")),
        ("NPROC_PER_NODE", "nproc_per_node"),
        ("NNODES", "nnodes"),
    ),
)
