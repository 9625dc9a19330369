"""Public memory rows as questions: the workload of each, the stack that ran it, and what its
counter was read for.

What a source does not state is said in `assumed`, in words; rows that no workload and stack say
raise the reason.
"""

import csv
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

from torch import nn

from benchmarks.public import litgpt, models, old_code
from benchmarks.public.conditions import (
    FUSED,
    FUSED_ADAPTERS,
    FUSED_LINEAR,
    NotExpressibleError,
    Row,
    adapters_of,
    check_conditions,
    source_of,
)
from benchmarks.public.old_code import Change
from benchmarks.public.peft_runs import PADDED
from benchmarks.public.replay import REPEATING, ROWS, is_liger_file, replay_of
from benchmarks.public.tape import Build, Context
from benchmarks.public.torchtune_flags import torchtune_flag, torchtune_workload
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.question.workload import Quantization, TrainSetup, Workload
from lora_profiler.trace.modeling.build import build_model
from lora_profiler.trace.patching import replaced

GIB = 2**30
Reading = Literal["peak", "at rest", "after the update", "reserved"]
READINGS: dict[str, Reading] = {
    "peak_allocated": "peak",
    "peak_active": "peak",
    "allocated_at_rest": "at rest",
    "allocated_after_step_mean": "after the update",
    "peak_reserved": "reserved",
    "max_reserved": "reserved",
}
"""What the counter of a quantity is read for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """A row to be predicted. `measured_bytes` of one card; `ranks` share weights, gradients and
    states where there are several, in float32 with `wide_shards`; a layer is fetched ahead where it
    is `prefetched`.

    `held_bytes` live beside the step: what a training loop holds on to that a trace of the step
    does not show.
    """

    id: str
    group: str
    source: str
    quantity: str
    reading: Reading
    workload: Workload
    plain: Build
    changes: tuple[Change, ...] = ()
    contexts: tuple[Context, ...] = ()
    stack: str
    measured_bytes: float
    tolerance: float | None
    tier: int
    ranks: int = 1
    wide_shards: bool = False
    prefetched: bool = False
    held_bytes: int = 0
    is_first_step: bool = False
    apart: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def run(self) -> Hashable:
        """What rows that one trace serves have in common; the stack names the changes."""
        return self.workload, self.plain, self.contexts, self.stack

    def build(self, workload: Workload) -> nn.Module:
        model = self.plain(workload)
        for change in self.changes:
            change(model)
        return model


def memory_rows() -> list[Row]:
    with ROWS.open(newline="") as file:
        return [
            row for row in csv.DictReader(file) if not row["quantity"].startswith("tokens_per_s")
        ]


def memory_row(row: Row) -> MemoryRow:
    """Raises NotExpressibleError."""
    if row["quantity"] not in READINGS:
        raise NotExpressibleError(
            "memory as a tool printed it, context and all, and which tool is not said"
        )
    if "offload" in row["parallelism"]:
        raise NotExpressibleError("weights on the host: not modelled")
    source = source_of(row)
    known: dict[str, Callable[[Row], MemoryRow]] = {
        "fms": _fms,
        "litgpt-rt": _litgpt,
        "peft": _peft,
        "torchtune-flags": _torchtune,
        "fsdp_qlora": _fsdp_qlora,
    }
    if source in _REASONS:
        raise NotExpressibleError(_REASONS[source])
    check_conditions(row)
    if source not in known:
        raise NotExpressibleError(f"no memory of {source} is replayed")
    return known[source](row)


_REASONS = {
    "litgpt-hub": (
        "direction only: the peak may come from a validation pass, at a length that is not said"
    ),
    "torchtune-loradoc": "direction only: reserved bytes at a length that is not said",
    "swift": (
        "reserved bytes over texts of random length, which no loss path explains (about 50 bytes a"
        " logit at 512 and 1,024)"
    ),
}


def _row(row: Row, workload: Workload, plain: Build, stack: str, **more: Any) -> MemoryRow:
    told: dict[str, Any] = {
        **{"id": row["id"], "group": row["model"], "source": source_of(row)},
        "quantity": row["quantity"],
        "reading": READINGS[row["quantity"]],
        "workload": workload,
        "plain": plain,
        "stack": stack,
        "measured_bytes": float(row["value"]) * GIB,
        "tolerance": (
            float(row["tolerance"].rstrip("%")) / 100 if row["tolerance"].endswith("%") else None
        ),
        "tier": int(row["tier"]),
    }
    return MemoryRow(**{**told, **more})


def _on_meta(workload: Workload) -> nn.Module:
    return build_model(workload, device="meta")


def _one_card(row: Row) -> Workload:
    """The workload that the throughput of the same run is predicted with."""
    return replay_of({**row, "n_gpus": "1", "value": "1"}).workload


# --- fms-acceleration -----------------------------------------------------------------------------


def _fms(row: Row) -> MemoryRow:
    one = replay_of({**row, "n_gpus": "1", "value": "1"})
    kernels, liger_file = row["kernels"], is_liger_file(row)
    model_type = one.workload.model.model_type
    santacoder = model_type == "gpt_bigcode"
    autocast = one.workload.setup.precision == "amp"
    fused = kernels in FUSED
    changes: list[Change] = [old_code.reentrant]
    stack = []
    if kernels in FUSED_LINEAR:
        changes.append(old_code.liger)
        stack.append("Liger's fused linear cross-entropy")
    else:
        path, words = old_code.float_in_loss, "of float32 logits, in the loss"
        if liger_file:
            path, words = old_code.float_in_head, "of float32 logits, cast in the head"
        if santacoder:
            path, words = old_code.no_float, "of 16-bit logits, outputs held"
        changes.append(path(old_code.triton if fused else old_code.cross_entropy))
        stack += ["Triton cross-entropy" if fused else "cross-entropy", words]
        if santacoder:
            changes.append(old_code.outputs_held)
    if one.build in (models.kbit, models.old_mixtral_kbit):
        stack.append("norms in float32")
    contexts: tuple[Context, ...] = ()
    if liger_file and model_type in REPEATING:
        contexts += (repeated_heads,)
        stack.append("repeated keys and values")
    if fused and not santacoder:
        changes.append(old_code.fused_norms)
        contexts += (ROTATION_IN_PLACE[model_type],)
        stack.append("fused norms and rotation")
    if kernels in FUSED_ADAPTERS and not santacoder:
        changes.append(old_code.fused_lora)
        stack.append("fused adapters")
    sharded = int(row["n_gpus"]) > 1
    workload = one.workload
    # a card computes with 16-bit weights, whatever it holds shards of
    if sharded and workload.setup.lora is None:
        workload = replace(workload, setup=replace(workload.setup, precision="pure"))
    return _row(
        row,
        workload,
        one.build or _on_meta,
        ", ".join(stack),
        changes=tuple(changes),
        contexts=contexts,
        ranks=int(row["n_gpus"]),
        wide_shards=autocast and row["method"] == "full",
        apart=_SANTACODER if santacoder else "",
        assumed=one.assumed[1:],
    )


_SANTACODER = (
    "that outputs stay alive in backward was read off these rows, in both precisions; what holds"
    " them was not found"
)


def repeated_heads() -> AbstractContextManager[None]:
    """Mistral's and Mixtral's FlashAttention 2 classes of 4.45 repeat keys and values to all
    heads."""
    from transformers.integrations import sdpa_attention

    return replaced(sdpa_attention, "use_gqa_in_sdpa", lambda *_args, **_more: False)


def _rotation_in_place(model_type: str) -> Context:
    """fms-acceleration has a rule a class, which patches that class's own module
    (`fms_acceleration_foak/models/{llama,mistral,mixtral}.py`)."""

    def context() -> AbstractContextManager[None]:
        module = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
        return replaced(module, "apply_rotary_pos_emb", old_code.rotation_in_place)

    return context


ROTATION_IN_PLACE = {name: _rotation_in_place(name) for name in ("llama", "mistral", "mixtral")}


# --- others ---------------------------------------------------------------------------------------


_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "parallel": False,
    "bias": False,
    "rotary_percentage": 1.0,
}
_STABLELM = _LLAMA | {
    "num_hidden_layers": 16,
    "intermediate_size": 16384,
    "vocab_size": 50688,
    "parallel": True,
    "bias": True,
    "rotary_percentage": 0.25,
}
"""As `lit_gpt/config.py` has them."""


def _litgpt(row: Row) -> MemoryRow:
    if row["tier"] == "3":
        raise NotExpressibleError("direction only: several cards, of which the source says little")
    raw = _STABLELM if row["model"].startswith("stabilityai/") else _LLAMA
    spec = model_from_config(raw, id=row["model"], source="lit_gpt/config.py, spelled as llama's")
    quantization = None
    if row["method"].startswith("qlora"):
        quantization = Quantization(double_quant="dq" in row["method"])
    setup = TrainSetup(
        lora=adapters_of(row, ("attn",), 0.05, "bfloat16"),
        quantization=quantization,
        batch_size=int(row["batch"]),
        seq_len=int(row["seq_len"]),
        attention="flash",
        hold_outputs=True,
    )
    return _row(
        row,
        Workload(model=spec, setup=setup),
        litgpt.litgpt,
        "LitGPT's own model, loss in chunks of 128 tokens, logits held"
        + (", bitsandbytes 0.41" if quantization else ""),
        is_first_step=True,
        assumed=("the first step has the longest sample, so that Adam has no states yet",),
    )


def _peft(row: Row) -> MemoryRow:
    workload = _one_card({**row, "quantity": "tokens_per_s_nonpad"})
    if row["tier"] == "3":
        raise NotExpressibleError(
            "direction only: the cache was emptied at other times than stated"
        )
    if workload.setup.optimizer == "lorafa":
        raise NotExpressibleError("LoRA-FA's own optimizer is not traced")
    reserved = row["quantity"] == "max_reserved"
    tokens = 768 if reserved else PADDED
    setup = replace(workload.setup, seq_len=tokens, hold_outputs=True)
    config = workload.model.config
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    cache = 2 * 2 * workload.model.num_layers * config["num_key_value_heads"] * head
    return _row(
        row,
        replace(workload, setup=setup),
        _on_meta,
        "cross-entropy of float32 logits; outputs held, keys and values among them",
        # until the loss is over, backward's own keys and values are these
        held_bytes=0 if reserved else setup.batch_size * tokens * cache,
        apart=(
            "the longest batch is not published; 768 tokens, where samples are cut, is an upper"
            " bound"
            if reserved
            else ""
        ),
        assumed=(
            ("768 tokens",)
            if reserved
            else (f"{tokens} tokens a sample, the average with its padding",)
        ),
    )


def _torchtune(row: Row) -> MemoryRow:
    flag = torchtune_flag(row)
    if flag in (2, 3):
        raise NotExpressibleError(
            "compiled without checkpointing: which tensors the compiler makes again is not modelled"
        )
    workload = torchtune_workload(row)
    if flag == 7:
        raise NotExpressibleError(
            "8-bit states of an update in backward: its temporaries are not known"
        )
    changes: tuple[Change, ...] = (old_code.row_statistics,) if flag >= 4 else ()
    if flag in (5, 6):
        changes += (old_code.update_in_backward,)
    setup, width = workload.setup, workload.model.config["hidden_size"]
    on_host = workload.model.num_layers * 2 * setup.batch_size * setup.seq_len * width
    assumed: tuple[str, ...] = ("fused AdamW",)
    if flag >= 4:
        assumed += ("eager layers between checkpoints, where Inductor's keep less",)
    stack = [
        "torchtune's own model",
        "compiled chunked cross-entropy" if flag >= 4 else "cross-entropy of float32 logits",
    ]
    stack += ["update in backward"] * (flag in (5, 6))
    stack += ["checkpoints in host memory"] * (flag >= 6)
    stack += ["torchao's NF4"] * (flag == 9)
    return _row(
        row,
        workload,
        models.torchtune,
        ", ".join(stack),
        changes=changes,
        held_bytes=-on_host if flag >= 6 else 0,
        assumed=assumed,
    )


def _fsdp_qlora(row: Row) -> MemoryRow:
    if row["tier"] == "3":
        raise NotExpressibleError("direction only: reserved bytes of sharded runs")
    workload = _one_card(
        {**row, "quantity": "tokens_per_s", "parallelism": "DDP via FSDP NO_SHARD"}
    )
    sharded = "FULL_SHARD" in row["parallelism"]
    return _row(
        row,
        workload,
        _on_meta,
        "cross-entropy of float32 logits, cast in the head, outputs held",
        changes=(
            old_code.reentrant,
            old_code.float_in_head(old_code.cross_entropy),
            old_code.outputs_held,
        ),
        ranks=int(row["n_gpus"]) if sharded else 1,
        prefetched=sharded,
        apart="" if sharded else "reserved, from a simulated allocator",
        assumed=("a whole model on each card",) if not sharded else (),
    )
