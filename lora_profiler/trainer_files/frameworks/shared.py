"""Names that frameworks share: optimizers, attention, checkpointing, packing."""

import json
from collections.abc import Mapping
from math import isqrt
from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NOTHING,
    ONE_ROW,
    Meaning,
    Reader,
    is_off,
    is_on,
    missing,
    not_modelled,
    number,
    size,
    text,
)
from lora_profiler.workload import OPTIONS, PROJECTED

ONE_IMAGE = "the data tell how many and how large: --images, --image-size; one a sequence here"
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
    "galore_adamw_8bit",
    "galore_adafactor",
    "lomo",
    "adalomo",
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
    "flash_attention_2": "flash_attention_2",
    "fa2": "flash_attention_2",
    "flash": "flash_attention_2",
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


def dropout(value: Any, *, is_off: bool) -> Meaning:
    """Of adapters, under a trainer that may switch all dropout off: TRL's DPOTrainer and
    LLaMA-Factory's by default (TRL 1.16 `dpo_config.py`, disable_dropout)."""
    if is_off:
        return Meaning({"dropout": 0.0}, note="the trainer switches dropout off")
    return NOTHING if value is None else Meaning({"dropout": number(value)})


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
        nearest = next((n for n in PROJECTED if name.startswith(n.partition("_")[0])), "adamw")
        what = f"{name}, answered as {nearest}"
        return not_modelled(what, "too high", optimizer=nearest)
    if name in _ABOUT_AS_MANY:
        return not_modelled(f"{name}, answered as adamw", "either way", optimizer="adamw")
    raise ValueError("no optimizer of that name is known.")


def optimizer_arguments(value: Any, document: Document) -> Meaning:
    """transformers' optim_args, "rank=64, update_proj_gap=100" or a table, of which a rank costs
    memory."""
    given = dict(value) if isinstance(value, Mapping) else {}
    if isinstance(value, str):
        given = dict(p.partition("=")[::2] for p in value.replace(" ", "").split(","))
    return Meaning({"optimizer_rank": size(given["rank"])}) if given.get("rank") else NOTHING


def optimizer_targets(value: Any, document: Document) -> Meaning:
    """optim_target_modules: whose gradients are projected."""
    if is_off(value) or str(value).replace("_", "-") == "all-linear":
        return NOTHING
    what = "some modules' gradients projected, answered for every linear layer's"
    return not_modelled(what, "too low")


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
        return not_modelled(what, "either way", attention="flash_attention_2")
    if name in ("fa3", "fa4"):
        what = f"the attention {name}, answered as fa2"
        return not_modelled(what, "either way", attention="flash_attention_2")
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
    return Meaning({"precision": "amp-float16"})


def checkpointing(value: Any, document: Document) -> Meaning:
    if value is None:
        return NOTHING
    if is_off(value):
        return Meaning({"checkpointing": False})
    if isinstance(value, str) and value.lower() not in ("true", "yes", "on"):
        what = "checkpoints that are moved to the host's memory, answered as kept on the card"
        return not_modelled(what, "too high", checkpointing=True)
    return Meaning({"checkpointing": True})


def checkpointing_kwargs(value: Any, document: Document) -> Meaning:
    """Of torch's checkpoint, as a mapping or, on a command line, as JSON."""
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("it must be JSON.") from None
    if not isinstance(value, dict):
        return NOTHING
    if is_on(value.get("selective")):
        return selective(True, document)
    return reentrant(value.get("use_reentrant"), document)


def reentrant(value: Any, document: Document) -> Meaning:
    return NOTHING if value is None else Meaning({"use_reentrant": is_on(value)})


selective = missing("selective checkpointing", "too low")


def images(value: Any, document: Document) -> Meaning:
    """A key that is on where the model sees images. How many is the data's."""
    return Meaning({"images": 1}, note=ONE_IMAGE) if is_on(value) else NOTHING


def largest_image(value: Any, document: Document) -> Meaning:
    """The pixels that an image is brought down to, as a square."""
    side = isqrt(size(value))
    return Meaning({"images": 1, "image_size": f"{side}x{side}"}, note=ONE_IMAGE)


def one_row(value: Any, document: Document) -> Meaning:
    """Packing that hands a batch over as one row, boundaries told beside."""
    if is_off(value):
        return NOTHING
    note = (
        "a batch is one row; --packed tells the data's mean length, without which the time is that"
        " of one long sequence"
    )
    return Meaning({ONE_ROW: True}, note=note)
