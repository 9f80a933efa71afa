"""The numbers of two sets of videos that are ours. Their names are too: FVD, IS and CLIPSIM mean other networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.metrics.base import Frames
from bench.metrics.features.cuts import cut_inside
from bench.metrics.features.flow import motion_features, warp_difference
from bench.metrics.features.frame import frame_features
from bench.metrics.intervals import mean_interval
from bench.metrics.networks.catalogue import EFFICIENTNET, TRANSNET
from bench.metrics.networks.network import Network
from bench.metrics.sets import Rows, kernel_distance, scaled

KD_FACTOR = 1000


@dataclass(frozen=True)
class SetFeature:
    """What is asked of every clip, and whether the answers of both sets are compared or shown side by side."""

    name: str
    compute: Callable[[Frames], Any]
    network: Network | None
    sees: str
    distance: bool

    def row(self, real: Sequence[Any], fake: Sequence[Any]) -> dict[str, Any]:
        """The row of a table and record: a kernel distance times 1000, or the means of both sets, with intervals."""
        if self.distance:
            rows: tuple[Rows, Rows] = scaled(np.array(real, np.float64), np.array(fake, np.float64))
            found = kernel_distance(*rows).as_record()
            return {**found, **{key: KD_FACTOR * found[key] for key in ("value", "low", "high")}}
        ours, theirs = mean_interval(fake), mean_interval(real)
        return {
            "value": ours["mean"],
            **{key: ours[key] for key in ("low", "high")},
            "clips": [theirs["clips"], ours["clips"]],
            "real": theirs["mean"],
            "real_low": theirs["low"],
            "real_high": theirs["high"],
        }


SET_FEATURES = {
    one.name: one
    for one in (
        SetFeature("KD-frame", frame_features, EFFICIENTNET, "what frames show; blind to their order", True),
        SetFeature("KD-motion", motion_features, None, "how things move; blind to what they are", True),
        SetFeature("Cuts", cut_inside, TRANSNET, "jumps inside a clip; blind to slow decay", False),
        SetFeature("Warp", warp_difference, None, "flicker; prefers what stands still", False),
    )
}
