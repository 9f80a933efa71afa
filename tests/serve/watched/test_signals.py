"""SIGTERM ends a server wherever its thread is: amid a write to the log, or where nobody reads the log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

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


def test_sigterm_amid_a_write_to_the_log_ends_the_server(tiny: Bundle, tmp_path: Path) -> None:
    program, log = tmp_path / "serves.py", tmp_path / "log"
    program.write_text(SERVES)
    line = [sys.executable, str(program), "--bundle", str(tiny.folder), "--data", str(tmp_path / "data"), "--port", "0"]
    with open(log, "wb") as told:
        server = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=told, env=environment())
    assert server.stdout is not None
    with server.stdout:
        match = re.search(r"http://\S+", server.stdout.readline().decode())
        assert match is not None, log.read_text()
        try:
            assert httpx.get(f"{match[0]}/health", timeout=60).status_code == 200
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()
    text = log.read_text()
    assert "it ends" in text and "reentrant" not in text


def test_a_server_whose_log_nobody_reads_answers_and_ends(tiny: Bundle, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    filled(writing)
    line = [sys.executable, "-m", "ffrt", "serve", "--bundle", str(tiny.folder), "--data", str(tmp_path / "data")]
    with open(reading, "rb"):
        with open(writing, "wb") as log:
            server = subprocess.Popen([*line, "--port", "0"], stdout=subprocess.PIPE, stderr=log, env=environment())
        assert server.stdout is not None
        with server.stdout:
            match = re.search(r"http://\S+", server.stdout.readline().decode())
            try:
                assert match is not None
                assert httpx.get(f"{match[0]}/health", timeout=60).status_code == 200
                server.send_signal(signal.SIGTERM)
                assert server.wait(60) == 0
            finally:
                server.kill()
                server.wait()
