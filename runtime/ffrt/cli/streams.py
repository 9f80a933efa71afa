"""The standard streams, whatever the program was started with: closed, in another encoding, or read by nobody."""

from __future__ import annotations

import io
import os
import sys

NAMES = ("stdin", "stdout", "stderr")


def open_streams() -> None:
    r"""Put /dev/null where a standard stream is closed, and let the others print every character.

    A video would otherwise get the number of the closed one and have messages written into it. Children have them open
    too. What an encoding lacks is printed as its number, such as \xe9.
    """
    for number, name in enumerate(NAMES):
        if not _is_open(number):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)  # which dup2 leaves alone where both numbers are the same
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def leave_streams() -> None:
    """Throw away what is still to be printed, for the end of a program whose reader has gone."""
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
