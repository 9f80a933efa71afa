"""The table of jobs: its state machine, whatever order calls come in, and what it leaves when it is closed."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from ffrt.serve.errors import Refused, StoreError
from ffrt.serve.jobs.job import MAX_BEGUN, STEPS, Job, NewJob, State, new_id
from ffrt.serve.jobs.store import Store
from ffrt.serve.jobs.table import open_table


def new(owner: str = "", **values: object) -> NewJob:
    job = NewJob(new_id(), owner, {"fields": {"prompt": "a"}}, "0" * 64, "1" * 64)
    return replace(job, **values)


def queue(store: Store, owner: str = "", **values: object) -> Job:
    return store.create(new(owner, **values), 1000, 1000)[0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "jobs.sqlite")


def test_a_job_is_there_after_a_restart(store: Store, tmp_path: Path) -> None:
    job = queue(store)
    store.close()
    assert Store(tmp_path / "jobs.sqlite").find(job.id) == job


def test_a_late_word_of_an_earlier_attempt_changes_nothing(store: Store) -> None:
    job = queue(store)
    first = store.begin(job.seq, "2" * 64)
    assert first is not None and store.requeue(first)
    second = store.begin(job.seq, "2" * 64)
    assert second is not None and second.attempt == 2
    assert not store.complete(first, {}, 1) and not store.fail(first, "a", "b") and not store.stopped(first)
    assert store.complete(second, {"bytes": 1}, 1)
    assert not store.requeue(second) and not store.fail(second, "a", "b")
    done = store.find(job.id)
    assert done is not None and done.state is State.COMPLETED


def test_a_job_is_begun_once(store: Store) -> None:
    job = queue(store)
    assert store.begin(job.seq, "2" * 64) is not None
    assert store.begin(job.seq, "2" * 64) is None


def test_a_poll_reads_those_that_wait_in_their_order_and_not_all_of_their_rows(store: Store) -> None:
    late, begun, first = queue(store, priority=-1), queue(store), queue(store, priority=1)
    store.begin(begun.seq, "2" * 64)
    assert store.waiting() == [(job.id, job.request) for job in store.queued()]
    assert [id for id, _ in store.waiting()] == [first.id, late.id]


def test_one_idempotency_key_is_one_job(store: Store) -> None:
    asked = new(idempotency_key="k")
    job, replayed = store.create(asked, 9, 9)
    again, replayed_again = store.create(replace(asked, id=new_id()), 9, 9)
    assert (job.id, replayed, replayed_again) == (again.id, False, True)
    with pytest.raises(Refused, match="came with another request") as refused:
        store.create(replace(asked, id=new_id(), request_sha256="f" * 64), 9, 9)
    assert (refused.value.status, refused.value.code) == (422, "idempotency_key_reused")
    assert not store.create(replace(asked, id=new_id(), owner="other"), 9, 9)[1]


def test_a_full_queue_refuses(store: Store) -> None:
    for _ in range(2):
        store.create(new("a"), 3, 2)
    with pytest.raises(Refused, match="your part"):
        store.create(new("a"), 3, 2)
    store.create(new("b"), 3, 2)
    with pytest.raises(Refused, match="the queue is full"):
        store.create(new("c"), 3, 2)


def test_pages_go_through_every_job_once(store: Store) -> None:
    ids = [queue(store, "me").id for _ in range(7)]
    queue(store, "other")
    seen: list[str] = []
    after = None
    while True:
        jobs, more = store.page("me", after, 3, True)
        seen += [job.id for job in jobs]
        after = jobs[-1].id
        if not more:
            break
    assert seen == ids[::-1]
    with pytest.raises(Refused, match="after"):
        store.page("other", ids[0], 3, True)


def test_recovery_puts_every_orphan_where_it_belongs(store: Store) -> None:
    jobs = {name: queue(store) for name in ("plain", "cancelled", "deleted", "tired", "queued", "done")}
    for name, job in jobs.items():
        for _ in range(MAX_BEGUN if name == "tired" else 1 if name != "queued" else 0):
            begun = store.begin(job.seq, "2" * 64)
            assert begun is not None
            if name == "tired" and begun.attempt < MAX_BEGUN:
                store.requeue(begun)
            if name == "done":
                store.complete(begun, {"bytes": 1}, 60)
    store.cancel(jobs["cancelled"].id)
    assert not store.delete(jobs["deleted"].id)
    assert {job.id for job in store.recover()} == {jobs[n].id for n in ("plain", "cancelled", "deleted", "tired")}
    states = {name: store.any_state(job.id) for name, job in jobs.items()}
    assert states["deleted"] is None
    assert {name: job.state.value for name, job in states.items() if job} == {
        "plain": "queued",
        "cancelled": "cancelled",
        "tired": "failed",
        "queued": "queued",
        "done": "completed",
    }
    assert states["tired"] is not None and states["tired"].error_code == "worker_lost"
    assert [job.id for job in store.queued()] == [jobs["plain"].id, jobs["queued"].id], "its place in the queue is kept"


def test_a_killed_server_does_not_count_as_a_lost_worker(store: Store) -> None:
    job = queue(store)
    for _ in range(MAX_BEGUN - 1):
        assert store.begin(job.seq, "2" * 64) is not None
        store.recover()
    now = store.find(job.id)
    assert now is not None and (now.state, now.attempt, now.lost) == (State.QUEUED, MAX_BEGUN - 1, 0)


def test_a_table_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    with contextlib.closing(Store(path)) as store:
        id = queue(store).id
    with contextlib.closing(sqlite3.connect(path)) as table:
        table.executescript("ALTER TABLE jobs DROP COLUMN lost; PRAGMA user_version=1;")
    with contextlib.closing(Store(path)) as store:
        job = store.find(id)
        assert job is not None and job.lost == 0 and store.begin(job.seq, "2" * 64) is not None
    with contextlib.closing(sqlite3.connect(path)) as table:
        assert table.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_job_that_was_deleted_is_not_seen_any_more(store: Store) -> None:
    job = queue(store)
    begun = store.begin(job.seq, "2" * 64)
    assert begun is not None
    store.delete(job.id)
    assert store.find(job.id) is None and store.page(None, None, 9, True) == ([], False)
    assert store.complete(begun, {"bytes": 1}, 60), "the worker's word is taken"
    assert store.remove_deleted(job.id) and store.any_state(job.id) is None


def test_what_is_old_expires(tmp_path: Path) -> None:
    now = [1000.0]
    store = Store(tmp_path / "jobs.sqlite", clock=lambda: now[0])
    job = queue(store)
    begun = store.begin(job.seq, "2" * 64)
    assert begun is not None and store.complete(begun, {"bytes": 1}, keep_s=10)
    assert store.expire(100) == ([], [])
    now[0] = 1010
    assert store.expire(100) == ([job.id], [])
    now[0] = 1100
    assert store.expire(100)[1] == [job.id] and store.find(job.id) is None


def test_a_clock_that_is_set_back_keeps_the_order(tmp_path: Path) -> None:
    now = [1000.0]
    store = Store(tmp_path / "jobs.sqlite", clock=lambda: now[0])
    first = queue(store)
    now[0] = 10.0
    second = queue(store)
    assert [job.id for job in store.queued()] == [first.id, second.id]
    assert [job.id for job in store.page(None, None, 9, True)[0]] == [second.id, first.id]


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    table = open_table(tmp_path / "jobs.sqlite")
    store = Store(tmp_path / "jobs.sqlite", table=table)
    job = queue(store)
    begun = store.begin(job.seq, "2" * 64)
    assert begun is not None
    (pages,) = table.execute("PRAGMA page_count").fetchone()
    table.execute(f"PRAGMA max_page_count={pages}")
    big = {"fields": {"prompt": "x" * 100_000}}
    with pytest.raises(StoreError, match="the disk is full"):
        store.create(new(request=big), 9, 9)
    with pytest.raises(StoreError, match="the disk is full"):
        store.fail(begun, "a", "x" * 100_000)
    assert store.find(job.id) == begun
    table.execute("PRAGMA max_page_count=100000")
    assert store.fail(begun, "a", "b")


def test_a_newer_table_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as table:
        table.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="newer ffrt"):
        Store(newer)
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="could not be used"):
        Store(damaged)


class Machine(RuleBasedStateMachine):
    """Calls in any order: every change of state is one that the machine allows, and none is lost."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(Path(":memory:"))
        self.known: dict[str, Job] = {}
        self.seqs: dict[str, int] = {}
        self.attempts: list[Job] = []

    @rule(target=jobs, owner=st.sampled_from("ab"), priority=st.integers(-1, 1))
    def create(self, owner: str, priority: int) -> str:
        job = queue(self.store, owner, priority=priority)
        self.known[job.id], self.seqs[job.id] = job, job.seq
        return job.id

    @rule(id=jobs)
    def begin(self, id: str) -> None:
        begun = self.store.begin(self.seqs[id], "2" * 64)
        if begun is not None:
            self.attempts.append(begun)

    @rule(id=jobs)
    def cancel(self, id: str) -> None:
        job, _ = self.store.cancel(id)
        assert job is None or job.state is not State.QUEUED

    @rule(id=jobs)
    def delete(self, id: str) -> None:
        self.store.delete(id)

    @rule(data=st.data(), word=st.sampled_from(["complete", "fail", "stopped", "requeue", "checkpoint", "warn"]))
    def hear(self, data: st.DataObject, word: str) -> None:
        if not self.attempts:
            return
        job = data.draw(st.sampled_from(self.attempts))
        calls = {
            "complete": lambda: self.store.complete(job, {"bytes": 1}, 1e9),
            "fail": lambda: self.store.fail(job, "a", "b"),
            "stopped": lambda: self.store.stopped(job),
            "requeue": lambda: self.store.requeue(job),
            "checkpoint": lambda: self.store.at_checkpoint(job, "keyframes"),
            "warn": lambda: self.store.warn(job, "a"),
        }
        before = self.store.any_state(job.id)
        current = before is not None and (before.state, before.attempt) == (State.IN_PROGRESS, job.attempt)
        done = calls[word]()
        assert done == current or (word == "warn" and before is not None and "a" in before.warnings)
        self.store.remove_deleted(job.id)

    @rule()
    def recover(self) -> None:
        self.store.recover()
        assert self.store.running() == []

    @invariant()
    def steps_are_allowed(self) -> None:
        for id, before in list(self.known.items()):
            now = self.store.any_state(id)
            if now is None:
                del self.known[id]
                continue
            reached = {before.state}
            for _ in range(3):  # a rule may take several steps at once
                reached |= {after for state in reached for after in STEPS[state]}
            assert now.state in reached
            assert not before.state.terminal or now.state is before.state
            assert now.attempt >= before.attempt and now.seq == before.seq
            self.known[id] = now


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
