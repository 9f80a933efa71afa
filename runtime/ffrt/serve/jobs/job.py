"""A job as its row has it, and the states that it may be in."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_LOST = 3
"""A job whose worker was lost so often, while the server lived, is given up: it may be what kills its worker."""
MAX_BEGUN = 10
"""Nor is a job begun more often than this, whoever was killed: it may be what kills the whole server."""


class State(StrEnum):
    """Where a job is. The last three are for ever."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return self not in (State.QUEUED, State.IN_PROGRESS)


STEPS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.IN_PROGRESS, State.CANCELLED}),
    State.IN_PROGRESS: frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""The state machine: what may follow a state."""


@dataclass(frozen=True)
class NewJob:
    """What a job is before it has a row. `request` is what the worker runs and what clients are shown."""

    id: str
    owner: str
    request: Mapping[str, Any]
    request_sha256: str
    bundle_digest: str
    priority: int = 0
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Job:
    """A row of the table. Times are Unix seconds.

    `attempt` counts the runs that were begun, `lost` those whose worker was lost.
    """

    seq: int
    id: str
    owner: str
    state: State
    request: Mapping[str, Any]
    request_sha256: str
    idempotency_key: str | None
    bundle_digest: str
    priority: int
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None
    attempt: int
    cancel_requested: bool
    deleted: bool
    checkpoint: str | None
    warnings: tuple[str, ...]
    error_code: str | None
    error_message: str | None
    result: Mapping[str, Any] | None
    lost: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Job:
        """The job of a row."""
        values = dict(row)
        values["state"] = State(values["state"])
        values["request"] = json.loads(values["request"])
        values["warnings"] = tuple(json.loads(values["warnings"]))
        values["result"] = None if values["result"] is None else json.loads(values["result"])
        values["cancel_requested"], values["deleted"] = bool(values["cancel_requested"]), bool(values["deleted"])
        return cls(**values)


def new_id() -> str:
    """A name that nobody can guess."""
    return f"video_{secrets.token_hex(16)}"
