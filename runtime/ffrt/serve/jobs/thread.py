"""The one thread in which the table is read and written, so that no event loop waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from ffrt.serve.errors import StoreError
from ffrt.serve.jobs.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class StoreThread:
    """A store, and the thread that it lives in. `works` says whether its last use went well."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, "ffrt-store")
        self.works = True

    def wait(self, method: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the store and wait for it, in any thread but that of an event loop."""
        return self._pool.submit(self._call, partial(method, self._store, *args, **kwargs)).result()

    async def ask(self, method: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same in an event loop, which goes on meanwhile. A caller that is cancelled does not stop the store."""
        future = self._pool.submit(self._call, partial(method, self._store, *args, **kwargs))
        return await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        """Finish what was asked for, and close the store."""
        self._pool.submit(self._store.close).result()
        self._pool.shutdown()

    def _call(self, work: Callable[[], T]) -> T:
        try:
            result = work()
        except StoreError:
            self.works = False
            raise
        self.works = True
        return result
