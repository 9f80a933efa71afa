"""Records of measurements: what a number depends on, written as JSON.

A record names the kind of machine, never the machine: no host name and no path.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import ffrt
from ffrt import FfrtError
from ffrt.output.whole_file import whole_file

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
"""Records of whole runs of the shipped bundle, from a clean commit: those that README.md and docs/ show."""
DEMO = ROOT / "graphs" / "demo"
"""The shipped bundle."""
UNKNOWN = "unknown"

Record = Mapping[str, Any]


class BenchError(FfrtError, ValueError):
    """A bench was asked for something it cannot measure; nothing was written."""


def commit() -> str:
    """The commit of the checkout, with "+" if any file but the records differs from it; "unknown" outside a checkout.

    A new file counts as a change unless git ignores it.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", ".", ":(exclude)bench/results"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return head + ("+" if changed else "")


def digest_of(bundle: Path) -> str | None:
    """SHA-256 of the manifest of a bundle folder; None without a manifest."""
    manifest = bundle / "manifest.json"
    return sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None


def version(distribution: str) -> str | None:
    """Installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def environment(bundle: Path | None, provider: str, threads: int | None) -> dict[str, Any]:
    """What a number depends on: processor, cores, threads, versions, provider, digest of the bundle, commit.

    `bundle` None is for a bench that measures no bundle.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("numpy", "onnxruntime", "onnxruntime-gpu", "av")
    return {
        "cpu": cpu_model(),
        "cores": cores,
        "threads": threads,
        "provider": provider,
        "python": platform.python_version(),
        **{name: installed for name in names if (installed := version(name)) is not None},
        "ffrt": ffrt.__version__,
        "ffrt_from": "checkout" if ROOT in Path(ffrt.__file__).resolve().parents else "installed",
        "bundle": None if bundle is None else bundle.name,
        "bundle_digest": None if bundle is None else digest_of(bundle),
        "commit": commit(),
    }


def conditions(record: Record, *libraries: str) -> list[str]:
    """The environment of a record as phrases for the line below its table; `libraries` beside ONNX Runtime."""
    around = record["environment"]
    names = ("onnxruntime", "onnxruntime-gpu", *libraries)
    threads = "default threads" if around["threads"] is None else f"{around['threads']} threads"
    phrases = [around["cpu"], f"{around['cores']} cores", threads, f"provider {around['provider']}"]
    phrases += [f"{name} {around[name]}" for name in names if around.get(name)]
    if around["bundle_digest"] is not None:
        phrases.append(f"bundle digest {around['bundle_digest'][:12]}")
    return phrases


def write_json(path: Path, record: Record) -> None:
    """Write a record whole or not at all: a killed run leaves the old record or the new one."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
