"""Dockerfiles as lists of instructions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """An instruction: its word, and the rest of its line."""

    word: str
    rest: str

    @property
    def argv(self) -> list[str]:
        """The list of an exec form, `["a", "b"]`, which may follow another word."""
        return list(json.loads(self.rest[self.rest.index("[") :]))


def stages(path: Path) -> list[list[Step]]:
    """The instructions of each stage, from its FROM on."""
    text = re.sub(r"(?m)^#.*\n", "", path.read_text(encoding="utf-8"))
    found: list[list[Step]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            step = Step(word, " ".join(rest.split()))
            if word == "FROM":
                found.append([])
            found[-1].append(step)
    return found


def only(steps: list[Step], word: str) -> Step:
    """The one instruction of that word."""
    (step,) = [one for one in steps if one.word == word]
    return step
