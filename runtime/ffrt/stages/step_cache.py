"""Step caching (Ma et al. 2024, DeepCache): the deep levels of a U-Net, whose features change little from one denoising
step to the next, run in every n-th step only. For bundles that `python -m graphs.deep_cache` wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import RequestError
from ffrt.families import DEEP, SHALLOW
from ffrt.sampling import MAX_STEPS

Network = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]
"""A U-Net as the stages run it: named inputs -> named outputs, "prediction" among them."""


def cache_interval_of(value: object, unets: Collection[str], graphs: Collection[str]) -> int:
    """A cache interval that a bundle with these `graphs` can keep to in all the `unets` of a request; None is 1, off.

    Raises RequestError for a value that is no whole number from 1 to 1000, and where a shallow graph is missing.
    """
    if value is None:
        return 1
    ok = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= value <= MAX_STEPS
    if not ok or not isinstance(value, (int, np.integer)):
        raise RequestError(f"cache_interval: expected None or 1 (off) to {MAX_STEPS}, got {value!r:.200}")
    without = [unet for unet in unets if unet not in SHALLOW]
    if value > 1 and without:
        raise RequestError(
            f"cache_interval: expected None or 1 with {without}, which has no shallow graph, got {value}"
        )
    missing = [SHALLOW[unet] for unet in unets if unet in SHALLOW and SHALLOW[unet] not in graphs]
    if value > 1 and missing:
        raise RequestError(
            f"cache_interval: {value} needs the graphs {missing}, which this bundle lacks; type "
            "'python -m graphs.deep_cache BUNDLE --out FOLDER' in a checkout and use the bundle that it writes"
        )
    return int(value)


class StepCache:
    """`whole` in every `interval`-th denoising step, `shallow` with the deep features of the last such step in between.

    It is one Network for one run of a stage. Calls with the same `time` belong to one step, as a stage that sees a
    video in windows makes them; each keeps its own features, so they must come in the same order in every step.
    """

    def __init__(self, whole: Network, shallow: Network, interval: int) -> None:
        self._whole = whole
        self._shallow = shallow
        self._interval = interval
        self._time: float | None = None
        self._step = -1
        self._call = 0
        self._deep: list[NDArray[Any]] = []

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        time = float(feed["time"][0])
        if time == self._time:
            self._call += 1
        else:
            self._time, self._call, self._step = time, 0, self._step + 1
        if self._step % self._interval:
            return self._shallow({**feed, DEEP: self._deep[self._call]})
        if self._call == 0:
            self._deep = []
        outputs = self._whole(feed)
        self._deep.append(outputs[DEEP])
        return outputs
