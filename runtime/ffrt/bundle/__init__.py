"""The bundle format (graphs/README.md): the one place that knows it. Other packages import its names from here."""

from ffrt.bundle.contract import (
    CONTRACT,
    DEEP,
    IMAGE_CONTRACT,
    OPTIONAL_GRAPHS,
    SHALLOW,
    Signature,
    TensorSpec,
    deep_of,
)
from ffrt.bundle.folder import Bundle, check_files, find_bundle, open_bundle, write_manifest
from ffrt.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    ImageConfig,
    InterpolationConfig,
    InterpolationPass,
    KeyframeConfig,
    Manifest,
    Schedule,
    TextConfig,
    VideoConfig,
)
from ffrt.bundle.specs import FileSpec, GraphSpec, Optimised, Parity, PartSpec

__all__ = [
    "CONTRACT",
    "DEEP",
    "FORMAT",
    "FORMAT_VERSION",
    "IMAGE_CONTRACT",
    "MANIFEST",
    "OPTIONAL_GRAPHS",
    "SHALLOW",
    "Bundle",
    "FileSpec",
    "GraphSpec",
    "ImageConfig",
    "InterpolationConfig",
    "InterpolationPass",
    "KeyframeConfig",
    "Manifest",
    "Optimised",
    "Parity",
    "PartSpec",
    "Schedule",
    "Signature",
    "TensorSpec",
    "TextConfig",
    "VideoConfig",
    "check_files",
    "deep_of",
    "find_bundle",
    "open_bundle",
    "write_manifest",
]
