"""`python -m docs.demo`: make docs/demo.gif, what the demo bundle makes of the first eight prompts of the test set.

The prompts and seeds are those of `bench.datasets.prompts`, drawn before anything was generated; the detector of
`bench.demo_quality` puts the bar under a clip: green where colour, background, action, shape and size are right.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.datasets.prompts import Case, cases
from bench.metrics.detector import detect
from ffrt import Pipeline
from ffrt.output.whole_file import whole_file

CLIPS, COLUMNS, FPS = 8, 4, 8
GAP_PX, CAPTION_PX, BAR_PX = 8, 58, 4
PAPER, INK = (250, 250, 250), (20, 20, 20)
RIGHT, WRONG = (40, 160, 70), (210, 50, 40)
COLOURS, RARE_COLOURS, STILL, TRANSPARENT = 18, 10, 6, 255


def is_right(frames: NDArray[np.uint8], case: Case) -> bool:
    """Whether the keyframes, uint8 `[T, H, W, 3]`, show what the prompt names, and one unchanging object."""
    seen = detect(frames)
    names = [name for name in ("colour", "background", "action", "shape", "size") if getattr(case, name) is not None]
    return not seen.faults and all(getattr(seen, name) == getattr(case, name) for name in names)


def caption(case: Case, right: bool, width: int) -> Image.Image:
    """The bar and, below it, the prompt broken into lines."""
    picture = Image.new("RGB", (width, CAPTION_PX), PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    draw.rectangle((0, 0, width - 1, BAR_PX - 1), fill=RIGHT if right else WRONG)
    lines = [""]
    for word in case.prompt.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= width - 2:
            lines[-1] = longer
        else:
            lines.append(word)
    draw.multiline_text((1, BAR_PX + 3), "\n".join(lines), fill=INK, font=font, spacing=1)
    return picture


def sheet(clips: list[NDArray[np.uint8]], captions: list[Image.Image]) -> list[Image.Image]:
    """One picture a frame, the clips in a grid with their captions."""
    side = clips[0].shape[1]
    rows = -(-len(clips) // COLUMNS)
    size = (COLUMNS * (side + GAP_PX) - GAP_PX, rows * (side + CAPTION_PX))
    pictures = []
    for frames in zip(*clips, strict=True):
        picture = Image.new("RGB", size, PAPER)
        for index, (frame, words) in enumerate(zip(frames, captions, strict=True)):
            x, y = index % COLUMNS * (side + GAP_PX), index // COLUMNS * (side + CAPTION_PX)
            picture.paste(Image.fromarray(frame), (x, y))
            picture.paste(words, (x, y + side))
        pictures.append(picture)
    return pictures


def palette_of(clips: list[NDArray[np.uint8]], captions: list[Image.Image]) -> NDArray[np.uint8]:
    """256 colours, `[256, 3]`: some of every clip, so that a small shape keeps its own, and some of the captions."""
    sources = [Image.fromarray(np.concatenate(list(frames[::8]))) for frames in clips]
    sources.append(Image.fromarray(np.concatenate([np.asarray(words) for words in captions])))
    palette = np.zeros((256, 3), np.uint8)
    start = 0
    for source in sources:
        for count, method in ((COLOURS, Image.Quantize.MEDIANCUT), (RARE_COLOURS, Image.Quantize.MAXCOVERAGE)):
            chosen = source.quantize(count, method=method).getpalette()
            colours = np.array(chosen, np.uint8).reshape(-1, 3)[:count]
            palette[start : start + len(colours)] = colours
            start += len(colours)
    return palette


def write_gif(pictures: list[Image.Image], palette: NDArray[np.uint8], path: Path) -> None:
    """An endless GIF with one palette. A pixel that changes by less than `STILL` levels stays, which costs nothing."""
    chosen = Image.new("P", (1, 1))
    chosen.putpalette(palette.tobytes())
    levels = palette.astype(int)
    frames, shown = [], None
    for picture in pictures:
        wanted = np.minimum(picture.quantize(palette=chosen, dither=Image.Dither.NONE), TRANSPARENT - 1)
        if shown is None:
            shown = drawn = wanted
        else:
            moved = np.abs(levels[wanted] - levels[shown]).max(axis=2) >= STILL
            shown, drawn = np.where(moved, wanted, shown), np.where(moved, wanted, TRANSPARENT)
        frame = Image.fromarray(drawn.astype(np.uint8))
        frame.putpalette(palette.tobytes())
        frames.append(frame)
    ends = [round(100 * (index + 1) / FPS) * 10 for index in range(len(frames))]  # a GIF counts in 10 ms
    with whole_file(path) as part:
        frames[0].save(
            part,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[end - start for start, end in zip([0, *ends], ends, strict=False)],
            loop=0,
            optimize=False,
            transparency=TRANSPARENT,
            disposal=1,
        )


def main() -> int:
    """Write docs/demo.gif, with `preset="fast"`."""
    pipe = Pipeline.from_pretrained("demo")
    clips, captions = [], []
    for case in cases(CLIPS):
        frames = pipe(case.prompt, seed=case.seed, fps=FPS, preset="fast").frames
        right = is_right(frames[:: FPS // pipe.bundle.keyframes.fps], case)
        print(f"{'right' if right else 'WRONG'}  {case.prompt} (seed {case.seed})")
        clips.append(frames)
        captions.append(caption(case, right, frames.shape[2]))
    path = Path(__file__).with_name("demo.gif")
    write_gif(sheet(clips, captions), palette_of(clips, captions), path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
