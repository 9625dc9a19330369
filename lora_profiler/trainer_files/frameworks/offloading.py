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
    `runtime/engine.py`, _configure_zero_optimizer), and stage 1 is answered as torch's."""

    def read(value: Any, document: Document) -> Meaning:
        device = "cpu" if value is True else str(value).lower()
        if is_off(value) or device == "none":
            return NOTHING
        stage = str(next((document.get(key) for key in _STAGES if document.get(key)), ""))
        if stage == "1":
            return not_modelled("states of stage 1 on the host", "too high")
        if option == "offload_param_device" and stage == "2":
            return NOTHING
        return Meaning({option: device})

    return read


def by_name(name: str, stage: str) -> dict[str, Any]:
    """What a DeepSpeed file that is not at hand moves, as those of LLaMA-Factory and axolotl are
    named: ds_z3_offload_config.json, zero3_bf16_cpuoffload_params.json."""
    if "offload" not in name or stage not in ("2", "3"):
        return {}
    states = {"offload_optimizer_device": "cpu"} if "params" not in name else {}
    return {**states, "offload_param_device": "cpu"} if stage == "3" else states


def checkpointing(value: Any, document: Document) -> Meaning:
    """axolotl's gradient_checkpointing: `offload` is an older name of activation_offloading, which
    takes its place under an adapter (utils/schemas/validation.py, core/builders/base.py,
    loaders/model.py)."""
    by_name = str(value).lower() == "offload"
    by_key = document.get("activation_offloading") is True
    if not (by_name or by_key) or _is_shared(document):
        return shared.checkpointing(value, document)
    options = {"checkpointing": is_off(document.get("adapter"))}
    return _moved(document, options) if by_name else Meaning(options)


def activations(value: Any, document: Document) -> Meaning:
    """axolotl's activation_offloading: by OffloadActivations where it is true."""
    if is_off(value):
        return NOTHING
    if value is True and not _is_shared(document):
        return _moved(document, {})
    return not_modelled(f"activations on the host ({value}), answered as on the card", "too high")


def _is_shared(document: Document) -> bool:
    """Whether adapters train on several cards that may share the weights: what is saved of those
    that were gathered is not known."""
    keys = any(document.get(key) for key in ("fsdp", "deepspeed"))
    return is_on(document.get("adapter")) and (keys or document.has_under("fsdp_config"))


def _moved(document: Document, options: Mapping[str, Any]) -> Meaning:
    """Under an adapter axolotl 0.19, rehearsed, kept less of its norms on the card."""
    options = {**options, "offload_activations": True, "use_reentrant": False}
    if is_off(document.get("adapter")):
        return Meaning(options)
    return not_modelled("what axolotl's offloading moves of norms", "too high", **options)
