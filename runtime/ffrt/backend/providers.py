"""Execution providers in the words that `provider=` takes: their names, options and packages, and the folder that keeps
the engines which some of them build.
"""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROVIDER_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""What ONNX Runtime calls each provider."""
PROVIDERS = ("auto", *PROVIDER_NAMES)
AUTOMATIC = ("cuda", "cpu")
"""What "auto" tries, the best first."""
PLUGINS = {"openvino": "onnxruntime_ep_openvino", "tensorrt-rtx": "onnxruntime_ep_nv_tensorrt_rtx"}
"""Providers that a package of their own brings to any build of ONNX Runtime: its module has `get_library_path()`."""
OPENVINO = "openvino"
"""The provider whose own package is taken where it is installed, before the plug-in, which sees Intel's processors
alone (:mod:`ffrt.backend.openvino`)."""
ENGINES = ("tensorrt", "tensorrt-rtx")
"""Providers that build an engine for a graph, which takes minutes, and keep it in a file."""
ON_GPU = ("cuda", "tensorrt", "tensorrt-rtx")
INSTALL = {
    "cpu": 'pip install "ffrt[cpu]"',
    "cuda": 'pip install "ffrt[cuda]", with an NVIDIA driver for CUDA 13',
    "tensorrt": 'pip install "ffrt[cuda]" tensorrt',
    "tensorrt-rtx": "pip install onnxruntime-ep-nv-tensorrt-rtx, for a GeForce or RTX GPU",
    "openvino": 'pip install "ffrt[openvino]"',
}
ONE_SHAPE = (*ON_GPU, "openvino")
"""Providers that open a network that sees pictures for one shape at a time: a new shape costs them seconds."""
RUNS = {"cpu": ("cpu", "openvino"), "cuda": ("cuda", "tensorrt"), "openvino": ("openvino", "cpu")}
"""Who can run a bundle that was optimised for one provider: the first is meant, the rest take what is not theirs to it.
A provider that is not named here runs only its own."""


def runners(optimised_for: str | None) -> tuple[str, ...]:
    """The providers that can run graphs optimised for one of them, None being for none."""
    return tuple(PROVIDER_NAMES) if optimised_for is None else RUNS.get(optimised_for, (optimised_for,))


def made_for(word: str) -> str:
    """What a bundle for this provider is optimised for: itself or, for those that run another's, that one."""
    return word if word in RUNS else next((name for name, able in RUNS.items() if word in able), "cpu")


def plugged_in(word: str) -> bool:
    """Whether the package that brings this provider is installed."""
    return word in PLUGINS and importlib.util.find_spec(PLUGINS[word]) is not None


def packaged(word: str) -> bool:
    """Whether OpenVINO's own package is there to run its graphs."""
    return word == OPENVINO and importlib.util.find_spec(OPENVINO) is not None


def automatic(optimised_for: str | None) -> tuple[str, ...]:
    """What "auto" tries for graphs optimised for a provider, the best first: OpenVINO where they are made for it."""
    return AUTOMATIC if optimised_for != OPENVINO else RUNS[OPENVINO]


def chain(word: str) -> list[str]:
    """The provider and those that take what it cannot run, in that order."""
    below = ["cuda", "cpu"] if word in ENGINES else ["cpu"]
    return list(dict.fromkeys([word, *below]))


@dataclass(frozen=True)
class Wanted:
    """What a session asks of its providers.

    `engines` is the folder for what they build, None for none; `nhwc` is for graphs whose normalisations and
    convolutions were fused for channels last, others get slower; `cuda_graph` records the launches of a run and plays
    them back, for fixed shapes and device arrays that stay where they are; `sizes` fixes axes by their names;
    `bfloat16` lets OpenVINO's package multiply in it.
    """

    threads: int | None = None
    engines: Path | None = None
    nhwc: bool = False
    cuda_graph: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    bfloat16: bool = False


def options_of(word: str, wanted: Wanted) -> Mapping[str, str]:
    """Options of one provider, all in text as ONNX Runtime takes them."""
    engines = wanted.engines
    recorded = wanted.cuda_graph and len(wanted.sizes) > 0  # with open axes the host has a part in every run
    cuda_graph = str(int(recorded))
    if word == "cuda":
        return {
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "1",
            "prefer_nhwc": str(int(wanted.nhwc)),
            "enable_cuda_graph": cuda_graph,
        }
    if word == "tensorrt":
        options = {"trt_cuda_graph_enable": cuda_graph}
        if engines is not None:
            options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines)}
            options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(engines)}
        return options
    if word == "tensorrt-rtx":
        options = {"enable_cuda_graph": cuda_graph}
        return options if engines is None else {**options, "nv_runtime_cache_path": str(engines)}
    if word == OPENVINO:
        asked = {"INFERENCE_PRECISION_HINT": "f32", **openvino_settings(wanted.threads)}  # else bfloat16 if it can
        return {"load_config": json.dumps({"CPU": asked})}
    return {}


def openvino_settings(threads: int | None) -> dict[str, str]:
    """Settings of OpenVINO for the CPU, beside what it computes in."""
    asked = {"PERFORMANCE_HINT": "LATENCY"}
    return asked if threads is None else {**asked, "INFERENCE_NUM_THREADS": str(threads)}


def engines_folder() -> Path:
    """Where engines are kept: `ffrt/engines` in the user's cache folder, below it a folder for each bundle digest."""
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (asked if asked.is_absolute() else Path.home() / ".cache") / "ffrt" / "engines"


def made(engines: Path | None) -> Path | None:
    """The folder, made where there is none; None, with a warning, where that is not allowed: engines are not kept."""
    try:
        if engines is not None:
            engines.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warnings.warn(f"{engines}: engines are not kept ({error})", UserWarning, stacklevel=4)
        return None
    return engines


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and below; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
