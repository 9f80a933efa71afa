"""A body that was read -> a job: checked with the bundle alone, by the check that `Pipeline.generate` uses."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from ffrt.bundle import Bundle
from ffrt.errors import OutOfMemoryError, RequestError, VideoWriteError
from ffrt.families import Stage
from ffrt.generation import Plan
from ffrt.generation.request import MAX_SEED, Request
from ffrt.media.video_file import check_holds
from ffrt.memory.room import Room
from ffrt.serve.api.schema import CreateVideo
from ffrt.serve.errors import Refused
from ffrt.serve.limits import Limits

DATA_URL = re.compile(r"data:image/(?:png|jpeg|webp);base64,")
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
PARAMS = {"height": "size", "width": "size", "image": "input_reference", "rate": "fps"}
"""Arguments of the runtime that have another name here."""
FIELDS = [one.name for one in dataclasses.fields(Request) if one.name not in ("image", "_")]


def refuse(param: str, wanted: str, got: object, code: str = "invalid_value") -> Refused:
    """A 400 that names the field, what was expected and what came."""
    return Refused(400, code, f"{param}: expected {wanted}, got {got!r:.100}", param=param)


def length_of(bundle: Bundle, fps: int) -> str:
    """The length of a video in whole seconds, as OpenAI's clients write it."""
    return str(max(1, round(bundle.num_frames(fps) / fps)))


def default_fps(bundle: Bundle) -> int:
    """The rate of a request that names none."""
    return 8 if 8 in bundle.rates else bundle.rates[-1]


def checked(
    asked: CreateVideo, picture: bytes | None, bundle: Bundle, limits: Limits, room: Room
) -> tuple[dict[str, Any], str]:
    """What the store keeps of a request, all defaults filled in, and the digest that an idempotency key stands for.

    Raises Refused, which names the field.
    """
    if asked.model is not None and asked.model != bundle.name:
        raise Refused(
            404, "model_not_found", f"model: expected {bundle.name!r}, got {asked.model!r:.100}", param="model"
        )
    fields = _fields(asked, bundle)
    _check_size(fields, bundle, limits)
    steps = fields["num_inference_steps"]
    if steps is not None and steps > limits.steps:
        raise refuse("num_inference_steps", f"at most {limits.steps}", steps)
    plan = _plan(fields, picture is not None, bundle, room)
    _check_length(asked.seconds, bundle, plan.fps)
    height, width = (side * bundle.video.downscale for side in plan.shape[2:])
    output = "mp4" if asked.output_format is None else asked.output_format
    try:
        check_holds(f"video.{output}", f".{output}", height, width, plan.fps)
    except VideoWriteError as error:
        raise Refused(400, "invalid_value", str(error), param="output_format") from error
    digest = hashlib.sha256(json.dumps(asked.model_dump(), sort_keys=True).encode())
    digest.update(b"" if picture is None else hashlib.sha256(picture).digest())
    return _kept(asked, fields, plan, bundle, output, picture is not None), digest.hexdigest()


def picture_of(asked: CreateVideo, part: bytes | None, bundle: Bundle, limits: Limits) -> bytes | None:
    """The picture to begin with, as a part or inside of JSON; it is decoded by a worker. Raises Refused."""
    name = "input_reference"
    if asked.input_reference is not None:
        url = asked.input_reference.image_url
        start = DATA_URL.match(url)
        if start is None:
            raise Refused(
                400,
                "unsupported_reference",
                f"{name}: expected a picture as data:image/png;base64,... (or jpeg, webp), got {url[:40]!r}; "
                "no address is fetched",
                param=name,
            )
        if part is not None:
            raise refuse(name, "one picture", "two")
        try:
            part = base64.b64decode(url[start.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise refuse(name, "base64", str(error)) from error
    if part is None:
        return None
    if bundle.keyframes.image is None:
        raise refuse(
            name, "none, since this bundle makes keyframes of text alone", "a picture", "unsupported_reference"
        )
    if len(part) > limits.picture:
        raise refuse(name, f"at most {limits.picture} bytes", len(part))
    if not part.startswith(PICTURES) and not (part.startswith(b"RIFF") and part[8:12] == b"WEBP"):
        raise refuse(name, "a PNG, JPEG or WebP", part[:12])
    return part


def _fields(asked: CreateVideo, bundle: Bundle) -> dict[str, Any]:
    """The fields of a `Request`, without its picture; sizes here are WIDTHxHEIGHT."""
    fields = {name: getattr(asked, name) for name in FIELDS if hasattr(asked, name)}
    for name in ("prompt", "negative_prompt"):
        if fields[name] is not None:
            fields[name] = fields[name].strip()
            if any(unicodedata.category(sign) == "Cc" for sign in fields[name]):
                raise refuse(name, "text without control characters", fields[name])
    if not fields["prompt"]:
        raise refuse("prompt", "a sentence", asked.prompt)
    width, height = (bundle.video.width, bundle.video.height) if asked.size is None else map(int, asked.size.split("x"))
    fields["seed"] = secrets.randbelow(MAX_SEED + 1) if asked.seed is None else asked.seed
    fps = default_fps(bundle) if asked.fps is None else asked.fps
    return {**fields, "width": width, "height": height, "fps": fps}


def _check_size(fields: Mapping[str, Any], bundle: Bundle, limits: Limits) -> None:
    most = limits.pixels * bundle.video.width * bundle.video.height
    if fields["width"] * fields["height"] > most:
        raise refuse("size", f"at most {most} pixels", f"{fields['width']}x{fields['height']}")


def _check_length(seconds: str | None, bundle: Bundle, fps: int) -> None:
    length = length_of(bundle, fps)
    if seconds is not None and seconds != length:
        raise refuse("seconds", f"{length!r}, the length of this bundle's videos at {fps} fps", seconds)


def _plan(fields: Mapping[str, Any], has_picture: bool, bundle: Bundle, room: Room) -> Plan:
    """The plan of a request; a picture is stood for by a black one, since it is decoded elsewhere. Raises Refused."""
    try:
        request = Request(**fields)
        if has_picture:
            black = np.zeros((fields["height"], fields["width"], 3), np.uint8)
            request = dataclasses.replace(request, image=black)
        return Plan.of(request, bundle, room)
    except OutOfMemoryError as error:
        raise Refused(400, "does_not_fit", str(error), param="size") from error
    except RequestError as error:
        name = str(error).partition(":")[0]
        param = PARAMS.get(name, name)
        raise Refused(
            400, "invalid_value", str(error), param=param if param in CreateVideo.model_fields else None
        ) from error


def _kept(
    asked: CreateVideo, fields: Mapping[str, Any], plan: Plan, bundle: Bundle, output: str, has_picture: bool
) -> dict[str, Any]:
    run = plan.run_of(Stage.KEYFRAMES)
    assert run is not None and run.sampling is not None
    return {
        "fields": fields,
        "has_picture": has_picture,
        "output_format": output,
        "user": asked.user,
        "model": bundle.name,
        "seconds": length_of(bundle, plan.fps),
        "size": f"{fields['width']}x{fields['height']}",
        "num_frames": plan.num_frames,
        "duration_s": round(plan.num_frames / plan.fps, 3),
        "num_inference_steps": run.sampling.num_inference_steps,
        "guidance_scale": run.sampling.guidance_scale,
        "sampler": run.sampling.sampler,
        "stages": [[str(one.stage), one.fps, one.steps, one.cost] for one in plan.stages],
    }
