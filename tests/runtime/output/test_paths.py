"""However a path is written it is the same place, before and after a change of the working directory."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from ffrt import Bundle, Checkpoint, FfrtError, Pipeline, RequestError, Stage, Video, VideoWriteError, open_bundle
from ffrt.bundle import check_place
from ffrt.cli import main as cli
from ffrt.generation.request import Request
from tests.runtime.clips import METADATA, circle, decode


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint(
        Request("a red circle"), "digest", "cpu", Stage.KEYFRAMES, None, None, np.ones((2, 4, 2, 2), "f4")
    )


def test_every_kind_of_path_names_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.gif"
    for path in (file, str(file), os.fsencode(file), "~/a.gif", b"~/a.gif", Path("~/a.gif")):
        Video.from_frames(circle(1), 8).save(path)
        file.unlink()
    file = tmp_path / "c.npz"
    for path in (file, str(file), os.fsencode(file), "~/c.npz", Path("~/c.npz")):
        checkpoint.save(path)
        assert Checkpoint.load(path) == checkpoint
        file.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [None, 5, 2.5, ["a.mp4"], "", "a\0.mp4", object()])
def test_what_is_no_path_is_a_typed_error(path: object, checkpoint: Checkpoint) -> None:
    for call in (
        Video.from_frames(circle(1), 8).save,
        checkpoint.save,
        Checkpoint.load,
        *([Pipeline.from_pretrained] if path is not None else []),
        open_bundle,
    ):
        with pytest.raises(FfrtError, match=r"expected|no bundle folder|missing"):
            call(path)  # type: ignore[arg-type]


def test_a_bundle_is_found_after_a_change_of_folder(
    own_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_bundle.folder.parent)
    (tmp_path / "far").mkdir()
    for bundle in ("bundle", Path("bundle"), b"bundle", "../" + tmp_path.name + "/bundle"):
        pipe = Pipeline.from_pretrained(bundle, provider="cpu", threads=1)
        video = pipe("a red circle", fps=2, num_inference_steps=1)
        monkeypatch.chdir(tmp_path / "far")
        video.save("a.gif")
        monkeypatch.chdir(own_bundle.folder.parent)
    assert decode(tmp_path / "far" / "a.gif").shape == (3, 32, 32, 3)


def test_a_file_goes_to_the_folder_that_was_current_when_it_was_named(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipeline(tiny, provider="cpu", threads=1)
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path)
    pipe.generate("a red circle", fps=2).save("a.gif", on_step=lambda step: os.chdir(tmp_path / "far"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.gif", "far"]


def test_the_command_line_knows_the_home_folder(
    own_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    line = ["generate", "a red circle", "-o", "~/a.gif", "--bundle=~/bundle", "--fps=2", "--threads=1"]
    assert cli.main(line) == 0
    assert cli.main(["inspect", "~/a.gif"]) == cli.main(["inspect", "~/bundle"]) == 0
    assert "a red circle" in capsys.readouterr().out
    assert (tmp_path / "a.gif").is_file()


def test_a_name_that_is_not_utf8(own_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe"
    for suffix in (b".mp4", b".webm", b".gif", b".png"):
        Video.from_frames(circle(2), 8).save(odd + suffix)
        assert os.path.exists(odd + suffix if suffix != b".png" else odd + b"/" + b"\xff\xfe-00001.png")
    line = ["generate", "a red circle", "--fps=2", "--threads=1", f"--bundle={own_bundle.folder}", "-o"]
    assert cli.main([*line, os.fsdecode(odd + b".mp4")]) == 0
    assert "\N{REPLACEMENT CHARACTER}.mp4: 3 frames" in capsys.readouterr().out
    os.rename(own_bundle.folder, odd + b"b")
    for memory in ("fast", "low"):
        pipe = Pipeline.from_pretrained(odd + b"b", provider="cpu", threads=1, memory=memory)
        assert pipe("a red circle", fps=2).frames.shape == (3, 32, 32, 3)
    assert cli.main(["inspect", os.fsdecode(odd + b"b")]) == 0
    assert "\N{REPLACEMENT CHARACTER}b\n" in capsys.readouterr().out
    with pytest.raises(RequestError, match=r"out: expected a path that is UTF-8, got b'.*\\xff\\xfeb'"):
        check_place(Path(os.fsdecode(odd + b"b")))


@pytest.mark.parametrize("format", ["mp4", ".webm", "GIF", "png"])
def test_a_file_object_takes_the_same_bytes(tmp_path: Path, format: str) -> None:
    buffer = io.BytesIO()
    video = Video.from_frames(circle(1), 8, METADATA)
    video.save(buffer, format=format)
    path = tmp_path / f"a.{format.removeprefix('.').lower()}"
    video.save(path)
    if path.suffix == ".webm":  # each has an identifier of its own
        assert len(buffer.getvalue()) == path.stat().st_size
    else:
        assert buffer.getvalue() == path.read_bytes()


def test_a_file_object_needs_a_format_and_bytes(tmp_path: Path) -> None:
    video = Video.from_frames(circle(2), 8)
    buffer = io.BytesIO()
    for format in (None, "avi", 5):
        with pytest.raises(RequestError, match=r"format: expected one of \['mp4', 'webm', 'gif', 'png'\]"):
            video.save(buffer, format=format)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="opened in binary mode"):
        video.save(io.StringIO(), format="gif")  # type: ignore[arg-type]
    with pytest.raises(VideoWriteError, match="cannot hold 2 png pictures"):
        video.save(buffer, format="png")
    with pytest.raises(RequestError, match="format: expected that of the suffix '.gif'"):
        video.save(tmp_path / "a.gif", format="mp4")
    assert buffer.getvalue() == b"" and list(tmp_path.iterdir()) == []


def test_a_checkpoint_replaces_nothing_but_a_checkpoint(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save(tmp_path / "c.npz")
    (tmp_path / "c.npz").chmod(0o600)
    checkpoint.save(tmp_path / "c.npz")
    assert (tmp_path / "c.npz").stat().st_mode & 0o777 == 0o600
    (tmp_path / "thesis.txt").write_text("mine")
    np.savez(tmp_path / "arrays.npz", mine=np.ones(3))
    for name in ("thesis.txt", "arrays.npz"):
        with pytest.raises(RequestError, match="is there and no checkpoint"):
            checkpoint.save(tmp_path / name)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays.npz", "c.npz", "thesis.txt"]
