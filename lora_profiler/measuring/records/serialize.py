"""Workloads and records to JSON and back, with the schema of it. What comes back is checked field
by field; older schemas are migrated on reading."""

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache, reduce
from operator import or_
from sys import float_info
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.facts.catalog.config import shown
from lora_profiler.measuring.records.record import (
    SCHEMA_VERSION,
    Conditions,
    Environment,
    Measurement,
    Record,
    conditions_dict,
)
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import (
    STORED_OPTIONS,
    LoraConfig,
    Method,
    Quantization,
    TrainSetup,
    Workload,
    setup_dict,
)

# --- values of annotated types --------------------------------------------------------------------

# Values that json read as instances of annotated types, by msgspec, with errors that name the
# field.

_UNIONS = (Union, types.UnionType)


class RecordError(LoraProfilerError):
    """A record that cannot be read: not JSON, a missing or unknown field, a wrong type, a newer
    schema."""

    exit_code = 2


def decoded(kind: Any, value: Any, where: str) -> Any:
    """`value`, as json reads it, as an instance of the annotation `kind`: dataclasses, TypedDicts,
    Literals, unions, tuples, mappings.

    Raises RecordError naming the field below `where`: a wrong type, a missing field, one that a
    dataclass does not have, a number that is not finite. A bool is no int.
    """
    import msgspec

    try:
        msgspec.convert(value, _strict(kind))
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        raise RecordError(_complaint(*_refused(kind, value, where), e)) from None


@cache
def _strict(kind: Any) -> Any:
    """`kind` as msgspec must be asked for it, or it passes over fields that a dataclass does not
    have, and takes nan and infinity. A TypedDict names what is read of an object, and no more."""
    import msgspec

    if kind is float:
        return Annotated[float, msgspec.Meta(ge=-float_info.max, le=float_info.max)]
    if is_dataclass(kind) or is_typeddict(kind):
        needed = _needed(kind)
        strict_hints = {name: _strict(hint) for name, hint in _hints(kind).items()}
        return msgspec.defstruct(
            kind.__name__,
            [(name, h) if name in needed else (name, h, None) for name, h in strict_hints.items()],
            kw_only=True,
            forbid_unknown_fields=is_dataclass(kind),
        )
    origin, options = get_origin(kind), get_args(kind)
    if origin in (None, Literal):
        return kind
    strict = tuple(map(_strict, options))
    return reduce(or_, strict) if origin in _UNIONS else origin[strict]


def _hints(kind: Any) -> dict[str, Any]:
    """Of the fields alone: not of what only a constructor takes."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)} if is_dataclass(kind) else hints


def _needed(kind: Any) -> set[str]:
    if is_typeddict(kind):
        return set(kind.__required_keys__)
    return {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}


# --- what is wrong with a value that is refused ---------------------------------------------------


def _refused(kind: Any, value: Any, where: str) -> tuple[Any, Any, str]:
    """The innermost part of `value` that is refused, with its annotation and place; msgspec's own
    message does not name the key of a mapping."""
    import msgspec

    kind = _without_none(kind)
    for part in () if _wrong_names(kind, value) else _parts(kind, value, where):
        try:
            msgspec.convert(part[1], _strict(part[0]))
        except msgspec.ValidationError:
            return _refused(*part)
    return kind, value, where


def _parts(kind: Any, value: Any, where: str) -> Iterator[tuple[Any, Any, str]]:
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        yield from ((get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    elif isinstance(value, Mapping) and (is_dataclass(kind) or is_typeddict(kind)):
        prefix, hints = f"{where}." if where else "", _hints(kind)
        yield from ((hints[k], item, f"{prefix}{k}") for k, item in value.items() if k in hints)
    elif isinstance(value, Mapping) and get_origin(kind) in (Mapping, dict):
        of_key, of_value = get_args(kind)
        yield from ((of_key, key, f"{where} key") for key in value)
        yield from ((of_value, item, f"{where}.{key}") for key, item in value.items())


def _complaint(kind: Any, value: Any, where: str, error: Exception) -> str:
    where = where or "a record"
    what = f"{where} is {shown(value)}; "
    if get_origin(kind) is Literal:
        return f"{what}accepted: {', '.join(map(str, get_args(kind)))}."
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{what}it must be finite."
    if kind in (int, float, str, bool):
        return f"{what}it must be {kind.__name__}."
    if get_origin(kind) is tuple:
        return f"{what}it must be a list."
    if not isinstance(value, Mapping):
        return f"{what}it must be an object."
    names = _wrong_names(kind, value)
    if where == "a record":
        return f"A record {names}.".replace("; the record", "; it")
    return f"{where} {names}." if names else f"{where} is refused: {error}."


def _wrong_names(kind: Any, value: Any) -> str:
    """What is to be said of an object that has other fields than it may and must have."""
    if not isinstance(value, Mapping) or not (is_dataclass(kind) or is_typeddict(kind)):
        return ""
    names, needed = _hints(kind), _needed(kind)
    unknown = sorted(value.keys() - names)
    missing = [name for name in names if name in needed and name not in value]
    if unknown and is_dataclass(kind):
        return f"has no field {', '.join(unknown)}; the record may come from a newer version"
    return f"needs {', '.join(missing)}" if missing else ""


def _without_none(kind: Any) -> Any:
    """An annotation without its None; the last of several that are left, which tells most."""
    if get_origin(kind) not in _UNIONS:
        return kind
    return [option for option in get_args(kind) if option is not types.NoneType][-1]


# --- workloads and records ------------------------------------------------------------------------

# --- as JSON has them -----------------------------------------------------------------------------

_JSON_NAMES = {stored.field: stored.name for stored in STORED_OPTIONS}
_PARTS = ("lora", "quantization")


def _setup_fields() -> Any:
    """The fields of `setup_dict`: those of TrainSetup, and beside them those of LoRA and
    quantization, null where there is none."""
    hints = get_type_hints(TrainSetup)
    own = [
        (f.name, hints[f.name], field(default=f.default))
        for f in fields(TrainSetup)
        if f.name not in _PARTS
    ]
    parts = []
    for kind in (LoraConfig, Quantization):
        hints = get_type_hints(kind)
        for f in fields(kind):
            hint = hints[f.name] | None
            if f.name == "lora_alpha":
                hint = int | hint  # 32 is written as 32, not as 32.0
            parts.append((_JSON_NAMES.get(f.name, f.name), hint, field(default=None)))
    method = ("method", Method, field(default="full"))
    doc = {
        "__doc__": "How the model is trained. Fields of an adapter are null where there is none."
    }
    return make_dataclass(
        "SetupFields", [method, *parts, *own], frozen=True, kw_only=True, namespace=doc
    )


if TYPE_CHECKING:
    SetupFields = Any
else:
    SetupFields = _setup_fields()


class ModelFields(TypedDict):
    """A model as a record has it. `config` is the model's config.json, out of which it can be built
    again; without it the id is looked up."""

    id: str
    model_type: NotRequired[str | None]
    source: NotRequired[str | None]
    num_layers: NotRequired[int | None]
    fingerprint: NotRequired[str | None]
    config: NotRequired[dict[str, Any] | None]


class WorkloadFields(TypedDict):
    model: ModelFields
    setup: SetupFields


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFields:
    """A real training run: what was asked, on what, and the raw samples.

    Bytes are integers, seconds are numbers; what was not measured is null or left out, never 0.
    `id` is case_key, environment_key and repeat; these keys follow from the rest, and a later
    record of the same id replaces the earlier. Times are UTC, ISO 8601. Cross-field rules are in
    tests/record_checks.py; older schemas are migrated on reading.
    """

    schema_version: Literal["1.1"]
    id: str | None = None
    case_key: str | None = None
    environment_key: str | None = None
    repeat: int = 0
    started_at: str | None = None
    ended_at: str | None = None
    conditions: Conditions = field(default_factory=Conditions)
    environment: Environment
    measurement: Measurement
    workload: WorkloadFields


# --- records --------------------------------------------------------------------------------------


def record_dict(record: Record) -> dict[str, Any]:
    """A record in JSON's own types; `id`, `case_key` and `environment_key` are written for people
    and other programs.

    `limits` are written of a rehearsed record alone: a version that knows of no such records then
    refuses it, and reads all others.
    """
    environment = asdict(record.environment)
    if not record.environment.limits:
        del environment["limits"]
    return {
        "schema_version": SCHEMA_VERSION,
        "id": record.id,
        "case_key": record.case_key,
        "environment_key": record.environment.key,
        "repeat": record.repeat,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "workload": workload_dict(record.workload),
        "conditions": conditions_dict(record.conditions),
        "environment": environment,
        "measurement": asdict(record.measurement),
    }


def record_from_dict(data: Mapping[str, Any]) -> Record:
    """The record that `record_dict` wrote, now or in an older version of this program.

    Raises RecordError for anything else, and what `find_model` raises for a model that is neither
    bundled nor described.
    """
    read: RecordFields = decoded(RecordFields, migrated(decoded(dict[str, Any], data, "")), "")
    return Record(
        workload=workload_of(read.workload),
        conditions=read.conditions,
        environment=read.environment,
        measurement=read.measurement,
        repeat=read.repeat,
        started_at=read.started_at,
        ended_at=read.ended_at,
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
    environment = decoded(dict[str, Any], data.get("environment", {}), "environment")
    names = {f.name for f in fields(Environment)}
    unplaced = {
        name: str(value)
        for name, value in environment.items()
        if name not in names and value is not None
    }
    workload = decoded(dict[str, Any], data.get("workload", {}), "workload")
    setup = decoded(dict[str, Any], workload.get("setup", {}), "workload.setup")
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
            "source": model.source if model.source in ("bundled", "hub") else "file",
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
    return workload_of(decoded(WorkloadFields, data, "workload"))


def workload_of(read: WorkloadFields) -> Workload:
    """Raises RecordError as `workload_from_dict` does."""
    try:
        return Workload(model=_model(read["model"]), setup=_setup(read["setup"]))
    except UsageError as e:
        raise RecordError(f"The record's setup is not valid: {e}") from None


def _model(read: ModelFields) -> ModelSpec:
    name, config = read["id"], read.get("config")
    if config:
        spec = model_from_config(config, id=name, source=read.get("source") or "file")
    else:
        # no record makes this program read a file
        spec = find_model(name, offline=True, on_disk=False)
    if read.get("fingerprint") not in (None, spec.fingerprint):
        raise RecordError(
            f"The record's {name} is not the model that this version makes of its config."
        )
    return spec


def setup_from_dict(data: Mapping[str, Any]) -> TrainSetup:
    """The setup of `workload.setup_dict`; a field that is left out has its default. Raises
    RecordError, UsageError."""
    return _setup(decoded(SetupFields, data, "setup"))


def _setup(read: SetupFields) -> TrainSetup:
    lora = quantization = None
    if read.method != "full":
        lora = LoraConfig(**{"target_modules": None} | _known_fields(LoraConfig, read))
    if read.method == "qlora":
        quantization = Quantization(**_known_fields(Quantization, read))
    own = {f.name: getattr(read, f.name) for f in fields(TrainSetup) if f.name not in _PARTS}
    return TrainSetup(lora=lora, quantization=quantization, **own)


def _known_fields(kind: type[LoraConfig | Quantization], read: SetupFields) -> dict[str, Any]:
    values = {f.name: getattr(read, _JSON_NAMES.get(f.name, f.name)) for f in fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


# --- json schema ----------------------------------------------------------------------------------


DIALECT = "https://json-schema.org/draft/2020-12/schema"
SIZES = frozenset({"batch_size", "seq_len", "accumulation", "world_size", "packed"})
"""Fields of a setup that are counted from 1, read or written."""
Limits = Callable[[str], Mapping[str, Any]]
"""What more is to be said of the numbers in the field of a name, such as that none is negative."""


def record_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one line of a file of records, as this version reads it."""
    return json_schema(
        RecordFields, title="one line of a lora-profile record file", limits=_size_limits
    )


def _size_limits(name: str) -> Mapping[str, Any]:
    return {"minimum": 1} if name in SIZES else {}


def json_schema(
    kind: type, *, title: str, limits: Limits, optional: frozenset[str] | None = None
) -> dict[str, Any]:
    """Of an object of the dataclass or TypedDict `kind`, described by docstrings; what it is made
    of is under $defs by the names of the types.

    As it is read, fields with a default may be left out, and a dataclass has no others than its
    own. With `optional` as it is written: all fields are there but those of these names, and of a
    TypedDict those that are not required; a later version may add some.
    """
    import msgspec

    definitions: dict[str, dict[str, Any]] = msgspec.json.schema(kind)["$defs"]
    for name, is_closed in {k.__name__: is_dataclass(k) for k in _object_kinds(kind)}.items():
        body = definitions[name]
        del body["title"]
        for field_name, schema in body["properties"].items():
            _reduce(schema, limits(field_name))
        if not is_closed:
            continue
        if optional is None:
            body["additionalProperties"] = False
        else:
            body["required"] = [name for name in body["properties"] if name not in optional]
    body = definitions.pop(kind.__name__)
    return {"$schema": DIALECT, "title": title, **body, "$defs": definitions}


def _object_kinds(hint: Any) -> set[Any]:
    """The dataclasses and TypedDicts that a value of `hint` may hold."""
    if not (is_dataclass(hint) or is_typeddict(hint)):
        return set().union(*map(_object_kinds, get_args(hint)))
    return {hint}.union(*map(_object_kinds, _hints(hint).values()))


def _reduce(schema: dict[str, Any], limit: Mapping[str, Any]) -> None:
    """Leaves out msgspec's defaults, and puts `limit` on every number."""
    schema.pop("default", None)
    if schema.get("type") in ("integer", "number"):
        schema |= limit
    if len(schema.get("enum", ())) == 1:
        schema["const"] = schema.pop("enum")[0]
    parts = [schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ())]
    for part in parts:
        if isinstance(part, dict):
            _reduce(part, limit)
