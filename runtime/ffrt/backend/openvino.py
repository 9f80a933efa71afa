"""An ONNX file opened by OpenVINO's own package. The only module that imports openvino.

ONNX Runtime's plug-in for OpenVINO accepts Intel's processors alone (microsoft/onnxruntime pull request 31981) and its
runs cannot be cancelled. The package runs on any processor, in bfloat16 where that has instructions for it, and stops
within a layer.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ffrt.backend import onnxruntime
from ffrt.backend.arrays import DeviceArray, Feed, Tensor, on_host
from ffrt.backend.cancel import Cancellation, token
from ffrt.backend.inherited import keep_for_ever
from ffrt.backend.onnxruntime_session import OnnxRuntimeSession, device_array
from ffrt.backend.processors import processors
from ffrt.backend.runner import Provider, SessionOptions
from ffrt.errors import ProviderError

DTYPES = {"f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "boolean": "bool"}
"""OpenVINO's names of element types, and numpy's."""
IMAGE_RANK = 4
"""A graph with an input of this rank takes images or latents. It is compiled per input shape, which makes it up to a
quarter faster, and may compute in bfloat16. Others, for text and noise levels, keep open shapes and float32: they run
once per request, and tables of a noise level in bfloat16 would cost 9 dB of the video."""
COMPILED_SHAPES = 2
"""How many input shapes stay compiled. A video at 30 fps needs two: the 8 fps pass and the windowed pass."""

_TELEMETRY = "openvino_telemetry"
_IMPORTING = threading.Lock()


class _Request(Protocol):
    def start_async(self, inputs: Mapping[str, NDArray[Any]], share_inputs: bool) -> None: ...
    def wait(self) -> None: ...
    def cancel(self) -> None: ...
    def get_tensor(self, name: str) -> Any: ...


class OpenVinoSession:
    """One file, whose weights lie in its folder, compiled for the CPU.

    Keeps the last `kept` shapes compiled. With `dtype` "bfloat16" it computes in that where it takes images, if the
    processor can. Threads take turns. Raises RuntimeError, the only error that OpenVINO has, for a file that is no
    graph and a run that fails.
    """

    engine = "OpenVINO"
    provider = "openvino"
    device = "cpu"

    def __init__(self, path: Path, name: str, settings: Mapping[str, str], *, dtype: str, kept: int) -> None:
        openvino = _package()
        from openvino.frontend import FrontEndManager

        self._process = os.getpid()
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], _Request] = OrderedDict()
        self._lock = threading.Lock()
        self._name = name
        self._kept = kept
        reader = FrontEndManager().load_by_framework("onnx")  # read_model would try TensorFlow's and others too
        self._model = openvino.Model(reader.convert(reader.load(str(path))))
        self._per_shape = any(len(port.partial_shape) == IMAGE_RANK for port in self._model.inputs if _has_rank(port))
        precision = "bf16" if dtype == "bfloat16" and self._per_shape else "f32"
        self._settings = {"INFERENCE_PRECISION_HINT": precision, **settings}
        self.inputs = [_tensor(port) for port in self._model.inputs]
        self.outputs = [_tensor(port) for port in self._model.outputs]

    def __del__(self) -> None:
        if self._process != os.getpid():
            keep_for_ever(*self._requests.values())

    @property
    def compiled(self) -> int:
        """How many shapes are compiled."""
        return len(self._requests)

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """The same memory, which must not change meanwhile."""
        return device_array(array, "cpu")

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """All outputs, copied. Raises Cancelled, though a compilation runs to its end, and RuntimeError."""
        cancellation = token(cancellation)
        inputs = {name: _numbered(np.asarray(on_host(value), order="C")) for name, value in feed.items()}
        with self._lock:
            request = self._request({name: value.shape for name, value in inputs.items()})
            with cancellation.aborts(request.cancel, f"graph {self._name}"):
                request.start_async(inputs, share_inputs=True)
                if cancellation.cancelled:  # perhaps before it was started, which a request ignores
                    request.cancel()
                request.wait()
            return {tensor.name: np.array(request.get_tensor(tensor.name).data) for tensor in self.outputs}

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> dict[str, DeviceArray]:
        """The named outputs, whose device is the host; raises as `run`."""
        values = self.run(feed, cancellation)
        if isinstance(outputs, Mapping):
            for name, target in outputs.items():
                target.update(values[name])
            return dict(outputs)
        return {name: self.device_array(values[name]) for name in outputs}

    def _request(self, shapes: Mapping[str, tuple[int, ...]]) -> _Request:
        key = tuple(shapes[name] for name in sorted(shapes)) if self._per_shape else ()
        if key not in self._requests:
            while len(self._requests) >= self._kept:
                self._requests.popitem(last=False)
            model = self._model
            if self._per_shape:
                model = model.clone()
                model.reshape({name: list(shape) for name, shape in shapes.items()})
            self._requests[key] = _core().compile_model(model, "CPU", self._settings).create_infer_request()
        self._requests.move_to_end(key)
        return self._requests[key]


def has_openvino() -> bool:
    """Whether OpenVINO's own package is installed."""
    return importlib.util.find_spec("openvino") is not None


def open_session(
    path: Path, name: str, provider: Provider, options: SessionOptions, cancellation: Cancellation
) -> OpenVinoSession | OnnxRuntimeSession:
    """Open a file with OpenVINO's package, or with ONNX Runtime's plug-in where that alone is installed."""
    if not has_openvino():
        return onnxruntime.open_session(path, name, provider, options, cancellation)
    settings = {**settings_of(options.threads), **options.provider_options}
    known = sorted(map(str, _core().get_property("CPU", "SUPPORTED_PROPERTIES")))
    unknown = [key for key in options.provider_options if key not in known]
    if unknown:
        raise ProviderError(f"provider 'openvino': provider_options: expected some of {known}, got {unknown}")
    kept = 1 if options.memory == "low" else COMPILED_SHAPES
    with cancellation.aborts(lambda: None, f"opening graph {name}"):
        try:
            return OpenVinoSession(path, name, settings, dtype=options.dtype, kept=kept)
        except RuntimeError as error:
            if "outside the base directory" not in str(error):
                raise
            raise ProviderError(
                f"provider 'openvino' could not open graph {name}: its weights are a link out of their folder, which "
                "OpenVINO does not follow; copy the bundle with cp -rL BUNDLE FOLDER and open the copy"
            ) from error


def settings_of(threads: int | None) -> dict[str, str]:
    """OpenVINO's settings for the CPU, except for the precision. It counts cores itself where nothing limits them."""
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is None:
        here = processors()
        threads = here.count if here.limited else None
    return settings if threads is None else {**settings, "INFERENCE_NUM_THREADS": str(threads)}


def multiplies_bfloat16() -> bool:
    """Whether OpenVINO is installed and this processor has instructions for bfloat16. Raises nothing."""
    try:
        return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except ImportError:
        return False


@functools.cache
def _core() -> Any:
    """OpenVINO's core, once per process.

    Each core gives the thread a stack for signals; when several end in another order than they began, one leaves a
    stack that is gone, and the next Ctrl-C would crash.
    """
    return _package().Core()


def _package() -> Any:
    """OpenVINO's package, imported without `openvino_telemetry`, in whose place it then uses a stub of its own.

    With it the import alone writes an identifier into the home folder and tells Google Analytics of itself.
    """
    with _IMPORTING:
        if "openvino" not in sys.modules:
            hidden = sys.modules.get(_TELEMETRY)
            sys.modules[_TELEMETRY] = cast(ModuleType, None)  # an import of it is then an ImportError
            try:
                importlib.import_module("openvino")
            finally:
                del sys.modules[_TELEMETRY]
                if hidden is not None:
                    sys.modules[_TELEMETRY] = hidden
        return importlib.import_module("openvino")


def _numbered(array: NDArray[Any]) -> NDArray[Any]:
    """`array` with the dtype that has its name: of C's two 64-bit integers OpenVINO knows that one alone."""
    return array.view(np.dtype(array.dtype.name))


def _has_rank(port: Any) -> bool:
    return bool(port.partial_shape.rank.is_static)


def _tensor(port: Any) -> Tensor:
    kind = str(port.element_type.get_type_name())
    shape = None
    if _has_rank(port):
        shape = tuple(axis.get_length() if axis.is_static else None for axis in port.partial_shape)
    name = str(port.get_node().get_friendly_name()).removesuffix("/sink_port_0")  # of all names the file's own
    return Tensor(name, DTYPES.get(kind, kind), shape)
