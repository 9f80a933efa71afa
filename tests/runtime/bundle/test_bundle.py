"""A bundle is read as hostile input: every damage is refused with the file, what was wanted and what came."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffrt import Bundle, BundleError, bundle, open_bundle
from ffrt.families import KANDINSKY_1_0


def test_a_bundle_is_read_as_it_was_written(tiny: Bundle) -> None:
    again = open_bundle(tiny.folder)
    assert again == tiny
    assert again.digest == hashlib.sha256((tiny.folder / "manifest.json").read_bytes()).hexdigest()
    assert again.graphs["keyframe_unet"].inputs == KANDINSKY_1_0.contract["keyframe_unet"][0]
    assert again.read("".join(("manifest", ".json")), 1 << 20) == (tiny.folder / "manifest.json").read_bytes()
    assert set(again.files) == {p.name for p in tiny.folder.iterdir()} - {"manifest.json"}
    value = json.loads((tiny.folder / "manifest.json").read_text())
    assert value["format"] == "ffrt-bundle" and value["format_version"] == 1


def test_writing_leaves_nothing_beside_the_bundle(own_bundle: Bundle) -> None:
    assert [p.name for p in own_bundle.folder.parent.iterdir()] == ["bundle"]


def flip_byte(folder: Path) -> None:
    raw = bytearray((folder / "movq_decoder.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "movq_decoder.onnx").write_bytes(raw)


def truncate(folder: Path) -> None:
    os.truncate(folder / "tokenizer.json", 10)


def swap_for_folder(folder: Path) -> None:
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").mkdir()


def swap_for_fifo(folder: Path) -> None:
    (folder / "movq_decoder.onnx").unlink()
    os.mkfifo(folder / "movq_decoder.onnx")


def swap_for_device(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")


def swap_manifest_for_fifo(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def link_to_nowhere(folder: Path) -> None:
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").symlink_to("nowhere")


def link_to_itself(folder: Path) -> None:
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").symlink_to("LICENSE")


def grow_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", (1 << 20) + 1)


DAMAGE: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), ["manifest.json", "missing", "get the bundle again"]),
    "no graph": (lambda f: (f / "text_encoder.onnx").unlink(), ["text_encoder.onnx", "missing"]),
    "truncated": (truncate, ["tokenizer.json", "bytes expected, 10 found"]),
    "tampered": (flip_byte, ["movq_decoder.onnx", "sha256", "was changed"]),
    "folder for a file": (swap_for_folder, ["expected a plain file, got a folder", "LICENSE"]),
    "FIFO for a file": (swap_for_fifo, ["expected a plain file, got a FIFO", "movq_decoder.onnx"]),
    "device for a file": (swap_for_device, ["expected a plain file, got a device", "tokenizer.json"]),
    "FIFO for the manifest": (swap_manifest_for_fifo, ["expected a plain file, got a FIFO", "manifest.json"]),
    "link to nowhere": (link_to_nowhere, ["LICENSE is missing", "get the bundle again"]),
    "link to itself": (link_to_itself, ["LICENSE cannot be read"]),
    "huge manifest": (grow_manifest, ["manifest.json: expected at most 1048576 bytes, got 1048577"]),
    "cut manifest": (lambda f: os.truncate(f / "manifest.json", 100), ["manifest.json: not valid JSON"]),
    "binary manifest": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), ["manifest.json: not valid JSON"]),
    "deep manifest": (lambda f: (f / "manifest.json").write_text("[" * 200_000), ["manifest.json: not valid JSON"]),
    "list manifest": (lambda f: (f / "manifest.json").write_text("[]"), ["expected an object", "list"]),
    "twice a key": (lambda f: (f / "manifest.json").write_text('{"a": 1, "a": 2}'), ["given twice", "'a'"]),
    "nan": (lambda f: (f / "manifest.json").write_text('{"a": NaN}'), ["NaN is not a number"]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_bundle_is_refused(own_bundle: Bundle, case: str) -> None:
    damage, words = DAMAGE[case]
    damage(own_bundle.folder)
    with pytest.raises(BundleError) as caught:
        open_bundle(own_bundle.folder)
    for word in [str(own_bundle.folder), *words]:
        assert word in str(caught.value)


def test_digests_can_be_trusted_but_never_sizes(own_bundle: Bundle) -> None:
    flip_byte(own_bundle.folder)
    assert open_bundle(own_bundle.folder, verify=False).digest == own_bundle.digest
    truncate(own_bundle.folder)
    with pytest.raises(BundleError, match="10 found"):
        open_bundle(own_bundle.folder, verify=False)


def put(*path: str | int) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    def with_value(new: Any) -> Callable[[dict[str, Any]], None]:
        def change(value: Any) -> None:
            for key in path[:-1]:
                value = value[key]
            value[path[-1]] = new

        return change

    return with_value


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return change


FILE = {"bytes": 1, "sha256": "0" * 64}
UNET_X = ("graphs", "keyframe_unet", "inputs", 0)
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], list[str]]] = {
    "other format": (put("format")("zip"), ["format: expected 'ffrt-bundle'", "'zip'"]),
    "newer": (put("format_version")(2), ["format_version 2 is newer than 1", "pip install --upgrade ffrt"]),
    "older": (put("format_version")(0), ["format_version: expected 1, got 0"]),
    "version true": (put("format_version")(True), ["format_version", "whole number", "True"]),
    "other family": (put("family")("sora"), ["family: expected one of", "kandinsky-1.1", "'sora'"]),
    "no family": (drop("family"), ["manifest: expected the key 'family'"]),
    "wrong family": (put("family")("kandinsky-1.1"), ["keyframes.image", "kandinsky-1.1"]),
    "unknown key": (put("vidoe")({}), ["'vidoe'", "no other keys"]),
    "unknown inner key": (put("video", "heigth")(1), ["video", "'heigth'"]),
    "missing key": (drop("video", "width"), ["video", "the key 'width'"]),
    "wrong type": (put("video", "width")("128"), ["video.width: expected int, got '128'"]),
    "true for a number": (put("video", "width")(True), ["video.width", "int", "True"]),
    "true for a float": (put("keyframes", "threshold")(True), ["keyframes.threshold", "finite number"]),
    "infinite": (put("keyframes", "guidance_scale")(10**400), ["keyframes.guidance_scale", "finite number"]),
    "width": (put("video", "width")(40), ["video.width: expected n x 16, got 40"]),
    "huge width": (put("video", "width")(16 << 20), ["video.width"]),
    "steps": (put("keyframes", "num_inference_steps")(0), ["keyframes.num_inference_steps", "1 to 1000"]),
    "sampler": (put("keyframes", "sampler")("euler"), ["keyframes.sampler", "'dpm++'", "'euler'"]),
    "passes": (put("interpolation", "passes", 0, "fps")(30), ["passes", "rising fps", "[30, 30]"]),
    "slow pass": (put("keyframes", "fps")(9), ["passes: expected frame rates above", "[9, 8, 30]"]),
    "climbing path": (put("files", "../evil")(FILE), ["plain file names", "'../evil'"]),
    "absolute path": (put("files", "/etc/passwd")(FILE), ["plain file names", "'/etc/passwd'"]),
    "folder path": (put("files", "a/b")(FILE), ["plain file names", "'a/b'"]),
    "backslash path": (put("files", "a\\b")(FILE), ["plain file names"]),
    "hidden": (put("files", "..")(FILE), ["plain file names", "'..'"]),
    "listed, not there": (put("files", "more.data")(FILE), ["more.data is missing"]),
    "digest": (put("files", "LICENSE", "sha256")("0"), ["files.LICENSE.sha256: expected 64 hex digits"]),
    "huge size": (put("files", "LICENSE", "bytes")(1 << 60), ["LICENSE", "11 found"]),
    "graph file": (put("graphs", "movq_decoder", "file")("x.onnx"), ["files: expected an entry for 'x.onnx'"]),
    "graph outside": (put("graphs", "movq_decoder", "file")("../x.onnx"), ["files: expected an entry for '../x.onnx'"]),
    "graph of another format": (
        put("graphs", "movq_decoder", "file")("LICENSE"),
        ["graphs.movq_decoder.file: expected a name that ends in .onnx, got 'LICENSE'"],
    ),
    "tokenizer outside": (put("text", "tokenizer")("/etc/passwd"), ["files: expected an entry for '/etc/passwd'"]),
    "no such graph": (drop("graphs", "movq_encoder"), ["perhaps also", "movq_encoder"]),
    "input name": (put(*UNET_X, "name")("y"), ["graphs.keyframe_unet.inputs", "'x'", "'y'"]),
    "input dtype": (put(*UNET_X, "dtype")("complex64"), ["graphs.keyframe_unet.inputs[0].dtype", "complex64"]),
    "input rank": (put(*UNET_X, "shape")(["B"]), ["graphs.keyframe_unet.inputs", "rank"]),
    "axis": (put(*UNET_X, "shape")(["B+T", 4, "h", "w"]), ["graphs.keyframe_unet.inputs[0]", "'B+T'"]),
    "axis 0": (put(*UNET_X, "shape")(["B*T", 0, "h", "w"]), ["graphs.keyframe_unet.inputs[0]", "positive sizes"]),
    "long name": (put("name")("x" * 201), ["name: expected 1 to 200 characters"]),
    "half a pair": (put("name")("a\ud800"), ["not valid JSON", "surrogates not allowed"]),
    "half a pair in a key": (put("created_with", "\udfff")("1"), ["not valid JSON", "surrogates not allowed"]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_manifest_that_breaks_the_format_is_refused(own_bundle: Bundle, case: str) -> None:
    change, words = CHANGES[case]
    path = own_bundle.folder / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(BundleError) as caught:
        open_bundle(own_bundle.folder)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_not_of_the_bundle_has_no_path(tiny: Bundle) -> None:
    with pytest.raises(BundleError, match="'../x' is not a file of this bundle"):
        tiny.path("../x")


def test_a_folder_or_the_demo_is_found(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bundle.find_bundle(str(tiny.folder)) == tiny.folder
    with pytest.raises(BundleError, match=r"no bundle folder at '.*nowhere'.*python -m export demo --out"):
        bundle.find_bundle(tmp_path / "nowhere")
    package = tmp_path / "runtime" / "ffrt"
    package.mkdir(parents=True)
    monkeypatch.setattr("ffrt.bundle.folder.__file__", str(package / "bundle" / "folder.py"))
    with pytest.raises(BundleError, match="python -m export demo --out graphs/demo"):
        bundle.find_bundle()
    for folder in (tmp_path / "graphs" / "demo", package / "demo"):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        assert bundle.find_bundle("demo") == bundle.find_bundle() == folder
