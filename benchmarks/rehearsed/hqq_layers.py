"""Steps of LoRA over hqq's own layers, rehearsed: what they request on a simulated GPU.

    PYTHONPATH=HQQ python -m benchmarks.rehearsed.hqq_layers CUDA/bin/python

writes `tests/data/rehearsed_hqq.json`: a model's sizes, the options of its training, and the
requested peak of a steady step without workspaces of BLAS. Given a cell in place of an interpreter,
it is the script that is rehearsed.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import rehearsing
from benchmarks.pages import write_lines

FILE = Path(__file__).parents[2] / "tests" / "data" / "rehearsed_hqq.json"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WIDE = {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "vocab_size": 2048},
    **{"num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": False},
}
CELLS: tuple[dict[str, Any], ...] = (
    {"model_type": "llama", "seq_len": 512},
    {"model_type": "llama", "seq_len": 512, "checkpointing": True},
    {"model_type": "llama", "seq_len": 64, "batch_size": 2, "dtype": "float16"},
    {"model_type": "qwen2", "seq_len": 256, "precision": "amp"},
    {"model_type": "qwen2", "seq_len": 256, "precision": "amp", "checkpointing": True},
    {"model_type": "qwen2", "seq_len": 1024, "checkpointing": True, "lora_dropout": 0.1},
)


def train(cell: dict[str, Any]) -> None:
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = getattr(torch, cell.get("dtype", "bfloat16"))
    config = AutoConfig.for_model(cell["model_type"], **WIDE)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
    plan = BaseQuantizeConfig(nbits=4, group_size=64, axis=1)
    plan["weight_quant_params"]["optimize"] = False  # values, which nobody computes here
    for name, module in [*model.named_modules()]:
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            packed = HQQLinear(module, plan, compute_dtype=dtype, device="cuda")
            model.set_submodule(name, packed)
    model.to("cuda")
    lora = LoraConfig(r=16, target_modules=TARGETS, lora_dropout=cell.get("lora_dropout", 0.0))
    model = get_peft_model(model, lora).train()
    if cell.get("checkpointing"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    shape = cell.get("batch_size", 1), cell["seq_len"]
    tokens = torch.randint(0, 2048, shape).cuda()
    for _ in range(3):
        with torch.autocast("cuda", dtype, enabled=cell.get("precision") == "amp"):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        del loss


def rehearsed(interpreter: str, cell: dict[str, Any]) -> dict[str, Any]:
    command = ["python", __file__, json.dumps(cell)]
    done = rehearsing.rehearsed(interpreter, "a100_sxm_80gb", command, check=True)
    (rank,) = json.loads(done.stdout)["ranks"]
    peak = rank["peaks"]["steady"]["requested_bytes"]
    assert rank["held"]["requested_bytes"] == peak and rank["second_count"]["is_equal"]
    return {**cell, "requested_bytes": rehearsing.steady_bytes(rank)}


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        train(json.loads(sys.argv[1]))
    else:
        rows = (rehearsed(sys.argv[1], cell) for cell in CELLS)
        write_lines(FILE, {"sizes": WIDE}, list(rows))
