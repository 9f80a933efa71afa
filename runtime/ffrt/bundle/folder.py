"""A bundle is a folder of graphs, a tokenizer and `manifest.json`; it is found, opened, checked and written here.

A bundle comes from outside, so it is read as hostile input: sizes are checked before memory is taken, names may not
leave the folder, and nothing is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType

from ffrt.bundle.files import FileState, open_file, open_folder, read, sha256
from ffrt.bundle.manifest import FORMAT, MANIFEST, Manifest, from_json, to_json
from ffrt.bundle.onnx_file import MAX_GRAPH_BYTES, WEIGHTS_SUFFIX, Walked, check_graph
from ffrt.bundle.opened import Bundle
from ffrt.bundle.specs import FileSpec
from ffrt.errors import BundleError, OutputError
from ffrt.files import AnyPath, check_utf8, lasting, shown
from ffrt.output.whole_file import whole_file
from ffrt.output.whole_folder import check_folder

MAX_MANIFEST_BYTES = 1 << 20
_AGAIN = "get the bundle again"


def find_bundle(bundle: AnyPath | None = None) -> Path:
    """The folder of a bundle, absolute: the demo for None and "demo", else a path.

    Raises BundleError if there is none, and RequestError for what is no path.
    """
    if bundle is not None and not (isinstance(bundle, str) and bundle == "demo"):
        folder = lasting("bundle", bundle)
        if not os.path.isdir(folder):  # Path.is_dir raises where a folder above may not be searched
            raise BundleError(
                f"no bundle folder at {shown(folder)!r}: give a folder that holds {MANIFEST}, or 'demo'; "
                f"'python -m export demo --out {shown(folder)}' writes one from a checkout"
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


def open_bundle(folder: AnyPath, *, verify: bool = True) -> Bundle:
    """Read and check the bundle in `folder`; with `verify` False, names, sizes and graphs, but no digests.

    Files that the manifest does not list are nobody's business. Raises BundleError on anything that the format
    (docs/bundle-format.md) does not allow, and RequestError for what is no path.
    """
    folder = lasting("folder", folder)
    with open_folder(folder) as (descriptor, _):
        with open_file(folder / MANIFEST, descriptor) as file:
            raw, state = read(folder / MANIFEST, file, MAX_MANIFEST_BYTES)
        try:
            manifest = from_json(raw)
        except BundleError as error:
            raise BundleError(f"{shown(folder / MANIFEST)}: {error}") from None
        for name, want in manifest.files.items():
            with open_file(folder / name, descriptor) as file:
                found = FileState.of(file)
            if found.bytes != want.bytes:
                raise BundleError(f"{shown(folder / name)}: {want.bytes} bytes expected, {found.bytes} found; {_AGAIN}")
        states, walked = {MANIFEST: state}, dict[str, Walked]()
        graphs = {file for graph in manifest.graphs.values() for file in graph.files}
        for name in manifest.files:
            states[name], graph = _check_file(folder / name, descriptor, manifest, graphs, verify)
            if graph is not None:
                walked[name] = graph
    members = {f.name: getattr(manifest, f.name) for f in fields(Manifest)}
    return Bundle(**members, folder=folder, digest=hashlib.sha256(raw).hexdigest(), states=states, walked=walked)


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

    `ffrt.output.whole_folder` publishes a whole bundle in one step.
    """
    folder = Path(folder)
    raw = to_json(manifest)
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"the manifest has {len(raw)} bytes, the format allows {MAX_MANIFEST_BYTES}")
    with whole_file(folder / MANIFEST, beside=folder.parent) as part:
        part.write_bytes(raw)
    return open_bundle(folder, verify=verify)


def check_place(out: Path) -> None:
    """Raise OutputError or RequestError if no bundle can be written to `out`: nothing but a bundle is replaced."""
    check_utf8("out", out)
    around = next((folder for folder in Path(os.path.realpath(out)).parents if _listed(folder) is not None), None)
    if around is not None:
        raise OutputError(f"out: {str(out)!r} lies in the bundle {str(around)!r}; give a folder outside it")
    check_folder(out, why_no_bundle)


def why_no_bundle(folder: Path) -> str | None:
    """Why a folder may not be replaced by a bundle: it is none itself, or holds something else; None if it may."""
    listed = _listed(folder)
    if listed is None:
        return "is there and no bundle; give a new folder, or that of a bundle"
    more = sorted(entry.name for entry in folder.iterdir() if entry.name not in listed)
    return (
        f"holds {more[0]!r}, which is not of the bundle there; move it away, or give another folder" if more else None
    )


def _listed(folder: Path) -> set[str] | None:
    """The files that a bundle of any version names, and its manifest; None if the folder is no bundle."""
    try:
        with open_folder(folder) as (descriptor, _), open_file(folder / MANIFEST, descriptor) as file:
            value = json.loads(read(folder / MANIFEST, file, MAX_MANIFEST_BYTES)[0])
        return {MANIFEST, *value["files"]} if value["format"] == FORMAT else None
    except (BundleError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _check_file(
    path: Path, folder: int, manifest: Manifest, graphs: Collection[str], verify: bool
) -> tuple[FileState, Walked | None]:
    """Check the content of one file; its state, and what a graph says of itself."""
    want = manifest.files[path.name].sha256
    data = b""
    with open_file(path, folder) as file:
        if path.name in graphs:
            data, state = read(path, file, MAX_GRAPH_BYTES)
            found = hashlib.sha256(data).hexdigest() if verify else want
        else:
            found, state = sha256(path, file) if verify else (want, FileState.of(file))
    if found != want:
        raise BundleError(f"{shown(path)}: sha256 {want} expected, {found} found: the file was changed; {_AGAIN}")
    if path.name not in graphs:
        return state, None
    weights = {name: spec.bytes for name, spec in manifest.files.items() if name.endswith(WEIGHTS_SUFFIX)}
    return state, check_graph(path, data, weights)


def _spec_of(path: Path, folder: int) -> FileSpec:
    with open_file(path, folder) as file:
        digest, state = sha256(path, file)
    return FileSpec(state.bytes, digest)
