"""An ONNX file opened by ONNX Runtime. The only module that imports onnxruntime."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DTYPES, DeviceArray, Feed, OrtValue, Tensor, on_host
from ffrt.backend.cancel import Cancellation, token
from ffrt.backend.inherited import OPENING, keep_for_ever
from ffrt.backend.processors import processors
from ffrt.backend.runner import Provider, SessionOptions
from ffrt.backend.wheels import advice
from ffrt.errors import PackageError, ProviderError

try:
    import onnxruntime as ort  # type: ignore[import-untyped]
    from onnxruntime.capi._pybind_state import OrtValueVector  # type: ignore[import-untyped]
except ImportError as error:
    raise PackageError(
        'ffrt needs ONNX Runtime: type pip install "ffrt[cpu]" for the processor or pip install "ffrt[cuda]" for an '
        f"NVIDIA GPU ({error})"
    ) from error

FOLDED_BYTES = 1 << 20
"""The largest constant that a session on a GPU folds when it is opened, where weights stay as they are stored."""

PLUGIN_PREFIX = "onnxruntime_ep_"
"""What the modules of plug-in packages begin with; each has `get_library_path()`."""

logger = logging.getLogger("ffrt")


class _Node(Protocol):
    name: str
    type: str
    shape: list[int | str | None] | None


class _Binding(Protocol):
    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None: ...
    def bind_cpu_input(self, name: str, arr_on_cpu: NDArray[Any]) -> None: ...
    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None: ...
    def bind_output(self, name: str, device_type: str, device_id: int) -> None: ...
    def get_outputs(self) -> Sequence[OrtValue]: ...


class _InferenceSession(Protocol):
    def get_inputs(self) -> list[_Node]: ...
    def get_outputs(self) -> list[_Node]: ...
    def get_providers(self) -> list[str]: ...
    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]], options: object) -> list[NDArray[Any]]: ...
    def io_binding(self) -> _Binding: ...
    def run_with_iobinding(self, binding: _Binding, options: object) -> None: ...


class OnnxRuntimeSession:
    """One file opened by ONNX Runtime for one provider. Not re-entrant while launches are recorded."""

    engine = "ONNX Runtime"

    def __init__(self, session: _InferenceSession, name: str, provider: Provider, options: SessionOptions) -> None:
        self._session = session
        self._name = name
        self._process = os.getpid()
        self._provider = provider
        self._records = options.cuda_graph
        self._shrink_arena = provider.shrinks_arena and len(options.sizes) > 0
        self.inputs = [_tensor(node) for node in session.get_inputs()]
        self.outputs = [_tensor(node) for node in session.get_outputs()]

    def __del__(self) -> None:
        if self._process != os.getpid():
            keep_for_ever(self._session)

    @property
    def provider(self) -> str:
        """The provider that the session really got."""
        first = self._session.get_providers()[0]
        return self._provider.name if first == self._provider.ort_name else first

    @property
    def device(self) -> str:
        """Where device arrays lie: "cuda" or "cpu"."""
        return self._provider.device

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the device; on the CPU it is the same memory, which must not change meanwhile."""
        return device_array(array, self.device)

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """All outputs on the host. Raises Cancelled, and ONNX Runtime's own errors."""
        names = [tensor.name for tensor in self.outputs]
        if any(isinstance(value, DeviceArray) for value in feed.values()):
            return {name: value.numpy() for name, value in self.run_on_device(feed, names, cancellation).items()}
        hosted = {name: on_host(value) for name, value in feed.items()}
        with self._cancellable(token(cancellation), in_place=False) as options:
            return dict(zip(names, self._session.run(names, hosted, options), strict=True))

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> dict[str, DeviceArray]:
        """The named outputs on the device, in the arrays of a mapping. Raises Cancelled and ONNX Runtime's errors."""
        targets = outputs if isinstance(outputs, Mapping) else {}
        binding = self._session.io_binding()
        for name, value in feed.items():
            if isinstance(value, DeviceArray):
                binding.bind_ortvalue_input(name, value.ort_value)
            else:
                binding.bind_cpu_input(name, np.asarray(value, order="C"))
        for name in outputs:
            if name in targets:
                binding.bind_ortvalue_output(name, targets[name].ort_value)
            else:
                binding.bind_output(name, self.device, 0)
        with self._cancellable(token(cancellation), in_place=len(targets) > 0) as options:
            self._session.run_with_iobinding(binding, options)
        values = _detach(binding.get_outputs())
        return {name: DeviceArray(value) for name, value in zip(outputs, values, strict=True)}

    @contextlib.contextmanager
    def _cancellable(self, cancellation: Cancellation, *, in_place: bool) -> Iterator[object]:
        options = ort.RunOptions()
        if self._shrink_arena:  # from the next run on it is one block, planned by this run
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
        if self._records and not in_place:
            options.add_run_config_entry("gpu_graph_id", "-1")  # a recording holds the addresses of its arrays
        with cancellation.aborts(functools.partial(setattr, options, "terminate", True), f"graph {self._name}"):
            yield options
        self._shrink_arena = False


def device_array(array: NDArray[Any], device: str) -> DeviceArray:
    """`array` uploaded to `device`; on the CPU it is the same memory."""
    source = np.asarray(array, order="C")
    value = ort.OrtValue.ortvalue_from_numpy(source, device, 0)
    return DeviceArray(value, source if device == "cpu" else None)


def runtime_version() -> str:
    """Version of ONNX Runtime."""
    return str(ort.__version__)


def has_plugin(provider: Provider) -> bool:
    """Whether the package that brings this provider is installed."""
    return provider.plugin is not None and importlib.util.find_spec(provider.plugin) is not None


def is_built_in(provider: Provider) -> bool:
    """Whether this build of ONNX Runtime has the provider, or the program has registered a library that has it."""
    return provider.ort_name in {*ort.get_available_providers(), *(device.ep_name for device in _ep_devices())}


def plugin_of(ort_name: str) -> str | None:
    """The installed plug-in package that has an execution provider, by the names that its module gives; else None."""
    for found in pkgutil.iter_modules():
        if found.name.startswith(PLUGIN_PREFIX):
            module = importlib.import_module(found.name)
            names = module.get_ep_names() if hasattr(module, "get_ep_names") else [module.get_ep_name()]
            if ort_name in names:
                return found.name
    return None


def open_session(
    path: Path, name: str, provider: Provider, options: SessionOptions, cancellation: Cancellation
) -> OnnxRuntimeSession:
    """Open a file; `name` is what errors call the graph.

    Raises ProviderError if the session did not get the provider, Cancelled, and ONNX Runtime's own errors.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # other sessions need the cores then
    unused = _trade_memory(settings, provider, options)
    here = processors().count
    settings.intra_op_num_threads = here if options.threads is None else options.threads
    if settings.intra_op_num_threads > here:  # a thread that spins keeps one that works from its processor
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for axis, size in options.sizes.items():
        settings.add_free_dimension_override_by_name(axis, size)
    if provider.on_gpu:
        _preload_cuda()
    own = {**provider.options(options), **options.provider_options}
    providers: list[tuple[str, dict[str, str]]] = []
    if has_plugin(provider) or provider.ort_name not in ort.get_available_providers():
        settings.add_provider_for_devices([_plugged_device(provider)], own)
    else:
        chain = [(provider, own), *((row, dict(row.options(options))) for row in provider.falls_back_to)]
        providers = [(row.ort_name, mapping) for row, mapping in chain if is_built_in(row)]
        if provider.on_gpu and options.memory == "fast" and not options.cuda_graph and shared_arena():
            settings.add_session_config_entry("session.use_env_allocators", "1")
    abort = functools.partial(settings.set_load_cancellation_flag, True)
    with OPENING.closed(), cancellation.aborts(abort, f"opening graph {name}"):
        session = ort.InferenceSession(
            str(path), settings, providers=providers, disabled_optimizers=unused, enable_fallback=False
        )
    if provider.ort_name not in session.get_providers():
        raise ProviderError(
            f"provider {provider.name!r} did not start for graph {name}: the session got {session.get_providers()}; "
            f"{advice(provider)}"
        )
    taken = session.get_provider_options().get(provider.ort_name, {})
    unknown = [key for key in options.provider_options if key not in taken]
    if unknown:
        raise ProviderError(
            f"provider {provider.name!r}: provider_options: expected some of {sorted(taken)}, got {unknown}"
        )
    return OnnxRuntimeSession(session, name, provider, options)


def _trade_memory(settings: Any, provider: Provider, options: SessionOptions) -> list[str]:
    """Set what keeps weights as they are stored, where that is wanted; returns the optimisers to leave out."""
    unused = []
    if not provider.on_gpu:  # the block that a second run would plan comes on top of what the first one took
        settings.enable_mem_pattern = False
    if options.memory == "low" or (provider.on_gpu and options.channels_last):
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if provider.on_gpu:  # sizes are folded beforehand, or the host would wait for the device
            limit = "optimization.constant_folding_max_output_size_in_bytes"
            settings.add_session_config_entry(limit, str(FOLDED_BYTES))
        else:
            unused = ["ConstantFolding"]
    if options.memory == "low":
        settings.add_session_config_entry("session.disable_prepacking", "1")
        if provider.on_gpu:
            settings.enable_cpu_mem_arena = False
            settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return unused


def _detach(values: Sequence[Any]) -> list[OrtValue]:
    """Detach values from their IOBinding, which would otherwise keep the session and its weights alive."""
    detached = OrtValueVector()
    for value in values:
        detached.push_back(value._ortvalue)
    return [ort.OrtValue(value) for value in detached]


def _tensor(node: _Node) -> Tensor:
    shape = None if node.shape is None else tuple(node.shape)
    return Tensor(node.name, DTYPES.get(node.type, str(node.type)), shape)


def _ep_devices() -> list[Any]:
    return list(ort.get_ep_devices()) if hasattr(ort, "get_ep_devices") else []


def _plugged_device(provider: Provider) -> Any:
    """The first device of a provider that a package or the program plugs in: the CPU where OpenVINO offers several."""
    if provider.plugin is not None and not any(device.ep_name == provider.ort_name for device in _ep_devices()):
        library = importlib.import_module(provider.plugin).get_library_path()
        ort.register_execution_provider_library(provider.ort_name, library)
    for device in _ep_devices():
        if device.ep_name == provider.ort_name:
            return device
    raise ProviderError(f"provider {provider.name!r} finds no device here that it can run on; {advice(provider)}")


@functools.cache
def _preload_cuda() -> None:
    """Load CUDA's libraries from their wheels; what ONNX Runtime prints of missing ones is logged."""
    if hasattr(ort, "preload_dlls"):
        ort.print = lambda *words: logger.info("%s", " ".join(map(str, words)))  # in that module alone
        try:
            ort.preload_dlls()
        finally:
            del ort.print


@functools.cache
def shared_arena() -> bool:
    """One arena on the GPU for all sessions of the process; False where ONNX Runtime cannot: each then has its own.

    Two kinds have their own anyway: with memory "low" it goes with its stage, and a recording writes where its values
    lay, which others must not have been given.
    """
    where = ort.OrtMemoryInfo("Cuda", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    as_requested = ort.OrtArenaCfg({"arena_extend_strategy": 1})
    try:
        ort.create_and_register_allocator_v2("CUDAExecutionProvider", where, {}, as_requested)
    except Exception:  # its own Fail, which is no class of Python's
        return False
    return True
