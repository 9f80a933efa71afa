"""What an operator sees of a server; needs the packages of the server and an SDK of OpenTelemetry."""

from __future__ import annotations

import importlib.util

if any(importlib.util.find_spec(name) is None for name in ("fastapi", "httpx", "opentelemetry")):
    collect_ignore_glob = ["test_*.py"]
