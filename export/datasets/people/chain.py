"""Actions one after another, as one motion of any length: half a second of slerp leads from each to the next.

An action is repeated while its share of the time lasts, and the last one for ever; who has got up stays standing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.datasets.people.motions import Motion, Poses
from export.datasets.people.words import ONCE, SPEEDS, Step

Floats = NDArray[np.float64]
JOIN_S = 0.5
"""Seconds from the last pose of an action to the first pose of what follows."""


@dataclass(frozen=True)
class Turn:
    """An action and how often it is done."""

    step: Step
    times: int = 1


def seconds_of(step: Step, motions: Mapping[str, Motion]) -> float:
    """How long an action takes at its speed."""
    return motions[step.action].seconds / SPEEDS[step.manner]


def least_seconds(steps: Sequence[Step], motions: Mapping[str, Motion]) -> float:
    """How long a chain is, each action once."""
    return sum(seconds_of(step, motions) for step in steps) + JOIN_S * (len(steps) - 1)


def shared_out(steps: Sequence[Step], motions: Mapping[str, Motion], seconds: float) -> tuple[Turn, ...]:
    """How often each action is done, so that all come within the time: short ones as often as their share allows."""
    spare = seconds - least_seconds(steps, motions)
    turns = []
    for left, step in zip(range(len(steps), 0, -1), steps, strict=True):
        once = seconds_of(step, motions) + JOIN_S
        more = 0 if step.action in ONCE or left == 1 else max(0, int(spare / left // once))
        spare -= more * once
        turns.append(Turn(step, 1 + more))
    return tuple(turns)


def poses(turns: Sequence[Turn], motions: Mapping[str, Motion], times_s: Floats) -> Poses:
    """Poses of a chain at any times ``[N]`` in seconds from its start; before it the first pose stands."""
    clock = np.maximum(times_s, 0.0)
    first = motions[turns[0].step.action].poses.at(np.zeros(len(clock), np.int64))
    found = Poses(first.height.copy(), first.turns.copy(), first.hinges.copy())
    start = 0.0
    for place, turn in enumerate(turns):
        once = seconds_of(turn.step, motions)
        round_s, last = once + JOIN_S, place == len(turns) - 1
        end = np.inf if last else start + turn.times * round_s
        here = np.flatnonzero((clock >= start) & (clock < end))
        since = clock[here] - start
        if last and turn.step.action in ONCE:
            put(found, here, doing(turn.step, motions, since))
            break
        within = np.mod(since, round_s)
        after = turn.step if last else turns[place + 1].step
        again = since < (turn.times - 1) * round_s
        acting, joining = within < once, within >= once
        put(found, here[acting], doing(turn.step, motions, within[acting]))
        for towards, chosen in ((turn.step, joining & again), (after, joining & ~again)):
            share = (within[chosen] - once) / JOIN_S
            left = doing(turn.step, motions, np.full(len(share), once))
            put(found, here[chosen], left.towards(doing(towards, motions, np.zeros(len(share))), smooth(share)))
        start = end
    return found


def doing(step: Step, motions: Mapping[str, Motion], since_s: Floats) -> Poses:
    """Poses of an action, so long after its start."""
    return motions[step.action].at(since_s * SPEEDS[step.manner])


def put(into: Poses, places: NDArray[np.int64], some: Poses) -> None:
    """Write poses to their places."""
    into.height[places], into.turns[places], into.hinges[places] = some.height, some.turns, some.hinges


def smooth(share: Floats) -> Floats:
    """From 0 to 1 without a jerk at either end."""
    eased: Floats = share * share * (3 - 2 * share)
    return eased
