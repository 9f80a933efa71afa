"""How a place opens its pipeline; crosses to the child process as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ffrt.backend.runner import Memory


@dataclass(frozen=True)
class EngineSettings:
    """The bundle's folder and digest, and the arguments of `Pipeline`. `scratch` is the place's own folder.

    `gpu` is the number or the id of the GPU that alone is visible, None for a place without one. `mend` is what an
    operator does when the folder holds another bundle.
    """

    place: str
    bundle: Path
    digest: str
    scratch: Path
    provider: str = "auto"
    threads: int | None = None
    memory: Memory = "fast"
    gpu: str | None = None
    previews: bool = True
    mend: str = "start the server again"
