"""Sessions of the page: a browser shows its API key once and has a cookie from then on.

So a picture, a video with ranges and an event stream can be asked for, which carry no header of a page's own, and no
key lies in the browser. Sessions are held in memory; a server that starts anew has none.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ffrt.serve.keys import Key, Keys

LASTS_S = 12 * 3600.0
MOST, MOST_OF_KEY = 1000, 32


@dataclass(frozen=True)
class Session:
    """One browser. `digest` is that of its token; `ends_s` is of a monotonic clock."""

    digest: str
    key: Key
    ends_s: float


class Sessions:
    """Who is logged in: at most 1000, 32 of one key, for 12 hours each. The oldest make room. For any thread."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._clock = keys, clock
        self._lock = threading.Lock()
        self._sessions: tuple[Session, ...] = ()

    def begin(self, key: Key) -> str:
        """Log in; the token of the new session, which is nowhere else."""
        token = secrets.token_urlsafe(32)
        now_s = self._clock()
        new = Session(_digest(token), key, now_s + LASTS_S)
        with self._lock:
            alive = [one for one in self._sessions if one.ends_s > now_s]
            mine = [one for one in alive if one.key.name == key.name]
            too_many = set(mine[: max(0, len(mine) - MOST_OF_KEY + 1)])
            alive = [one for one in alive if one not in too_many]
            self._sessions = (*alive[max(0, len(alive) - MOST + 1) :], new)
        return token

    def find(self, token: str) -> Key | None:
        """Whose session it is: None if it is over, or its key is not in the file any more.

        Every session is compared, in the same time whatever comes.
        """
        digest, now_s = _digest(token), self._clock()
        with self._lock:
            sessions = self._sessions
        found = None
        for session in sessions:
            if hmac.compare_digest(session.digest, digest):
                found = session
        return None if found is None or found.ends_s <= now_s else self._keys.still(found.key)

    def end(self, token: str) -> None:
        """Log out."""
        digest = _digest(token)
        with self._lock:
            self._sessions = tuple(one for one in self._sessions if not hmac.compare_digest(one.digest, digest))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
