"""The truth about jobs: one SQLite table, written by the API's process alone.

Every change is one transaction that is on the disk when its method returns, and names the state that it leaves: a late
word about an earlier attempt changes nothing. Methods wait for the disk and are for one thread; see `thread.py`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ffrt.serve.errors import Refused
from ffrt.serve.jobs.job import MAX_BEGUN, MAX_LOST, Job, NewJob, State
from ffrt.serve.jobs.table import VERSION, faults, open_table

GIVEN_UP = f"the worker was lost {MAX_LOST} times while it ran this job; it may need more memory than there is"
GIVEN_UP_WITH_SERVER = f"the server was killed while it ran this job, and it was begun {MAX_BEGUN} times"

WAITING = "state='queued' ORDER BY priority DESC, seq"
"""Which jobs wait, and in what order."""


class Store:
    """The jobs in the file `path`. Raises StoreError where the disk fails; nothing is then changed."""

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, table: sqlite3.Connection | None = None
    ) -> None:
        """`table` is the file, opened already."""
        self._path, self._clock = path, clock
        self._table = open_table(path) if table is None else table

    def close(self) -> None:
        """Close the file."""
        self._table.close()

    def probe(self) -> None:
        """Write something that changes nothing: whether the disk takes a write."""
        with self._change() as table:
            table.execute(f"PRAGMA user_version={VERSION}")

    # what the API asks

    def create(self, new: NewJob, most: int, most_of_owner: int) -> tuple[Job, bool]:
        """Queue a job; (job, False), or (the stored job, True) for a request whose idempotency key is known.

        Raises Refused for a full queue, and for a key that came with another request.
        """
        with self._change() as table:
            if new.idempotency_key is not None:
                row = table.execute(
                    "SELECT * FROM jobs WHERE owner=? AND idempotency_key=?", (new.owner, new.idempotency_key)
                ).fetchone()
                if row is not None:
                    if row["request_sha256"] != new.request_sha256 or row["deleted"]:
                        raise Refused(
                            422,
                            "idempotency_key_reused",
                            "Idempotency-Key: expected one key for one request, got one that came with another request",
                            param="Idempotency-Key",
                        )
                    return Job.of(row), True
            for scope, limit, values in (("", most, ()), (" AND owner=?", most_of_owner, (new.owner,))):
                (count,) = table.execute(f"SELECT count(*) FROM jobs WHERE state='queued'{scope}", values).fetchone()
                if count >= limit:
                    whose = "the queue" if not scope else "your part of the queue"
                    raise Refused(
                        429,
                        "queue_full",
                        f"{whose} is full ({limit} jobs); wait until one has begun, or cancel one",
                        headers={"retry-after": "10"},
                    )
            columns = {
                "id": new.id,
                "owner": new.owner,
                "state": State.QUEUED,
                "request": json.dumps(new.request),
                "request_sha256": new.request_sha256,
                "idempotency_key": new.idempotency_key,
                "bundle_digest": new.bundle_digest,
                "priority": new.priority,
                "created_at": self._clock(),
            }
            table.execute(
                f"INSERT INTO jobs({','.join(columns)}) VALUES({','.join('?' * len(columns))})", list(columns.values())
            )
            return self._job("id=?", columns["id"]), False

    def find(self, id: str, owner: str | None = None) -> Job | None:
        """The job of that id, of any owner for None; None if there is none, or it was deleted."""
        with faults(self._path):
            row = self._table.execute("SELECT * FROM jobs WHERE id=? AND deleted=0", (id,)).fetchone()
        return None if row is None or (owner is not None and row["owner"] != owner) else Job.of(row)

    def any_state(self, id: str) -> Job | None:
        """The job of that id, even one that was deleted while it runs."""
        return self._found("id=?", id)

    def page(self, owner: str | None, after: str | None, limit: int, newest_first: bool) -> tuple[list[Job], bool]:
        """At most `limit` jobs that follow the job `after`, and whether there are more. Raises Refused."""
        words, values = ["deleted=0"], list[object]()
        if owner is not None:
            words.append("owner=?")
            values.append(owner)
        if after is not None:
            last = self.find(after, owner)
            if last is None:
                raise Refused(
                    400, "invalid_value", f"after: expected the id of a video, got {after!r:.80}", param="after"
                )
            words.append("seq<?" if newest_first else "seq>?")
            values.append(last.seq)
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT * FROM jobs WHERE {' AND '.join(words)} ORDER BY seq {order} LIMIT ?"
        with faults(self._path):
            rows = self._table.execute(query, [*values, limit + 1]).fetchall()
        return [Job.of(row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, id: str) -> tuple[Job | None, bool]:
        """Cancel a queued job, mark a running one, leave a finished one; None if there is no such job.

        Beside it, whether this call was the job's end: of two at the same time one is.
        """
        with self._change() as table:
            ended = table.execute(
                "UPDATE jobs SET state='cancelled', cancel_requested=1, completed_at=?, error_code='cancelled',"
                " error_message='cancelled before it began' WHERE id=? AND state='queued' AND deleted=0",
                (self._clock(), id),
            ).rowcount
            table.execute("UPDATE jobs SET cancel_requested=1 WHERE id=? AND state='in_progress' AND deleted=0", (id,))
            return self._found("id=? AND deleted=0", id), ended == 1

    def delete(self, id: str) -> Job | None:
        """Remove the row of a job that does not run, and mark one that does; the job if it is gone now."""
        with self._change() as table:
            gone = self._found("id=? AND state!='in_progress'", id)
            table.execute("DELETE FROM jobs WHERE id=? AND state!='in_progress'", (id,))
            table.execute("UPDATE jobs SET deleted=1, cancel_requested=1 WHERE id=? AND state='in_progress'", (id,))
            return gone

    # what the dispatcher asks

    def queued(self) -> list[Job]:
        """The jobs that wait, in order of priority and arrival."""
        return self._jobs(WAITING)

    def waiting(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Ids and requests of the jobs that wait, in their order: what a poll needs, without the rest of their rows."""
        query = f"SELECT id, request FROM jobs WHERE {WAITING}"
        with faults(self._path):
            return [(row["id"], json.loads(row["request"])) for row in self._table.execute(query)]

    def running(self) -> list[Job]:
        """The jobs that were begun."""
        return self._jobs("state='in_progress' ORDER BY seq")

    def begin(self, seq: int, bundle_digest: str) -> Job | None:
        """Take a queued job, to be made with that bundle; None if it is not queued any more."""
        with self._change() as table:
            words = "state='in_progress', attempt=attempt+1, started_at=coalesce(started_at, ?), bundle_digest=?"
            values = (self._clock(), bundle_digest, seq)
            done = table.execute(f"UPDATE jobs SET {words} WHERE seq=? AND state='queued'", values)
            return self._job("seq=?", seq) if done.rowcount == 1 else None

    def at_checkpoint(self, job: Job, stage: str) -> bool:
        """The file of the end of a stage is on the disk."""
        return self._update(job, {"checkpoint": stage})

    def warn(self, job: Job, text: str) -> bool:
        """What a client should know though nothing failed; once, though a later attempt says it again."""
        now = self.any_state(job.id)
        known = () if now is None else now.warnings
        return text in known or self._update(job, {"warnings": json.dumps([*known, text])})

    def complete(self, job: Job, result: Mapping[str, Any], keep_s: float) -> bool:
        """The job's files are in their places."""
        now = self._clock()
        values = {"completed_at": now, "expires_at": now + keep_s, "result": json.dumps(result)}
        return self._update(job, {"state": State.COMPLETED, **values})

    def fail(self, job: Job, code: str, message: str) -> bool:
        """The job came to its end without a video."""
        words = {"error_code": code, "error_message": message}
        return self._update(job, {"state": State.FAILED, "completed_at": self._clock(), **words})

    def stopped(self, job: Job) -> bool:
        """The job was cancelled while it ran."""
        words = {"error_code": "cancelled", "error_message": "cancelled while it ran"}
        return self._update(job, {"state": State.CANCELLED, "completed_at": self._clock(), **words})

    def requeue(self, job: Job, *, counted: bool = True, lost: bool = False) -> bool:
        """Back to its place in the queue; an attempt that was not `counted` is taken back."""
        counts = {"attempt": job.attempt if counted else job.attempt - 1, "lost": job.lost + lost}
        return self._update(job, {"state": State.QUEUED, **counts})

    def remove_deleted(self, id: str) -> bool:
        """Remove the row of a job that was deleted while it ran and has ended; whether it was."""
        with self._change() as table:
            return table.execute("DELETE FROM jobs WHERE id=? AND deleted=1", (id,)).rowcount == 1

    # what happens by itself

    def recover(self) -> list[Job]:
        """Bring the jobs of a server that was killed back into order; returns those that were running."""
        orphans = self.running()
        lost = {"error_code": "worker_lost", "error_message": GIVEN_UP_WITH_SERVER, "completed_at": self._clock()}
        with self._change() as table:
            table.execute("DELETE FROM jobs WHERE deleted=1")
            table.execute(
                "UPDATE jobs SET state='cancelled', error_code='cancelled', completed_at=?,"
                " error_message='cancelled while it ran' WHERE state='in_progress' AND cancel_requested=1",
                (lost["completed_at"],),
            )
            table.execute(
                "UPDATE jobs SET state='failed', error_code=?, error_message=?, completed_at=?"
                f" WHERE state='in_progress' AND attempt>={MAX_BEGUN}",
                list(lost.values()),
            )
            table.execute("UPDATE jobs SET state='queued' WHERE state='in_progress'")
        return orphans

    def expire(self, keep_rows_s: float) -> tuple[list[str], list[str]]:
        """Ids whose files have had their time, and ids whose rows were just removed."""
        now = self._clock()
        expired = self._ids("state='completed' AND expires_at<=?", now)
        with self._change() as table:
            ended = "state IN ('completed','failed','cancelled') AND completed_at<=?"
            removed = self._ids(ended, now - keep_rows_s)
            table.execute(f"DELETE FROM jobs WHERE {ended}", (now - keep_rows_s,))
        return expired, removed

    def expire_now(self, id: str) -> None:
        """The files of a finished job must go, to make room."""
        with self._change() as table:
            now = self._clock()
            table.execute(
                "UPDATE jobs SET expires_at=? WHERE id=? AND state='completed' AND expires_at>?", (now, id, now)
            )

    def ids(self, state: State | None = None) -> list[str]:
        """The ids of all jobs, or of those in one state, oldest first."""
        return self._ids("1 ORDER BY seq") if state is None else self._ids("state=? ORDER BY seq", state)

    def _update(self, job: Job, values: Mapping[str, Any]) -> bool:
        """Change the row of a running attempt; False if that attempt does not run any more."""
        words = ",".join(f"{name}=?" for name in values)
        with self._change() as table:
            done = table.execute(
                f"UPDATE jobs SET {words} WHERE seq=? AND state='in_progress' AND attempt=?",
                [*values.values(), job.seq, job.attempt],
            )
            return done.rowcount == 1

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block or nothing."""
        with faults(self._path):
            self._table.execute("BEGIN IMMEDIATE")
            try:
                yield self._table
                self._table.execute("COMMIT")
            except BaseException:
                if self._table.in_transaction:
                    self._table.execute("ROLLBACK")
                raise

    def _jobs(self, where: str, *values: object) -> list[Job]:
        with faults(self._path):
            return [Job.of(row) for row in self._table.execute(f"SELECT * FROM jobs WHERE {where}", values)]

    def _ids(self, where: str, *values: object) -> list[str]:
        with faults(self._path):
            return [row["id"] for row in self._table.execute(f"SELECT id FROM jobs WHERE {where}", values)]

    def _found(self, where: str, *values: object) -> Job | None:
        return next(iter(self._jobs(where, *values)), None)

    def _job(self, where: str, *values: object) -> Job:
        (job,) = self._jobs(where, *values)
        return job
