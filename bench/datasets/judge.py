"""The detector's verdict on a clip of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.datasets.prompts import Case
from bench.metrics.base import Frames
from bench.metrics.detector import Detection, detect
from bench.metrics.strict import strict_faults

ATTRIBUTES = ("colour", "background", "action", "shape", "size")


@dataclass(frozen=True)
class Verdict:
    """What the detector says of a clip: what it sees, and which attributes of the prompt are right."""

    case: Case
    seen: Detection
    right: Mapping[str, bool]
    """A size only where the prompt names one."""
    strict: tuple[str, ...] = ()
    """What is wrong with outline, size or turn (`bench.metrics.strict`), which `good` forgives."""

    @property
    def good(self) -> bool:
        """Whether every attribute is right and there is no fault (no, several or changing objects)."""
        return all(self.right.values()) and not self.seen.faults

    @property
    def strictly_good(self) -> bool:
        """Whether the clip is good, and its shape keeps outline, size and turn."""
        return self.good and not self.strict


def judge(frames: Frames, case: Case) -> Verdict:
    """Let the detector judge the clip of a case."""
    seen = detect(frames)
    names = [name for name in ATTRIBUTES if name != "size" or case.size is not None]
    right = {name: getattr(seen, name) == getattr(case, name) for name in names}
    return Verdict(case, seen, right, strict_faults(frames, case.shape, case.action))
