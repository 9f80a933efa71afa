"""A sheet of frames to look at: ``python -m export.datasets.sheet --domain people --out people.png``.

One clip a row, every second keyframe; the captions are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.datasets.domain import KEYFRAME_FPS, PARTS, Domain
from export.datasets.domains import add_domain, asked_domain
from export.models.configs import PRESETS
from ffrt import FfrtError
from ffrt.files import typed_path
from ffrt.output.whole_file import whole_file
from ffrt.stages.decode import to_frames

GAP_PX, GAP = 2, 255
COLOURS = 128
"""Of the palette: a sheet is small."""


def sheet(domain: Domain[Any], clips: list[Any], columns: int) -> NDArray[np.uint8]:
    """Keyframes of clips, one clip a row, evenly out of its length: uint8 ``[H, W, 3]``."""
    size = PRESETS[domain.preset].image_size
    moments = np.linspace(0, domain.keyframes - 1, columns).round() / KEYFRAME_FPS
    rows = []
    for clip in clips:
        shown = to_frames(domain.render(clip, moments, size).numpy())
        edges = ((0, 0), (GAP_PX, 0), (GAP_PX, 0), (0, 0))
        rows.append(np.concatenate(list(np.pad(shown, edges, constant_values=GAP)), axis=1))
    return np.concatenate(rows)


def main() -> None:
    """Write a sheet and print what it shows."""
    line = argparse.ArgumentParser(prog="python -m export.datasets.sheet", description=__doc__.splitlines()[0])
    add_domain(line)
    line.add_argument("--part", choices=PARTS, default="keyframes", help="to train on or to test with (keyframes)")
    line.add_argument("--clips", type=int, default=8, help="rows (8)")
    line.add_argument("--columns", type=int, default=12, help="frames of each (12)")
    line.add_argument("--out", type=typed_path, default=Path("sheet.png"), help="(sheet.png)")
    asked = line.parse_args()
    if asked.clips < 1 or asked.columns < 1:
        line.error(f"--clips and --columns: expected 1 or more, got {asked.clips} and {asked.columns}")
    try:
        domain = asked_domain(asked)
        clips = domain.dealt(asked.part, asked.clips)
        with whole_file(asked.out) as part:
            picture = Image.fromarray(sheet(domain, clips, asked.columns))
            picture.quantize(COLOURS).save(part, format="PNG", optimize=True)
    except FfrtError as error:
        raise SystemExit(f"python -m export.datasets.sheet: {error}") from None
    for clip in clips:
        print(domain.canonical(clip))


if __name__ == "__main__":
    main()
