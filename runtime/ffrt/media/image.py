"""A caller's picture -> the first frame of a video: opened, resized and cropped as in the 1.1 release.

Pillow is imported when there is a picture.
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ffrt.checks import Note, describe
from ffrt.errors import RequestError
from ffrt.files import limit_of, opened, path_of

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | bytes | os.PathLike[str] | os.PathLike[bytes] | BinaryIO | NDArray[np.uint8] | Image
    """A picture as a caller may give it: a file, by its path or open, uint8 [H, W, 3], or a PIL image."""

MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 1 << 26
MAX_SCANS = 100
"""Scans of a JPEG, each of which is decoded over the whole picture; libtiff has the same limit."""
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # but for 0xff00, a stuffed byte, and restarts
_SCAN, _END = b"\xda", b"\xd9"
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


def open_image(image: object) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a file (PNG, JPEG, WebP, BMP, TIFF or GIF; by its path, or open), an array or a PIL image.

    Turned upright, as its EXIF says; what is transparent lies on black; 16-bit grey is scaled to 8; of an animation the
    first frame. Raises RequestError for anything else, for PIL's modes I and F, which do not say what is white, and for
    more than 2**26 pixels or 256 MB, before they are decoded.
    """
    from PIL import Image

    if isinstance(image, np.ndarray):
        return _checked(image)
    if isinstance(image, Image.Image):
        _check_pixels(*image.size)
        return _decoded(image)
    if callable(getattr(image, "read", None)):
        return _decoded(io.BytesIO(_all_of(image)))
    if not isinstance(image, (str, bytes, os.PathLike)):
        raise RequestError(f"image: expected a file, uint8 [H, W, 3] or a PIL image, got {type(image).__name__}")
    path = path_of("image", image)
    with opened("image", path) as file:
        return _decoded(io.BytesIO(_all_of(file)), f"{str(path)!r} ")


def fit_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture shrunk until one side fits and cropped to its centre: uint8 [H, W, 3] -> [height, width, 3].

    As released, bicubic, and never enlarged: a smaller picture stands in black (`too_small`).
    """
    from PIL import Image

    picture = Image.fromarray(image)
    shrink = max(1, min(picture.width / width, picture.height / height))
    picture = picture.resize((round(picture.width / shrink), round(picture.height / shrink)), Image.Resampling.BICUBIC)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return np.asarray(picture.crop((left, top, left + width, top + height)))


def too_small(image: NDArray[np.uint8], height: int, width: int) -> Note | None:
    """A note if a picture uint8 [H, W, 3] is smaller than a video of `height` and `width`."""
    if image.shape[0] >= height and image.shape[1] >= width:
        return None
    return Note(
        "image",
        f"image: {image.shape[0]}x{image.shape[1]} is smaller than the video's {height}x{width} and stands in black; "
        "enlarge it, or ask for a smaller video",
    )


def _checked(array: NDArray[Any]) -> NDArray[np.uint8]:
    """A copy of an array of the caller, who may go on writing into it."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        advice = "; of values from 0 to 1: (255 * image).round().astype('uint8')" if array.dtype.kind == "f" else ""
        raise RequestError(f"image: expected uint8 [H, W, 3], got {describe(array)}{advice}")
    _check_pixels(array.shape[1], array.shape[0])
    return np.array(array, np.uint8)


def _check_pixels(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise RequestError(f"image: expected 1 to {MAX_PIXELS} pixels, got {width}x{height}")


def _all_of(file: Any) -> bytes:
    """What an open file holds, from its beginning as Pillow reads it."""
    try:
        if file.seekable():
            file.seek(0)
        data = file.read(MAX_FILE_BYTES + 1)
    except Exception as error:  # the file may be an object of anybody
        raise RequestError(f"image: expected a file that is open for reading, got {error!r:.200} from it") from error
    if not isinstance(data, bytes):
        raise RequestError(f"image: expected a file that is open in binary mode, got {type(data).__name__} from it")
    if len(data) > MAX_FILE_BYTES:
        raise RequestError(f"image: expected at most {MAX_FILE_BYTES >> 20} MB, got more")
    if data.startswith(b"\xff\xd8") and (scans := _scans(data)) > MAX_SCANS:
        raise RequestError(f"image: expected a JPEG of at most {MAX_SCANS} scans, got {scans}; save it anew")
    return data


def _scans(jpeg: bytes) -> int:
    """How many scans the first picture of a JPEG file has (ITU-T T.81, annex B): segments are skipped by length."""
    count, at = 0, 2
    while (marker := _MARKER.search(jpeg, at)) is not None and marker[1] != _END:
        count += marker[1] == _SCAN
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    return count


def _decoded(source: Image | io.BytesIO, shown: str = "") -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(source, Image.Image):
            return _rgb(source)
        with Image.open(source, formats=FORMATS) as picture:
            _check_pixels(*picture.size)
            return _rgb(picture)
    except RequestError:
        raise
    except UnidentifiedImageError as error:  # which names an object of ours, and its address
        raise RequestError(
            f"image: {shown}cannot be read as a picture (of no known kind, or damaged); give a PNG or JPEG"
        ) from error
    except Exception as error:  # a damaged picture raises nearly anything
        limit = limit_of(error)
        told = (
            f"cannot be read as a picture ({error}); give a PNG or JPEG"
            if limit is None
            else f"cannot be read: {limit}"
        )
        raise RequestError(f"image: {shown}{told}") from error


def _rgb(picture: Image) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a Pillow image of any mode that says what is black and what is white."""
    from PIL import Image, ImageOps

    if picture.mode in ("I", "F"):
        raise RequestError(
            f"image: expected a picture of 8 or 16 bits, got mode {picture.mode!r}, which does not say what is white; "
            "scale it and give uint8 [H, W, 3]"
        )
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16"):
        grey = np.asarray(upright).astype(np.uint32)
        shown = np.where(grey == upright.info.get("transparency", -1), 0, (grey + 128) // 257)
        return np.repeat(shown.astype(np.uint8)[..., None], 3, axis=2)
    if upright.mode == "La":
        upright = upright.convert("LA")
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.new("RGB", clear.size)
        upright.paste(clear, mask=clear.getchannel("A"))
    return np.asarray(upright.convert("RGB"))
