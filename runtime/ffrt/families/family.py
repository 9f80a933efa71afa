"""What a model family is: the graphs of its bundles and the order of its stages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ffrt.families.contract import Contract


class Stage(StrEnum):
    """The stages of a video, in the order in which they can follow each other."""

    TEXT = "text"
    FIRST_FRAME = "first frame"
    KEYFRAMES = "keyframes"
    INTERPOLATION = "interpolation"
    DECODING = "decoding"


@dataclass(frozen=True)
class Family:
    """A model family, named in the manifest of its bundles.

    `order` is the one place that says which stages a video goes through; INTERPOLATION stands for all passes up to
    the frame rate of the request. A family with FIRST_FRAME has keyframes that follow a picture.
    """

    name: str
    title: str
    order: tuple[Stage, ...]
    contract: Contract

    @property
    def follows_image(self) -> bool:
        """Whether keyframes follow a first frame, made of the prompt or given as a picture."""
        return Stage.FIRST_FRAME in self.order

    @property
    def interpolation_reads_text(self) -> bool:
        """Whether the group interpolation network takes the text context."""
        inputs, _ = self.contract["interpolation_unet"]
        return any(tensor.name == "context" for tensor in inputs)
