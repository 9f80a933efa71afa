"""The progress of `ffrt generate`: a bar with the time left on a terminal, elsewhere a line per finished stage."""

from __future__ import annotations

import logging
import shutil
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from ffrt.families import Stage
from ffrt.generation.own_video.step import VideoStep
from ffrt.generation.step import Step

LABEL_WIDTH = 24


class Progress(logging.Handler):
    """Shows steps, and warnings of the logger "ffrt" between them; a context manager."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        super().__init__(logging.WARNING)
        self._stream = stream
        self._quiet = quiet
        self._began_s = 0.0
        self._bar = tqdm(
            desc="opening the bundle",
            file=stream,
            bar_format=f"{{desc:<{LABEL_WIDTH}}} {{bar:24}} {{n_fmt}}/{{total_fmt}}{{postfix}}",
            disable=quiet or not stream.isatty(),
            ncols=shutil.get_terminal_size().columns,  # 80 where the terminal has no size, as in some containers
            nrows=24,
            leave=False,
        )

    def __enter__(self) -> Progress:
        logging.getLogger("ffrt").addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        logging.getLogger("ffrt").removeHandler(self)

    def update(self, step: Step) -> None:
        """`step` is finished."""
        if step.stage is Stage.TEXT:
            return
        self._bar.total, self._bar.n = step.total, step.index + 1
        self._bar.set_description_str(_label(step), refresh=False)
        self._bar.set_postfix_str("" if step.remaining_s is None else f"{_clock(step.remaining_s)} left", refresh=False)
        self._bar.refresh()
        if step.index + 1 == step.total:
            unit = "frames" if step.stage is Stage.DECODING else "steps"
            took_s = step.elapsed_s - self._began_s
            self._print(f"{_label(step):<{LABEL_WIDTH}} {step.total:>4} {unit:<6}  {took_s:6.1f} s")
            self._began_s = step.elapsed_s

    def frames(self, step: VideoStep) -> None:
        """A video of the caller is so far."""
        label = "interpolate and write"
        self._bar.total, self._bar.n = step.num_frames, step.frames
        self._bar.set_description_str(label, refresh=False)
        self._bar.set_postfix_str("" if step.remaining_s is None else f"{_clock(step.remaining_s)} left", refresh=False)
        self._bar.refresh()
        if step.frames == step.num_frames:
            self._print(f"{label:<{LABEL_WIDTH}} {step.num_frames:>4} frames  {step.elapsed_s:6.1f} s")

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning as one line."""
        tqdm.write(f"ffrt: warning: {record.getMessage()}", file=self._stream)

    def _print(self, line: str) -> None:
        if not self._quiet:
            tqdm.write(line, file=self._stream)


def _label(step: Step) -> str:
    if step.stage is Stage.DECODING:
        return "decode and write"
    return f"interpolation to {step.fps} fps" if step.stage is Stage.INTERPOLATION else str(step.stage)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
