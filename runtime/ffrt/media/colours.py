"""Colours on the way to RGB and back: one matrix both ways, and the tags of the file as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ffrt.media.probe import Colours

if TYPE_CHECKING:
    from av import VideoFrame

RGB, UNSAID = 0, 2
FULL, LIMITED = 2, 1
BT709 = Colours(1, 1, 1, LIMITED)
EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000
"""Flags of swscale: bicubic, colour at full resolution both ways, and rounding. Without them a picture gets darker by
one level of 255 on the way to RGB and back. PyAV takes them as a number, whichever of them it names."""
BT601 = 5
MATRICES = {1: 1, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: 9, 10: 9}
"""Matrix of H.273 -> its number in swscale, since PyAV names them all from version 17 on. One that is not said is read
as BT.601 and written as it was read."""


def to_rgb(frame: VideoFrame, colours: Colours) -> NDArray[np.uint8]:
    """A decoded frame of any pixel format as uint8 [H, W, 3]."""
    from av.video.reformatter import ColorRange

    if colours.matrix == RGB:
        return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)  # no colour is converted
    levels = ColorRange.JPEG if colours.range == FULL else ColorRange.MPEG
    matrix = MATRICES.get(colours.matrix, BT601)
    picture = frame.reformat(
        format="rgb24",
        src_colorspace=matrix,
        src_color_range=levels,
        dst_color_range=ColorRange.JPEG,
        interpolation=EXACT,
    )
    return np.asarray(picture.to_ndarray(), np.uint8)


def from_rgb(frame: NDArray[np.uint8], colours: Colours, pixels: str) -> VideoFrame:
    """A frame uint8 [H, W, 3] as a picture of the format `pixels`, such as yuv420p, in the colours of a file."""
    from av import VideoFrame
    from av.video.reformatter import ColorRange

    picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    levels = ColorRange.JPEG if colours.range == FULL else ColorRange.MPEG
    matrix = MATRICES.get(colours.matrix, BT601)
    return picture.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=levels, interpolation=EXACT)


def written(colours: Colours) -> Colours:
    """The colours that a file of ours has for those of its source: RGB becomes BT.709."""
    return BT709 if colours.matrix == RGB else colours


def tag(context: Any, colours: Colours) -> None:
    """Put the tags on a codec context of PyAV."""
    context.color_primaries, context.color_trc = colours.primaries, colours.transfer
    context.colorspace, context.color_range = colours.matrix, colours.range
