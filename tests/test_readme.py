"""What README.md and the pages of docs/ show people to type works, and the front page keeps its limits.

Of every page, the `ffrt` commands of blocks fenced as `bash` run first, then all blocks fenced as `python` as one
program, all in one empty folder: a snippet that needs a file has to make it first. `make` lines must name targets of
the Makefile, `pip install` lines extras of pyproject.toml, and `python -m` lines modules of this repository; they are
not run. A block right after the comment `<!-- not run: REASON -->` is left out.
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
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "graphs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n\s*)?^(?P<fence>`{3,})(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"!?\[[^\]]*\]\((?!https?://|#)(?P<path>[^)#\s]+)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str, *, skipped: bool = False) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [m["body"] for m in BLOCK.finditer(text) if m["language"] == language and (skipped or not m["skip"])]


def commands(page: Path, *, skipped: bool = True) -> list[str]:
    """The command lines of all bash blocks: without prompts and comments, continued lines joined."""
    lines = "\n".join(blocks(page, "bash", skipped=skipped)).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip() and not line.strip().startswith("#")]


def every_command() -> list[str]:
    return [command for page in PAGES for command in commands(page)]


def ffrt_commands(page: Path) -> list[str]:
    return [command for command in commands(page, skipped=False) if command.startswith("ffrt ")]


RUNNABLE = [page for page in PAGES if blocks(page, "python") or ffrt_commands(page)]


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
    assert blocks(README, "python"), "README.md has no python block"
    assert ffrt_commands(README), "README.md shows no ffrt command"
    assert any(command.startswith("make demo") for command in commands(README))


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_tables_of_the_readme_have_at_most_ten_rows() -> None:
    text = README.read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len(table.splitlines()) - 2 <= 10, table


def test_bullets_of_the_readme_have_at_most_two_lines() -> None:
    text = README.read_text(encoding="utf-8")
    for bullet in re.findall(r"^[-*] .*\n(?:^ +\S.*\n)*", text, re.MULTILINE):
        assert len(bullet.splitlines()) <= 2, bullet


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    variables = environment(tmp_path)
    for command in ffrt_commands(page):
        done = subprocess.run(
            ["bash", "-ec", command], cwd=work, env=variables, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    program = work / "snippets.py"
    program.write_text("\n\n".join(blocks(page, "python")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program], cwd=work, env=variables, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_that_are_not_run_are_python_too(page: Path) -> None:
    for block in blocks(page, "python", skipped=True):
        compile(block, name_of(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.finditer(text):
        assert (page.parent / link["path"]).exists(), f"{name_of(page)}: {link['path']}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_line_of_prose_begins_with_the_marker_of_a_figure(page: Path) -> None:
    found = re.findall(r"^<!-- /?(?:value|source).*", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found == [], "Markdown ends a paragraph where a line begins with a comment"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in every_command():
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            asked = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
            assert asked <= targets, command


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*every_command(), *(page.read_text(encoding="utf-8") for page in PAGES)]
    for text in texts:
        for extras in re.findall(r"\bpip install .*?\[([\w, ]+)\]", text):
            assert {extra.strip() for extra in extras.split(",")} <= set(project["optional-dependencies"]), text


def test_python_modules_exist() -> None:
    for page in PAGES:
        for module in re.findall(
            r"(?:python3? |`)-m ((?:export|graphs|bench|docs)[\w.]*\w)", page.read_text(encoding="utf-8")
        ):
            path = ROOT.joinpath(*module.split("."))
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{name_of(page)}: {module}"
