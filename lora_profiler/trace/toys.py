"""Small models of a type, with unrelated sizes, that are alike in all facts: what laws are fitted
through and checked at."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any
from zlib import crc32

from lora_profiler.errors import ModelNotFoundError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.facts.catalog.config import spelled_today
from lora_profiler.memory.compiled.law import (
    facts_of,
    fields_of,
    is_open_float,
    kinds_of,
    outside_vocabulary,
    placeholders,
    repeated,
    role_of,
    sizes_of,
    stacks_of,
)
from lora_profiler.memory.compiled.profile import Regime
from lora_profiler.memory.compiled.regime import windows_of
from lora_profiler.memory.compiled.tape import Layout
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.trace.modeling.build import filled_config

# --- toys -----------------------------------------------------------------------------------------

FITTED, TOYS, ATTEMPTS = 4, 6, 3
"""How many laws are fitted through, how many there are, and how often one is drawn."""
_HEADS = ((24, 8, 16, 40, 32, 48), (16, 8, 32, 64, 16, 32))
_GROUPS = ((2, 2, 4, 5, 4, 3), (4, 2, 4, 2, 4, 2))
"""Heads, and heads that share keys; the second rows have powers of two alone. Keys of all heads
are so wide that states of usual adapters come in blocks."""
_WIDTHS = ((64, 88, 72, 104, 80, 96), (80, 160, 120, 240, 200, 40), (136, 88, 72, 104, 80, 96))
"""Of a head; the second row where a fraction of it is turned, the third where so many columns."""
_HIDDEN = (960, 1088, 640, 1280, 1152, 672)
_EXPERTS, _CHOSEN = (16, 24, 48, 40, 32, 56), (2, 4, 3, 5, 3, 6)
_WINDOWS = (32, 24, 40, 16, 48, 20)
_VOCABULARIES = (7001, 5003, 9007, 11003, 8009, 6007)


def toys(model: ModelSpec, regime: Regime) -> Iterator[list[ModelSpec]]:
    """Sets of toys as deep as `model`, the most general ones first: with a hidden size of its own,
    then with that of all heads side by side, then with what is a multiple of it in the model being
    so in all. Only sets whose every model has the facts of `model` and differs from the others in
    every size."""
    for freedom in (2, 1, 0):
        try:
            made = [_alike(model, regime, number, freedom) for number in range(TOYS)]
        except ModelNotFoundError:
            continue
        alike = [toy for toy in made if toy is not None]
        if len(alike) == TOYS and not unvaried(alike):
            yield alike


def _alike(model: ModelSpec, regime: Regime, number: int, freedom: int) -> ModelSpec | None:
    """A toy with the facts of `model`, if there is one: a size that is drawn may happen to be a
    number that is none."""
    drawn = (_toy(model, regime, number, attempt, freedom) for attempt in range(ATTEMPTS))
    return next((toy for toy in drawn if facts_of(toy) == facts_of(model)), None)


def unvaried(made: list[ModelSpec]) -> list[str]:
    """Sizes that are the same in all toys."""
    return [
        name for name in sizes_of(made[0]) if len({sizes_of(toy).get(name) for toy in made}) == 1
    ]


def _toy(model: ModelSpec, regime: Regime, number: int, attempt: int, freedom: int) -> ModelSpec:
    raw = deepcopy(dict(model.published))
    raw.setdefault("model_type", model.model_type)
    raw.setdefault("architectures", [model.architecture])
    language = raw.get("text_config", raw)
    whole = filled_config(model)
    filled = whole.get("text_config", whole)
    today = spelled_today(str(language.get("model_type", model.model_type)))
    if filled.get("head_dim") != fields_of(model).get("head_dim"):  # the class works it out
        filled = {name: value for name, value in filled.items() if name != "head_dim"}
    takes = {today.get(name, name) for name, value in filled.items() if value is not None}
    freedom = min(freedom, 2 if "head_dim" in takes else 1)
    sizes = _sizes(model, regime, number, attempt, freedom)
    for name, value in {**filled, **language}.items():
        if type(value) is int and value > 1 and today.get(name, name) in sizes:
            language[name] = sizes[today.get(name, name)]
        elif type(value) is float and name in language and is_open_float(name, value):
            language[name] = value * (1 + (number + 1) / 16)
        elif name.endswith("token_id") and type(value) is int:
            language[name] = 1
    rope = language.get("rope_parameters", {})
    if "mrope_section" in rope and not rope.get("mrope_interleaved"):
        angles = int(sizes["head_dim"] * rope.get("partial_rotary_factor", 1.0)) // 2
        time, height = angles // 4, angles * 3 // 8
        rope["mrope_section"] = [time, height, angles - time - height]
    outside = outside_vocabulary(model, whole)
    raw |= {name: 1 for name in placeholders(whole) if name not in outside}  # others: a default
    return model_from_config(raw, id=f"toy {number} of {model.model_type}", source="toy")


def _sizes(
    model: ModelSpec, regime: Regime, number: int, attempt: int, freedom: int
) -> dict[str, int]:
    """By field. Fields that are equal in the model are so in a toy where they have one role."""
    known, fields = sizes_of(model), fields_of(model)
    by_role = {name: role_of(name) for name in known}

    def first(role: str) -> int:
        return next((value for name, value in known.items() if by_role[name] == role), 0)

    base_heads, base_hidden = first("heads"), first("hidden")
    powers = int(base_heads & (base_heads - 1) == 0)
    fraction = fields.get("partial_rotary_factor", 1.0)
    turned = 2 if "rotary_dim" in fields else int(fraction != 1.0)
    heads, width = _HEADS[powers][number], _WIDTHS[turned][number]
    hidden = _HIDDEN[number] if freedom == 2 else heads * width
    filled = dict(zip(windows_of(model), regime.windows_filled, strict=True))

    def drawn(name: str, least: int, most: int) -> int:
        """A multiple of 8, and in every second toy of no larger power of two: what comes in blocks
        is seen to be rounded up."""
        seed = f"{name} {number}{' again' * attempt}"
        times = least + crc32(seed.encode()) % (most - least)
        return 8 * (times + (times + number) % 2)

    def size(name: str, value: int) -> int:
        match by_role[name]:
            case "heads":
                return heads if value == base_heads else _HEADS[powers][(number + 1) % TOYS]
            case "key_heads":
                return heads if value == base_heads else heads // _GROUPS[powers][number]
            case "head_width":
                return width if name == "head_dim" else width + drawn(name, 1, 8)
            case "hidden":
                return hidden if value == base_hidden else drawn(name, 40, 120)
            case "experts":
                return _EXPERTS[number]
            case "chosen":
                return _CHOSEN[number]
            case "window":
                return _WINDOWS[number] if filled.get(value) else max(value, 512) + 64 * number
            case "positions":
                return drawn(name, 65, 160)
            case "vocabulary":
                return _VOCABULARIES[number]
        if not freedom and base_hidden and value % base_hidden == 0:
            return value // base_hidden * hidden
        return drawn(name, 2, 16) if value < 512 else drawn(name, 60, 400)

    return _of_one_width(fields, {name: size(name, value) for name, value in known.items()})


def _of_one_width(fields: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes, where as many heads of linear attention share a key as in the model, and heads of a
    state space are as wide together as it is, and as the hidden state times what it is expanded
    by, if they are so in the model."""
    made = dict(sizes)
    if "linear_num_key_heads" in made:
        shared = fields["linear_num_value_heads"] // fields["linear_num_key_heads"]
        made["linear_num_key_heads"] = made["linear_num_value_heads"] // shared
        made["linear_num_value_heads"] = made["linear_num_key_heads"] * shared
    heads = next((n for n in made if n in ("mamba_n_heads", "mamba_num_heads")), None)
    width = fields.get("mamba_d_head") or fields.get("mamba_head_dim")
    expand = fields.get("mamba_expand") or fields.get("expand")
    if heads is None or type(width) is not int:
        return made
    inner = fields[heads] * width
    if expand and fields["hidden_size"] * expand == inner:
        made[heads] = made["hidden_size"] * expand // width
    return made | {n: made[heads] * width for n in ("mamba_d_ssm",) if fields.get(n) == inner}


# --- how layers repeat ----------------------------------------------------------------------------

_DEPTHS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    *("num_decoder_layers", "encoder_layers", "decoder_layers"),
)


def layout_of(model: ModelSpec) -> Layout | None:
    """The units of the stacks that are as deep as the model: the shortest period that repeats from
    some layer on. None where a full trace is due: no such stack, too few layers, or layers that do
    not repeat. A guess from shapes and the config, as published and as transformers fills it in;
    the compiler checks it. Raises UnbuildableError as `filled_config` does.
    """
    stacks = stacks_of(model)
    found = repeated(kinds_of(model, [filled_config(model)])) if stacks else None
    return None if found is None else Layout(tuple(stack.name for stack in stacks), *found)


def at_depth(model: ModelSpec, layers: int) -> ModelSpec:
    """The same model with `layers` layers: its first ones, and where it has fewer, more that go on
    as the last ones do."""
    published = deepcopy(dict(model.published))
    published.pop(
        "quantization_config", None
    )  # of a checkpoint in NF4, whose list of names need not fit another depth
    published.setdefault("model_type", model.model_type)
    published.setdefault("architectures", [model.architecture])
    layout = layout_of(model)

    def cut(raw: dict[str, Any]) -> ModelSpec:
        _cut(raw, model.num_layers, layers, layout.period if layout else 1)
        return model_from_config(raw, id=f"{model.id} x {layers}", source="cut")

    try:
        return cut(deepcopy(published))
    except ModelNotFoundError:  # GPT-Neo's config.json may tell its layers in another way
        lists = {n: v for n, v in filled_config(model).items() if isinstance(v, list)}
        return cut(lists | published)


def _cut(config: dict[str, Any], depth: int, layers: int, period: int) -> None:
    for name, value in config.items():
        if isinstance(value, dict):
            _cut(value, depth, layers, period)
        elif name in _DEPTHS and value == depth:
            config[name] = layers
        elif isinstance(value, list) and len(value) == depth:
            more = [value[depth - period + i % period] for i in range(layers - depth)]
            config[name] = value[:layers] + more
