"""The files of deploy/ are checked by the programs that know their formats, where those are installed."""

from __future__ import annotations

import importlib.util

NEEDED = ("check_jsonschema", "kubernetes_validate", "promql_parser", "yaml", "fastapi", "httpx")
if any(importlib.util.find_spec(name) is None for name in NEEDED):
    collect_ignore_glob = ["test_*.py"]
