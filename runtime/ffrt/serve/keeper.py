"""What happens by itself: old files go, the disk keeps its floor, memory goes back, the table is seen to work."""

from __future__ import annotations

import logging
import threading

from ffrt.serve import memory
from ffrt.serve.errors import StoreError
from ffrt.serve.jobs.data import Data
from ffrt.serve.jobs.job import State
from ffrt.serve.jobs.store import Store
from ffrt.serve.jobs.thread import StoreThread
from ffrt.serve.limits import Limits

logger = logging.getLogger("ffrt.serve")
EVERY_S = 10.0


class Keeper:
    """A thread that looks after a data folder until `close`."""

    def __init__(self, store: StoreThread, data: Data, limits: Limits) -> None:
        self._store, self._data, self._limits = store, data, limits
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, name="ffrt-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, after what is under way."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def once(self) -> None:
        """One round. Raises StoreError or OSError."""
        memory.tidy()
        self._store.wait(Store.probe)
        expired, removed = self._store.wait(Store.expire, self._limits.keep_rows_s)
        taken = self._data.bytes_of_files()
        for id in expired:  # of days, and most had their files removed long ago
            if taken.pop(id, None) is not None:
                self._data.forget_files(id)
        for id in removed:
            taken.pop(id, None)
            self._data.forget(id)
        if self._limits.max_disk is None:
            return
        total = sum(taken.values())
        for id in self._store.wait(Store.ids, State.COMPLETED):
            if total <= self._limits.max_disk:
                break
            if id in taken:
                logger.info("its files go, to make room", extra={"video_id": id})
                self._store.wait(Store.expire_now, id)
                self._data.forget_files(id)
                total -= taken[id]

    def _live(self) -> None:
        while not self._closing.wait(EVERY_S):
            try:
                self.once()
            except (StoreError, OSError) as error:
                logger.error("%s", error)
