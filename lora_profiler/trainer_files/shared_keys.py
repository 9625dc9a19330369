"""Names that frameworks share: optimizers, attention, checkpointing, packing."""

import json
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from lora_profiler.question.optimizer import all_optimizers
from lora_profiler.trainer_files import ranks
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NO_EFFECT,
    ONE_ROW,
    Meaning,
    Reader,
    both_on,
    free,
    is_off,
    is_on,
    missing,
    missing_above,
    no_effect,
    not_modelled,
    number,
    sets,
    size,
    size_of,
    text,
    when_on,
)

_FREE = Path(__file__).with_name("training_arguments.toml")
ONE_IMAGE = "depends on the data: --images, --image-size; one per sequence here"
_OPTIMIZERS: dict[str, dict[str, str]] = {
    **{
        name: {"optimizer": optimizer}
        for optimizer, facts in all_optimizers().items()
        for name in (optimizer, facts.optim, *facts.aliases)
        if name and not facts.matrices_alone
    },
    "adamw_torch": {"optimizer": "adamw", "optimizer_impl": "foreach"},
    "adamw_torch_fused": {"optimizer": "adamw", "optimizer_impl": "fused"},
}
"""By transformers' names, those that are options' own among them. The `muon` of frameworks is none
of torch's: it trains the other weights too, by AdamW."""
_FEWER_STATES = [
    "ao_adamw_fp8", "muon", "galore_adamw_8bit", "galore_adafactor", "lomo", "adalomo",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "adagrad", "schedule_free_sgd", "schedule_free_radamw",
    "dion", "q_galore_adamw8bit", "flash_adamw", "flash_lion", "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise", "apollo_adamw_layerwise",
]  # fmt: skip
_ABOUT_AS_MANY = [
    "adamw_apex_fused", "adamw_anyprecision", "ademamix", "ademamix_8bit", "grokadamw",
    "schedule_free_adamw", "came_pytorch", "adopt_adamw", "optimi_adamw", "stable_adamw",
    "flash_adam",
]  # fmt: skip
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


def quantised_base(adapter: str) -> dict[str, Reader]:
    """load_in_4bit and load_in_8bit: a base in NF4, or LLM.int8, where the key `adapter` says that
    there is one on it."""

    def reader(**beside: str) -> Reader:
        def read(value: Any, document: Document) -> Meaning:
            is_full = is_off(document.get(adapter)) or is_on(document.get("full_finetuning"))
            is_meant = is_on(value) and not is_full
            return Meaning({"methods": ("qlora",), **beside}) if is_meant else NO_EFFECT

        return read

    return {"load_in_4bit": reader(), "load_in_8bit": reader(quant_type="int8")}


def loads_quantised(document: Document) -> bool:
    return any(is_on(document.get(f"load_in_{bits}bit")) for bits in (4, 8))


def compiled(value: Any, document: Document) -> Meaning:
    """torch.compile, whose fused kernels keep about what Liger's do: what goes into and comes out
    of matrix products (torch `_functorch/partitioners.py`, min_cut_rematerialization_partition)."""
    if is_off(value):
        return NO_EFFECT
    fused = ({"kernels": "liger"},)
    return not_modelled("torch.compile", "too high")._replace(alternatives=fused)


ONE_BASE = both_on("load_in_4bit", "load_in_8bit", "a base is stored in one of them.")
ONE_AUTOCAST = both_on("bf16", "fp16", "autocast has one dtype.")


def quant_type(value: Any, document: Document) -> Meaning:
    """bitsandbytes' bnb_4bit_quant_type."""
    if is_off(value) or str(value).lower() == "nf4":
        return NO_EFFECT
    return not_modelled(f"a base in {value}, answered as NF4", "either way")


def cut_off(value: Any, document: Document) -> Meaning:
    if value is None:
        return NO_EFFECT
    note = "a cut-off: the longest possible row; --seq-len for your data"
    return Meaning({"seq_len": size(value)}, note=note)


def dropout(value: Any, *, is_off: bool) -> Meaning:
    """Of adapters, under a trainer that may switch all dropout off: TRL's DPOTrainer and
    LLaMA-Factory's by default (TRL 1.16 `dpo_config.py`, disable_dropout)."""
    if is_off:
        return Meaning({"dropout": 0.0}, note="the trainer switches dropout off")
    return NO_EFFECT if value is None else Meaning({"dropout": number(value)})


def optimizer(value: Any, document: Document) -> Meaning:
    """By transformers' names, which axolotl and LLaMA-Factory take too."""
    if value is None:
        return NO_EFFECT
    name = text(value).lower()
    if name in _OPTIMIZERS:
        return Meaning(_OPTIMIZERS[name])
    if name in _FEWER_STATES:
        known = (n for n, facts in all_optimizers().items() if facts.projects_gradients)
        nearest = next((n for n in known if name.startswith(n.partition("_")[0])), "adamw")
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
    return Meaning({"optimizer_rank": size(given["rank"])}) if given.get("rank") else NO_EFFECT


def optimizer_targets(value: Any, document: Document) -> Meaning:
    """optim_target_modules: whose gradients are projected."""
    if is_off(value) or str(value).replace("_", "-") == "all-linear":
        return NO_EFFECT
    what = "some modules' gradients projected, answered for every linear layer's"
    return not_modelled(what, "too low")


def initialisation(value: Any, document: Document) -> Meaning:
    """PEFT's init_lora_weights, under which the same tensors train, but for MiCA's; what it
    computes from the weights it does once."""
    if isinstance(value, str) and value.lower().startswith(("pissa", "olora", "corda", "eva")):
        note = "decomposes weights or activations in float32, once, before training: not counted"
        return Meaning(note=note)
    if isinstance(value, str) and value.lower() == "mica":
        return not_modelled("MiCA's frozen B, answered as trained", "too high")
    return NO_EFFECT


def attention(value: Any, document: Document) -> Meaning:
    """By transformers' attn_implementation."""
    if is_off(value) and value != "disabled":
        return NO_EFFECT
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


autocast = when_on(precision="amp")
"""bf16: what the forward pass runs under."""


def autocast_float16(value: Any, document: Document) -> Meaning:
    if is_off(value) or (value == "auto" and is_on(document.get("bf16"))):
        return NO_EFFECT
    return Meaning({"precision": "amp-float16"})


def checkpointing(value: Any, document: Document) -> Meaning:
    if value is None:
        return NO_EFFECT
    if is_off(value):
        return Meaning({"checkpointing": False})
    if isinstance(value, str) and value.lower() not in ("true", "yes", "on"):
        what = "checkpoints offloaded to CPU, predicted on the GPU"
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
        return NO_EFFECT
    gaps = (_KWARGS[key](value[key], document) for key in _KWARGS if key in value)
    gap = next((each for each in gaps if each.missing), NO_EFFECT)
    return gap._replace(options=reentrant(value.get("use_reentrant"), document).options)


def reentrant(value: Any, document: Document) -> Meaning:
    return NO_EFFECT if value is None else Meaning({"use_reentrant": is_on(value)})


_KWARGS: dict[str, Reader] = {
    "selective": missing("selective checkpointing", "too low"),
    "every_n_layers": missing_above(1, "layers without checkpointing", "too low"),
    "offload": missing("checkpoints offloaded to CPU, predicted on the GPU", "too high"),
}
"""Of checkpointing's kwargs, in transformers 5.24 (`trainer.py`, activation_checkpointing_kwargs);
`selective` is LLaMA-Factory's and axolotl's."""


images = when_on(images=1, note=ONE_IMAGE)
"""A key that is on where the model sees images. How many is the data's."""


def largest_image(value: Any, document: Document) -> Meaning:
    """The pixels that an image is brought down to, as a square."""
    side = isqrt(size(value))
    return Meaning({"images": 1, "image_size": f"{side}x{side}"}, note=ONE_IMAGE)


def one_row(value: Any, document: Document) -> Meaning:
    """Packing that hands a batch over as one row, boundaries told beside."""
    if is_off(value):
        return NO_EFFECT
    note = (
        "a batch is one row; --packed is the mean length of samples. Without it the time is of one"
        " long sequence"
    )
    return Meaning({ONE_ROW: True}, note=note)


# --- transformers' TrainingArguments (5.24), which TRL, LLaMA-Factory and notebooks take ----------


def evaluates(document: Document) -> bool:
    """Whether the trainer evaluates while it trains."""
    strategy = document.get("eval_strategy", document.get("evaluation_strategy"))
    if strategy is None:
        return is_on(document.get("do_eval")) or is_on(document.get("eval_on_start"))
    return str(strategy).lower() not in ("no", "false") or is_on(document.get("eval_on_start"))


def _evaluation(value: Any, document: Document) -> Meaning:
    is_first = document.get("eval_strategy", document.get("evaluation_strategy", value)) == value
    if is_off(value) or not is_first or not evaluates(document):
        return NO_EFFECT
    return evaluated(document)


def evaluated(document: Document) -> Meaning:
    """In batches of 8 unless told otherwise."""
    return Meaning({"eval_batch_size": size_of(document, "per_device_eval_batch_size", 8)})


liger = when_on(kernels="liger", loss="fused")
"""Liger's kernels with its loss, as transformers' Trainer takes them."""
CHECKPOINTING: dict[str, Reader] = {
    f"{kind}_checkpointing{key}": reader
    for kind in ("gradient", "activation")  # the second from transformers 5.24 on
    for key, reader in (
        ("", checkpointing),
        ("_kwargs", checkpointing_kwargs),
        ("_kwargs.use_reentrant", reentrant),
        *((f"_kwargs.{part}", reader) for part, reader in _KWARGS.items()),
    )
}
TRAINING_ARGUMENTS: dict[str, Reader] = {
    "per_device_train_batch_size": sets("batch_size"),
    "gradient_accumulation_steps": sets("accumulation"),
    "optim": optimizer,
    "optim_args": optimizer_arguments,
    "bf16": autocast,
    "fp16": autocast_float16,
    **CHECKPOINTING,
    "use_liger_kernel": liger,
    "label_smoothing_factor": sets("label_smoothing_factor"),
    **dict.fromkeys(
        ("eval_strategy", "evaluation_strategy", "do_eval", "eval_on_start"), _evaluation
    ),
    "per_device_eval_batch_size": no_effect,
    "eval_accumulation_steps": no_effect,
    "prediction_loss_only": no_effect,
    **dict.fromkeys(
        ("bf16_full_eval", "fp16_full_eval"), missing("the model cast for evaluation", "either way")
    ),
    "fsdp": ranks.fsdp_switch(2),
    "fsdp_config": ranks.fsdp_settings(2),
    **ranks.fsdp_keys(2),
    "deepspeed": ranks.deepspeed,
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), compiled),
    "auto_find_batch_size": missing("a batch that the trainer lowers until it fits", "too high"),
    "optim_target_modules": optimizer_targets,
    "liger_kernel_config": missing("some of Liger's kernels only", "either way"),
    **dict.fromkeys(("use_cpu", "no_cuda"), when_on(device="cpu")),
    "parallelism_config.cp_size": ranks.sequence_parts,
    "parallelism_config": missing("context and tensor parallelism", "either way"),
    "neftune_noise_alpha": no_effect,
    **free(_FREE),
}
TRAINING_ARGUMENTS_UNDER: dict[str, Reader] = {
    **free(_FREE, "under"),
    "parallelism_config.": missing("context and tensor parallelism", "either way"),
    "liger_kernel_config.": missing("some of Liger's kernels only", "either way"),
}
