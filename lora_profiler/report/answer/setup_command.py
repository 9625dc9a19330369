"""A workload as the command that asks about it."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.option import Option, flag
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.workload import STORED_OPTIONS, LoraConfig, Quantization, Workload, setup_dict


def predict_command(workload: Workload, gpu: str, *more: str) -> str:
    """`lora-profile MODEL ...` with every option that is not the default, on the card of that key,
    and `more` arguments at the end."""
    arguments = [*setup_arguments(workload), "--gpu", gpu, *more]
    return shlex.join(["lora-profile", workload.model.id, *arguments])


def setup_arguments(workload: Workload) -> list[str]:
    """The options of the setup of `workload`, the method first; those of parts that it does not
    have, and those at their default, are left out."""
    values = setup_dict(workload.setup)
    arguments = ["--method", workload.setup.method]
    for option in STORED_OPTIONS:
        if not _is_read(option, workload):
            continue
        written = _written(option, values)
        if written is not None and written != DEFAULTS[option.name]:
            arguments += _argument(option, written)
    return arguments


def _is_read(option: Option, workload: Workload) -> bool:
    parts = {LoraConfig: workload.setup.lora, Quantization: workload.setup.quantization}
    return parts.get(option.owner, workload) is not None


def _written(option: Option, values: Mapping[str, Any]) -> Any:
    """The value as people write it; None for nothing."""
    value = values[option.name]
    if option.name == "alpha":
        return None if value == 2 * values["rank"] else value
    if option.name == "targets":
        if value is None:
            return "default"
        if isinstance(value, str):
            return value if value == "all-linear" else f"re:{value}"
    if isinstance(value, list):
        return ",".join(map(str, value)) or None
    return value


def _argument(option: Option, value: Any) -> Sequence[str]:
    if option.kind == "switch":
        return [option.flag if value else flag(f"no_{option.name}")]
    name = option.declared.short or option.flag
    return [name, f"{value:g}" if isinstance(value, float) else str(value)]
