"""What DeepSpeed asks a card for, rehearsed on its first rank, the others not there: ZeRO-1, 2 and
3, of one rank too, with and without offloading, over the CUDA build of torch.

    LORA_PROFILER_CUDA_PYTHON=PYTHON python -m benchmarks.rehearsed.deepspeed_rank

PYTHON is one with a CUDA build of torch, transformers and PEFT; where DeepSpeed (DS_BUILD_OPS=0) is
in a folder of its own, $DEEPSPEED_FOLDER names it. Writes `tests/data/deepspeed_rehearsed.json`,
which `tests/memory/test_deepspeed_rehearsed.py` holds against the rules; rows that it has already
are not made again. Twenty minutes on two busy cores; what is offloaded takes the host's memory.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import write_lines
from benchmarks.rehearsing import rehearsed

DATA = Path(__file__).parents[2] / "tests" / "data" / "deepspeed_rehearsed.json"
CARD = "h100_sxm_80gb"
SMALL = {"hidden": 512, "feedforward": 1376, "layers": 4, "vocabulary": 32003}
MIDDLE = {"hidden": 1024, "feedforward": 2816, "layers": 8, "vocabulary": 32003}
QWEN = {"hidden": 2048, "feedforward": 6144, "layers": 28, "vocabulary": 151936}
LLAMA = {"hidden": 4096, "feedforward": 14336, "layers": 32, "vocabulary": 128256}
_OF_SMALL = {"model": SMALL, "ranks": 4, "batch": 2, "seq": 256, "bucket": 4_000_000}
_OF_QWEN = {"model": QWEN, "ranks": 4, "batch": 2, "seq": 1024, "bucket": 4_194_304}
_OF_MIDDLE = {"model": MIDDLE, "ranks": 1, "batch": 2, "seq": 1024, "bucket": 200_000_000}
_OF_LLAMA = {"model": LLAMA, "ranks": 8, "batch": 1, "seq": 2048, "bucket": 16_777_216}
_STATES, _BOTH = ["optimizer"], ["optimizer", "param"]
CASES: list[dict[str, Any]] = [
    {**of, "stage": stage, "method": method, "checkpointing": again, "offload": moved, **more}
    for of, stage, method, again, moved, more in (
        (_OF_SMALL, 2, "full", False, [], {}),
        (_OF_SMALL, 2, "full", False, _STATES, {}),
        (_OF_SMALL, 2, "lora", True, _STATES, {"accumulation": 2}),
        (_OF_SMALL, 3, "full", False, [], {}),
        (_OF_SMALL, 3, "full", False, _STATES, {}),
        (_OF_SMALL, 3, "full", True, _BOTH, {}),
        (_OF_SMALL, 3, "lora", False, [], {}),
        (_OF_SMALL, 3, "lora", True, ["param"], {}),
        (_OF_SMALL, 3, "lora", False, [], {"targets": ["q_proj", "v_proj"]}),
        (_OF_SMALL, 3, "full", True, [], {"model": {**SMALL, "tied": 1}}),
        (_OF_QWEN, 2, "full", True, [], {}),
        (_OF_QWEN, 2, "full", True, [], {"bucket": 500_000_000}),
        (_OF_QWEN, 2, "full", True, _STATES, {"bucket": 200_000_000, "ranks": 16}),
        (_OF_QWEN, 2, "lora", False, [], {"bucket": 500_000_000}),
        (_OF_QWEN, 3, "full", True, [], {}),
        (_OF_QWEN, 3, "full", True, _BOTH, {"accumulation": 2, "ranks": 16}),
        (_OF_QWEN, 3, "lora", False, [], {}),
        (_OF_SMALL, 1, "full", False, [], {}),
        (_OF_SMALL, 1, "full", False, [], {"accumulation": 2}),
        (_OF_SMALL, 1, "full", False, _STATES, {}),
        (_OF_SMALL, 1, "full", False, _STATES, {"accumulation": 2}),
        (_OF_SMALL, 1, "lora", True, [], {}),
        (_OF_SMALL, 1, "full", True, [], {"accumulation": 2, "ranks": 1}),
        (_OF_SMALL, 2, "full", False, [], {"ranks": 1}),
        (_OF_SMALL, 2, "full", False, _STATES, {"ranks": 1}),
        (_OF_SMALL, 2, "lora", True, _STATES, {"accumulation": 2, "ranks": 1}),
        (_OF_SMALL, 3, "full", False, [], {"ranks": 1}),
        (_OF_SMALL, 3, "full", True, _BOTH, {"ranks": 1}),
        (_OF_SMALL, 3, "lora", False, [], {"ranks": 1}),
        (_OF_MIDDLE, 2, "full", True, _STATES, {}),
        (_OF_MIDDLE, 2, "lora", True, [], {"accumulation": 2}),
        (_OF_MIDDLE, 3, "full", True, _BOTH, {"accumulation": 2}),
        (_OF_MIDDLE, 3, "lora", True, ["param"], {}),
        (_OF_QWEN, 1, "full", True, [], {"bucket": 200_000_000}),
        (_OF_QWEN, 1, "lora", True, [], {"bucket": 500_000_000}),
        (_OF_LLAMA, 3, "full", False, [], {"seq": 512, "bucket": 500_000_000}),
        (_OF_LLAMA, 3, "full", True, [], {}),
        (_OF_LLAMA, 3, "lora", True, [], {}),
        (_OF_LLAMA, 3, "lora", True, [], {"seq": 512, "bucket": 500_000_000}),
        (_OF_SMALL, 3, "qlora", False, [], {}),
        (_OF_SMALL, 3, "qlora", True, [], {"accumulation": 2}),
        (_OF_SMALL, 3, "qlora", False, [], {"targets": ["q_proj", "v_proj"]}),
        (_OF_SMALL, 3, "qlora", False, ["param"], {}),
        (_OF_SMALL, 3, "qlora", True, _BOTH, {"ranks": 1}),
        (_OF_SMALL, 1, "qlora", True, [], {}),
        (_OF_SMALL, 2, "qlora", False, [], {}),
        (_OF_SMALL, 2, "qlora", False, [], {"recipe": "kbit"}),
        (_OF_SMALL, 3, "qlora", True, [], {"recipe": "kbit"}),
        (_OF_QWEN, 3, "qlora", False, [], {}),
        (_OF_QWEN, 3, "qlora", True, [], {}),
        (_OF_LLAMA, 3, "qlora", True, [], {}),
        (_OF_LLAMA, 3, "qlora", True, [], {"seq": 512, "bucket": 500_000_000}),
        (_OF_LLAMA, 3, "qlora", True, [], {"use_reentrant": True}),
    )
]


def config_of(model: dict[str, int]) -> dict[str, Any]:
    """A Llama of that size, with two heads of queries for one of keys."""
    heads = model["hidden"] // 64
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": model["vocabulary"],
        "hidden_size": model["hidden"],
        "intermediate_size": model["feedforward"],
        "num_hidden_layers": model["layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "tie_word_embeddings": bool(model.get("tied")),
    }


def main() -> None:
    if sys.argv[1:2] == ["--rank"]:
        _rehearse(json.loads(sys.argv[2]))
        return
    write_rows(DATA, CASES, __file__)


def write_rows(data: Path, cases: Sequence[dict[str, Any]], script: str) -> None:
    """Adds to the file `data` what `script --rank CASE` says of each case on a pretended card, that
    of the case or `CARD`. Raises RuntimeError where the steps did not go through."""
    known = json.loads(data.read_text("utf-8"))["rows"] if data.exists() else []
    rows: list[dict[str, Any]] = []
    for case in cases:
        row = next((row for row in known if case.items() <= row.items()), None)
        rows.append(row or {**case, **_row(case, script)})
        print(rows[-1], file=sys.stderr, flush=True)
        left = [row for row in known if row not in rows]
        write_lines(data, {"card": CARD}, rows + left)


def _row(case: dict[str, Any], script: str) -> dict[str, Any]:
    card = case.get("card", CARD)
    folders = [os.environ.get("DEEPSPEED_FOLDER", ""), str(DATA.parents[2])]
    path = "PYTHONPATH=" + os.pathsep.join(filter(None, folders))
    python = os.environ["LORA_PROFILER_CUDA_PYTHON"]
    command = ("env", path, "python", script, "--rank", json.dumps(case))
    done = rehearsed(python, card, command, "--steps", "9")
    said = next((line for line in done.stderr.splitlines() if line.startswith("FOUND ")), None)
    if said is None:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(said[len("FOUND ") :])
    return found


def _rehearse(case: dict[str, Any]) -> None:
    """Prints what the third step asks for: bytes between steps, and the most in forward, backward
    and the optimizer's step, and what lies on the host; BLAS workspaces left out."""
    import torch

    from benchmarks.rehearsed.inside import rank

    rank.begin(case["ranks"])

    import deepspeed  # type: ignore[import-not-found]
    import peft
    import transformers
    from deepspeed.runtime.zero import stage3, stage_1_and_2  # type: ignore[import-not-found]
    from transformers.initialization import no_init_weights

    # values are not computed: no norm is one, nothing overflows
    stage3.is_invalid_grad_norm = stage_1_and_2.is_invalid_grad_norm = lambda norm: False
    deepspeed.init_distributed("nccl", dist_init_required=False)
    torch.set_default_dtype(torch.bfloat16)
    with no_init_weights(), torch.device("cuda"):
        model: Any = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**config_of(case["model"]))
        )
    model.tie_weights()
    torch.set_default_dtype(torch.float32)
    if case["method"] == "qlora":
        from lora_profiler.question.workload import Quantization
        from lora_profiler.trace.modeling.nf4 import prepare_for_training, quantise

        base = Quantization(recipe=case.get("recipe", "stock"))
        quantise(model, base, "bfloat16", sharded=True)
        prepare_for_training(model, base, case["checkpointing"])
    if case["method"] != "full":
        targets = case.get("targets", "all-linear")
        model = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules=targets))
    if case["checkpointing"]:
        kind = {"use_reentrant": case.get("use_reentrant", False)}
        model.gradient_checkpointing_enable(kind)
        model.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    accumulation = case.get("accumulation", 1)
    engine, optimizer, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(trained, lr=1e-4, foreach=True),
        config={
            "train_micro_batch_size_per_gpu": case["batch"],
            "gradient_accumulation_steps": accumulation,
            "bf16": {"enabled": True},
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {
                "stage": case["stage"],
                "reduce_bucket_size": case["bucket"],
                **{f"offload_{what}": {"device": "cpu"} for what in case["offload"]},
            },
        },
    )
    del model
    if case["stage"] < 3:
        found_overflow = optimizer.has_overflow
        optimizer.has_overflow = lambda *a, **k: (found_overflow(*a, **k), False)[1]

    found: dict[str, int] = {}
    for _ in range(3):
        ids = torch.ones((case["batch"], case["seq"]), dtype=torch.int64, device="cuda")
        found = dict.fromkeys(("forward", "backward", "step"), 0)
        found["between"] = rank.held("current")
        for _ in range(accumulation):
            for phase in ("forward", "backward", "step"):
                torch.cuda.reset_peak_memory_stats()
                if phase == "forward":
                    loss = engine(input_ids=ids, labels=ids, use_cache=False).loss
                elif phase == "backward":
                    engine.backward(loss)
                    del loss
                else:
                    engine.step()
                found[phase] = max(found[phase], rank.held("peak"))
    workspaces = 2 * 2**25  # of cuBLAS and cuBLASLt on Hopper
    packages = ("deepspeed", "torch", "transformers", "peft")
    rank.tell(found, workspaces, packages, host=_on_host(engine, optimizer))


def _on_host(engine: Any, optimizer: Any) -> dict[str, int]:
    """Bytes of DeepSpeed's own tensors in the host's memory, each storage once."""
    import torch

    def bytes_of(*holders: Any) -> int:
        found: dict[int, int] = {}

        def see(tensor: Any) -> None:
            if tensor.device.type == "cpu":
                found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()

        torch.utils._pytree.tree_map_only(torch.Tensor, see, list(holders))
        return sum(found.values())

    masters = getattr(optimizer, "single_partition_of_fp32_groups", None)
    if masters is None:
        masters = optimizer.fp32_partitioned_groups_flat
    parts = [p.ds_tensor.data for p in engine.module.parameters() if hasattr(p, "ds_tensor")]
    named = {
        "weights": [parts, getattr(optimizer, "param_buffer_of_bit16_for_cpu_offload_groups", [])],
        "gradients": [
            [p.grad for p in masters if p.grad is not None],
            getattr(optimizer, "grad_partitions_flat_buffer", []),
            getattr(optimizer, "temp_grad_buffer_for_cpu_offload", []),
            list(getattr(optimizer, "accumulated_grads_in_cpu", {}).values()),
        ],
        "states": [
            masters,
            [t for state in optimizer.optimizer.state.values() for t in state.values() if t.dim()],
        ],
    }
    return {name: size for name, holders in named.items() if (size := bytes_of(*holders))}


if __name__ == "__main__":
    main()
