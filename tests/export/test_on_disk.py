"""Modules run, and graphs are made, from weights that stay on disk: the ordinary module's numbers in a tenth of its
memory."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from export.checkpoints.file import open_checkpoint
from export.checkpoints.on_disk import on_disk
from export.checkpoints.safetensors import header_of
from export.checkpoints.stream import stream_weights
from export.checkpoints.weights import load_half
from export.errors import CheckpointError
from export.models.configs import MoVQConfig, UNetConfig
from export.models.interpolation import InterpolationUNet, UntextedInterpolationUNet
from export.models.keyframes import KeyframeUNet
from export.models.movq import MoVQDecoder
from export.onnx.trace import Traced, point_to, trace
from ffrt.families import TensorSpec

ROOT = Path(__file__).parents[2]
UNET = UNetConfig(
    model_channels=8,
    init_channels=8,
    time_embed_dim=16,
    context_dim=16,
    num_channels=4,
    out_channels=4,
    groups=4,
    head_dim=4,
    dim_mult=(1, 2),
    num_blocks=(2, 2),
    add_cross_attention=(False, True),
    add_self_attention=(False, True),
)
MOVQ = MoVQConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(), resolution=32)


def meta(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return kind()


def randomised(module: nn.Module, path: Path) -> nn.Module:
    torch.manual_seed(5)
    state = {
        key: torch.randn(value.shape) * (0.2 if value.dim() > 1 else 0.5) for key, value in module.state_dict().items()
    }
    save_file({key: value.half() for key, value in state.items()}, path)
    return load_half(module, path)


def interpolation() -> nn.Module:
    config = replace(UNET, num_channels=20, out_channels=12)
    return UntextedInterpolationUNet(InterpolationUNet(config), torch.zeros(16))


RUNS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "keyframes": (
        lambda: KeyframeUNet(UNET),
        lambda: (
            torch.randn(6, 4, 8, 8),
            torch.tensor([3.0, 500.0]),
            torch.randn(2, 5, 16),
            torch.ones(2, 5, dtype=torch.bool),
            torch.tensor([0, 60, 120]),
        ),
    ),
    "interpolation": (
        interpolation,
        lambda: (torch.randn(6, 20, 8, 8), torch.tensor([3.0, 500.0]), torch.tensor([3, 3, 3]), torch.zeros(3)),
    ),
    "movq": (lambda: MoVQDecoder(MOVQ), lambda: (torch.randn(2, 4, 4, 4),)),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("small", [200, 1 << 20])
def test_a_module_on_disk_gives_the_ordinary_modules_numbers(tmp_path: Path, name: str, small: int) -> None:
    build, draw = RUNS[name]
    ordinary = randomised(build(), tmp_path / "weights.safetensors").requires_grad_(False)
    streamed = on_disk(meta(build), tmp_path / "weights.safetensors", small)
    absent = sum(p.numel() for p in streamed.parameters() if p.is_meta)
    assert (absent > 0.9 * sum(p.numel() for p in ordinary.parameters())) == (small == 200)
    inputs = draw()
    with torch.no_grad():
        wanted = ordinary(*inputs)
        for _ in range(2):
            assert torch.equal(streamed(*inputs), wanted)
    assert float(wanted.std()) > 0.01
    assert sum(p.numel() for p in streamed.parameters() if p.is_meta) == absent


def test_a_failed_forward_leaves_nothing_in_memory(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3, 3), "bias": torch.ones(3)}, tmp_path / "linear.safetensors")
    module = on_disk(meta(lambda: nn.Linear(3, 3)), tmp_path / "linear.safetensors", small=0)
    with pytest.raises(RuntimeError):
        module(torch.ones(1, 4))
    assert all(p.is_meta for p in module.parameters())
    assert torch.equal(module(torch.ones(1, 3)), torch.full((1, 3), 4.0))


def test_a_file_of_another_module_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "linear.safetensors"
    save_file({"weight": torch.ones(3, 3), "bias": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"linear\.safetensors: missing nothing; left over bias"):
        on_disk(meta(lambda: nn.Linear(3, 3, bias=False)), path)
    with pytest.raises(CheckpointError, match=r"weight: expected shape \[3, 4\], got \[3, 3\]"):
        on_disk(meta(lambda: nn.Linear(4, 3)), path)


class Tied(nn.Module):
    """A matrix used twice in one forward, and one that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 40)
        self.second = nn.Linear(40, 40)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(self.first(x)))
        return y + self.second.weight.sum()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_graph_of_streamed_weights(tmp_path: Path, dtype: str) -> None:
    assert dtype in ("float16", "float32")
    torch.manual_seed(2)
    real = Tied()
    torch.save(real.state_dict(), tmp_path / "tied.pt")
    weights = tmp_path / "tied.safetensors"
    stream_weights(
        meta(Tied), open_checkpoint(tmp_path / "tied.pt"), lambda *pair: pair, weights, dtype, lambda *_: None
    )
    signature = ((TensorSpec("x", "float32", ("B", 40)),), (TensorSpec("y", "float32", ("B", 40)),))
    traced = Traced("tied", meta(Tied), (torch.empty(2, 40, device="meta"),), {}, {"tied": signature})
    model = point_to(trace(traced), weights)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert bool(casts) == (dtype == "float16")
    onnx.save(model, tmp_path / "tied.onnx")
    x = torch.randn(3, 40)
    (got,) = onnxruntime.InferenceSession(tmp_path / "tied.onnx").run(None, {"x": x.numpy()})
    real.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    with torch.no_grad():
        np.testing.assert_allclose(got, real(x).numpy(), rtol=1e-4, atol=1e-4)
        streamed = on_disk(meta(Tied), weights, small=7000)
        assert torch.equal(streamed(x), real(x))


ON_DISK = """
import sys
from pathlib import Path
import torch
from torch import nn
from export.checkpoints.on_disk import on_disk
with torch.device("meta"):
    module = nn.Sequential(*(nn.Linear(3000, 3000) for _ in range(10)))
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
before = status("VmHWM")
with torch.no_grad():
    out = on_disk(module, Path(sys.argv[1]))(torch.ones(2, 3000))
assert bool(torch.isfinite(out).all())
print(status("VmHWM") - before)
"""


def test_memory_of_a_module_on_disk(tmp_path: Path) -> None:
    """180 MB of float16 would be 360 MB of float32; the benchmark of the full size is bench.export_memory."""
    path = tmp_path / "large.safetensors"
    shapes = {f"{i}.{name}": shape for i in range(10) for name, shape in (("weight", (3000, 3000)), ("bias", (3000,)))}
    with path.open("wb") as file:
        file.write(header_of({name: ("F16", shape) for name, shape in shapes.items()}, {}))
        for shape in shapes.values():
            file.write(np.full(shape, 1 / 4000, np.float16).tobytes())
    command = [sys.executable, "-c", ON_DISK, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 180_000, f"{done.stdout} kB"


READING = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper
import onnx
from export.checkpoints.file import given_back, unchanged_mappings

folder, back = Path(sys.argv[1]), sys.argv[2] == "back"
size, count = 2048, 12
weights = folder / "weights.bin"
np.full(count * size * size, 0.001, np.float16).tofile(weights)
nodes, initializers, last = [], [], "x"
for number in range(count):
    tensor = onnx.TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT16, dims=[size, size])
    tensor.data_location = TensorProto.EXTERNAL
    places = {"location": "weights.bin", "offset": number * 2 * size * size, "length": 2 * size * size}
    tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in places.items())
    initializers.append(tensor)
    nodes += [helper.make_node("Cast", [f"w{number}"], [f"f{number}"], to=TensorProto.FLOAT),
              helper.make_node("MatMul", [last, f"f{number}"], [f"y{number}"])]
    last = f"y{number}"
value = helper.make_tensor_value_info
graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [1, size])],
                          [value(last, TensorProto.FLOAT, [1, size])], initializer=initializers)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "g.onnx")
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
options.add_session_config_entry("session.disable_prepacking", "1")
options.intra_op_num_threads = 1
session = ort.InferenceSession(folder / "g.onnx", options, providers=["CPUExecutionProvider"])
assert unchanged_mappings(weights), "the runtime does not map the file"
x = np.ones((1, size), np.float32)
want = session.run(None, {"x": x})[0]
if back:
    with given_back(weights, seconds=0.01):
        for _ in range(20):
            assert (session.run(None, {"x": x})[0] == want).all()
        import time
        time.sleep(0.1)
print(next(line for line in open("/proc/self/status") if line.startswith("RssFile")).split()[1])
"""


def test_a_session_reads_weights_that_go_back_to_the_file(tmp_path: Path) -> None:
    kilobytes = []
    for how in ("kept", "back"):
        done = subprocess.run(
            [sys.executable, "-c", READING, str(tmp_path), how], capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        assert done.returncode == 0, done.stderr
        kilobytes.append(int(done.stdout))
    assert kilobytes[0] - kilobytes[1] > 80_000  # of 98 MB of weights
