"""Clients of every kind, for as long as a soak lasts: videos of many sizes and rates, and all that can go wrong."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from bench.harness.record import BenchError
from bench.serving.server import Client, Server
from bench.serving.sizes import Sizes

AHEAD = 3
"""Videos that wait, so that the place never idles."""
KEPT = 8
"""Finished videos that are left; older ones are deleted."""


class Traffic:
    """A thread that asks one server for this and that until it is stopped. The same seed asks for the same."""

    def __init__(self, server: Server, sizes: Sizes, seed: int = 0) -> None:
        self._server, self._sizes, self._random = server, sizes, random.Random(seed)
        self._stop = threading.Event()
        self._ids: list[str] = []
        self._error: BaseException | None = None
        self.done: Counter[str] = Counter()
        with server.client() as client:
            self._card: dict[str, Any] = client.ask("GET", "/v1/models").json["data"][0]
        self._thread = threading.Thread(target=self._live, name="traffic", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop. Raises BenchError if the server did what it must not."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise BenchError(f"soak: the traffic broke off: {self._error!r}") from self._error

    def check(self) -> None:
        """Raises BenchError if the traffic has broken off."""
        if self._error is not None:
            self.close()

    def _live(self) -> None:
        try:
            with self._server.client() as client:
                number = 0
                while not self._stop.is_set():
                    number += 1
                    self._keep_busy(client, number)
                    kind = self._random.choice(KINDS)
                    kind(self, client)
                    self.done[kind.__name__.strip("_")] += 1
                    self._stop.wait(self._random.uniform(0.05, 0.5))
        except Exception as error:
            self._error = error

    def _keep_busy(self, client: Client, number: int) -> None:
        """Queue videos until some wait, and delete those that have been there for long."""
        page = client.ask("GET", "/v1/videos?limit=100").json["data"]
        waiting = sum(video["status"] in ("queued", "in_progress") for video in page)
        for _ in range(AHEAD - waiting):
            self._ids.append(client.create(self._request(number)))
            self.done["created"] += 1
        ended = [video["id"] for video in page if video["status"] not in ("queued", "in_progress")]
        for id in ended[KEPT:]:
            self._expect(client.ask("DELETE", f"/v1/videos/{id}"), 200, 202, 404)
            self.done["removed"] += 1
        known = {video["id"] for video in page}
        self._ids = [id for id in self._ids if id in known or id in self._ids[-AHEAD:]]

    def _request(self, number: int) -> dict[str, Any]:
        """Mostly small ones; now and then the highest rate, the size turned, or another file."""
        width, height = (int(side) for side in self._card["size"].split("x"))
        more: dict[str, Any] = {
            "num_inference_steps": self._random.choice((2, 3, 4)),
            "fps": self._random.choice((*self._card["fps"][:2], *self._card["fps"][:2], self._card["fps"][-1])),
            "size": self._random.choice((f"{width}x{height}", f"{width}x{height // 2}", f"{width // 2}x{height}")),
            "output_format": self._random.choice(("mp4", "mp4", "webm", "gif")),
        }
        return {**self._sizes.fields(number), **more}

    def _expect(self, answer: Any, *statuses: int) -> None:
        if answer.status not in statuses:
            raise BenchError(f"expected a status of {statuses}, got {answer.status} {answer.body!r:.300}")

    def _some_id(self) -> str:
        return self._random.choice(self._ids)

    def poll(self, client: Client) -> None:
        """A look at one video."""
        self._expect(client.ask("GET", f"/v1/videos/{self._some_id()}"), 200, 404)

    def read(self, client: Client) -> None:
        """A file, whole or in part, or a picture of it."""
        variant = self._random.choice(("video", "thumbnail", "spritesheet"))
        headers = self._random.choice(({}, {"range": "bytes=0-99"}))
        answer = client.ask("GET", f"/v1/videos/{self._some_id()}/content?variant={variant}", headers=headers)
        self._expect(answer, 200, 206, 404)

    def cancel(self, client: Client) -> None:
        """A cancelled video, whatever its state."""
        self._expect(client.ask("POST", f"/v1/videos/{self._ids[-1]}/cancel"), 200, 404)

    def delete(self, client: Client) -> None:
        """A deleted video, whatever its state."""
        self._expect(client.ask("DELETE", f"/v1/videos/{self._some_id()}"), 200, 202, 404)

    def refused(self, client: Client) -> None:
        """A request that cannot be."""
        wrong = self._random.choice(({"size": "1x1"}, {"fps": 7}, {"seconds": "99"}, {"nothing": 1}, {"prompt": ""}))
        self._expect(client.ask("POST", "/v1/videos", {**self._sizes.fields(0), **wrong}), 400)

    def vanish(self, client: Client) -> None:
        """A reader of events that is gone after a moment, without a word."""
        with contextlib.suppress(OSError, http.client.HTTPException), self._server.client() as reader:
            reader.stream(f"/v1/videos/{self._ids[-1]}/events").read(200)

    def metrics(self, client: Client) -> None:
        """What an operator looks at."""
        self._expect(client.ask("GET", "/metrics"), 200)
        self._expect(client.ask("GET", "/health/ready"), 200)


KINDS: tuple[Callable[[Traffic, Client], None], ...] = (
    *[Traffic.poll] * 6,
    *[Traffic.read] * 4,
    Traffic.cancel,
    Traffic.delete,
    *[Traffic.refused] * 2,
    *[Traffic.vanish] * 2,
    Traffic.metrics,
)
