"""How a video of each domain is judged: its attributes, read back from its pixels.

Attributes are those of `export.datasets.domain.Domain.words`. Which digits there are, and what people do, is read by
classifiers that are given; without one these are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.metrics.base import Frames
from bench.metrics.domains import digit_tracks, people_look
from bench.metrics.domains.digit_tracks import Reader
from bench.metrics.domains.people_look import ActionReader

Words = Mapping[str, str | None]
EDGE_PX = 4.0
"""A digit turns round at the edge where it comes as near as this, or goes beyond by as much."""


@dataclass(frozen=True)
class DomainVerdict:
    """Which attributes are right, and what is wrong with the video itself."""

    right: Mapping[str, bool]
    faults: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether all attributes that are judged are right and there is no fault."""
        return all(self.right.values()) and not self.faults


def judge_digits(frames: Frames, words: Words, read: Reader | None = None) -> DomainVerdict:
    """Judge a clip ``[N, 64, 64, 3]`` of two digits: motions, where they bounce and, with ``read``, which they are.

    "bounce" counts where a turn was seen. Raises BenchError for another size.
    """
    found = digit_tracks.follow(frames)
    wanted = [(int(words[f"{one}_digit"] or 0), words[f"{one}_motion"]) for one in ("first", "second")]
    motions = sorted(track.motion for track in found.tracks)
    right = {"motion": motions == sorted(str(motion) for _, motion in wanted)}
    turns = [gap for track in found.tracks for gap in track.turns_px()]
    if turns:
        right["bounce"] = all(abs(gap) <= EDGE_PX for gap in turns)
    if read is not None:
        told = sorted((track.digit(read), track.motion) for track in found.tracks)
        right["digits"] = sorted(digit for digit, _ in told) == sorted(digit for digit, _ in wanted)
        right["digit_motion"] = told == sorted((digit, str(motion)) for digit, motion in wanted)
    return DomainVerdict(right, found.faults)


def judge_people(frames: Frames, words: Words, read: ActionReader | None = None) -> DomainVerdict:
    """Judge a clip ``[N, H, W, 3]`` of a person: colour, ground and, with ``read``, the first two actions."""
    found = people_look.look(frames)
    right = {"colour": found.colour == words["colour"], "ground": found.ground == words["ground"]}
    if read is not None:
        actions = (*read(frames), None)[:2]
        right["action"] = actions[0] == words["action"]
        right["next_action"] = actions[1:] == (words["next_action"],)
    return DomainVerdict(right, found.faults)
