"""The wheel, built from the sdist and installed where there is no torch and no onnx, makes a video of the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import av
import pytest

ROOT = Path(__file__).parent.parent
PROMPT = "a red circle moving right on a black background"

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sdist, wheel); the wheel is built from the unpacked sdist, so it holds nothing that the sdist lacks."""
    assert (ROOT / "graphs/demo/manifest.json").is_file(), "no demo bundle: python -m export demo --out graphs/demo"
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel, its dependencies and onnxruntime."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run(*pip, f"ffrt[cpu] @ {built[1].as_uri()}", cwd=folder)
    return folder / "bin"


def test_the_sdist_holds_the_whole_source(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    tops = {name.split("/")[0] for name in names}
    assert tops >= {"runtime", "export", "graphs", "bench", "tests", "README.md", "CHANGELOG.md", "LICENSE", "Makefile"}
    assert "graphs/demo/manifest.json" in names
    assert not [name for name in names if name.startswith("graphs/bundles") or "__pycache__" in name]


def test_the_wheel_holds_the_package_and_the_demo_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("ffrt/demo/manifest.json"))
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ffrt"}
    assert "ffrt/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    bundled = {name.removeprefix("ffrt/demo/"): size for name, size in sizes.items() if name.startswith("ffrt/demo/")}
    del bundled["manifest.json"]
    assert bundled == {name: spec["bytes"] for name, spec in manifest["files"].items()}


@pytest.mark.parametrize("package", ["torch", "onnx", "transformers"])
def test_the_environment_is_without(installed: Path, package: str, tmp_path: Path) -> None:
    program = f"import importlib.util as u; print(u.find_spec({package!r}))"
    assert run(installed / "python", "-c", program, cwd=tmp_path) == "None\n"


def test_a_clip_is_made_from_another_folder(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "ffrt", "generate", PROMPT, "--steps", "2", "--seed", "7", "-o", "clip.mp4", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["clip.mp4"]
    manifest = json.loads((ROOT / "graphs/demo/manifest.json").read_text(encoding="utf-8"))
    count = 4 * manifest["keyframes"]["num_frames"] - 3
    assert f"clip.mp4: {count} frames" in printed
    with av.open(str(tmp_path / "clip.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == count
    assert pictures[0].shape == (manifest["video"]["height"], manifest["video"]["width"], 3)
    assert pictures[0].std() > 0


def test_doctor_finds_the_demo_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "ffrt", "doctor", cwd=tmp_path)
    assert f"{installed.parent}/lib" in printed
    assert "site-packages/ffrt/demo" in printed
    assert "next: ffrt generate" in printed


def test_inspect_shows_the_demo(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "python", "-m", "ffrt", "inspect", "demo", cwd=tmp_path)
    assert "keyframe_unet" in printed
    assert "[B*T, 4, h, w]" in printed


def test_importing_without_onnxruntime_says_which_extra(installed: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "try: from ffrt import Pipeline\nexcept ImportError as error: print(error)"
    )
    printed = run(installed / "python", "-c", program, cwd=tmp_path)
    assert 'pip install "ffrt[cpu]"' in printed
    assert 'pip install "ffrt[cuda]"' in printed


def test_a_frozen_program_makes_a_clip(installed: Path, tmp_path: Path) -> None:
    run(installed / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "pyinstaller", cwd=tmp_path)
    (tmp_path / "program.py").write_text(
        "from ffrt import Pipeline\n"
        "pipe = Pipeline.from_pretrained(threads=1)\n"
        "pipe('a red circle', fps=2, num_inference_steps=1).save('clip.mp4')\n"
    )
    run(installed / "pyinstaller", "--log-level", "ERROR", "program.py", cwd=tmp_path)
    run(tmp_path / "dist" / "program" / "program", cwd=tmp_path)
    assert (tmp_path / "clip.mp4").is_file()
