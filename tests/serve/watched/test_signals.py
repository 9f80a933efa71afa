"""SIGTERM ends a server wherever its thread is: amid a write to the log, or where nobody reads the log."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from ffrt import Bundle
from tests.serve.processes import environment, filled

SERVES = """
import io, os, signal, sys
from ffrt.cli.main import main

class Log(io.RawIOBase):
    "stderr, of which a write of one line is interrupted by SIGTERM."

    def writable(self):
        return True

    def write(self, data):
        told = bytes(data)
        if b'"event": "request"' in told and not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGTERM)
        return os.write(2, told)

interrupted = []
sys.stderr = io.TextIOWrapper(io.BufferedWriter(Log()), line_buffering=True)
if __name__ == "__main__":  # and not the worker, which is spawned from this file
    sys.exit(main(["serve", *sys.argv[1:]]))
"""


@contextlib.contextmanager
def answering(line: list[str], log: BinaryIO, data: Path, bundle: Bundle) -> Iterator[subprocess.Popen[bytes]]:
    """A server that `line` starts and that has answered; it is gone after the block, whatever happens in it."""
    flags = ["--bundle", str(bundle.folder), "--data", str(data), "--port", "0"]
    with subprocess.Popen([*line, *flags], stdout=subprocess.PIPE, stderr=log, env=environment()) as server:
        try:
            assert server.stdout is not None
            match = re.search(r"http://\S+", server.stdout.readline().decode())
            assert match is not None, "it did not start"
            assert httpx.get(f"{match[0]}/health", timeout=60).status_code == 200
            yield server
        finally:
            server.kill()


def test_sigterm_amid_a_write_to_the_log_ends_the_server(tiny: Bundle, tmp_path: Path) -> None:
    program, told = tmp_path / "serves.py", tmp_path / "log"
    program.write_text(SERVES)
    with open(told, "wb") as log, answering([sys.executable, str(program)], log, tmp_path / "data", tiny) as server:
        assert server.wait(60) == 0
    text = told.read_text()
    assert "it ends" in text and "reentrant" not in text


def test_a_server_whose_log_nobody_reads_answers_and_ends(tiny: Bundle, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    filled(writing)
    line = [sys.executable, "-m", "ffrt", "serve"]
    with open(reading, "rb"), open(writing, "wb") as log, answering(line, log, tmp_path / "data", tiny) as server:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
