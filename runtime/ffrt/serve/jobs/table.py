"""The table of jobs: its columns, how it is opened, and faults of the disk as errors of ours."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ffrt.files import shown
from ffrt.serve.errors import StoreError

VERSION = 2
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON")
SCHEMA = """
CREATE TABLE jobs(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('queued','in_progress','completed','failed','cancelled')),
  request TEXT NOT NULL, request_sha256 TEXT NOT NULL, idempotency_key TEXT,
  bundle_digest TEXT NOT NULL, priority INTEGER NOT NULL DEFAULT 0,
  created_at REAL NOT NULL, started_at REAL, completed_at REAL, expires_at REAL,
  attempt INTEGER NOT NULL DEFAULT 0, cancel_requested INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0,
  checkpoint TEXT, warnings TEXT NOT NULL DEFAULT '[]', error_code TEXT, error_message TEXT,
  result TEXT, lost INTEGER NOT NULL DEFAULT 0,
  UNIQUE(owner, idempotency_key)) STRICT;
CREATE INDEX jobs_next ON jobs(state, priority DESC, seq);
"""
FROM_1 = "ALTER TABLE jobs ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;"
"""What makes a table of version 1 one of version 2."""


@contextlib.contextmanager
def faults(path: Path) -> Iterator[None]:
    """Errors of SQLite in the block become a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        advice = "the disk is full; free some space" if full else "check the disk"
        raise StoreError(f"data: {shown(path)!r} could not be used ({error}); {advice}") from error


def open_table(path: Path) -> sqlite3.Connection:
    """The database at `path`, made if it is not there, and brought up to date if it is older.

    Raises StoreError, for a newer one too. The connection is for one thread at a time.
    """
    with faults(path):
        table = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        table.row_factory = sqlite3.Row
        for pragma in PRAGMAS:
            table.execute(f"PRAGMA {pragma}")
        (version,) = table.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            table.close()
            raise StoreError(
                f"data: {shown(path)!r} is of a newer ffrt (version {version}, this one knows {VERSION}); upgrade ffrt"
            )
        if version < VERSION:
            steps = FROM_1 if version == 1 else SCHEMA
            table.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version={VERSION}; COMMIT;")
    return table
