"""FVD (Unterthiner et al. 2018) by the protocol `fvd2048_16f` of StyleGAN-V."""

from pathlib import Path
from typing import Any

from bench.harness.record import BenchError
from bench.metrics.networks.catalogue import I3D
from bench.metrics.networks.network import opened
from bench.metrics.sets import frechet_distance
from bench.metrics.standard.clips import MOST_CLIPS, answers
from bench.metrics.videos import Videos

SEED = 0
RESAMPLES = 50
"""Each takes the eigenvalues of two matrices 400 x 400."""
PROTOCOL = "fvd2048_16f"


def fvd(real: Videos, fake: Videos, file: Path | None, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The Fréchet distance of the logits of an I3D, and all that it depends on, for a record.

    Raises NetworkError without the file, and BenchError for videos of two sizes, and for too few of them.
    """
    network = opened(I3D, file)
    theirs, ours = answers(network, real, SEED), answers(network, fake)
    if theirs.size_px != ours.size_px:
        raise BenchError(
            f"expected real and generated videos of one size, got {list(theirs.size_px)} and {list(ours.size_px)}; "
            "the distance would measure that"
        )
    found = frechet_distance(theirs.rows, ours.rows, resamples=resamples)
    return {
        "name": network.title,
        "protocol": protocol(len(ours.rows)),
        **found.as_record(),
        "real": theirs.as_record(),
        "fake": ours.as_record(),
        **network.record,
    }


def protocol(generated: int) -> str:
    """Its name, or how this run is not it."""
    if generated == MOST_CLIPS:
        return PROTOCOL
    return f"{PROTOCOL} but for {generated} generated clips: compare with the same number alone"
