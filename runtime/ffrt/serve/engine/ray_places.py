"""One place of a Ray cluster: the thread that has its actor made, asks how it is, and has it started again.

Ray starts actors and finds them a machine. Which job runs where is the dispatcher's business: Ray never queues a job.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ffrt.serve.engine import executor as told
from ffrt.serve.engine.patience import patience_s
from ffrt.serve.engine.ray_actors import Asked, Health, facts
from ffrt.serve.engine.ray_cluster import Actor, Cluster, Silent
from ffrt.serve.errors import PlaceLost

logger = logging.getLogger("ffrt.serve")
LOOK_S = 1.0
ANSWER_S = 10.0
SILENT_S = 60.0
"""A place that answers nothing for so long is started again."""
FREE_S = 30.0
"""What a place has to stop the job of a server that is no more."""
END_S = 5.0
"""What a job has to come to its end in a place that is broken: why it is may be the job's last word, on its way."""
LONGEST_PAUSE_S = 30.0


class RayPlace:
    """One place: a thread makes its actor, greets it, and asks every second how it is."""

    def __init__(self, cluster: Cluster, server: str, asked: Asked, number: int, cpus: float) -> None:
        """`server` is the name of the server, the same in all its lives. `cpus` are set aside for the place."""
        self._cluster, self._server, self._asked, self._number, self._cpus = cluster, server, asked, number, cpus
        self._closing = threading.Event()
        self._changing = threading.Lock()
        self._actor: Actor | None = None
        self._run = ""  # the job that runs, and which attempt: a late word for an earlier one does nothing
        self._stopped = self._was_ready = False
        self._owner = ""  # the server that the actor belongs to, as it said
        self._node = self._life = ""
        self._replaced = told.Replaced.ENDED  # why the process of now will have been replaced
        self.place = told.Place(self._asked.place, "gpu" if self._asked.gpu else "cpu", why="it waits for a machine")
        self._thread = threading.Thread(target=self._live, name=f"ffrt-{self.place.id}", daemon=True)
        self._thread.start()

    def run(self, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
        """As `Executor.run`."""
        self._run, self._stopped = f"{work.id}-{secrets.token_hex(4)}", False
        self._change(current=work.id)
        try:
            yield from self._listened(self._freed(), replace(work, id=self._run), saved)
        finally:
            self._change(current=None)

    def cancel(self, job_id: str) -> None:
        """As `Executor.cancel`."""
        if self._actor is not None and self.place.current == job_id:
            self._stopped = True
            self._actor.cancel(self._run)

    def close(self) -> None:
        """End the actor for good, so that its GPU is free; not if it is another server's."""
        self._closing.set()
        if self._actor is not None and self._owner == self._server:
            self._actor.kill(again=False)

    def join(self) -> None:
        """Wait for the thread, after `close`; an actor that never said whose it is ends unless it says so now."""
        self._thread.join()
        if self._actor is not None and self._owner == "":
            with contextlib.suppress(PlaceLost):
                self._owner = self._actor.hello(self._server).get(LOOK_S)["server"]
        if self._actor is not None and self._owner in ("", self._server):
            self._actor.kill(again=False)

    def _listened(self, actor: Actor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
        """The events of a job on a free actor."""
        left = False  # whether nothing of this job can come any more
        last: told.Event | None = None
        try:
            stream = actor.generate(work, saved)
            while not left:
                longest_s = patience_s(last)
                events = stream.next(longest_s)
                if not events:
                    self._again(actor, f"it said nothing for {longest_s:.0f} s", told.Replaced.SILENT)
                    raise PlaceLost(f"it said nothing for {longest_s:.0f} s")
                for event in events:
                    if isinstance(event, told.Stopped) and not self._stopped:
                        raise PlaceLost("another server stopped its job")
                    if isinstance(event, told.Failed) and event.retryable:
                        self._replaced = told.Replaced.ERROR
                        self._change(ready=False, why="it is replaced")
                    left = isinstance(event, told.ENDS)
                    yield event
                last = events[-1]
        except PlaceLost as error:
            self._change(ready=False, why=str(error))
            raise PlaceLost(f"{self.place.id}: {error}") from error
        finally:
            if not left:
                actor.cancel(work.id)

    def _freed(self) -> Actor:
        """The actor, once it runs no job: it may still run one that was given up. Raises PlaceLost, not begun."""
        actor = self._actor
        try:
            if actor is None or not self.place.ready:
                raise PlaceLost(f"it is not ready ({self.place.why})")
            health = actor.health(self._server, ANSWER_S)
            if health.life != self._life or health.server != self._server or not health.ready:
                raise PlaceLost("it was started again" if health.server == self._server else "another server has it")
            self._stop_other(actor, health)
        except PlaceLost as error:
            self._change(ready=False, why=str(error))
            raise PlaceLost(f"{self.place.id}: {error}", began=False) from error
        return actor

    def _stop_other(self, actor: Actor, health: Health) -> None:
        """Stop what runs there. Raises PlaceLost if it does not stop."""
        until_s = time.monotonic() + FREE_S
        while health.current is not None:
            if time.monotonic() > until_s:
                self._again(actor, "it did not stop a job that nobody waits for", told.Replaced.LEFT)
                raise PlaceLost("it did not stop a job that nobody waits for")
            actor.cancel(health.current)
            time.sleep(0.01)
            health = actor.health(self._server, ANSWER_S)

    def _live(self) -> None:
        """One life of the actor after the other; longer pauses after one that was never ready."""
        pause_s = LOOK_S
        while not self._closing.is_set():
            self._was_ready = False
            try:
                self._one_life()
            except PlaceLost as error:
                self._change(ready=False, why=self._where(str(error)))
            except Exception:
                logger.exception("%s: a fault of the server", self.place.id)
                self._change(ready=False, why="a fault of the server")
            if self._closing.is_set():
                return
            pause_s = LOOK_S if self._was_ready else min(2 * pause_s, LONGEST_PAUSE_S)
            self._closing.wait(0.1 if self._was_ready else pause_s)

    def _one_life(self) -> None:
        """Make or find the actor, greet it, and look after it until it is another one. Raises PlaceLost."""
        self._owner = ""
        actor = self._actor = self._cluster.actor(self._number, self._asked, self._cpus)
        greeting = self._greeted(actor)
        if greeting is None:
            return
        self._owner = greeting["server"]
        if self._owner != self._server:
            raise PlaceLost("another server has it; end that one, or start one Ray cluster for each server")
        if greeting["asked"] != repr(self._asked):  # left by our last life, which had other options
            actor.kill(again=False)
            self._was_ready = True
            return
        if self._life not in ("", greeting["life"]):
            self._change(restarts=self.place.restarted(self._replaced))
            self._replaced = told.Replaced.ENDED
        self._life, self._node = greeting["life"], greeting["node"]
        machine = self._address(self._node)
        self._change(device=f"{'gpu' if self._asked.gpu else 'cpu'} of {machine}")
        here = facts(self._asked.digest)
        there = replace(here, **{name: greeting[name] for name in vars(here)})
        if there != here:
            self._refuse(actor, f"{machine}: {there.differences(here)}; install the server's on that machine")
            return
        health = actor.health(self._server, ANSWER_S)
        if self.place.current is None or health.current != self._run:
            self._stop_other(actor, health)
        self._watch(actor)

    def _greeted(self, actor: Actor) -> Mapping[str, str] | None:
        """What the actor says of itself, once it has a machine; None if the server ends first. Raises PlaceLost."""
        answer = actor.hello(self._server)
        while not self._closing.is_set():
            with contextlib.suppress(Silent):
                told_of: Mapping[str, str] = answer.get(LOOK_S)
                return told_of
            self._change(why=self._where("it waits for a machine with a free GPU or processors"))
        return None

    def _watch(self, actor: Actor) -> None:
        """Ask how it is until it is another one. Raises PlaceLost."""
        while not self._closing.is_set():
            try:
                health = actor.health(self._server, SILENT_S)
            except Silent as error:
                self._again(actor, f"it is silent for {SILENT_S:.0f} s", told.Replaced.SILENT)
                raise PlaceLost("it is silent") from error
            if health.life != self._life:
                self._change(ready=False, why="it was started again")
                return
            if health.server != self._server:
                self._owner = health.server
                raise PlaceLost("another server has it")
            seen_s = time.monotonic()
            self._change(provider=health.provider, on_gpu=health.on_gpu, free=health.free, seen_s=seen_s)
            if health.broken:
                self._change(ready=False, why=health.why)
                self._hear_out()
                failed = self._replaced is told.Replaced.ERROR or self.place.current is not None
                self._again(actor, str(health.why), told.Replaced.ERROR if failed else told.Replaced.BROKEN)
                return
            self._was_ready = self._was_ready or health.ready
            self._change(ready=health.ready, why=health.why)
            self._closing.wait(LOOK_S)

    def _hear_out(self) -> None:
        """Wait for the end of a job that runs, until it was heard or its time is over."""
        until_s = time.monotonic() + END_S
        while self.place.current is not None and self._replaced is not told.Replaced.ERROR:
            if time.monotonic() > until_s or self._closing.wait(LOOK_S / 10):
                return

    def _refuse(self, actor: Actor, why: str) -> None:
        """A place that must not work: told, and looked at again after a while."""
        logger.error("%s is refused: %s", self.place.id, why)
        self._change(ready=False, why=why)
        self._closing.wait(LONGEST_PAUSE_S)
        if not self._closing.is_set():
            actor.kill(again=False)

    def _again(self, actor: Actor, why: str, replaced: told.Replaced) -> None:
        self._replaced = replaced
        self._change(ready=False, why=why)
        if not self._closing.is_set():
            logger.warning("%s: its process is ended: %s", self.place.id, why)
            actor.kill(again=True)

    def _where(self, why: str) -> str:
        """`why`, or that the node is lost."""
        try:
            lost = self._node not in ("", *(node["NodeID"] for node in self._cluster.nodes() if node["Alive"]))
            return f"its machine {self._address(self._node)} is lost; it waits for another" if lost else why
        except PlaceLost:
            return "the cluster cannot be reached"

    def _address(self, node_id: str) -> str:
        """Where a node is. Raises PlaceLost."""
        found = (str(node["NodeManagerAddress"]) for node in self._cluster.nodes() if node["NodeID"] == node_id)
        return next(found, node_id)

    def _change(self, **values: object) -> None:
        with self._changing:
            self.place = replace(self.place, **values)  # type: ignore[arg-type]
