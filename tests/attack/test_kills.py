"""200 kill -9 of each command that writes: what stands there is the whole old one or the whole new one, every time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffrt import Bundle

pytestmark = pytest.mark.attack
ROOT = Path(__file__).parents[2]
KILLS, SEED = 200, 1


@pytest.fixture
def folder(own_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle to read, and another one, by name, to be replaced."""
    place = tmp_path / "kills"
    place.mkdir()
    shutil.copytree(own_bundle.folder, place / "bundle")
    shutil.copytree(own_bundle.folder, place / "old")
    manifest = place / "old" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": "old"}))
    return place


@pytest.mark.parametrize("command", ["export", "optimise", "mp4", "png"])
def test_killed_at_any_moment_old_or_new_is_whole(folder: Path, command: str) -> None:
    if command == "export":
        from export.onnx import demo
        from tests.export.test_export import SMALL, write_random_weights

        demo.write_bundle(SMALL, write_random_weights(folder / "weights"), folder / "traced", lambda line: None)
    line = [sys.executable, Path(__file__).with_name("kills.py"), command, folder, str(KILLS), str(SEED)]
    paths = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found = json.loads(done.stdout)
    assert found["broken"] == [], done.stdout
    assert found["leftovers after the next run"] == 0, done.stdout
    assert found["killed"] == KILLS and len(found["states"]) == 2, "no kill fell between old and new: " + done.stdout
