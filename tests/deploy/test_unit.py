"""The unit of systemd: what systemd says of it, and that its command serves."""

from __future__ import annotations

import configparser
import re
import shutil
import sys
from pathlib import Path

import pytest

from ffrt.cli.main import main
from ffrt.serve.limits import Limits
from tests.deploy.checks import DEPLOY, run

UNIT, CUDA = DEPLOY / "ffrt.service", DEPLOY / "ffrt-cuda.conf"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def options(path: Path) -> dict[str, list[str]]:
    """Every option with all its values."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def installed(folder: Path, *, fault: tuple[str, str] = ("", ""), cuda: bool = False) -> Path:
    """The unit as it would lie on a machine, with a program that is there."""
    (folder / "ffrt.service.d").mkdir(exist_ok=True)
    unit, more = folder / "ffrt.service", folder / "ffrt.service.d/cuda.conf"
    for source, place in ((UNIT, unit), (CUDA, more)) if cuda else ((UNIT, unit),):
        text = source.read_text()
        changed = text.replace(*fault) if fault[0] else text
        place.write_text(changed.replace("/opt/ffrt/bin/ffrt", sys.executable))
    return unit


@needs_systemd
@pytest.mark.parametrize("cuda", [False, True])
def test_systemd_takes_it(tmp_path: Path, cuda: bool) -> None:
    done = run("systemd-analyze", "verify", "--man=no", installed(tmp_path, cuda=cuda))
    assert (done.returncode, [line for line in done.stderr.splitlines() if "ffrt" in line]) == (0, [])


@needs_systemd
@pytest.mark.parametrize(
    "fault",
    [
        ("KillMode=mixed", "KillMode=gently"),
        ("ExecStart=/opt", "ExecBegin=/opt"),
        ("TimeoutStopSec=60", "TimeoutStopSec=long"),
        ("DevicePolicy=closed", "DevicePolicy=ajar"),
    ],
)
def test_systemd_refuses_a_faulty_one(tmp_path: Path, fault: tuple[str, str]) -> None:
    done = run("systemd-analyze", "verify", "--man=no", installed(tmp_path, fault=fault, cuda=True))
    assert done.returncode != 0 or "ffrt.service" in done.stderr


@needs_systemd
def test_it_is_hardened(tmp_path: Path) -> None:
    def exposure(unit: Path) -> float:
        done = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
        match = re.search(r"exposure level for ffrt.service: ([\d.]+)", done.stdout)
        assert match is not None, done.stderr
        return float(match[1])

    assert exposure(installed(tmp_path)) < 1.5
    assert exposure(installed(tmp_path, fault=("CapabilityBoundingSet=\n", ""))) > 1.5


def test_it_is_read_without_double_options() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    assert unit.sections() == ["Unit", "Service", "Install"]
    double = [name for name, values in options(UNIT).items() if len(values) > 1]
    assert double == ["SystemCallFilter"]


def test_the_server_has_time_to_drain_before_its_workers_are_ended() -> None:
    unit = options(UNIT)
    assert unit["Type"] == ["notify"] and unit["KillMode"] == ["mixed"]
    assert float(unit["TimeoutStopSec"][0]) > Limits().drain_s + 10


@pytest.mark.parametrize("path", [UNIT, CUDA])
def test_its_command_is_one_of_ours(tmp_path: Path, path: Path) -> None:
    _, *flags = options(path)["ExecStart"][-1].split()
    places = {"${STATE_DIRECTORY}": str(tmp_path), "${CREDENTIALS_DIRECTORY}/keys": str(tmp_path / "keys")}
    line = [places.get(word, word) for word in flags]
    assert not any("$" in word for word in line)
    assert main([*line, "keys", "list"]) == 0
