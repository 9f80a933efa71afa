"""The files of deploy/, and the programs that check them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A program that lies beside this Python, or on the path."""
    name = str(command[0])
    beside = Path(sys.executable).parent / name
    line = [str(beside) if beside.exists() else name, *map(str, command[1:])]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def documents(path: Path) -> list[Any]:
    """What a YAML file holds."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def written(folder: Path, name: str, document: object) -> Path:
    """A document as a file that a program can check; JSON is YAML too."""
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def without_comments(document: str) -> str:
    return "\n".join(line for line in document.splitlines() if not line.lstrip().startswith("#"))


def containers(pod: Mapping[str, Any]) -> list[Any]:
    """The containers of a pod's template."""
    return list(pod["spec"]["containers"])


def values(node: object) -> Iterator[object]:
    """Every scalar in a document."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from values(value)
    elif isinstance(node, list):
        for value in node:
            yield from values(value)
    else:
        yield node
