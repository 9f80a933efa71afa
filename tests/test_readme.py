"""What README.md tells people to type works, in the order in which they read it.

The `ffrt` commands of blocks fenced as `bash` run first, then all blocks fenced as `python` as one program, all in one
empty folder: a snippet that needs a file has to make it first. `make` lines must name targets of the Makefile, `pip
install` lines extras of pyproject.toml, and `python -m` lines modules of this repository; they are not run. A block
right after the comment `<!-- not run: REASON -->` is left out.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n\s*)?^(?P<fence>`{3,})(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*$",
    re.MULTILINE | re.DOTALL,
)


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [m["body"] for m in BLOCK.finditer(text) if m["language"] == language and not m["skip"]]


def commands() -> list[str]:
    """The command lines of all bash blocks: without prompts, comments and continued lines joined."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip() and not line.strip().startswith("#")]


def environment(folder: Path) -> dict[str, str]:
    """An environment in which `ffrt` and `python` are this interpreter's and the packages this checkout's."""
    scripts = folder / "bin"
    scripts.mkdir()
    for name, arguments in (("ffrt", "-m ffrt"), ("python", ""), ("python3", "")):
        script = scripts / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    paths = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}


def test_the_readme_starts_with_something_to_run() -> None:
    assert blocks("python"), "README.md has no python block"
    assert any(command.startswith("make demo") for command in commands())


@pytest.mark.slow
def test_snippets_run(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    variables = environment(tmp_path)
    ran = 0
    for command in commands():
        words = shlex.split(command, comments=True)
        if words[0] == "ffrt":
            done = subprocess.run(
                ["bash", "-ec", command], cwd=work, env=variables, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
            ran += 1
    program = work / "readme.py"
    program.write_text("\n\n".join(blocks("python")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program], cwd=work, env=variables, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert ran, "README.md shows no ffrt command"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in commands():
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            asked = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
            assert asked <= targets, command


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in commands():
        for extras in re.findall(r"\bpip install .*?\[([\w, ]+)\]", command):
            assert {extra.strip() for extra in extras.split(",")} <= set(project["optional-dependencies"]), command


def test_python_modules_exist() -> None:
    for command in commands():
        for module in re.findall(r"python3? -m ((?:export|graphs|bench)[\w.]*)", command):
            path = ROOT.joinpath(*module.split("."))
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), command
