"""Some hundred requests that schemathesis makes of `/openapi.json`: no 500, and no answer that is not documented."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ffrt import Bundle
from tests.serve.processes import environment, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed"),
]
UNFIT = {
    "positive_data_acceptance": "sizes, lengths and options fit together or not, which no schema says",
    "ensure_resource_availability": "a video that waits has no preview",
    "allow_header_conformance": "/v1/videos/sync is /v1/videos/{id} for GET, of a video that is not there",
}


def test_no_request_of_the_schema_breaks_the_server(tiny: Bundle, tmp_path: Path) -> None:
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    with serving(tiny.folder, tmp_path / "data", "--queue", "100000", "--drain", "0") as server:
        line = [
            sys.executable,
            "-c",
            program,
            "run",
            f"{server.url}/openapi.json",
            "--max-examples",
            "30",
            "--seed",
            "1",
        ]
        line += ["--exclude-checks", ",".join(UNFIT), "--exclude-path-regex", "events", "--request-timeout", "60"]
        done = subprocess.run(
            [*line, "--suppress-health-check", "all", "--no-color"],
            cwd=tmp_path,
            env={**environment(), "SCHEMATHESIS_HOOKS": "", "COLUMNS": os.environ.get("COLUMNS", "120")},
            capture_output=True,
            text=True,
            timeout=1200,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
