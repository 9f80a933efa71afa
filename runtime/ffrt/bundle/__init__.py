"""The bundle format (docs/bundle-format.md): the one place that knows it. Other packages import its names from here."""

from ffrt.bundle.folder import Bundle, check_files, find_bundle, list_files, open_bundle, write_manifest
from ffrt.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    ImageConfig,
    InterpolationConfig,
    InterpolationPass,
    KeyframeConfig,
    Manifest,
    TextConfig,
    VideoConfig,
)
from ffrt.bundle.specs import FileSpec, GraphSpec, Optimised, Parity, PartSpec

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST",
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
    "TextConfig",
    "VideoConfig",
    "check_files",
    "find_bundle",
    "list_files",
    "open_bundle",
    "write_manifest",
]
