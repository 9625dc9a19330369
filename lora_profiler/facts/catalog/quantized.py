"""How a checkpoint stores its weights, by `quantization_config` in its config.json: what is
answered as it is, what refused.

A checkpoint in NF4 by bitsandbytes, of GPTQ or AWQ in the layout that their packages write by
default, or in FP8 by blocks is the base of adapters. FP8 and MXFP4 are answered as 16-bit models
where the file asks for that itself, in transformers' own word (`dequantize`). Everything else is
refused: it is no 16-bit model, and what training on it keeps is not known here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from lora_profiler.errors import ModelNotFoundError, UnsupportedModelError
from lora_profiler.question.base import base_kind, of_base
from lora_profiler.question.model_spec import ModelSpec, StoredBase

_KEYS = ("quantization_config", "compression_config")
_SCHEMES = {
    "aqlm": "AQLM", "auto-round": "AutoRound", "awq": "AWQ", "bitnet": "BitNet",
    "compressed-tensors": "compressed-tensors", "compressed_tensors": "compressed-tensors",
    "eetq": "EETQ", "fbgemm_fp8": "FBGEMM FP8", "fp8": "FP8", "fp_quant": "FP-Quant",
    "gptq": "GPTQ", "higgs": "HIGGS", "hqq": "HQQ", "modelopt": "ModelOpt", "mxfp4": "MXFP4",
    "mxfp8": "MXFP8", "nvfp4": "NVFP4", "quanto": "Quanto", "quark": "Quark", "spqr": "SpQR",
    "torchao": "torchao", "vptq": "VPTQ",
}  # fmt: skip
_UNTRAINABLE = frozenset(
    {"auto-round", "fbgemm_fp8", "higgs", "mxfp4", "nvfp4", "quark", "spqr", "vptq"}
)
"""Of which transformers 5.24 says that nothing trains on them (`quantizers/quantizer_*.py`,
is_trainable)."""
_DEQUANTIZED_BY_TRANSFORMERS = ("fp8", "mxfp4")
_MOST_NAMES = 1_000
"""Modules that a file may name as left in 16 bit; each is compared with every module of the
model."""


class Stored(NamedTuple):
    """A base, with the modules left out of it by a list of that name in the file (None: those that
    transformers leaves out by itself), or the scheme of which the 16-bit weights are asked
    about."""

    base: StoredBase | None = None
    skipped: tuple[str, ...] | None = None
    listed_as: str = "modules_to_not_convert"
    dequantized_from: str | None = None


def stored(raw: Mapping[str, Any], where: str, original: Callable[[], str | None]) -> Stored | None:
    """None for a file that says nothing of it. `original` names a known model of the same sizes
    that is not quantised.

    Raises UnsupportedModelError for what is not answered, ModelNotFoundError for what is no such
    field.
    """
    config = _config(raw, where)
    if not config:
        return None
    method = config.get("quant_method")
    if method is None and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        method = "bitsandbytes"
    if not isinstance(method, str):
        raise ModelNotFoundError(
            f"{where}: quantization_config has no quant_method; it must name one, such as"
            " bitsandbytes."
        )
    if method in ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"):
        return _bitsandbytes(config, where, original)
    if method in _DEQUANTIZED_BY_TRANSFORMERS and config.get("dequantize") is True:
        return Stored(dequantized_from=scheme(method))
    read = of_base(method, "stored")
    if read is not None and (base := read(config)) is not None:
        listed = config.get("modules_to_not_convert")
        names = None if not listed else _names(listed, where, "modules_to_not_convert")
        return Stored(base=base, skipped=names)
    raise _unanswered(
        where,
        _words(method, config),
        original,
        asks_back=method in _DEQUANTIZED_BY_TRANSFORMERS,
        trains=method not in _UNTRAINABLE,
    )


def scheme(method: str) -> str:
    """A quant_method as people write it."""
    return _SCHEMES.get(method, method[:40])


def checked_base(spec: ModelSpec, stored: Stored, where: str) -> StoredBase | None:
    """The base as the file has it, with the modules that are left in 16 bit besides the output
    layer, which QLoRA leaves and AWQ too, whatever is listed (transformers
    `quantizers/quantizer_awq.py`, add_default_skips).

    A name is compared as transformers does (`should_convert_module`): with the beginning of a
    module's, up to a dot, or its end.

    Raises UnsupportedModelError where the output layer is not left, or in another format than NF4
    another layer is.
    """
    if stored.base is None or stored.skipped is None:
        return stored.base
    skipped = stored.skipped
    if stored.base.quant_type == "awq":
        skipped = (*skipped, spec.output_embedding or "")
    is_nf4 = stored.base.quant_type == "nf4"
    title = "4 bit" if is_nf4 else base_kind(stored.base.quant_type).title
    in_16_bit = []
    for name, module in spec.modules():
        if not module.is_linear:
            continue
        kept = any(
            name == one or name.startswith(f"{one}.") or name.endswith(one) for one in skipped
        )
        if kept and name != spec.output_embedding and is_nf4:
            in_16_bit.append(name)
        elif kept != (name == spec.output_embedding):
            state = "stays in 16 bit" if kept else f"is in {title}"
            raise UnsupportedModelError(
                f"{where}: by {stored.listed_as} {name} {state}; QLoRA does not do that here."
                f" Nearest:"
                " the original model with --method qlora."
            )
    return replace(stored.base, in_16_bit=tuple(in_16_bit))


def _config(raw: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    """The field as the file has it, at the root or in the language model."""
    nested = raw.get("text_config")
    for part in (raw, nested if isinstance(nested, Mapping) else {}):
        for key in _KEYS:
            stated = part.get(key)
            if stated is not None and not isinstance(stated, Mapping):
                raise ModelNotFoundError(
                    f"{where}: {key} is {str(stated)[:60]!r}; it must be an object."
                )
            if stated:
                return stated
    return None


def _bitsandbytes(
    config: Mapping[str, Any], where: str, original: Callable[[], str | None]
) -> Stored:
    if not config.get("load_in_4bit", config.get("_load_in_4bit")):
        raise _unanswered(where, "bitsandbytes 8-bit", original)
    kind = config.get("bnb_4bit_quant_type", "fp4")
    if kind != "nf4":
        raise _unanswered(where, f"bitsandbytes 4-bit {str(kind)[:20].upper()}", original)
    storage = config.get("bnb_4bit_quant_storage") or "uint8"
    if storage != "uint8":
        raise _unanswered(where, f"bitsandbytes NF4 packed into {str(storage)[:20]}", original)
    skipped = config.get("llm_int8_skip_modules")
    if skipped is not None:
        skipped = _names(skipped, where, "llm_int8_skip_modules")
    compute = str(config.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
    double_quant = bool(config.get("bnb_4bit_use_double_quant", False))
    return Stored(
        base=StoredBase(quant_type="nf4", double_quant=double_quant, compute_dtype=compute),
        skipped=skipped,
        listed_as="llm_int8_skip_modules",
    )


def _names(value: object, where: str, key: str) -> tuple[str, ...]:
    """Names alone: transformers would take each as a pattern too."""
    if not isinstance(value, list) or len(value) > _MOST_NAMES:
        raise ModelNotFoundError(
            f"{where}: {key} is {str(value)[:60]!r}; it must be a list of up to"
            f" {_MOST_NAMES} names."
        )
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.]+", name):
            raise UnsupportedModelError(
                f"{where}: {key} holds {str(name)[:60]!r}; names of modules are"
                " understood here, no patterns."
            )
    return tuple(dict.fromkeys(value))


def _words(method: str, config: Mapping[str, Any]) -> str:
    bits = next(
        (config[key] for key in ("bits", "w_bit", "nbits") if isinstance(config.get(key), int)),
        None,
    )
    return scheme(method) if bits is None else f"{scheme(method)}, {bits} bit"


def _unanswered(
    where: str,
    words: str,
    original: Callable[[], str | None],
    *,
    asks_back: bool = False,
    trains: bool = True,
) -> UnsupportedModelError:
    name = original()
    same = f" ({name} has the same sizes)" if name else ""
    back = (
        ' For 16-bit weights write "dequantize": true into its quantization_config.'
        if asks_back
        else ""
    )
    why = "is not modelled" if trains else "is refused by transformers (is_trainable)"
    return UnsupportedModelError(
        f"{where}: its weights are stored quantised ({words}). Training on those {why}."
        f" Name the model that it was made from{same}, with --method qlora for 4 bit.{back}"
    )
