"""What a client may ask for and what it is told, as pydantic models: they check, and they make `/openapi.json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ffrt.generation.request import MAX_SEED, options
from ffrt.sampling import SOLVERS
from ffrt.sampling.presets import PRESETS
from ffrt.serve.limits import Limits

Format = Literal["mp4", "webm", "gif"]
Time = Annotated[float, Field(ge=0, le=1000)]
"""Of denoising: 0 is clean."""
OPTIONS = options()
LIMITS = Limits()


class Strict(BaseModel):
    """No unknown fields, no conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Reference(Strict):
    """A picture inside of JSON."""

    image_url: str = Field(description="`data:image/png;base64,...`; an address is not fetched")


def _about(name: str, **facts: Any) -> Any:
    """The field of an option of `Request`: its help and its bounds."""
    option = OPTIONS[name]
    bounds = {word: value for word, value in (("ge", option.low), ("le", option.high)) if value is not None}
    return Field(default=None, description=option.help, **{**bounds, **facts})


class CreateVideo(Strict):
    """A video to be made. null is the default of the bundle."""

    prompt: str = Field(
        min_length=1, max_length=LIMITS.prompt, description="what the video shows, without control characters"
    )
    model: str | None = Field(default=None, max_length=200, description="the name of the bundle that is served")
    seconds: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}$")] | None = Field(
        default=None, description="the length of the bundle's videos, rounded; no other can be had"
    )
    size: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")] | None = Field(
        default=None, description="WIDTHxHEIGHT in pixels"
    )
    input_reference: Reference | None = Field(default=None, description="a picture to begin with; or a file part")
    fps: int | None = _about("fps", ge=1, le=240)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="drawn and told back if there is none")
    negative_prompt: str | None = _about("negative_prompt", max_length=LIMITS.prompt)
    num_inference_steps: int | None = _about("num_inference_steps")
    guidance_scale: float | None = _about("guidance_scale")
    image_guidance_scale: float | None = _about("image_guidance_scale")
    interpolation_guidance_scale: float | None = _about("interpolation_guidance_scale")
    guidance_interval: list[Time] | None = _about("guidance_interval", min_length=2, max_length=2)
    sampler: str | None = _about("sampler", json_schema_extra={"enum": [*SOLVERS, None]})
    preset: str | None = _about("preset", json_schema_extra={"enum": [*PRESETS, None]})
    motion: Annotated[int, Field(ge=0, le=1000)] | Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description=OPTIONS["motion"].help
    )
    cache_interval: int | None = _about("cache_interval")
    output_format: Format | None = Field(default=None, description="mp4 if there is none")
    priority: int | None = Field(default=None, ge=-10, le=10, description="above 0 only for keys that may")
    user: str | None = Field(default=None, max_length=64, description="kept, not used")


class ErrorInfo(BaseModel):
    """Why a job has no video."""

    code: str
    message: str


class Asked(BaseModel):
    """The options that a request named itself, null where the bundle's own hold: what makes the same video again."""

    num_inference_steps: int | None
    guidance_scale: float | None
    image_guidance_scale: float | None
    interpolation_guidance_scale: float | None
    guidance_interval: list[float] | None = None
    sampler: str | None
    motion: int | str | None
    cache_interval: int | None
    picture: bool = Field(description="whether it began with a picture, which is not kept")


class Video(BaseModel):
    """A job as clients see it: the fields of OpenAI's video, and more. Times are Unix seconds."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100)
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    error: ErrorInfo | None
    remixed_from_video_id: None = None
    state: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    fps: int
    num_frames: int
    duration_s: float
    seed: int
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    preset: str | None
    negative_prompt: str | None
    output_format: Format
    asked: Asked
    stage: str | None
    step: int | None
    steps: int | None
    queue_position: int | None
    eta_s: float | None
    attempt: int
    warnings: list[str]
    bundle_digest: str
    bytes: int | None
    sha256: str | None


class VideoList(BaseModel):
    """A page of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    """The answer to DELETE; `deleted` is false while a running job is being stopped."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool


class Defaults(BaseModel):
    """What holds with a preset where a request names nothing: steps, guidance and sampler of the keyframes."""

    num_inference_steps: int
    guidance_scale: float
    sampler: str


class Model(BaseModel):
    """The bundle that is served, and what may be asked of it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["ffrt"] = "ffrt"
    family: str
    license: str
    bundle_digest: str
    fps: list[int]
    seconds: dict[str, str]
    size: str
    size_multiple: int
    max_pixels: int
    max_steps: int
    default_fps: int
    presets: list[str]
    defaults: dict[str, Defaults] = Field(description="by preset, the first of which holds without one")
    samplers: list[str]
    guidance: str
    takes_picture: bool
    output_formats: list[str]


class ModelList(BaseModel):
    """All models: one."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail
