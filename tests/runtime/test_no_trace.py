"""A request opens no socket, or the kernel ends it; it writes the output, and optimised graphs to the cache alone."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ffrt import Bundle
from tests.runtime.clips import environment

SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
"""The number of the system call `socket`."""

WITHOUT_SOCKETS = f"""
import ctypes, struct
rows = [(0x20, 0, 0, 0), (0x15, 0, 1, {SOCKET}), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *row) for row in rows))
filters = ctypes.create_string_buffer(struct.pack("@HxxxxxxP", len(rows), ctypes.addressof(program)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
assert libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(filters)), 0, 0) == 0  # a filter that kills
"""

REQUEST = """
import sys
from ffrt import Pipeline
folder, provider = sys.argv[1:]
with Pipeline.from_pretrained(folder, provider=provider) as pipe:
    pipe("a red circle", fps=8, num_inference_steps=1).save("out.mp4")
"""
KEPT = re.compile(r"home/\.cache/ffrt/graphs/[0-9a-f]{64}-[0-9a-f]{64}\.graph")
COMMAND = "import sys\nfrom ffrt.cli.start import main\nmain()"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or SOCKET is None, reason="only Linux has seccomp, whose call numbers are known for two"
)


def run(tmp_path: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it where a socket ends the process, with empty folders of its own for everything that it may write to."""
    places = {name: tmp_path / name for name in ("home", "temporary", "work")}
    for place in places.values():
        place.mkdir()
    kept = {name: value for name, value in environment().items() if not name.startswith(("XDG_", "ORT_"))}
    return subprocess.run(
        [sys.executable, "-B", "-c", WITHOUT_SOCKETS + program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=places["work"],
        env={**kept, "HOME": str(places["home"]), "TMPDIR": str(places["temporary"])},
    )


def written(tmp_path: Path) -> list[str]:
    """All files but entries of the cache of graphs."""
    found = (str(Path(at, name).relative_to(tmp_path)) for at, _, names in os.walk(tmp_path) for name in names)
    return sorted(path for path in found if KEPT.fullmatch(path) is None)


def test_a_socket_would_be_noticed(tmp_path: Path) -> None:
    assert run(tmp_path, "import socket\nsocket.socket()").returncode == -signal.SIGSYS


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_request_reaches_no_network_and_leaves_the_video_alone(tiny: Bundle, tmp_path: Path, provider: str) -> None:
    if provider == "openvino":
        pytest.importorskip("openvino")
    done = run(tmp_path, REQUEST, str(tiny.folder), provider)
    assert (done.returncode, done.stderr) == (0, "")
    assert written(tmp_path) == ["work/out.mp4"]


@pytest.mark.parametrize(
    "arguments", [["doctor"], ["inspect"], ["generate", "a red circle", "--fps", "2", "-o", "a.gif"]]
)
def test_a_command_reaches_no_network(tiny: Bundle, tmp_path: Path, arguments: list[str]) -> None:
    bundle = {"doctor": [], "inspect": [str(tiny.folder)]}.get(arguments[0], ["--bundle", str(tiny.folder)])
    done = run(tmp_path, COMMAND, *arguments, *bundle)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path) == (["work/a.gif"] if arguments[0] == "generate" else [])
