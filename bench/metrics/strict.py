"""A strict judge of one clip: besides the words, its shape must keep outline, size and turn.

The detector (`bench.metrics.detector`) forgives lumps: it takes a potato for a circle. This judge knows what was asked
for and says what is off by more than its limits, each between what the autoencoder costs and what an eye notices.
"""

from bench.metrics.base import Frames
from bench.metrics.figures import RIGHT_TURN_DEGREES, figures, kind_of

DEVIATION = {"circle": 0.03, "polygon": 0.035, "spinning": 0.08}
"""How far an outline may be from its shape, of the mean radius, in the mean of all frames."""
SIZE_RANGE = 0.08
"""What the radius of a shape that neither grows nor shrinks may range over, of its mean."""
TURN_SD_DEGREES = 10.0
TURN_OFF_DEGREES = 4.0
"""What the mean turn may be off; no turn at all is off by 24."""


def strict_faults(frames: Frames, shape: str, action: str) -> tuple[str, ...]:
    """What is wrong with a clip uint8 `[N, H, W, 3]` of this shape and action, in words; nothing with a good one."""
    found = figures(frames, shape, action)
    faults = []
    if found.deviation is None or found.missing > 0:
        faults.append(f"no object in {found.missing:.0%} of the frames")
    limit = DEVIATION[kind_of(shape, action)]
    if found.deviation is not None and found.deviation > limit:
        faults.append(f"outline {found.deviation:.1%} off, limit {limit:.1%}")
    if found.size_range is not None and found.size_range > SIZE_RANGE:
        faults.append(f"size ranges over {found.size_range:.1%}, limit {SIZE_RANGE:.0%}")
    if found.turn_sd is not None and found.turn_degrees is not None:
        if found.turn_sd > TURN_SD_DEGREES:
            faults.append(f"turn varies by {found.turn_sd:.0f} degrees, limit {TURN_SD_DEGREES:.0f}")
        if abs(found.turn_degrees - RIGHT_TURN_DEGREES) > TURN_OFF_DEGREES:
            faults.append(f"turns {found.turn_degrees:.0f} degrees a frame, expected {RIGHT_TURN_DEGREES:.0f}")
    return tuple(faults)
