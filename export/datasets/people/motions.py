"""15 motion-captured actions out of the wheel of pybullet, which is neither installed nor imported (zlib licence).

A frame is 44 numbers: its seconds, the root's place, then rotations: quaternions (w, x, y, z) of the joints `JOINTS`
and angles of the hinges `HINGES`, in the order of the file. x is forward, y up, z to the right, in metres.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.datasets.people.rotations import halfway
from export.datasets.wheel import Member, Wheel, fetch
from export.errors import DatasetError

Floats = NDArray[np.float64]
JOINTS: Mapping[str, int] = {
    "root": 4,
    "chest": 8,
    "neck": 12,
    "right hip": 16,
    "right ankle": 21,
    "right shoulder": 25,
    "left hip": 30,
    "left ankle": 35,
    "left shoulder": 39,
}
"""Where the quaternion of each joint begins in a frame."""
HINGES: Mapping[str, int] = {"right knee": 20, "right elbow": 29, "left knee": 34, "left elbow": 43}
NUMBERS, UP = 44, 2
MOST_FRAMES = 2000

_DIGESTS = {
    "walk": (36_185, "32d082c3599bc40aac50b1afa196ff1e2cf3842bb40f0541ab088845f6328a41"),
    "run": (23_284, "2cbe488023b243e5769299158ce7c78875ec4b701a2ffe6c0beeaf83d16ca87b"),
    "jump": (99_221, "a433557e94b193d8a95530572a0e32f387eb6d9996987b4216efb65444c3c641"),
    "crawl": (80_707, "104a3b675131a43e7a214e24c0ed631c6a0d814b85c8b66b71ce63b23a5731ae"),
    "roll": (55_136, "50d75c2243b2859f8dcae4ad8fa14b59054dd9ee529b4fb52ec14470cd982c55"),
    "cartwheel": (75_101, "17453459a40ec4ea08346072748ae3c7c384b49e619753e9779637fa8a9f7c49"),
    "backflip": (13_536, "ffc5e117f69364e239eeedc86d6a30ab854500a375a1c137a405f1b7652905e6"),
    "spin": (49_517, "9614f10b92e7a8b123990ad5bcfafc65aa4d8fa8ac7f10ade3c3591122d34425"),
    "kick": (43_601, "177cfb399466309ba7f4a8a987c3b6f6edde1cbe8b2d476e53dc6061ec5d4bac"),
    "spinkick": (35_643, "60ec9c200d96e0cd71693061f24db0bd8da9eb295daf487f6f60f8dfb324075a"),
    "punch": (60_287, "1ab4b654cecdb4ff3b2a4bf4086e50397bef28435bb59ab3aedd6a6bdc926fde"),
    "dance_a": (90_879, "15ef3731f594edc9ed078170f1075815cc164acaca9e35a46db12a31ac64b717"),
    "dance_b": (141_863, "b5a9d7a3f2304f6242776d7ff6d19d1f6bcb98d78d68622761c3843b614a92b5"),
    "getup_facedown": (169_673, "1bd1a96e9175f65eb66e10f225473b4467bd70c68e283f4006b2ab090e337c0b"),
    "getup_faceup": (210_461, "5936c32d51dad9b0cd5e61df681079d160436cdce845c312f200d7a347c4040d"),
}
"""Size in bytes and digest of the file of every action."""
MOTIONS = Wheel(
    package="pybullet",
    version="3.2.7",
    sha256="5d858abf7c12a21ef3ed351cf81dac1b5e486ec25c9ab59bfc84beb89034edff",
    licence="zlib",
    members=tuple(
        Member(f"pybullet_data/data/motions/humanoid3d_{name}.txt", *found) for name, found in _DIGESTS.items()
    ),
)


@dataclass(frozen=True)
class Poses:
    """N poses: the root's height in metres ``[N]``, unit quaternions ``[N, 9, 4]``, angles of hinges ``[N, 4]``."""

    height: Floats
    turns: Floats
    hinges: Floats

    def at(self, places: NDArray[np.int64]) -> Poses:
        """Some of the poses."""
        return Poses(self.height[places], self.turns[places], self.hinges[places])

    def towards(self, other: Poses, share: Floats) -> Poses:
        """Poses a share ``[N]`` of the way to others: rotations along the shortest arc."""
        return Poses(
            self.height + share * (other.height - self.height),
            halfway(self.turns, other.turns, share[:, None]),
            self.hinges + share[:, None] * (other.hinges - self.hinges),
        )


@dataclass(frozen=True)
class Motion:
    """An action as it was captured: poses at times in seconds ``[K]`` from 0 on."""

    times: Floats
    poses: Poses

    @property
    def seconds(self) -> float:
        """How long it takes at full speed."""
        return float(self.times[-1])

    def at(self, times: Floats) -> Poses:
        """Poses at any times ``[N]`` in seconds; before the first and after the last frame they stand."""
        clock = np.clip(times, 0.0, self.seconds)
        after = np.clip(np.searchsorted(self.times, clock, side="right"), 1, len(self.times) - 1)
        first, last = self.times[after - 1], self.times[after]
        return self.poses.at(after - 1).towards(self.poses.at(after), (clock - first) / (last - first))


def open_motions(data: Path, package: Path | None = None, wheel: Wheel = MOTIONS) -> dict[str, Motion]:
    """Every action by name, with its files fetched into ``data``. Raises DatasetError where they cannot be had."""
    found = fetch(wheel, data, package)
    return {action_of(name): read_motion(path) for name, path in found.items()}


def action_of(name: str) -> str:
    """``walk`` of ``humanoid3d_walk.txt``."""
    return name.removeprefix("humanoid3d_").removesuffix(".txt")


def read_motion(path: Path) -> Motion:
    """Read one motion. Raises DatasetError for anything but 2 to 2,000 frames of 44 finite numbers."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        frames = np.asarray(content["Frames"], dtype=np.float64)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DatasetError(
            f"{path}: expected a motion, got {type(error).__name__}: {error}; remove the file"
        ) from error
    if frames.ndim != 2 or frames.shape[1] != NUMBERS or not 2 <= len(frames) <= MOST_FRAMES:
        raise DatasetError(
            f"{path}: expected 2 to {MOST_FRAMES} frames of {NUMBERS} numbers, got {list(frames.shape)}; "
            "remove the file"
        )
    turns = np.stack([frames[:, first : first + 4] for first in JOINTS.values()], axis=1)
    length = np.linalg.norm(turns, axis=-1, keepdims=True)
    if not np.isfinite(frames).all() or frames[:-1, 0].min() <= 0 or length.min() < 0.1:
        raise DatasetError(
            f"{path}: expected finite numbers, frames that take time, and rotations, got others; remove the file"
        )
    hinges = frames[:, list(HINGES.values())]
    times = np.concatenate([[0.0], np.cumsum(frames[:-1, 0])])
    return Motion(times, Poses(frames[:, UP], turns / length, hinges))
