"""One ONNX graph as a function of named arrays. The only module that imports onnxruntime.

ONNX Runtime lets a symbolic axis have two sizes in one call, names no argument in a dtype error, and falls back to the
CPU without an error. Here the contract of the manifest is checked on every call, and a provider is what was asked for.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ffrt.bundle import Bundle, TensorSpec
from ffrt.errors import BundleError, GraphInputError, ProviderError

try:
    import onnxruntime as ort  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError(
        'ffrt needs ONNX Runtime: type pip install "ffrt[cpu]" for the processor or pip install "ffrt[cuda]" for an '
        f"NVIDIA GPU ({error})"
    ) from error

PROVIDER_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""What ONNX Runtime calls each provider."""
PROVIDERS = ("auto", *PROVIDER_NAMES)
_INSTALL = {
    "cpu": 'pip install "ffrt[cpu]"',
    "cuda": 'pip install "ffrt[cuda]", with an NVIDIA driver for CUDA 13',
    "tensorrt": 'pip install "ffrt[cuda]" tensorrt',
    "openvino": "pip uninstall onnxruntime, then pip install onnxruntime-openvino",
}
_CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "1",
}
_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}

Axis = int | str
Memory = Literal["fast", "low"]
MEMORY: tuple[Memory, ...] = get_args(Memory)
"""What a session trades: "fast" keeps float32 copies of the weights, laid out for its kernels; "low" leaves them in the
bundle's file, which the system maps, and converts each where it is used, so that a network larger than memory runs."""


def available_providers() -> list[str]:
    """The providers that this build of ONNX Runtime has, in the words that `provider=` takes."""
    built = ort.get_available_providers()
    return [word for word, name in PROVIDER_NAMES.items() if name in built]


def runtime_version() -> str:
    """Version of ONNX Runtime."""
    return str(ort.__version__)


def check_provider(provider: str) -> None:
    """Raise ProviderError if `provider` is unknown or not in this build of ONNX Runtime."""
    if provider not in PROVIDERS:
        raise ProviderError(f"provider: expected one of {list(PROVIDERS)}, got {provider!r}")
    if provider != "auto" and provider not in available_providers():
        raise ProviderError(
            f"provider {provider!r} is not in this build of ONNX Runtime {ort.__version__}, which has "
            f"{available_providers()}; {_INSTALL[provider]}"
        )


class Graph:
    """One session over one graph of a bundle.

    `provider` is "auto" (CUDA if this build has it and the session got it, else CPU), "cpu", "cuda", "tensorrt" or
    "openvino"; `threads` is the number of CPU threads inside an operator, None for ONNX Runtime's own choice.
    Raises BundleError if the graph cannot be loaded or differs from the manifest, ProviderError if the provider that
    was asked for is not the one in use.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: Memory = "fast",
    ) -> None:
        check_provider(provider)
        if name not in bundle.graphs:
            raise BundleError(f"{bundle.folder} has no graph {name!r}; it has {sorted(bundle.graphs)}")
        spec = bundle.graphs[name]
        self.name = name
        self._session = _open_session(str(bundle.path(spec.file)), name, provider, threads, memory)
        self._inputs = _agree(name, "input", spec.inputs, self._session.get_inputs())
        self._outputs = _agree(name, "output", spec.outputs, self._session.get_outputs())

    @property
    def provider(self) -> str:
        """The provider that the session really got, in the words that `provider=` takes."""
        first = self._session.get_providers()[0]
        return next((word for word, name in PROVIDER_NAMES.items() if name == first), first)

    @property
    def input_names(self) -> list[str]:
        """The names that a feed must have, in the contract's order."""
        return [spec.name for spec in self._inputs]

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph. Raises GraphInputError (graph, argument, want, got) if `feed` breaks its contract."""
        sizes = self._check(feed)
        names = [spec.name for spec in self._outputs]
        try:
            values = self._session.run(names, dict(feed))
        except Exception as error:
            shapes = {key: list(value.shape) for key, value in feed.items()}
            raise GraphInputError(f"graph {self.name}: ONNX Runtime failed on inputs {shapes}: {error}") from error
        for spec, value in zip(self._outputs, values, strict=True):
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise GraphInputError(
                    f"graph {self.name}, output {spec.name}: expected finite numbers, got NaN or infinity; check "
                    "that the inputs are finite, then the bundle (float16 overflows first)"
                )
            want = [_evaluate(axis, sizes) for axis in spec.shape]
            got = list(value.shape)
            if len(want) != len(got) or any(w is not None and w != g for w, g in zip(want, got, strict=True)):
                raise BundleError(
                    f"graph {self.name}, output {spec.name}: the manifest says {list(spec.shape)}, the graph gave {got}"
                )
        return dict(zip(names, values, strict=True))

    def _check(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        where = f"graph {self.name}"
        if feed.keys() != {spec.name for spec in self._inputs}:
            want = [spec.name for spec in self._inputs]
            raise GraphInputError(f"{where}: expected the inputs {want}, got {list(feed)}")
        axes: list[tuple[str, Axis, int]] = []
        for spec in self._inputs:
            value = feed[spec.name]
            if not isinstance(value, np.ndarray):
                raise GraphInputError(f"{where}, input {spec.name}: expected an array, got {type(value).__name__}")
            if value.dtype.name != spec.dtype:
                raise GraphInputError(f"{where}, input {spec.name}: expected {spec.dtype}, got {value.dtype.name}")
            if value.ndim != len(spec.shape) or 0 in value.shape:
                raise GraphInputError(
                    f"{where}, input {spec.name}: expected the axes {list(spec.shape)}, got {list(value.shape)}"
                )
            axes += [(spec.name, axis, size) for axis, size in zip(spec.shape, value.shape, strict=True)]
        try:
            return bind_axes(axes)
        except ValueError as error:
            raise GraphInputError(f"{where}, {error}") from None


def bind_axes(axes: Sequence[tuple[str, Axis, int]]) -> dict[str, int]:
    """Sizes of all symbolic axes from rows (argument, axis, size); a product is checked once its letters are known.

    Raises ValueError naming the argument if a fixed size differs or two arguments disagree.
    """
    sizes: dict[str, int] = {}
    for argument, axis, size in sorted(axes, key=lambda row: str(row[1]).count("*")):
        want = _evaluate(axis, sizes)
        if want is None:
            name = str(axis)
            unknown = [letter for letter in name.split("*") if letter not in sizes]
            rest = math.prod(sizes[letter] for letter in name.split("*") if letter in sizes)
            if size % rest:
                raise ValueError(f"input {argument}: expected axis {axis} to be a multiple of {rest}, got {size}")
            if len(unknown) == 1:
                sizes[unknown[0]] = size // rest
            sizes[name] = size
        elif want != size:
            known = {letter: sizes[letter] for letter in str(axis).split("*") if letter in sizes}
            told = f" (with {known} from the other inputs)" if known else ""
            raise ValueError(f"input {argument}: expected axis {axis} to be {want}{told}, got {size}")
    return sizes


def _evaluate(axis: Axis, sizes: Mapping[str, int]) -> int | None:
    if isinstance(axis, int):
        return axis
    letters = axis.split("*")
    if all(letter in sizes for letter in letters):
        return math.prod(sizes[letter] for letter in letters)
    return sizes.get(axis)


def _agree(graph: str, side: str, wanted: Sequence[TensorSpec], found: Sequence[Any]) -> list[TensorSpec]:
    """The manifest's tensors, with every size that the graph itself fixes; raises BundleError where they differ."""
    names = [node.name for node in found]
    if sorted(names) != sorted(spec.name for spec in wanted):
        raise BundleError(f"graph {graph}: the manifest has the {side}s {[s.name for s in wanted]}, the graph {names}")
    merged = []
    for spec in wanted:
        node = found[names.index(spec.name)]
        where = f"graph {graph}, {side} {spec.name}"
        dtype = _TYPES.get(node.type, node.type)
        if dtype != spec.dtype:
            raise BundleError(f"{where}: the manifest says {spec.dtype}, the graph {dtype}")
        shape = list(node.shape) if node.shape else list(spec.shape)
        if len(shape) != len(spec.shape):
            raise BundleError(f"{where}: the manifest says {list(spec.shape)}, the graph {shape}")
        for want, got in zip(spec.shape, shape, strict=True):
            if isinstance(want, int) and isinstance(got, int) and want != got:
                raise BundleError(f"{where}: the manifest says {list(spec.shape)}, the graph {shape}")
        axes = (g if isinstance(g, int) else w for w, g in zip(spec.shape, shape, strict=True))
        merged.append(TensorSpec(spec.name, spec.dtype, tuple(axes)))
    return merged


def _open_session(path: str, graph: str, provider: str, threads: int | None, memory: Memory) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    unused = []
    if memory == "low":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
        unused = ["ConstantFolding"]
    if threads is not None:
        options.intra_op_num_threads = threads
    built = available_providers()
    word = ("cuda" if "cuda" in built else "cpu") if provider == "auto" else provider
    if word in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    chain = ["tensorrt", "cuda", "cpu"] if word == "tensorrt" else list(dict.fromkeys([word, "cpu"]))
    providers = [
        (PROVIDER_NAMES[name], _CUDA_OPTIONS) if name == "cuda" else PROVIDER_NAMES[name]
        for name in chain
        if name in built
    ]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            session = ort.InferenceSession(path, options, providers=providers, disabled_optimizers=unused)
    except Exception as error:
        if provider == "auto" and word != "cpu":
            return _open_session(path, graph, "cpu", threads, memory)
        if word != "cpu":
            raise ProviderError(f"provider {word!r} could not open graph {graph}: {error}; {_INSTALL[word]}") from error
        raise BundleError(f"graph {graph}: cannot load {path}: {error}; export the bundle again") from error
    if provider != "auto" and PROVIDER_NAMES[provider] not in session.get_providers():
        raise ProviderError(
            f"provider {provider!r} did not start for graph {graph}: the session got {session.get_providers()}; "
            f"{_INSTALL[provider]}"
        )
    return session
