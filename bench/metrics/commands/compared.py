"""`sets REAL FAKE`: two folders of videos compared in the features that are ours."""

import sys
from collections.abc import Sequence
from typing import Any

from bench.harness.record import BenchError
from bench.metrics.features.table import SET_FEATURES, SetFeature
from bench.metrics.networks.network import NetworkError, opened
from bench.metrics.videos import Videos

DIGITS = {"KD-frame": 2, "KD-motion": 2, "Cuts": 3, "Warp": 3}


def compared(real: Videos, fake: Videos, names: Sequence[str] = tuple(SET_FEATURES)) -> dict[str, dict[str, Any]]:
    """Name -> distance or means with intervals, or what is missing. Every video is decoded once.

    Raises VideoFolderError for a video that cannot be read. A feature that cannot be had, or not of these clips, is
    left out of the others' way.
    """
    missing: dict[str, str] = {}
    answers: dict[str, tuple[list[Any], list[Any]]] = {name: ([], []) for name in names}
    for side, videos in enumerate((real, fake)):
        for index, (clip_name, frames) in enumerate(zip(videos.names, videos.clips(), strict=True), 1):
            print(f"sets: {videos.folder.name} {index}/{len(videos)}", file=sys.stderr, flush=True)
            for name in answers.keys() - missing.keys():
                try:
                    answers[name][side].append(SET_FEATURES[name].compute(frames))
                except NetworkError as error:
                    missing[name] = str(error)
                except BenchError as error:
                    missing[name] = f"{videos.folder.name}/{clip_name}: {error}"
    return {name: row(SET_FEATURES[name], *answers[name], missing.get(name)) for name in names}


def row(feature: SetFeature, real: Sequence[Any], fake: Sequence[Any], why: str | None) -> dict[str, Any]:
    """The row of a table and record."""
    try:
        if why is not None:
            return {"name": feature.name, "missing": why}
        found = {"name": feature.name, "sees": feature.sees, "digits": DIGITS[feature.name], **feature.row(real, fake)}
    except BenchError as error:
        return {"name": feature.name, "missing": str(error)}
    return found if feature.network is None else {**found, **opened(feature.network).record}
