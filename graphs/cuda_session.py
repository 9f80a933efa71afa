"""One session with the CUDA provider, and what became of its graph: the child process of :mod:`graphs.placement`.

Reads a JSON object from standard input, ``{"graphs": {NAME: {"path": ..., "sizes": {AXIS: SIZE}}}, "options": {...}}``,
and writes one line of JSON a graph: its name, the providers, the operators each took, and those after optimisation.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort  # type: ignore[import-untyped]


def assignment(path: Path, sizes: Mapping[str, int], options: Mapping[str, str]) -> dict[str, Any]:
    """Build a session with axes of the given sizes; raises what ONNX Runtime raises where it cannot."""
    with tempfile.TemporaryDirectory() as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.optimized_model_filepath = str(optimised)
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for axis, size in sizes.items():
            settings.add_free_dimension_override_by_name(axis, size)
        session = ort.InferenceSession(str(path), settings, providers=[("CUDAExecutionProvider", dict(options))])
        taken: dict[str, Counter[str]] = {}
        for part in session.get_provider_graph_assignment_info():
            taken.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
        nodes = onnx.load(optimised, load_external_data=False).graph.node
        return {
            "providers": session.get_providers(),
            "taken": taken,
            "after": Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes),
        }


def main() -> None:
    """Answer the request."""
    request = json.load(sys.stdin)
    for name, graph in request["graphs"].items():
        answer = {"graph": name, **assignment(Path(graph["path"]), graph["sizes"], request["options"])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
