"""A body of HTTP -> `CreateVideo` and perhaps a picture: JSON, or the form that OpenAI's client sends."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from ffrt.serve.api.schema import CreateVideo
from ffrt.serve.errors import Refused
from ffrt.serve.limits import Limits

WHOLE = {"fps", "seed", "num_inference_steps", "cache_interval", "priority"}
NUMBERS = {"guidance_scale", "image_guidance_scale", "interpolation_guidance_scale"}
PAIR = "guidance_interval"
WHOLE_FORM = re.compile(r"-?[0-9]{1,20}")
NUMBER_FORM = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,3})?")
PICTURE, PICTURE_URL = "input_reference", "input_reference[image_url]"


async def read_body(request: Request, limits: Limits) -> tuple[CreateVideo, bytes | None]:
    """The request in a body, and the picture that came as a file. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return _validated(_from_json(await request.body())), None
        if kind == "multipart/form-data":
            return await _from_form(request, limits)
    except ClientDisconnect as error:
        raise Refused(400, "invalid_value", "the client left before its request was whole") from error
    raise Refused(415, "unsupported_media_type", f"expected application/json or multipart/form-data, got {kind[:80]!r}")


def _from_json(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "invalid_value", f"the body is no JSON ({str(error)[:200]})") from error


async def _from_form(request: Request, limits: Limits) -> tuple[CreateVideo, bytes | None]:
    """Every value of a form is a text; numbers are read strictly."""
    try:
        form = await request.form(max_files=1, max_fields=64, max_part_size=limits.body_with_picture)
    except (Refused, ClientDisconnect):
        raise
    except Exception as error:  # a damaged form raises nearly anything
        said = getattr(error, "detail", type(error).__name__)
        raise Refused(400, "invalid_value", f"the form cannot be read: {said!s:.200}") from error
    try:
        return await _values(form)
    finally:
        await form.close()


async def _values(form: FormData) -> tuple[CreateVideo, bytes | None]:
    values: dict[str, Any] = {}
    picture: bytes | None = None
    for name, value in form.multi_items():
        field = PICTURE if name == PICTURE_URL else name
        if field in values or (field == PICTURE and picture is not None):
            raise Refused(400, "invalid_value", f"{field[:80]}: expected one value, got two", param=field[:80])
        if isinstance(value, UploadFile):
            if name != PICTURE:
                raise Refused(400, "invalid_value", f"{name[:80]}: expected a text, got a file", param=name[:80])
            picture = await value.read()
        else:
            values[field] = {"image_url": value} if name == PICTURE_URL else _read(name, value)
    return _validated(values), picture


def _read(name: str, text: str) -> Any:
    if name in WHOLE and WHOLE_FORM.fullmatch(text):
        return int(text)
    if name in NUMBERS and NUMBER_FORM.fullmatch(text):
        return float(text)
    if name == PAIR:
        parts = text.split(",")
        return [float(one) for one in parts] if all(map(NUMBER_FORM.fullmatch, parts)) else text
    return int(text) if name == "motion" and re.fullmatch(r"[0-9]{1,4}", text) else text


def _validated(values: Any) -> CreateVideo:
    try:
        return CreateVideo.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(one) for one in first["loc"] if isinstance(one, str))
        names = [str(one)[:80] for one in first["loc"][:1]]
        text = f"{where[:80]}: {first['msg']}, got {first['input']!r:.100}" if where else first["msg"]
        raise Refused(400, "invalid_value", text, param=names[0] if names else None) from error


def _no_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value
