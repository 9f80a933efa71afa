"""A bundle is a folder of graphs, a tokenizer and `manifest.json`; it is found, opened, checked and written here.

A bundle comes from outside, so it is read as hostile input: sizes are checked before memory is taken, names may not
leave the folder, and nothing is executed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType

from ffrt.bundle.files import FileState, open_file, open_folder, read, sha256
from ffrt.bundle.manifest import MANIFEST, Manifest, from_json, to_json
from ffrt.bundle.onnx_file import MAX_GRAPH_BYTES, WEIGHTS_SUFFIX, check_graph
from ffrt.bundle.opened import Bundle
from ffrt.bundle.specs import FileSpec
from ffrt.errors import BundleError

MAX_MANIFEST_BYTES = 1 << 20
_AGAIN = "get the bundle again"


def find_bundle(bundle: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a bundle: the demo for None and "demo", else a path. Raises BundleError if there is none."""
    if bundle is not None and bundle != "demo":
        folder = Path(bundle)
        if not os.path.isdir(folder):  # Path.is_dir raises where a folder above may not be searched
            raise BundleError(
                f"no bundle folder at {str(folder)!r}: give a folder that holds {MANIFEST}, or 'demo'; "
                f"'python -m export demo --out {folder}' writes one from a checkout"
            )
        return folder
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "demo", package.parent.parent / "graphs" / "demo"]
    for folder in candidates:
        if os.path.isfile(folder / MANIFEST):
            return folder
    raise BundleError(
        f"the demo bundle is neither in {candidates[0]} nor in {candidates[1]}; in a checkout, type "
        f"'pip install -e \".[cpu,export]\"' and then 'python -m export demo --out graphs/demo'"
    )


def open_bundle(folder: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Read and check the bundle in `folder`; with `verify` False, names, sizes and graphs, but no digests.

    Files that the manifest does not list are nobody's business. Raises BundleError on anything that the format
    (docs/bundle-format.md) does not allow.
    """
    folder = Path(os.path.abspath(folder))
    with open_folder(folder) as (descriptor, _):
        with open_file(folder / MANIFEST, descriptor) as file:
            raw, state = read(folder / MANIFEST, file, MAX_MANIFEST_BYTES)
        try:
            manifest = from_json(raw)
        except BundleError as error:
            raise BundleError(f"{folder / MANIFEST}: {error}") from None
        for name, want in manifest.files.items():
            with open_file(folder / name, descriptor) as file:
                found = FileState.of(file)
            if found.bytes != want.bytes:
                raise BundleError(f"{folder / name}: {want.bytes} bytes expected, {found.bytes} found; {_AGAIN}")
        states, weights = {MANIFEST: state}, {}
        graphs = {file for graph in manifest.graphs.values() for file in graph.files}
        for name in manifest.files:
            states[name], weights[name] = _check_file(folder / name, descriptor, manifest, graphs, verify)
    members = {f.name: getattr(manifest, f.name) for f in fields(Manifest)}
    return Bundle(**members, folder=folder, digest=hashlib.sha256(raw).hexdigest(), states=states, weights=weights)


def list_files(
    folder: str | os.PathLike[str], known: Mapping[str, FileSpec] = MappingProxyType({})
) -> dict[str, FileSpec]:
    """Size and digest of every file now in `folder` but the manifest.

    The digests of files in `known` are taken from there, which saves minutes with large bundles.
    """
    folder = Path(folder)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != MANIFEST)
    with open_folder(folder) as (descriptor, _):
        return {name: known[name] if name in known else _spec_of(folder / name, descriptor) for name in names}


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


def _check_file(
    path: Path, folder: int, manifest: Manifest, graphs: Collection[str], verify: bool
) -> tuple[FileState, tuple[str, ...]]:
    """Check the content of one file; its state, and of a graph the files with its weights."""
    want = manifest.files[path.name].sha256
    data = b""
    with open_file(path, folder) as file:
        if path.name in graphs:
            data, state = read(path, file, MAX_GRAPH_BYTES)
            found = hashlib.sha256(data).hexdigest() if verify else want
        else:
            found, state = sha256(path, file) if verify else (want, FileState.of(file))
    if found != want:
        raise BundleError(f"{path}: sha256 {want} expected, {found} found: the file was changed; {_AGAIN}")
    if path.name not in graphs:
        return state, ()
    weights = {name: spec.bytes for name, spec in manifest.files.items() if name.endswith(WEIGHTS_SUFFIX)}
    return state, check_graph(path, data, weights)


def _spec_of(path: Path, folder: int) -> FileSpec:
    with open_file(path, folder) as file:
        digest, state = sha256(path, file)
    return FileSpec(state.bytes, digest)
