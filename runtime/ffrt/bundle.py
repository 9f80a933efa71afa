"""The bundle format, version 1: `manifest.json` <-> frozen dataclasses, and the check of every file it names.

The one module that knows the format (described in graphs/README.md). A bundle comes from outside, so it is read as
hostile input: sizes are checked before memory is taken, names may not leave the folder, nothing is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from ffrt.errors import BundleError

FORMAT = "ffrt-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20

Prediction = Literal["epsilon", "v"]
SamplerName = Literal["ddpm", "ddim", "dpm++"]
DType = Literal["float32", "float16", "int64", "int32", "bool"]

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_AXIS = re.compile(r"[A-Za-z]\w*(\*[A-Za-z]\w*)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _require(ok: bool, field: str, want: str, got: object) -> None:
    if not ok:
        raise BundleError(f"{field}: expected {want}, got {got!r}")


@dataclass(frozen=True)
class FileSpec:
    """Size in bytes and sha256 (64 hex digits) of one file of the bundle."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _require(self.bytes >= 0, "bytes", "0 or more", self.bytes)
        _require(_DIGEST.fullmatch(self.sha256) is not None, "sha256", "64 hex digits", self.sha256)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: an int is a fixed size, a name is a symbolic axis, `B*T` a product of two."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        for axis in self.shape:
            ok = axis > 0 if isinstance(axis, int) else _AXIS.fullmatch(axis) is not None
            _require(ok, f"shape of {self.name!r}", "positive sizes or names such as 'B*T'", axis)


@dataclass(frozen=True)
class Parity:
    """Measured difference from the PyTorch module, and the relative RMS floor it had to stay under."""

    max_abs: float
    relative_rms: float
    floor: float


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX graph: its file, its contract and how close it is to the module it was exported from."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parity: Parity


@dataclass(frozen=True)
class TextConfig:
    """Tokenizer file and the most tokens the text encoder was trained on."""

    tokenizer: str
    max_tokens: int

    def __post_init__(self) -> None:
        _require(2 <= self.max_tokens <= 4096, "max_tokens", "2 to 4096", self.max_tokens)


@dataclass(frozen=True)
class VideoConfig:
    """Default size in pixels, channels and downscale of a latent, and what a size must be a multiple of."""

    height: int
    width: int
    latent_channels: int
    downscale: int
    size_multiple: int

    def __post_init__(self) -> None:
        _require(1 <= self.latent_channels <= 64, "latent_channels", "1 to 64", self.latent_channels)
        _require(1 <= self.downscale <= 64, "downscale", "1 to 64", self.downscale)
        ok = 1 <= self.size_multiple <= 1024 and self.size_multiple % self.downscale == 0
        _require(ok, "size_multiple", f"a multiple of downscale {self.downscale}, at most 1024", self.size_multiple)
        for name, side in (("height", self.height), ("width", self.width)):
            _require(0 < side <= 8192 and side % self.size_multiple == 0, name, f"n x {self.size_multiple}", side)


def _check_sampling(steps: int, guidance_scale: float, threshold: float) -> None:
    _require(1 <= steps <= 1000, "num_inference_steps", "1 to 1000", steps)
    _require(guidance_scale >= 0, "guidance_scale", "0 or more", guidance_scale)
    _require(0 < threshold <= 1, "threshold", "a quantile in (0, 1]", threshold)


@dataclass(frozen=True)
class KeyframeConfig:
    """Defaults of the text -> keyframes stage."""

    num_frames: int
    fps: int
    position_range: int
    prediction: Prediction
    sampler: SamplerName
    num_inference_steps: int
    guidance_scale: float
    threshold: float

    def __post_init__(self) -> None:
        _require(2 <= self.num_frames <= 1024, "num_frames", "2 to 1024", self.num_frames)
        _require(1 <= self.fps <= 240, "fps", "1 to 240", self.fps)
        _require(self.num_frames <= self.position_range <= 1 << 20, "position_range", ">= T", self.position_range)
        _check_sampling(self.num_inference_steps, self.guidance_scale, self.threshold)


@dataclass(frozen=True)
class InterpolationPass:
    """One T -> 4T-3 pass: the frame rate it reaches and the frames it skips, as the network was trained."""

    fps: int
    skip_frames: int

    def __post_init__(self) -> None:
        _require(1 <= self.fps <= 240, "fps", "1 to 240", self.fps)
        _require(0 <= self.skip_frames <= 1000, "skip_frames", "0 to 1000", self.skip_frames)


@dataclass(frozen=True)
class InterpolationConfig:
    """Defaults of the interpolation stage and its passes, slowest first."""

    prediction: Prediction
    sampler: SamplerName
    num_inference_steps: int
    guidance_scale: float
    threshold: float
    passes: tuple[InterpolationPass, ...]

    def __post_init__(self) -> None:
        _check_sampling(self.num_inference_steps, self.guidance_scale, self.threshold)
        rates = [p.fps for p in self.passes]
        _require(rates == sorted(set(rates)) and len(rates) <= 4, "passes", "at most 4 with rising fps", rates)


def _tensors(*rows: tuple[str, DType, str]) -> tuple[TensorSpec, ...]:
    axes = ((name, dtype, shape.split()) for name, dtype, shape in rows)
    return tuple(TensorSpec(n, d, tuple(int(a) if a.isdigit() else a for a in s)) for n, d, s in axes)


CONTRACT: Mapping[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    "text_encoder": (
        _tensors(("input_ids", "int64", "B L"), ("attention_mask", "int64", "B L")),
        _tensors(("context", "float32", "B L D"), ("null_embedding", "float32", "D")),
    ),
    "keyframe_unet": (
        _tensors(
            ("x", "float32", "B*T 4 h w"),
            ("time", "float32", "B"),
            ("context", "float32", "B L D"),
            ("context_mask", "bool", "B L"),
            ("temporal_positions", "int64", "T"),
        ),
        _tensors(("prediction", "float32", "B*T 4 h w")),
    ),
    "interpolation_unet": (
        _tensors(
            ("x", "float32", "B*G 20 h w"),
            ("time", "float32", "B"),
            ("skip_frames", "int64", "G"),
            ("perturbation", "float32", "G"),
        ),
        _tensors(("prediction", "float32", "B*G 12 h w")),
    ),
    "movq_encoder": (_tensors(("image", "float32", "N 3 H W")), _tensors(("latent", "float32", "N 4 h w"))),
    "movq_decoder": (_tensors(("latent", "float32", "N 4 h w")), _tensors(("image", "float32", "N 3 H W"))),
}
"""Graph name -> (inputs, outputs) of format version 1: a bundle holds these five, with these names, types and ranks."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says, beside its format and version."""

    name: str
    license: str
    created_with: Mapping[str, str]
    files: Mapping[str, FileSpec]
    graphs: Mapping[str, GraphSpec]
    text: TextConfig
    video: VideoConfig
    keyframes: KeyframeConfig
    interpolation: InterpolationConfig

    def __post_init__(self) -> None:
        _require(0 < len(self.name) <= 200, "name", "1 to 200 characters", self.name[:200])
        for file in self.files:
            _require(_PLAIN_NAME.fullmatch(file) is not None and file != MANIFEST, "files", "plain file names", file)
        _require(set(self.graphs) == set(CONTRACT), "graphs", f"exactly {sorted(CONTRACT)}", sorted(self.graphs))
        for name, spec in self.graphs.items():
            for side, want, got in zip(("inputs", "outputs"), CONTRACT[name], (spec.inputs, spec.outputs), strict=True):
                rows = [[(t.name, t.dtype, len(t.shape)) for t in tensors] for tensors in (want, got)]
                _require(rows[0] == rows[1], f"graphs.{name}.{side}", f"(name, dtype, rank) {rows[0]}", rows[1])
        for file in [self.text.tokenizer, *(g.file for g in self.graphs.values())]:
            _require(file in self.files, "files", f"an entry for {file!r}", sorted(self.files))
        rates = [self.keyframes.fps, *(p.fps for p in self.interpolation.passes)]
        _require(rates == sorted(set(rates)), "passes", "frame rates above that of the keyframes", rates)


@dataclass(frozen=True, kw_only=True)
class Bundle(Manifest):
    """A manifest whose files were checked. `digest`, the sha256 of the manifest, pins every byte of the bundle."""

    folder: Path
    digest: str

    def path(self, file: str) -> Path:
        """Where `file`, which the manifest lists, lies."""
        if file not in self.files:
            raise BundleError(f"{self.folder}: {file!r} is not a file of this bundle; it has {sorted(self.files)}")
        return self.folder / file


def find_bundle(bundle: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a bundle: `None` or "demo" is the demo bundle, anything else is a path to a folder."""
    if bundle is not None and bundle != "demo":
        folder = Path(bundle)
        if not folder.is_dir():
            raise BundleError(
                f"no bundle folder at {str(folder)!r}: give a folder that holds {MANIFEST}, or 'demo'; "
                f"'python -m export demo --out {folder}' writes one from a checkout"
            )
        return folder
    package = Path(__file__).resolve().parent
    candidates = [package / "demo", package.parent.parent / "graphs" / "demo"]
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            return folder
    raise BundleError(
        f"the demo bundle is neither in {candidates[0]} nor in {candidates[1]}; in a checkout, type "
        f"'pip install -e \".[cpu,export]\"' and then 'python -m export demo --out graphs/demo'"
    )


def open_bundle(folder: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Read and check the bundle in `folder`. `verify=False` trusts the digests and checks names and sizes only.

    Raises BundleError on anything that the format (graphs/README.md) does not allow.
    """
    folder = Path(folder)
    raw = _read_manifest(folder / MANIFEST)
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder / MANIFEST} is not valid JSON ({error}); get the bundle again") from error
    try:
        manifest = _parse(value)
    except BundleError as error:
        raise BundleError(f"{folder / MANIFEST}: {error}") from None
    members = {f.name: getattr(manifest, f.name) for f in fields(Manifest)}
    bundle = Bundle(**members, folder=folder, digest=hashlib.sha256(raw).hexdigest())
    check_files(bundle, verify=verify)
    return bundle


def check_files(bundle: Bundle, *, verify: bool = True) -> None:
    """Compare the folder with the manifest: no file more, none less, sizes first, then (if `verify`) digests."""
    for entry in sorted(bundle.folder.iterdir()):
        if entry.name not in bundle.files and entry.name != MANIFEST:
            raise BundleError(f"{bundle.folder}: {entry.name!r} is not listed in {MANIFEST}; remove it")
    for name, want in bundle.files.items():
        size = _regular_file_size(bundle.folder / name)
        if size != want.bytes:
            raise BundleError(
                f"{bundle.folder / name}: {want.bytes} bytes expected, {size} found; get the bundle again"
            )
    for name, want in bundle.files.items() if verify else ():
        found = _sha256(bundle.folder / name)
        if found != want.sha256:
            raise BundleError(
                f"{bundle.folder / name}: sha256 {want.sha256} expected, {found} found: the file was changed; "
                "get the bundle again"
            )


def write_manifest(
    folder: str | os.PathLike[str],
    *,
    name: str,
    license: str,
    created_with: Mapping[str, str],
    graphs: Mapping[str, GraphSpec],
    text: TextConfig,
    video: VideoConfig,
    keyframes: KeyframeConfig,
    interpolation: InterpolationConfig,
) -> Bundle:
    """List every file now in `folder` and write its manifest in one rename; returns the bundle as read back.

    To publish a bundle in one step, write it into a sibling folder and rename that folder afterwards.
    """
    folder = Path(folder)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != MANIFEST)
    files = {n: FileSpec(_regular_file_size(folder / n), _sha256(folder / n)) for n in names}
    manifest = Manifest(
        name=name,
        license=license,
        created_with=created_with,
        files=files,
        graphs=graphs,
        text=text,
        video=video,
        keyframes=keyframes,
        interpolation=interpolation,
    )
    value = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
    raw = (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"the manifest has {len(raw)} bytes, the format allows {MAX_MANIFEST_BYTES}")
    temporary = folder.parent / f".{folder.name}.{MANIFEST}.{os.getpid()}"
    try:
        temporary.write_bytes(raw)
        os.replace(temporary, folder / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)
    return open_bundle(folder)


def _read_manifest(path: Path) -> bytes:
    size = _regular_file_size(path)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} has {size} bytes; a manifest has at most {MAX_MANIFEST_BYTES}")
    with open(path, "rb") as file:
        raw = file.read(MAX_MANIFEST_BYTES + 1)
    return raw


def _regular_file_size(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleError(f"{path} is missing ({error.strerror}); get the bundle again") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is a link, a folder or a device; a bundle holds plain files only")
    return status.st_size


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number of JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key is given twice among {[key for key, _ in pairs]}")
    return value


def _parse(value: Any) -> Manifest:
    _require(isinstance(value, dict), "manifest", "an object", type(value).__name__)
    form, version = value.pop("format", None), value.pop("format_version", None)
    _require(form == FORMAT, "format", repr(FORMAT), form)
    _require(type(version) is int, "format_version", "a whole number", version)
    if version > FORMAT_VERSION:
        raise BundleError(
            f"format_version {version} is newer than {FORMAT_VERSION}, the newest this ffrt reads; "
            "type 'pip install --upgrade ffrt'"
        )
    _require(version == FORMAT_VERSION, "format_version", str(FORMAT_VERSION), version)
    manifest = _build(Manifest, value, "")
    assert isinstance(manifest, Manifest)
    return manifest


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as an instance of the annotation `kind`; nothing is converted but int to float."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        _require(isinstance(value, dict), where, "an object", value)
        hints = typing.get_type_hints(kind)
        known = [f.name for f in fields(kind)]
        for key in value:
            _require(key in known, where if where else "manifest", f"no other keys than {known}", key)
        for key in known:
            _require(key in value, where if where else "manifest", f"the key {key!r}", sorted(value))
        members = {key: _build(hints[key], value[key], f"{where}.{key}".lstrip(".")) for key in known}
        try:
            return typing.cast(Any, kind)(**members)
        except BundleError as error:
            raise BundleError(f"{where}.{error}".lstrip(".")) from None
    if origin is tuple:
        _require(isinstance(value, list), where, "a list", value)
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        _require(isinstance(value, dict), where, "an object", value)
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal:
        _require(isinstance(value, str) and value in arguments, where, f"one of {list(arguments)}", value)
        return value
    if kind is float:
        ok = (type(value) is int and abs(value) < 1 << 53) or (type(value) is float and math.isfinite(value))
        _require(ok, where, "a finite number", value)
        return float(value)
    kinds = arguments if origin in (types.UnionType, typing.Union) else (kind,)
    _require(type(value) in kinds, where, " or ".join(k.__name__ for k in kinds), value)
    return value
