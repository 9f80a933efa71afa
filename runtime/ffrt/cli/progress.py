"""The progress of `ffrt generate`: a bar with the time left on a terminal, elsewhere a line per finished stage."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TextIO

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from ffrt.families import Stage
from ffrt.generation.step import Step

LABEL_WIDTH = 24


class Progress(logging.Handler):
    """Shows steps, and warnings of the logger "ffrt" between them; a context manager."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        super().__init__(logging.WARNING)
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._began_s = 0.0
        self._bar = bars.Progress(
            bars.TextColumn(f"{{task.description:<{LABEL_WIDTH}}}"),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("opening the bundle", total=None, left="")

    def __enter__(self) -> Progress:
        logging.getLogger("ffrt").addHandler(self)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        logging.getLogger("ffrt").removeHandler(self)

    def update(self, step: Step) -> None:
        """`step` is finished."""
        if step.stage is Stage.TEXT:
            return
        left = "" if step.remaining_s is None else f"{_clock(step.remaining_s)} left"
        self._bar.update(self._task, description=_label(step), completed=step.index + 1, total=step.total, left=left)
        if step.index + 1 == step.total:
            unit = "frames" if step.stage is Stage.DECODING else "steps"
            took_s = step.elapsed_s - self._began_s
            self._print(f"{_label(step):<{LABEL_WIDTH}} {step.total:>4} {unit:<6}  {took_s:6.1f} s")
            self._began_s = step.elapsed_s

    def refresh(self) -> None:
        """Draw the bar now; it draws itself ten times a second."""
        self._bar.refresh()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a warning as one line."""
        self._console.print(Text(f"ffrt: warning: {record.getMessage()}"))

    def _print(self, line: str) -> None:
        if not self._quiet:
            self._console.print(Text(line))


def _label(step: Step) -> str:
    if step.stage is Stage.DECODING:
        return "decode and write"
    return f"interpolation to {step.fps} fps" if step.stage is Stage.INTERPOLATION else str(step.stage)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
