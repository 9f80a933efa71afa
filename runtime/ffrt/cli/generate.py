"""`ffrt generate`: its flags are the fields of `Request`, and a signal cancels the request in mid-operator."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from ffrt.cli.flags import add_options, add_running, flag_of
from ffrt.cli.loading import loading
from ffrt.cli.pipe import StdoutPipe, refuse_terminal
from ffrt.cli.progress import Progress
from ffrt.cli.stopping import cancelled_by_signals, stoppable
from ffrt.errors import Cancelled, RequestError, VideoWriteError
from ffrt.files import shown
from ffrt.generation.request import Request, options
from ffrt.output.whole_file import Identity, identity

if TYPE_CHECKING:
    from ffrt.generation.generation import Generation
    from ffrt.generation.step import Step
    from ffrt.pipeline import Pipeline


def add_generate(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ffrt generate`."""
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help="what the video shows")
    add("-o", "--output", required=True, metavar="FILE", help="file to write: .mp4, .webm, .gif or .png; - is stdout")
    add("--format", metavar="NAME", help="with -o -: mp4 (fragmented, the default) or webm")
    add("--bundle", metavar="DIR", help="folder of a bundle (default: the demo)")
    add_options(parser, Request, {"motion": _motion, "guidance_interval": _interval})
    add("--size", type=_size, default=(None, None), metavar="HxW", help="height x width in pixels, or one number")
    add_running(parser)


def flags() -> dict[str, str]:
    """The arguments of the library that have another name on the command line, and that name."""
    named = {name: flag for name, option in options().items() if (flag := flag_of(name, option)) is not None}
    sizes = {"height": "--size (height)", "width": "--size (width)"}
    return {
        **named,
        **sizes,
        "bundle": "--bundle",
        "threads": "--threads",
        "memory": "--memory",
        "cuda_graph": "--cuda-graph",
        "path": "--output",
        "format": "--format",
    }


def generate(args: argparse.Namespace) -> int:
    """Make the video and return the exit status: 0, or 130 after Ctrl-C. Raises FfrtError."""
    with loading("ffrt"):
        from ffrt.media.live import check_live_format
        from ffrt.media.video_file import check_target
        from ffrt.pipeline import Pipeline  # noqa: F401  # takes longest

    if args.output == "-":
        refuse_terminal()
        check_live_format(_format(args))
        return stoppable("stdout", lambda: None, lambda: _stream(args), "the stream ends before its end")
    if args.format is not None:
        raise RequestError(
            f"format: expected none with a file, whose suffix says it, got {args.format!r}; leave it out"
        )
    try:
        target = check_target(args.output)
    except VideoWriteError as error:
        raise RequestError(str(error)) from error
    return stoppable(args.output, lambda: _what_is_there(target), lambda: _generate(args, target))


def _generate(args: argparse.Namespace, target: Path) -> int:
    from ffrt.media.target import output_of

    started_s = time.monotonic()
    with Progress(sys.stderr, quiet=args.quiet) as progress, _opened(args) as pipe:
        generation = pipe.generate(_request(args))
        with cancelled_by_signals(generation.cancel):
            video = generation.save(target, on_step=progress.update)
    if not args.quiet:
        took_s = time.monotonic() - started_s
        made = args.output if output_of(target, len(video)) == target else os.path.splitext(args.output)[0] + os.sep
        print(
            f"{shown(made)}: {len(video)} frames, {video.height}x{video.width}, {video.fps} fps, "
            f"{video.duration_s:.1f} s long, made in {took_s:.1f} s"
        )
    return 0


def _stream(args: argparse.Namespace) -> int:
    """Write the video to stdout while it is made. Raises BrokenPipeError if its reader goes away."""
    with Progress(sys.stderr, quiet=args.quiet) as progress, _opened(args) as pipe:
        generation = pipe.generate(_request(args))
        stdout = StdoutPipe(lambda: _stop(generation))

        def on_step(step: Step) -> None:
            stdout.check_reader()
            progress.update(step)

        with cancelled_by_signals(generation.cancel):
            try:
                generation.stream(cast("BinaryIO", stdout), format=_format(args), on_step=on_step)
            except VideoWriteError as error:
                if isinstance(error.__cause__, BrokenPipeError):
                    raise error.__cause__ from None
                raise
    return 0


def _stop(generation: Generation) -> None:
    if generation.cancelled:
        raise Cancelled("the rest of the stream was not written: the request was cancelled")


def _format(args: argparse.Namespace) -> str:
    return "mp4" if args.format is None else str(args.format)


def _request(args: argparse.Namespace) -> Request:
    height, width = args.size
    given = {name: getattr(args, name) for name in options() if name not in ("height", "width")}
    return Request(**given, height=height, width=width)


def _opened(args: argparse.Namespace) -> Pipeline:
    from ffrt.pipeline import Pipeline

    return Pipeline.from_pretrained(
        args.bundle, provider=args.provider, threads=args.threads, memory=args.memory, cuda_graph=args.cuda_graph
    )


def _what_is_there(target: Path) -> tuple[Identity | None, ...]:
    """The file, and the folder of a png series."""
    from ffrt.media.target import output_of

    return identity(target), identity(output_of(target, 2))


def _motion(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _interval(text: str) -> tuple[float, float]:
    """'200,800' -> (200.0, 800.0)."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected LOW,HIGH such as 200,800, got {text!r}") from None
    return low, high


def _size(text: str) -> tuple[int, int]:
    """'128' -> (128, 128), '96x160' -> height 96, width 160."""
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 96x160, or one number, got {text!r}")
    height, width = match.groups()
    return int(height), int(height if width is None else width)
