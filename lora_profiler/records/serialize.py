"""Workloads and records to JSON and back. What comes back is checked field by field; older schemas
are migrated on reading."""

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from math import isfinite
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lora_profiler.catalog import find_model, model_from_config
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.records.record import (
    SCHEMA_VERSION,
    Conditions,
    Environment,
    Measurement,
    Record,
)
from lora_profiler.units import is_finite
from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload, setup_dict

_DERIVED = frozenset({"id", "case_key", "environment_key"})
_LORA = ("layers_to_transform", "modules_to_save", "use_rslora", "adapter_dtype")
_SETUP_KINDS: dict[str, Any] = {
    "rank": int | None,
    "alpha": float | None,
    "dropout": float | None,
    "layers_to_transform": tuple[int, ...] | None,
    "modules_to_save": tuple[str, ...] | None,
    "use_rslora": bool | None,
    "adapter_dtype": str | None,
    "double_quant": bool | None,
    "recipe": str | None,
    "checkpointing": bool,
}
"""Of the fields whose types the dataclasses themselves leave to the type checker."""


class RecordError(LoraProfilerError):
    """A record that cannot be read: not JSON, a missing or unknown field, a wrong type, a newer
    schema."""

    exit_code = 2


def record_dict(record: Record) -> dict[str, Any]:
    """A record in JSON's own types; `id`, `case_key` and `environment_key` are written for people
    and other programs."""
    return {
        "schema_version": SCHEMA_VERSION,
        "id": record.id,
        "case_key": record.case_key,
        "environment_key": record.environment.key,
        "repeat": record.repeat,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "workload": workload_dict(record.workload),
        "conditions": asdict(record.conditions),
        "environment": asdict(record.environment),
        "measurement": asdict(record.measurement),
    }


def record_from_dict(data: Mapping[str, Any]) -> Record:
    """The record that `record_dict` wrote, now or in an older version of this program.

    Raises RecordError for anything else, and what `find_model` raises for a model that is neither
    bundled nor described.
    """
    data = migrated(_object(data, "a record"))
    known = {
        "schema_version",
        "repeat",
        "started_at",
        "ended_at",
        "workload",
        "conditions",
        "environment",
        "measurement",
    }
    unknown = sorted(set(data) - known - _DERIVED)
    if unknown:
        raise RecordError(
            f"A record has no field {', '.join(unknown)}; it may come from a newer version."
        )
    missing = sorted({"workload", "environment", "measurement"} - set(data))
    if missing:
        raise RecordError(f"A record needs {', '.join(missing)}.")
    for name in _DERIVED:
        decoded(str | None, data.get(name), name)
    return Record(
        workload=workload_from_dict(_object(data["workload"], "workload")),
        conditions=decoded(Conditions, data.get("conditions", {}), "conditions"),
        environment=decoded(Environment, data["environment"], "environment"),
        measurement=decoded(Measurement, data["measurement"], "measurement"),
        repeat=decoded(int, data.get("repeat", 0), "repeat"),
        started_at=decoded(str | None, data.get("started_at"), "started_at"),
        ended_at=decoded(str | None, data.get("ended_at"), "ended_at"),
    )


def migrated(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """`data` in the present schema. Raises RecordError for a schema that is newer, or none at
    all."""
    version = data.get("schema_version")
    if version is None:
        raise RecordError("A record needs a schema_version.")
    while version != SCHEMA_VERSION:
        step = _MIGRATIONS.get(version) if isinstance(version, str) else None
        if step is None:
            raise RecordError(
                f"The record's schema is {version!r}; this version reads up to {SCHEMA_VERSION}."
            )
        version, data = step(data)
    return data


def _from_1_0(data: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """1.0 is the contract's minimum: an environment of any fields, and no conditions, keys or
    times."""
    environment = dict(_object(data.get("environment", {}), "environment"))
    names = {f.name for f in fields(Environment)}
    unplaced = {
        name: str(value)
        for name, value in environment.items()
        if name not in names and value is not None
    }
    setup = (
        _object(_object(data["workload"], "workload").get("setup", {}), "workload.setup")
        if "workload" in data
        else {}
    )
    kind = str(setup.get("device", "cuda"))
    device = environment.get("device")
    if not isinstance(device, Mapping):
        environment["device"] = {
            "kind": kind,
            "name": str(device or unplaced.pop("gpu", None) or "unknown"),
        }
    packages = environment.get("packages")
    environment = {name: value for name, value in environment.items() if name in names}
    environment["python"] = str(environment.get("python") or "unknown")
    environment["platform"] = str(environment.get("platform") or "unknown")
    environment["packages"] = {**unplaced, **(packages if isinstance(packages, Mapping) else {})}
    return "1.1", {**data, "schema_version": "1.1", "environment": environment}


_MIGRATIONS: dict[str, Callable[[Mapping[str, Any]], tuple[str, Mapping[str, Any]]]] = {
    "1.0": _from_1_0
}
"""From a schema to the next one."""


# --- workloads ------------------------------------------------------------------------------------


def workload_dict(workload: Workload) -> dict[str, Any]:
    """Model and setup, with the model's config.json, so that any machine can ask the same question
    again, on its own platform."""
    model = workload.model
    return {
        "model": {
            "id": model.id,
            "model_type": model.model_type,
            "source": (
                "bundled"
                if model.source == "bundled"
                else "hub"
                if model.source == "hub"
                else "file"
            ),
            "num_layers": model.num_layers,
            "fingerprint": model.fingerprint,
            "config": dict(model.published),
        },
        "setup": setup_dict(workload.setup),
    }


def workload_from_dict(data: Mapping[str, Any]) -> Workload:
    """The workload that `workload_dict` wrote. A model without `config` is looked up by its id,
    offline, among bundled and cached ones.

    Raises RecordError for what is no workload or names another model than its config describes.
    """
    try:
        model, setup = _object(data["model"], "model"), _object(data["setup"], "setup")
        return Workload(model=_model_from_dict(model), setup=setup_from_dict(setup))
    except KeyError as e:
        raise RecordError(f"A workload needs {e.args[0]}.") from None
    except UsageError as e:
        raise RecordError(f"The record's setup is not valid: {e}") from None


def _model_from_dict(data: Mapping[str, Any]) -> ModelSpec:
    name = decoded(str, data["id"], "model.id")
    for key, kind in (
        ("model_type", str | None),
        ("source", str | None),
        ("num_layers", int | None),
    ):
        decoded(kind, data.get(key), f"model.{key}")
    config = data.get("config")
    if config is not None and _object(config, "model.config"):
        spec = model_from_config(config, id=name, source=data.get("source") or "file")
    else:
        spec = find_model(
            name, offline=True, on_disk=False
        )  # no record makes this program read a file
    if data.get("fingerprint") not in (None, spec.fingerprint):
        raise RecordError(
            f"The record's {data['id']} is not the model that this version makes of its config."
        )
    return spec


def setup_from_dict(data: Mapping[str, Any]) -> TrainSetup:
    """The setup of `workload.setup_dict`; a field that is left out has its default. Raises
    RecordError, UsageError."""
    for name, kind in _SETUP_KINDS.items():
        if name in data:
            decoded(kind, data[name], f"setup.{name}")
    rest = dict(data)
    method = rest.pop("method", "full")
    targets = rest.pop("targets", None)
    lora_fields = {
        "r": rest.pop("rank", None),
        "lora_alpha": rest.pop("alpha", None),
        "lora_dropout": rest.pop("dropout", None),
        **{name: rest.pop(name, None) for name in _LORA},
    }
    quantization_fields = {name: rest.pop(name, None) for name in ("double_quant", "recipe")}
    unknown = sorted(set(rest) - ({f.name for f in fields(TrainSetup)} - {"lora", "quantization"}))
    if unknown:
        raise RecordError(f"A setup has no field {', '.join(unknown)}.")
    if method not in ("full", "lora", "qlora"):
        raise RecordError(f"method is {method!r}; accepted: full, lora, qlora.")
    decoded(tuple[str, ...] if isinstance(targets, list) else str | None, targets, "setup.targets")
    lora = None
    if method != "full":
        given: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v
            for name, v in lora_fields.items()
            if v is not None
        }
        lora = LoraConfig(
            target_modules=tuple(targets) if isinstance(targets, list) else targets, **given
        )
    quantization = None
    if method == "qlora":
        quantization = Quantization(
            **{name: v for name, v in quantization_fields.items() if v is not None}
        )
    return TrainSetup(lora=lora, quantization=quantization, **rest)


# --- fields ---------------------------------------------------------------------------------------


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordError(f"{where} is {_short(value)}; it must be an object.")
    return value


Decoder = Callable[[Any, str], Any]
"""(a value as json reads it, where it stands) -> the value as its annotation has it."""


def decoded(kind: Any, value: Any, where: str) -> Any:
    """`value`, as json reads it, as an instance of the annotation `kind`: dataclasses, Literals,
    unions, tuples, mappings.

    Raises RecordError naming `where`: a wrong type, an unknown or a missing field. A bool is no
    int.
    """
    return _decoder(kind)(value, where)


@cache
def _decoder(kind: Any) -> Decoder:
    """Made once for each annotation: thousands of records are read with the same few."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _optional(get_args(kind))
    if origin is Literal:
        return _one_of(get_args(kind))
    if origin is tuple:
        return _sequence(get_args(kind)[0])
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(*get_args(kind))
    return _dataclass(kind) if is_dataclass(kind) else _plain(kind)


def _optional(options: tuple[Any, ...]) -> Decoder:
    decode = _decoder(next(option for option in options if option is not types.NoneType))
    if types.NoneType not in options:
        return decode
    return lambda value, where: None if value is None else decode(value, where)


def _one_of(accepted: tuple[Any, ...]) -> Decoder:
    def decode(value: Any, where: str) -> Any:
        if value not in accepted:
            raise RecordError(
                f"{where} is {_short(value)}; accepted: {', '.join(map(str, accepted))}."
            )
        return value

    return decode


def _sequence(kind: Any) -> Decoder:
    decode_item = _decoder(kind)

    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, list | tuple):
            raise RecordError(f"{where} is {_short(value)}; it must be a list.")
        if all(type(item) is kind for item in value) and (
            kind is not float or all(map(isfinite, value))
        ):
            return tuple(value)  # the many times of steps, as they are
        return tuple([decode_item(item, f"{where}[{i}]") for i, item in enumerate(value)])

    return decode


def _mapping(of_key: Any, of_value: Any) -> Decoder:
    decode_key, decode_value = _decoder(of_key), _decoder(of_value)

    def decode(value: Any, where: str) -> Any:
        pairs = _object(value, where).items()
        return {decode_key(k, f"{where} key"): decode_value(v, f"{where}.{k}") for k, v in pairs}

    return decode


def _dataclass(kind: Any) -> Decoder:
    hints = get_type_hints(kind)
    decoders = {f.name: _decoder(hints[f.name]) for f in fields(kind)}
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]

    def decode(value: Any, where: str) -> Any:
        data = _object(value, where)
        unknown = sorted(data.keys() - decoders.keys())
        if unknown:
            raise RecordError(
                f"{where} has no field {', '.join(unknown)}; the record may come from a newer"
                " version."
            )
        missing = [name for name in needed if name not in data]
        if missing:
            raise RecordError(f"{where} needs {', '.join(missing)}.")
        return kind(
            **{name: decoders[name](item, f"{where}.{name}") for name, item in data.items()}
        )

    return decode


def _plain(kind: Any) -> Decoder:
    accepted = (int, float) if kind is float else (kind,)

    def decode(value: Any, where: str) -> Any:
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise RecordError(f"{where} is {_short(value)}; it must be {kind.__name__}.")
        if kind is float and not is_finite(
            value
        ):  # Python's json reads nan and inf, and ints beyond all floats
            raise RecordError(f"{where} is {_short(value)}; it must be finite.")
        return float(value) if kind is float else value

    return decode


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
