"""`modules_to_save`: the modules of which PEFT trains a full copy beside the frozen original.

Source: peft 0.21.2, `utils/other.py` (`_set_trainable`, `AuxiliaryTrainingWrapper.check_module`).
Names match by plain `endswith`, not by whole parts as targets do: "norm" takes every layer norm
too. The copy keeps the base weights' dtype.
"""

from dataclasses import replace

from lora_profiler.adapters.matching import adapters
from lora_profiler.adapters.targets import all_names, refuse
from lora_profiler.model_spec import ModelSpec, Module, Stack
from lora_profiler.workload import LoraConfig

_INSIDE_ADAPTERS = (
    "base_layer",
    "lora_A",
    "lora_B",
    "lora_dropout",
    "lora_embedding_A",
    "lora_embedding_B",
    "default",
    *("vera_dropout", "vera_lambda_b", "vera_lambda_d", "ia3_l", "oft_R", "oft_dropout"),
)


def saved_modules(spec: ModelSpec, lora: LoraConfig) -> tuple[tuple[str, Module], ...]:
    """(full name, module) of the full trainable copies that `lora.modules_to_save` asks for, in the
    order of `named_modules()`.

    Weights of the copies are their own, tied ones untied. Names that match nothing are skipped, as
    PEFT does.

    Raises RefusedTargetsError where PEFT would: a list of layers, or a module that an adapter
    already wraps.
    """
    names = lora.modules_to_save
    if not names:
        return ()
    if any(inner.endswith(names) for inner in _INSIDE_ADAPTERS):
        refuse(
            f"modules to save {', '.join(names)} would match the inside of the adapters. Name a"
            " module of the model.",
            None,
        )
    adapted = {adapter.module for adapter in adapters(spec, lora)}
    roots = {key for key in all_names(spec) if key.endswith(names)}
    lists = _module_lists(spec)
    for key in sorted(roots):
        if key in lists:
            refuse(
                f"{key} is a list of layers; PEFT cannot save it as a module. Name what it holds.",
                "TypeError",
            )
        if key in adapted:
            refuse(
                f"{key} is adapted by LoRA already; PEFT cannot save it as well. Name it in one of"
                " the two.",
                "TypeError",
            )
        if any(module.startswith(f"{key}.") for module in adapted):
            refuse(
                f"{key} holds adapted modules; a trainable copy of both is not modelled. Name it in"
                " one of the two.",
                None,
            )
    copies = []
    for name, module in spec.modules():
        if name in roots or any(name.startswith(f"{root}.") for root in roots):
            copies.append(
                (
                    name,
                    replace(
                        module,
                        weights=tuple(replace(weight, tied_to=None) for weight in module.weights),
                    ),
                )
            )
    return tuple(copies)


def _module_lists(spec: ModelSpec) -> set[str]:
    """Names of all lists of layers: the stacks, and what holds children with a number for a
    name."""
    lists = {part.name for part in spec.parts if isinstance(part, Stack)}
    for name in all_names(spec):
        parent, _, leaf = name.rpartition(".")
        if leaf.isdigit():
            lists.add(parent)
    return lists
