"""The body of a request to create a video, as `/openapi.json` shows it: of JSON and of a form, for one bundle."""

from __future__ import annotations

from typing import Any

from ffrt.bundle import Bundle
from ffrt.serve.api.schema import CreateVideo
from ffrt.serve.limits import Limits

BINARY = {"type": "string", "format": "binary"}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,255}$"},
}


def body_schema(bundle: Bundle, limits: Limits) -> dict[str, Any]:
    """Both kinds of body, with what the bundle allows, and the header that goes with them."""
    schema = CreateVideo.model_json_schema()
    parts = schema.pop("$defs")
    fields = {name: _inlined(value, parts) for name, value in schema["properties"].items()}
    fields["fps"]["anyOf"][0] = {"type": "integer", "enum": list(bundle.rates)}
    fields["model"]["anyOf"][0] = {"type": "string", "enum": [bundle.name]}
    fields["num_inference_steps"]["anyOf"][0]["maximum"] = limits.steps
    form = {name: _without_null(value) for name, value in fields.items()}
    form["input_reference"] = BINARY
    kinds = {"application/json": fields, "multipart/form-data": form}
    content = {kind: {"schema": {**schema, "properties": properties}} for kind, properties in kinds.items()}
    return {"requestBody": {"required": True, "content": content}, "parameters": [IDEMPOTENCY_KEY]}


def _inlined(value: Any, parts: dict[str, Any]) -> Any:
    """A schema without references."""
    if isinstance(value, dict):
        name = value.get("$ref", "").rpartition("/")[2]
        return parts[name] if name else {key: _inlined(item, parts) for key, item in value.items()}
    return [_inlined(item, parts) for item in value] if isinstance(value, list) else value


def _without_null(value: dict[str, Any]) -> dict[str, Any]:
    """A field as a form has it: it is there, or it is not."""
    kinds = [one for one in value.get("anyOf", []) if one.get("type") != "null"]
    rest = {key: item for key, item in value.items() if key not in ("anyOf", "default")}
    if "enum" in rest:
        rest["enum"] = [one for one in rest["enum"] if one is not None]
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds} if kinds else rest
