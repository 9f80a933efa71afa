"""The onnxruntime-gpu wheel, unpacked next to the installed ONNX Runtime, and the environment to use it.

A process with that environment runs it over stand-ins for CUDA's libraries (`bench.cuda.stand_ins`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.cuda.stand_ins import build_stand_ins
from ffrt.backend import engines
from ffrt.errors import ProviderError

WHEEL = "onnxruntime-gpu==1.31.1"
PROVIDER_FILE = Path("onnxruntime") / "capi" / "libonnxruntime_providers_cuda.so"


def cache_folder() -> Path:
    """Where the wheel is unpacked, for this version of Python. Raises ProviderError for a user without a home."""
    cache = engines.cache_folder()
    if cache is None:
        raise ProviderError(f"{WHEEL}: expected a home folder to keep it in, got none; set XDG_CACHE_HOME")
    return cache / WHEEL.replace("==", "-") / f"cp{sys.version_info.major}{sys.version_info.minor}"


def fetch_wheel(folder: Path) -> Path:
    """The unpacked wheel in `folder`, fetched by pip if it is missing.

    Raises ProviderError, with nothing left behind, where it cannot be had; it exists for Linux and Windows.
    """
    if (folder / PROVIDER_FILE).is_file():
        return folder
    if sys.platform != "linux":
        raise ProviderError(f"expected Linux, whose CUDA provider can be rehearsed without a GPU, got {sys.platform}")
    call = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "--target"]
    print(f"fetching {WHEEL} (256 MB, once) into {folder}", file=sys.stderr)
    beside = folder.with_name(f".{folder.name}.fetching.{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        done = subprocess.run([*call, str(beside), WHEEL], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (beside / PROVIDER_FILE).is_file():
            lines = done.stderr.strip().splitlines()
            reason = lines[-1] if lines else "a wheel without the CUDA provider"
            raise ProviderError(
                f"{WHEEL} could not be fetched: {reason}; with a network, type pip install --no-deps "
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
    """Variables for a Python process whose ONNX Runtime is that of `wheel` and appears to have a GPU.

    The stand-ins are built in `folder`.

    Raises ProviderError where `wheel` is no unpacked wheel or the stand-ins cannot be built.
    """
    provider = wheel / PROVIDER_FILE
    if not provider.is_file():
        raise ProviderError(
            f"{wheel}: expected an unpacked {WHEEL} wheel, got a folder without {PROVIDER_FILE}; type "
            f"pip install --no-deps --target {wheel} {WHEEL}"
        )
    build_stand_ins(provider, folder)
    first = {"PYTHONPATH": wheel, "LD_LIBRARY_PATH": folder}
    return {name: os.pathsep.join(filter(None, [str(path), os.environ.get(name)])) for name, path in first.items()}
