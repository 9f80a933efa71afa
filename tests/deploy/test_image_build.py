"""The instructions of the Dockerfile in a folder, since no builder of images is at hand: a video comes out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.checks import DEPLOY, ROOT
from tests.deploy.dockerfiles import only, stages
from tests.serve.processes import until

pytestmark = pytest.mark.slow
BUILD, IMAGE = stages(DEPLOY / "Dockerfile")


def at(folder: Path, line: str) -> str:
    """A line of a Dockerfile with the folders of an image below another one."""
    line = re.sub(r"--mount=\S+ ", "", line)
    return re.sub(r"(?<![\w:/])(file://)?/(wheels|data)\b", rf"\g<1>{folder}/\2", line)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the image would hold: `bin` on its path, `data` its volume."""
    folder = tmp_path_factory.mktemp("image")
    source = folder / "src"
    for step in BUILD:
        if step.word == "COPY":
            *paths, target = step.rest.split()
            for path in paths:
                place = source / target / path if target.endswith("/") else source / target
                place.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
                copy(ROOT / path, place)
    venv.create(folder / "python", with_pip=True)
    (folder / "data").mkdir(mode=0o700)
    for step in (only(BUILD, "RUN"), IMAGE[2]):
        assert step.word == "RUN" and "pip" in step.rest
        done = subprocess.run(
            ["sh", "-euc", at(folder, step.rest)],
            cwd=source,
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def environment(folder: Path) -> dict[str, str]:
    name, _, extras = only(IMAGE, "ARG").rest.partition("=")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {
        **kept,
        "PATH": f"{folder}/python/bin{os.pathsep}{os.environ['PATH']}",
        name: extras,
        "OMP_NUM_THREADS": "1",
    }


def command(folder: Path, *more: str) -> list[str]:
    return [word.replace("/data", f"{folder}/data") for word in only(IMAGE, "ENTRYPOINT").argv] + list(more)


@pytest.fixture(scope="module")
def served(image: Path) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """The address of a container's server, a key for it, and its process."""
    variables = environment(image)
    made = subprocess.run(command(image, "keys", "add", "alice"), env=variables, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    line = command(image, "--port", "0", "--threads", "1", "--disk-floor", "0")
    with open(image / "log", "wb") as log:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, env=variables, cwd="/")
    assert process.stdout is not None
    match = re.search(r"0\.0\.0\.0:(\d+)", process.stdout.readline().decode())
    assert match is not None, (image / "log").read_text()[-3000:]
    yield f"http://127.0.0.1:{match[1]}", made.stdout.strip(), process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_container_becomes_healthy_makes_a_video_and_ends_in_order(
    image: Path, served: tuple[str, str, subprocess.Popen[bytes]]
) -> None:
    url, key, process = served
    python, flag, program = only(IMAGE, "HEALTHCHECK").argv
    check = [python, flag, program.replace("http://127.0.0.1:8000", url)]
    quiet = {"env": environment(image), "stderr": subprocess.DEVNULL}
    until(lambda: subprocess.run(check, **quiet).returncode == 0)  # type: ignore[call-overload]
    ask = {"prompt": "a red circle", "fps": 2, "num_inference_steps": 1, "output_format": "gif"}
    with httpx.Client(base_url=url, timeout=300) as client:
        assert client.post("/v1/videos/sync", json=ask).status_code == 401
        made = client.post("/v1/videos/sync", json=ask, headers={"authorization": f"Bearer {key}"})
    assert made.status_code == 200 and made.content.startswith(b"GIF")
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0


def test_an_image_holds_nothing_but_what_serves(image: Path) -> None:
    line = [str(image / "python/bin/python"), "-m", "pip", "list", "--format=freeze"]
    text = subprocess.run(line, capture_output=True, text=True, env=environment(image), check=True).stdout
    names = {row.split("==")[0].lower() for row in text.splitlines()}
    assert {"ffrt", "onnxruntime", "fastapi", "nvidia-ml-py"} <= {name.split(" @")[0] for name in names}
    assert not names & {"torch", "onnx", "pytest", "transformers"}
