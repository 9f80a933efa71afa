"""kill -9 of a server, of its worker, or of both, at random moments, while clients ask; and what is there at the end.

`python -m tests.serve.kills BUNDLE FOLDER KILLS SEED` prints one JSON object; `wrong` lists what must not be. Clients
create with idempotency keys, read what is finished, cancel and delete. At the end every job that was ever accepted is
completed with the whole video that the pipeline makes, cancelled, or given
up after three workers or ten attempts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from ffrt import Pipeline, Request
from ffrt.serve.jobs.job import MAX_LOST
from tests.serve.processes import ServerProcess, alive, until

AFTER_START_S = 3.0
AFTER_READY_S = 1.0
JOBS_PER_KILL = 2
FIELDS = [
    {"fps": 2, "num_inference_steps": 4, "output_format": "gif"},
    {"fps": 8, "num_inference_steps": 25, "output_format": "gif"},
    {"fps": 30, "num_inference_steps": 40, "output_format": "gif"},
]
"""As gif: the same frames are then the same file, which x264 does not promise for frames this small."""


class Campaign:
    """Clients and killers of one server after the other, on one data folder."""

    def __init__(self, bundle: Path, folder: Path, seed: int) -> None:
        self.bundle, self.folder, self.rng = bundle, folder, random.Random(seed)
        self.data = folder / "data"
        self.asked: dict[str, dict[str, Any]] = {}  # idempotency key -> request
        self.ids: dict[str, str] = {}  # idempotency key -> id, once it was told
        self.deleted: set[str] = set()
        self.cancelled: set[str] = set()
        self.wrong: list[str] = []
        self.read = self.orphans = 0
        self.killed = {"server": 0, "worker": 0, "both": 0}

    def start(self) -> ServerProcess:
        return ServerProcess(self.bundle, self.data, self.folder / "server.log", "--queue", "10000")

    def ask(self, client: httpx.Client, count: int) -> None:
        """New jobs, and those whose answer was lost."""
        for _ in range(count):
            number = len(self.asked)
            self.asked[f"key-{number}"] = {"prompt": "a red circle", "seed": number % 5, **FIELDS[number % 3]}
        for key, fields in self.asked.items():
            if key not in self.ids:
                answer = client.post("/v1/videos", json=fields, headers={"idempotency-key": key})
                if answer.status_code == 200:
                    self.ids[key] = answer.json()["id"]
                elif answer.status_code != 429:
                    self.wrong.append(f"create: {answer.status_code} {answer.text}")

    def look(self, client: httpx.Client) -> None:
        """Read some jobs, and now and then cancel or delete one."""
        for id in self.rng.sample(sorted(self.ids.values()), min(3, len(self.ids))):
            video = client.get(f"/v1/videos/{id}")
            if video.status_code == 404:
                if id not in self.deleted:
                    self.wrong.append(f"{id} is gone")
                continue
            told = video.json()
            if id in self.deleted:
                self.wrong.append(f"{id} came back")
            if id in self.cancelled and told["state"] != "cancelled":
                self.wrong.append(f"{id} was cancelled and is {told['state']}")
            content = client.get(f"/v1/videos/{id}/content")
            self.read += content.status_code == 200
            digest = hashlib.sha256(content.content).hexdigest()
            # without a digest it was completed between the two requests
            if content.status_code == 200 and told["sha256"] not in (None, digest):
                self.wrong.append(f"{id}: a part of a file was served")
        if self.ids and self.rng.random() < 0.02:
            id = self.rng.choice(sorted(self.ids.values()))
            if self.rng.random() < 0.5:
                with contextlib.suppress(KeyError):
                    if client.post(f"/v1/videos/{id}/cancel").json()["state"] == "cancelled":
                        self.cancelled.add(id)
            elif client.delete(f"/v1/videos/{id}").status_code in (200, 202):
                self.deleted.add(id)

    def one(self) -> None:
        """Start a server, use it, and kill something."""
        server = self.start()
        whom = self.rng.choice(["server", "server", "both", "worker"])
        until_ready = self.rng.random() < 0.6
        with httpx.Client(base_url=server.url, timeout=30) as client:
            with contextlib.suppress(httpx.HTTPError):
                self.ask(client, JOBS_PER_KILL)
            if until_ready:
                server.until_ready()
            ends_s = time.monotonic() + self.rng.uniform(0, AFTER_READY_S if until_ready else AFTER_START_S)
            while time.monotonic() < ends_s:
                self.look(client)
        workers = server.workers()
        self.killed[whom] += 1
        if whom != "server":
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if whom == "worker":
            with httpx.Client(base_url=server.url, timeout=30) as client:
                server.until_ready()
                self.look(client)
            workers = server.workers()
        server.kill()
        gone_s = time.monotonic() + 10
        while any(alive(pid) for pid in workers) and time.monotonic() < gone_s:
            time.sleep(0.01)
        self.orphans += sum(alive(pid) for pid in workers)

    def end(self) -> dict[str, object]:
        """Let everything come to its end, and look at all of it."""
        server = self.start()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while len(self.ids) < len(self.asked):  # those that a full queue refused
                self.ask(client, 0)
                time.sleep(0.1)
            last: dict[str, dict[str, Any]] = {}

            def all_ended() -> bool:
                page = client.get("/v1/videos", params={"limit": 100}).json()
                while True:
                    last.update({video["id"]: video for video in page["data"]})
                    if not page["has_more"]:
                        break
                    page = client.get("/v1/videos", params={"limit": 100, "after": page["last_id"]}).json()
                return all(video["status"] in ("completed", "failed") for video in last.values())

            until(all_ended, 600)
            contents = {id: client.get(f"/v1/videos/{id}/content") for id in last}
        status = server.kill(signal.SIGTERM)
        if status != 0:
            self.wrong.append(f"the last server ended with {status}")
        self.check(last, {id: answer.content for id, answer in contents.items() if answer.status_code == 200})
        states: dict[str, int] = {}
        for video in last.values():
            states[video["state"]] = states.get(video["state"], 0) + 1
        return {
            "killed": self.killed,
            "asked": len(self.asked),
            "states": states,
            "deleted": len(self.deleted),
            "attempts": max((video["attempt"] for video in last.values()), default=0),
            "files read whole meanwhile": self.read,
            "orphans": self.orphans,
            "wrong": self.wrong,
        }

    def check(self, last: dict[str, dict[str, Any]], contents: dict[str, bytes]) -> None:
        """What must be true of every job, of the files, and of the table."""
        expected = self.expected()
        ids = set(self.ids.values())
        if len(ids) != len(self.asked):
            self.wrong.append(f"{len(self.asked)} keys are {len(ids)} jobs")
        if last.keys() != ids - self.deleted:
            self.wrong.append(
                f"lost: {ids - self.deleted - last.keys()}, came back: {last.keys() - ids | last.keys() & self.deleted}"
            )
        for key, id in self.ids.items():
            video = last.get(id)
            if video is None:
                continue
            if video["state"] == "completed":
                fields = self.asked[key]
                if contents.get(id) != expected[json.dumps(fields, sort_keys=True)]:
                    self.wrong.append(f"{id}: not the video that the pipeline makes")
            elif id in contents:
                self.wrong.append(f"{id}: {video['state']}, and has a file")
            elif video["state"] == "failed" and (
                video["error"]["code"] != "worker_lost" or video["attempt"] < MAX_LOST
            ):
                self.wrong.append(f"{id}: {video['error']}")
            elif video["state"] == "cancelled" and id not in self.cancelled:
                self.wrong.append(f"{id}: nobody cancelled it")
        kept = sorted(path.name.split(".")[0] for path in (self.data / "files").iterdir())
        if kept != sorted(id for id in contents for _ in range(3)):
            self.wrong.append(f"files: {len(kept)} for {len(contents)} videos")
        for folder in ("checkpoints", "references"):
            self.wrong += [f"left: {path}" for path in (self.data / folder).iterdir()]
        with contextlib.closing(sqlite3.connect(self.data / "jobs.sqlite")) as table:
            (found,) = table.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            self.wrong.append(f"the table: {found}")
        if self.orphans:
            self.wrong.append(f"{self.orphans} workers outlived their server by 10 s")

    def expected(self) -> dict[str, bytes]:
        """The file that the pipeline itself makes of every request."""
        files = {}
        with Pipeline.from_pretrained(self.bundle, provider="cpu", threads=1) as pipe:
            for fields in self.asked.values():
                name = json.dumps(fields, sort_keys=True)
                if name not in files:
                    own = {key: value for key, value in fields.items() if key != "output_format"}
                    path = self.folder / f"own.{fields['output_format']}"
                    pipe.generate(Request(**own, height=32, width=32)).save(path)
                    files[name] = path.read_bytes()
        return files


def main(bundle: Path, folder: Path, kills: int, seed: int) -> dict[str, object]:
    """So many kills, then the end."""
    campaign = Campaign(bundle, folder, seed)
    for _ in range(kills):
        campaign.one()
    return campaign.end()


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
