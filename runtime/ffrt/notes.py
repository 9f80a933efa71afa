"""Facts that a caller should know though nothing failed: fields of results, never process-wide warnings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """What happened to the argument `argument`: a prompt that was cut, a picture that was too small."""

    argument: str
    text: str

    def __str__(self) -> str:
        return self.text
