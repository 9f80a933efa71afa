"""The onnxruntime-gpu wheel, kept unpacked beside the installed ONNX Runtime, and what a process needs to run it over
stand-ins for CUDA's libraries (:mod:`bench.cuda.stand_ins`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.cuda.stand_ins import build_stand_ins
from ffrt.errors import ProviderError

WHEEL = "onnxruntime-gpu==1.31.1"
PROVIDER_FILE = Path("onnxruntime") / "capi" / "libonnxruntime_providers_cuda.so"


def cache_folder() -> Path:
    """Where the wheel is unpacked, for this version of Python."""
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = asked if asked.is_absolute() else Path.home() / ".cache"
    return base / "ffrt" / WHEEL.replace("==", "-") / f"cp{sys.version_info.major}{sys.version_info.minor}"


def fetch_wheel(folder: Path) -> Path:
    """The unpacked wheel in ``folder``, fetched by pip where it is not there yet.

    Raises ProviderError, with nothing left behind, where it cannot be had; it exists for Linux and Windows.
    """
    if (folder / PROVIDER_FILE).is_file():
        return folder
    if sys.platform != "linux":
        raise ProviderError(f"wanted Linux, whose CUDA provider can be asked without a GPU, got {sys.platform}")
    call = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "--target"]
    print(f"fetching {WHEEL} (256 MB, once) into {folder}", file=sys.stderr)
    beside = folder.with_name(f".{folder.name}.fetching.{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        done = subprocess.run([*call, str(beside), WHEEL], capture_output=True, text=True)
        if done.returncode != 0 or not (beside / PROVIDER_FILE).is_file():
            said = (done.stderr.strip().splitlines() or ["a wheel without the CUDA provider"])[-1]
            raise ProviderError(
                f"{WHEEL} could not be fetched: {said}; where there is a network type pip install --no-deps "
                f"--target FOLDER {WHEEL} and then python -m bench.cuda.placement BUNDLE --ort FOLDER"
            )
        if not (folder / PROVIDER_FILE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(beside, folder)
    except OSError as error:
        raise ProviderError(f"{WHEEL} could not be kept in {folder}: {error}; set XDG_CACHE_HOME") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def over_stand_ins(wheel: Path, folder: Path) -> Mapping[str, str]:
    """What a Python process has in its environment so that its ONNX Runtime is that of ``wheel`` and has a GPU, in
    appearance: stand-ins that are built in ``folder``.

    Raises ProviderError where ``wheel`` is no unpacked wheel or the stand-ins cannot be built.
    """
    provider = wheel / PROVIDER_FILE
    if not provider.is_file():
        raise ProviderError(
            f"{wheel}: wanted an unpacked {WHEEL} wheel, found no {PROVIDER_FILE} in it; type "
            f"pip install --no-deps --target {wheel} {WHEEL}"
        )
    build_stand_ins(provider, folder)
    first = {"PYTHONPATH": wheel, "LD_LIBRARY_PATH": folder}
    return {name: os.pathsep.join(filter(None, [str(path), os.environ.get(name)])) for name, path in first.items()}
