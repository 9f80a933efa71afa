"""A caller's picture -> the first frame of a video: opened, resized and cropped as in the 1.1 release.

Pillow is imported when there is a picture.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import RequestError
from ffrt.notes import Note

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | os.PathLike[str] | NDArray[np.uint8] | Image
    """A picture as a caller may give it: a file, uint8 [H, W, 3] or a PIL image."""

MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 1 << 26


def open_image(image: object) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a file (PNG, JPEG, WebP, BMP, TIFF or GIF; upright, as its EXIF says), array or PIL image.

    Raises RequestError for anything else, and for more than 2**26 pixels or 256 MB, before they are decoded.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise RequestError(f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        _check_pixels(image.shape[1], image.shape[0])
        return image
    if isinstance(image, Image.Image):
        _check_pixels(*image.size)
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, (str, os.PathLike)):
        raise RequestError(f"image: expected a file, uint8 [H, W, 3] or a PIL image, got {type(image).__name__}")
    path = Path(image)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"image: expected at most {MAX_FILE_BYTES >> 20} MB, got {path.stat().st_size} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is narrower
            with Image.open(path, formats=("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")) as file:
                _check_pixels(*file.size)
                return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, UnidentifiedImageError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"image: {str(path)!r} cannot be read as a picture ({error}); give a PNG or JPEG") from error


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


def _check_pixels(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise RequestError(f"image: expected 1 to {MAX_PIXELS} pixels, got {width}x{height}")
