"""A standard name means the standard network and protocol; what is ours has names of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.metrics.features.table import SET_FEATURES
from bench.metrics.networks.catalogue import C3D, CLIP, DISTS, I3D, NETWORKS
from bench.metrics.networks.network import NetworkError, Source, source_of, title
from bench.metrics.standard.frechet import protocol
from bench.metrics.table import METRICS

STANDARD = re.compile(r"\b(FVD|FID|IS|CLIPSIM|CLIPScore|LPIPS|DISTS|VMAF|KVD|JEDi)\b")


def test_features_of_ours_have_no_standard_name() -> None:
    assert [name for name in SET_FEATURES if STANDARD.search(name)] == []


def test_standard_names_are_on_the_standard_networks_alone() -> None:
    named = {network.name: [one for one in network.metrics if STANDARD.search(one)] for network in NETWORKS.values()}
    assert named == {
        "efficientnet-lite0": [],
        "transnetv2": [],
        "dists": ["DISTS"],
        "i3d": ["FVD"],
        "c3d": ["IS"],
        "clip": ["CLIPSIM"],
    }
    assert {one.title for one in METRICS.values() if STANDARD.search(one.title)} == {"LPIPS", "DISTS", "VMAF"}


@pytest.mark.parametrize("network", [I3D, CLIP])
def test_another_file_takes_the_standard_name_away(network: object) -> None:
    assert network.standard is not None  # type: ignore[attr-defined]
    ours, (theirs,) = Source((), {"file": "0" * 64}), network.standard  # type: ignore[attr-defined]
    assert title(network, Source((), {"file": theirs})) == network.metrics[0]  # type: ignore[arg-type,attr-defined]
    assert not STANDARD.search(title(network, ours))  # type: ignore[arg-type]


def test_a_run_of_fewer_clips_says_so() -> None:
    assert protocol(2048) == "fvd2048_16f" != protocol(512)
    assert "512 generated clips" in protocol(512)


def test_every_network_of_a_package_has_its_digest_and_licence() -> None:
    for network in NETWORKS.values():
        assert network.licence and network.preprocess and network.layer
        assert all(re.fullmatch("[0-9a-f]{64}", one.sha256) for one in network.files)
        assert bool(network.files) != bool(network.flag)
    assert DISTS.command == "python -m bench.metrics get dists" and C3D.command == "--c3d FILE"


def test_a_missing_file_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"i3d: needs i3d_torchscript\.pt.*type --i3d FILE"):
        source_of(I3D)
    with pytest.raises(NetworkError, match="--c3d: expected a file"):
        source_of(C3D, tmp_path / "none.pt")
    with pytest.raises(NetworkError, match="--clip: expected a folder with config.json"):
        source_of(CLIP, tmp_path)
