"""How much a server takes on, and for how long it keeps what it made."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ffrt.serve.errors import Refused

HOUR_S = 3600.0


@dataclass(frozen=True)
class Limits:
    """Defaults of `ffrt serve`. Sizes in bytes, times in seconds; None for `disk_floor` is 2 GB or 5 % of the disk."""

    queue: int = 64
    queue_per_key: int = 16
    per_minute: int = 60
    steps: int = 100
    prompt: int = 2000
    pixels: int = 2  # times those of the bundle's own size
    picture: int = 20 << 20
    body: int = 64 << 10
    body_with_picture: int = 28 << 20
    requests: int = 256
    sync: int = 4
    streams: int = 64
    streams_per_key: int = 8
    stream_s: float = HOUR_S
    cancel_s: float = 10.0
    drain_s: float = 30.0
    keep_s: float = 24 * HOUR_S
    keep_rows_s: float = 7 * 24 * HOUR_S
    max_disk: int | None = None
    disk_floor: int | None = None
    disk_wait_s: float = 60.0

    def floor(self, total: int) -> int:
        """The bytes of a disk of `total` that stay free."""
        return max(2_000_000_000, total // 20) if self.disk_floor is None else self.disk_floor


class Rate:
    """At most so many calls a minute for each key, in a window that moves; for one thread."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = per_minute, clock
        self._calls: dict[str, deque[float]] = {}

    def take(self, owner: str) -> None:
        """Count a call. Raises Refused for one too many, with the time to wait."""
        now_s, calls = self._clock(), self._calls.setdefault(owner, deque())
        while calls and calls[0] <= now_s - 60:
            calls.popleft()
        if len(calls) >= self._most:
            wait = max(1, round(calls[0] + 60 - now_s)) if calls else 60
            raise Refused(
                429,
                "rate_limit_exceeded",
                f"expected at most {self._most} new videos a minute; wait {wait} s",
                headers={"retry-after": str(wait)},
            )
        calls.append(now_s)


class Slots:
    """Places of which so many may be taken at a time, by all and by each key; for one thread."""

    def __init__(self, what: str, most: int, most_of_owner: int) -> None:
        self._what, self._most, self._most_of_owner = what, most, most_of_owner
        self._taken: dict[str, int] = {}

    @property
    def taken(self) -> int:
        """How many are taken."""
        return sum(self._taken.values())

    def take(self, owner: str) -> None:
        """Take one. Raises Refused if there is none."""
        mine = self._taken.get(owner, 0)
        if self.taken >= self._most or mine >= self._most_of_owner:
            raise Refused(
                429,
                "rate_limit_exceeded",
                f"expected at most {self._most} {self._what}, {self._most_of_owner} of one key; end one",
                headers={"retry-after": "5"},
            )
        self._taken[owner] = mine + 1

    def give(self, owner: str) -> None:
        """Give one back."""
        left = self._taken.get(owner, 1) - 1
        if left > 0:
            self._taken[owner] = left
        else:
            self._taken.pop(owner, None)
