"""The detector's verdict on a clip of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.datasets.prompts import Case
from bench.metrics.base import Frames
from bench.metrics.detector import Detection, detect

ATTRIBUTES = ("colour", "background", "action", "shape", "size")


@dataclass(frozen=True)
class Verdict:
    """What the detector says of a clip: what it sees, and which attributes of the prompt are right."""

    case: Case
    seen: Detection
    right: Mapping[str, bool]
    """A size only where the prompt names one."""

    @property
    def good(self) -> bool:
        """Whether every attribute is right and there is no fault (no, several or changing objects)."""
        return all(self.right.values()) and not self.seen.faults


def judge(frames: Frames, case: Case) -> Verdict:
    """Let the detector judge the clip of a case."""
    seen = detect(frames)
    names = [name for name in ATTRIBUTES if name != "size" or case.size is not None]
    return Verdict(case, seen, {name: getattr(seen, name) == getattr(case, name) for name in names})
