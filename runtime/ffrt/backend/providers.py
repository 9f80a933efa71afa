"""The table of execution providers, one row each, and which of them a request gets.

A new provider is a row of `PROVIDERS`; one that needs no settings of its own needs no row: any execution provider that
ONNX Runtime or an installed plug-in has is taken by its own name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec

from ffrt.backend import onnxruntime, openvino, wheels
from ffrt.backend.runner import Provider, SessionOptions
from ffrt.checks import describe
from ffrt.errors import ProviderError

AUTO = "auto"
"""What `provider=` takes for the best provider that is there."""
SUFFIX = "ExecutionProvider"
"""What ONNX Runtime's own names of execution providers end with."""


def _cuda_options(options: SessionOptions) -> Mapping[str, str]:
    return {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "1",
        "prefer_nhwc": str(int(options.channels_last)),
        "enable_cuda_graph": str(int(options.records)),
    }


def _tensorrt_options(options: SessionOptions) -> Mapping[str, str]:
    own = {"trt_cuda_graph_enable": str(int(options.records))}
    if options.engines is not None:
        own |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(options.engines)}
        own |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(options.engines)}
    return own


def _tensorrt_rtx_options(options: SessionOptions) -> Mapping[str, str]:
    own = {"enable_cuda_graph": str(int(options.records))}
    return own if options.engines is None else {**own, "nv_runtime_cache_path": str(options.engines)}


def _openvino_options(options: SessionOptions) -> Mapping[str, str]:
    settings = {"INFERENCE_PRECISION_HINT": "f32", **openvino.settings_of(options.threads)}  # else bfloat16 if it can
    return {"load_config": json.dumps({"CPU": settings})}


CPU = Provider(
    "cpu",
    "CPUExecutionProvider",
    install='pip install "ffrt[cpu]"',
    open=onnxruntime.open_session,
    automatic=True,
    keeps_graphs=True,
    survives_fork=True,
    dtypes=("float32", "float16"),
    runs=("cpu", "openvino"),
)
CUDA = Provider(
    "cuda",
    "CUDAExecutionProvider",
    install='pip install "ffrt[cuda]", with an NVIDIA driver for CUDA 13',
    open=onnxruntime.open_session,
    options=_cuda_options,
    device="cuda",
    automatic=True,
    one_shape=True,
    shrinks_arena=True,
    dtypes=("float16", "float32"),
    runs=("cuda",),
    falls_back_to=(CPU,),
)
TENSORRT = Provider(
    "tensorrt",
    "TensorrtExecutionProvider",
    install='pip install "ffrt[cuda]" tensorrt',
    open=onnxruntime.open_session,
    options=_tensorrt_options,
    device="cuda",
    one_shape=True,
    keeps_engines=True,
    runs=("cuda",),
    falls_back_to=(CUDA, CPU),
)
TENSORRT_RTX = Provider(
    "tensorrt-rtx",
    "NvTensorRTRTXExecutionProvider",
    install="pip install onnxruntime-ep-nv-tensorrt-rtx, for a GeForce or RTX GPU",
    open=onnxruntime.open_session,
    options=_tensorrt_rtx_options,
    plugin="onnxruntime_ep_nv_tensorrt_rtx",
    device="cuda",
    one_shape=True,
    keeps_engines=True,
    falls_back_to=(CUDA, CPU),
)
OPENVINO = Provider(
    "openvino",
    "OpenVINOExecutionProvider",
    install='pip install "ffrt[openvino]"',
    open=openvino.open_session,
    options=_openvino_options,
    package="openvino",
    plugin="onnxruntime_ep_openvino",
    built_in=False,
    one_shape=True,
    maps_weights=True,
    dtypes=("bfloat16", "float32"),
    runs=("openvino", "cpu"),
    falls_back_to=(CPU,),
)
WEBGPU = Provider(
    "webgpu",
    "WebGpuExecutionProvider",
    install='pip install "ffrt[webgpu]", with a GPU and its driver for Vulkan (and libvulkan1), Metal or Direct3D 12',
    open=onnxruntime.open_session,
    plugin="onnxruntime_ep_webgpu",
    one_shape=True,
    falls_back_to=(CPU,),
)
PROVIDERS: dict[str, Provider] = {row.name: row for row in (CPU, CUDA, TENSORRT, TENSORRT_RTX, OPENVINO, WEBGPU)}
"""Every provider with a name of ours."""


def is_available(provider: Provider) -> bool:
    """Whether the provider is installed: as a package, as a plug-in, or in this build of ONNX Runtime."""
    return (
        has_package(provider)
        or onnxruntime.has_plugin(provider)
        or (provider.built_in and onnxruntime.is_built_in(provider))
    )


def has_package(provider: Provider) -> bool:
    """Whether the package with an engine of its own for this provider is installed."""
    return provider.package is not None and find_spec(provider.package) is not None


def available_providers() -> list[str]:
    """The providers that are installed, by the names that `provider=` takes."""
    return [name for name, provider in PROVIDERS.items() if is_available(provider)]


def compatible_with(target: str | None) -> list[Provider]:
    """The providers that run bundles optimised for `target`, itself first; None is for plain bundles."""
    able = [row for row in PROVIDERS.values() if target is None or target in row.runs]
    return sorted(able, key=lambda row: row.name != target)


def target_of(provider: Provider) -> str | None:
    """The provider that a bundle for this one is optimised for; None where it runs plain bundles alone."""
    return provider.runs[0] if provider.runs else None


def auto_order(target: str | None) -> list[Provider]:
    """What "auto" tries for bundles optimised for `target`, the best first."""
    if target is not None and target in PROVIDERS and not PROVIDERS[target].automatic:
        return compatible_with(target)
    return sorted((row for row in PROVIDERS.values() if row.automatic), key=lambda row: not row.on_gpu)


def choose_provider(name: str, optimised_for: str | None = None) -> Provider:
    """The row of a provider, for "auto" of the best that is there and can run graphs optimised for `optimised_for`.

    Raises ProviderError if it is unknown, not installed, or cannot run such graphs.
    """
    if isinstance(name, str) and name == AUTO:
        candidates = [row for row in auto_order(optimised_for) if is_available(row)]
    else:
        candidates = [provider_of(name)]
        if not is_available(candidates[0]):
            raise ProviderError(
                f"provider {name!r} is not in this build of ONNX Runtime {onnxruntime.runtime_version()}, which has "
                f"{available_providers()}; {wheels.advice(candidates[0])}"
            )
    for row in candidates:
        if optimised_for is None or optimised_for in row.runs:
            return row
    asked = candidates[0] if candidates else CPU
    able = [row.name for row in compatible_with(optimised_for)]
    target = target_of(asked)
    advice = (
        "use the bundle that it was made of"
        if target is None
        else f"python -m graphs optimise BUNDLE --provider {target} --out FOLDER makes one for {asked.name!r}"
    )
    raise ProviderError(
        f"provider {name!r}: this bundle was optimised for {optimised_for!r} and runs on {able} alone; {advice}"
    )


def provider_of(name: str) -> Provider:
    """The row of a name of ours, or of an execution provider by ONNX Runtime's name for it; else ProviderError."""
    if not isinstance(name, str):
        raise ProviderError(f"provider: expected one of {[AUTO, *PROVIDERS]}, got {describe(name)}")
    if name in PROVIDERS:
        return PROVIDERS[name]
    for row in PROVIDERS.values():
        if row.ort_name == name:
            return row
    if not name.endswith(SUFFIX):
        raise ProviderError(
            f"provider: expected one of {[AUTO, *PROVIDERS]}, or ONNX Runtime's name of an execution provider, such as "
            f"'MIGraphX{SUFFIX}', got {describe(name)}"
        )
    return Provider(
        name,
        name,
        install=f"install a build of ONNX Runtime that has {name}, or its plug-in package",
        open=onnxruntime.open_session,
        plugin=onnxruntime.plugin_of(name),
        one_shape=True,
        falls_back_to=(CPU,),
    )


def check_options(name: str, options: Mapping[str, object] | None) -> dict[str, str]:
    """The options of a provider, all in text as ONNX Runtime takes them; True and False are "1" and "0".

    Raises ProviderError for a name that is no text, a value that is no text or number, and options of "auto".
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ProviderError(f"provider_options: expected a mapping of names to values, got {type(options).__name__}")
    if name == AUTO and options:
        raise ProviderError(f"provider_options: expected a provider by its name with them, got {name!r}")
    checked = {}
    for key, value in options.items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float)):
            raise ProviderError(
                f"provider_options: expected names with text or numbers, got {describe(key)}: {describe(value)}"
            )
        checked[key] = str(int(value)) if isinstance(value, bool) else str(value)
    return checked
