"""How layers of a quantised base are stored and run. bitsandbytes' NF4 and int8 are here; every
other base is a file under `features/bases/`.

Sources: bitsandbytes 0.50 `functional.py` (quantize_4bit), `nn/modules.py` (Int8Params),
`autograd/_functions.py`; PEFT 0.21 `tuners/lora/{bnb,gptq,awq,hqq,layer}.py`. All are held against
the layers themselves by `tests/memory/test_bases.py`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from lora_profiler.question.feature import part
from lora_profiler.question.model_spec import StoredBase

NF4_BLOCK = 64
NF4_NESTED_BLOCK = 256
INT32, FLOAT32, HALF = 4, 4, 2


class LayerBytes(NamedTuple):
    """Of one linear layer without its bias: packed weights, and what brings them back."""

    weights: int
    constants: int


class Base(NamedTuple):
    """How layers of one kind of base are stored and run.

    layer_bytes: of (inputs, outputs, how it is stored). keeps: what autograd keeps of a product:
    "nothing" beside what is stored, its "input", or the "weight" brought back to the input's dtype,
    which `scale_dtype` is what it is brought back to first. keeps_past_backward: not by autograd's
    means, so that it lives as long as what the pass returned. sums: how PEFT's layer adds its
    adapter: "clone" clones the base's output and casts the adapter's to its dtype, "scaled"
    does not clone, and casts before it scales, "linear" is as over 16-bit weights, and "wide" too
    but that it casts nothing under autocast. in_torch: the weight is brought back by operators of
    torch, one after the other, in each product and for its gradient. group_size: of weights that
    share a scale, where nobody says. defaults: values of options that were not given. stores: what
    `layer_bytes` are, in words of weights and of constants. packed: no library here builds it, so
    that it is known to the rules alone; split_tokens: up to so many its product is made in eight
    parts of float32 that are summed.
    """

    title: str
    layer_bytes: Callable[[int, int, StoredBase], LayerBytes]
    stores: tuple[str, str]
    keeps: Literal["nothing", "input", "weight"] = "nothing"
    scale_dtype: str = ""
    keeps_past_backward: bool = False
    sums: Literal["clone", "scaled", "linear", "wide"] = "clone"
    in_torch: bool = False
    group_size: int = 128
    packed: bool = True
    split_tokens: int = 0
    defaults: Mapping[str, Any] = MappingProxyType({})

    def __hash__(self) -> int:  # a mapping has none
        return hash(self[:-1])


def nf4_bytes(numel: int, double_quant: bool) -> LayerBytes:
    """Two 4-bit values a byte; one float32 scale per block of 64, or with double quantisation one
    byte per block, a float32 scale per 256 of those, their 256-entry code book, and an offset; and
    the 16-entry NF4 code book."""
    packed, blocks = -(-numel // 2), -(-numel // NF4_BLOCK)
    if not double_quant:
        return LayerBytes(packed, 4 * blocks + 64)
    return LayerBytes(packed, blocks + 4 * -(-blocks // NF4_NESTED_BLOCK) + 1024 + 64 + 4)


def _nf4(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    return nf4_bytes(inputs * outputs, stored.double_quant)


def _int8(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """CB and SCB."""
    return LayerBytes(inputs * outputs, FLOAT32 * outputs)


def groups(size: int, stored: StoredBase) -> int:
    return 1 if stored.group_size == -1 else -(-size // stored.group_size)


STOCK: Mapping[str, Any] = MappingProxyType({"recipe": "stock", "adapter_dtype": "float32"})
"""Defaults over other bases than bitsandbytes', of which alone TRL narrows adapters."""
CORE: Mapping[str, Base] = {
    "nf4": Base(
        "NF4",
        _nf4,
        ("two 4-bit weights a byte", "4 B per 64 weights, and 64 B, in each 4-bit layer"),
        packed=False,
    ),
    "int8": Base(
        "LLM.int8", _int8, ("a byte a weight", "4 B an output, in each 8-bit layer"), packed=False
    ),
}


def base_kind(name: str) -> Base:
    """Facts of the kind of base that the option names."""
    found: Base = CORE.get(name) or part("bases", name, "", "FEATURE")
    return found


def of_base(name: str, needed: str) -> Any:
    """What the file of a kind calls `needed`; None where it has none."""
    return part("bases", name, "", needed)
