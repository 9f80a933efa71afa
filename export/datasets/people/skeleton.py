"""From poses to capsules: where the limbs of a body of 1.7 m are, in metres. Sizes are those of `humanoid3d`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.datasets.people.motions import HINGES, JOINTS, Poses
from export.datasets.people.rotations import hinge, matrices

Floats = NDArray[np.float64]
CHEST, NECK, HEAD, CROWN = 0.236, 0.224, 0.13, 0.21
SHOULDER, SHOULDER_UP, HIP = 0.16, 0.22, 0.085
UPPER_ARM, FOREARM, THIGH, SHIN = 0.275, 0.235, 0.42, 0.41
TOE, HEEL, SOLE = 0.15, -0.05, -0.05


@dataclass(frozen=True)
class Part:
    """One capsule: between which two points, how thick in metres, and whether it is skin."""

    name: str
    first: str
    last: str
    radius: float
    skin: bool = False


PARTS = (
    Part("hips", "right hip", "left hip", 0.11),
    Part("belly", "root", "chest", 0.12),
    Part("chest", "chest", "neck", 0.13),
    Part("shoulders", "right shoulder", "left shoulder", 0.075),
    Part("head", "head", "crown", 0.11, skin=True),
    *(
        Part(f"{side} {name}", f"{side} {first}", f"{side} {last}", radius, skin)
        for side in ("right", "left")
        for name, first, last, radius, skin in (
            ("thigh", "hip", "knee", 0.085, False),
            ("shin", "knee", "ankle", 0.065, False),
            ("foot", "heel", "toe", 0.05, False),
            ("upper arm", "shoulder", "elbow", 0.06, False),
            ("forearm", "elbow", "wrist", 0.05, True),
        )
    ),
)


def points(poses: Poses) -> dict[str, Floats]:
    """Where every end of a capsule is, ``[N, 3]`` in metres; the root stands at x = z = 0."""
    turn = {name: matrices(poses.turns[:, place]) for place, name in enumerate(JOINTS)}
    bend = {name: hinge(poses.hinges[:, place]) for place, name in enumerate(HINGES)}
    found = {"root": np.stack((np.zeros_like(poses.height), poses.height, np.zeros_like(poses.height)), axis=-1)}
    root = turn["root"]
    chest = root @ turn["chest"]
    neck = chest @ turn["neck"]
    found["chest"] = found["root"] + along(root, 0, CHEST, 0)
    found["neck"] = found["chest"] + along(chest, 0, NECK, 0)
    found["head"] = found["neck"] + along(neck, 0, HEAD, 0)
    found["crown"] = found["neck"] + along(neck, 0, CROWN, 0)
    for side, right in (("right", 1.0), ("left", -1.0)):
        arm = chest @ turn[f"{side} shoulder"]
        forearm = arm @ bend[f"{side} elbow"]
        found[f"{side} shoulder"] = found["chest"] + along(chest, -0.02, SHOULDER_UP, right * SHOULDER)
        found[f"{side} elbow"] = found[f"{side} shoulder"] + along(arm, 0, -UPPER_ARM, 0)
        found[f"{side} wrist"] = found[f"{side} elbow"] + along(forearm, 0, -FOREARM, 0)
        leg = root @ turn[f"{side} hip"]
        shin = leg @ bend[f"{side} knee"]
        foot = shin @ turn[f"{side} ankle"]
        found[f"{side} hip"] = found["root"] + along(root, 0, 0, right * HIP)
        found[f"{side} knee"] = found[f"{side} hip"] + along(leg, 0, -THIGH, 0)
        found[f"{side} ankle"] = found[f"{side} knee"] + along(shin, 0, -SHIN, 0)
        found[f"{side} heel"] = found[f"{side} ankle"] + along(foot, HEEL, SOLE, 0)
        found[f"{side} toe"] = found[f"{side} ankle"] + along(foot, TOE, SOLE, 0)
    return found


def along(turned: Floats, x: float, y: float, z: float) -> Floats:
    """A step in the axes of a part, ``[N, 3]``."""
    step: Floats = turned @ np.array([x, y, z])
    return step


def capsules(poses: Poses) -> tuple[Floats, Floats, Floats]:
    """Both ends ``[N, P, 3]`` of every part of `PARTS`, and its radius ``[P]``."""
    found = points(poses)
    ends = (
        np.stack([found[end] for end in names], axis=1)
        for names in zip(*((p.first, p.last) for p in PARTS), strict=True)
    )
    first, last = ends
    return first, last, np.array([part.radius for part in PARTS])
