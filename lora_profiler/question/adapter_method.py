"""What the rest of the package asks of an adapter method of PEFT.

`adapters/peft_types.json` has every method that trains layers without their values, as PEFT's own
config classes describe it (written by `benchmarks/truth/extract_shapes.py`). A trace attaches it by
PEFT's code. A file under `features/adapters/` says of a few what they train, without a trace.
"""

import json
from collections.abc import Collection, Mapping
from functools import cache
from os.path import dirname
from typing import Any, NamedTuple

from lora_profiler.question.feature import names, part


class AdapterMethod(NamedTuple):
    """Facts of a method.

    title: as its papers write it. config: PEFT's class. spelled: arguments of that class by the
    fields of `LoraConfig` that they stand for; idle: fields that it has no counterpart of.
    arguments: those that no field stands for, with their defaults. adapts: kinds of modules that it
    takes; PEFT raises `error` at another, and empty_error where it finds none. targets: its
    defaults by model type, suffixes or a pattern. formula: what trains, for `--explain`; size: what
    else than the rank sizes it, with {} for the setup's `lora`.

    matrices: what trains are matrices alone. shared: all layers share frozen matrices. has_rules:
    what it trains is known without a trace. on_quantized: PEFT has layers of it for a base of
    bitsandbytes.
    """

    title: str
    config: str
    idle: tuple[str, ...]
    adapts: Collection[str]
    spelled: Mapping[str, str] = {}
    arguments: Mapping[str, Any] = {}
    error: str = "ValueError"
    empty_error: str = "NoMatchingPeftModuleError"
    targets: Mapping[str, str | tuple[str, ...]] = {}
    formula: str = ""
    size: str = ""
    matrices: bool = True
    shared: bool = False
    has_rules: bool = True
    on_quantized: bool = True


LEFT_OUT = {
    "ln_tuning": "it trains norms, not layers.",
    "trainable_tokens": "it trains rows of the embedding, not layers.",
    "c3a": "its Fourier transforms take scratch that no trace sees.",
    "osf": "it begins with a decomposition; its layout in memory is unknown to a trace.",
    "psoft": "it begins with a decomposition; its layout in memory is unknown to a trace.",
}
"""Methods of the table that are not answered, and why: traces of the last three were not equal to
real steps."""
_OF_LAYERS = ("feedforward_modules", "oft_block_size", "target_parameters")
"""Fields of `LoraConfig` that no other field of a config class is another name of."""
_KERNELS = ("fast_lora", "lora_kernels")
"""Fields of `LoraConfig` that are other code for LoRA's own products."""
_OTHER_NAMES = {
    "r": ("r",),
    "lora_alpha": ("lora_alpha", "alpha"),
    "lora_dropout": ("lora_dropout", "{}_dropout", "module_dropout"),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
    "layers_to_transform": ("layers_to_transform",),
    **{name: (name,) for name in _OF_LAYERS},
}
"""Fields of `LoraConfig`, by the arguments that stand for them; {} is the method."""


_TITLES = {
    "beft": "BEFT",
    "deft": "DEFT",
    "hira": "HiRA",
    "miss": "MiSS",
    "peanut": "PEANuT",
    "pvera": "PVeRA",
    "road": "RoAd",
}
"""Of methods whose papers spell them otherwise than PEFT's config classes do."""


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    with open(f"{dirname(__file__)}/adapters/peft_types.json", encoding="utf-8") as file:
        table: Mapping[str, Mapping[str, Any]] = json.load(file)
    return table


def traced_methods() -> tuple[str, ...]:
    """Values of the option that a trace answers, LoRA first."""
    return tuple(name for name, row in _table().items() if "adapts" in row and name not in LEFT_OUT)


def untraceable_methods() -> Mapping[str, str]:
    """Methods that no trace can be of, and what PEFT or torch raises."""
    return {n: row["untraceable"] for n, row in _table().items() if "untraceable" in row}


@cache
def adapter_method(name: str) -> AdapterMethod:
    """Facts of the method that the option names."""
    row = _table()[name]
    own: dict[str, Any] = dict(part("adapters", name, "", "FEATURE") or {})
    without = own.pop("without", ())
    arguments: dict[str, Any] = dict(row["arguments"])
    spelled = {
        field: next((n for each in others if (n := each.format(name)) in arguments), "")
        for field, others in _OTHER_NAMES.items()
        if field not in without
    }
    title = row["config"].removesuffix("Config").replace("Lora", "LoRA").replace("lora", "LoRA")
    idle = [*without, *(field for field, argument in spelled.items() if not argument)]
    idle += [] if name == "lora" else _KERNELS
    facts: dict[str, Any] = {
        "title": _TITLES.get(name, title),
        "config": row["config"],
        "idle": tuple(idle),
        "adapts": frozenset(row["adapts"]),
        "spelled": {field: argument for field, argument in spelled.items() if argument},
        "arguments": {n: v for n, v in arguments.items() if n not in spelled.values()},
        "targets": {
            model_type: tuple(found) if isinstance(found, list) else found
            for model_type, found in {**_table()["lora"]["targets"], **row["targets"]}.items()
            if found is not None
        },
        "matrices": name == "lora",
        "has_rules": name == "lora" or name in names("adapters"),
        "on_quantized": row["on_quantized"] or name in names("adapters"),
        "size": "alpha {0.alpha:g}, " if name == "lora" else "",
    }
    return AdapterMethod(**{**facts, **own})


def config_defaults(name: str) -> Mapping[str, Any]:
    """Every argument of the method's config class but its targets and modules to save."""
    arguments: Mapping[str, Any] = _table()[name]["arguments"]
    return arguments


def all_methods() -> Mapping[str, AdapterMethod]:
    """By the option's value, LoRA first."""
    return {name: adapter_method(name) for name in traced_methods()}


def of_method(name: str, needed: str) -> Any:
    """What the file of a method calls `needed`; None where it has none."""
    return part("adapters", name, "", needed)
