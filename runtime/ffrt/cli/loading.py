"""The first moments of a command, in which it loads what it needs."""

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False  # typing takes as long to load as all of this, and nothing guards against Ctrl-C yet
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn


@contextlib.contextmanager
def loading(program: str | None) -> Iterator[None]:
    """Ctrl-C within the block ends `program` with status 130 and one line, whatever is being imported.

    A KeyboardInterrupt would be a traceback, and now and then is lost in an import. Nothing is written while a program
    loads, so that there is nothing to clean up. None changes nothing, for a module that is imported by another one.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        os.write(2, f"{program}: stopped, nothing was written\n".encode())
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    if program is None or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
