"""Networks of judges: the authors' formulas, weights by name or by order, and files that are read and never run."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.checkpoints.arrays import read_arrays
from export.errors import CheckpointError
from export.judges.c3d import C3D
from export.judges.dists import CHANNELS, Dists
from export.judges.i3d import I3D
from export.judges.transnet import neighbours
from export.judges.weights import fill, read_state, read_tensors


class Small(nn.Module):
    """Two layers with lists and plain attributes, as published scripts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3))
        self.second = nn.Linear(3, 4)
        self.sizes = [1, 2, 3]
        self.scale = 2.5

    def forward(self, x: Tensor, resize: bool = False) -> Tensor:
        x = self.first(x).mean(dim=(2, 3, 4)) * self.scale
        return self.second(x) if resize else x


class Renamed(nn.Module):
    """The same layers in the same order under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3), nn.Linear(3, 4)


def scripted(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


def test_tensors_of_a_script_are_read_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small().eval()
    path = scripted(small, tmp_path / "small.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    monkeypatch.setattr(torch, "load", None)
    found = read_tensors(path)
    assert found.keys() == small.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in small.state_dict().items())


def test_weights_find_their_places_by_order_where_names_differ(tmp_path: Path) -> None:
    small, renamed = Small(), Renamed()
    fill(renamed, read_tensors(scripted(small, tmp_path / "small.pt")), tmp_path)
    assert torch.equal(renamed.a.weight, small.first[0].weight) and torch.equal(renamed.c.bias, small.second.bias)
    assert torch.equal(renamed.b.running_var, small.first[1].running_var)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    other = dict(Small().state_dict())
    del other["second.bias"]
    with pytest.raises(CheckpointError, match=r"expected 1 tensors like \['c\.bias'\].*another network"):
        fill(Renamed(), other, tmp_path)
    with pytest.raises(CheckpointError, match="another network"):
        fill(Renamed(), {**Small().state_dict(), "more": torch.zeros(2, 2)}, tmp_path)


def test_a_script_that_wants_more_than_its_tensors_is_refused(tmp_path: Path) -> None:
    path = scripted(Small(), tmp_path / "small.pt")
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    name = next(one for one in members if one.endswith("/data.pkl"))
    members[name] = b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    with pytest.raises(CheckpointError, match=r"wants to run os\.system; it was not run"):
        read_tensors(tmp_path / "evil.pt")


def test_a_module_that_holds_itself_ends(tmp_path: Path) -> None:
    path = scripted(Small(), tmp_path / "small.pt")
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    name = next(one for one in members if one.endswith("/data.pkl"))
    members[name] = b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub."
    with zipfile.ZipFile(tmp_path / "loop.pt", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    assert read_tensors(tmp_path / "loop.pt") == {}


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="expected a state dict of PyTorch"):
        read_state(tmp_path / "bad.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="got something else"):
        read_state(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a pickle of numpy arrays"):
        read_arrays(b"nothing", "x.ckpt")


def test_dists_is_the_authors_formula() -> None:
    """Written out as in DISTS_pt.py 0.1, over the same random VGG16."""
    torch.manual_seed(0)
    module = Dists().eval()
    module.alpha, module.beta = (torch.rand(1, sum(CHANNELS), 1, 1) for _ in range(2))
    frames, truth = (torch.randint(0, 256, (2, 40, 56, 3), dtype=torch.uint8) for _ in range(2))
    window = torch.outer(*[torch.from_numpy(np.hanning(5)[1:-1]).float()] * 2)

    def once(pixels: Tensor) -> list[Tensor]:
        x = pixels.permute(0, 3, 1, 2) / 255
        found = [x]
        x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        convolutions = iter([one for one in module.modules() if isinstance(one, nn.Conv2d)])
        for stage, count in enumerate((2, 2, 3, 3, 3)):
            if stage:
                kernel = (window / window.sum()).repeat(x.shape[1], 1, 1, 1)
                x = torch.sqrt(F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12)
            for _ in range(count):
                x = torch.relu(next(convolutions)(x))
            found.append(x)
        return found

    score = torch.zeros(2)
    weights = [one / (module.alpha.sum() + module.beta.sum()) for one in (module.alpha, module.beta)]
    alphas, betas = (one.split(CHANNELS, 1) for one in weights)
    with torch.no_grad():
        for x, y, alpha, beta in zip(once(frames), once(truth), alphas, betas, strict=True):
            x_mean, y_mean = x.mean([2, 3], keepdim=True), y.mean([2, 3], keepdim=True)
            s1 = (2 * x_mean * y_mean + 1e-6) / (x_mean**2 + y_mean**2 + 1e-6)
            x_var, y_var = (((a - m) ** 2).mean([2, 3], keepdim=True) for a, m in ((x, x_mean), (y, y_mean)))
            s2 = (2 * ((x * y).mean([2, 3], keepdim=True) - x_mean * y_mean) + 1e-6) / (x_var + y_var + 1e-6)
            score = score + (alpha * s1 + beta * s2).sum(1).flatten()
        assert torch.allclose(module(frames, truth), 1 - score, atol=1e-6)
        assert module(frames, frames).abs().max() < 1e-6


def test_neighbours_are_those_around_each_frame() -> None:
    x = F.normalize(torch.rand(1, 7, 4), dim=2)
    found = neighbours(x)
    alike = x[0] @ x[0].T
    assert found.shape == (1, 7, 101) and torch.allclose(found[0, 2, 48:55], alike[2]) and not found[0, 0, :50].any()


def test_i3d_and_c3d_have_the_published_sizes() -> None:
    """12.7 million parameters in 57 convolutions and a classifier; 78.4 million."""
    with torch.device("meta"):
        i3d, c3d = I3D(), C3D()
    kernels = [one for one in i3d.modules() if isinstance(one, nn.Conv3d)]
    assert len(kernels) == 58 and sum(one.numel() for one in i3d.parameters()) == 12_697_264
    assert sum(one.numel() for one in c3d.parameters()) == 78_409_573
