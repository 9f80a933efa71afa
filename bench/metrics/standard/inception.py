"""IS of videos by the protocol `isv2048_ucf` of StyleGAN-V: a C3D that knows UCF-101."""

from pathlib import Path
from typing import Any

from bench.metrics.networks.catalogue import C3D
from bench.metrics.networks.network import opened
from bench.metrics.sets import inception_score
from bench.metrics.standard.clips import MOST_CLIPS, answers
from bench.metrics.videos import Videos

PROTOCOL = "isv2048_ucf"
SPLITS, SEED = 10, 42


def video_inception_score(videos: Videos, file: Path | None) -> dict[str, Any]:
    """The score, the deviation of its splits, and all that it depends on, for a record.

    It judges by the actions of UCF-101, so of other domains it says little, and nothing without the real clips' score.
    Raises NetworkError without the file, and BenchError for fewer than ten clips.
    """
    network = opened(C3D, file)
    taken = answers(network, videos)
    found = inception_score(taken.rows, SPLITS, SEED)
    count = len(taken.rows)
    protocol = PROTOCOL if count == MOST_CLIPS else f"{PROTOCOL} but for {count} clips: compare with the same alone"
    return {
        "name": network.title,
        "protocol": protocol,
        "value": found.value,
        "deviation_of_splits": found.deviation,
        "clips": [count],
        "splits": SPLITS,
        "seed": SEED,
        "fake": taken.as_record(),
        **network.record,
    }
