"""`ffrt interpolate`: its flags are the fields of `OwnVideoRequest`, and a signal cancels it in mid-operator."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ffrt.cli.flags import add_options, add_running, flag_of
from ffrt.cli.loading import loading
from ffrt.cli.progress import Progress
from ffrt.cli.stopping import cancelled_by_signals, stoppable
from ffrt.errors import RequestError, VideoWriteError
from ffrt.files import shown
from ffrt.generation.own_video.options import OwnVideoRequest
from ffrt.generation.request import options
from ffrt.output.whole_file import identity


def add_interpolate(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ffrt interpolate`."""
    add = parser.add_argument
    add("video", metavar="VIDEO", help="file to read: MP4, QuickTime, Matroska or WebM")
    add("-o", "--output", required=True, metavar="FILE", help="file to write: .mp4, .mov, .mkv or .webm")
    add("--bundle", metavar="DIR", help="folder of a bundle (default: the demo)")
    add_options(parser, OwnVideoRequest, {"cuts": _cuts})
    add_running(parser)


def interpolate_flags() -> dict[str, str]:
    """The arguments of the library that have another name on the command line, and that name."""
    return {
        name: flag for name, option in options(OwnVideoRequest).items() if (flag := flag_of(name, option)) is not None
    }


def interpolate(args: argparse.Namespace) -> int:
    """Make the video and return the exit status: 0, or 130 after Ctrl-C. Raises FfrtError."""
    with loading("ffrt"):
        from ffrt.media.retimed import SUFFIXES
        from ffrt.media.video_file import check_target
        from ffrt.pipeline import Pipeline  # noqa: F401  # takes longest

    try:
        target = check_target(args.output, suffixes=SUFFIXES)
    except VideoWriteError as error:
        raise RequestError(str(error)) from error
    return stoppable(args.output, lambda: identity(target), lambda: _interpolate(args, target))


def _interpolate(args: argparse.Namespace, target: Path) -> int:
    from ffrt.pipeline import Pipeline

    started_s = time.monotonic()
    given = {name: getattr(args, name) for name in options(OwnVideoRequest)}
    OwnVideoRequest(**given)
    with (
        Progress(sys.stderr, quiet=args.quiet) as progress,
        Pipeline.from_pretrained(
            args.bundle, provider=args.provider, threads=args.threads, memory=args.memory, cuda_graph=args.cuda_graph
        ) as pipe,
        cancelled_by_signals(pipe.cancel),
    ):
        made = pipe.interpolate_video(args.video, target, on_step=progress.frames, **given)
    if not args.quiet:
        took_s = time.monotonic() - started_s
        cuts = "no cut" if not made.cuts else f"{len(made.cuts)} cut{'s' if len(made.cuts) > 1 else ''}"
        print(
            f"{shown(args.output)}: {made.num_frames} frames, {made.width}x{made.height}, {made.rate} fps, "
            f"{made.duration_s:.1f} s long, {cuts}, made in {took_s:.1f} s"
        )
    return 0


def _cuts(text: str) -> str | tuple[int, ...]:
    """'auto', 'none', or '120,245' -> (120, 245)."""
    if text in ("auto", "none"):
        return text
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected auto, none or numbers such as 120,245, got {text!r}") from None
