"""The cost of one denoising step of interpolation, design by design: seconds, FLOPs, memory, parameters.

All designs of a cell interpolate the same clips, start with the same known frames and run the same number of steps.
The timer holds what a step of `ffrt` holds apart from the sampler: inputs, graph, output on the host (so a GPU has been
waited for). Guidance would double the cost of every design and is left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench.harness.flops import count_flops
from bench.harness.record import BenchError
from bench.harness.run import child, progress, ratio_of, rounds, summary
from ffrt import Bundle, Pipeline
from ffrt.sampling import Array
from ffrt.stages.interpolate import GRAPHS, MIDDLE, Feed, Method, graph_feed, noise_shape

TIME = 500.0
IN_A_ROW = 4
"""Steps of a design timed together, as sampling runs them: from the second on, its weights are in the cache."""

DESIGNS: dict[Method, str] = {"group": "group", "masked": "masked_windows", "masked_sequence": "masked_sequence"}
"""The names of the designs in a record."""

ONE_STEP = """
from bench.interp_speed.cost import Cell, stepping
from bench.harness.machine import device_bytes
from ffrt import Pipeline
pipe = Pipeline.from_pretrained(
    argument["bundle"], provider=argument["provider"], threads=argument["threads"], memory=argument["memory"]
)
stepping(pipe, Cell(**argument["cell"]), argument["method"])()
result["device_bytes"] = device_bytes()
"""


@dataclass(frozen=True)
class Cell:
    """One size of the work: clips at once, the pass (8 or 30 fps), pixels along each side of a square picture."""

    clips: int
    fps: int
    side_px: int

    def keyframes(self, bundle: Bundle) -> int:
        """Known frames of a clip: the bundle's keyframes, or the output of the passes before this one.

        Raises BenchError for a rate that is no pass of the bundle.
        """
        count = bundle.keyframes.num_frames
        for one_pass in bundle.interpolation.passes:
            if one_pass.fps == self.fps:
                return count
            count = (MIDDLE + 1) * (count - 1) + 1
        raise BenchError(f"fps: expected a pass of {bundle.name}, got {self.fps}")

    def added(self, bundle: Bundle) -> int:
        """Frames that the pass adds, over all clips."""
        return self.clips * MIDDLE * (self.keyframes(bundle) - 1)


def fed(bundle: Bundle, cell: Cell, method: Method) -> tuple[Feed, Array]:
    """A function that builds the inputs of a step around random known frames, and random latents to denoise."""
    side = cell.side_px // bundle.video.downscale
    shape = (cell.keyframes(bundle), bundle.video.latent_channels, side, side)
    rng = np.random.default_rng(0)
    known = rng.standard_normal((cell.clips, *shape), dtype=np.float32)
    items, *rest = noise_shape(method, shape)
    x = rng.standard_normal((cell.clips * items, *rest), dtype=np.float32)
    skip = next(p.skip_frames for p in bundle.interpolation.passes if p.fps == cell.fps)
    return graph_feed(method, known, skip), x


def stepping(pipe: Pipeline, cell: Cell, method: Method) -> Callable[[], Array]:
    """One denoising step of a design, to be called again and again; returns the prediction."""
    feed, x = fed(pipe.bundle, cell, method)
    graph = pipe.graph(GRAPHS[method])
    return lambda: graph(feed(x, TIME))["prediction"]


def several(step: Callable[[], Array], row: int) -> Callable[[], None]:
    """A call that runs `row` steps."""

    def run() -> None:
        for _ in range(row):
            step()

    return run


def parameters(graph: Path) -> int:
    """Numbers in the weights of a graph file that are stored outside of it; constants inside are not counted."""
    model = onnx.load(str(graph), load_external_data=False)
    outside = (tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL)
    return sum(math.prod(tensor.dims) for tensor in outside)


def measure_cell(
    pipe: Pipeline,
    cell: Cell,
    methods: Sequence[Method],
    runs: int,
    row: int,
    rate: float,
    opened: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All designs at one size, in alternating order, `row` steps of each together.

    `rate` is the machine's FLOP/s of matrix products. With `opened`, which says how a fresh process opens the bundle
    (bundle, provider, threads, memory), peak memory is measured as well.
    """
    bundle, steps = pipe.bundle, pipe.bundle.interpolation.num_inference_steps
    taken = rounds({DESIGNS[method]: several(stepping(pipe, cell, method), row) for method in methods}, runs)
    seconds = {name: [value / row for value in values] for name, values in taken.items()}
    designs = {}
    for method in methods:
        feed, x = fed(bundle, cell, method)
        flops = count_flops(bundle.path(bundle.graphs[GRAPHS[method]].file), feed(x, TIME))
        timing = summary(seconds[DESIGNS[method]])
        found: dict[str, Any] = {
            "step": asdict(timing),
            "frame_s": steps * timing.median_s / cell.added(bundle),
            "flops": flops,
            "flops_share": flops / timing.median_s / rate,
        }
        if opened is not None:
            body = {**opened, "cell": asdict(cell), "method": method}
            measured = child(ONE_STEP, body)
            found["peak_bytes"], found["device_bytes"] = measured["peak_bytes"], measured["device_bytes"]
        designs[DESIGNS[method]] = found
    return {
        **asdict(cell),
        "keyframes": cell.keyframes(bundle),
        "added": cell.added(bundle),
        "steps": steps,
        "designs": designs,
        "ratios": ratios(seconds),
    }


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Each masked design over the group design, round by round: median and interquartile range."""
    if "group" not in seconds:
        return {}
    masked = [name for name in seconds if name != "group"]
    return {f"{name}/group": ratio_of(list(seconds[name]), list(seconds["group"])) for name in masked}


def measure_cells(
    pipe: Pipeline,
    cells: Sequence[Cell],
    methods: Sequence[Method],
    runs: int,
    row: int,
    rate: float,
    opened: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Every cell; memory of the first only, since each design of a cell opens its graph once more for it."""
    return [
        measure_cell(pipe, cells[index], methods, runs, row, rate, opened if index == 0 else None)
        for index in progress("cells", len(cells))
    ]
