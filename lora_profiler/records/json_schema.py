"""JSON Schemas (2020-12) of annotated types, as msgspec sees them."""

from collections.abc import Callable, Mapping
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from lora_profiler.records.serialize import RecordFields

if TYPE_CHECKING:
    import msgspec.inspect as mi

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
    import msgspec.inspect as mi

    writer = _Writer(limits, optional)
    writer.schema(mi.type_info(kind))
    body = writer.definitions.pop(kind.__name__)
    return {"$schema": DIALECT, "title": title, **body, "$defs": writer.definitions}


class _Writer:
    def __init__(self, limits: Limits, optional: frozenset[str] | None) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}
        self._limits, self._optional = limits, optional

    def schema(self, info: "mi.Type", limit: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`limit` is of all numbers in it."""
        import msgspec.inspect as mi

        limit = limit or {}
        match info:
            case mi.DataclassType() | mi.TypedDictType():
                return self._reference(info)
            case mi.UnionType(types=types):
                return {"anyOf": [self.schema(each, limit) for each in types]}
            case mi.LiteralType(values=values):
                return {"enum": list(values)} if len(values) > 1 else {"const": values[0]}
            case mi.ListType(item_type=item) | mi.VarTupleType(item_type=item):
                return {"type": "array", "items": self.schema(item, limit)}
            case mi.DictType(key_type=key, value_type=value):
                names = self.schema(key)
                of_names = {} if names == {"type": "string"} else {"propertyNames": names}
                of_values = {"additionalProperties": self.schema(value, limit)}
                return {"type": "object", **of_names, **of_values}
            case mi.IntType() | mi.FloatType():
                return {"type": "integer" if isinstance(info, mi.IntType) else "number", **limit}
            case mi.AnyType():
                return {}
        return {"type": _PLAIN[type(info).__name__]}

    def _reference(self, info: "mi.DataclassType | mi.TypedDictType") -> dict[str, Any]:
        name = info.cls.__name__
        if name not in self.definitions:
            self.definitions[name] = {}  # its place, before those of its parts
            self.definitions[name] |= self._object(info)
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, info: "mi.DataclassType | mi.TypedDictType") -> dict[str, Any]:
        import msgspec.inspect as mi

        is_closed = isinstance(info, mi.DataclassType) and self._optional is None
        if isinstance(info, mi.TypedDictType) or self._optional is None:
            needed = [f.name for f in info.fields if f.required]
        else:
            needed = [f.name for f in info.fields if f.name not in self._optional]
        text = info.cls.__dict__.get("__doc__") or ""
        return {
            **(
                {"description": cleandoc(text)}
                if text and not text.startswith(f"{info.cls.__name__}(")
                else {}
            ),
            "type": "object",
            "required": needed,
            "properties": {f.name: self.schema(f.type, self._limits(f.name)) for f in info.fields},
            **({"additionalProperties": False} if is_closed else {}),
        }


_PLAIN = {"StrType": "string", "BoolType": "boolean", "NoneType": "null"}
