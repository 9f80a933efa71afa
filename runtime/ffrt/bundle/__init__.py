"""The bundle format (docs/bundle-format.md): the one place that knows it. Other packages import its names from here."""

from ffrt.bundle.folder import (
    MAX_MANIFEST_BYTES,
    check_place,
    find_bundle,
    list_files,
    open_bundle,
    why_no_bundle,
    write_manifest,
)
from ffrt.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    MAX_PROMPT_TOKENS,
    ImageConfig,
    InterpolationConfig,
    InterpolationPass,
    KeyframeConfig,
    Manifest,
    TextConfig,
    VideoConfig,
)
from ffrt.bundle.opened import Bundle, GraphFile
from ffrt.bundle.specs import FileSpec, GraphSpec, Optimised, Parity, PartSpec
from ffrt.bundle.tokenizer import MAX_TOKENIZER_BYTES, TokenizerFile, read_tokenizer

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST",
    "MAX_MANIFEST_BYTES",
    "MAX_PROMPT_TOKENS",
    "MAX_TOKENIZER_BYTES",
    "Bundle",
    "FileSpec",
    "GraphFile",
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
    "TokenizerFile",
    "VideoConfig",
    "check_place",
    "find_bundle",
    "list_files",
    "open_bundle",
    "read_tokenizer",
    "why_no_bundle",
    "write_manifest",
]
