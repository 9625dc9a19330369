"""`axolotl train FILE [options] [-- launcher's options]`. Source: axolotl 0.19 `cli/main.py`."""

from lora_profiler.trainer_files.commands import Started

STARTED = Started(
    framework="axolotl",
    words=(("axolotl", "train"), ("-m", "axolotl.cli.train")),
    idle=(
        "preprocess", "inference", "merge-lora", "merge-sharded-fsdp-weights", "evaluate",
        "quantize", "vllm-serve", "fetch", "lm-eval", "delinearize-llama4",
    ),
    launching=("launcher", "accelerate", "cloud", "main_process_port"),
    has_launcher=True,
    is_for_each_gpu=True,
)  # fmt: skip
