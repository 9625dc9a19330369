"""What a rank holds under DeepSpeed's ZeRO-2 and ZeRO-3, measured over gloo, against the rules.

    python -m benchmarks.truth.deepspeed_ranks PYTHON

PYTHON is one with torch, transformers, PEFT and DeepSpeed (DS_BUILD_OPS=0). Writes
`tests/data/deepspeed_ranks.json`, which `tests/memory/test_deepspeed_ranks.py` holds against the
rules. Five minutes on two cores.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "tests" / "data" / "deepspeed_ranks.json"
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 2003,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""Embedding and head are larger than `stage3_param_persistence_threshold`, the rest smaller."""
BUCKET = 40_000
CASES = (
    *((2, "full", 2), (2, "full", 3), (2, "lora", 2)),
    *((3, "full", 3), (3, "lora", 2), (3, "lora", 3)),
)
"""(stage, method, ranks)."""


def main() -> None:
    if sys.argv[1] == "--rank":
        _measure(json.loads(sys.argv[2]))
        return
    from benchmarks.pages import write_lines  # which DeepSpeed's Python need not have

    rows = [_row(sys.argv[1], *case) for case in CASES]
    versions = rows[0].pop("versions")
    for row in rows[1:]:
        del row["versions"]
    write_lines(DATA, {"versions": versions, "config": CONFIG, "bucket": BUCKET}, rows)


def _row(python: str, stage: int, method: str, ranks: int) -> dict[str, Any]:
    """The most that any rank has of each kind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    case = {"stage": stage, "method": method, "ranks": ranks}
    command = [python, __file__, "--rank", json.dumps(case)]
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                **{"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"},
                **{"MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)},
                **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
            },
        )
        for rank in range(ranks)
    ]
    found = [json.loads(one.communicate(timeout=300)[0].splitlines()[-1]) for one in started]
    held = {kind: max(one["held"][kind] for one in found) for kind in found[0]["held"]}
    print(case, held, file=sys.stderr)
    return {**case, "held": held, "versions": found[0]["versions"]}


def _measure(case: dict[str, Any]) -> None:
    """Prints what this rank holds in its third step, in bytes: of each kind the storages of
    DeepSpeed's own tensors, each once."""
    from importlib.metadata import version

    import deepspeed  # type: ignore[import-not-found]
    import peft
    import torch
    import transformers

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    if case["method"] == "lora":
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    engine, optimizer, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(trained, lr=1e-4, foreach=True),
        config={
            "train_micro_batch_size_per_gpu": 2,
            "bf16": {"enabled": True},
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": case["stage"], "reduce_bucket_size": BUCKET},
        },
    )

    def bytes_of(*holders: Any) -> int:
        found: dict[int, int] = {}

        def see(tensor: Any) -> None:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()

        torch.utils._pytree.tree_map_only(torch.Tensor, see, list(holders))
        return sum(found.values())

    held: dict[str, int] = {}
    for _ in range(3):
        ids = torch.randint(0, CONFIG["vocab_size"], (2, 24))
        loss = engine(input_ids=ids, labels=ids).loss
        engine.backward(loss)
        if case["stage"] == 2:
            held["gradients"] = bytes_of(optimizer.averaged_gradients)
        else:
            held["gradients"] = bytes_of(optimizer.grad_partitions_flat_buffer)
            held["bucket"] = bytes_of([b.buffer for b in optimizer.ipg_buckets.values()])
        engine.step()
    weights = [p.data for p in model.parameters()]
    weights += [p.ds_tensor.data for p in model.parameters() if hasattr(p, "ds_tensor")]
    masters = (
        optimizer.single_partition_of_fp32_groups
        if case["stage"] == 2
        else optimizer.fp32_partitioned_groups_flat
    )
    states = [list(state.values()) for state in optimizer.optimizer.state.values()]
    held["weights"] = bytes_of(*(t for t in weights if t.numel() > 0))
    held["masters"] = bytes_of(masters)
    held["states"] = bytes_of(states)
    packages = ("deepspeed", "torch", "transformers", "peft")
    print(json.dumps({"held": held, "versions": {p: version(p) for p in packages}}), flush=True)
    os._exit(0)  # no rank waits for another one's farewell


if __name__ == "__main__":
    main()
