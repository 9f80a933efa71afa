"""The folders in which what a provider made of a graph is kept."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger("ffrt")


def engines_folder() -> Path | None:
    """Where engines are kept: `ffrt/engines` in the user's cache folder, with a folder per bundle digest; or None."""
    cache = cache_folder()
    return None if cache is None else cache / "engines"


def graphs_folder() -> Path | None:
    """Where optimised graphs are kept: `ffrt/graphs` in the user's cache folder; or None."""
    cache = cache_folder()
    return None if cache is None else cache / "graphs"


def cache_folder() -> Path | None:
    """`ffrt` in the user's cache folder; None for a user who has no home folder, as in many containers."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:  # no HOME, and no row of the user in the password file
            return None
    return cache / "ffrt" if cache.is_absolute() else None


def ensure_dir(folder: Path | None) -> Path | None:
    """Create the folder if needed. If that fails, log a warning and return None: engines are then not kept."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("%s: engines are not kept (%s)", folder, error)
        return None
    return folder


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
