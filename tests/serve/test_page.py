"""The examples of docs/serving.md, run against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffrt import Bundle
from ffrt.media.metadata import read_metadata
from tests.serve.processes import ROOT, environment, serving

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return [block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if ADDRESS in block]


def test_the_examples_of_the_page_make_videos(tiny: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    assert shutil.which("curl") is not None or pytest.skip("curl is not installed")
    ((shell,), (program,)) = blocks("bash"), blocks("python")
    work = tmp_path / "work"
    work.mkdir()
    with serving(tiny.folder, tmp_path / "data") as server:
        for line in (["bash", "-euc", shell], [sys.executable, "-W", "ignore", "-c", program]):
            line[-1] = line[-1].replace(ADDRESS, server.url)
            done = subprocess.run(line, cwd=work, env=environment(), capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
    assert "event: completed" in (work / "events.txt").read_text()
    for name in ("circle.mp4", "square.gif", "circle-openai.mp4"):
        assert read_metadata(work / name)["prompt"].startswith("a ")
    assert (work / "circle.webp").read_bytes().startswith(b"RIFF")
