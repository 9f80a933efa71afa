"""`provider="webgpu"`: the numbers of the CPU on whatever GPU there is, SwiftShader's software one too, or an error."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ffrt
from ffrt import Bundle

SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
"""A Vulkan driver that computes on the CPU; Debian's package chromium brings it, beside libvulkan1."""
SOFTWARE = {"VK_DRIVER_FILES": str(SWIFTSHADER), "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"}
COMPARE = """
import json, sys
import numpy as np
from ffrt import FfrtError, Pipeline, open_bundle
from ffrt.backend.graph import Graph

bundle = open_bundle(sys.argv[1])
rng = np.random.default_rng(0)
found = {}
try:
    for name, feed in {
        "movq_decoder": {"latent": rng.standard_normal((2, 4, 4, 4), dtype=np.float32)},
        "interpolation_unet": {
            "x": rng.standard_normal((4, 20, 4, 4), dtype=np.float32),
            "time": np.full(2, 500, np.float32),
            "skip_frames": np.array([4, 4]),
            "perturbation": np.zeros(2, np.float32),
        },
    }.items():
        got, want = (Graph(bundle, name, provider=provider, threads=1) for provider in ("webgpu", "cpu"))
        pairs = [(got(feed)[output], want(feed)[output]) for output in want(feed)]
        found[name] = [got.provider, max(float(np.abs(a - b).max()) for a, b in pairs)]
    videos = [
        Pipeline(bundle, provider=provider, threads=1)("a red circle", fps=8, num_inference_steps=2).frames.astype(int)
        for provider in ("webgpu", "cpu")
    ]
    found["video"] = ["webgpu", float(np.abs(videos[0] - videos[1]).max())]
except FfrtError as error:
    found = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(found))
"""


def compared(bundle: Bundle, **environment: str) -> dict[str, list[str | float]]:
    """What a process of its own finds: a plug-in looks for devices once, with the environment that it has then."""
    without = {name: value for name, value in os.environ.items() if name not in SOFTWARE}
    own = {**without, "PYTHONPATH": str(Path(ffrt.__file__).parents[1]), **environment}
    command = [sys.executable, "-c", COMPARE, str(bundle.folder)]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=900, check=True)
    found: dict[str, list[str | float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def agrees(found: dict[str, list[str | float]]) -> bool:
    graphs = [found["movq_decoder"], found["interpolation_unet"]]
    return all(name == "webgpu" and float(worst) < 1e-5 for name, worst in graphs) and float(found["video"][1]) <= 1


def test_it_computes_what_the_cpu_computes_or_says_what_is_missing(tiny: Bundle) -> None:
    """Whatever this machine has: a GPU, none, or not even the plug-in."""
    found = compared(tiny)
    if "error" not in found:
        assert agrees(found)
        return
    error = str(found["error"])
    assert error.startswith("ProviderError: provider 'webgpu' ")
    assert 'pip install "ffrt[webgpu]", with a GPU and its driver for Vulkan' in error


@pytest.mark.slow
def test_the_software_driver_computes_what_the_cpu_computes(tiny: Bundle) -> None:
    there = SWIFTSHADER.exists() and ctypes.util.find_library("vulkan") is not None
    if importlib.util.find_spec("onnxruntime_ep_webgpu") is None or not there:
        pytest.skip(f"needs the package onnxruntime-ep-webgpu and {SWIFTSHADER} (apt-get install chromium libvulkan1)")
    assert agrees(compared(tiny, **SOFTWARE))
