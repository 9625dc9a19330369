"""Which weights PEFT adapts for given target modules, and with what shapes; where PEFT refuses,
why; and the modules of which it trains a full copy.

A replay of PEFT 0.21.2 on module names, without PEFT: `tuners/tuners_utils.py` (`inject_adapter`,
`_inject_parameters`), `tuners/lora/layer.py` (shapes), `tuners/{vera,ia3,oft}/model.py` (which
modules those take). `tests/question/test_adapters.py` compares it with the real thing.

Not modelled, and refused: LoRA on a tied embedding or head, on grouped convolutions and on
`nn.MultiheadAttention`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from typing import NamedTuple

from lora_profiler.question.adapter_method import adapter_method, of_method
from lora_profiler.question.adapters.targets import (
    MAMBA_TYPES,
    NOT_OF_MAMBA,
    TRANSPOSED_EXPERTS,
    Targets,
    all_names,
    containers,
    outer_containers,
    refuse,
    resolve,
    suggestion,
)
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module, Weight
from lora_profiler.question.workload import LoraConfig

_CONVOLUTIONS = frozenset({"Conv1d", "Conv2d", "Conv3d"})


class Adapter(NamedTuple):
    """What PEFT puts beside one weight: LoRA's pair A, B, of which `rank` and the shapes speak, or
    what another method has there.

    `module` is the full name of the module, `kind` its class; `parameter` is None where PEFT wraps
    the module, else the local name of the bare parameter that it wraps. `num_experts` > 1 for
    packed experts, which share one A and one B of that many ranks; `rank_factor` is 2 where gate
    and up are fused in one parameter. `kernel` is that of a convolution. `scales_input` tells of
    IA3 that its vector is as long as the layer's input.
    """

    module: str
    parameter: str | None
    kind: str
    in_features: int
    out_features: int
    num_experts: int = 1
    rank_factor: int = 1
    kernel: tuple[int, ...] = ()
    scales_input: bool = False

    def rank(self, r: int) -> int:
        """Rows of A and columns of B at rank `r`."""
        return r * self.rank_factor * self.num_experts

    def a_shape(self, r: int) -> tuple[int, ...]:
        """(rank, in): lora_A's weight, or lora_embedding_A, whose inputs are the embedding's
        rows."""
        return (self.rank(r), self.in_features, *self.kernel)

    def b_shape(self, r: int) -> tuple[int, ...]:
        """(out, rank): lora_B's weight, or lora_embedding_B."""
        return (self.out_features, self.rank(r), *(1 for _ in self.kernel))

    def under(self, prefix: str) -> "Adapter":
        """The same adapter of the module whose name `module` is within `prefix`."""
        return self._replace(module=prefix + self.module)

    def num_parameters(self, r: int) -> int:
        return self.rank(r) * (self.in_features * prod(self.kernel) + self.out_features)


def adapters(spec: ModelSpec, lora: LoraConfig) -> tuple[Adapter, ...]:
    """What PEFT adds to the model for this LoraConfig, in the order of `named_modules()`.

    Raises RefusedTargetsError where PEFT would raise, with its reason and a suggestion.
    """
    targets = resolve(spec, lora)
    own = of_method(lora.peft_type, "feedforward_names")
    feedforward = own(spec, lora) if own else ()
    if any(c.isdigit() for name in feedforward for c in name):
        targets = targets._replace(alike=False)
    if not targets.all_linear:
        _check_containers(spec, lora, targets)
    tied = _tied(spec)

    def hits(prefix: str, modules: Iterable[Module]) -> Iterator[Adapter]:
        return _hits(spec, lora, targets, feedforward, prefix, modules, tied)

    in_order: list[Adapter] = []
    for part in spec.parts:
        if isinstance(part, Module):
            in_order += hits("", (part,))
        elif targets.alike:
            kinds = [list(hits(f"{part.name}.0.", kind)) for kind in part.kinds]
            in_order += [
                hit.under(f"{part.name}.{i}.")
                for i, kind in enumerate(part.order)
                for hit in kinds[kind]
            ]
        else:
            for i, kind in enumerate(part.order):
                prefix = f"{part.name}.{i}."
                in_order += [hit.under(prefix) for hit in hits(prefix, part.kinds[kind])]
    if not in_order:
        _refuse_empty(spec, lora, targets)
    named = Targets(parameters=frozenset(lora.target_parameters))
    if named.parameters and not any(
        named.matches_parameter(f"{a.module}.{a.parameter}") for a in in_order
    ):
        refuse(
            f"no parameter of {spec.id} ends in {', '.join(lora.target_parameters)}; PEFT would"
            f" train"
            " --targets only. Leave it out, or name another.",
            None,
        )
    return tuple(in_order)


def _hits(
    spec: ModelSpec,
    lora: LoraConfig,
    targets: Targets,
    feedforward: tuple[str, ...],
    prefix: str,
    modules: Iterable[Module],
    tied: frozenset[str],
) -> Iterator[Adapter]:
    """The adapters of one layer, named within the layer, or of one module outside the layers."""
    for module in modules:
        key = prefix + module.name
        if targets.all_linear:
            hit = (
                module.is_linear and key != spec.output_embedding and not targets.saved.covers(key)
            )
        else:
            hit = targets.matches(key)
        if hit:
            _check_module(spec, lora, key, module, tied)
            yield _of_module(module)._replace(scales_input=key.endswith(feedforward))
        if targets.parameters:
            for weight in module.weights:
                if targets.matches_parameter(f"{key}.{weight.name}"):
                    _check_parameter(key, module, weight, lora, is_adapted=hit)
                    yield _of_parameter(spec, module, weight, targets)


def _of_module(module: Module) -> Adapter:
    shape = module.weight("weight").shape
    if module.kind == "Linear":
        return Adapter(module.name, None, module.kind, shape[1], shape[0])
    if module.kind in _CONVOLUTIONS:
        return Adapter(module.name, None, module.kind, shape[1], shape[0], kernel=shape[2:])
    return Adapter(
        module.name, None, module.kind, shape[0], shape[1]
    )  # Conv1D: (in, out); Embedding: (rows, columns)


def _of_parameter(spec: ModelSpec, module: Module, weight: Weight, targets: Targets) -> Adapter:
    """peft's ParamWrapper: (experts, out, in) packed experts, (experts, in, out) where they say so
    themselves, or (out, in)."""
    *experts, out_features, in_features = weight.shape
    if experts and spec.model_type in TRANSPOSED_EXPERTS:
        in_features, out_features = out_features, in_features
    factor = 2 if targets.fused and weight.name == "gate_up_proj" else 1
    return Adapter(
        module.name, weight.name, module.kind, in_features, out_features, prod(experts), factor
    )


def _check_module(
    spec: ModelSpec, lora: LoraConfig, key: str, module: Module, tied: frozenset[str]
) -> None:
    leaf, kind = key.rsplit(".", 1)[-1], lora.peft_type
    is_mamba = kind == "lora" and spec.model_type in MAMBA_TYPES
    if is_mamba and leaf in NOT_OF_MAMBA:
        refuse(f"PEFT does not adapt {leaf} of Mamba models ({key}). Leave it out.", "ValueError")
    if module.kind == "MultiheadAttention":
        refuse(
            f"{key} is an nn.MultiheadAttention, which is not modelled here. Leave it out.", None
        )
    if module.kind not in adapter_method(kind).adapts:
        if kind != "lora":
            words = f" by {lora.method_name}. Leave it out, or take another --peft-type."
        else:
            words = "." + suggestion(spec, ())
        refuse(
            f"{key} is a {module.kind}, which PEFT cannot adapt{words}", adapter_method(kind).error
        )
    if kind != "lora" and not module.is_linear:
        refuse(
            f"{key} is a {module.kind}, on which {lora.method_name} is not modelled here. Leave it"
            " out.",
            None,
        )
    weight = module.weight("weight")
    if module.kind in _CONVOLUTIONS and weight.shape[1] == 1 < weight.shape[0]:
        refuse(f"{key} is a grouped convolution, which is not modelled here. Leave it out.", None)
    if weight.tied_to or f"{key}.weight" in tied:
        refuse(
            f"{key} shares its weight with another module (tied embeddings); LoRA there would untie"
            " them and is not modelled. Leave it out, or name it in modules to save.",
            None,
        )


def _check_parameter(
    key: str, module: Module, weight: Weight, lora: LoraConfig, *, is_adapted: bool
) -> None:
    if is_adapted:
        refuse(
            f"PEFT wraps no parameter of a layer that is a target too ({key}.{weight.name}): leave"
            " it out of --target-parameters.",
            "ValueError",
        )
    if module.kind in adapter_method("lora").adapts:
        refuse(
            f"{key}.{weight.name} is a {module.kind}'s; adapters on it as a bare parameter are not"
            " modelled here. Name the layer in --targets.",
            None,
        )
    if lora.lora_dropout:
        refuse(
            f"PEFT cannot apply dropout to adapters on bare parameters ({key}.{weight.name}): set"
            " dropout to 0, or leave the experts and the router out.",
            "ValueError",
        )
    if len(weight.shape) not in (2, 3):
        refuse(
            f"{key}.{weight.name} has {len(weight.shape)} dimensions; PEFT adapts parameters of 2"
            " or 3.",
            "ValueError",
        )


def _check_containers(spec: ModelSpec, lora: LoraConfig, targets: Targets) -> None:
    """PEFT refuses as soon as a target matches a module that is no single layer, such as a whole
    MLP or an activation."""
    keys = outer_containers(spec)
    loose = list(spec.weightless)
    for part in spec.parts:
        if isinstance(part, LayerStack):
            start = f"{part.name}.*."
            inner = {name: None for kind in part.kinds for name in containers(kind)}
            inner |= {name.removeprefix(start): None for name in loose if name.startswith(start)}
            loose = [name for name in loose if not name.startswith(start)]
            for i in range(1 if targets.alike else len(part.order)):
                keys += [f"{part.name}.{i}", *(f"{part.name}.{i}.{name}" for name in inner)]
    keys += loose
    for key in keys:
        if targets.matches(key):
            refuse(
                f"{key} is not a linear layer; PEFT refuses targets that match it."
                + suggestion(spec, (key,)),
                adapter_method(lora.peft_type).error,
            )


def _tied(spec: ModelSpec) -> frozenset[str]:
    """Full names of the weights that other modules share."""
    return frozenset(
        weight.tied_to
        for part in spec.parts
        for modules in (part.kinds if isinstance(part, LayerStack) else ((part,),))
        for module in modules
        for weight in module.weights
        if weight.tied_to
    )


def _refuse_empty(spec: ModelSpec, lora: LoraConfig, targets: Targets) -> None:
    requested = lora.target_modules
    if requested is None and not targets.names:
        message = (
            f"PEFT has no default target modules for {spec.model_type} with packed experts."
            + suggestion(spec, ())
        )
    elif lora.modules_to_save:
        message = (
            "nothing is left to adapt; every target is missing or in --modules-to-save."
            + suggestion(spec, ())
        )
    else:
        names = (
            (requested,)
            if isinstance(requested, str)
            else tuple(requested or sorted(targets.names))
        )
        where = (
            f" in layers {', '.join(map(str, lora.layers_to_transform))}"
            if lora.layers_to_transform
            else ""
        )
        message = f"No module of {spec.id} matches {', '.join(names)}{where}." + suggestion(
            spec, names
        )
    refuse(message, adapter_method(lora.peft_type).empty_error)


# --- saved ----------------------------------------------------------------------------------------


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
    lists = {part.name for part in spec.parts if isinstance(part, LayerStack)}
    for name in all_names(spec):
        parent, _, leaf = name.rpartition(".")
        if leaf.isdigit():
            lists.add(parent)
    return lists
