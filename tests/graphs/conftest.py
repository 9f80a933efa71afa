"""Fixtures of the tests of graphs/."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty folder for a bundle, which a test inspects afterwards."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
