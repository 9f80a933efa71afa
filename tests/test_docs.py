"""The site builds without a warning, so that no link, image or API name of it is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ffrt

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    done = subprocess.run(
        [*line, "-d", str(folder / "trees"), str(ROOT / "docs"), str(folder / "pages")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "pages"


def test_the_manifest_on_the_page_of_the_format_is_that_of_the_demo() -> None:
    page = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    shown = json.loads(page.split("```json\n")[1].split("```")[0])
    demo = json.loads((ROOT / "graphs" / "demo" / "manifest.json").read_text(encoding="utf-8"))
    assert set(shown) == set(demo)
    for part in set(demo) - {"files", "graphs", "created_with"}:
        assert shown[part] == demo[part], part
    assert set(shown["graphs"]["keyframe_unet"]) == set(demo["graphs"]["keyframe_unet"])
    assert set(shown["graphs"]) < set(demo["graphs"]) and set(shown["files"]) < set(demo["files"])


@pytest.mark.slow
def test_every_public_name_has_an_entry_in_the_api_reference(site: Path) -> None:
    page = (site / "api" / "reference.html").read_text(encoding="utf-8")
    missing = [name for name in ffrt.__all__ if not name.startswith("_") and f'id="ffrt.{name}"' not in page]
    assert missing == []


@pytest.mark.slow
def test_fenced_code_of_docstrings_is_shown_as_code(site: Path) -> None:
    assert "```" not in (site / "api" / "reference.html").read_text(encoding="utf-8")
