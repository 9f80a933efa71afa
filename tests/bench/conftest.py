"""A bundle that stands in for the shipped one, so that whole runs of the benches can be tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.harness import program
from ffrt import Bundle


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Bundle], Path]:
    """Make a bundle the shipped one of a clean commit; returns the folder where records of whole runs are kept."""

    def shipped(bundle: Bundle) -> Path:
        results = tmp_path / "results"
        monkeypatch.setattr(program, "DEMO", bundle.folder)
        monkeypatch.setattr(program, "RESULTS", results)
        monkeypatch.setattr(program, "commit", lambda: "0" * 40)
        return results

    return shipped
