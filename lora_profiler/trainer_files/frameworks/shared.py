"""Names that frameworks share: optimizers, attention, kernels, what shards."""

from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NOTHING,
    ONE_ROW,
    Meaning,
    Reader,
    is_off,
    is_on,
    not_modelled,
    number,
    size,
    text,
)
from lora_profiler.workload import OPTIONS

_CHOICES = {option.name: option.choices for option in OPTIONS}
_OPTIMIZERS: dict[str, dict[str, str]] = {
    "adamw": {"optimizer": "adamw"},
    "adamw_hf": {"optimizer": "adamw"},
    "adamw_torch": {"optimizer": "adamw", "optimizer_impl": "foreach"},
    "adamw_torch_fused": {"optimizer": "adamw", "optimizer_impl": "fused"},
    "adamw_bnb_8bit": {"optimizer": "adamw_8bit"},
    "paged_adamw": {"optimizer": "paged_adamw_32bit"},
    "lion_32bit": {"optimizer": "lion"},
    "ao_adamw_8bit": {"optimizer": "adamw_torch_8bit"},
    "ao_adamw_4bit": {"optimizer": "adamw_torch_4bit"},
    **{
        name: {"optimizer": name} for name in _CHOICES["optimizer"] if name not in ("adamw", "muon")
    },
}
"""By transformers' names, those that are options' own among them. The `muon` of frameworks is none
of torch's: it trains the other weights too, by AdamW."""
_FEWER_STATES = [
    "ao_adamw_fp8",
    "muon",
    "galore_adamw",
    "galore_adamw_8bit",
    "galore_adafactor",
    "apollo_adamw",
    "lomo",
    "adalomo",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "adagrad",
    "schedule_free_sgd",
    "schedule_free_radamw",
    "dion",
    "q_galore_adamw8bit",
    "flash_adamw",
    "flash_lion",
    "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise",
    "apollo_adamw_layerwise",
]
_ABOUT_AS_MANY = [
    "adamw_apex_fused",
    "adamw_anyprecision",
    "ademamix",
    "ademamix_8bit",
    "grokadamw",
    "schedule_free_adamw",
    "came_pytorch",
    "adopt_adamw",
    "optimi_adamw",
    "stable_adamw",
    "flash_adam",
]
_ATTENTION = {
    "flash_attention_2": "flash",
    "fa2": "flash",
    "flash": "flash",
    "sdpa": "auto",
    "auto": "auto",
    "eager": "eager",
    "disabled": "eager",
    "xformers": "efficient",
}


def four_bit(adapter: str) -> Reader:
    """load_in_4bit: a base in NF4 where the key `adapter` says that there is one on it."""

    def read(value: Any, document: Document) -> Meaning:
        has_adapter = is_on(document.get(adapter)) and not is_on(document.get("full_finetuning"))
        return Meaning({"methods": ("qlora",)}) if is_on(value) and has_adapter else NOTHING

    return read


def eight_bit(adapter: str) -> Reader:
    """load_in_8bit: a base in LLM.int8 where the key `adapter` says that there is one on it."""

    def read(value: Any, document: Document) -> Meaning:
        has_adapter = is_on(document.get(adapter)) and not is_on(document.get("full_finetuning"))
        if not is_on(value) or not has_adapter:
            return NOTHING
        return Meaning({"methods": ("qlora",), "quant_type": "int8"})

    return read


def evaluation(batch: int) -> Meaning:
    """Evaluation while training, in batches of so many rows."""
    return Meaning({"eval_batch_size": batch})


def optimizer(value: Any, document: Document) -> Meaning:
    """By transformers' names, which axolotl and LLaMA-Factory take too."""
    if value is None:
        return NOTHING
    name = text(value).lower()
    if name in _OPTIMIZERS:
        return Meaning(_OPTIMIZERS[name])
    if name in _FEWER_STATES:
        what = f"{name}, answered as adamw"
        return not_modelled(what, "too high", optimizer="adamw")
    if name in _ABOUT_AS_MANY:
        return not_modelled(f"{name}, answered as adamw", "either way", optimizer="adamw")
    raise ValueError("no optimizer of that name is known.")


def initialisation(value: Any, document: Document) -> Meaning:
    """PEFT's init_lora_weights, under which the same tensors train; what it computes from the
    weights it does once."""
    if isinstance(value, str) and value.lower().startswith(("pissa", "olora", "corda", "eva")):
        note = "decomposes weights or activations in float32, once, before training: not counted"
        return Meaning(note=note)
    return NOTHING


def attention(value: Any, document: Document) -> Meaning:
    """By transformers' attn_implementation."""
    if is_off(value) and value != "disabled":
        return NOTHING
    name = text(value).lower().split("|")[-1]
    if name in _ATTENTION:
        return Meaning({"attention": _ATTENTION[name]})
    if "flash" in name and ("attn" in name or "attention" in name) and "mla" not in name:
        what = f"the attention {name}, answered as FlashAttention 2"
        return not_modelled(what, "either way", attention="flash")
    if name in ("fa3", "fa4"):
        return not_modelled(
            f"the attention {name}, answered as fa2", "either way", attention="flash"
        )
    return not_modelled(f"the attention {name}, answered as sdpa", "either way", attention="auto")


def attention_switch(kernel: str) -> Reader:
    """A switch that names a kernel: axolotl's flash_attention: true."""

    def read(value: Any, document: Document) -> Meaning:
        return Meaning({"attention": kernel}) if is_on(value) else NOTHING

    return read


def autocast(value: Any, document: Document) -> Meaning:
    """bf16: what the forward pass runs under."""
    return Meaning({"precision": "amp"}) if is_on(value) else NOTHING


def autocast_float16(value: Any, document: Document) -> Meaning:
    if is_off(value) or (value == "auto" and is_on(document.get("bf16"))):
        return NOTHING
    return not_modelled("float16 autocast, answered as bfloat16's", "either way", precision="amp")


def checkpointing(value: Any, document: Document) -> Meaning:
    if value is None:
        return NOTHING
    if is_off(value):
        return Meaning({"checkpointing": False})
    if isinstance(value, str) and value.lower() not in ("true", "yes", "on"):
        what = "checkpoints that are moved to the host's memory, answered as kept on the card"
        return not_modelled(what, "too high", checkpointing=True)
    return Meaning({"checkpointing": True})


def parallel(option: str, what: str) -> Reader:
    """A degree of a parallelism that is not modelled, unless it is 1."""

    def read(value: Any, document: Document) -> Meaning:
        if is_off(value) or number(value) <= 1:
            return NOTHING
        return not_modelled(f"{what} of {size(value)}, which shares {option}", "too high")

    return read


def fsdp(value: Any, document: Document) -> Meaning:
    """transformers' list or text: full_shard auto_wrap offload; on by itself where only its
    settings stand there."""
    words = value.split() if isinstance(value, str) else value
    if isinstance(words, list) and words:
        words = [word for part in words for word in str(part).replace(",", " ").split()]
        if "no_shard" in words:
            return Meaning({"sharding": "ddp"}, asks=("world_size",))
        kept = "shard_grad_op" in words or "hybrid_shard_zero2" in words
        sharding = "fsdp-no-reshard" if kept else "fsdp"
        if "offload" in words:
            what = "FSDP's parameters offloaded to the host"
            return not_modelled(what, "too high", sharding=sharding)._replace(asks=("world_size",))
        return Meaning({"sharding": sharding}, asks=("world_size",))
    if is_on(value):
        return Meaning({"sharding": "fsdp"}, asks=("world_size",))
    return NOTHING


def fsdp_strategy(value: Any, document: Document) -> Meaning:
    """reshard_after_forward (FSDP2) or sharding_strategy (FSDP1)."""
    name = str(value).upper()
    if name in ("FALSE", "SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2", "2", "_HYBRID_SHARD_ZERO2"):
        return Meaning({"sharding": "fsdp-no-reshard"})
    if name in ("NO_SHARD", "3"):
        return Meaning({"sharding": "ddp"})
    return Meaning({"sharding": "fsdp"})


def zero_stage(value: Any, document: Document) -> Meaning:
    stage = int(number(value))
    if stage == 0:
        return Meaning({"sharding": "ddp"}, asks=("world_size",))
    if stage in (1, 2, 3):
        return Meaning({"sharding": f"zero{stage}"}, asks=("world_size",))
    raise ValueError("DeepSpeed's stages are 0, 1, 2 and 3.")


def reduce_bucket(value: Any, document: Document) -> Meaning:
    """Elements; "auto", which transformers fills in by the square of the hidden size, is left to
    DeepSpeed's default."""
    if value == "auto":
        return not_modelled("a reduce bucket of the hidden size squared", "too high")
    return Meaning({"reduce_bucket_size": size(value)})


def offload_device(what: str) -> Reader:
    def read(value: Any, document: Document) -> Meaning:
        return NOTHING if is_off(value) else not_modelled(what, "too high")

    return read


def deepspeed(value: Any, document: Document) -> Meaning:
    """The name of DeepSpeed's file where it is not at hand: most say their stage."""
    if is_off(value):
        return NOTHING
    name = str(value).rsplit("/", 1)[-1].lower()
    if document.named_file(value):
        return Meaning(note="read as the next file")
    stage = next((n for n in "3210" if f"z{n}" in name or f"zero{n}" in name), None)
    if stage is None:
        raise ValueError("there is no such file, and its name does not tell its stage.")
    meaning = zero_stage(stage, document)
    note = "the file is not at hand; its stage is taken from its name"
    if "offload" in name:
        what = "; ".join(filter(None, (meaning.missing, "states offloaded to the host")))
        meaning = meaning._replace(missing=what, direction="too high")
    return meaning._replace(note=note)


def one_row(value: Any, document: Document) -> Meaning:
    """Packing that hands a batch over as one row, boundaries told beside."""
    if is_off(value):
        return NOTHING
    note = (
        "a batch is one row; --packed tells the data's mean length, without which the time is that"
        " of one long sequence"
    )
    return Meaning({ONE_ROW: True}, note=note)
