"""A Ray cluster as the server uses it: the one file that knows Ray's calls and errors.

Everything that a caller has to know of a failure is one of two errors: `PlaceLost`, and `Gone` if the actor is no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from ffrt.serve.engine import executor as told
from ffrt.serve.engine.ray_actors import Asked, Health, PlaceActor
from ffrt.serve.errors import PlaceLost

NAMESPACE = "ffrt"
NAME = "ffrt-worker-"
CPUS_BESIDE_GPU = 0.25


class Gone(PlaceLost):
    """The actor is dead, and Ray does not start it again."""


class Silent(PlaceLost):
    """There was no answer in time."""


class Answer:
    """What an actor was asked; `get` may be called again after it raised `Silent`."""

    def __init__(self, ray: Any, reference: object) -> None:
        self._ray, self._reference = ray, reference

    def get(self, patience_s: float) -> Any:
        """The answer. Raises PlaceLost."""
        with _lost(self._ray):
            return self._ray.get(self._reference, timeout=patience_s)


class Stream:
    """The events of a job."""

    def __init__(self, ray: Any, generator: Any) -> None:
        self._ray, self._generator = ray, generator

    def next(self, patience_s: float) -> list[told.Event]:
        """The next events; none if nothing came in time. Raises PlaceLost, also after the last one."""
        with _lost(self._ray):
            came, _ = self._ray.wait([self._generator], timeout=patience_s)
            if not came:
                return []
            try:
                return cast("list[told.Event]", self._ray.get(next(self._generator)))
            except StopIteration:
                raise PlaceLost("it ended the job without a word") from None


class Actor:
    """One place of the cluster."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray, self._handle = ray, handle

    def hello(self, server: str) -> Answer:
        """As `PlaceActor.hello`."""
        return Answer(self._ray, self._control(self._handle.hello).remote(server))

    def health(self, server: str, patience_s: float) -> Health:
        """As `PlaceActor.health`. Raises PlaceLost."""
        answer = Answer(self._ray, self._control(self._handle.health).remote(server))
        return cast(Health, answer.get(patience_s))

    def cancel(self, job_id: str) -> None:
        """As `PlaceActor.cancel`, without a wait for the answer."""
        with contextlib.suppress(PlaceLost), _lost(self._ray):
            self._control(self._handle.cancel).remote(job_id)

    def generate(self, work: told.Work, saved: bytes | None) -> Stream:
        """As `PlaceActor.generate`. Raises PlaceLost."""
        with _lost(self._ray):
            method = self._handle.generate.options(concurrency_group="job", num_returns="streaming")
            return Stream(self._ray, method.remote(work, saved))

    def kill(self, *, again: bool) -> None:
        """End its process; Ray starts another one if `again`."""
        with contextlib.suppress(PlaceLost), _lost(self._ray):
            self._ray.kill(self._handle, no_restart=not again)

    def _control(self, method: Any) -> Any:
        return method.options(concurrency_group="control")


class Cluster:
    """An open connection; `ffrt.serve.engine.ray_connect` makes it."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def actor(self, number: int, asked: Asked, cpus: float) -> Actor:
        """The actor of that number, made if there is none. It waits where the cluster has no room. Raises PlaceLost."""
        with _lost(self._ray):
            remote = self._ray.remote(
                num_gpus=1 if asked.gpu else 0,
                num_cpus=cpus,
                max_restarts=-1,
                max_task_retries=0,
                concurrency_groups={"job": 1, "control": 2},
            )(PlaceActor)
            made = remote.options(
                name=f"{NAME}{number}", lifetime="detached", get_if_exists=True, namespace=NAMESPACE
            ).remote(asked)
            return Actor(self._ray, made)

    def numbers(self) -> list[int]:
        """The numbers of all actors that there are."""
        with _lost(self._ray):
            names = [name for name in self._ray.util.list_named_actors() if name.startswith(NAME)]
        return sorted(int(name[len(NAME) :]) for name in names if name[len(NAME) :].isdecimal())

    def nodes(self) -> list[Mapping[str, Any]]:
        """The nodes, with `NodeID`, `Alive`, `NodeManagerAddress` and `Resources`. Raises PlaceLost."""
        with _lost(self._ray):
            return cast("list[Mapping[str, Any]]", self._ray.nodes())

    def each(self, resource: str) -> list[int]:
        """How much of a resource each node that is alive has, whole units; those without are left out."""
        found = [int(node["Resources"].get(resource, 0)) for node in self.nodes() if node["Alive"]]
        return [amount for amount in found if amount > 0]

    def close(self) -> None:
        """End the connection; actors stay."""
        self._ray.shutdown()


@contextlib.contextmanager
def _lost(ray: Any) -> Iterator[None]:
    """Ray's errors as ours."""
    errors = ray.exceptions
    try:
        yield
    except errors.GetTimeoutError as error:
        raise Silent("it does not answer") from error
    except errors.ActorUnavailableError as error:
        raise PlaceLost("its process ended, or cannot be reached") from error
    except errors.ActorDiedError as error:
        raise Gone(_short(error)) from error
    except errors.RayError as error:  # OwnerDiedError, a node with the answer on it, a full object store
        raise PlaceLost(_short(error)) from error


def _short(error: Exception) -> str:
    """The last line that says something, without its colours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
