"""Step caching (Ma et al. 2024, DeepCache): the deep levels of a U-Net run in every n-th denoising step only.

Their features change little from one step to the next. For bundles that `python -m graphs cache` wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from numpy.typing import NDArray

from ffrt import checks
from ffrt.errors import RequestError
from ffrt.families import DEEP, SHALLOW
from ffrt.sampling import MAX_STEPS
from ffrt.stages.denoising import Network


def cache_interval_of(value: object, unets: Collection[str], graphs: Collection[str]) -> int:
    """A cache interval that a bundle with these `graphs` can keep in all `unets` of a request; None is 1, off.

    Raises RequestError for a value outside 1..1000, and if a shallow graph is missing.
    """
    if value is None:
        return 1
    interval = checks.whole("cache_interval", value, 1, MAX_STEPS)
    if interval == 1:
        return 1
    without = [unet for unet in unets if unet not in SHALLOW]
    if without:
        raise RequestError(
            f"cache_interval: expected None or 1 with {without}, which has no shallow graph, got {interval}"
        )
    missing = [SHALLOW[unet] for unet in unets if SHALLOW[unet] not in graphs]
    if missing:
        raise RequestError(
            f"cache_interval: {interval} needs the graphs {missing}, which this bundle lacks; type "
            "'python -m graphs cache BUNDLE --out FOLDER' in a checkout and use the bundle that it writes"
        )
    return interval


class StepCache:
    """`whole` in every `interval`-th denoising step, and `shallow` with its deep features in the steps between.

    It serves one run of a stage. Calls with the same `time` belong to one step, one per window; each window keeps its
    own features, so windows must come in the same order in every step. Where guidance begins or ends the rows are
    others, and `whole` runs.
    """

    def __init__(self, whole: Network, shallow: Network, interval: int) -> None:
        self._whole = whole
        self._shallow = shallow
        self._interval = interval
        self._time: float | None = None
        self._step = -1
        self._call = 0
        self._deep: list[NDArray[Any]] = []
        self._items, self._deepened = 0, -1  # of its first window, and the step that it is of

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs of the whole network, or of the shallow one with the last deep features."""
        time = float(feed["time"][0])
        if time == self._time:
            self._call += 1
        else:
            self._time, self._call, self._step = time, 0, self._step + 1
        if self._call == 0 and (self._step % self._interval == 0 or len(feed["x"]) != self._items):
            self._deep, self._items, self._deepened = [], len(feed["x"]), self._step
        if self._deepened != self._step:
            return self._shallow({**feed, DEEP: self._deep[self._call]})
        outputs = self._whole(feed)
        self._deep.append(outputs[DEEP])
        return outputs
