"""A container that FFmpeg writes through a file of ours, so that no error of the disk is lost."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

from ffrt.output.interrupts import held_interrupts

Value = TypeVar("Value")


class _Written:
    """The file that FFmpeg writes to. Its first error is raised; afterwards nothing is written, and nothing is raised.

    PyAV prints a traceback for every error that comes before it could raise the one before.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        return self._first(lambda: self.file.read(size), b"")

    def write(self, data: bytes) -> int:
        return self._first(lambda: self.file.write(data), len(data))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._first(lambda: self.file.seek(offset, whence), offset)

    def tell(self) -> int:
        return self._first(self.file.tell, 0)

    def close(self) -> None:
        self._first(self.file.close, None)

    def _first(self, call: Callable[[], Value], otherwise: Value) -> Value:
        if self.error is not None:
            return otherwise
        try:
            return call()
        except OSError as error:
            self.error = error
            raise


class Muxer:
    """An output container over the file `part`.

    FFmpeg reads and writes through files of ours: an error of any call is then raised, which its own files drop where
    they go back to rewrite a header, and nothing stays open after a failure.
    """

    def __init__(self, part: Path, format: str, options: Mapping[str, str]) -> None:
        import av

        self.part = part
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self.file = open(handle, "w+b")  # noqa: SIM115  # without a name, which PyAV would take for UTF-8
        self.again: BinaryIO | None = None  # the same file, read once more to put its index first
        self.written = _Written(self.file)
        self.container = av.open(self.written, "w", format=format, options=dict(options), io_open=self._open_again)

    def finish(self, count: int) -> None:
        """Close the file and count its packets of video. Raises OSError unless there are `count`."""
        import av

        with held_interrupts():  # FFmpeg calls `_open_again`, out of which no KeyboardInterrupt can pass
            self.container.close()
        if self.written.error is not None:
            raise self.written.error
        self.file.close()
        with open(self.part, "rb") as file, av.open(file, "r") as container:
            found = sum(packet.size > 0 for packet in container.demux(video=0))
        if found != count:  # a muxer may lose the error of a full disk
            raise OSError(errno.EIO, f"{found} of {count} frames reached the disk")

    def abort(self) -> None:
        """Close the files; they will be deleted, and the first error is the one to show."""
        import av

        with held_interrupts():
            for close in (self.container.close, self.file.close, self._close_again):
                with contextlib.suppress(OSError, ValueError, av.FFmpegError):
                    close()

    def _open_again(self, url: str, flags: int, options: Mapping[str, str]) -> BinaryIO:
        self.again = open(self.part, "rb")  # noqa: SIM115  # closed by FFmpeg, or by abort
        return self.again

    def _close_again(self) -> None:
        if self.again is not None:
            self.again.close()


class _Sent:
    """A file of the caller that is written and nothing else. After its first error nothing is written or raised."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: Exception | None = None
        self.left = False

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest and self.error is None and not self.left:
            try:
                count = self.file.write(rest)
                rest = rest[len(rest) if count is None else count :]
                if not len(rest) and hasattr(self.file, "flush"):
                    self.file.flush()
            except Exception as error:
                self.error = error
                raise
        return len(data)


class LiveMuxer:
    """An output container over a file that can only be written, such as a pipe. The file stays open."""

    def __init__(self, file: BinaryIO, format: str, options: Mapping[str, str]) -> None:
        import av

        self.sent = _Sent(file)
        self.container = av.open(self.sent, "w", format=format, options=dict(options))

    def finish(self, count: int) -> None:
        """End the stream. Raises the first error of the file; how many frames came is for its reader to count."""
        self.container.close()
        if self.sent.error is not None:
            raise self.sent.error

    def abort(self) -> None:
        """Write no more. The first error is the one to show."""
        self.sent.left = True
        with contextlib.suppress(Exception):
            self.container.close()
