"""kill -9 of server, worker and both: no job is lost, none is made of parts, nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ffrt import Bundle
from tests.serve.kills import main

SEED = 1


@pytest.mark.parametrize("kills", [10, pytest.param(150, marks=pytest.mark.attack)])
def test_killed_at_any_moment_no_job_is_lost(tiny: Bundle, tmp_path: Path, kills: int) -> None:
    found = main(tiny.folder, tmp_path, kills, SEED)
    print(json.dumps(found))
    assert found["wrong"] == []
    states = found["states"]
    assert isinstance(states, dict) and states["completed"] > 0.8 * sum(states.values()), "most are made"
