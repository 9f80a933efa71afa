"""The open graphs of one bundle: opened at first use, shared by all requests of a pipeline, one stage's at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed
from ffrt.backend.cancel import Cancellation, Turn
from ffrt.backend.graph import Graph, optimised_for
from ffrt.backend.providers import PROVIDERS, check_options, choose_provider
from ffrt.backend.runner import Memory
from ffrt.backend.session import Session
from ffrt.bundle import Bundle
from ffrt.errors import ProviderError, RequestError
from ffrt.families import SHALLOW
from ffrt.stages.device_loop import UPDATE


@dataclass(frozen=True)
class SessionSettings:
    """How a pipeline opens its graphs; fields as the arguments of `Pipeline.from_pretrained`."""

    provider: str = "auto"
    threads: int | None = None
    memory: Memory = "fast"
    cuda_graph: bool = False
    provider_options: Mapping[str, str | int | float] | None = None


@dataclass
class OpenGraphs:
    """The graphs of `bundle` that are open now.

    With memory "fast" a graph stays open and requests run side by side. With "low" the graphs of one stage are open at
    a time, and a graph is used by one request at a time: another one waits, and may find its graph closed.

    Raises ProviderError for a provider that is not there or cannot do `cuda_graph`.
    """

    bundle: Bundle
    settings: SessionSettings
    _graphs: dict[str, Graph] = field(default_factory=dict)
    _update: Session | None = None
    _turn: Turn = field(default_factory=Turn)
    _closed: bool = False

    def __post_init__(self) -> None:
        self._row = choose_provider(self.settings.provider, optimised_for(self.bundle))
        check_options(self.settings.provider, self.settings.provider_options)
        if self.settings.cuda_graph and not self.on_gpu:
            on_gpu = [name for name, row in PROVIDERS.items() if row.on_gpu]
            raise ProviderError(
                f"cuda_graph: expected a provider of {on_gpu}, got {self.provider!r}; leave cuda_graph out"
            )

    @property
    def provider(self) -> str:
        """The provider that graphs are opened with."""
        return self._row.name

    @property
    def on_gpu(self) -> bool:
        """Whether the provider runs on a GPU."""
        return self._row.on_gpu

    @property
    def one_shape(self) -> bool:
        """Whether the provider opens a network for one input shape at a time."""
        return self._row.one_shape

    @property
    def names(self) -> tuple[str, ...]:
        """The graphs that are open now."""
        return tuple(self._graphs)

    def graph(self, name: str, cancellation: Cancellation) -> Graph:
        """The graph `name`, opened if need be; raises as `Graph`, Cancelled, or RequestError if all were closed."""
        if self.settings.memory == "fast" and name in self._graphs:
            return self._graphs[name]
        with self._turn.taken(cancellation, f"opening graph {name}"):
            return self._opened(name, cancellation)

    @contextlib.contextmanager
    def use(self, name: str, cancellation: Cancellation) -> Iterator[Graph]:
        """The graph `name` for one run."""
        if self.settings.memory == "fast":
            yield self.graph(name, cancellation)
            return
        with self._turn.taken(cancellation, f"graph {name}"):
            yield self._opened(name, cancellation)

    def update(self) -> Session:
        """The session over `UPDATE`, which runs between two runs of a network, on the same device.

        It has one thread: a second pool would spin on the cores that the networks need.
        """
        with self._turn.taken(Cancellation(), "graph update"):
            if self._update is None:
                self._update = Session(
                    UPDATE,
                    "update",
                    provider=self.settings.provider if self.on_gpu else "cpu",
                    provider_options=self.settings.provider_options if self.on_gpu else None,
                    threads=1,
                    optimised_for=optimised_for(self.bundle),
                )
            return self._update

    def clear(self) -> None:
        """Close every graph; the next use opens it again."""
        with self._turn.taken(Cancellation(), "closing graphs"):
            self._graphs.clear()

    def close(self) -> None:
        """Close every graph for good."""
        with self._turn.taken(Cancellation(), "closing graphs"):
            self._graphs.clear()
            self._update = None
            self._closed = True

    def _opened(self, name: str, cancellation: Cancellation) -> Graph:
        """The graph `name` for the one whose turn it is."""
        cancellation.check(f"opening graph {name}")
        if self._closed:
            raise RequestError("pipeline: expected an open one, got one that was closed; open it again")
        if name not in self._graphs:
            if self.settings.memory == "low":
                self._close_all_but(_stage_of(name))
            self._graphs[name] = Graph(
                self.bundle,
                name,
                provider=self.settings.provider,
                provider_options=self.settings.provider_options,
                threads=self.settings.threads,
                memory=self.settings.memory,
                cuda_graph=self.settings.cuda_graph and "unet" in name,  # the graphs that run step after step
                cancellation=cancellation,
            )
        return self._graphs[name]

    def _close_all_but(self, stage: str) -> None:
        for name in [name for name in self._graphs if _stage_of(name) != stage]:
            del self._graphs[name]


def _stage_of(name: str) -> str:
    """A U-Net and its shallow graph take turns within a stage, so both stay open."""
    return next((unet for unet, shallow in SHALLOW.items() if shallow == name), name)


@dataclass(frozen=True)
class LiveGraph:
    """A graph as one request sees it: opened by its first run, and ended with the request."""

    graphs: OpenGraphs
    name: str
    cancellation: Cancellation

    def __call__(self, feed: Mapping[str, NDArray[Any]] | Feed) -> dict[str, NDArray[Any]]:
        """All outputs on the host; raises as `Graph`."""
        with self.graphs.use(self.name, self.cancellation) as graph:
            return graph(feed, self.cancellation)

    def on_device(self, feed: Feed) -> dict[str, DeviceArray]:
        """All outputs on the device; raises as `Graph`."""
        with self.graphs.use(self.name, self.cancellation) as graph:
            return graph.on_device(feed, self.cancellation)

    def precompute(self, feeds: Iterable[Feed]) -> None:
        """As `Graph.precompute`."""
        with self.graphs.use(self.name, self.cancellation) as graph:
            graph.precompute(feeds, self.cancellation)
