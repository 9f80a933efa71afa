"""The pipeline without a server, in a process of its own, as its user would run it: generate and save, one by one.

`python -m bench.serving.bare BUNDLE THREADS` takes one request a line on stdin, as JSON with a `path`, and prints the
seconds from the request to the written file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.harness.record import BenchError
from bench.serving.server import environment


class Bare:
    """The process; it has opened its graphs and made one short video."""

    def __init__(self, bundle: Path, threads: int) -> None:
        line = [sys.executable, "-m", "bench.serving.bare", str(bundle), str(threads)]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def make(self, request: Mapping[str, Any], path: Path) -> float:
        """The seconds of one video. Raises BenchError if the process failed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({**request, "path": str(path)}).encode() + b"\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        if not told:
            raise BenchError(f"the bare pipeline ended with {self._process.wait()}")
        return float(told)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main(bundle: Path, threads: int) -> None:
    """Make what stdin asks for."""
    from ffrt import Pipeline, Request

    with Pipeline.from_pretrained(bundle, provider="cpu", threads=threads) as pipe:
        for line in sys.stdin:
            request = json.loads(line)
            path = Path(request.pop("path"))
            began_s = time.perf_counter()
            pipe.generate(Request(**request)).save(path)
            print(time.perf_counter() - began_s, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
