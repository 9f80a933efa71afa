"""From weights to a bundle that the runtime opens: written whole or not at all, and equal to PyTorch."""

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.__main__ import main
from export.checkpoints.weights import load_half, save_half
from export.datasets.captions import train_tokenizer
from export.errors import CheckpointError, MissingKeyError, ParityError
from export.models.configs import PRESETS, ModelConfig, MoVQConfig, TextConfig, UNetConfig
from export.models.interpolation import InterpolationUNet, UntextedInterpolationUNet
from export.models.keyframes import KeyframeUNet
from export.models.movq import MoVQ, MoVQDecoder, MoVQEncoder
from export.models.text import TextEncoder
from export.onnx import demo, parity
from export.onnx.inputs import draw_inputs
from export.onnx.trace import LARGEST_CONSTANT, point_to
from ffrt import Pipeline
from ffrt.backend.graph import Graph
from ffrt.bundle import open_bundle
from ffrt.families import KANDINSKY_1_0

DEMO = Path(__file__).parents[2] / "graphs" / "demo"


def small_unet(num_channels: int, out_channels: int) -> UNetConfig:
    """One level of all layers: tracing takes a minute a level. Kandinsky Video 1.1 of test_release_recipe has two, and
    with them the convolutions that halve and double and the skips between."""
    return UNetConfig(
        model_channels=8,
        init_channels=8,
        time_embed_dim=16,
        context_dim=16,
        num_channels=num_channels,
        out_channels=out_channels,
        groups=4,
        head_dim=4,
        dim_mult=(1,),
        num_blocks=(2,),
        add_cross_attention=(True,),
        add_self_attention=(True,),
    )


SMALL = ModelConfig(
    name="small",
    text=TextConfig(
        "t5", {"vocab_size": 512, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 4}, context_dim=16
    ),
    keyframes=small_unet(4, 4),
    interpolation=small_unet(20, 12),
    movq=MoVQConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(), resolution=32),
    num_frames=3,
    image_size=32,
)


def draws(config: ModelConfig, graph: str) -> Callable[[int], tuple[torch.Tensor, ...]]:
    return functools.partial(draw_inputs, KANDINSKY_1_0.contract[graph], demo.limits(config, graph))


def write_random_weights(folder: Path) -> Path:
    """Random weights of the small configuration, with nothing left at zero: a dead layer would hide a mistake."""
    torch.manual_seed(3)
    folder.mkdir(parents=True)
    interpolation = UntextedInterpolationUNet(InterpolationUNet(SMALL.interpolation), torch.randn(16))
    modules = {
        "text_encoder": TextEncoder(SMALL.text),
        "keyframe_unet": KeyframeUNet(SMALL.keyframes),
        "interpolation_unet": interpolation,
        "movq_encoder": MoVQEncoder(SMALL.movq),
        "movq_decoder": MoVQDecoder(SMALL.movq),
    }
    for name, module in modules.items():
        for parameter in module.parameters():
            if float(parameter.detach().abs().max()) == 0:
                torch.nn.init.normal_(parameter, std=0.1)
        save_half(module.state_dict(), folder / f"{name}.safetensors")
    train_tokenizer(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    demo.write_bundle(SMALL, write_random_weights(root / "weights"), root / "bundle", lambda line: None)
    return root


@pytest.mark.slow
def test_an_exported_bundle_makes_a_video(exported: Path) -> None:
    bundle = open_bundle(exported / "bundle")
    assert {parity.floor for parity in (graph.parity for graph in bundle.graphs.values())} == {parity.FLOOR}
    assert all(0 < graph.parity.relative_rms < parity.FLOOR for graph in bundle.graphs.values())
    pipe = Pipeline.from_pretrained(exported / "bundle", provider="cpu", threads=1)
    video = pipe("a red circle", num_inference_steps=2)
    assert video.frames.shape == (9, 32, 32, 3)


@pytest.mark.slow
def test_graphs_carry_no_weights_of_their_own(exported: Path) -> None:
    bundle = exported / "bundle"
    for name in SMALL_GRAPHS:
        model = onnx.load(bundle / f"{name}.onnx", load_external_data=False)
        stored = [i for i in model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
        assert {entry.value for i in stored for entry in i.external_data if entry.key == "location"} == {
            f"{name}.safetensors"
        }
        inside = sum(len(i.raw_data) for i in model.graph.initializer)
        assert inside < 50_000
        ours, given = (exported / folder / f"{name}.safetensors" for folder in ("bundle", "weights"))
        assert ours.read_bytes() == given.read_bytes()


SMALL_GRAPHS = ("text_encoder", "keyframe_unet", "interpolation_unet", "movq_encoder", "movq_decoder")


@pytest.mark.slow
def test_a_bundle_is_rebuilt_from_its_own_weights(exported: Path, tmp_path: Path) -> None:
    modules = demo.load_modules(SMALL, exported / "bundle")
    graph = Graph(open_bundle(exported / "bundle"), "interpolation_unet", provider="cpu", threads=1)
    draw = draws(SMALL, "interpolation_unet")
    measured = parity.compare("interpolation_unet", modules["interpolation_unet"], graph, draw, 5)
    assert measured.relative_rms < parity.FLOOR


@pytest.mark.slow
def test_below_the_floor_nothing_is_written(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "FLOOR", 1e-12)
    monkeypatch.setattr(
        demo,
        "trace",
        lambda traced: onnx.load(  # the graphs of before: tracing again would be slow
            exported / "bundle" / f"{traced.name}.onnx", load_external_data=False
        ),
    )
    monkeypatch.setattr(demo, "point_to", lambda model, weights: model)
    out = tmp_path / "bundle"
    shutil.copytree(exported / "bundle", out)
    before = open_bundle(out)
    with pytest.raises(ParityError, match="relative RMS error of at most 1e-12.*nothing was written"):
        demo.write_bundle(SMALL, exported / "weights", out, lambda line: None)
    assert open_bundle(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    monkeypatch.setattr(parity, "FLOOR", 1e-3)
    (out / "LICENSE").unlink()
    assert "LICENSE" in demo.write_bundle(SMALL, exported / "weights", out, lambda line: None).files
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_a_wrong_graph_is_caught(exported: Path) -> None:
    graph = Graph(open_bundle(exported / "bundle"), "movq_decoder", provider="cpu", threads=1)
    other = MoVQ(SMALL.movq).decoder
    with pytest.raises(ParityError, match="movq_decoder.image"):
        parity.compare("movq_decoder", other, graph, draws(SMALL, "movq_decoder"), 1)


class Offset:
    """A graph whose output is off by a share of it."""

    input_names = ("x",)

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": feed["x"] * (1 + self.share)}


def test_a_graph_may_differ_by_a_thousandth_and_no_more() -> None:
    def draw(_: int) -> tuple[torch.Tensor]:
        return (torch.linspace(-1, 1, 100),)

    assert parity.compare("a", torch.nn.Identity(), Offset(0.9e-3), draw, 1).relative_rms == pytest.approx(
        0.9e-3, rel=1e-3
    )
    with pytest.raises(ParityError, match=r"a\.y: expected a relative RMS error of at most 0\.001"):
        parity.compare("a", torch.nn.Identity(), Offset(1.1e-3), draw, 1)


@pytest.mark.parametrize("name", SMALL_GRAPHS)
def test_the_demo_bundle_is_what_its_weights_say(name: str) -> None:
    config = PRESETS["demo"]
    module = demo.load_modules(config, DEMO)[name]
    graph = Graph(open_bundle(DEMO, verify=False), name, provider="cpu", threads=1)
    measured = parity.compare(name, module, graph, draws(config, name), 2)
    assert measured.relative_rms < parity.FLOOR


def test_the_demo_bundle_is_light() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 24e6


@pytest.mark.parametrize("place", ["mine", "mine/notes.txt", "link", ".", "..", "mine/notes.txt/deep"])
@pytest.mark.parametrize("name", ["demo", "kandinsky-video-1.0"])
def test_what_is_no_bundle_is_refused_before_anything_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, name: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(DEMO)
    monkeypatch.chdir(tmp_path / "mine" if place == ".." else tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([name, "--weights", str(DEMO), "--out", place]) == 1
    assert capsys.readouterr().err.startswith(f"export {name}: --out: '")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["people", "--length", "1"], "expected 2 to 180 keyframes, got 1"),
        (["people", "--length", "181"], "expected 2 to 180 keyframes, got 181"),
        (["kandinsky-video-1.0", "--length", "32"], "expected nothing for kandinsky-video-1.0"),
    ],
)
def test_a_length_that_cannot_be_is_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--weights", str(tmp_path), "--out", str(tmp_path / "bundle")]) == 1
    assert f"--length: {words}" in capsys.readouterr().err and not (tmp_path / "bundle").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="python -m export.train"):
        load_half(module, tmp_path / "none.safetensors")
    with torch.no_grad():
        module.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match="weight does not fit float16"):
        save_half(module.state_dict(), tmp_path / "big.safetensors")
    assert list(tmp_path.iterdir()) == []
    save_half(torch.nn.Linear(3, 2).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_half(module, tmp_path / "other.safetensors")


def test_a_large_constant_outside_the_weights_is_refused(tmp_path: Path) -> None:
    save_half({"known": torch.zeros(4)}, tmp_path / "w.safetensors")
    for numbers in (LARGEST_CONSTANT // 4, LARGEST_CONSTANT // 4 + 1):
        big = onnx.numpy_helper.from_array(np.zeros(numbers, np.float32), "stranger")
        model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [big]))
        if 4 * numbers <= LARGEST_CONSTANT:
            assert point_to(model, tmp_path / "w.safetensors").graph.initializer[0].raw_data
            continue
        with pytest.raises(MissingKeyError, match="stranger"):
            point_to(model, tmp_path / "w.safetensors")


def test_configurations_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry per level"):
        dataclasses.replace(SMALL.keyframes, num_blocks=(2, 2))
    with pytest.raises(ValueError, match="at least 2 blocks"):
        dataclasses.replace(SMALL.keyframes, num_blocks=(1,))
    with pytest.raises(ValueError, match="multiple of head_dim 3"):
        KeyframeUNet(dataclasses.replace(SMALL.keyframes, head_dim=3))
