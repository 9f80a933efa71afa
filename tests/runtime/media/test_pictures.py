"""Pictures from outside become the frame that a viewer shows, or a RequestError: no other picture, no hang."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ffrt import RequestError
from ffrt.media.image import FORMATS, MAX_FILE_BYTES, fit_image, open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = (np.arange(54, dtype=np.uint32) * 65535 // 53).astype(np.uint16).reshape(6, 9)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return exif


def test_every_way_to_give_a_picture_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, path = Image.fromarray(PIXELS), tmp_path / "plain.png"
    image.save(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with open(path, "rb") as file:
        given_ones = (PIXELS, image, image.convert("RGBA"), path, str(path), os.fsencode(path), "~/plain.png", file)
        for one in (*given_ones, file, saved(image)):  # a file is read from its beginning, each time
            np.testing.assert_array_equal(open_image(one), PIXELS)


def test_a_picture_is_turned_upright_however_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    Image.fromarray(PIXELS).save(path, exif=turned())
    with Image.open(path) as image:
        for one in (path, io.BytesIO(path.read_bytes()), image):
            np.testing.assert_array_equal(open_image(one), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bits_of_grey_become_8(mode: str) -> None:
    image = Image.frombytes(mode, (9, 6), GREY.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    expected = np.repeat(np.round(GREY / 257).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(open_image(image), expected)
    np.testing.assert_array_equal(open_image(saved(image, "TIFF", exif=turned())), np.rot90(expected, -1))
    assert open_image(saved(Image.fromarray(GREY), transparency=65535))[-1, -1].tolist() == [0, 0, 0]


def test_what_is_transparent_lies_on_black() -> None:
    clear = np.dstack([np.full((2, 3, 3), 200, np.uint8), np.array([[0, 255, 128]] * 2, np.uint8)])
    image = Image.fromarray(clear)
    found = {"RGBA": open_image(image), "RGBa": open_image(image.convert("RGBa"))}
    found |= {"PA": open_image(image.convert("PA")), "P": open_image(saved(image.quantize()))}
    grey = image.convert("LA")
    found |= {"LA": open_image(grey), "La": open_image(grey.convert("La"))}
    for mode, picture in found.items():
        np.testing.assert_allclose(picture[0, :, 0], [0, 200, 100], atol=1, err_msg=mode)
    key = saved(Image.fromarray(clear[..., :3]), transparency=(200, 200, 200))
    assert not open_image(key).any()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_what_pillow_shows(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    np.testing.assert_array_equal(open_image(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("array", [GREY.astype(np.int32), GREY.astype(np.float32) / 65535])
def test_modes_without_a_white_are_refused(array: np.ndarray) -> None:
    for image in (Image.fromarray(array), saved(Image.fromarray(array), "TIFF")):
        with pytest.raises(RequestError, match=r"got mode '[IF]', which does not say what is white; scale it and give"):
            open_image(image)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    file = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert open_image(file).min() == 255
    with Image.open(file) as image:
        image.seek(1)  # an open image is taken as it stands
        assert open_image(image).max() == 0


def test_an_array_is_copied() -> None:
    array = PIXELS.copy()
    taken = open_image(array)
    array[:] = 0
    np.testing.assert_array_equal(taken, PIXELS)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: 10 bytes each, and each decodes the whole picture."""
    plain = saved(Image.fromarray(PIXELS), "JPEG", progressive=True, comment=b"\xff\xda" * 200).getvalue()
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + (plain[last:-2]) * count + b"\xff\xd9" + b"\xff\xda" * 200


def closed() -> Image.Image:
    image = Image.open(saved(Image.fromarray(PIXELS)))
    image.close()
    return image


FILES = {kind: saved(Image.fromarray(PIXELS), kind).getvalue() for kind in FORMATS}
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: folder / "none.png", r"none.png' cannot be read .No such file"),
    "text": (lambda folder: io.BytesIO(b"not a picture"), "cannot be read as a picture"),
    "empty": (lambda folder: io.BytesIO(), "cannot be read as a picture"),
    "cut": (lambda folder: io.BytesIO(saved(Image.fromarray(PIXELS)).getvalue()[:45]), "cannot be read as a picture"),
    "cut and opened": (lambda folder: Image.open(io.BytesIO(FILES["PNG"][:-60])), "cannot be read as a picture"),
    "closed": (lambda folder: closed(), "cannot be read as a picture"),
    "folder": (lambda folder: folder, "expected a plain file, got a folder"),
    "FIFO": (lambda folder: os.mkfifo(folder / "pipe.png") or folder / "pipe.png", "got a FIFO"),
    "device": (lambda folder: "/dev/zero", "got a device"),
    "no name": (lambda folder: "", "image: expected a path, got ''"),
    "a NUL": (lambda folder: "a\0.png", "which is no file name"),
    "half a character": (lambda folder: "\ud800.png", "image: expected a path"),
    "a bomb": (lambda folder: io.BytesIO(bomb()), "image: .*pixels"),
    "many scans": (lambda folder: io.BytesIO(of_scans(100)), "expected a JPEG of at most 100 scans, got 1"),
    "a text file": (lambda folder: io.StringIO("x"), "open in binary mode, got str"),
    "grey array": (lambda folder: np.zeros((4, 4), np.uint8), r"uint8 \[H, W, 3\], got uint8 \[4, 4\]"),
    "float array": (lambda folder: np.zeros((4, 4, 3), np.float32), r"got float32 .*\(255 \* image\)"),
    "no pixels": (lambda folder: np.zeros((0, 4, 3), np.uint8), "got uint8"),
    "no picture": (lambda folder: 7, "got int"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pictures_are_refused(case: str, tmp_path: Path) -> None:
    make, words = BAD[case]
    with pytest.raises(RequestError, match=words) as told:
        open_image(make(tmp_path))
    assert " at 0x" not in str(told.value), "an address in memory is for nobody, and a client may be a stranger"


def test_large_files_are_refused_and_scans_counted_in_the_picture_alone(tmp_path: Path) -> None:
    assert open_image(io.BytesIO(of_scans(1))).shape == PIXELS.shape  # comments and what follows are no scans
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(RequestError, match="at most 256 MB"):
        open_image(tmp_path / "large.png")


@given(st.sampled_from(FORMATS), st.integers(0, 300), st.binary(min_size=1, max_size=4))
def test_a_damaged_picture_is_read_or_refused(kind: str, at: int, patch: bytes) -> None:
    data = bytearray(FILES[kind])
    data[at : at + len(patch)] = patch
    try:
        assert open_image(io.BytesIO(data)).dtype == np.uint8
    except RequestError as error:
        assert str(error).startswith("image: ")


def test_a_very_wide_picture_keeps_its_middle() -> None:
    """Four times as wide as high: the middle quarter is shown, not the left one."""
    strips = np.repeat(np.repeat(np.uint8([[10, 80, 160, 240]]), 64, 1), 64, 0)[..., None].repeat(3, 2)  # [64, 256, 3]
    for image, height, width in ((strips, 64, 64), (strips.transpose(1, 0, 2), 64, 64)):
        shown = fit_image(np.ascontiguousarray(image), height, width)
        assert set(np.unique(shown)) == {80, 160}


def test_what_is_darker_than_the_see_through_grey_is_seen() -> None:
    grey = np.uint16([[1000, 30_000, 65_535]]).repeat(2, 0)
    file = saved(Image.fromarray(grey), transparency=30_000)
    assert open_image(file)[0, :, 0].tolist() == [4, 0, 255]
