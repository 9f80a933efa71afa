"""How stored frames are turned to be upright: what cameras write as a display matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import VideoReadError
from ffrt.files import shown

if TYPE_CHECKING:
    from av import VideoFrame

Turn = tuple[int, int, int, int]
"""a, b, c, d: a pixel at (x, y) is shown at (a x + c y, b x + d y), y pointing down (ISO 14496-12, 8.3.2)."""
UPRIGHT: Turn = (1, 0, 0, 1)
ONE = 1 << 16
TURNS: dict[Turn, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    UPRIGHT: lambda frame: frame,
    (0, 1, -1, 0): lambda frame: np.rot90(frame, -1),
    (-1, 0, 0, -1): lambda frame: np.rot90(frame, 2),
    (0, -1, 1, 0): lambda frame: np.rot90(frame, 1),
    (-1, 0, 0, 1): lambda frame: frame[:, ::-1],
    (1, 0, 0, -1): lambda frame: frame[::-1],
    (0, 1, 1, 0): lambda frame: frame.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda frame: np.rot90(frame, 2).transpose(1, 0, 2),
}


def turn_of(frame: VideoFrame, path: Path) -> Turn:
    """The turn that a decoded frame asks for. Raises VideoReadError unless it is one by quarters, or a mirror."""
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data
    data = side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    turn = (a // ONE, b // ONE, c // ONE, d // ONE)
    if turn not in TURNS or any(value % ONE for value in (a, b, c, d)):
        raise VideoReadError(
            f"video: {shown(path)!r} is shown turned by {frame.rotation} degrees or scaled; expected quarters of a "
            "turn and mirrors; re-encode it upright"
        )
    return turn


def upright(frame: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    """A stored frame [H, W, 3] as it is shown."""
    return np.ascontiguousarray(TURNS[turn](frame))


def lies_on_its_side(turn: Turn) -> bool:
    """Whether height and width change places."""
    return turn[0] == 0
