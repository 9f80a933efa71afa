"""One session with the CUDA provider, and what became of its graph: the child process of `bench.cuda.placement`.

Reads a JSON object from standard input, `{"graphs": {NAME: [{"path": ..., "sizes": {AXIS: SIZE}}]}, "options": {}}`,
the parts of each graph in the order in which they run, and a size of null where earlier ones give it. Writes one line
of JSON a part: its name, the sizes it was built for, the providers, the operators each took, and those that run.
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

Axes = dict[str, int]


def assignment(path: Path, sizes: Mapping[str, int], options: Mapping[str, str]) -> tuple[dict[str, Any], Axes]:
    """Build a session with axes of the given sizes; raises ONNX Runtime's own errors.

    Also returns the axes of its outputs that ONNX Runtime then knows, by their own names and by those that later parts
    have for them (`VALUE_0`, `VALUE_1`: `graphs.optimise`).
    """
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
        known: Axes = {}
        declared = onnx.load(path, load_external_data=False).graph.output
        for output, value in zip(session.get_outputs(), declared, strict=True):
            names = [axis.dim_param for axis in value.type.tensor_type.shape.dim]
            sized = {at: size for at, size in enumerate(output.shape) if isinstance(size, int)}
            known |= {f"{output.name}_{at}": size for at, size in sized.items()}
            known |= {names[at]: size for at, size in sized.items() if at < len(names) and names[at] != ""}
        found = {
            "graph": path.stem,
            "sizes": sizes,
            "providers": session.get_providers(),
            "taken": taken,
            "after": Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes),
        }
        return found, known


def main() -> None:
    """Answer the request."""
    request = json.load(sys.stdin)
    for parts in request["graphs"].values():
        known: Axes = {}
        for part in parts:
            sizes = {axis: known.get(axis) if size is None else size for axis, size in part["sizes"].items()}
            fixed = {axis: size for axis, size in sizes.items() if size is not None}
            answer, learned = assignment(Path(part["path"]), fixed, request["options"])
            known |= learned
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
