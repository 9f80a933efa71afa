"""One ONNX file as a function of named arrays, on the host or on the device. The only module that imports onnxruntime.

ONNX Runtime falls back to the CPU without an error; here a provider is what was asked for.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DTYPES, DeviceArray, Feed, Tensor, on_host
from ffrt.backend.cancel import Cancellation, token
from ffrt.backend.openvino import OpenVinoGraph
from ffrt.backend.providers import (
    ENGINES,
    INSTALL,
    ON_GPU,
    PLUGINS,
    PROVIDER_NAMES,
    PROVIDERS,
    Wanted,
    automatic,
    chain,
    files_below,
    made,
    made_for,
    openvino_settings,
    options_of,
    packaged,
    plugged_in,
    runners,
)
from ffrt.errors import BundleError, Cancelled, EngineRebuilt, GraphInputError, OutOfMemoryError, ProviderError

try:
    import onnxruntime as ort  # type: ignore[import-untyped]
    from onnxruntime.capi._pybind_state import OrtValueVector  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError(
        'ffrt needs ONNX Runtime: type pip install "ffrt[cpu]" for the processor or pip install "ffrt[cuda]" for an '
        f"NVIDIA GPU ({error})"
    ) from error

FOLDED_BYTES = 1 << 20
"""The largest constant that a session on a GPU works out when it is opened, where weights are to stay as stored."""

OPENVINO_SHAPES = 2
"""Shapes for which OpenVINO keeps a network: at 30 fps it interpolates all groups of 8 fps, and then windows."""

Memory = Literal["fast", "low"]
MEMORY: tuple[Memory, ...] = get_args(Memory)
"""What is traded: "fast" keeps float32 copies of the weights, laid out for their kernels, and all sessions of a
pipeline; "low" leaves weights in the bundle's file, which the system maps, converts each where it is used, so that a
network larger than memory runs, and has one stage's session at a time, opened again for the next request. On a GPU
"low" has each stage's memory given back when it ends, and what runs before the steps leaves before they begin. OpenVINO
lays weights out for its kernels either way, half as large in bfloat16."""


def available_providers() -> list[str]:
    """The providers that this build of ONNX Runtime has or that are plugged in, in the words that `provider=` takes."""
    built = ort.get_available_providers()
    return [
        word
        for word, name in PROVIDER_NAMES.items()
        if packaged(word) or plugged_in(word) or (name in built and word != "openvino")
    ]


def runtime_version() -> str:
    """Version of ONNX Runtime."""
    return str(ort.__version__)


def check_provider(provider: str, optimised_for: str | None = None) -> str:
    """The provider to use, "auto" being the best that is there and can run graphs optimised for `optimised_for`.

    Raises ProviderError if `provider` is unknown, not in this build of ONNX Runtime, or cannot run such graphs.
    """
    if provider not in PROVIDERS:
        raise ProviderError(f"provider: expected one of {list(PROVIDERS)}, got {provider!r}")
    there, can = available_providers(), runners(optimised_for)
    if provider != "auto" and provider not in there:
        raise ProviderError(
            f"provider {provider!r} is not in this build of ONNX Runtime {ort.__version__}, which has "
            f"{there}; {INSTALL[provider]}"
        )
    best = [word for word in automatic(optimised_for) if word in there]
    chosen = [word for word in (best if provider == "auto" else [provider]) if word in can]
    if not chosen:
        word = best[0] if provider == "auto" else provider
        raise ProviderError(
            f"provider {provider!r}: this bundle was optimised for {optimised_for!r} and runs on {list(can)} alone; "
            f"python -m graphs optimise BUNDLE --provider {made_for(word)} --out FOLDER makes one for {word!r}"
        )
    return chosen[0]


class Session:
    """An ONNX file opened for one provider.

    `provider` is a word of PROVIDERS, "auto" for CUDA if it can be had, else CPU; `threads` the number of CPU threads
    inside an operator, None for ONNX Runtime's own choice. `optimised_for` is the provider that the graph was rewritten
    for, `dtype` what they are to be computed in where that can be chosen (by OpenVINO: "bfloat16"); `engines` is a
    folder for what TensorRT builds (a damaged one is removed and built again, once, with a warning); `cuda_graph` is
    for fixed shapes and `run_on_device` with output arrays. `cancellation` ends the opening.
    Raises ProviderError, OutOfMemoryError where it does not fit, or BundleError for a file that is no graph; `name` is
    what errors call it.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: Memory = "fast",
        optimised_for: str | None = None,
        dtype: str = "float32",
        engines: Path | None = None,
        cuda_graph: bool = False,
        cancellation: Cancellation | None = None,
    ) -> None:
        self.name = name
        self._word = check_provider(provider, optimised_for)
        cancellation = token(cancellation)
        self._open = functools.partial(_open, path, name, memory=memory)
        self._engines = made(engines) if self._word in ENGINES else None
        self._wanted = Wanted(threads, self._engines, optimised_for == "cuda", cuda_graph, bfloat16=dtype == "bfloat16")
        self._doubtful = self._engines is not None and len(files_below(self._engines)) > 0
        self._scatters = False
        try:
            self._session = self._open(self._word, self._wanted, cancellation=cancellation)
        except ProviderError as error:
            if self._doubtful:
                self._rebuild(error, cancellation)
            elif provider == "auto" and "cpu" in runners(optimised_for):
                self._session = self._open("cpu", self._wanted, cancellation=cancellation)
            else:
                raise
        self.inputs = [_tensor(node) for node in self._session.get_inputs()]
        self.outputs = [_tensor(node) for node in self._session.get_outputs()]

    @property
    def provider(self) -> str:
        """The provider that the session really got, in the words that `provider=` takes."""
        first = self._session.get_providers()[0]
        return next((word for word, name in PROVIDER_NAMES.items() if name == first), str(first))

    @property
    def device(self) -> str:
        """Where device arrays lie: "cuda" or "cpu"."""
        return "cuda" if self.provider in ON_GPU else "cpu"

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the session's device; on the CPU it is the same memory, to be left alone meanwhile."""
        return DeviceArray(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, 0))

    def _fit(self, feed: Feed, cancellation: Cancellation) -> None:
        """On a GPU, open the file once more for the sizes of `feed` if they are new: then no size is worked out on the
        host, which would wait for the device hundreds of times a run.
        """
        if self._word not in ON_GPU or self.device == "cpu":
            return
        shapes = [(tensor.shape, feed[tensor.name].shape) for tensor in self.inputs if tensor.shape]
        named = (pair for axes, sizes in shapes for pair in zip(axes, sizes, strict=False))
        sizes = {axis: size for axis, size in named if isinstance(axis, str)}
        if sizes != self._wanted.sizes:
            del self._session  # its memory goes first
            self._wanted = replace(self._wanted, sizes=sizes)
            self._session = self._open(self._word, self._wanted, cancellation=cancellation)
            self._scatters = self._word == "cuda"

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """All outputs on the host. Raises GraphInputError, OutOfMemoryError, and Cancelled if it was cancelled."""
        cancellation = token(cancellation)
        names = [tensor.name for tensor in self.outputs]
        on_device = any(isinstance(value, DeviceArray) for value in feed.values())
        if on_device and not isinstance(self._session, OpenVinoGraph):
            return {name: value.numpy() for name, value in self.run_on_device(feed, names, cancellation).items()}
        self._fit(feed, cancellation)
        hosted = {name: on_host(value) for name, value in feed.items()}
        values = self._ended(feed, False, cancellation, lambda options: self._session.run(names, hosted, options))
        return dict(zip(names, values, strict=True))

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> dict[str, DeviceArray]:
        """The named outputs, left on the device; a mapping says into which arrays they are written. Raises as `run`."""
        cancellation = token(cancellation)
        if isinstance(self._session, OpenVinoGraph):  # its memory is the host's
            made = self.run(feed, cancellation)
            return {name: self.device_array(made[name]) for name in outputs}
        self._fit(feed, cancellation)
        given = outputs if isinstance(outputs, Mapping) else {}

        def bound(options: Any) -> list[Any]:
            binding = self._session.io_binding()
            for name, value in feed.items():
                if isinstance(value, DeviceArray):
                    binding.bind_ortvalue_input(name, value._value)
                else:
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
            for name in outputs:
                if name in given:
                    binding.bind_ortvalue_output(name, given[name]._value)
                else:
                    binding.bind_output(name, self.device, 0)
            self._session.run_with_iobinding(binding, options)
            return _apart(binding.get_outputs())

        values = self._ended(feed, len(given) > 0, cancellation, bound)
        return {name: DeviceArray(value) for name, value in zip(outputs, values, strict=True)}

    def _ended(self, feed: Feed, in_place: bool, cancellation: Cancellation, call: Any) -> Any:
        """`call(options)`, cancellable; a first run that fails on engines from the cache is tried without them."""
        options = ort.RunOptions()
        if self._scatters:  # given back: from the next run on it is one block, planned by this one
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
        if self._wanted.cuda_graph and not in_place:
            options.add_run_config_entry("gpu_graph_id", "-1")  # a recording holds the addresses of its arrays
        try:
            session = self._session
            by_option = functools.partial(setattr, options, "terminate", True)
            end = session.cancel if isinstance(session, OpenVinoGraph) else by_option
            with cancellation.aborts(end, f"graph {self.name}"):
                values = call(options)
        except Cancelled:
            raise
        except Exception as error:
            if self._doubtful:
                self._rebuild(error, cancellation)
                return self._ended(feed, in_place, cancellation, call)
            shapes = {key: list(value.shape) for key, value in feed.items()}
            if _no_memory(error):
                raise OutOfMemoryError(
                    f"graph {self.name} ran out of memory on inputs {shapes}: {error}; a smaller height and width "
                    'needs less, and so does memory="low"'
                ) from error
            who = "OpenVINO" if isinstance(session, OpenVinoGraph) else "ONNX Runtime"
            raise GraphInputError(f"graph {self.name}: {who} failed on inputs {shapes}: {error}") from error
        self._doubtful = self._scatters = False
        return values

    def _rebuild(self, error: Exception, cancellation: Cancellation) -> None:
        assert self._engines is not None
        warnings.warn(
            f"{self._engines} was removed, since graph {self.name} fails with the engine there ({error}); it is built "
            "again",
            EngineRebuilt,
            stacklevel=3,
        )
        self._doubtful = False
        shutil.rmtree(self._engines)
        made(self._engines)
        self._session = self._open(self._word, self._wanted, cancellation=cancellation)


def _no_memory(error: Exception) -> bool:
    told = ("Failed to allocate memory", "bad allocation", "out of memory", "bad_alloc")
    return any(words in str(error) for words in told)


def _apart(values: Sequence[Any]) -> list[Any]:
    """The same OrtValues by themselves: those that a binding gives keep it, and with it a session and its weights."""
    apart = OrtValueVector()
    for value in values:
        apart.push_back(value._ortvalue)
    return [ort.OrtValue(value) for value in apart]


def _tensor(node: Any) -> Tensor:
    shape = None if node.shape is None else tuple(node.shape)
    return Tensor(node.name, DTYPES.get(node.type, str(node.type)), shape)


def _open(path: Path, name: str, word: str, wanted: Wanted, *, memory: Memory, cancellation: Cancellation) -> Any:
    """A session, or what stands for one. Raises as :class:`Session` does."""
    try:
        if packaged(word):
            session = _openvino(path, name, wanted, memory=memory, cancellation=cancellation)
        else:
            session = _onnxruntime(path, name, word, wanted, memory=memory, cancellation=cancellation)
    except Cancelled:
        raise
    except Exception as error:
        if _no_memory(error):
            raise OutOfMemoryError(
                f"graph {name} ran out of memory when it was opened: {error}; "
                + ("it needs more than there is" if memory == "low" else 'memory="low" holds one stage at a time')
            ) from error
        if word != "cpu":
            raise ProviderError(f"provider {word!r} could not open graph {name}: {error}; {INSTALL[word]}") from error
        raise BundleError(f"graph {name}: cannot load {path}: {error}; export the bundle again") from error
    if PROVIDER_NAMES[word] not in session.get_providers():
        raise ProviderError(
            f"provider {word!r} did not start for graph {name}: the session got {session.get_providers()}; "
            f"{INSTALL[word]}"
        )
    return session


def _openvino(path: Path, name: str, wanted: Wanted, *, memory: Memory, cancellation: Cancellation) -> OpenVinoGraph:
    kept = 1 if memory == "low" else OPENVINO_SHAPES
    with cancellation.aborts(lambda: None, f"opening graph {name}"):
        return OpenVinoGraph(path, openvino_settings(wanted.threads), bfloat16=wanted.bfloat16, kept=kept)


def _onnxruntime(
    path: Path, name: str, word: str, wanted: Wanted, *, memory: Memory, cancellation: Cancellation
) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # other sessions need the cores then
    unused = []
    on_gpu = word in ON_GPU
    if memory == "low" or (on_gpu and wanted.nhwc):  # weights stay as they are stored
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if on_gpu:  # sizes are worked out beforehand, or the host would wait for the device
            most = "optimization.constant_folding_max_output_size_in_bytes"
            options.add_session_config_entry(most, str(FOLDED_BYTES))
        else:
            unused = ["ConstantFolding"]
    if memory == "low":
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
        if on_gpu:
            options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if wanted.threads is not None:
        options.intra_op_num_threads = wanted.threads
    for axis, size in wanted.sizes.items():
        options.add_free_dimension_override_by_name(axis, size)
    if on_gpu and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    built = ort.get_available_providers()
    names = [(one, PROVIDER_NAMES[one]) for one in chain(word) if PROVIDER_NAMES[one] in built]
    providers = [] if plugged_in(word) else [(name, options_of(one, wanted)) for one, name in names]
    if plugged_in(word):
        options.add_provider_for_devices(_devices(word), dict(options_of(word, wanted)))
    elif on_gpu and memory == "fast" and not wanted.cuda_graph and _shared_arena():
        options.add_session_config_entry("session.use_env_allocators", "1")
    with (
        cancellation.aborts(lambda: options.set_load_cancellation_flag(True), f"opening graph {name}"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        return ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=unused)


def _devices(word: str) -> list[Any]:
    """The devices of a provider that a package plugs in; the CPU where OpenVINO offers several."""
    name = PROVIDER_NAMES[word]
    if not any(device.ep_name == name for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(name, importlib.import_module(PLUGINS[word]).get_library_path())
    found = [device for device in ort.get_ep_devices() if device.ep_name == name]
    if not found:
        raise ProviderError(f"provider {word!r} finds no device here that it can run on")
    return found[:1]


@functools.cache
def _shared_arena() -> bool:
    """One arena on the GPU for all sessions of the process; False where ONNX Runtime cannot: each then has its own.

    Two kinds have their own anyway: with memory "low" it goes with its stage, and a recording writes where its values
    lay, which others must not have been given.
    """
    where = ort.OrtMemoryInfo("Cuda", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    as_requested = ort.OrtArenaCfg({"arena_extend_strategy": 1})
    try:
        ort.create_and_register_allocator_v2(PROVIDER_NAMES["cuda"], where, {}, as_requested)
    except Exception:  # its own Fail, which is no class of Python's
        return False
    return True
