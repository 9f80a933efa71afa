"""The Dockerfiles: what hadolint says, what they copy, and that their commands do what they should outside."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffrt import Bundle
from ffrt.cli.main import main
from tests.deploy.checks import DEPLOY, ROOT, run
from tests.deploy.dockerfiles import only, stages
from tests.serve.processes import ServerProcess, serving

FILES = ["Dockerfile", "Dockerfile.cuda"]


@pytest.mark.parametrize("name", FILES)
def test_hadolint_finds_nothing(name: str) -> None:
    done = run("hadolint", DEPLOY / name)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("USER 10001:10001", "USER root", "DL3002"),
        ("FROM python:3.11-slim-bookworm\n", "FROM python\n", "DL3006"),
        ('ENTRYPOINT ["ffrt", "serve"', "ENTRYPOINT ffrt serve #", "DL3025"),
        ("COPY runtime runtime", "COPY --from=nowhere runtime runtime", "DL3022"),
    ],
)
def test_hadolint_refuses_what_is_wrong(tmp_path: Path, old: str, new: str, rule: str) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert old in text
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(text.replace(old, new))
    done = run("hadolint", wrong)
    assert done.returncode != 0 and rule in done.stdout


@pytest.mark.parametrize("name", FILES)
def test_an_image_has_two_stages_and_runs_without_root_and_without_a_shell(name: str) -> None:
    first, last = stages(DEPLOY / name)
    assert "pip wheel" in only(first, "RUN").rest
    assert all(step.word != "COPY" for step in last), "only the wheel comes into the image"
    assert only(last, "USER").rest == "10001:10001"
    assert only(last, "VOLUME").argv == ["/data"]
    assert only(last, "ENTRYPOINT").argv[:2] == ["ffrt", "serve"] and only(last, "HEALTHCHECK").argv[0] == "python"


@pytest.mark.parametrize("name", FILES)
def test_the_extras_of_an_image_are_those_of_the_package(name: str) -> None:
    extras = only(stages(DEPLOY / name)[1], "ARG").rest.partition("=")[2].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"]) and "serve" in extras


def test_both_images_are_made_in_the_same_way() -> None:
    texts = [(DEPLOY / name).read_text() for name in FILES]
    same = [re.sub(r"(?m)^#.*\n|ARG EXTRAS=.*|ENV (.*\n)+?(?=USER)|(, \"--provider.*)?\]$", "", text) for text in texts]
    assert same[0] == same[1]


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_sent_to_the_builder(name: str) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for step in stages(DEPLOY / name)[0] if step.word == "COPY" for word in step.rest.split()[:-1]]
    assert sorted(copied) == sorted(kept) and all((ROOT / word).exists() for word in copied)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("more", [[], ["--allow-host", "ffrt"]])
def test_the_command_of_an_image_wants_keys_before_it_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, more: list[str]
) -> None:
    assert main(_command(name, tmp_path, *more)) == 2
    assert "there are no API keys" in capsys.readouterr().err


@pytest.mark.parametrize("name", FILES)
def test_a_key_can_be_made_with_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(_command(name, tmp_path, "keys", "add", "alice")) == 0
    assert capsys.readouterr().out.startswith("ffrt_")
    assert (tmp_path / "keys").read_text().startswith("alice:")


@pytest.fixture(scope="module")
def server(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tiny.folder, tmp_path_factory.mktemp("image") / "data") as started:
        yield started


@pytest.mark.parametrize("name", FILES)
def test_the_check_of_health_passes_for_a_ready_server_alone(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = only(stages(DEPLOY / name)[1], "HEALTHCHECK").argv
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # that of a machine is not for this
    line = [sys.executable, "-c", program[2].replace("http://127.0.0.1:8000", server.url)]
    assert subprocess.run(line, timeout=60).returncode == 0
    for wrong in ("http://127.0.0.1:1/health/ready", f"{server.url}/nowhere"):
        line[2] = re.sub(r"'http:[^']*'", f"'{wrong}'", program[2])
        assert subprocess.run(line, stderr=subprocess.DEVNULL, timeout=60).returncode != 0


def _command(name: str, data: Path, *more: str) -> list[str]:
    """What a container runs, with its data elsewhere."""
    _, *flags = only(stages(DEPLOY / name)[1], "ENTRYPOINT").argv
    flags[flags.index("/data")] = str(data)
    return [*flags, *more]
