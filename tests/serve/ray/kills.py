"""kill -9 of a server, of a place, or of a whole machine of a Ray cluster, at random moments, while clients ask.

`python -m tests.serve.ray.kills KILLS SEED` prints one JSON object, as `python -m tests.serve.kills` does; `wrong`
lists what must not be. A machine that was killed joins again, and the cluster has two of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.bundles import write_bundle
from tests.serve.kills import Campaign
from tests.serve.processes import ServerProcess, until
from tests.serve.ray.cluster import LoopbackCluster, cluster

HOSTS = ("127.0.0.2", "127.0.0.3")
JOBS_PER_KILL = 5
LONGEST_S = 1.2


class RayCampaign(Campaign):
    """Clients and killers of one server after the other, over the same machines."""

    def __init__(self, bundle: Path, folder: Path, seed: int, loopback: LoopbackCluster) -> None:
        super().__init__(bundle, folder, seed)
        self.loopback = loopback
        self.killed = {"server": 0, "place": 0, "machine": 0, "server and place": 0}
        self.server = self.start()

    def start(self) -> ServerProcess:
        return self.loopback.serve(self.bundle, self.data, "--queue", "10000")

    def one(self) -> None:
        """Ask for jobs, and kill something while they are made."""
        whom = self.rng.choice(["server", "server", "place", "place", "server and place", "machine"])
        self.killed[whom] += 1
        with httpx.Client(base_url=self.server.url, timeout=60) as client:
            self.ask(client, JOBS_PER_KILL)
            if self.rng.random() < 0.8:
                until(lambda: any(place["ready"] for place in client.get("/health/ready").json()["places"]))
            ends_s = time.monotonic() + self.rng.uniform(0, LONGEST_S)
            while time.monotonic() < ends_s:
                self.look(client)
                time.sleep(0.02)
        if "place" in whom:
            for pid in self.loopback.places()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if "server" in whom:
            self.server.kill()
            self.server = self.start()
        if whom == "machine":
            host = self.rng.choice(HOSTS)
            self.loopback.kill(host)
            self.loopback.add(host)

    def end(self) -> dict[str, object]:
        """As of one machine; and after the last server has ended, no place is left."""
        self.server.kill()
        found = super().end()
        until(lambda: self.loopback.places() == [], 30)
        return found


def main(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """So many kills, then the end."""
    bundle = write_bundle(folder / "bundle").folder
    (folder / "ray").mkdir()
    with cluster(folder / "ray", *HOSTS) as loopback:
        campaign = RayCampaign(bundle, folder, seed, loopback)
        try:
            for _ in range(kills):
                campaign.one()
            return campaign.end()
        finally:
            if campaign.server.process.poll() is None:
                campaign.server.kill()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ffrt-kills-") as own:
        print(json.dumps(main(Path(own), int(sys.argv[1]), int(sys.argv[2]))))
