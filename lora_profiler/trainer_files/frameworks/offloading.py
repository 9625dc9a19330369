"""What waits on the host, as keys say it: FSDP's parameters, DeepSpeed's weights and states, and
activations in axolotl's words."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.frameworks import shared
from lora_profiler.trainer_files.meaning import (
    NOTHING,
    Meaning,
    Reader,
    is_off,
    is_on,
    not_modelled,
)

_STAGES = ("zero_optimization.stage", "deepspeed_config.zero_stage")


def params_on_host(value: Any, document: Document) -> Meaning:
    """With their gradients and the optimizer's states."""
    return Meaning({"offload_params": True}) if is_on(value) else NOTHING


def deepspeed_device(option: str) -> Reader:
    """offload_optimizer and offload_param. Parameters are moved in stage 3 alone (DeepSpeed
    `runtime/engine.py`, _configure_zero_optimizer)."""

    def read(value: Any, document: Document) -> Meaning:
        device = "cpu" if value is True else str(value).lower()
        if is_off(value) or device == "none":
            return NOTHING
        stage = str(next((document.get(key) for key in _STAGES if document.get(key)), ""))
        if option == "offload_param_device" and stage in ("1", "2"):
            return NOTHING
        return Meaning({option: device})

    return read


def by_name(name: str, stage: str) -> dict[str, Any]:
    """What a DeepSpeed file that is not at hand moves, as those of LLaMA-Factory and axolotl are
    named: ds_z3_offload_config.json, zero3_bf16_cpuoffload_params.json."""
    if "offload" not in name or stage == "0":
        return {}
    states = {"offload_optimizer_device": "cpu"} if "params" not in name else {}
    return {**states, "offload_param_device": "cpu"} if stage == "3" else states


def checkpointing(value: Any, document: Document) -> Meaning:
    """axolotl's gradient_checkpointing: `offload` is an older name of activation_offloading
    (utils/schemas/validation.py). Of whole models layers are wrapped then, never the reentrant
    way; adapters' are checkpointed as without (loaders/model.py)."""
    by_name = str(value).lower() == "offload"
    by_key = document.get("activation_offloading") is True
    if not (by_name or by_key):
        return shared.checkpointing(value, document)
    options: dict[str, Any] = {"checkpointing": True}
    if is_off(document.get("adapter")):
        options["use_reentrant"] = False
    return _moved(document, options) if by_name else Meaning(options)


def reentrant(value: Any, document: Document) -> Meaning:
    """axolotl's gradient_checkpointing_kwargs.use_reentrant. PEFT's k-bit preparation, which one
    card has, asks for checkpoints without it, which are reentrant, and where activations are moved
    nobody asks again (PEFT 0.20 `utils/other.py`, prepare_model_for_kbit_training;
    core/builders/base.py)."""
    moves = document.get("activation_offloading") is True or (
        str(document.get("gradient_checkpointing")).lower() == "offload"
    )
    packs = any(is_on(document.get(key)) for key in ("load_in_4bit", "load_in_8bit"))
    is_alone = is_on(document.get("adapter")) and not _shares(document)
    if moves and packs and is_alone and not is_on(value):
        return Meaning(note="PEFT's k-bit preparation makes checkpoints reentrant")
    return shared.reentrant(value, document)


def activations(value: Any, document: Document) -> Meaning:
    """axolotl's activation_offloading: by OffloadActivations where it is true."""
    if is_off(value):
        return NOTHING
    if value is True:
        return _moved(document, {})
    return not_modelled(f"activations on the host ({value}), answered as on the card", "too high")


def _moved(document: Document, options: Mapping[str, Any]) -> Meaning:
    """Of adapters on several cards that may share the weights, checkpointed the reentrant way,
    axolotl moves gathered weights too, which is not known."""
    kept = document.get("gradient_checkpointing_kwargs.use_reentrant") is False
    if is_on(document.get("adapter")) and _shares(document) and not kept:
        what = "activations of gathered weights on the host, answered as on the card"
        return not_modelled(what, "too high", **options)
    return Meaning({**options, "offload_activations": True})


def _shares(document: Document) -> bool:
    named = any(document.get(key) for key in ("fsdp", "deepspeed"))
    return named or document.has_under("fsdp_config")
