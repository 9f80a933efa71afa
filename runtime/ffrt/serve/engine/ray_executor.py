"""Places on the machines of a Ray cluster: an actor for each GPU, or for the processors of machines that have none."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ffrt.errors import ProviderError
from ffrt.serve.engine import executor as told
from ffrt.serve.engine.ray_actors import Asked
from ffrt.serve.engine.ray_cluster import CPUS_BESIDE_GPU, Cluster, Gone, Silent
from ffrt.serve.engine.ray_places import ANSWER_S, LOOK_S, RayPlace
from ffrt.serve.errors import PlaceLost

logger = logging.getLogger("ffrt.serve")
ON_CPUS = ("cpu", "openvino")
"""Providers that need no GPU."""


@dataclass(frozen=True)
class Wanted:
    """The places that a server wants. `server` is its name, the same in all its lives; `asked.place` is not used.

    `cpus` are set aside for each place. `count` None is one for each GPU of the cluster, also of machines that come
    later, or one for each `cpus` processors of a machine.
    """

    server: str
    asked: Asked
    cpus: float
    count: int | None = None

    def capacity(self, cluster: Cluster) -> int:
        """How many places the cluster has room for, or should have."""
        if self.count is not None:
            return self.count
        if self.asked.gpu:
            return sum(cluster.each("GPU"))
        return sum(int(amount // self.cpus) for amount in cluster.each("CPU"))


def wanted(cluster: Cluster, server: str, asked: Asked, *, count: int | None, cpus: int | None) -> Wanted:
    """Places on GPUs if the provider needs one, or for `auto` if the cluster has any; else on processors.

    `cpus` None is all processors of the smallest machine, which is one place for each of equal machines. Raises
    ProviderError if the cluster has no room for a place and `count` does not say that some will come.
    """
    named = asked.provider not in ("auto", *ON_CPUS)
    gpu = named or (asked.provider == "auto" and len(cluster.each("GPU")) > 0)
    if gpu:
        found = Wanted(server, replace(asked, gpu=True), CPUS_BESIDE_GPU, count)
    else:
        found = Wanted(server, asked, min(cluster.each("CPU"), default=1) if cpus is None else cpus, count)
    if found.capacity(cluster) == 0:
        what = "GPU" if gpu else f"machine with {found.cpus:.0f} processors"
        raise ProviderError(
            f"ray_places: the cluster has no {what}; join a machine with 'ray start --address=HOST:PORT "
            f"--num-{'gpus' if gpu else 'cpus'}=N', or type how many places there will be: --ray-places N"
        )
    return found


class RayExecutor:
    """An `Executor` of actors; it gets more places when machines come. Use within `connected`."""

    def __init__(self, cluster: Cluster, wanted: Wanted) -> None:
        self._cluster, self._wanted = cluster, wanted
        count = wanted.capacity(cluster)
        self._places: dict[str, RayPlace] = {}
        for number in range(count):
            self._add(number)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._grow, name="ffrt-ray", daemon=True)
        self._thread.start()

    def places(self) -> list[told.Place]:
        """As the protocol says."""
        return [one.place for one in list(self._places.values())]

    def run(self, place: str, work: told.Work, checkpoint: bytes | None) -> Iterator[told.Event]:
        """As the protocol says."""
        return self._places[place].run(work, checkpoint)

    def cancel(self, place: str, job_id: str) -> None:
        """As the protocol says."""
        self._places[place].cancel(job_id)

    def close(self) -> None:
        """As the protocol says: the actors end, and their GPUs are free."""
        self._closing.set()
        self._thread.join()
        for place in self._places.values():
            place.close()
        for place in self._places.values():
            place.join()

    def _grow(self) -> None:
        """End what an earlier life had more of, then add places for machines that join."""
        self._shrink()
        while not self._closing.wait(LOOK_S):
            with contextlib.suppress(PlaceLost):
                for number in range(len(self._places), self._wanted.capacity(self._cluster)):
                    logger.info("a place more: place-%s", number)
                    self._add(number)

    def _add(self, number: int) -> None:
        wanted, id = self._wanted, f"place-{number}"
        self._places[id] = RayPlace(self._cluster, wanted.server, replace(wanted.asked, place=id), number, wanted.cpus)

    def _shrink(self) -> None:
        with contextlib.suppress(PlaceLost):
            for number in self._cluster.numbers():
                if number >= len(self._places):
                    actor = self._cluster.actor(number, self._wanted.asked, self._wanted.cpus)
                    with contextlib.suppress(Silent, Gone):
                        if actor.hello(self._wanted.server).get(ANSWER_S)["server"] != self._wanted.server:
                            continue
                    actor.kill(again=False)
