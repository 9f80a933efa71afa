"""Outputs of several threads in one folder: none takes another's work away."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ffrt.output.work import work_folder


def test_runs_side_by_side_keep_what_they_make(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def outputs(name: str) -> None:
        for _ in range(100):
            with work_folder(tmp_path) as folder:
                (folder / name).write_text(name)
                assert (folder / name).read_text() == name

    with caplog.at_level(logging.WARNING, "ffrt"), ThreadPoolExecutor(6) as pool:
        list(pool.map(outputs, "abcdef"))
    assert list(tmp_path.iterdir()) == [] and caplog.records == []
