"""`manifest.json` as frozen dataclasses, read from JSON and written back.

The dataclasses are the one model of the format. Bundles come from outside: every key, type and range is checked, and
nothing is converted but whole numbers to floats.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal

from ffrt.bundle.specs import FileSpec, GraphSpec, Optimised
from ffrt.errors import BundleError
from ffrt.families import FAMILIES, OPTIONAL_GRAPHS, Contract, Family, with_shallow
from ffrt.families.contract import require
from ffrt.sampling.schedule import Schedule, ToldTimes
from ffrt.sampling.solvers import SOLVERS, Prediction

FORMAT = "ffrt-bundle"
FORMAT_VERSION = 1  # the newest that is read; a newer one is refused
MANIFEST = "manifest.json"
MAX_PROMPT_TOKENS = 4096

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class TextConfig:
    """Tokenizer file, and the largest number of tokens that the text encoder takes."""

    tokenizer: str
    max_tokens: int

    def __post_init__(self) -> None:
        require(2 <= self.max_tokens <= MAX_PROMPT_TOKENS, "max_tokens", f"2 to {MAX_PROMPT_TOKENS}", self.max_tokens)


@dataclass(frozen=True)
class VideoConfig:
    """Default size in pixels, channels and downscale factor of a latent, and the multiple that sizes must be of."""

    height: int
    width: int
    latent_channels: int
    downscale: int
    size_multiple: int
    temporal_decoder: bool = False  # movq_decoder sees the frames of a call as one clip

    def __post_init__(self) -> None:
        require(1 <= self.latent_channels <= 64, "latent_channels", "1 to 64", self.latent_channels)
        require(1 <= self.downscale <= 64, "downscale", "1 to 64", self.downscale)
        ok = 1 <= self.size_multiple <= 1024 and self.size_multiple % self.downscale == 0
        require(ok, "size_multiple", f"a multiple of downscale {self.downscale}, at most 1024", self.size_multiple)
        for name, side in (("height", self.height), ("width", self.width)):
            require(0 < side <= 8192 and side % self.size_multiple == 0, name, f"n x {self.size_multiple}", side)


def _check_sampling(config: KeyframeConfig | InterpolationConfig) -> None:
    steps, most, quantile = config.num_inference_steps, config.threshold_max, config.threshold
    require(config.sampler in SOLVERS, "sampler", f"one of {list(SOLVERS)}", config.sampler)
    require(1 <= steps <= 1000, "num_inference_steps", "1 to 1000", steps)
    require(config.guidance_scale >= 0, "guidance_scale", "0 or more", config.guidance_scale)
    require(quantile is None or 0 < quantile <= 1, "threshold", "null or a quantile in (0, 1]", quantile)
    require(most is None or most >= 1, "threshold_max", "1 or more", most)
    ok = config.schedule != "zero-snr-trailing" or config.prediction == "v"
    require(ok, "prediction", "v, since the schedule begins at pure noise", config.prediction)


@dataclass(frozen=True)
class ImageConfig:
    """How keyframes follow a first frame, with the defaults of the 1.1 release.

    `first_frame_guidance_scale` is the guidance scale of the first frame itself, `guidance_scale` says how closely the
    keyframes follow it. The frame is noised up to level `noise_augmentation` of 1000. `motion` is one of
    `motion_scores`.
    """

    first_frame_guidance_scale: float
    guidance_scale: float
    noise_augmentation: int
    motion: str
    motion_scores: Mapping[str, int]

    def __post_init__(self) -> None:
        for name in ("first_frame_guidance_scale", "guidance_scale"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        require(0 <= self.noise_augmentation < 1000, "noise_augmentation", "0 to 999", self.noise_augmentation)
        ok = all(0 <= score <= 1000 for score in self.motion_scores.values())
        require(ok, "motion_scores", "numbers from 0 to 1000", dict(self.motion_scores))
        require(self.motion in self.motion_scores, "motion", f"one of {list(self.motion_scores)}", self.motion)


@dataclass(frozen=True)
class KeyframeConfig:
    """Defaults of the text -> keyframes stage."""

    num_frames: int
    fps: int
    position_range: int
    prediction: Prediction
    sampler: str
    num_inference_steps: int
    guidance_scale: float
    threshold: float | None  # quantile of |x0|, from 1 to threshold_max, that x0 is clipped to and divided by
    schedule: Schedule = "cosine"
    threshold_max: float | None = None
    told_times: ToldTimes = "released"
    image: ImageConfig | None = None

    def __post_init__(self) -> None:
        require(2 <= self.num_frames <= 1024, "num_frames", "2 to 1024", self.num_frames)
        require(1 <= self.fps <= 240, "fps", "1 to 240", self.fps)
        bounds = f"num_frames {self.num_frames} to {1 << 20}"
        require(self.num_frames <= self.position_range <= 1 << 20, "position_range", bounds, self.position_range)
        _check_sampling(self)


@dataclass(frozen=True)
class InterpolationPass:
    """One T -> 4T-3 pass: the frame rate it reaches and the frames it skips, as the network was trained."""

    fps: int
    skip_frames: int

    def __post_init__(self) -> None:
        require(1 <= self.fps <= 240, "fps", "1 to 240", self.fps)
        require(0 <= self.skip_frames <= 1000, "skip_frames", "0 to 1000", self.skip_frames)


@dataclass(frozen=True)
class InterpolationConfig:
    """Defaults of the interpolation stage and its passes, slowest first."""

    prediction: Prediction
    sampler: str
    num_inference_steps: int
    guidance_scale: float
    threshold: float | None
    passes: tuple[InterpolationPass, ...]
    schedule: Schedule = "cosine"
    threshold_max: float | None = None
    told_times: ToldTimes = "released"

    def __post_init__(self) -> None:
        _check_sampling(self)
        rates = [p.fps for p in self.passes]
        require(rates == sorted(set(rates)) and len(rates) <= 4, "passes", "at most 4 with rising fps", rates)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`, except its format and version."""

    name: str
    family: Family
    license: str
    created_with: Mapping[str, str]
    files: Mapping[str, FileSpec]
    graphs: Mapping[str, GraphSpec]
    text: TextConfig
    video: VideoConfig
    keyframes: KeyframeConfig
    interpolation: InterpolationConfig
    optimised: Optimised | None = None

    def __post_init__(self) -> None:
        require(0 < len(self.name) <= 200, "name", "1 to 200 characters", self.name[:200])
        for file in self.files:
            require(_PLAIN_NAME.fullmatch(file) is not None and file != MANIFEST, "files", "plain file names", file)
        wanted = "the image settings of its first frame" if self.family.follows_image else "none"
        ok = (self.keyframes.image is not None) == self.family.follows_image
        require(ok, "keyframes.image", f"{wanted}, since family is {self.family.name!r}", self.keyframes.image)
        contract = self.contract
        needed = set(contract) - OPTIONAL_GRAPHS
        ok = needed <= set(self.graphs) <= set(contract)
        wanted = f"{sorted(needed)}, perhaps also {sorted(OPTIONAL_GRAPHS)}"
        require(ok, "graphs", wanted, sorted(self.graphs))
        for name, spec in self.graphs.items():
            for side, want, got in zip(("inputs", "outputs"), contract[name], (spec.inputs, spec.outputs), strict=True):
                rows = [[(t.name, t.dtype, len(t.shape)) for t in tensors] for tensors in (want, got)]
                require(rows[0] == rows[1], f"graphs.{name}.{side}", f"(name, dtype, rank) {rows[0]}", rows[1])
        for file in [self.text.tokenizer, *(file for graph in self.graphs.values() for file in graph.files)]:
            require(file in self.files, "files", f"an entry for {file!r}", sorted(self.files))
        rates = self.rates
        require(rates == tuple(sorted(set(rates))), "passes", "frame rates above that of the keyframes", list(rates))

    @property
    def rates(self) -> tuple[int, ...]:
        """The frame rates that this bundle can make, slowest first."""
        return (self.keyframes.fps, *(one.fps for one in self.interpolation.passes))

    def num_frames(self, fps: int) -> int:
        """Frames of a video at `fps`, one of `rates`: a pass makes 4T-3 frames of T."""
        count = self.keyframes.num_frames
        for one_pass in self.interpolation.passes:
            count = 4 * count - 3 if one_pass.fps <= fps else count
        return count

    @property
    def contract(self) -> Contract:
        """The inputs and outputs of this bundle's graphs."""
        return with_shallow(self.family.contract, self.graphs)


def from_json(raw: bytes) -> Manifest:
    """The manifest in UTF-8 JSON. Raises BundleError, without the file's name, if it breaks the format."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        json.dumps(value, ensure_ascii=False).encode()  # an escape may be half of a pair, which no file can hold
    except (ValueError, RecursionError) as error:
        raise BundleError(f"not valid JSON ({error}); get the bundle again") from error
    return _parse(value)


def to_json(manifest: Manifest) -> bytes:
    """The manifest as indented UTF-8 JSON."""
    value = {"format": FORMAT, "format_version": FORMAT_VERSION, **_plain(manifest)}
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """`value` as JSON has it; a field at its default is left out."""
    if isinstance(value, Family):
        return value.name
    if is_dataclass(value):
        pairs = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: _plain(v) for f, v in pairs if f.default is MISSING or v != f.default}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number of JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key is given twice among {[key for key, _ in pairs]}")
    return value


def _parse(value: Any) -> Manifest:
    require(isinstance(value, dict), "manifest", "an object", type(value).__name__)
    form, version = value.pop("format", None), value.pop("format_version", None)
    require(form == FORMAT, "format", repr(FORMAT), form)
    require(type(version) is int, "format_version", "a whole number", version)
    if version > FORMAT_VERSION:
        raise BundleError(
            f"format_version {version} is newer than {FORMAT_VERSION}, the newest this ffrt reads; "
            "type 'pip install --upgrade ffrt'"
        )
    require(version == FORMAT_VERSION, "format_version", str(FORMAT_VERSION), version)
    return typing.cast(Manifest, _build(Manifest, value, ""))


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as an instance of the annotation `kind`; nothing is converted but int to float."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Family:
        require(isinstance(value, str) and value in FAMILIES, where, f"one of {list(FAMILIES)}", value)
        return FAMILIES[value]
    if is_dataclass(kind):
        require(isinstance(value, dict), where, "an object", value)
        hints = typing.get_type_hints(kind)
        known = {f.name: f.default is MISSING for f in fields(kind)}
        for key in value:
            require(key in known, where if where else "manifest", f"no other keys than {list(known)}", key)
        for key, needed in known.items():
            require(key in value or not needed, where if where else "manifest", f"the key {key!r}", sorted(value))
        members = {key: _build(hints[key], item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
        try:
            return typing.cast(Any, kind)(**members)
        except BundleError as error:
            raise BundleError(f"{where}.{error}".lstrip(".")) from None
    if types.NoneType in arguments:
        return None if value is None else _build(arguments[0], value, where)
    if origin is tuple:
        require(isinstance(value, list), where, "a list", value)
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        require(isinstance(value, dict), where, "an object", value)
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal:
        require(isinstance(value, str) and value in arguments, where, f"one of {list(arguments)}", value)
        return value
    if kind is float:
        ok = (type(value) is int and abs(value) < 1 << 53) or (type(value) is float and math.isfinite(value))
        require(ok, where, "a finite number", value)
        return float(value)
    kinds = arguments if origin in (types.UnionType, typing.Union) else (kind,)
    require(type(value) in kinds, where, " or ".join(k.__name__ for k in kinds), value)
    return value
