"""What the system refuses is told by its name with what to do about it, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from ffrt import Bundle, BundleError, OutputError, Pipeline, Video, VideoWriteError
from ffrt.backend.session import Session
from ffrt.bundle import files
from ffrt.cli import main as cli
from ffrt.output.whole_file import whole_file
from ffrt.output.whole_folder import whole_folder
from tests.runtime.clips import circle, environment, saved_files

FEW_FILES = textwrap.dedent(
    """
    import os, resource, sys
    import av, PIL.PngImagePlugin, openvino
    from ffrt import Checkpoint, FfrtError, Pipeline, open_bundle
    from ffrt.media.image import open_image
    from ffrt.media.metadata import read_metadata

    folder, bundle = sys.argv[1:]
    os.chdir(folder)
    pipe = Pipeline(open_bundle(bundle), provider="cpu", threads=1)
    generation = pipe.generate("a red circle", fps=2, num_inference_steps=1)
    video, checkpoint = generation.video, generation.checkpoint
    for name in ("old.mp4", "old.webm", "old.gif", "old.png"):
        video.save(name)
    checkpoint.save("old.npz")

    def request(memory, provider="cpu"):
        own = Pipeline.from_pretrained(bundle, provider=provider, threads=1, memory=memory)
        own("a red circle", fps=2, num_inference_steps=1).frames

    calls = {
        "fast": lambda: request("fast"),
        "low": lambda: request("low"),
        "openvino": lambda: request("fast", "openvino"),
        **{name: lambda name=name: video.save(name) for name in ("new.mp4", "new.webm", "new.gif", "new.png")},
        **{name: lambda name=name: video.save(name) for name in ("old.mp4", "old.webm", "old.gif", "old.png")},
        "checkpoint": lambda: checkpoint.save("old.npz"),
        "load": lambda: Checkpoint.load("old.npz"),
        "picture": lambda: open_image("old/old-00000.png"),
        "metadata": lambda: read_metadata("old.mp4"),
    }
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for name, call in calls.items():
        before, failed = sorted(os.listdir(".")), 0
        for limit in range(3, 30):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
            try:
                call()
            except FfrtError as error:
                told = str(error)
            else:
                told = None
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            if told is None:
                break
            failed += 1
            assert "raise the limit with ulimit -n" in told and " again" not in told, (name, limit, told)
            assert sorted(os.listdir(".")) == before, (name, limit, os.listdir("."))
        assert failed and told is None, (name, failed)
        print(name)
    """
)


def run(program: str, *arguments: object) -> list[str]:
    """The lines that a program prints; it may print nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_too_many_open_files(tiny: Bundle, tmp_path: Path) -> None:
    """Every limit that is too low fails at another place."""
    assert len(run(FEW_FILES, tmp_path, tiny.folder)) == 15


SMALL_FILES = textwrap.dedent(
    """
    import os, resource, sys
    import numpy as np
    from ffrt import Checkpoint, FfrtError, Request, Stage, Video
    os.chdir(sys.argv[1])
    video = Video.from_frames(np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), np.uint8), 8)
    latents = np.zeros((3, 4, 64, 64), np.float32)
    checkpoint = Checkpoint(Request("a red circle"), "digest", "cpu", Stage.KEYFRAMES, 2, None, latents)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
    for name in ("a.mp4", "a.webm", "a.gif", "a.png", "a.npz"):
        try:
            checkpoint.save(name) if name == "a.npz" else video.save(name)
        except FfrtError as error:
            assert "was not written: files in" in str(error) and "ulimit -f" in str(error), str(error)
            print(name)
    """
)


def test_files_that_may_be_no_larger(tmp_path: Path) -> None:
    """Python is told by an error, not by the signal."""
    assert run(SMALL_FILES, tmp_path) == ["a.mp4", "a.webm", "a.gif", "a.png", "a.npz"]
    assert saved_files(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk of '.*' is full; free some space"),
        (errno.EDQUOT, "the disk of '.*' is full; free some space"),
        (errno.EFBIG, "raise the limit with ulimit -f"),
        (errno.EROFS, "is read-only; choose another folder"),
        (errno.EMFILE, "raise the limit with ulimit -n"),
    ],
)
def test_every_output_tells_what_the_system_refused(tmp_path: Path, code: int, words: str) -> None:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(OutputError, match=f"out: '.*/a' was not written: .*{words}"), whole_file(tmp_path / "a", "out"):
        fail()
    with pytest.raises(OutputError, match=words), whole_folder(tmp_path / "a", lambda folder: None):
        fail()
    assert saved_files(tmp_path) == []


def test_other_faults_of_a_block_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        (tmp_path / "none").read_bytes()


def test_a_disk_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Video.from_frames(circle(1), 8)
    video.save(tmp_path / "old.gif")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    for name in ("old.gif", "new.gif"):
        with pytest.raises(VideoWriteError, match="read-only; choose another folder"):
            video.save(tmp_path / name)
    assert saved_files(tmp_path) == ["old.gif"]


def test_a_file_of_the_package_that_is_missing_is_told_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"update.onnx is missing; install ffrt again, .*--collect-data ffrt"
    ) as caught:
        Session(tmp_path / "update.onnx", "update", provider="cpu")
    assert "bundle" not in str(caught.value)


def test_a_folder_that_is_not_utf8_is_told_where_engines_need_that(
    own_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open folders have a name in plain letters below /proc, where that is mounted."""
    monkeypatch.setattr(files, "OPENED_FOLDERS", tmp_path / "none")
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    own_bundle.folder.rename(folder)
    pipe = Pipeline.from_pretrained(folder, provider="cpu", threads=1)
    with pytest.raises(BundleError, match="expected a folder whose name is UTF-8, got .*; rename it") as caught:
        pipe.encode("a red circle")
    str(caught.value).encode()


def test_the_command_tells_what_the_system_refused(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", refused)
    line = ["generate", "a red circle", "--fps=2", f"--bundle={tiny.folder}", f"--output={tmp_path / 'a.gif'}"]
    assert cli.main(line) == 1
    assert capsys.readouterr().err == "ffrt: Too many open files; raise the limit with ulimit -n\n"
    assert saved_files(tmp_path) == []
