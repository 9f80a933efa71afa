"""A short run of the campaign, always of the same cases, and what longer ones have found."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.attack import campaign
from tests.attack.subjects import SUBJECTS, Subject

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_damaged_files_are_read_or_refused() -> None:
    """In a process of its own, which has not used ONNX Runtime before it forks."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.campaign", "--cases", "600", "--seed", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    all_of = done.stdout.splitlines()[-1].split(" | ")
    assert int(all_of[1]) > 550 and int(all_of[2]) > 100 and int(all_of[3]) > 300, done.stdout


def _faults(folder: Path, rng: random.Random) -> None:
    match rng.randrange(6):
        case 0:
            raise KeyError("x")
        case 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case 2:
            while True:
                pass
        case 3:
            bytearray(b"x" * 200_000_000)
        case 4:
            time.sleep(100)


def test_the_campaign_notices_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUBJECTS, "manifest", Subject(lambda folder: None, _faults, 1))  # type: ignore[arg-type]
    monkeypatch.setattr(campaign, "HANG_S", 0.3)
    monkeypatch.setattr(campaign, "WAIT_S", 0.5)
    monkeypatch.setattr(campaign, "FAT_KB", 100_000)
    counted, findings = campaign.run("manifest", tmp_path, 3, range(30))
    assert set(counted) == {"read", "traceback", "abort", "hang", "fat"} and sum(counted.values()) == 30, counted
    assert len(findings) == 30 - counted["read"]
    again, _ = campaign.run("manifest", tmp_path, 3, range(30))
    assert again.keys() == counted.keys(), "a case is the same whenever it is run"
