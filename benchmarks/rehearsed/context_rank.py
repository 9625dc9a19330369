"""What torch's context parallelism asks a card for, rehearsed on its first rank, the others not
there, over the CUDA build of torch: FSDP2 over all ranks, accelerate's hooks, transformers' own
shards of a batch.

    LORA_PROFILER_CUDA_PYTHON=PYTHON python -m benchmarks.rehearsed.context_rank

PYTHON is one with a CUDA build of torch, transformers, accelerate and PEFT. Writes
`tests/data/context_rehearsed.json`, which `tests/memory/test_context_parallel.py` holds against the
rules; rows that it has already are not made again. Eight minutes on two busy cores.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.rehearsed.deepspeed_rank import LLAMA, SMALL, config_of, write_rows

DATA = Path(__file__).parents[2] / "tests" / "data" / "context_rehearsed.json"
NARROW = {"hidden": 512, "feedforward": 256, "layers": 4, "vocabulary": 2003}
"""Of hardly any MLP and vocabulary: attention is the peak under checkpointing."""
_USUAL = {"model": SMALL, "card": "a100_sxm_80gb", "ranks": 2, "context": 2, "batch": 2}
_USUAL |= {"seq": 1024, "method": "full", "checkpointing": False}
_AGAIN = {"model": NARROW, "method": "lora", "checkpointing": True, "seq": 2048}
CASES: list[dict[str, Any]] = [
    {**_USUAL, **more}
    for more in (
        {},
        {"ranks": 4, "context": 4, "batch": 1, "seq": 4096},
        {"ranks": 4, "accumulation": 2, "method": "lora"},
        {"batch": 4, "type": "qwen3"},
        {"type": "qwen2", "method": "lora", "checkpointing": True},
        {"type": "mistral", "ranks": 4, "context": 4},
        {"precision": "fsdp-mixed", "checkpointing": True},
        {"card": "h100_sxm_80gb"},
        _AGAIN,
        {**_AGAIN, "ranks": 4, "context": 4, "groups": 1},
        {**_AGAIN, "ranks": 4, "context": 4, "groups": 8, "batch": 1},
        {**_AGAIN, "ranks": 4, "context": 4, "precision": "fsdp-mixed"},
        {**_AGAIN, "card": "h100_sxm_80gb", "ranks": 4, "context": 4},
        {**_AGAIN, "checkpointing": False},
        {**_AGAIN, "model": LLAMA, "ranks": 8, "context": 8, "batch": 1, "seq": 65536},
    )
]


def type_config(case: dict[str, Any]) -> dict[str, Any]:
    """A model of that type and size; `groups` heads of queries for one of keys, or two."""
    config = config_of(case["model"])
    heads, kind = config["num_attention_heads"], case.get("type", "llama")
    named = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    return {
        **config,
        "model_type": kind,
        "architectures": [f"{named}ForCausalLM"],
        "num_key_value_heads": heads // case.get("groups", 2),
        "head_dim": 64,
        "sliding_window": None,
    }


def main() -> None:
    if sys.argv[1:2] == ["--rank"]:
        _rehearse(json.loads(sys.argv[2]))
        return
    write_rows(DATA, CASES, __file__)


def _rehearse(case: dict[str, Any]) -> None:
    """Prints the most that the third step asks for in forward, backward and the optimizer's step;
    BLAS workspaces left out."""
    import torch

    from benchmarks.rehearsed.inside import rank

    ranks, context = case["ranks"], case["context"]
    rank.begin(ranks)

    import peft
    import transformers
    from accelerate.big_modeling import _attach_context_parallel_hooks
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor.experimental import context_parallel
    from torch.distributed.tensor.experimental._attention import set_rotate_method
    from transformers.initialization import no_init_weights

    low, is_mixed = torch.bfloat16, case.get("precision") == "fsdp-mixed"
    is_full = case["method"] == "full"
    torch.set_default_dtype(torch.float32 if is_mixed and is_full else low)
    config = transformers.AutoConfig.for_model(**type_config(case))
    with no_init_weights(), torch.device("cuda"):
        model: Any = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    layers = model.model.layers
    if not is_full:
        model = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules="all-linear"))
    if case["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    shape = (ranks // context, context)
    mesh = init_device_mesh("cuda", shape, mesh_dim_names=("dp_shard", "cp"))
    joint = mesh["dp_shard", "cp"]._flatten("dp_shard_cp")
    set_rotate_method("allgather")
    _attach_context_parallel_hooks(model)
    policy = MixedPrecisionPolicy(param_dtype=low) if is_mixed else MixedPrecisionPolicy()
    for part in (*layers, model):
        fully_shard(part, mesh=joint, mp_policy=policy)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    trainer: Any = SimpleNamespace(
        accelerator=SimpleNamespace(
            parallelism_config=SimpleNamespace(cp_enabled=True, cp_backend="torch"),
            maybe_context_parallel=lambda **given: context_parallel(mesh["cp"], **given),
        )
    )
    prepare = transformers.Trainer._prepare_context_parallel_inputs

    found: dict[str, int] = {}
    for _ in range(3):
        found = dict.fromkeys(("forward", "backward", "step"), 0)
        ids = torch.ones((case["batch"], case["seq"]), dtype=torch.int64, device="cuda")
        batch = {"input_ids": ids, "labels": ids.clone()}
        for _ in range(case.get("accumulation", 1)):
            for column in batch.values():  # cut in place, for the next micro-batch whole again
                column.resize_(case["batch"], case["seq"])
            part, given = prepare(trainer, model, dict(batch))
            with part():
                torch.cuda.reset_peak_memory_stats()
                loss = model(**given, use_cache=False).loss
                found["forward"] = max(found["forward"], rank.held("peak"))
                torch.cuda.reset_peak_memory_stats()
                loss.backward()
                found["backward"] = max(found["backward"], rank.held("peak"))
            del part, given
        torch.cuda.reset_peak_memory_stats()
        optimizer.step()
        optimizer.zero_grad()
        found["step"] = rank.held("peak")
        del ids, batch, loss
    workspaces = 2 * (2**25 if case["card"].startswith("h100") else 8_519_680)
    rank.tell(found, workspaces, ("torch", "transformers", "accelerate", "peft"))


if __name__ == "__main__":
    main()
