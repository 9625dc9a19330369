"""An `adapter_config.json`, as PEFT's save_pretrained writes it, as the options that it decides."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.planning.setups import peft_type_named, written_options
from lora_profiler.question.adapter_method import (
    AdapterMethod,
    adapter_method,
    config_defaults,
    of_method,
)
from lora_profiler.question.loss import all_losses
from lora_profiler.question.workload import OPTIONS, LoraConfig, TrainSetup
from lora_profiler.trainer_files.document import read_text
from lora_profiler.units import shown

NAME = "adapter_config.json"
_BASE = "base_model_name_or_path"
_AROUND_THE_CONFIG = ("adapter_dtype", "fast_lora", "lora_kernels")
"""Of an adapter's options, those that PEFT's configs do not say."""
DECIDED = tuple(
    o.name for o in OPTIONS if o.owner is LoraConfig and o.field not in _AROUND_THE_CONFIG
)
"""Options that the file decides, whatever it names."""
_BOOKKEEPING = frozenset(
    {"auto_mapping", "inference_mode", "peft_type", "peft_version", "revision", "task_type", _BASE}
)
_VALUES_ALONE = frozenset(
    {"alpha_pattern", "corda_config", "d_initial", "eva_config", "fan_in_fan_out"}
    | {"init_ia3_weights", "loftq_config", "lora_ga_config", "megatron_core"}
    | {"projection_prng_key", "save_projection"}
)
"""Arguments that change what numbers tensors hold, or what is saved of them, and none of their
shapes; PEFT sets fan_in_fan_out by the layer's type itself."""
_GENERATES = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
_CLASSIFIES = "SEQ_CLS"
_HEADS = ("classifier", "score")
"""PEFT trains a copy of modules of these names for SEQ_CLS (PEFT 0.21 `peft_model.py`,
PeftModelForSequenceClassification)."""
_LISTED = ("modules_to_save", "feedforward_modules", "target_parameters")
_KEYWORDS = ("all-linear", "attention", "default", "none")
"""What --targets takes a lone name for."""


class PeftConfig(NamedTuple):
    """`options` as people write them, by name, with the loss of a classifier; `model` is what
    the adapter was trained on, at its `revision` of the hub."""

    options: Mapping[str, Any]
    model: str | None
    revision: str | None


def read_peft_config(name: str) -> PeftConfig:
    """The file `name`, or the one in the folder. Raises UsageError as `peft_config_in` does, and
    for what is no file of text."""
    path = Path(name).expanduser()
    path = path / NAME if path.is_dir() else path
    return peft_config_in(str(path), read_text(path))


def peft_config_in(name: str, text: str) -> PeftConfig:
    """The config in the `text` of the file `name`. Raises UsageError for what is none, and for a
    key that no option stands for, by its name."""
    content = _content(name, text)
    try:
        lora = _adapter(content)
    except UsageError as e:
        raise UsageError(f"{name}: {e}") from None
    idle = adapter_method(lora.peft_type).idle
    owned = {o.name: o.field for o in OPTIONS if o.owner is LoraConfig}
    options = {
        option: value
        for option, value in written_options(TrainSetup(lora=lora)).items()
        if option in DECIDED and owned[option] not in idle
    }
    if _is_classifier(content):
        options["loss"] = next(name for name, loss in all_losses().items() if loss.one_score)
    return PeftConfig(options, content.get(_BASE) or None, content.get("revision") or None)


def is_peft_config(name: str, content: bytes) -> bool:
    """Whether a file of that name is an adapter's config, well-formed or not."""
    return name.endswith(NAME) or (name.endswith(".json") and b'"peft_type"' in content)


def _content(name: str, text: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as e:
        place = f"line {e.lineno}, column {e.colno}"
        raise UsageError(f"{name} is not valid JSON: {e.msg} at {place}.") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{name} is not valid JSON.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{name} is no JSON object; PEFT's {NAME} is one.")
    if "peft_type" not in content:
        raise UsageError(f"{name} names no peft_type; PEFT's {NAME} does.")
    return content


def _adapter(content: Mapping[str, Any]) -> LoraConfig:
    """The adapter of a config's keys; what is not there is PEFT's default. Raises UsageError."""
    for key in ("peft_type", _BASE, "revision"):
        if not isinstance(content.get(key, ""), str | None):
            raise UsageError(f"{key} is {shown(content[key])}; PEFT writes a text.")
    kind = peft_type_named(content["peft_type"] or "")
    _check_task(content)
    method = adapter_method(kind)
    values = {**config_defaults(kind), **content}
    _check_known(values, method, kind)
    options = {o.field: o for o in OPTIONS if o.owner is LoraConfig}
    fields: dict[str, Any] = {"peft_type": kind}
    for field, key in {**method.spelled, "modules_to_save": "modules_to_save"}.items():
        value = values.get(key)
        if options[field].kind == "switch" and not isinstance(value, bool):
            raise UsageError(f"{key} is {shown(value)}; PEFT writes true or false.")
        if field == "r" and value is None:
            raise UsageError(f"{key} is null; {method.title} without a rank is not modelled.")
        if field in _LISTED:
            value = _names(key, value)
        elif field == "layers_to_transform":
            value = _numbers(key, value)
        fields[field] = value
    if content.get("task_type") == _CLASSIFIES:
        fields["modules_to_save"] = tuple(dict.fromkeys((*fields["modules_to_save"], *_HEADS)))
    fields["target_modules"] = _targets(values.get("target_modules"))
    if check_config := of_method(kind, "check_config"):
        check_config(values)
    fields["peft_arg"] = tuple(
        f"{key}={_argument(values[key])}"
        for key, default in method.arguments.items()
        if not _is_alike(values[key], default) and not _changes_values_alone(key, values[key])
    )
    return LoraConfig(**fields)


def _check_task(content: Mapping[str, Any]) -> None:
    """Raises UsageError for a task whose model has another head than those that are modelled."""
    task = content.get("task_type")
    known = (*_GENERATES, _CLASSIFIES)
    if task is not None and task not in known:
        raise UsageError(f"task_type is {shown(task)}; modelled are {', '.join(known)}.")
    trained = _trained_class(content)
    if trained.endswith(("Classification", "QuestionAnswering")) and not _is_classifier(content):
        raise UsageError(
            f"auto_mapping names {trained[:80]}; modelled are language models and classifiers of"
            " sequences."
        )


def _is_classifier(content: Mapping[str, Any]) -> bool:
    is_mapped = _trained_class(content).endswith("ForSequenceClassification")
    return content.get("task_type") == _CLASSIFIES or is_mapped


def _trained_class(content: Mapping[str, Any]) -> str:
    mapping = content.get("auto_mapping")
    return str(mapping.get("base_model_class")) if isinstance(mapping, dict) else ""


def _check_known(values: Mapping[str, Any], method: AdapterMethod, kind: str) -> None:
    """Raises UsageError for a key that is not the method's, unless it is off."""
    known = {*config_defaults(kind), "target_modules", "modules_to_save"}
    for key, value in values.items():
        if value and key not in known | _BOOKKEEPING:
            close = did_you_mean(key, known)
            raise UsageError(f"{method.config} has no argument {key[:80]!r}.{close}")


def _names(key: str, value: Any) -> tuple[str, ...]:
    value = [] if value is None else value
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if not is_list or not all(re.fullmatch(r"[^,=\s]+", name) for name in value):
        raise UsageError(f"{key} is {shown(value)}; PEFT writes a list of names.")
    return tuple(value)


def _targets(value: Any) -> Any:
    """PEFT writes a list in no order of its own."""
    if value is None or (isinstance(value, str) and value):
        return value
    names = _names("target_modules", value)
    if len(names) == 1 and (names[0] in _KEYWORDS or names[0].startswith("re:")):
        return rf"(.*\.)?{re.escape(names[0])}"
    return tuple(sorted(names))


def _numbers(key: str, value: Any) -> tuple[int, ...]:
    numbers = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise UsageError(f"{key} is {shown(value)}; PEFT writes layers' numbers.")
    return tuple(numbers)


def _is_alike(value: Any, default: Any) -> bool:
    return bool(value == default or not (value or default))


def _changes_values_alone(key: str, value: Any) -> bool:
    """MiCA's initialisation freezes B (PEFT 0.21, `tuners/lora/config.py`)."""
    return key in _VALUES_ALONE or (key == "init_lora_weights" and value != "mica")


def _argument(value: Any) -> str:
    """As --peft-arg has it: JSON, a plain word as it is; "=" stands between arguments alone."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z]\w*", value):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, separators=(",", ":")).replace("=", r"\u003d")
