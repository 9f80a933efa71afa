"""The command `ffrt`: generate, inspect, doctor.

Exit status: 0 done; 1 something failed; 2 the request was wrong and nothing was run; 130 stopped with Ctrl-C, 143 by
SIGTERM. An error is one message on stderr; the result goes to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TextIO

from ffrt import __version__
from ffrt.errors import Cancelled, FfrtError, ImageTooSmall, PromptTruncated, RequestError, VideoWriteError

BAR_WIDTH = 24
RATES_HELP = "frames per second, one of the rates of the bundle: 2, 8 or 30 for the demo (default: 8)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = _parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if args.command == "generate":
            return _generate(args)
        from ffrt.cli import report

        text, status = report.doctor() if args.command == "doctor" else (report.inspect(args.what, args.json), 0)
        print(text, flush=True)
        return status
    except (KeyboardInterrupt, Cancelled):
        print("ffrt: stopped, nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FfrtError, ImportError) as error:
        print(f"ffrt: {error}", file=sys.stderr)
        return 2 if isinstance(error, RequestError) else 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ffrt", description="A sentence becomes a video, without PyTorch.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"ffrt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add = commands.add_parser("generate", help="make a video of a prompt", allow_abbrev=False).add_argument
    add("prompt", metavar="PROMPT", help="what the video shows")
    add("-o", "--output", required=True, metavar="FILE", help="file to write: .mp4, .webm, .gif or .png")
    add("--bundle", metavar="DIR", help="folder of a bundle (default: the demo)")
    add("--image", metavar="FILE", help="picture to begin with, where the bundle follows one")
    add("--motion", metavar="NAME", help="how much moves: low, medium, high, extreme, or 0 to 1000, with such a bundle")
    add("--negative-prompt", metavar="TEXT", help="what the video does not show")
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same video (default: 0)")
    add("--fps", type=int, default=8, metavar="N", help=RATES_HELP)
    add("--steps", type=int, metavar="N", help="denoising steps of each stage (default: the bundle's)")
    add("--guidance", type=float, metavar="W", help="guidance scale of the keyframes (default: the bundle's)")
    add("--image-guidance", type=float, metavar="W", help="how closely the keyframes follow the picture")
    add("--interpolation-guidance", type=float, metavar="W", help="guidance scale of the frames between them")
    add("--size", type=_size, default=(None, None), metavar="HxW", help="height x width in pixels, or one number")
    add("--sampler", metavar="NAME", help="ddpm, ddim or dpm++ (default: the bundle's)")
    add("--preset", metavar="NAME", help="quality (the bundle's own steps, the default) or fast (fewer)")
    add("--cache-interval", type=int, metavar="N", help="run the deep levels of the networks in every N-th step")
    add("--provider", default="auto", metavar="NAME", help="auto, cpu, cuda or another of ffrt doctor (default: auto)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: ONNX Runtime chooses)")
    add("--memory", default="fast", metavar="NAME", help="fast, or low for networks larger than memory (default: fast)")
    add("--cuda-graph", action="store_true", help="record the launches of a step on a GPU, for small networks")
    add("-q", "--quiet", action="store_true", help="print only warnings and errors")

    add = commands.add_parser("inspect", help="show what a bundle holds, or how a video was made").add_argument
    add("what", metavar="BUNDLE", help="folder of a bundle, 'demo', or a video that ffrt wrote")
    add("--json", action="store_true", help="print JSON")

    commands.add_parser("doctor", help="check the installation and say what to install next")
    return parser


def _size(text: str) -> tuple[int, int]:
    """'128' -> (128, 128), '96x160' -> height 96, width 160."""
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 96x160, or one number, got {text!r}")
    height, width = match.groups()
    return int(height), int(height if width is None else width)


def _generate(args: argparse.Namespace) -> int:
    from ffrt.media.video_file import check_target
    from ffrt.pipeline import Pipeline

    try:
        check_target(args.output)
    except VideoWriteError as error:
        raise RequestError(str(error)) from error
    progress = Progress(sys.stderr, quiet=args.quiet)
    started_s = time.monotonic()
    pipe = Pipeline.from_pretrained(
        args.bundle, provider=args.provider, threads=args.threads, memory=args.memory, cuda_graph=args.cuda_graph
    )
    height, width = args.size
    steps = pipe.generate(
        args.prompt,
        negative_prompt=args.negative_prompt,
        image=args.image,
        motion=int(args.motion) if args.motion is not None and args.motion.isdecimal() else args.motion,
        fps=args.fps,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        image_guidance_scale=args.image_guidance,
        interpolation_guidance_scale=args.interpolation_guidance,
        seed=args.seed,
        height=height,
        width=width,
        sampler=args.sampler,
        preset=args.preset,
        cache_interval=args.cache_interval,
    )
    num_frames = pipe.bundle.keyframes.num_frames
    for one_pass in pipe.bundle.interpolation.passes:
        num_frames = 4 * num_frames - 3 if one_pass.fps <= args.fps else num_frames
    check_target(args.output, num_frames=num_frames)
    with warnings.catch_warnings(), _cancelled_by_signals(pipe.cancel):
        for told in (PromptTruncated, ImageTooSmall):
            warnings.simplefilter("always", told)
        warnings.showwarning = progress.warn  # type: ignore[assignment]
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                video = end.value
                break
            progress.update(step.stage, step.index + 1, step.total)
        video.save(args.output, on_frame=lambda done, total: progress.update("decode and write", done, total, "frames"))
    if not args.quiet:
        took_s = time.monotonic() - started_s
        print(
            f"{args.output}: {len(video)} frames, {video.height}x{video.width}, {video.fps} fps, "
            f"{video.duration_s:.1f} s long, made in {took_s:.1f} s"
        )
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds the stack, so that the temporary folder is removed


@contextlib.contextmanager
def _cancelled_by_signals(cancel: Callable[[], None]) -> Iterator[None]:
    """Call `cancel` when Ctrl-C or SIGTERM comes: Python's own handlers wait until a graph has run to its end."""
    ours, signals = socket.socketpair()
    signals.setblocking(False)
    before = signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        while number := ours.recv(1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                cancel()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signals.close()  # the thread then reads an end
        thread.join()
        ours.close()


class Progress:
    """A bar with the time left, rewritten in place on a terminal; elsewhere one line for each finished stage."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._live = stream.isatty()
        self._stage = ""
        self._started_s = self._ended_s = time.monotonic()

    def update(self, stage: str, done: int, total: int, unit: str = "steps") -> None:
        """`done` of `total` units of `stage` are finished."""
        if self._quiet:
            return
        now_s = time.monotonic()
        if stage != self._stage:
            self._stage, self._started_s = stage, self._ended_s  # loading a graph counts for the stage that needs it
        if done == total:
            self._write(f"{stage:<24} {total:>4} {unit:<6}  {now_s - self._started_s:6.1f} s", end=True)
            self._ended_s = now_s
        elif self._live:
            left_s = (now_s - self._started_s) / done * (total - done)
            filled = BAR_WIDTH * done // total
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            self._write(f"{stage:<24} [{bar}] {done}/{total}  {_clock(left_s)} left", end=False)

    def warn(self, message: Warning | str, *_: object) -> None:
        """Show a warning as one line; stands in for `warnings.showwarning`."""
        self._write(f"ffrt: warning: {message}", end=True)

    def _write(self, line: str, *, end: bool) -> None:
        if self._live:
            columns = shutil.get_terminal_size().columns
            line = "\r\x1b[K" + (line if end else line[: columns - 1])
        self._stream.write(line + ("\n" if end else ""))
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
