"""`python -m bench.cuda.placement BUNDLE`: where ONNX Runtime's CUDA provider would run each node, without a GPU.

The real provider of the onnxruntime-gpu wheel partitions, fuses and lays out every graph of the bundle, over stand-ins
for CUDA's libraries (`bench.cuda.stand_ins`); nothing is computed. Shown for each graph: the nodes that the GPU
and the CPU take, attentions and GroupNorms that run as one kernel out of all, and the Transposes, Casts and copies
between host and device that remain. Axes have the bundle's sizes, as in a session that is opened for one shape, and
values between the parts of a graph have the sizes that follow. With `--open` they are left symbolic, and arithmetic on
shapes then costs copies.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort  # type: ignore[import-untyped]

from bench.cuda.wheel import WHEEL, cache_folder, fetch_wheel, over_stand_ins
from bench.harness.record import write_json
from ffrt.bundle import Bundle, find_bundle, open_bundle
from ffrt.errors import FfrtError, GraphInputError, ProviderError
from ffrt.families import SHALLOW

OPTIONS = {"prefer_nhwc": "1", "cudnn_conv_algo_search": "HEURISTIC"}
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True)
class Placement:
    """Where the nodes of one graph, or part of one, run: by provider, and by operator after optimisation."""

    graph: str
    sizes: Mapping[str, int]
    unknown: Sequence[str]
    """Axes that stayed symbolic."""
    taken: Mapping[str, Mapping[str, int]]
    after: Mapping[str, int]

    @property
    def on_cpu(self) -> Mapping[str, int]:
        """The operators that the CPU takes, and how many of each."""
        return self.taken.get(CPU, {})

    def count(self, *operators: str) -> int:
        """Nodes after optimisation that are one of `operators`, in whatever domain."""
        return sum(number for name, number in self.after.items() if name.rpartition("::")[2] in operators)

    @property
    def attentions(self) -> tuple[int, int]:
        """Fused, and all."""
        fused = self.count("MultiHeadAttention", "Attention", "PackedMultiHeadAttention")
        return fused, fused + self.count("Softmax", "BiasSoftmax")

    @property
    def group_norms(self) -> tuple[int, int]:
        """Fused, and all."""
        fused = self.count("GroupNorm", "SkipGroupNorm")
        return fused, fused + self.count("InstanceNormalization", "GroupNormalization")

    @property
    def transposes(self) -> int:
        """Transposes after optimisation."""
        return self.count("Transpose")

    @property
    def casts(self) -> int:
        """Casts after optimisation."""
        return self.count("Cast")

    @property
    def copies(self) -> int:
        """Memcpy nodes, each a wait of the host."""
        return self.count("MemcpyFromHost", "MemcpyToHost")


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU and the installed ONNX Runtime can use it."""
    return Path("/dev/nvidia0").exists() and CUDA in ort.get_available_providers()


def sizes_of(path: Path, letters: Mapping[str, int]) -> dict[str, int | None]:
    """The symbolic axes of a graph's inputs, products such as `B*T` included; None where `letters` lack one."""
    found: dict[str, int | None] = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        for axis in (dim.dim_param for dim in value.type.tensor_type.shape.dim if dim.dim_param):
            known = [letters.get(part) for part in axis.split("*")]
            found[axis] = math.prod(size for size in known if size is not None) if None not in known else None
    return found


def graphs_of(bundle: Bundle) -> dict[str, list[Path]]:
    """Graph -> its files in the order in which they run; those of step caching follow the network they are of."""
    files = {
        name: [bundle.path(part.file) for part in spec.parts] if spec.parts else [bundle.path(spec.file)]
        for name, spec in sorted(bundle.graphs.items())
    }
    for whole, shallow in SHALLOW.items():
        if shallow in files:
            files[whole] += files.pop(shallow)
    return files


def letters_of(bundle: Bundle) -> dict[str, int]:
    """The sizes of a request as the bundle has it by default, with guidance (letters of docs/how-it-works.md)."""
    video, frames = bundle.video, bundle.keyframes.num_frames
    return {
        "B": 2,
        "T": frames,
        "G": frames - 1,
        "F": 5,
        "N": frames,
        "L": bundle.text.max_tokens,
        "h": video.height // video.downscale,
        "w": video.width // video.downscale,
        "H": video.height,
        "W": video.width,
    }


def place(graphs: Mapping[str, Sequence[Path]], letters: Mapping[str, int], wheel: Path | None) -> list[Placement]:
    """Where the nodes of `graphs` (as of `graphs_of`) run, file by file.

    Axes that neither `letters` nor an earlier file of the same graph know stay symbolic.
    `wheel` is an unpacked onnxruntime-gpu wheel for this Python; None asks the installed one and needs a GPU.
    Raises ProviderError where the provider does not start, GraphInputError where a graph is not taken.
    """
    sizes = {path: sizes_of(path, letters) for parts in graphs.values() for path in parts}
    request = {
        "graphs": {
            name: [{"path": str(path.resolve()), "sizes": sizes[path]} for path in parts]
            for name, parts in graphs.items()
        },
        "options": OPTIONS,
    }
    with tempfile.TemporaryDirectory() as scratch:
        environment = dict(os.environ) if wheel is None else {**os.environ, **over_stand_ins(wheel, Path(scratch))}
        paths = [environment.get("PYTHONPATH", ""), str(Path(__file__).resolve().parents[2])]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        done = subprocess.run(
            [sys.executable, "-m", "bench.cuda.session"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    answers: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(answers) < len(sizes):
        missing = list(sizes)[len(answers)]
        lines = done.stderr.strip().splitlines()
        said = lines[-1] if lines else f"exit status {done.returncode}"
        raise GraphInputError(f"{missing.stem}: the CUDA provider would not take {missing}: {said}")
    for answer in answers:
        if CUDA not in answer["providers"]:
            raise ProviderError(f"the CUDA provider did not start, got {answer['providers']}; {done.stderr[-400:]}")
    return [
        Placement(
            one["graph"],
            one["sizes"],
            [axis for axis in sizes[path] if axis not in one["sizes"]],
            one["taken"],
            one["after"],
        )
        for path, one in zip(sizes, answers, strict=True)
    ]


def table(placements: Sequence[Placement]) -> str:
    """One line per graph, and below it what the CPU takes, if anything."""
    head = ["graph", "GPU", "CPU", "attentions", "GroupNorms", "Transposes", "Casts", "copies"]
    rows = []
    for one in placements:
        taken = sum(one.taken.get(CUDA, {}).values())
        attentions, norms = (f"{fused} of {every}" for fused, every in (one.attentions, one.group_norms))
        numbers = (taken, sum(one.on_cpu.values()), attentions, norms, one.transposes, one.casts, one.copies)
        rows.append([one.graph, *map(str, numbers)])
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for name, *numbers_of in (head, *rows):
        cells = (cell.rjust(wide) for cell, wide in zip(numbers_of, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    lines += [f"{one.graph}, on the CPU: {listed(one.on_cpu)}" for one in placements if one.on_cpu]
    return "\n".join(lines)


def listed(operators: Mapping[str, int]) -> str:
    """`236 Conv, 12 MatMul`, the most frequent first."""
    return ", ".join(
        f"{count} {name}" for name, count in sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.cuda.placement", description=__doc__)
    line.add_argument("bundle", help="folder of the bundle, or 'demo'")
    line.add_argument("--ort", type=Path, help=f"an unpacked {WHEEL} wheel for this Python (fetched once otherwise)")
    line.add_argument("--json", type=Path, help="write all counts to this file")
    line.add_argument("--ops", action="store_true", help="list the operators that run, graph by graph")
    line.add_argument("--open", action="store_true", help="leave the sizes of all axes open")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. 0: the table was shown; 1: it could not be made, and why."""
    asked = parser().parse_args(arguments)
    try:
        bundle = open_bundle(find_bundle(asked.bundle))
        graphs = graphs_of(bundle)
        wheel = asked.ort
        if wheel is None and not has_gpu():
            wheel = fetch_wheel(cache_folder())
        letters = {} if asked.open else letters_of(bundle)
        placements = place(graphs, letters, wheel)
    except FfrtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(placements))
    for one in placements:
        if one.unknown and not asked.open:
            print(f"{one.graph}, of unknown size: {', '.join(one.unknown)}")
    if asked.ops:
        for one in placements:
            sizes = ", ".join(f"{axis} {size}" for axis, size in one.sizes.items() if axis.split("*")[0] in letters)
            print(f"\n{one.graph}{f' ({sizes})' if sizes else ''}\n  {listed(one.after)}")
    if asked.json is not None:
        counts = ("attentions", "group_norms", "transposes", "casts", "copies")
        found = {one.graph: asdict(one) | {name: getattr(one, name) for name in counts} for one in placements}
        write_json(asked.json, {"options": OPTIONS, "wheel": WHEEL, "graphs": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
