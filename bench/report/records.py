"""Whether the records in `bench/results` are true: a whole run of the shipped bundle, from a clean commit."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bench.harness.record import BenchError, Record

COMMIT = re.compile(r"[0-9a-f]{40}")


def load(results: Path, name: str) -> dict[str, Any]:
    """The record of that name. Raises BenchError if it is missing or no record."""
    try:
        record: dict[str, Any] = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        str(record["bench"]), bool(record["whole"])
    except OSError as error:
        raise BenchError(
            f"{name}: expected a record {name}.json, got none; `python -m bench.NAME` writes it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{name}.json: expected a record of a bench, got {error!r}") from error
    return record


def faults(name: str, record: Record, shipped: str | None, benches: Collection[str]) -> list[str]:
    """Why a record may not be shown; `shipped` is the digest of the shipped bundle, `benches` are known ones."""
    around, bench = record["environment"], record["bench"]
    found = []
    if bench not in benches or not name.startswith(bench):
        found.append(f"is of {bench!r}, expected one of {sorted(benches)} under its own name")
    if not record["whole"]:
        found.append("is of a partial run, expected a whole one")
    if not COMMIT.fullmatch(around["commit"]):
        found.append(f"was made by commit {around['commit']!r}, expected one without changes")
    if around["bundle_digest"] not in (None, shipped):
        found.append(f"is of bundle {around['bundle_digest'][:12]}, expected the shipped one, {str(shipped)[:12]}")
    if not str(record.get("command", "")).startswith(f"python -m bench.{bench}"):
        found.append("names no command that made it")
    return [f"{name}.json {fault}; measure again with `python -m bench.{bench}`, or delete it" for fault in found]


def untrue(results: Path, shipped: str | None, benches: Collection[str]) -> list[str]:
    """What is wrong with the records of a folder, and every picture without a record."""
    names = sorted(path.stem for path in results.glob("*.json"))
    found = [fault for name in names for fault in faults(name, load(results, name), shipped, benches)]
    pictures = sorted(path.name for path in results.glob("*.png") if path.stem not in names)
    return [*found, *(f"{picture} belongs to no record; delete it" for picture in pictures)]
