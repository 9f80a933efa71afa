"""A checkpoint is a file from outside: whatever it holds, it is read in bounds or refused as a RequestError."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffrt import Checkpoint, Pipeline, Request, RequestError, Stage

REQUEST = Request("a red circle", fps=8, num_inference_steps=1)
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def checkpoint(pipe: Pipeline) -> Checkpoint:
    """The end of the keyframes."""
    generation = pipe.generate(REQUEST)
    for step in generation:
        if step.stage is Stage.INTERPOLATION:
            break
    assert generation.checkpoint is not None and generation.checkpoint.after is Stage.KEYFRAMES
    return generation.checkpoint


@pytest.fixture(scope="module")
def saved(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "c.npz"
    checkpoint.save(path)
    return path


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(**changes: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        values = json.loads(bytes(np.load(io.BytesIO(members["header.npy"]))))
        members["header.npy"] = npy(np.frombuffer(json.dumps({**values, **changes}).encode(), np.uint8))

    return change


def member(name: str, data: bytes) -> Callable[[Members], None]:
    return lambda members: members.update({name: data})


def claims(shape: str) -> Callable[[Members], None]:
    """The latents with another shape in their header, which is padded to the same length."""

    def change(members: Members) -> None:
        raw = members["latents.npy"]
        at = raw.index(b"(3, 4, 4, 4), }")
        members["latents.npy"] = raw[:at] + (shape + ", }").encode().ljust(15 + 20)[:35] + raw[at + 35 :]

    return change


DAMAGE: dict[str, Callable[[Members], None]] = {
    "nested without end": member("header.npy", npy(np.frombuffer(b"[" * 100_000, np.uint8))),
    "a header that is a number": member("header.npy", npy(np.array(3))),
    "a header of texts": member("header.npy", npy(np.array(["x"]))),
    "a header that is a list": member("header.npy", npy(np.frombuffer(b"[1]", np.uint8))),
    "a request that is a list": header(request=[1]),
    "a request with a picture": header(request={"prompt": "x", "image": "/etc/passwd"}),
    "an unknown option": header(request={"prompt": "x", "colour": 1}),
    "no such stage": header(after="coffee"),
    "a digest that is a list": header(bundle_digest=[1]),
    "a rate that is a text": header(fps="8"),
    "a picture of floats": member("frame.npy", npy(np.zeros((4, 4, 3)))),
    "a picture of two axes": member("image.npy", npy(np.zeros((4, 4), np.uint8))),
    "latents that are not finite": member("latents.npy", npy(np.full((3, 4, 4, 4), np.nan, np.float32))),
    "an unknown array": member("more.npy", npy(np.zeros(3))),
    "an array in a folder": member("x/latents.npy", npy(np.zeros(3, np.float32))),
    "another kind of file": member("latents.npy", b"\x93NUMPY\x09\x00"),
    "a header of code": member("latents.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 12) + b"__import__()"),
    "a terabyte": claims("(99999, 9999999)"),
    "a shape below zero": claims("(-3, -4, 4, 4)"),
    "too few": claims("(2, 4, 4, 4)"),
}


def rewrite(source: Path, target: Path, change: Callable[[Members], object], compression: int = 0) -> Path:
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return target


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_hostile_checkpoint_is_refused(saved: Path, tmp_path: Path, damage: str) -> None:
    with pytest.raises(RequestError, match="is no checkpoint of ffrt"):
        Checkpoint.load(rewrite(saved, tmp_path / "c.npz", DAMAGE[damage]))


def test_archives_that_grow_are_refused_before_they_do(saved: Path, tmp_path: Path) -> None:
    def large(members: Members) -> None:
        members["latents.npy"] = npy(np.zeros((3, 4, 1000, 1000), np.float32))

    with pytest.raises(RequestError, match=r"header\.npy is compressed"):
        Checkpoint.load(rewrite(saved, tmp_path / "c.npz", large, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for number in range(2000):
            archive.writestr(f"{number:04}.npy", b"")
    with pytest.raises(RequestError, match="no .npz as numpy writes it"):
        Checkpoint.load(tmp_path / "many.npz")
    with open(tmp_path / "huge.npz", "wb") as file:
        file.truncate((4 << 30) + 1)
    with pytest.raises(RequestError, match="expected at most 4294967296"):
        Checkpoint.load(tmp_path / "huge.npz")


def test_arrays_that_lie_in_each_other_are_refused(saved: Path, tmp_path: Path) -> None:
    """Four names for the same bytes would be four times the memory."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("frame.npy", npy(np.zeros((64, 64, 3), np.uint8)))
        (frame,) = archive.infolist()
    with zipfile.ZipFile(saved) as archive:
        header = archive.read("header.npy")
    raw = inner.getvalue()
    latents = npy(np.frombuffer(raw.ljust(-(-len(raw) // 256) * 256, b"\0"), np.float32).reshape(-1, 4, 4, 4))
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("header.npy", header)
        archive.writestr("latents.npy", latents)
        outer = archive.getinfo("latents.npy").header_offset
        frame.header_offset = outer + 30 + len("latents.npy") + latents.index(b"PK")
        archive.filelist.append(frame)
    with pytest.raises(RequestError, match="overlap|Overlap"):
        Checkpoint.load(tmp_path / "c.npz")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for path, words in (
        (tmp_path / "pipe.npz", "got a FIFO"),
        (tmp_path, "got a folder"),
        (tmp_path / "none.npz", "No such file"),
        (5, "resume: expected a path, got 5"),
    ):
        with pytest.raises(RequestError, match=words):
            Checkpoint.load(path)  # type: ignore[arg-type]


def test_arrays_of_other_shapes_do_not_go_on(pipe: Pipeline, checkpoint: Checkpoint) -> None:
    latents = checkpoint.latents
    assert latents is not None
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"latents": None}, r"expected latents \(3, 4, 4, 4\) and their first frame, got None"),
        ({"latents": latents[:2]}, r"got \(2, 4, 4, 4\)"),
        ({"latents": np.zeros((3, 4, 4, 400), np.float32)}, "got"),
        ({"after": Stage.TEXT, "fps": None}, "expected latents None"),
        ({"after": Stage.DECODING}, r"expected the end of one of \[\('text', None\), \('keyframes', 2\)"),
        ({"fps": 30}, r"got \('keyframes', 30\)"),
    ]
    for changes, words in wrong:
        with pytest.raises(RequestError, match=words):
            pipe.generate(REQUEST, resume=replace(checkpoint, **changes))
    with pytest.raises(RequestError, match="resume: expected a Checkpoint, got 'c.npz'"):
        pipe.generate(REQUEST, resume="c.npz")  # type: ignore[arg-type]


def test_a_request_that_json_cannot_hold_is_not_saved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    odd = replace(checkpoint, request=replace(REQUEST, fps=object()))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="expected a request of text and numbers, got object"):
        odd.save(tmp_path / "c.npz")


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=4))
def test_a_damaged_checkpoint_is_read_or_refused(saved: Path, at: int, patch: bytes) -> None:
    data = bytearray(saved.read_bytes())
    at %= len(data)
    data[at : at + len(patch)] = patch
    path = saved.with_name("damaged.npz")
    path.write_bytes(data)
    try:
        Checkpoint.load(path)
    except RequestError as error:
        assert len(str(error)) < 1000
