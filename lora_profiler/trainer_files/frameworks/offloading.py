"""What waits on the host, as keys say it: FSDP's parameters, and activations in axolotl's words."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.frameworks import shared
from lora_profiler.trainer_files.meaning import NOTHING, Meaning, is_off, is_on, not_modelled


def params_on_host(value: Any, document: Document) -> Meaning:
    """With their gradients and the optimizer's states."""
    return Meaning({"offload_params": True}) if is_on(value) else NOTHING


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
