"""Laws of a type: a profile whose polynomials are over monomials of the model's own sizes, so that
one answers for every model of its type, also for one that nobody has traced.

A config has sizes, which are left open, and facts, which are not: flags, names, small counts,
factors that scale a size. Facts are part of a law's key, as are the modules with their ties. What a
size of a tensor is made of are factors: sizes of the config, widths of the model's weights, blocks
of a weight that share a scale. Factors that were equal in all models that a law was made of share
one number in it, and must be equal in any model that it answers.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

from lora_profiler._common.polynomial import Exponents, Polynomial, rounded_up
from lora_profiler.facts.catalog.config import class_defaults
from lora_profiler.memory.compiled.profile import (
    Law,
    Measure,
    Profile,
    Regime,
    identity_of,
    profile_key,
)
from lora_profiler.memory.compiled.regime import kernel_choice, valid_sizes, windows_of
from lora_profiler.memory.compiled.tape import LEAST_UNITS, Affine, Layout, ModuleNumber
from lora_profiler.question.adapters import adapters
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module
from lora_profiler.question.optimizer import QUANTISED_FROM_NUMEL, STATE_BLOCK
from lora_profiler.question.support.losses import LossBytes
from lora_profiler.question.workload import TrainSetup, Workload

_SCALAR_BYTES = 4
"""Of the loss and its gradient, which a tape has apart from what backward holds, and of the
gradient of what is divided by the number of micro-batches, which no more is there."""
ROLES: Mapping[str, str] = {
    "heads": r"num_attention_heads|n_heads?|num_heads|n_head|(en|de)coder_attention_heads",
    "key_heads": r"num_key_value_heads|num_kv_heads|n_head_kv",
    "state_keys": r"linear_num_key_heads",
    "head_width": r"head_dim|kv_channels|\w+_head_dim|d_kv",
    "hidden": r"hidden_size|d_model|n_embd|d_embed",
    "experts": r"(num|n)_(local_|routed_)?experts|moe_num_experts",
    "chosen": r"num_experts_per_tok(en)?|moe_k|moe_topk|top_k|experts_per_token",
    "window": r"sliding_window|attention_chunk_size|window_size|local_attention|index_topk",
    "positions": r"max_(position_embeddings|(source|target)_positions)|n_positions|max_seq_len"
    r"|n_ctx",
    "vocabulary": r"vocab_size",
    "inner": r"\w*(intermediate|ffn|d_ff|n_inner)\w*(size|dim|inner|ff|mlp)",
}
"""What a field of a config is the size of, by its name."""
_COUNTS = re.compile(
    r"token|_id$|version|layer|dtype|freq|interval|every|period|seed|offset|groups?$|kernel|conv"
    r"|chunk|mamba_(d_head|head_dim|d_state)|n_shared|num_shared|multiple|type_vocab|num_labels"
)
"""Names of numbers that are no sizes, though one may happen to be as large as some weight."""
_PLACEHOLDER = re.compile(r"(image|video|audio|speech|vision)\w*_token_(id|index)")
_TOWER = re.compile(r"\b(visual|vision\w*|audio\w*)\.")
"""Where a model sees or hears: no part of its depth, though it may be as deep."""
_FRACTIONS = re.compile(r"factor|pct|ratio|multiplier_ffn|partial")
_IGNORED = re.compile(
    r"rope_parameters\..*(theta|factor|beta|mscale|freq|position|truncate).*|num_hidden_layers|n_layer|"
    r"num_(decoder_)?layers|(en|de)coder_layers|"
    r"max_window_layers|num_mtp_layers|\w*token_id|transformers_version|_name_or_path|"
    r"query_pre_attn_scalar|floor_scale|architectures|auto_map|(torch_)?dtype|use_cache|model_type|"
    r"quantization_config"
)
"""Fields on which no storage depends, or that other parts of a key tell: the layers by their
kinds."""
_SECTIONS = "rope_parameters.mrope_section"
"""How many of a head's angles turn by time, height and width: all of them, where these lie one
after another; interleaved ones are as many as the config has, whatever the head's width."""
_IN_PLACE_OF_SIZE = frozenset({0.0, 1.0})
"""Floats that turn something off."""
_BLOCKS = (64, 64 * 256)
"""Weights that share a scale of NF4, and as many as share a scale of scales."""


class NotOfLawError(Exception):
    """The model lies outside a law's range; the text says why."""


def role_of(name: str) -> str | None:
    return next((role for role, names in ROLES.items() if re.fullmatch(names, name)), None)


# --- a model's sizes and facts --------------------------------------------------------------------


def fields_of(model: ModelSpec) -> dict[str, Any]:
    """Every field of the language model's config, nested ones as "outer.inner"; of a type that the
    catalogue does not know those of the file."""
    language = model.published.get("text_config") or model.published
    is_known = bool(class_defaults(str(language.get("model_type", model.model_type)))["fields"])
    return dict(_flat(model.config if is_known else {**language, **model.config}))


def _flat(config: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield f"{head}{name}", value


@lru_cache(maxsize=64)
def sizes_of(model: ModelSpec) -> dict[str, int]:
    """The fields of the config that a law leaves open."""
    widths = {d for _, module in model.modules() for w in module.weights for d in w.shape}
    return {
        name: value
        for name, value in fields_of(model).items()
        if type(value) is int
        and value > 1
        and not _IGNORED.fullmatch(name)
        and (role_of(name) or (value in widths and not _COUNTS.search(name)))
    }


@lru_cache(maxsize=64)
def facts_of(model: ModelSpec) -> str:
    """All that a law does not leave open of a model, as text to compare and hash."""
    layout, sizes, platform = repeated(kinds_of(model)), sizes_of(model), Platform()
    fields = fields_of(model)
    heads, keys = (
        next((n for f, n in sizes.items() if role_of(f) == role), 0)
        for role in ("heads", "key_heads")
    )
    flags = {
        name: _in_units(value, model.num_layers, layout)
        for name, value in fields.items()
        if not (name in sizes or _IGNORED.fullmatch(name) or is_open_float(name, value))
        and value is not None
    }
    if not fields.get("rope_parameters.mrope_interleaved"):
        flags.pop(_SECTIONS, None)
    facts = {
        "type": model.model_type,
        "flags": flags,
        "layout": layout,
        "parts": list(_parts(model, layout)),
        "head": model.output_embedding,
        "weightless": model.weightless,
        "kernels": kernel_choice(Workload(model=replace(model, stored=None)), platform),
        "one_key_head": heads == keys,
        "uneven": [n for n, v in sorted(sizes.items()) if role_of(n) == "head_width" and v % 8],
        "power_of_two": _has_slopes(model) and heads & (heads - 1) == 0,
    }
    if of_state := fields.get("linear_num_key_heads"):
        facts["heads_per_state_key"] = fields["linear_num_value_heads"] // of_state
    if outside := outside_vocabulary(model, model.published):
        facts["outside_vocabulary"] = outside
    return json.dumps(facts, sort_keys=True)


def outside_vocabulary(model: ModelSpec, config: Mapping[str, Any]) -> list[str]:
    """The tokens of a config that stand for images and the like and have no row in the embedding:
    the model's own forward pass then looks for them. Defaults, which bundled configs leave out,
    have one."""
    vocabulary = model.config.get("vocab_size") or 0
    return [name for name, value in placeholders(config).items() if value >= vocabulary]


def placeholders(config: Mapping[str, Any]) -> dict[str, int]:
    return {
        name: value
        for name, value in config.items()
        if _PLACEHOLDER.fullmatch(name) and type(value) is int
    }


def is_open_float(name: str, value: object) -> bool:
    return type(value) is float and value not in _IN_PLACE_OF_SIZE and not _FRACTIONS.search(name)


def _has_slopes(model: ModelSpec) -> bool:
    """Whether attention takes ALiBi, whose slopes are made otherwise where heads are a power of
    two."""
    return model.model_type in ("bloom", "mpt") or bool(model.config.get("alibi"))


def _parts(model: ModelSpec, layout: tuple[int, int, int] | None) -> Iterator[Any]:
    """Names, kinds and ties of all modules; of a stack those of the layers that repeat."""

    def shown(module: Module) -> Any:
        return module.name, module.kind, [(w.name, len(w.shape), w.tied_to) for w in module.weights]

    for part in model.parts:
        if isinstance(part, Module):
            yield shown(part)
        else:
            order = _in_units(part.order, model.num_layers, layout)
            yield part.name, [[shown(module) for module in part.kinds[kind]] for kind in order]


def _in_units(value: Any, depth: int, layout: tuple[int, int, int] | None) -> Any:
    """Of a list with an entry a layer, those that repeat."""
    if layout is None or not isinstance(value, list | tuple) or len(value) != depth:
        return value
    prefix, period, tail = layout
    return [*value[: prefix + period], *value[len(value) - tail :]]


def kinds_of(model: ModelSpec, more: Sequence[Mapping[str, Any]] = ()) -> Sequence[tuple[Any, ...]]:
    """What tells one layer of the model's stack from another: its weights, and what lists with an
    entry a layer say, of the config and of `more`. Empty where no stack is as deep as the model."""
    depth = model.num_layers
    lists = [each for c in (model.published, model.config, *more) for each in _lists(c, depth)]
    orders = [stack.order for stack in stacks_of(model)]
    return list(zip(*orders, *(map(str, values) for values in lists), strict=True))


def stacks_of(model: ModelSpec) -> list[LayerStack]:
    """Those that are as deep as the model: one, or an encoder and a decoder of one depth."""
    return [
        part
        for part in model.parts
        if isinstance(part, LayerStack)
        and len(part.order) == model.num_layers
        and not _TOWER.search(part.name)
    ]


def _lists(config: Mapping[str, Any], length: int) -> Iterator[Sequence[Any]]:
    for _, value in _flat(config):
        is_by_layer = isinstance(value, list | tuple) and len(value) == length
        if is_by_layer and list(value) != list(range(length)):  # that one names every layer
            yield value


MOST_PERIOD = 8


def repeated(kinds: Sequence[object]) -> tuple[int, int, int] | None:
    """(layers before, layers a unit, layers behind) of the shortest unit that repeats from some
    layer on; None where there are too few."""
    for period in range(1, MOST_PERIOD + 1):
        for prefix in range(MOST_PERIOD):
            body = kinds[prefix:]
            units, tail = divmod(len(body), period)
            if units >= LEAST_UNITS and all(
                kind == body[i % period] for i, kind in enumerate(body)
            ):
                return prefix, period, tail
    return None


def law_unsupported_reason(workload: Workload) -> str | None:
    """Why no law of a type can hold a setup: what flips with a model's sizes is not told by its
    facts."""
    setup, lora = workload.setup, workload.setup.lora
    has_blocks = setup.optimizer == "adamw_8bit" and lora is not None
    if not has_blocks and setup.optimizer not in ("adamw", "sgd"):
        return f"{setup.optimizer} may treat small tensors otherwise than large ones"
    if setup.lora is not None and (setup.lora.layers_to_transform or setup.lora.modules_to_save):
        return "adapters are on some layers alone"
    return None


def law_key(model: ModelSpec, setup: TrainSetup, regime: Regime) -> str:
    """The key of the law that answers a model with this setup."""
    narrow = narrow_states(model, setup, regime.rank)
    facts = facts_of(model) + (json.dumps(narrow) if narrow else "")
    return profile_key(model, setup, regime, facts)


def narrow_states(model: ModelSpec, setup: TrainSetup, rank: int | None) -> list[str]:
    """The matrices of adapters that are too small for states of 8 bits, of all layers together: a
    law holds for models where these are the same."""
    lora = setup.lora
    if setup.optimizer != "adamw_8bit" or lora is None or rank is None:
        return []
    return sorted(
        {
            f"{re.sub(r'[.][0-9]+[.]', '.N.', adapter.module)} {adapter.parameter} {matrix}"
            for adapter in adapters(model, lora)
            for matrix, shape in (("A", adapter.a_shape(rank)), ("B", adapter.b_shape(rank)))
            if prod(shape) < QUANTISED_FROM_NUMEL
        }
    )


def factors_of(model: ModelSpec, layout: Layout, rank: int | None = None) -> dict[str, int]:
    """All that a size can be a multiple of, by name; of the layers those of the first unit. `rank`:
    of adapters whose states come in blocks."""
    found = dict(sizes_of(model))
    if model.sound is not None:  # as long as the rows of sums that efficient attention keeps
        found["max_source_positions, whole 32"] = rounded_up(found["max_source_positions"], 32)
    for name, module in model.modules():
        if layout.first_like(name) != name:
            continue
        for weight in module.weights:
            full = f"{name}.{weight.name}"
            found |= {f"{full}[{i}]": d for i, d in enumerate(weight.shape)}
            if rank is not None:
                blocks = {i: -(-rank * d // STATE_BLOCK) for i, d in enumerate(weight.shape)}
                found |= {f"{full}[{i}] x {rank}/{STATE_BLOCK}": n for i, n in blocks.items()}
            if len(weight.shape) > 1:
                found |= {f"{full}/{block}": -(-weight.numel // block) for block in _BLOCKS}
    return found


# --- a law at a model's sizes ---------------------------------------------------------------------


OF_LOSS = ("loss, forward", "loss, kept", "loss, backward")
"""Factors that no model has: bytes of a loss that a law leaves open, born and gone in the forward
pass, kept from there to backward, and born and gone in backward beside what is kept."""


def values_of(
    law: Law, model: ModelSpec, layout: Layout, rank: int | None, loss: Sequence[int] = (1, 1, 1)
) -> tuple[int, ...]:
    """What each of the law's factors is in a model; `rank`: see `factors_of`; `loss`: those
    `OF_LOSS`. Raises NotOfLawError."""
    found = factors_of(model, layout, rank) | dict(zip(OF_LOSS, loss, strict=True))
    for name, constant in law.constants.items():
        if found.get(name, constant) != constant:
            raise NotOfLawError(f"{name} is {found[name]}, {constant} in the law")
    values: list[int] = []
    for i, names in enumerate(law.factors):
        known = {name: found[name] for name in names if name in found}  # a config may lack a field
        if len({*known.values()}) != 1 and (known or law.uses(i)):
            told = ", ".join(f"{name} ({value})" for name, value in [*known.items()][:6])
            raise NotOfLawError(f"the law cannot separate {told or names[0]}")
        values += {*known.values()} or {1}
    for one, other, p, q in law.ratios:
        if values[one] * q != values[other] * p:
            names = law.factors[one][0], law.factors[other][0]
            raise NotOfLawError(f"{names[0]} is not {p}/{q} of {names[1]}, as in the law")
    return tuple(values)


def measured(law: Law, values: Sequence[int]) -> Sequence[Measure]:
    """The law's monomials where its factors have the given values. Raises NotOfLawError where one
    is not whole."""
    measures: list[Measure] = []
    for factors, divisor, exponents in law.monomials:
        whole, rest = divmod(prod(values[i] for i in factors), divisor)
        if rest:
            names = ", ".join(law.factors[i][0] for i in factors)
            raise NotOfLawError(f"the product of {names} cannot be divided by {divisor}")
        measures.append({exponents: whole})
    return measures


def of_model(profile: Profile, model: ModelSpec, loss: LossBytes | None = None) -> Profile:
    """The profile of `model` that a law makes, with the bytes of a `loss` that it leaves open.
    Raises NotOfLawError where the law does not hold for it."""
    law, layout = profile.law, profile.layout
    assert law is not None and layout is not None
    _check_layers(model, layout)
    measures = measured(law, values_of(law, model, layout, profile.regime.rank))
    ahead, kept, back = _numbers_of_loss(law)
    more: dict[str, Sequence[ModuleNumber]] = {}
    in_turn: dict[int, tuple[Polynomial, ...]] = {}
    if loss is not None:
        measures = _with(measures, kept, loss.kept)
        head = model.output_embedding or ""
        of_phases = {"forward": loss.forward_flops, "backward": loss.backward_flops}
        more = {phase: [ModuleNumber(head, p, p, p)] for phase, p in of_phases.items()}
        kept_then = loss.kept + _SCALAR_BYTES * (2 + profile.regime.accumulates)
        for monomial, turns in (
            (ahead, loss.ahead),
            (back, [size - kept_then for size in loss.back]),
        ):
            for i, size in enumerate(profile.sizes):
                if any(number == monomial for number, *_ in size.terms):
                    in_turn[i] = tuple(
                        at_sizes(size, _with(measures, monomial, turn)) for turn in turns
                    )

    def polynomial(one: Polynomial) -> Polynomial:
        return at_sizes(one, measures)

    def affine(one: Affine) -> Affine:
        return Affine(polynomial(one.base), polynomial(one.per_unit))

    def numbers(some: Sequence[ModuleNumber]) -> tuple[ModuleNumber, ...]:
        return tuple(ModuleNumber(name, *map(polynomial, three)) for name, *three in some)

    regime, windows = profile.regime, windows_of(model)
    has_rank = profile.setup["method"] != "full"
    return replace(
        profile,
        law=None,
        model=identity_of(model),
        num_layers=model.num_layers,
        valid=valid_sizes(regime, windows, layout, model.num_layers, has_rank=has_rank),
        saved=affine(profile.saved),
        persistent={category: affine(line) for category, line in profile.persistent.items()},
        in_turn=in_turn,
        sizes=tuple(map(polynomial, profile.sizes)),
        flops={
            phase: (*numbers(some), *more.get(phase, ())) for phase, some in profile.flops.items()
        },
        trainable=numbers(profile.trainable),
    )


def _numbers_of_loss(law: Law) -> list[int | None]:
    """The monomials that are `OF_LOSS`."""
    places = {names[0]: i for i, names in enumerate(law.factors)}
    monomials = {one.factors: i for i, one in enumerate(law.monomials)}
    return [monomials.get((places.get(name, -1),)) for name in OF_LOSS]


def _with(measures: Sequence[Measure], number: int | None, size: Polynomial) -> Sequence[Measure]:
    return [size.terms if i == number else own for i, own in enumerate(measures)]


def _check_layers(model: ModelSpec, layout: Layout) -> None:
    stacks = stacks_of(model)
    if not stacks or layout.units_of(model.num_layers) is None:
        raise NotOfLawError(f"{model.num_layers} layers are no whole number of units")
    unit, body = layout.prefix + layout.period, model.num_layers - layout.tail
    for order, i in product((stack.order for stack in stacks), range(model.num_layers)):
        like = layout.prefix + (i - layout.prefix) % layout.period
        is_like = order[i] == order[like] if unit <= i < body else order[i] in order[:unit]
        if not is_like:
            raise NotOfLawError(f"layer {i} is not as the others of the type are")


def at_sizes(polynomial: Polynomial, measures: Sequence[Measure]) -> Polynomial:
    """A law's polynomial in batch, sequence and rank."""
    terms: dict[Exponents, int] = {}
    for (number, *_), coefficient in polynomial.terms.items():
        for exponents, times in measures[number].items():
            terms[exponents] = terms.get(exponents, 0) + coefficient * times
    return Polynomial(terms)
