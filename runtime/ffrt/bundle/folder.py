"""A bundle is a folder of graphs, a tokenizer and `manifest.json`; it is found, opened, checked and written here.

A bundle comes from outside, so it is read as hostile input: sizes are checked before memory is taken, names may not
leave the folder, and nothing is executed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

from ffrt.bundle.manifest import MANIFEST, Manifest, from_json, to_json
from ffrt.bundle.specs import FileSpec
from ffrt.errors import BundleError

MAX_MANIFEST_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Bundle(Manifest):
    """A manifest whose files were checked. `digest`, the sha256 of the manifest, pins every byte of the bundle."""

    folder: Path
    digest: str

    @property
    def manifest(self) -> Manifest:
        """The manifest alone."""
        return Manifest(**{f.name: getattr(self, f.name) for f in fields(Manifest)})

    def path(self, file: str) -> Path:
        """The path of `file`, which must be in the manifest. Raises BundleError if it is not."""
        if file not in self.files:
            raise BundleError(f"{self.folder}: {file!r} is not a file of this bundle; it has {sorted(self.files)}")
        return self.folder / file


def find_bundle(bundle: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a bundle: the demo for None and "demo", else a path. Raises BundleError if there is none."""
    if bundle is not None and bundle != "demo":
        folder = Path(bundle)
        if not folder.is_dir():
            raise BundleError(
                f"no bundle folder at {str(folder)!r}: give a folder that holds {MANIFEST}, or 'demo'; "
                f"'python -m export demo --out {folder}' writes one from a checkout"
            )
        return folder
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "demo", package.parent.parent / "graphs" / "demo"]
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            return folder
    raise BundleError(
        f"the demo bundle is neither in {candidates[0]} nor in {candidates[1]}; in a checkout, type "
        f"'pip install -e \".[cpu,export]\"' and then 'python -m export demo --out graphs/demo'"
    )


def open_bundle(folder: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Read and check the bundle in `folder`; with `verify` False, names and sizes only, not digests.

    Raises BundleError on anything that the format (docs/bundle-format.md) does not allow.
    """
    folder = Path(folder)
    raw = _read_manifest(folder / MANIFEST)
    try:
        manifest = from_json(raw)
    except BundleError as error:
        raise BundleError(f"{folder / MANIFEST}: {error}") from None
    members = {f.name: getattr(manifest, f.name) for f in fields(Manifest)}
    bundle = Bundle(**members, folder=folder, digest=hashlib.sha256(raw).hexdigest())
    check_files(bundle, verify=verify)
    return bundle


def check_files(bundle: Bundle, *, verify: bool = True) -> None:
    """Compare the folder with the manifest: no file more and none less; sizes, then digests if `verify`."""
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


def list_files(
    folder: str | os.PathLike[str], known: Mapping[str, FileSpec] = MappingProxyType({})
) -> dict[str, FileSpec]:
    """Size and digest of every file now in `folder` but the manifest.

    The digests of files in `known` are taken from there, which saves minutes with large bundles.
    """
    folder = Path(folder)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != MANIFEST)
    return {
        name: known[name] if name in known else FileSpec(_regular_file_size(folder / name), _sha256(folder / name))
        for name in names
    }


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest, *, verify: bool = True) -> Bundle:
    """Write the manifest of `folder` in one rename; returns the bundle as read back, `verify` as for `open_bundle`.

    To publish a bundle in one step, write it into a sibling folder and rename that folder afterwards.
    """
    folder = Path(folder)
    raw = to_json(manifest)
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"the manifest has {len(raw)} bytes, the format allows {MAX_MANIFEST_BYTES}")
    temporary = folder.parent / f".{folder.name}.{MANIFEST}.{os.getpid()}"
    try:
        temporary.write_bytes(raw)
        os.replace(temporary, folder / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)
    return open_bundle(folder, verify=verify)


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
