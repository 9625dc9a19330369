"""What the rest of the package asks of an adapter method of PEFT. LoRA is here; every other one is
a file under `features/adapters/`."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from lora_profiler.question.feature import of_kind, part


class AdapterMethod(NamedTuple):
    """Facts of a method.

    title: as its papers write it. config: PEFT's class. idle: fields of `LoraConfig` that this
    class has no counterpart of. adapts: kinds of modules that it takes; PEFT raises `error` at
    another, and empty_error where it finds none. targets: its defaults by model type, where these
    are not LoRA's. formula: what trains, for `--explain`; size: what else than the rank sizes it,
    with {} for the setup's `lora`.

    matrices: what trains are matrices alone. shared: all layers share frozen matrices.
    """

    title: str
    config: str
    idle: tuple[str, ...]
    adapts: Collection[str]
    error: str = "ValueError"
    empty_error: str = "NoMatchingPeftModuleError"
    targets: Mapping[str, str | tuple[str, ...]] = {}
    formula: str = ""
    size: str = ""
    matrices: bool = True
    shared: bool = False


CORE: Mapping[str, AdapterMethod] = {
    "lora": AdapterMethod(
        title="LoRA",
        config="LoraConfig",
        idle=("feedforward_modules", "oft_block_size"),
        adapts=frozenset({"Linear", "Conv1D", "Embedding", "Conv1d", "Conv2d", "Conv3d"}),
        size="alpha {0.alpha:g}, ",
    )
}
OF_LORA = ("use_rslora", "use_dora", "fast_lora", "lora_kernels", "target_parameters")
"""Fields that other methods have no counterpart of."""


def adapter_method(name: str) -> AdapterMethod:
    """Facts of the method that the option names."""
    found: AdapterMethod = CORE.get(name) or part("adapters", name, "", "FEATURE")
    return found


def all_methods() -> Mapping[str, AdapterMethod]:
    """By the option's value, LoRA first."""
    return {**CORE, **of_kind("adapters")}


def of_method(name: str, needed: str) -> Any:
    """What the file of a method calls `needed`; None where it has none."""
    return part("adapters", name, "", needed)
