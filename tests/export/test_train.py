"""Training goes on where it stopped, and learns."""

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.checkpoints.weights import load_half, save_half
from export.models.configs import PRESETS
from export.models.group_norm import group_norm
from export.models.interpolation import InterpolationUNet, UntextedInterpolationUNet
from export.models.keyframes import KeyframeUNet
from export.models.text import TextEncoder
from export.training import __main__ as train
from export.training import stages
from export.training.interpolation_start import start_interpolation, start_masked
from export.training.keyframes import KeyframeStage, TextStage
from export.training.linear_start import start_keyframes

ROOT = Path(__file__).parents[2]


class Toy:
    name, steps, batch, lr = "toy", 8, 4, 1e-2

    def __init__(self, stop_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Conv2d(1, 1, 3, padding=1)
        self.seen, self.stop_at = 0, stop_at

    def loss(self, model: nn.Module, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        if self.seen == self.stop_at:
            raise KeyboardInterrupt
        self.seen += 1
        x = torch.from_numpy(rng.standard_normal((batch, 1, 4, 4)).astype(np.float32)) + torch.randn(1)
        return (model(x) - 2 * x).float().square().mean()

    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return {"held_out": 1.0}

    def exported(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {"toy": model}


def arguments(folder: Path) -> argparse.Namespace:
    for part in ("run", "weights"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return argparse.Namespace(
        run=folder / "run",
        weights=folder / "weights",
        steps=8,
        batch=4,
        lr=1e-2,
        seed=1,
        device="cpu",
        full_precision=True,
        log_every=2,
        save_every=100,
    )


def test_a_stopped_run_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    train.train(Toy(), arguments(tmp_path / "whole"))
    with pytest.raises(SystemExit) as stopped:
        train.train(Toy(stop_at=5), arguments(tmp_path / "broken"))
    assert stopped.value.code == 130
    assert not list((tmp_path / "broken" / "weights").iterdir())
    train.train(Toy(), arguments(tmp_path / "broken"))
    results = [
        load_half(nn.Conv2d(1, 1, 3, padding=1), tmp_path / run / "weights" / "toy.safetensors").state_dict()
        for run in ("whole", "broken")
    ]
    assert torch.equal(results[0]["weight"], results[1]["weight"])
    assert (tmp_path / "whole" / "weights" / "toy.png").stat().st_size > 0


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    toy = Toy()
    with torch.no_grad():
        toy.model.weight.fill_(float("nan"))  # type: ignore[operator, union-attr]
    with pytest.raises(SystemExit, match="the loss is nan at step 0"):
        train.train(toy, arguments(tmp_path))


def test_group_norm_has_the_gradients_of_torch() -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(3, 32, 8, 8), torch.randn(3, 32, 8, 8)
    weight, bias = torch.randn(32), torch.randn(32)

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).contiguous(memory_format=torch.channels_last), weight.clone(), bias.clone()]
        for leaf in leaves:
            leaf.requires_grad_()
        out = group_norm(leaves[0], 8, leaves[1], leaves[2], 1e-6)
        out.backward(grad.to(dtype))
        return [out.detach().float(), *(leaf.grad.float() for leaf in leaves if leaf.grad is not None)]

    for wanted, got in zip(gradients(torch.float32), gradients(torch.bfloat16), strict=True):
        assert float((wanted - got).norm() / wanted.norm()) < 0.01


def test_levels_fall_and_v_gives_both_parts_back() -> None:
    levels = stages.signal_levels()
    assert bool((levels[1:] < levels[:-1]).all()) and float(levels[0]) > 0.999 and float(levels[-1]) < 1e-4
    clean, noise, level = torch.randn(4, 2), torch.randn(4, 2), torch.tensor([0, 300, 700, 999])
    x, v = stages.noised(clean, noise, level), stages.noised(noise, -clean, level)
    root, rest = levels[level][:, None].sqrt(), (1 - levels[level][:, None]).sqrt()
    torch.testing.assert_close(root * x - rest * v, clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rest * x + root * v, noise, rtol=1e-4, atol=1e-5)


def clean_and_noised(alpha_bar: float) -> tuple[Tensor, Tensor, Tensor]:
    """Keyframes ``[2, 3, 4, 8, 8]``, three frames linear between each two ``[2, 2, 12, 8, 8]``, those noised."""
    keys = 0.4 * torch.randn(2, 3, 4, 8, 8)
    between = torch.cat([keys[:, :-1] * (1 - k / 4) + keys[:, 1:] * (k / 4) for k in (1, 2, 3)], dim=2)
    return keys, between, alpha_bar**0.5 * between + (1 - alpha_bar) ** 0.5 * torch.randn_like(between)


@pytest.mark.parametrize("level", [100, 300, 600])
def test_interpolation_starts_from_linear_interpolation(level: int) -> None:
    torch.manual_seed(0)
    alpha_bar = float(stages.signal_levels()[level])
    model = UntextedInterpolationUNet(InterpolationUNet(PRESETS["demo"].interpolation), torch.randn(96))
    start_interpolation(model, stages.signal_levels(), 0.16)
    keys, between, x = clean_and_noised(alpha_bar)
    seen = torch.cat((keys[:, :-1], x, keys[:, 1:]), dim=2).flatten(0, 1)
    with torch.no_grad():
        v = model(seen, torch.full((2,), level), torch.full((2,), 3), torch.zeros(2)).reshape(x.shape)
    assert float((alpha_bar**0.5 * x - (1 - alpha_bar) ** 0.5 * v - between).square().mean()) < 1e-4


@pytest.mark.parametrize("power", [0.01, 0.3, 0.6])
def test_an_error_of_one_step_does_not_reach_the_next(power: float) -> None:
    """Whatever the power of a clip and however far x is off its level, d keeps its size: linear frames come out."""
    torch.manual_seed(0)
    model = UntextedInterpolationUNet(InterpolationUNet(PRESETS["demo"].interpolation), torch.randn(96))
    start_interpolation(model, stages.signal_levels(), 0.16)
    keys, between, _ = clean_and_noised(0.5)
    keys, between = keys * power**0.5 / 0.4, between * power**0.5 / 0.4
    alpha_bar = float(stages.signal_levels()[300])
    wrong = between + 0.2 * torch.randn_like(between)
    x = alpha_bar**0.5 * wrong + (1 - alpha_bar) ** 0.5 * torch.randn_like(between)
    seen = torch.cat((keys[:, :-1], x, keys[:, 1:]), dim=2).flatten(0, 1)
    with torch.no_grad():
        v = model(seen, torch.full((2,), 300), torch.full((2,), 3), torch.zeros(2)).reshape(x.shape)
    error = (alpha_bar**0.5 * x - (1 - alpha_bar) ** 0.5 * v - between).square().mean()
    assert float(error) < 2e-4  # of an error of 0.04 in x


@pytest.mark.parametrize("level", [100, 300, 600])
def test_masked_interpolation_starts_from_it_too(level: int) -> None:
    torch.manual_seed(0)
    alpha_bar = float(stages.signal_levels()[level])
    config = dataclasses.replace(PRESETS["demo"].interpolation, num_channels=9, out_channels=4)
    model = UntextedInterpolationUNet(InterpolationUNet(config), torch.randn(96))
    start_masked(model, stages.signal_levels(), 0.16)
    keys, between, _ = clean_and_noised(alpha_bar)
    clean = torch.cat((keys[:, :-1], between, keys[:, 1:]), dim=2).reshape(2, 2, 5, 4, 8, 8)
    x = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * torch.randn_like(clean)
    mask = torch.tensor([1.0, 0, 0, 0, 1]).reshape(5, 1, 1, 1).expand(2, 2, 5, 1, 8, 8)
    seen = torch.cat((x, clean * mask, mask), dim=3).flatten(0, 2)
    with torch.no_grad():
        v = model(seen, torch.full((4,), level), torch.full((5,), 3), torch.zeros(5)).reshape(x.shape)
    assert float((alpha_bar**0.5 * x - (1 - alpha_bar) ** 0.5 * v - clean).square().mean()) < 1e-4


def test_keyframes_start_from_what_they_see() -> None:
    torch.manual_seed(0)
    config = PRESETS["demo"].keyframes
    unet = KeyframeUNet(config)
    start_keyframes(unet)
    x, context, mask = torch.randn(6, 4, 16, 16), torch.randn(2, 5, config.context_dim), torch.ones(2, 5).bool()
    with torch.no_grad():
        prediction = unet(x, torch.full((2,), 999.0), context, mask, torch.arange(3))
    assert float((prediction - 0.6 * x).square().mean()) < 1e-3


def test_levels_are_spread_over_a_batch_in_no_order() -> None:
    """A batch is sorted by clip: were its levels sorted too, a clip would meet one narrow band of levels only."""
    torch.manual_seed(0)
    drawn = torch.stack([stages.draw_levels(8, torch.device("cpu"))[0] for _ in range(200)])
    assert bool((drawn.sort(dim=1).values // 125 == torch.arange(8)).all())
    assert bool(((drawn.float().mean(0) - 500).abs() < 75).all())


def test_words_of_a_clip_are_learnt_from_captions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = TextStage(stages.Folders(tmp_path, tmp_path))
    optimizer = torch.optim.Adam(stage.model.parameters(), lr=3e-3)
    for step in range(150):
        loss = stage.loss(stage.model, np.random.default_rng(step), 64, torch.device("cpu"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = stage.measure(stage.model, torch.device("cpu"))
    assert right["colour_right"] > 0.9 and right["shape_right"] > 0.9
    assert set(stage.exported(stage.model)) == {"text_encoder"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> stages.Folders:
    """Latents of random noise and untrained weights: enough for a step of every keyframe stage."""
    folder = tmp_path_factory.mktemp("keyframe stages")
    np.save(folder / "keyframes.npy", np.random.default_rng(0).normal(0, 0.4, (40, 16, 4, 8, 8)).astype(np.float16))
    torch.manual_seed(0)
    save_half(TextEncoder(PRESETS["demo"].text).state_dict(), folder / "text_encoder.safetensors")
    save_half(KeyframeUNet(PRESETS["demo"].keyframes).state_dict(), folder / "keyframe_unet.safetensors")
    return stages.Folders(folder, folder)


@pytest.mark.parametrize(
    ("video", "unfreeze", "strides", "name", "trained"),
    [
        (False, False, (1,), "image", {"spatial", "projection"}),
        (True, False, (1,), "keyframes", {"temporal"}),
        (True, True, (2,), "video_stride2", {"spatial", "temporal", "projection"}),
        (True, True, (16, 4, 1), "video_stride16_stride4", {"spatial", "temporal", "projection"}),
    ],
)
def test_each_stage_trains_its_own_layers(
    folders: stages.Folders, video: bool, unfreeze: bool, strides: tuple[int, ...], name: str, trained: set[str]
) -> None:
    stage = KeyframeStage(folders, video, unfreeze, strides)
    assert stage.name == name
    loss = stage.loss(stage.model, np.random.default_rng(0), 2, torch.device("cpu"))
    loss.backward()
    temporal = {id(parameter) for parameter in stage.model.unet.temporal_parameters()}
    reached = {
        "T5"
        if ".encoder." in key
        else "projection"
        if key.startswith("text")
        else "temporal"
        if id(parameter) in temporal
        else "spatial"
        for key, parameter in stage.model.named_parameters()
        if parameter.grad is not None
    }
    assert reached == trained


@pytest.mark.parametrize("stride", [1, 2, 4, 16])
def test_a_stride_shows_some_frames_where_they_stand(folders: stages.Folders, stride: int) -> None:
    stage = KeyframeStage(folders, video=True, strides=(stride,))
    seen = set()
    for seed in range(12 * stride):
        latents, positions = stage.frames([3], stride, np.random.default_rng(seed))
        assert positions is not None
        first = int(positions[0]) // 11
        assert positions.tolist() == [11 * at for at in range(first, 16, stride)]
        np.testing.assert_array_equal(latents[0], stage.latents[3, first::stride])
        seen.add(first)
    assert seen == set(range(stride))


def test_every_step_of_mixed_strides_shows_as_many_frames(
    folders: stages.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = KeyframeStage(folders, video=True, strides=(16, 4, 1))
    shown = []
    monkeypatch.setattr(
        stage, "batch_loss", lambda _, chosen, stride, rng, __: shown.append((len(chosen), stride)) or torch.zeros(())
    )
    for seed in range(60):
        stage.loss(stage.model, np.random.default_rng(seed), 2, torch.device("cpu"))
    assert set(shown) == {(32, 16), (8, 4), (2, 1)}
    assert min(shown.count(kind) for kind in set(shown)) >= 8


def test_processes_share_their_gradients(tmp_path: Path) -> None:
    program = (
        "import torch\nfrom torch import distributed, nn\nfrom export.train import share_gradients\n"
        "distributed.init_process_group('gloo')\n"
        "weights = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))]\n"
        "for p in weights: p.grad = torch.full_like(p, 1.0 + 2 * distributed.get_rank())\n"
        "share_gradients(weights)\nassert all(bool((p.grad == 2).all()) for p in weights)\n"
        "distributed.destroy_process_group()\n"
    )
    (tmp_path / "both.py").write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "both.py"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_linear_start_needs_room() -> None:
    config = dataclasses.replace(PRESETS["demo"].interpolation, model_channels=64)
    with pytest.raises(ValueError, match="wanted 80 or more channels"):
        model = UntextedInterpolationUNet(InterpolationUNet(config), torch.zeros(96))
        start_interpolation(model, stages.signal_levels(), 0.16)
