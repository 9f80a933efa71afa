"""What Ctrl-C and SIGTERM do to a command that writes: it is cancelled in mid-operator, and says what was written."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from ffrt.errors import Cancelled
from ffrt.files import shown


def stoppable(output: str, there: Callable[[], object], make: Callable[[], int], told: str | None = None) -> int:
    """What `make` returns, or 130 after Ctrl-C; `there` identifies what stands at `output`.

    `told` is said of an output that can be written in part.
    """
    before = there()
    try:
        return make()
    except (KeyboardInterrupt, Cancelled):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more changes nothing
        written = f"{shown(output)} had been written" if there() != before else "nothing was written"
        print(f"ffrt: stopped, {written if told is None else told}", file=sys.stderr)
        return 130


@contextlib.contextmanager
def cancelled_by_signals(cancel: Callable[[], None]) -> Iterator[None]:
    """Call `cancel` on Ctrl-C or SIGTERM: Python's own handlers wait until a graph has run to its end."""
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
