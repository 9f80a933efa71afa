"""Check one golden file, whatever it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from export.golden.cases import cases_of
from export.golden.file import LIMIT, Row, read_golden
from export.golden.network import Run
from export.golden.pipeline import check_pipeline
from export.golden.samplers import check_samplers
from export.onnx.parity import errors


def check_file(path: Path, onnx: bool) -> Iterator[Row]:
    """A row for each output and each runtime to run it. Raises CheckpointError for a file of no known kind."""
    golden = read_golden(path)
    if golden.config.get("release") is not None:
        yield from check_pipeline(path.name, golden, onnx)
        return
    if not golden.config:
        yield from check_samplers(path.name, golden)
        return
    cases = cases_of(golden)
    for runtime in ("PyTorch", "ONNX") if onnx else ("PyTorch",):
        runs: dict[int, Run] = {}
        for case in cases:
            network = case.network
            if id(network) not in runs:
                runs[id(network)] = network.in_torch() if runtime == "PyTorch" else network.in_onnx()
            value = runs[id(network)](case.feed)[network.signature[1][0].name]
            largest, relative = errors(case.expected, value[:, : case.kept])
            yield Row(path.name, case.output, runtime, largest, relative, "relative", LIMIT)
