"""What `ffrt serve` was told on the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ffrt.backend.runner import Memory
from ffrt.serve.limits import Limits


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Fields as the flags of `ffrt serve`. None for `bundle` is the demo, for `data` the user's own folder."""

    bundle: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    data: Path | None = None
    keys: Path | None = None
    no_auth: bool = False
    provider: str = "auto"
    threads: int | None = None
    memory: Memory = "fast"
    devices: tuple[int, ...] | None = None
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    ray_places: int | None = None
    ray_cpus: int | None = None
    insecure_ray: bool = False
    limits: Limits = field(default_factory=Limits)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    forwarded_allow_ips: str | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    log_prompts: bool = False

    @property
    def data_folder(self) -> Path:
        """Where jobs and files lie."""
        if self.data is not None:
            return self.data.absolute()
        home = os.environ.get("XDG_STATE_HOME", "")
        return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "ffrt" / "serve"

    @property
    def keys_file(self) -> Path:
        """Where the digests of API keys lie."""
        return self.data_folder / "keys" if self.keys is None else self.keys
