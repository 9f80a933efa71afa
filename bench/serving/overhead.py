"""What serving costs: the same videos one after the other by the bare pipeline and by the server, block by block.

The server's time is from the start of the first job to the end of the last, as the rows of its table have them, so all
that is between is in it: previews, thumbnails, sprite sheets, files brought to the disk, rows. Clients' time is from
the first request to the end of the last video as they see it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.harness.program import target
from bench.harness.record import BenchError
from bench.harness.run import ratio_of, rounds, say, summary
from bench.metrics.intervals import mean_interval
from bench.serving.bare import Bare
from bench.serving.processes import usage
from bench.serving.server import Client, Server, serving
from bench.serving.sizes import Sizes

MOST_PERCENT = 3.0
WORDS = {
    "bare": "the pipeline alone",
    "served": "the server",
    "watched": "the server, a stream of events and every preview read",
}


class Blocks:
    """What is timed, and what the rows and the clients say beside the clock of `rounds`."""

    def __init__(self, server: Server, bare: Bare, folder: Path, sizes: Sizes, worker: int) -> None:
        self._server, self._bare, self._folder, self._sizes = server, bare, folder, sizes
        self.client, self._worker = server.client(), worker
        self.own_s: dict[str, list[float]] = {name: [] for name in WORDS}
        self.cpu_s: dict[str, list[float]] = {name: [] for name in WORDS}
        self.previews: list[int] = []

    def bare(self) -> None:
        """A block of the pipeline."""
        before_s = cpu_s(self._bare.pid)
        seconds = [self._bare.make(self._sizes.fields(number), self._folder / "bare.mp4") for number in self._numbers()]
        self.own_s["bare"].append(sum(seconds))
        self.cpu_s["bare"].append(cpu_s(self._bare.pid) - before_s)

    def served(self) -> None:
        """A block of the server, which nobody watches."""
        before_s = cpu_s(self._worker)
        ids = [self.client.create(self._sizes.fields(number)) for number in self._numbers()]
        for id in ids:
            self.client.until_done(id, 0.1)
        self._keep("served", ids, before_s)

    def watched(self) -> None:
        """A block of the server, with an open page for each video."""
        before_s = cpu_s(self._worker)
        ids = [self.client.create(self._sizes.fields(number)) for number in self._numbers()]
        seen: list[int] = []
        pages = [threading.Thread(target=lambda id=id: seen.append(watch(self._server, id))) for id in ids]
        for page in pages:
            page.start()
        for page in pages:
            page.join()
        if len(seen) < len(ids):
            raise BenchError("overhead: a stream of events broke off")
        self.previews.append(sum(seen))
        self._keep("watched", ids, before_s)

    def _numbers(self) -> range:
        return range(self._sizes.block)

    def _keep(self, name: str, ids: Sequence[str], before_s: float) -> None:
        rows = self._server.rows(ids)
        if states := {row["state"] for row in rows} - {"completed"}:
            raise BenchError(f"overhead: expected completed videos, got {sorted(states)}")
        self.cpu_s[name].append(cpu_s(self._worker) - before_s)
        self.own_s[name].append(max(row["completed_at"] for row in rows) - min(row["started_at"] for row in rows))


def cpu_s(pid: int) -> float:
    """Seconds of processor time of a process. Raises BenchError if it is gone."""
    found = usage(pid)
    if found is None:
        raise BenchError("overhead: a process ended")
    return found.cpu_s


def watch(server: Server, id: str) -> int:
    """Read the events of a video to its end and fetch every preview that they name; how many that were."""
    previews = 0
    with server.client() as events, server.client() as pictures:
        name = ""
        for line in lines_of(events, f"/v1/videos/{id}/events"):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: ") and name == "preview":
                previews += pictures.ask("GET", json.loads(line[6:])["url"]).status == 200
            elif line.startswith("data: ") and name in ("completed", "failed"):
                return previews
    raise BenchError("overhead: the stream of events ended before its video")


def lines_of(client: Client, path: str) -> Any:
    """The lines of a stream, one by one."""
    answer = client.stream(path)
    while raw := answer.readline():
        yield raw.decode().rstrip("\n")


def check_same(server: Server, bare: Bare, folder: Path, asked: Mapping[str, Any]) -> None:
    """Raise BenchError unless both make the same frames, compared as the bytes of a gif. All graphs are then open."""
    bare.make(asked, folder / "same.gif")
    with server.client() as client:
        id = client.create({**asked, "output_format": "gif"})
        client.until_done(id)
        served = client.ask("GET", f"/v1/videos/{id}/content").body
    if served != (folder / "same.gif").read_bytes():
        raise BenchError("overhead: the server and the pipeline made different videos")


def overhead(sizes: Sizes) -> dict[str, Any]:
    """The measurement. Raises BenchError where server and pipeline differ."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(sizes.bundle, folder, sizes.threads))
        bare = Bare(sizes.bundle, sizes.threads)
        stack.callback(bare.close)
        worker = server.worker()
        if worker is None:
            raise BenchError("overhead: expected a worker, got none")
        check_same(server, bare, folder, sizes.fields(0))
        blocks = Blocks(server, bare, folder, sizes, worker)
        stack.callback(blocks.client.close)
        say(f"overhead: {sizes.rounds} rounds of 3 blocks of {sizes.block} videos")
        began_s = time.perf_counter()
        calls = {name: getattr(blocks, name) for name in WORDS}
        clients_s = rounds(calls, sizes.rounds, warm_up=0)
        say(f"overhead: {time.perf_counter() - began_s:.0f} s")
    ways = {name: way(name, blocks, clients_s, sizes.block) for name in WORDS}
    return {
        "videos_of_a_block": sizes.block,
        "previews_of_a_video": sum(blocks.previews) / (sizes.block * sizes.rounds),
        "ways": ways,
        "targets": [
            target(WORDS[name], ways[name]["percent"]["median"], MOST_PERCENT, least=False, unit="%")
            for name in ("served", "watched")
        ],
    }


def way(name: str, blocks: Blocks, clients_s: Mapping[str, list[float]], block: int) -> dict[str, Any]:
    """One contender: seconds of a video, videos an hour, and per cent over the bare pipeline, round by round."""
    own_s, bare_s = blocks.own_s[name], blocks.own_s["bare"]
    spread, ratio, clients = summary(own_s), ratio_of(own_s, bare_s), ratio_of(clients_s[name], bare_s)
    worker = ratio_of(blocks.cpu_s[name], blocks.cpu_s["bare"])
    mean = mean_interval([100 * (one / other - 1) for one, other in zip(own_s, bare_s, strict=True)])
    return {
        "video_s": {"median": spread.median_s / block, "iqr": spread.iqr_s / block, "blocks": spread.runs},
        "videos_per_hour": 3600 * block / spread.median_s,
        "percent": {**over(ratio), **{key: mean[key] for key in ("mean", "low", "high")}},
        "clients_percent": over(clients),
        "processor_percent": over(worker),
    }


def over(ratio: Mapping[str, float]) -> dict[str, float]:
    """A ratio as per cent over 1."""
    return {"median": 100 * (ratio["median"] - 1), "iqr": 100 * ratio["iqr"]}
