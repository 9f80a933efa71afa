"""Entry point of the command `ffrt`, which is there before anything else is loaded."""

from __future__ import annotations

import signal

from ffrt.cli.loading import loading


def main() -> int:
    """Entry point of the command `ffrt`."""
    with loading("ffrt"):
        from ffrt.cli.main import main as run
    status = run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is the end of the interpreter
    return status
