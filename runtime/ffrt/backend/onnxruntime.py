"""How ONNX Runtime opens an ONNX file for a provider, and what is installed of it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import pkgutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffrt.backend.cancel import Cancellation
from ffrt.backend.inherited import OPENING
from ffrt.backend.kept_graph import KeptGraph
from ffrt.backend.onnxruntime_session import OnnxRuntimeSession, ort
from ffrt.backend.processors import features, processors
from ffrt.backend.runner import Provider, SessionOptions
from ffrt.backend.wheels import advice
from ffrt.errors import FfrtError, ProviderError

FOLDED_BYTES = 1 << 20
"""The largest constant that a session on a GPU folds when it is opened, where weights stay as they are stored."""

PLUGIN_PREFIX = "onnxruntime_ep_"
"""What the modules of plug-in packages begin with; each has `get_library_path()`."""

logger = logging.getLogger("ffrt")


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

    With `options.kept_graph` it is opened in the form that ONNX Runtime makes of it, once for all processes; where that
    cannot be kept, once for this one. In that form the sizes of all values are known, so that memory is used again:
    a decoder takes a half to a third. Raises ProviderError if the session did not get the provider, Cancelled, and
    ONNX Runtime's own errors.
    """
    opened = functools.partial(_opened, name=name, provider=provider, options=options, cancellation=cancellation)
    if options.kept_graph is not None:
        kept = options.kept_graph.also(ort.__version__, ort.get_build_info(), features())
        session = _through(kept, path, opened)
        if session is None:
            with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix="ffrt-") as folder:
                session = _through(kept.at(Path(folder)), path, opened)
        if session is not None:
            return session
    return opened(path)


def _through(kept: KeptGraph, path: Path, opened: Callable[..., OnnxRuntimeSession]) -> OnnxRuntimeSession | None:
    """A session of the entry, which is made of the file if there is none; None if that fails. Raises FfrtError."""
    for may_make in (True, False):
        with kept.checked() as optimised:
            if optimised is not None:
                try:
                    return opened(optimised, is_optimised=True)
                except FfrtError:
                    raise
                except Exception as error:
                    kept.remove(str(error))
        if may_make:
            kept.make(lambda place: opened(path, place=place))
    return None


def _opened(
    path: Path,
    *,
    name: str,
    provider: Provider,
    options: SessionOptions,
    cancellation: Cancellation,
    place: Path | None = None,
    is_optimised: bool = False,
) -> OnnxRuntimeSession:
    """Open a file, which is optimised already or on the way; with a `place` the optimised graph is written there."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # other sessions need the cores then
    unused = _trade_memory(settings, provider, options)
    if is_optimised:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if place is not None:
        settings.optimized_model_filepath = str(place)
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
