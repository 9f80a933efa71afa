"""One ONNX file as a function of named arrays, on the host or on the device, on the provider that was asked for.

ONNX Runtime falls back to the CPU without an error; here a provider is what was asked for.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from ffrt._version import __version__
from ffrt.backend.arrays import DeviceArray, Feed, Tensor
from ffrt.backend.cancel import Cancellation, Turn, token
from ffrt.backend.engines import ensure_dir, files_below, graphs_folder
from ffrt.backend.inherited import keep_for_ever
from ffrt.backend.kept_graph import MAX_STORED_BYTES, KeptGraph
from ffrt.backend.onnxruntime_session import device_array
from ffrt.backend.providers import AUTO, CPU, check_options, choose_provider, compatible_with
from ffrt.backend.runner import EngineSession, Memory, Provider, SessionOptions
from ffrt.backend.wheels import advice
from ffrt.bundle import GraphFile
from ffrt.errors import BundleError, Cancelled, FfrtError, GraphInputError, OutOfMemoryError, ProviderError
from ffrt.files import LIMITS, shown

Returned = TypeVar("Returned")
_TOO_MANY_FILES = re.compile(rf"[Tt]oo many open files|system error number {errno.EMFILE}\b")
"""How engines say that the process may open no more files."""
logger = logging.getLogger("ffrt")


class Session:
    """An ONNX file opened for one provider. Any thread may call it: calls take turns, so that one run's memory is used.

    `source` is a graph file of a bundle, which must not change, or the path of a file that is trusted. `provider` is a
    name of `ffrt.backend.providers.PROVIDERS`, "auto", or ONNX Runtime's name of an execution provider,
    which `provider_options` go to. `name` is what errors call the graph and `optimised_for` the provider that it was
    rewritten for. `engines` is a folder for what TensorRT builds: a damaged engine is removed and built again, once,
    with a warning in the log. The rest is as in `ffrt.backend.runner.SessionOptions`; `cancellation` ends the opening.

    Raises ProviderError, OutOfMemoryError where it does not fit, Cancelled, or BundleError for a file that is no graph.
    """

    def __init__(
        self,
        source: Path | GraphFile,
        name: str,
        *,
        provider: str = AUTO,
        provider_options: Mapping[str, object] | None = None,
        threads: int | None = None,
        memory: Memory = "fast",
        optimised_for: str | None = None,
        dtype: str = "float32",
        engines: Path | None = None,
        cuda_graph: bool = False,
        cancellation: Cancellation | None = None,
    ) -> None:
        self.name = name
        self._source = source
        self._process = os.getpid()
        self._turn = Turn()
        self._provider = choose_provider(provider, optimised_for)
        self._options = SessionOptions(
            threads=threads,
            memory=memory,
            dtype=dtype,
            channels_last=optimised_for == "cuda",
            engines=ensure_dir(engines) if self._provider.keeps_engines else None,
            kept_graph=_kept_graph(source) if self._provider.keeps_graphs and memory == "fast" else None,
            cuda_graph=cuda_graph,
            provider_options=check_options(provider, provider_options),
        )
        self._engines_unverified = self._options.engines is not None and len(files_below(self._options.engines)) > 0
        cancellation = token(cancellation)
        try:
            runner = self._open(cancellation)
        except ProviderError as error:
            if self._engines_unverified:
                runner = self._rebuild(error, cancellation)
            elif provider == AUTO and self._provider != CPU and CPU in compatible_with(optimised_for):
                logger.warning("graph %s runs on the CPU: %s", name, error)
                self._provider = CPU
                runner = self._open(cancellation)
            else:
                raise
        self.inputs: Sequence[Tensor] = runner.inputs
        self.outputs: Sequence[Tensor] = runner.outputs
        self.provider = runner.provider
        self.device = runner.device
        self._runner: EngineSession | None = runner

    @property
    def runner(self) -> EngineSession | None:
        """The engine's session; None where reopening it for new sizes failed, which the next call tries again."""
        return self._runner

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the device; on the CPU it is the same memory, which must not change meanwhile."""
        return device_array(array, self.device)

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """Return all outputs on the host. Raises GraphInputError, OutOfMemoryError, Cancelled, ProviderError."""
        return self._call(feed, token(cancellation), lambda runner, given: runner.run(feed, given))

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> dict[str, DeviceArray]:
        """Return the named outputs on the device; a mapping names the arrays they are written to. Raises as `run`."""
        return self._call(feed, token(cancellation), lambda runner, given: runner.run_on_device(feed, outputs, given))

    def _call(
        self, feed: Feed, cancellation: Cancellation, call: Callable[[EngineSession, Cancellation], Returned]
    ) -> Returned:
        """`call` in turn, for the sizes of `feed`; a first run that fails on kept engines is repeated without them."""
        if not self._provider.survives_fork and self._process != os.getpid():
            raise ProviderError(
                f"graph {self.name} was opened before this process was forked, which provider {self.provider!r} does "
                "not survive; open the pipeline in the new process, or start it with multiprocessing's 'spawn'"
            )
        with self._turn.taken(cancellation, f"graph {self.name}"):
            self._leave_inherited()
            runner = self._fitted(feed, cancellation)
            try:
                with self._reading():
                    values = call(runner, cancellation)
            except Cancelled:
                raise
            except BundleError:
                self._runner = None  # it may hold what was there for a moment
                raise
            except Exception as error:
                if not self._engines_unverified:
                    raise _run_error(self.name, runner.engine, feed, error) from error
                del runner
                self._runner = None
                self._runner = self._rebuild(error, cancellation)
            else:
                self._engines_unverified = False
                return values
        return self._call(feed, cancellation, call)

    def _leave_inherited(self) -> None:
        """In a forked child: give up the engine's session, whose threads and perhaps locks belong to the parent."""
        if self._process != os.getpid():
            keep_for_ever(self._runner)
            self._runner, self._process = None, os.getpid()

    def _fitted(self, feed: Feed, cancellation: Cancellation) -> EngineSession:
        """The engine's session, on a GPU opened again for the sizes of `feed` if they are new.

        No size is then computed on the host, which would wait for the device hundreds of times per run.
        """
        if self._provider.on_gpu:
            sizes = self._sizes(feed)
            if sizes != self._options.sizes:
                self._runner = None  # its memory goes first
                self._options = replace(self._options, sizes=sizes)
        if self._runner is None:
            self._runner = self._open(cancellation)
        return self._runner

    def _reading(self) -> AbstractContextManager[None]:
        """What holds the files of the bundle while an engine may read them in a run."""
        reads = self._options.memory == "low" or self._provider.maps_weights
        return self._source.mapped() if reads and isinstance(self._source, GraphFile) else nullcontext()

    def _sizes(self, feed: Feed) -> dict[str, int]:
        shapes = [(tensor.shape, feed[tensor.name].shape) for tensor in self.inputs if tensor.shape]
        pairs = (pair for axes, sizes in shapes for pair in zip(axes, sizes, strict=False))
        return {axis: size for axis, size in pairs if isinstance(axis, str)}

    def _rebuild(self, error: Exception, cancellation: Cancellation) -> EngineSession:
        engines = self._options.engines
        assert engines is not None
        logger.warning(
            "%s was removed, since graph %s fails with the engine there (%s); it is built again",
            engines,
            self.name,
            error,
        )
        self._engines_unverified = False
        shutil.rmtree(engines)
        ensure_dir(engines)
        return self._open(cancellation)

    def _open(self, cancellation: Cancellation) -> EngineSession:
        source = self._source
        with source.held() if isinstance(source, GraphFile) else nullcontext(source) as path:
            if shown(path) != str(path):
                raise BundleError(
                    f"graph {self.name}: expected a folder whose name is UTF-8, got {shown(path.parent)!r}; rename it, "
                    "or mount /proc, where open folders have plain names"
                )
            try:
                return self._provider.open(path, self.name, self._provider, self._options, cancellation)
            except FfrtError:
                raise
            except Exception as error:
                own = source.path if isinstance(source, GraphFile) else source
                said = str(error).replace(str(path.parent), os.fsencode(own.parent).decode("utf-8", "replace"))
                raise _open_error(self.name, own, self._provider, self._options.memory, said) from error


def _kept_graph(source: Path | GraphFile) -> KeptGraph | None:
    """Where the optimised form of a small graph of a bundle is kept; None for other files."""
    folder = graphs_folder()
    if folder is None or not isinstance(source, GraphFile) or source.stored_bytes > MAX_STORED_BYTES:
        return None
    return KeptGraph(folder, (__version__, *source.identity))


def _open_error(name: str, path: Path, provider: Provider, memory: Memory, error: str) -> FfrtError:
    if _no_memory(error):
        return OutOfMemoryError(
            f"graph {name} ran out of memory when it was opened: {error}; "
            + ("it needs more than there is" if memory == "low" else 'memory="low" holds one stage at a time')
        )
    if _TOO_MANY_FILES.search(error) is not None or not _may_open_more():
        return BundleError(f"graph {name}: cannot load {shown(path)}: {error}; {LIMITS[errno.EMFILE]}")
    if not path.exists():  # bundles are checked for that: it is a file of the package
        return BundleError(
            f"graph {name}: {shown(path)} is missing; install ffrt again, and give its data files to a program that is "
            "frozen (pyinstaller --collect-data ffrt)"
        )
    if provider != CPU:
        return ProviderError(f"provider {provider.name!r} could not open graph {name}: {error}; {advice(provider)}")
    return BundleError(
        f"graph {name}: cannot load {shown(path)}: {error}; a newer onnxruntime may know what this one does not, else "
        "get the bundle again"
    )


def _may_open_more() -> bool:
    """Whether the process may open one more file: engines do not always say what was refused."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.EMFILE
    return True


def _run_error(name: str, engine: str, feed: Feed, error: Exception) -> FfrtError:
    shapes = {key: list(value.shape) for key, value in feed.items()}
    if _no_memory(str(error)):
        return OutOfMemoryError(
            f"graph {name} ran out of memory on inputs {shapes}: {error}; a smaller height and width needs less, and "
            'so does memory="low"'
        )
    return GraphInputError(f"graph {name}: {engine} failed on inputs {shapes}: {error}")


def _no_memory(error: str) -> bool:
    signs = ("Failed to allocate memory", "bad allocation", "out of memory", "bad_alloc")
    return any(sign in error for sign in signs)
