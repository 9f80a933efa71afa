"""The JSON schema of `manifest.json` (draft 2020-12), made from the dataclasses that read it.

It states keys and types, for editors and for programs that write bundles. Ranges, and rules between fields, are checked
when a bundle is opened.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal

from ffrt.bundle.manifest import FORMAT, FORMAT_VERSION, Manifest
from ffrt.families import FAMILIES, Family

NAMES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def json_schema() -> dict[str, Any]:
    """The schema of a whole manifest."""
    schema = _schema(Manifest)
    head = {"format": {"const": FORMAT}, "format_version": {"const": FORMAT_VERSION}}
    schema["properties"] = {**head, **schema["properties"]}
    schema["required"] = [*head, *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ffrt bundle manifest", **schema}


def _schema(kind: Any) -> dict[str, Any]:
    """The schema of values that a field of the annotation `kind` takes."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Family:
        return {"enum": list(FAMILIES)}
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {f.name: _schema(hints[f.name]) for f in fields(kind)},
            "required": [f.name for f in fields(kind) if f.default is MISSING],
        }
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [{"type": "null"} if one is types.NoneType else _schema(one) for one in arguments]}
    return {"type": NAMES[kind]}
