"""The command under the standard streams of containers and pipes: closed, narrow, or read by nobody."""

from __future__ import annotations

import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from ffrt import Bundle
from ffrt.backend.engines import engines_folder
from ffrt.media.metadata import read_metadata
from tests.runtime.clips import environment


def shell(line: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell in which "$@" is the command with its arguments."""
    command = ["bash", "-c", line, "bash", sys.executable, "-m", "ffrt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**environment(), **variables}, timeout=300)


@pytest.mark.parametrize("line", ['"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-'])
def test_closed_streams_are_no_place_for_a_video(tiny: Bundle, tmp_path: Path, line: str) -> None:
    out = tmp_path / "a.gif"
    arguments = ["generate", "a red circle", "-o", str(out), "--bundle", str(tiny.folder), "--fps", "2"]
    done = shell(line, *arguments, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and read_metadata(out)["prompt"] == "a red circle"


def test_a_child_has_the_streams_that_were_closed() -> None:
    child = "import os, sys; sys.exit(sum(os.get_inheritable(number) for number in (0, 1, 2)))"
    parent = (
        "import subprocess, sys; from ffrt.cli.streams import open_streams; open_streams(); "
        f"sys.exit(subprocess.run([sys.executable, '-c', {child!r}]).returncode)"
    )
    line = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", parent]
    assert subprocess.run(line, env=environment(), timeout=300).returncode == 3


def test_a_narrow_encoding_prints_numbers_for_what_it_lacks(tiny: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "größe.gif"
    arguments = ["generate", "a red circle", "-o", str(out), "--bundle", str(tiny.folder), "--fps", "2"]
    done = shell('"$@"', *arguments, "--threads", "1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe.gif: 3 frames" in done.stdout and out.exists()


def test_a_user_without_a_home_folder_keeps_no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_row(number: int) -> object:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", no_row)
    assert engines_folder() is None
    monkeypatch.setenv("HOME", "here")
    assert engines_folder() is None, "a folder of the current one would be another in every place"


def test_a_reader_that_goes_ends_the_command_quietly() -> None:
    done = shell('"$@" | head -1', "doctor", COLUMNS="1", TERM="dumb")
    assert done.stdout.startswith("ffrt") and done.stderr == ""
