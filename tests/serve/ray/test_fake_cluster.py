"""Places over a cluster that does what a test says: what happens at moments that a real one seldom has."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ffrt.errors import ProviderError
from ffrt.serve.engine import executor as told
from ffrt.serve.engine import ray_actors, ray_places
from ffrt.serve.engine.maker import Maker
from ffrt.serve.engine.ray_actors import Asked, Facts, Health
from ffrt.serve.engine.ray_cluster import Cluster, Gone, Silent
from ffrt.serve.engine.ray_executor import RayExecutor, wanted
from ffrt.serve.errors import PlaceLost
from tests.serve.processes import until

ASKED = Asked("place-0", "/bundle", "d" * 64, "cpu", 1, "fast")
WORK = told.Work("video_" + "0" * 32, {"prompt": "a"}, "gif")
FINISHED = told.Finished(b"video", b"", b"", (1, 1), {})


class FakeActor:
    """An actor, its own stream, and its own answer."""

    def __init__(self, asked: Asked) -> None:
        self.facts = Facts("1", "3.11", "2.60.0", asked.digest)
        self.asked, self.life, self.server = asked, "life-1", ""
        self.current: str | None = None
        self.ready, self.broken = True, False
        self.events: list[told.Event | PlaceLost | None] = [told.Started("place-0"), FINISHED]
        self.fault: PlaceLost | None = None
        self.cancelled: list[str] = []
        self.ran: list[str] = []
        self.killed: list[bool] = []

    def hello(self, server: str) -> FakeActor:
        self.server = self.server if self.server else server
        return self

    def get(self, patience_s: float) -> dict[str, str]:
        if self.fault is not None:
            raise self.fault
        words = {"life": self.life, "node": "node-1", "asked": repr(self.asked), "server": self.server}
        return {**vars(self.facts), **words}

    def health(self, server: str, patience_s: float) -> Health:
        if self.fault is not None:
            raise self.fault
        return Health(self.life, self.server, self.current, self.ready, self.broken, None, "cpu", False, None)

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)
        if self.current == job_id:
            self.current = None

    def generate(self, work: told.Work, saved: bytes | None) -> FakeActor:
        self.ran.append(work.id)
        self.coming = iter(self.events)
        return self

    def next(self, patience_s: float) -> list[told.Event]:
        event = next(self.coming)
        if isinstance(event, PlaceLost):
            raise event
        return [] if event is None else [event]

    def kill(self, *, again: bool) -> None:
        self.killed.append(again)


class FakeCluster:
    """Actors that a test made before, else new ones."""

    def __init__(self, **resources: int) -> None:
        self.resources = [{name.upper(): amount for name, amount in resources.items()}]
        self.alive = True
        self.actors: dict[int, FakeActor] = {}
        self.left: list[int] = []
        self.making = threading.Lock()

    def actor(self, number: int, asked: Asked, cpus: float) -> FakeActor:
        with self.making:
            return self.actors.setdefault(number, FakeActor(asked))

    def numbers(self) -> list[int]:
        return self.left

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": "node-1", "Alive": self.alive, "NodeManagerAddress": "10.0.0.1", "Resources": one}
            for one in self.resources
        ]

    def each(self, resource: str) -> list[int]:
        return [one[resource] for one in self.resources if one.get(resource, 0) > 0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_places, "facts", lambda digest: Facts("1", "3.11", "2.60.0", digest))
    monkeypatch.setattr(ray_actors, "version", lambda name: "2.60.0")
    for module in ("ray_places", "ray_executor"):
        monkeypatch.setattr(f"ffrt.serve.engine.{module}.LOOK_S", 0.01)


@pytest.fixture
def started() -> Iterator[Callable[..., RayExecutor]]:
    made: list[RayExecutor] = []

    def start(cluster: FakeCluster, provider: str = "cpu", **options: Any) -> RayExecutor:
        asked = Asked("", "/bundle", "d" * 64, provider, 1, "fast")
        real = cast(Cluster, cluster)
        made.append(RayExecutor(real, wanted(real, "us", asked, **{"count": None, "cpus": None, **options})))
        return made[-1]

    yield start
    for executor in made:
        executor.close()


def one(cluster: FakeCluster) -> FakeActor:
    until(lambda: 0 in cluster.actors)
    return cluster.actors[0]


def until_ready(executor: RayExecutor) -> None:
    until(lambda: executor.places()[0].ready)


Start = Callable[..., RayExecutor]


@pytest.mark.parametrize(
    ("resources", "provider", "options", "count", "gpu"),
    [
        ({"cpu": 4}, "auto", {}, 1, False),
        ({"cpu": 4, "gpu": 3}, "auto", {}, 3, True),
        ({"cpu": 4, "gpu": 3}, "cpu", {"cpus": 2}, 2, False),
        ({"cpu": 4}, "cuda", {"count": 2}, 2, True),
        ({"cpu": 4}, "openvino", {"cpus": 3}, 1, False),
    ],
)
def test_places_are_on_gpus_where_there_are_any(
    started: Start, resources: dict[str, int], provider: str, options: dict[str, int], count: int, gpu: bool
) -> None:
    cluster = FakeCluster(**resources)
    executor = started(cluster, provider, **options)
    until(lambda: len(cluster.actors) == count)
    assert len(executor.places()) == count and {actor.asked.gpu for actor in cluster.actors.values()} == {gpu}


@pytest.mark.parametrize(("provider", "options", "word"), [("cuda", {}, "--num-gpus"), ("cpu", {"cpus": 8}, "8 proc")])
def test_a_cluster_without_room_for_one_place_is_an_error(
    started: Start, provider: str, options: dict[str, int], word: str
) -> None:
    with pytest.raises(ProviderError, match=f"ray_places: .*{word}"):
        started(FakeCluster(cpu=4), provider, **options)


def test_a_job_of_the_last_life_is_stopped_before_the_place_is_ready(started: Start) -> None:
    cluster = FakeCluster(cpu=1)
    actor = cluster.actors[0] = FakeActor(ASKED)
    actor.current, actor.server = "video_old-1", "us"
    executor = started(cluster)
    until_ready(executor)
    assert actor.cancelled == ["video_old-1"] and actor.killed == []
    actor.current = "video_old-2"  # a job that was given up while it went on
    assert list(executor.run("place-0", WORK, None))[-1] == FINISHED
    assert actor.cancelled[-1] == "video_old-2" and actor.ran[0].startswith(WORK.id)


def test_a_late_cancel_of_a_job_does_not_reach_its_next_attempt(started: Start) -> None:
    cluster = FakeCluster(cpu=1)
    executor = started(cluster)
    until_ready(executor)
    for _ in range(2):
        list(executor.run("place-0", WORK, None))
    executor.cancel("place-0", WORK.id)
    first, second = one(cluster).ran
    assert first != second and one(cluster).cancelled == []


@pytest.mark.parametrize("event", [told.Stopped(), PlaceLost("unreachable"), Gone("dead")])
def test_an_end_that_nobody_asked_for_is_a_lost_place(started: Start, event: told.Event | PlaceLost) -> None:
    cluster = FakeCluster(cpu=1)
    executor = started(cluster)
    until_ready(executor)
    one(cluster).events = [told.Started("place-0"), event]
    with pytest.raises(PlaceLost) as lost:
        list(executor.run("place-0", WORK, None))
    assert lost.value.began and executor.places()[0].current is None


def test_a_place_that_says_nothing_is_started_again(started: Start) -> None:
    cluster = FakeCluster(cpu=1)
    executor = started(cluster)
    until_ready(executor)
    one(cluster).events = [told.Started("place-0"), None]
    with pytest.raises(PlaceLost, match="said nothing"):
        list(executor.run("place-0", WORK, None))
    assert one(cluster).killed == [True]
    one(cluster).life = "life-2"
    until(lambda: executor.places()[0].restarts == {told.Replaced.SILENT: 1})


def test_a_place_that_is_silent_before_a_job_has_not_begun_it(started: Start) -> None:
    cluster = FakeCluster(cpu=1)
    executor = started(cluster)
    until_ready(executor)
    one(cluster).fault = Silent("it does not answer")
    with pytest.raises(PlaceLost) as lost:
        list(executor.run("place-0", WORK, None))
    assert not lost.value.began and one(cluster).ran == []


def test_a_place_of_another_server_is_left_alone(started: Start) -> None:
    cluster = FakeCluster(cpu=1)
    actor = cluster.actors[0] = FakeActor(ASKED)
    actor.server, actor.current = "them", "video_theirs"
    executor = started(cluster)
    until(lambda: "another server has it" in str(executor.places()[0].why))
    executor.close()
    assert (actor.cancelled, actor.killed) == ([], [])


@pytest.mark.parametrize(("owner", "killed"), [("them", []), ("", [False])])
def test_a_server_that_ends_early_leaves_what_is_not_its_own(
    started: Start, monkeypatch: pytest.MonkeyPatch, owner: str, killed: list[bool]
) -> None:
    cluster = FakeCluster(cpu=1)
    actor = cluster.actors[0] = FakeActor(ASKED)
    actor.server, actor.fault = owner, Silent("it waits for a machine")
    executor = started(cluster)
    until(lambda: "waits for a machine" in str(executor.places()[0].why))
    actor.fault = None if owner else actor.fault
    monkeypatch.setattr(ray_places.RayPlace, "_one_life", lambda place: None)
    executor.close()
    assert actor.killed == killed


def test_a_place_with_other_options_is_made_anew(started: Start) -> None:
    cluster = FakeCluster(cpu=1)
    old = cluster.actors[0] = FakeActor(Asked("place-0", "/old", "d" * 64, "cpu", 1, "fast"))
    executor = started(cluster)
    until(lambda: old.killed != [])
    assert old.killed[0] is False
    cluster.actors[0] = FakeActor(ASKED)
    until_ready(executor)


def test_a_machine_that_is_lost_and_one_that_joins(started: Start) -> None:
    cluster = FakeCluster(cpu=1)
    executor = started(cluster)
    until_ready(executor)
    cluster.alive, one(cluster).fault = False, PlaceLost("unreachable")
    until(lambda: "its machine 10.0.0.1 is lost" in str(executor.places()[0].why))
    cluster.alive, one(cluster).fault, one(cluster).life = True, None, "life-2"
    cluster.resources.append({"CPU": 1})
    until(lambda: len(executor.places()) == 2 and all(place.ready for place in executor.places()))
    assert executor.places()[0].restarts == {told.Replaced.ENDED: 1}


def test_a_cluster_that_is_lost_while_it_is_asked_where_a_machine_is_does_not_end_the_place(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, asked = FakeCluster(cpu=1), 0
    executor = started(cluster)
    until_ready(executor)
    nodes = cluster.nodes

    def every_second_time() -> list[dict[str, Any]]:
        nonlocal asked
        asked += 1
        if asked % 2 == 0:
            raise PlaceLost("unreachable")
        return nodes()

    monkeypatch.setattr(cluster, "nodes", every_second_time)
    cluster.alive, one(cluster).fault = False, PlaceLost("unreachable")
    until(lambda: executor.places()[0].why == "the cluster cannot be reached")
    cluster.alive, one(cluster).fault = True, None
    until_ready(executor)
    assert (executor.places()[0].ready, executor.places()[0].why) == (True, None)


def test_the_last_word_of_a_job_is_heard_before_its_broken_place_is_ended(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster(cpu=1)
    executor = started(cluster)
    until_ready(executor)
    actor, failed = one(cluster), told.Failed("internal_error", "CUDA fell over", retryable=True)
    looks, asked = 0, threading.Event()

    def health(server: str, patience_s: float) -> Health:
        nonlocal looks
        looks += actor.broken
        if looks > 0:
            asked.set()
        return Health(actor.life, "us", None, not actor.broken, actor.broken, "CUDA fell over", "cpu", False, None)

    def late(patience_s: float) -> list[told.Event]:
        actor.broken = True
        assert asked.wait(30)
        if until_killed.wait(0.3):
            raise Gone("dead")
        return [failed]

    until_killed = threading.Event()

    def kill(*, again: bool) -> None:
        actor.killed.append(again)
        until_killed.set()
        actor.broken, actor.life = False, "life-2"

    for name, method in (("health", health), ("next", late), ("kill", kill)):
        monkeypatch.setattr(actor, name, method)
    assert list(executor.run("place-0", WORK, None)) == [failed]
    until(lambda: executor.places()[0].restarts == {told.Replaced.ERROR: 1})


def test_an_actor_says_that_it_is_broken_after_the_end_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actors.PlaceActor, "_live", lambda actor: None)
    actor = ray_actors.PlaceActor(ASKED)
    actor._ready = True
    seen: list[tuple[told.Event, bool, bool]] = []

    class Heard(queue.SimpleQueue[told.Event]):
        def put(self, event: told.Event, *_: object) -> None:  # type: ignore[override]
            health = actor.health("us")
            seen.append((event, health.ready, health.broken))

    failed = told.Failed("internal_error", "CUDA fell over", retryable=True)
    actor._jobs.put((WORK, None, Heard()))
    actor._once(cast(Maker, SimpleNamespace(make=lambda *_: failed)))
    assert seen == [(failed, False, False)], "no job comes after it, and nobody ends it yet"
    assert actor.health("us").broken


def test_places_that_an_earlier_life_had_more_of_are_ended(started: Start) -> None:
    cluster = FakeCluster(cpu=1)
    cluster.left = [0, 1, 2]
    ours, theirs = FakeActor(ASKED), FakeActor(ASKED)
    ours.server, theirs.server = "us", "them"
    cluster.actors = {1: ours, 2: theirs}
    until_ready(started(cluster))
    until(lambda: ours.killed == [False])
    assert theirs.killed == []
