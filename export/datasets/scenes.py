"""Scenes with more to interpolate than the demo's sentences name, for the interpolation networks alone.

One or two bodies move fast or slowly, speed up, bounce off the edges, circle, turn at any speed, grow and pass in front
of one another, before plain or wavy backgrounds. Geometry and time are those of `export.datasets.shapes`. Scenes to
train on and scenes to test with are drawn from streams of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.datasets.grammar import SHAPES
from export.datasets.shapes import BACKGROUNDS, COLOURS, FRAME_PX, MOTION_SECONDS, RGB, column, signed_distance

Kind = Literal["straight", "accelerating", "bouncing", "circling", "spinning", "crossing"]
KINDS: tuple[Kind, ...] = ("straight", "accelerating", "bouncing", "circling", "spinning", "crossing")
"""What a scene is about; in "crossing" one body passes in front of another."""
TRAIN_STREAM, TEST_STREAM = 21, 22
WAVY = 0.2
"""Share of scenes whose background is wavy."""


@dataclass(frozen=True)
class Body:
    """A shape on its way; lengths in px of the 128 x 128 frame, seconds, degrees clockwise.

    At time t its centre is at ``start + velocity t + acceleration t^2 / 2``, reflected where it would leave the frame,
    or on a circle: ``start`` is then the middle, ``orbit_px`` the radius and ``orbit_degrees`` how far it goes in a
    second. Its radius runs from the first to the second of ``radius_px`` in 7.5 seconds.
    """

    shape: str
    colour: str
    radius_px: tuple[float, float]
    start: tuple[float, float]
    velocity: tuple[float, float] = (0.0, 0.0)
    acceleration: tuple[float, float] = (0.0, 0.0)
    orbit_px: float = 0.0
    orbit_degrees: float = 0.0
    phase_degrees: float = 0.0
    spin_degrees: float = 0.0

    def centres(self, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Its centre at each time: x and y, ``[N]``."""
        turn = np.radians(self.phase_degrees + self.orbit_degrees * times)
        reach = 1.35 * max(self.radius_px) + 1
        ways = zip(self.start, self.velocity, self.acceleration, (np.cos(turn), np.sin(turn)), strict=True)
        x, y = (reflected(s + v * times + a * times**2 / 2 + self.orbit_px * way, reach) for s, v, a, way in ways)
        return x, y


@dataclass(frozen=True)
class Scene:
    """Bodies, the last in front, before a background; ``waves`` are (cycles across, cycles down, phase, height)."""

    kind: Kind
    bodies: tuple[Body, ...]
    background: RGB
    waves: tuple[tuple[float, float, float, float], ...] = ()


def reflected(place: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Places that would be nearer than ``reach`` to an edge, thrown back as by a wall."""
    width = FRAME_PX - 2 * reach
    offset = np.mod(place - reach, 2 * width)
    inside: NDArray[np.float64] = reach + np.minimum(offset, 2 * width - offset)
    return inside


def training_scenes(count: int) -> list[Scene]:
    """The first ``count`` scenes to train on."""
    return [_scene(TRAIN_STREAM, index) for index in range(count)]


def held_out_scenes(count: int = 200) -> list[Scene]:
    """The first ``count`` scenes to test with, which no training draws."""
    return [_scene(TEST_STREAM, index) for index in range(count)]


def _scene(stream: int, index: int) -> Scene:
    return sample_scene(KINDS[index % len(KINDS)], np.random.default_rng([stream, index]))


def sample_scene(kind: Kind, rng: np.random.Generator) -> Scene:
    """Draw a scene of one kind."""
    names = list(rng.permutation(list(COLOURS)))
    background = BACKGROUNDS[str(rng.choice(list(BACKGROUNDS)))]
    waves = [_wave(rng) for _ in range(int(rng.integers(1, 4)))] if rng.random() < WAVY else []
    bodies = [_body(kind, names[0], rng)]
    if kind == "crossing":
        bodies.append(_crossing(bodies[0], names[1], rng))
    return Scene(kind, tuple(bodies), background, tuple(waves))


def _wave(rng: np.random.Generator) -> tuple[float, float, float, float]:
    across, down = rng.uniform(-2.5, 2.5, 2)
    return float(across), float(down), float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(8, 24))


def _body(kind: Kind, colour: str, rng: np.random.Generator) -> Body:
    shape = str(rng.choice(SHAPES if kind != "spinning" else SHAPES[1:]))
    radius = float(rng.uniform(11, 24))
    grown = radius * float(rng.uniform(0.6, 1.4)) if rng.random() < 0.25 else radius
    x, y = (float(value) for value in rng.uniform(40, 88, 2))
    heading = float(rng.uniform(0, 2 * math.pi))
    speed = float(rng.uniform(*{"straight": (4, 14), "bouncing": (18, 40), "spinning": (0, 8)}.get(kind, (6, 24))))
    way = np.array([math.cos(heading), math.sin(heading)])
    velocity, start = speed * way, np.array([x, y])
    if kind in ("straight", "crossing"):  # through the middle of the clip
        start = start - velocity * MOTION_SECONDS / 2
    acceleration = np.zeros(2)
    if kind == "accelerating":
        acceleration = float(rng.uniform(2, 7)) * way
        velocity = float(rng.uniform(-10, 4)) * way
    spin = float(rng.uniform(-200, 200)) if kind == "spinning" else float(rng.choice([0, 0, rng.uniform(-90, 90)]))
    orbit = (0.0, 0.0)
    if kind == "circling":
        orbit = (float(rng.uniform(14, 34)), float(rng.choice([-1, 1]) * rng.uniform(20, 120)))
        start, velocity = np.full(2, FRAME_PX / 2) + rng.uniform(-8, 8, 2), np.zeros(2)
    return Body(
        shape,
        colour,
        (radius, grown),
        (float(start[0]), float(start[1])),
        (float(velocity[0]), float(velocity[1])),
        (float(acceleration[0]), float(acceleration[1])),
        *orbit,
        float(rng.uniform(0, 360)),
        spin,
    )


def _crossing(other: Body, colour: str, rng: np.random.Generator) -> Body:
    """A body that meets the other one at some moment in the middle half of the clip."""
    moment = float(rng.uniform(0.25, 0.75)) * MOTION_SECONDS
    meeting = [float(place[0]) for place in other.centres(np.array([moment]))]
    found = _body("straight", colour, rng)
    heading, speed = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(8, 24))
    velocity = (speed * math.cos(heading), speed * math.sin(heading))
    start = (meeting[0] - velocity[0] * moment, meeting[1] - velocity[1] * moment)
    return Body(found.shape, colour, found.radius_px, start, velocity, spin_degrees=found.spin_degrees)


def render_scene(scene: Scene, times_s: NDArray[np.floating] | Sequence[float], size_px: int = 128) -> Tensor:
    """Draw a scene at times ``[N]`` in seconds: float32 ``[N, 3, size_px, size_px]`` in -1..1."""
    times = np.clip(np.asarray(times_s, dtype=np.float64), 0.0, MOTION_SECONDS)
    scale = size_px / FRAME_PX
    place = torch.arange(size_px) + 0.5
    x, y = place[None, None, :], place[None, :, None]
    background = torch.tensor(scene.background, dtype=torch.float32)[:, None, None].expand(3, size_px, size_px)
    for across, down, phase, height in scene.waves:
        background = background + height * torch.sin(2 * math.pi * (across * x + down * y) / size_px + phase)
    frames = (background.clamp(0, 255) / 127.5 - 1.0).expand(len(times), -1, -1, -1)
    for body in scene.bodies:
        centre_x, centre_y = body.centres(times)
        first, last = body.radius_px
        radius = first + (last - first) * times / MOTION_SECONDS
        angle = np.radians(body.spin_degrees * times)
        from_x, from_y = x - column(centre_x * scale), y - column(centre_y * scale)
        distance = signed_distance(body.shape, from_x, from_y, column(radius * scale), angle)
        coverage = distance.neg_().add_(0.5).clamp_(0.0, 1.0)
        colour = (torch.tensor(COLOURS[body.colour]) / 127.5 - 1.0)[:, None, None]
        frames = torch.lerp(frames, colour, coverage[:, None])
    return frames
