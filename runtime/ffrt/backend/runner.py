"""The types of this folder: what runs a graph, how it is opened, and what a row of the table of providers holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed, Tensor
from ffrt.backend.cancel import Cancellation
from ffrt.backend.kept_graph import KeptGraph

Memory = Literal["fast", "low"]
MEMORY: tuple[Memory, ...] = get_args(Memory)
"""How a pipeline trades memory for speed.

"fast" keeps float32 copies of the weights, laid out for their kernels, and every session of a pipeline. "low" leaves
weights in the bundle's file, which the system maps, and converts each where it is used, so that a network larger than
memory runs; one stage's session is open at a time and is opened again for the next request. On the CPU this is for the
networks over latents: those over pixels have small weights and large values. On a GPU "low" gives a
stage's memory back when it ends, and what runs before the steps leaves before they begin. OpenVINO lays weights out for
its kernels either way, half as large in bfloat16.
"""


class Runner(Protocol):
    """Runs one graph: a session of an engine, or several of them as one."""

    @property
    def inputs(self) -> Sequence[Tensor]:
        """As the file declares them."""

    @property
    def outputs(self) -> Sequence[Tensor]:
        """As the file declares them."""

    @property
    def provider(self) -> str:
        """The provider that it really got, by the name that `provider=` takes."""

    @property
    def device(self) -> str:
        """Where device arrays lie: "cuda" or "cpu"."""

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the device; on the CPU it is the same memory, which must not change meanwhile."""

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """Return all outputs on the host."""

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> dict[str, DeviceArray]:
        """Return the named outputs on the device; a mapping names the arrays that they are written to."""


class EngineSession(Runner, Protocol):
    """A file opened by an engine. Its errors are the engine's own, which a `Session` translates."""

    @property
    def engine(self) -> str:
        """What errors call the engine."""


@dataclass(frozen=True)
class SessionOptions:
    """How a file is opened, whatever the provider.

    `threads` is the number of CPU threads inside an operator, None for one per free core; `dtype` what OpenVINO
    computes in ("float32" or "bfloat16"); `channels_last` is for graphs whose convolutions and normalisations were
    fused for that layout, others get slower; `engines` is the folder for built engines, None to keep none;
    `kept_graph` is where the optimised graph is kept, None to keep none;
    `cuda_graph` records the launches of a run and replays them, for fixed shapes and device arrays that stay where they
    are; `sizes` fixes symbolic axes; `provider_options` come from the caller and win over the row's own.
    """

    threads: int | None = None
    memory: Memory = "fast"
    dtype: str = "float32"
    channels_last: bool = False
    engines: Path | None = None
    kept_graph: KeptGraph | None = None
    cuda_graph: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    provider_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def records(self) -> bool:
        """Whether launches are recorded: with open axes the host would take part in every run."""
        return self.cuda_graph and len(self.sizes) > 0


def no_options(options: SessionOptions) -> Mapping[str, str]:
    """The options of a provider that needs none."""
    return {}


@dataclass(frozen=True)
class Provider:
    """One execution provider: how it is called, found, configured and opened.

    `name` is what `provider=` takes, `ort_name` what ONNX Runtime calls it, `install` the command that gets it.
    It is found as `package` (a module with an engine of its own, preferred), as `plugin` (a module that brings it to
    any build of ONNX Runtime) or in the build itself, which counts unless `built_in` is False. `open` opens a file and
    `options` makes ONNX Runtime's options for it.

    `device` is where its arrays lie; `automatic` rows are tried by "auto" in the order of the table; `one_shape` says
    that a new shape costs it seconds; `keeps_engines` that it builds an engine per graph, which takes minutes, and
    keeps it in a file; `keeps_graphs` that what ONNX Runtime makes of a small graph is kept; `shrinks_arena` that its
    arena is given back after the first run of a shape; `survives_fork` that a forked child can open its sessions anew;
    `maps_weights` that a session goes on reading weights from the bundle's files, as every one does with memory "low".

    `dtypes` are what a bundle optimised for it may compute in, the default first; empty for a provider that bundles
    cannot be optimised for. `runs` names the providers whose optimised bundles it runs; every provider runs plain ones.
    Nodes that it cannot run go to `falls_back_to`, in that order.
    """

    name: str
    ort_name: str
    install: str
    open: Callable[[Path, str, Provider, SessionOptions, Cancellation], EngineSession]
    options: Callable[[SessionOptions], Mapping[str, str]] = no_options
    package: str | None = None
    plugin: str | None = None
    built_in: bool = True
    device: Literal["cpu", "cuda"] = "cpu"
    automatic: bool = False
    one_shape: bool = False
    keeps_engines: bool = False
    keeps_graphs: bool = False
    shrinks_arena: bool = False
    survives_fork: bool = False
    maps_weights: bool = False
    dtypes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    falls_back_to: tuple[Provider, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether its arrays lie in a GPU's memory."""
        return self.device != "cpu"
