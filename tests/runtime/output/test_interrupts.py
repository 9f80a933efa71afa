"""Ctrl-C at the worst moments: no traceback, and the truth about what was written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ffrt import Bundle, Video
from ffrt.cli import main as cli
from ffrt.output import whole_file as files
from ffrt.output.interrupts import held_interrupts
from tests.runtime.clips import circle, decode, environment


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_held_interrupt_comes_after_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        press()
        done.append(True)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_said_is_what_was_written(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    replace, sync = os.replace, files.sync

    def pressed_after(source: Path, target: Path) -> None:
        replace(source, target)
        press()

    def pressed_in_decoding(self: Video) -> None:
        press()

    if moment == "after":
        monkeypatch.setattr(os, "replace", pressed_after)
    else:
        monkeypatch.setattr("ffrt.media.writers.AvWriter.add", lambda self, frame: press())
    line = ["generate", "a red circle", "--fps=2", "--threads=1", f"--bundle={tiny.folder}", "-o", f"{tmp_path}/a.gif"]
    assert cli.main(line) == 130
    told = capsys.readouterr()
    if moment == "after":
        assert told.err.endswith(f"ffrt: stopped, {tmp_path}/a.gif had been written\n")
        assert decode(tmp_path / "a.gif").shape == (3, 32, 32, 3)
    else:
        assert told.err.endswith("ffrt: stopped, nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"] * (moment == "after")
    assert files.sync is sync and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_an_interrupt_while_a_header_is_written_is_not_lost(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg calls back into Python then, where a KeyboardInterrupt would be printed and forgotten."""
    import av

    opened = av.open

    class Pressed:
        def __init__(self, file) -> None:
            self.file = file
            self.read, self.write, self.tell, self.close = file.read, file.write, file.tell, file.close

        def seek(self, offset: int, whence: int = 0) -> int:
            press()
            return self.file.seek(offset, whence)

    def through(file, mode, **named):
        return opened(Pressed(file) if mode == "w" else file, mode, **named)

    monkeypatch.setattr(av, "open", through)
    with pytest.raises(KeyboardInterrupt):
        Video.from_frames(circle(3), 8).save(tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


START = textwrap.dedent(
    """
    import importlib.abc, os, runpy, signal, sys
    wanted, module = sys.argv[1:3]
    sys.argv[1:] = sys.argv[3:]

    class Press(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == wanted:
                os.kill(os.getpid(), signal.SIGINT)

    sys.meta_path.insert(0, Press())
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    """
)
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("wanted", "module"),
    [
        ("numpy", "ffrt"),
        ("ffrt.cli.main", "ffrt"),
        ("onnxruntime", "ffrt"),
        ("av", "ffrt"),
        ("ffrt.pipeline", "ffrt"),
        ("onnx_ir", "graphs"),
        ("torch", "export"),
    ],
)
def test_ctrl_c_while_a_command_loads_is_one_line(tmp_path: Path, wanted: str, module: str) -> None:
    options = {"ffrt": ["generate", "x", "-o", "a.mp4"], "graphs": ["update"], "export": ["demo"]}[module]
    done = subprocess.run(
        [sys.executable, "-c", START, wanted, module, *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": f"{ROOT / 'runtime'}{os.pathsep}{ROOT}"},
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert len(done.stderr.splitlines()) == 1 and "stopped, nothing was written" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []
