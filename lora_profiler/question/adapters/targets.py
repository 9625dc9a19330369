"""`target_modules` of a LoraConfig, resolved for one model as PEFT resolves them, with PEFT's own
tables as data: which names match, which parameters; and PEFT's refusals in this program's words.

Source: peft 0.21.2, `tuners/tuners_utils.py` (`check_target_module_exists`,
`_maybe_include_all_linear_layers`), `utils/transformers_weight_conversion.py`
(`_convert_peft_config_moe`), `tuners/lora/config.py`."""

import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, NoReturn

from lora_profiler.errors import TargetModulesError, UsageError, nearest
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module
from lora_profiler.question.option import PeftType
from lora_profiler.question.workload import LoraConfig

# --- regular expressions of a user ----------------------------------------------------------------

# Regular expressions of a user, matched in a process of their own with a limit: one can take
# Python's engine for ever.
#
# The engine stays Python's, as PEFT's is: another one, which knows a time limit, would not match
# the same names. Matching also holds the interpreter's lock, so that in this process not even a
# thread could end it, and a server would answer nobody.

PROCESSOR_SECONDS = 0.25
"""What a pattern may take for all names of a model. A usual one takes a microsecond a name, and a
large model has 50,000."""
_WALL_SECONDS = 10.0
"""Where the system limits no processor time, and where the machine is too busy to give any."""
_SHOWN = 80
_PROCESS = Path(__file__).with_name("pattern_process.py")
_TOO_LONG = (
    "takes more than {:g} s to match. Leave out repetition inside repetition, as in (.*)* or"
    " (a|aa)*, or list names instead."
)


class PatternMatch(NamedTuple):
    """The keys that a pattern matches, or why it is refused, as the end of a sentence about it."""

    keys: frozenset[str]
    problem: str | None = None


class UnmatchedError(Exception):
    """No verdict: the machine was too busy, or no process could be started. The message ends a
    sentence about the pattern."""


def verdict(pattern: str, keys: Sequence[str], *, whole: bool) -> PatternMatch:
    """Which `keys` the pattern matches: as `re.fullmatch` where `whole`, else as `re.match`. Raises
    UnmatchedError."""
    import signal
    import subprocess  # most answers have no pattern to match

    requested = json.dumps(
        {"pattern": pattern, "keys": keys, "whole": whole, "seconds": PROCESSOR_SECONDS}
    )
    command = [sys.executable, "-I", "-S", str(_PROCESS)]
    try:
        done = subprocess.run(
            command,
            input=requested,
            capture_output=True,
            text=True,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnmatchedError(_TOO_LONG.format(_WALL_SECONDS)) from None
    except OSError as e:
        raise UnmatchedError(
            f"could not be matched: no process could be started ({e.strerror})."
        ) from None
    if done.returncode == -getattr(signal, "SIGVTALRM", 0):
        return PatternMatch(frozenset(), _TOO_LONG.format(PROCESSOR_SECONDS))
    if done.returncode != 0:
        raise UnmatchedError(
            f"could not be matched: the process that tried ended with exit code {done.returncode}."
        )
    answer = json.loads(done.stdout)
    if "problem" in answer:
        return PatternMatch(frozenset(), f"is no regular expression: {answer['problem']}.")
    return PatternMatch(frozenset(keys[i] for i in answer["matched"]))


def shown(pattern: str) -> str:
    """The pattern in quotation marks, cut where it is long."""
    return repr(pattern if len(pattern) <= _SHOWN else f"{pattern[:_SHOWN]}...")


# --- targets --------------------------------------------------------------------------------------

MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
NOT_OF_MAMBA = ("out_proj", "conv1d")
"""tuners_utils.py, _check_lora_target_modules_mamba."""

_MIXTRAL = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
_QWEN = {
    "gate": "gate.weight",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "down_proj": "down_proj",
}
PACKED_EXPERTS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), _MIXTRAL),
    **dict.fromkeys(
        (
            *("Dots3NoteTextModel", "UnlimitedOcrTextModel", "afmoe", "beam", "cohere2_moe"),
            *("deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe"),
            *("flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa"),
            *("hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next"),
            *("qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "sarvam_mla"),
            *("solar_open",),
        ),
        _QWEN,
    ),
}
"""Model type -> old name of a projection -> the packed parameter that holds it now (transformers'
conversion_mapping)."""

TRANSPOSED_EXPERTS = frozenset({"aria", "aria_text", "gpt_oss", "openai_privacy_filter"})
"""Model types whose packed experts are (experts, in, out), as transformers 5.24 marks them
(use_experts_implementation, is_transposed), which PEFT asks."""

FUSED_PARAMETER = "gate_up_proj"
"""The packed parameter that two old names share; PEFT takes both of them or neither, and gives it
twice the rank."""


_LAYER_INDEX = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")
_LANGUAGE_MODEL = "language_model"
_NO_PATTERN = re.compile(r"[A-Za-z0-9_.-]+")
"""Names in which nothing is repeated, so that matching them takes no time."""


class Saved(NamedTuple):
    """What `modules_to_save` covers, which is never adapted: PEFT takes each name as part of a
    pattern.

    `keys` are covered besides, by names that are patterns themselves. `alike` tells that no answer
    can depend on the layer's number.
    """

    patterns: tuple[re.Pattern[str], ...] = ()
    keys: frozenset[str] = frozenset()
    alike: bool = True

    def covers(self, key: str) -> bool:
        return key in self.keys or any(pattern.match(key) for pattern in self.patterns)


class Targets(NamedTuple):
    """What to match. One of `all_linear`, `matched` and `names` counts; `parameters` are wrapped
    besides.

    `matched` are the full names that a pattern matches. `fused` tells that gate and up were both
    asked for, so that their packed parameter gets twice the rank. `alike` tells that no answer can
    depend on the layer's number.
    """

    all_linear: bool = False
    matched: frozenset[str] | None = None
    names: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    fused: bool = False
    layers: frozenset[int] = frozenset()
    saved: Saved = Saved()
    alike: bool = True
    suffixes: tuple[str, ...] = ()

    def matches(self, key: str) -> bool:
        """Whether PEFT takes the module or parameter called `key`; all-linear, which goes by class,
        is not asked here."""
        if self.saved.covers(key):
            return False
        if self.matched is not None:
            return key in self.matched
        if key in self.names:
            return True  # a full name is taken whatever `layers_to_transform` says
        if not key.endswith(self.suffixes):
            return False
        if not self.layers:
            return True
        layer = _LAYER_INDEX.match(key)
        return layer is not None and int(layer["idx"]) in self.layers

    def matches_parameter(self, key: str) -> bool:
        return any(key == name or key.endswith(f".{name}") for name in self.parameters)


def resolve(spec: ModelSpec, lora: LoraConfig) -> Targets:
    """The targets of `lora` in this model. Raises RefusedTargetsError for what PEFT refuses before
    it looks at modules."""
    targets, own = _modules(spec, lora), frozenset(lora.target_parameters)
    return targets._replace(
        parameters=targets.parameters | own,
        alike=targets.alike and not any(c.isdigit() for name in own for c in name),
    )


def default_targets(peft_type: PeftType) -> Mapping[str, str | tuple[str, ...]]:
    """Of a method, by model type."""
    return adapter_method(peft_type).targets


def able_targets(spec: ModelSpec, peft_type: PeftType, wanted: str) -> str:
    """`wanted`, a trainer's own targets, as PEFT takes them, else what people then pass: all linear
    layers for a type without default, of Mamba models those that PEFT adapts, and by name those of
    the language model alone (finetune_vision_layers=False in Unsloth's notebooks of text). Of a
    model with one matrix for queries, keys and values that matrix, where it has none of the names.
    """
    if wanted not in ("default", "all-linear"):
        leaves = linear_names(spec)
        fused = [name for name in leaves if "qkv" in name or name == "query_key_value"]
        if fused and not set(leaves) & set(wanted.split(",")):
            return ",".join(fused)
        inside = f".{_LANGUAGE_MODEL}."
        if not any(inside in name for name, _ in spec.modules()):
            return wanted
        return rf"re:.*\.{_LANGUAGE_MODEL}\..*\.({wanted.replace(',', '|')})"
    has_default = spec.model_type in default_targets(peft_type) or _packed_experts(spec) is not None
    if wanted == "default" and has_default:
        return wanted
    if peft_type != "lora" or spec.model_type not in MAMBA_TYPES:
        return "all-linear"
    return ",".join(name for name in linear_names(spec) if name not in NOT_OF_MAMBA)


def _modules(spec: ModelSpec, lora: LoraConfig) -> Targets:
    requested = lora.target_modules
    if isinstance(requested, str) and lora.layers_to_transform:
        refuse(
            "layers_to_transform needs a list of names; PEFT"
            f" {'refuses' if lora.peft_type == 'lora' else 'ignores'} it with all-linear or a"
            " pattern.",
            "ValueError" if lora.peft_type == "lora" else None,
        )
    saved = _saved(spec, lora.modules_to_save)
    packed = _packed_experts(spec)
    if packed is not None and lora.peft_type == "lora":  # other methods do not know their old names
        return _with_packed_experts(spec, lora, packed, saved)
    if requested is None:
        requested = default_targets(lora.peft_type).get(spec.model_type)
        if requested is None:
            method = "" if lora.peft_type == "lora" else f" of {lora.method_name}"
            refuse(
                f"PEFT has no default target modules{method} for model type {spec.model_type}."
                + suggestion(spec, ()),
                "ValueError",
            )
    if isinstance(requested, str) and requested.lower() == "all-linear":
        return Targets(all_linear=True, saved=saved, alike=saved.alike)
    if isinstance(requested, str):
        return Targets(matched=_target_keys(spec, requested), saved=saved, alike=False)
    return _named(frozenset(requested), lora, saved)


def _packed_experts(spec: ModelSpec) -> dict[str, str] | None:
    """What PEFT makes of the names of experts' layers, where they are bare parameters: not in
    versions of transformers that had an expert a layer of its own."""
    for part in spec.parts:
        if isinstance(part, LayerStack) and any(".experts." in m.name for m in part.kinds[0]):
            return None
    return PACKED_EXPERTS.get(spec.model_type)


def check_patterns(spec: ModelSpec, lora: LoraConfig) -> None:
    """Raises RefusedTargetsError for a pattern that is none, or that takes too long on the names of
    this model."""
    _saved(spec, lora.modules_to_save)
    if isinstance(lora.target_modules, str) and lora.target_modules.lower() != "all-linear":
        _target_keys(spec, lora.target_modules)


def _saved(spec: ModelSpec, names: tuple[str, ...]) -> Saved:
    patterns: list[re.Pattern[str]] = []
    keys: set[str] = set()
    for name in names:
        pattern = rf"(^|.*\.){name}($|\..*)"
        if _NO_PATTERN.fullmatch(name):
            patterns.append(re.compile(pattern))
        else:
            keys |= _matched(spec, pattern, f"modules_to_save {shown(name)}", whole=False)
    return Saved(
        tuple(patterns), frozenset(keys), all(name.replace("_", "").isalpha() for name in names)
    )


def _target_keys(spec: ModelSpec, pattern: str) -> frozenset[str]:
    return _matched(spec, pattern, f"target pattern {shown(pattern)}", whole=True)


def _matched(spec: ModelSpec, pattern: str, what: str, *, whole: bool) -> frozenset[str]:
    """Full names of modules that the pattern matches; with packed experts of parameters too, and of
    what those were."""
    try:
        match = _verdict(spec, pattern, whole)
    except UnmatchedError as e:
        refuse(f"{what} {e}", None)
    if match.problem:
        refuse(f"{what} {match.problem}", "error")
    return match.keys


@lru_cache(maxsize=64)
def _verdict(spec: ModelSpec, pattern: str, whole: bool) -> PatternMatch:
    """Kept: one answer asks several times, and a page that is drawn again asks once more."""
    packed = _packed_experts(spec)
    return verdict(
        pattern,
        [*all_names(spec), *(_parameter_names(spec, packed) if packed else ())],
        whole=whole,
    )


def _named(names: frozenset[str], lora: LoraConfig, saved: Saved, **more: object) -> Targets:
    return Targets(
        names=names,
        suffixes=tuple(f".{name}" for name in names),
        layers=frozenset(lora.layers_to_transform),
        saved=saved,
        alike=saved.alike
        and not lora.layers_to_transform
        and not any(c.isdigit() for name in names for c in name),
        **more,  # type: ignore[arg-type]  # parameters and fused, from the one caller below
    )


def _with_packed_experts(
    spec: ModelSpec, lora: LoraConfig, packed: dict[str, str], saved: Saved
) -> Targets:
    """Types whose experts and router became bare parameters: PEFT sends the old names there, and
    only there.

    The default of the type is never looked up, since PEFT sets an empty list first: mixtral, though
    in the table, fails.
    """
    requested = lora.target_modules
    names = set(requested) if isinstance(requested, tuple) else set()
    if isinstance(requested, str) and requested.lower() == "all-linear":
        names = {*linear_names(spec), *packed}  # not the full names
    elif isinstance(requested, str):
        pattern = Targets(matched=_target_keys(spec, requested), saved=saved, alike=False)
        names = {
            key.rsplit(".", 1)[-1] for key in _target_keys(spec, requested) if pattern.matches(key)
        }
        if not names:
            return pattern
    moved = {
        name: old for name in names for old in packed if name == old or name.endswith(f".{old}")
    }
    fused = {old for old in moved.values() if packed[old] == FUSED_PARAMETER}
    both = {old for old, new in packed.items() if new == FUSED_PARAMETER}
    if fused and fused != both:
        refuse(
            f"{', '.join(sorted(fused))} cannot be adapted without"
            f" {', '.join(sorted(both - fused))}: this model holds them fused in {FUSED_PARAMETER}."
            " Name both, or use all-linear.",
            "ValueError",
        )
    parameters = frozenset(packed[old] for old in moved.values())
    return _named(
        frozenset(names - set(moved)), lora, saved, parameters=parameters, fused=bool(fused)
    )


def _parameter_names(spec: ModelSpec, packed: dict[str, str]) -> Iterator[str]:
    """Every parameter's name, and those that packed ones had before, which PEFT probes a pattern
    with."""
    holders: dict[str, set[str]] = {}
    for name, module in spec.modules():
        for weight in module.weights:
            holders.setdefault(weight.name, set()).add(name)
            if weight.tied_to is None:
                yield f"{name}.{weight.name}"
    for old, new in packed.items():
        yield from (f"{holder}.{old}" for holder in holders.get(new, ()))


def all_names(spec: ModelSpec) -> Iterator[str]:
    """Every name in `named_modules()` but the root's: modules with weights, the modules that hold
    them, and weightless ones."""
    for part in spec.parts:
        if isinstance(part, Module):
            yield part.name
        else:
            nodes = [[module.name for module in kind] + containers(kind) for kind in part.kinds]
            for i, kind in enumerate(part.order):
                yield f"{part.name}.{i}"
                for name in nodes[kind]:
                    yield f"{part.name}.{i}.{name}"
    yield from outer_containers(spec)
    for name in spec.weightless:
        stack = next(
            (
                p
                for p in spec.parts
                if isinstance(p, LayerStack) and name.startswith(f"{p.name}.*.")
            ),
            None,
        )
        if stack is None:
            yield name
        else:
            rest = name.removeprefix(f"{stack.name}.*.")
            for i in range(len(stack.order)):
                yield f"{stack.name}.{i}.{rest}"


def containers(modules: tuple[Module, ...]) -> list[str]:
    """Names of the modules between a layer and its `modules` ("self_attn", "mlp"), in order, each
    once."""
    return _above([(module.name, 0) for module in modules], {module.name for module in modules})


def outer_containers(spec: ModelSpec) -> list[str]:
    """Names of the modules outside the layers that hold others: "model", "model.layers"."""
    own = {part.name for part in spec.parts if isinstance(part, Module)}
    return _above([(part.name, int(isinstance(part, LayerStack))) for part in spec.parts], own)


def _above(names: Iterable[tuple[str, int]], own: Collection[str]) -> list[str]:
    """The beginnings of dotted names, the whole name among them where 1 stands beside it."""
    ancestors: dict[str, None] = {}
    for name, whole in names:
        pieces = name.split(".")
        for n in range(1, len(pieces) + whole):
            ancestors[".".join(pieces[:n])] = None
    return [name for name in ancestors if name not in own]


def attention_targets(model: ModelSpec) -> tuple[str, ...]:
    """LoRA targets for the linear layers inside attention, by the shortest names that match nothing
    outside it.

    Raises UsageError where no module's path says that it is attention.
    """
    inside: dict[str, str] = {}
    outside: set[str] = set()
    for name, module in model.modules():
        if not module.is_linear:
            continue
        parent, _, leaf = name.rpartition(".")
        owner = parent.rpartition(".")[2]
        if "attn" in owner or "attention" in owner:
            inside[f"{owner}.{leaf}"] = leaf
        else:
            outside.add(leaf)
    if not inside:
        raise UsageError(
            f"{model.id} names no attention projections; list them with --targets NAME,NAME."
        )
    return tuple(dict.fromkeys(path if leaf in outside else leaf for path, leaf in inside.items()))


class RefusedTargetsError(TargetModulesError):
    """PEFT would refuse. `peft_error` is the name of its exception, None where the refusal is this
    program's own."""

    def __init__(self, message: str, peft_error: str | None) -> None:
        super().__init__(message)
        self.peft_error = peft_error


def refuse(message: str, peft_error: str | None) -> NoReturn:
    raise RefusedTargetsError(message, peft_error)


def suggestion(spec: ModelSpec, names: tuple[str, ...]) -> str:
    """' Use q_proj, v_proj, ...': the model's own linear layers nearest to `names`, or
    all-linear."""
    known = linear_names(spec)
    close = list(
        dict.fromkeys(
            match for name in names for match in nearest(name.rsplit(".", 1)[-1], known, 2)
        )
    )
    if close:
        return f" Did you mean {', '.join(close[:4])}? all-linear adapts every linear layer."
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return (
        f" Use all-linear, or names out of {listed}."
        if known
        else " This model has no linear layer to adapt."
    )


def linear_names(spec: ModelSpec) -> list[str]:
    """Last parts of the names of all linear layers, in forward order, the output embedding left
    out."""
    return list(
        dict.fromkeys(
            name.rpartition(".")[2]
            for name, module in spec.modules()
            if module.is_linear and name != spec.output_embedding
        )
    )
