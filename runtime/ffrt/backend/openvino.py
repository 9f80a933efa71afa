"""An ONNX file run by OpenVINO's own package, with what :mod:`ffrt.backend.session` uses of a session of ONNX Runtime.

ONNX Runtime's plug-in for OpenVINO sees Intel's processors alone (microsoft/onnxruntime pull request 31981) and a run
of it cannot be ended; this one runs on any processor, in bfloat16 where that multiplies in it, and stops within a
layer. The only module that imports openvino.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {"f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "boolean": "bool"}
"""Numpy's names of OpenVINO's types."""
PICTURES_RANK = 4
"""A graph that takes an array of this rank sees pictures or latents. It is compiled for the shapes that it meets, which
makes it up to a quarter faster, and may compute in bfloat16. Others, for text and noise levels, stay open and in
float32: they run once a request, and the tables of a noise level made in bfloat16 would cost 9 dB of the video."""


@dataclass(frozen=True)
class Node:
    """An input or output, as ONNX Runtime describes one; None is a size that is not fixed."""

    name: str
    type: str
    shape: list[int | None] | None


class OpenVinoGraph:
    """One file, whose weights lie in its folder, compiled for the CPU with `settings`; of the shapes that it met, the
    last `kept` stay compiled. With `bfloat16` it multiplies in that where it sees pictures, if the processor can. Runs
    of several threads wait for each other.

    Raises RuntimeError, as OpenVINO has no other error: for a file that is no graph, a failed run, a cancelled one.
    """

    def __init__(self, path: Path, settings: Mapping[str, str], *, bfloat16: bool, kept: int) -> None:
        import openvino
        from openvino.frontend import FrontEndManager

        self._kept = kept
        reader = FrontEndManager().load_by_framework("onnx")  # read_model would try TensorFlow's and others too
        self._model = openvino.Model(reader.convert(reader.load(str(path))))
        self._fixed = any(len(port.partial_shape) == PICTURES_RANK for port in self._model.inputs if _ranked(port))
        precision = "bf16" if bfloat16 and self._fixed else "f32"
        self._settings = {"INFERENCE_PRECISION_HINT": precision, **settings}
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        self._one_at_a_time = threading.Lock()
        self._running: Any = None

    def get_inputs(self) -> list[Node]:
        """As the file declares them."""
        return [_node(port) for port in self._model.inputs]

    def get_outputs(self) -> list[Node]:
        """As the file declares them."""
        return [_node(port) for port in self._model.outputs]

    def get_providers(self) -> list[str]:
        """What ONNX Runtime calls this provider."""
        return ["OpenVINOExecutionProvider"]

    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]], options: object) -> list[NDArray[Any]]:
        """The named outputs, copied; `options` are ONNX Runtime's, of which none is for this."""
        given = {name: _named(np.ascontiguousarray(value)) for name, value in feed.items()}
        with self._one_at_a_time:
            request = self._request({name: value.shape for name, value in given.items()})
            self._running = request
            try:
                request.start_async(given, share_inputs=True)
                request.wait()
            finally:
                self._running = None
            return [np.array(request.get_tensor(name).data) for name in names]

    def cancel(self) -> None:
        """End the run under way, if there is one, but not a compilation; may be called from any thread."""
        running = self._running
        if running is not None:
            running.cancel()

    def _request(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        key = tuple(shapes[name] for name in sorted(shapes)) if self._fixed else ()
        if key not in self._requests:
            while len(self._requests) >= self._kept:
                self._requests.popitem(last=False)
            model = self._model
            if self._fixed:
                model = model.clone()
                model.reshape({name: list(shape) for name, shape in shapes.items()})
            self._requests[key] = _core().compile_model(model, "CPU", self._settings).create_infer_request()
        self._requests.move_to_end(key)
        return self._requests[key]


def multiplies_bfloat16() -> bool:
    """Whether OpenVINO is here and this processor can multiply in bfloat16. Raises nothing."""
    try:
        return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except ImportError:
        return False


@functools.cache
def _core() -> Any:
    """OpenVINO, once a process: each one gives the thread a stack for signals, and of several that end in another order
    than they began one leaves a stack that is gone, on which the next Ctrl-C would be a crash.
    """
    import openvino

    return openvino.Core()


def _named(array: NDArray[Any]) -> NDArray[Any]:
    """`array` with the dtype that has its name: of C's two 64-bit integers OpenVINO knows that one alone."""
    return array.view(np.dtype(array.dtype.name))


def _ranked(port: Any) -> bool:
    return bool(port.partial_shape.rank.is_static)


def _node(port: Any) -> Node:
    kind = str(port.element_type.get_type_name())
    sizes = [axis.get_length() if axis.is_static else None for axis in port.partial_shape] if _ranked(port) else None
    name = str(port.get_node().get_friendly_name()).removesuffix("/sink_port_0")  # of all names the file's own
    return Node(name, DTYPES.get(kind, kind), sizes)
