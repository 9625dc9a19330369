"""Quantisation-aware training as files of axolotl, torchtune and Unsloth ask for it."""

from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import NOTHING, Meaning, is_off, is_on, not_modelled, size

_QAT = "quantisation-aware training"
_FP8 = ("fp8", "float8", "float8_e4m3fn")
_SCHEMES = {
    ("int8", "int4"): "int8-int4",
    ("", "int4"): "int4",
    ("fp8", "int4"): "fp8-int4",
    ("fp8", "fp8"): "fp8-fp8",
}
"""By the formats of inputs and weights (axolotl utils/quantization.py, get_quantization_config)."""
_GROUPS = {"int4": 128, "int8-int4": 32, "phone-deployment": 32, "fp8-int4": 128, "fp8-fp8": 32}
"""Unsloth's (models/_utils.py, _prepare_model_for_qat)."""


def of_axolotl(value: Any, document: Document) -> Meaning:
    """qat.weight_dtype, with what stands beside it."""
    formats = tuple(
        "fp8" if (name := str(kind or "").lower()) in _FP8 else name
        for kind in (document.get("qat.activation_dtype"), value)
    )
    scheme = _SCHEMES.get((formats[0], formats[1]))
    if formats[1] == "nvfp4":  # torchao's _infer_fake_quantize_configs knows no weights alone
        what = f"{_QAT} in nvfp4, at which torchao 0.17 and 0.18 stop as axolotl asks for it"
        return not_modelled(what, "either way")
    if scheme is None:
        return not_modelled(f"{_QAT} in {'-'.join(filter(None, formats))}", "too low")
    options = {"qat": scheme, "qat_group_size": size(document.get("qat.group_size") or 32)}
    if is_on(document.get("qat.quantize_embedding")):
        return not_modelled("a fake-quantised embedding", "too low", **options)
    return Meaning(options)


def of_torchtune(value: Any, document: Document) -> Meaning:
    """quantizer._component_; its groups are of 256 unless told."""
    if is_off(value):
        return NOTHING
    name = str(value).rpartition(".")[2]
    if not name.startswith("Int8DynActInt4WeightQATQuantizer"):
        return not_modelled(f"{_QAT} by {name}", "too low")
    return Meaning(
        {"qat": "8da4w", "qat_group_size": size(document.get("quantizer.groupsize") or 256)}
    )


def of_unsloth(value: Any, document: Document) -> Meaning:
    """qat_scheme; of a model with adapters it fake-quantises those too, where groups go into
    them."""
    if is_off(value):
        return NOTHING
    scheme = str(value)
    if scheme not in _GROUPS:
        return not_modelled(f"{_QAT} in {scheme}", "too low")
    group = _GROUPS[scheme]
    options = {"qat": scheme.replace("phone-deployment", "int8-int4"), "qat_group_size": group}
    options["loss"] = "plain"  # Unsloth's own is not known of a head that is rounded
    if is_on(document.get("full_finetuning")):
        what = "Unsloth's loss of a rounded head, answered as transformers'"
        return not_modelled(what, "too high", **options)
    return not_modelled("fake-quantised adapters, answered as a base that is", "too low", **options)
