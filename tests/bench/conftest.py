"""A bundle that stands in for the shipped one, so that whole runs of the benches can be tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.harness import program
from bench.metrics.table import METRICS
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


@pytest.fixture
def lpips_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean difference in the place of LPIPS, whose weights must be fetched."""
    monkeypatch.setitem(METRICS, "lpips", replace(METRICS["lpips"], compute=mean_difference))


def mean_difference(frames: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(frames.astype(float) - truth).mean() / 255)
