"""Public throughput rows as questions: the workload of each, the stack that ran it, and the seconds
that one step took.

Tokens per second are of real tokens; a step's seconds are its tokens over them. What a source does
not state is said in `assumed`, in words.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.public import conditions, models, peft_runs, stacks
from benchmarks.public.conditions import (
    CARDS,
    NotExpressibleError,
    Row,
    adapters_of,
    check_conditions,
    source_of,
    spec_of,
)
from benchmarks.public.torchtune_flags import torchtune_flag, torchtune_workload
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.question.workload import Dtype, Optimizer, Quantization, TrainSetup, Workload
from lora_profiler.steptime.roofline import CLIPPING_PASSES
from lora_profiler.trace.kernels import Build

ROWS = Path(__file__).parents[1] / "public_rows" / "rows.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A row to be predicted. `group` is its model, `source` where it was published, `clipping`
    passes over the gradients; `older_host`: of torch 2.0, whose launches take longer; `rounding`:
    half a unit of the last digit of the seconds that the source prints, where they are few."""

    id: str
    group: str
    source: str
    card: str
    workload: Workload
    seconds: float
    tier: int
    method: str
    kernels: str
    rewrites: tuple[stacks.Rewrite, ...] = ()
    build: Build | None = None
    clipping: int = CLIPPING_PASSES
    older_host: bool = False
    rounding: float = 0.0
    assumed: tuple[str, ...] = ()


def throughput_rows() -> list[Row]:
    with ROWS.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["quantity"].startswith("tokens_per_s")]


def replay_of(row: Row) -> Replay:
    """Raises NotExpressibleError."""
    check_conditions(row)
    if row["gpu"] not in CARDS:
        raise NotExpressibleError(f"the card {row['gpu']!r} is not known")
    if row["n_gpus"] != "1" and "NO_SHARD" not in row["parallelism"]:
        raise NotExpressibleError(
            f"{row['n_gpus']} cards, {row['parallelism']}: communication is not modelled"
        )
    replays = {
        "fms": _fms, "qwen": _qwen, "torchtune-flags": _torchtune, "peft": _peft,
        "automodel": _automodel, "hf-bert": _bert, "fsdp_qlora": _fsdp_qlora,
    }  # fmt: skip
    source = source_of(row)
    if source not in replays:
        raise NotExpressibleError(f"no throughput of {source} is replayed")
    return replays[source](row)


def _replay(row: Row, workload: Workload, **more: Any) -> Replay:
    setup = workload.setup
    tokens = setup.batch_size * setup.seq_len * setup.accumulation
    told = {
        **{"id": row["id"], "group": row["model"], "source": source_of(row)},
        "card": CARDS[row["gpu"]],
        "workload": workload,
        "seconds": tokens / float(row["value"]),
        "tier": int(row["tier"]),
        "method": setup.method,
        "kernels": row["kernels"] or row["caveat"],
    }
    return Replay(**{**told, **more})


# --- fms-acceleration -----------------------------------------------------------------------------

_OLD_TRAINER = (
    "reentrant checkpointing, foreach AdamW and clipping, the Trainer's defaults of the time"
)


def is_liger_file(row: Row) -> bool:
    """Of the files of references, one with transformers up to 4.45.2: Liger's, Granite's and the
    L40's. The other has 4.48.1.

    Raises NotExpressibleError for any other file.
    """
    file = row["id"].split(":")[1]
    older = ("refs_a100_80gb_liger.csv", "refs_a100_80gb_granite.csv", "refs_l40_40gb.csv")
    if file not in ("refs_a100_80gb.csv", *older):
        raise NotExpressibleError(f"with which versions {file} was measured is not known")
    return file in older


REPEATING = ("mistral", "mixtral")
"""Whose FlashAttention 2 classes repeat keys and values to all heads before the kernel; Llama's
hands grouped heads on (transformers 4.45.2 `models/{mistral,mixtral,llama}/modeling_*.py`)."""


_POWER_LM = {
    "model_type": "granite",
    "architectures": ["GraniteForCausalLM"],
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 40,
    "num_attention_heads": 36,
    "num_key_value_heads": 36,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 9.0,
}
"""PowerLM-3b's widths. 6 bytes a parameter of them are what its full runs hold at rest to 0.04 %,
12 a parameter of adapters on q, k, v and o what its LoRA runs hold beside 2 a parameter."""


def _fms(row: Row) -> Replay:
    kernels, liger_file = row["kernels"], is_liger_file(row)
    qlora, autocast = row["method"].startswith("qlora"), row["compute_dtype"].endswith("autocast")
    l40 = row["id"].startswith("fms:refs_l40_40gb.csv")
    kbit = kernels == conditions.NF4_KBIT
    if row["model"] == "ibm/PowerLM-3b":
        spec = model_from_config(_POWER_LM, id=row["model"], source="its parameters at rest")
    else:
        spec = spec_of(row)
    santacoder, mixtral = spec.model_type == "gpt_bigcode", spec.model_type == "mixtral"
    if not santacoder and row["model_config"]:
        spec = spec_of(row, sliding_window=None)
    if mixtral and not qlora:
        raise NotExpressibleError("Mixtral's experts one by one are replayed on a 4-bit base alone")
    lora = None
    if row["method"] != "full":
        targets = ("c_attn",) if santacoder else ("q_proj", "k_proj", "v_proj", "o_proj")
        dtype: Dtype = "bfloat16" if l40 and not qlora else "float32"
        lora = adapters_of(row, targets, 0.0 if l40 else 0.1, dtype)
    setup = TrainSetup(
        lora=lora,
        quantization=Quantization() if qlora else None,
        batch_size=int(row["batch"]),
        seq_len=int(row["seq_len"]),
        precision="amp" if autocast else "pure",
        checkpointing=True,
        attention="flash",
    )
    fused = kernels in conditions.FUSED
    rewrites: list[stacks.Rewrite] = [stacks.reentrant]
    if santacoder:  # its config.json: attn_pdrop 0.1
        rewrites.append(stacks.attention_dropout)
    if liger_file and spec.model_type in REPEATING:
        rewrites.append(stacks.repeated_heads)
    if kernels in conditions.FUSED_LINEAR:
        rewrites.append(stacks.liger_loss(trains_head=lora is None))
    else:
        element = 2 if santacoder and not autocast else 4
        if element == 2:
            rewrites.append(stacks.loss_in_16_bit)
        rewrites.append(stacks.shifted_logits(2 if santacoder else 4))
        if autocast and not liger_file:
            rewrites.append(stacks.outputs_in_float32)
        if fused:
            rewrites.append(stacks.triton_cross_entropy(2 if santacoder else 4))
    if fused and not santacoder:
        rewrites += [stacks.fused_norms, stacks.fused_rope]
    if kernels in conditions.FUSED_ADAPTERS and not santacoder:
        rewrites.append(stacks.fused_lora)
    build = {
        (True, True): models.old_mixtral_kbit,
        (True, False): models.old_mixtral,
        (False, True): models.kbit,
        (False, False): None,
    }[mixtral, kbit]
    return _replay(
        row,
        Workload(model=spec, setup=setup),
        rewrites=tuple(rewrites),
        build=build,
        assumed=(
            "bfloat16 for float16, adapters in the base's dtype" if l40 else "A100 SXM",
            _OLD_TRAINER,
            *(("experts are chosen equally often",) if mixtral else ()),
        ),
    )


# --- Qwen -----------------------------------------------------------------------------------------

_QWEN_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_QWEN = {
    "Qwen/Qwen-1.8B": dict(zip(_QWEN_FIELDS, (2048, 24, 16, 5504), strict=True)),
    "Qwen/Qwen-7B": dict(zip(_QWEN_FIELDS, (4096, 32, 32, 11008), strict=True)),
    "Qwen/Qwen-14B": dict(zip(_QWEN_FIELDS, (5120, 40, 40, 13696), strict=True))
    | {"vocab_size": 152064},
}
"""Widths of the published config.json files, whose intermediate_size is that of both halves of the
MLP."""


_QWEN_DEEPSPEED = (
    "DeepSpeed, which `finetune_ds.sh` runs: bfloat16 without autocast, an update that moves as"
    " many bytes as foreach AdamW's; what ZeRO copies and launches is left out"
)


def _qwen(row: Row) -> Replay:
    method = row["id"].split(":")[2]
    if method == "Q-LoRA":
        raise NotExpressibleError("a GPTQ base: its kernels are not modelled")
    if row["compute_dtype"] != "bf16 amp":
        raise NotExpressibleError(f"{row['compute_dtype']} is of a GPTQ base alone")
    if method == "Full-parameter" and int(row["seq_len"]) <= 2048:
        raise NotExpressibleError(
            "a step takes 2.2 s at 1,024 and at 2,048 tokens: DeepSpeed's own work on the host,"
            " which is not counted"
        )
    raw = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 151936,
        **_QWEN[row["model"]],
        "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
    }
    spec = model_from_config(raw, id=row["model"], source="its config.json, spelled as llama's")
    emb, full = "(emb)" in method, method == "Full-parameter"
    lora = None
    if not full:
        targets, saved = ("c_attn", "c_proj", "w1", "w2"), ("wte", "lm_head") if emb else ()
        lora = adapters_of(row, targets, 0.05, saved=saved)
    setup = TrainSetup(
        lora=lora,
        batch_size=1,
        seq_len=int(row["seq_len"]),
        accumulation=8,
        precision="pure" if full else "amp",
        checkpointing=True,
        attention="flash",
    )
    fused = (stacks.reentrant, stacks.fused_norms, stacks.flash_rotation)
    return _replay(
        row,
        Workload(model=spec, setup=setup),
        rewrites=fused if full else (*fused, stacks.outputs_in_float32),
        build=models.qwen,
        older_host=True,
        rounding=0.05,
        assumed=(
            "flash-attention 2.3.3 with its fused norm and rotation, as in the Dockerfile",
            _QWEN_DEEPSPEED if full else _OLD_TRAINER,
            *(() if full else ("adapters in float32, as PEFT 0.5 of the Dockerfile makes them",)),
        ),
    )


# --- torchtune ------------------------------------------------------------------------------------


def _torchtune(row: Row) -> Replay:
    flag = torchtune_flag(row)
    if flag >= 8:
        raise NotExpressibleError("what Inductor fuses of adapters and torchao's NF4 is not listed")
    rewrites: tuple[stacks.Rewrite, ...] = ()
    if flag >= 4:
        # a compiled layer is one function, and runs whole before it saves anything
        rewrites += (stacks.reentrant,)
    if flag >= 2:
        rewrites += (
            stacks.compiled_layers,
            stacks.triton_cross_entropy(4) if flag == 2 else stacks.compiled_chunked_loss,
        )
    assumed = ("A100 SXM 80 GB", "causal attention over the whole packed sequence")
    assumed += ("fused AdamW", "no clipping")
    if flag >= 2:
        assumed += ("what Inductor fuses is read from its rules, not seen",)
    return _replay(
        row,
        torchtune_workload(row),
        rewrites=rewrites,
        build=models.torchtune,
        clipping=0,
        assumed=assumed,
    )


# --- other cards ----------------------------------------------------------------------------------


def _peft(row: Row) -> Replay:
    return _replay(
        row,
        Workload(model=spec_of(row), setup=peft_runs.setup_of(row)),
        seconds=4 * peft_runs.COUNTED / float(row["value"]),
        assumed=(f"{peft_runs.PADDED} padded tokens a sample of {peft_runs.TOKENS:.0f}", "no mask"),
    )


def _automodel(row: Row) -> Replay:
    dropout = 0.0 if row["model"].startswith("Qwen") else 0.1
    lora = adapters_of(row, "all-linear", dropout, "bfloat16", alpha=32)
    setup = TrainSetup(
        lora=lora,
        batch_size=2,
        seq_len=4096,
        accumulation=16,
        attention="flash",
        optimizer_impl="fused",
    )
    return _replay(
        row,
        Workload(model=spec_of(row), setup=setup),
        rewrites=(stacks.fused_norms, stacks.fused_rope, stacks.fused_lora),
        clipping=0,
        assumed=("fused norms, rotation and adapters", "bfloat16 adapters"),
    )


FSDP_QLORA_TARGETS = ("k_proj", "q_proj", "v_proj", "up_proj", "down_proj", "gate_proj")
"""What its `--lora_target_modules all` stands for (`train.py` at 05ed9f2a, line 1159): the file of
rows says o_proj too, which is not among them."""


def _fsdp_qlora(row: Row) -> Replay:
    setup = TrainSetup(
        lora=adapters_of(row, FSDP_QLORA_TARGETS, 0.1, "bfloat16"),
        quantization=Quantization() if row["method"].startswith("qlora") else None,
        batch_size=int(row["batch"]),
        seq_len=int(row["seq_len"]),
        checkpointing=True,
        attention="flash",
        optimizer_impl="foreach",
    )
    spec = spec_of(row)
    return _replay(
        row,
        Workload(model=spec, setup=setup),
        seconds=int(row["n_gpus"]) * setup.batch_size * setup.seq_len / float(row["value"]),
        rewrites=(stacks.reentrant, stacks.shifted_logits(4)),
        clipping=CLIPPING_PASSES,
        assumed=("two cards, each with a whole model; the sum of gradients over them is left out",),
    )


def _bert(row: Row) -> Replay:
    optimizer: Optimizer = "adamw_8bit" if "8bit" in row["optimizer"] else "adamw"
    if row["optimizer"] == "Adafactor":
        raise NotExpressibleError("Adafactor: the bytes of its update are not counted")
    accumulation = re.search(r"grad_accum (\d+)", row["conditions"])
    assert accumulation is not None
    setup = TrainSetup(
        batch_size=int(row["batch"]),
        seq_len=512,
        accumulation=int(accumulation[1]),
        dtype="float32",
        precision="pure" if row["compute_dtype"] == "fp32" else "amp-float16",
        checkpointing=row["grad_checkpointing"] == "yes",
        attention="eager",
        optimizer=optimizer,
        optimizer_impl="forloop" if optimizer == "adamw" else "foreach",
    )
    return _replay(
        row,
        Workload(model=spec_of(row), setup=setup),
        rewrites=(
            stacks.without_head("cls"),
            *((stacks.reentrant,) if setup.checkpointing else ()),
        ),
        assumed=("the head for two classes is left out",),
    )
