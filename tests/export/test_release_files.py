"""Files of a release, as they come: flat or nested, and with configurations that nobody checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from export.checkpoints.release import Release, open_1_0, open_1_1

OPEN: dict[str, Callable[[Path, Path], Release]] = {"1.0": open_1_0, "1.1": open_1_1}


@pytest.fixture(scope="module")
def folders(releases: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small releases of both versions, which no test changes."""
    folder = tmp_path_factory.mktemp("releases")
    return {"1.0": releases.write_1_0(folder / "1.0"), "1.1": releases.write_1_1(folder / "1.1")}


def flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for key, value in entries.items():
        found |= {f"{prefix}{key}": value} if isinstance(value, torch.Tensor) else flat(value, f"{prefix}{key}.")
    return found


@pytest.mark.parametrize("version", OPEN)
def test_a_release_in_flat_safetensors_files_is_the_same(
    folders: dict[str, Path], tmp_path: Path, version: str
) -> None:
    source = folders[version]
    for path in [*source.glob("*.pt"), *source.glob("weights/*.pt")]:
        save_file(flat(torch.load(path, weights_only=True)), tmp_path / f"{path.stem}.safetensors")
    (tmp_path / "configs.json").write_bytes((source / "configs.json").read_bytes())
    text = source / "text_encoder"
    nested, found = OPEN[version](source, text), OPEN[version](tmp_path, text)
    assert nested.parts.keys() == found.parts.keys()
    for name, part in nested.parts.items():
        same = found.parts[name].source
        assert part.source.keys() == same.keys()
        assert all(torch.equal(part.source[key], same[key]) for key in part.source)
