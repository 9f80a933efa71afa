"""Training goes on where it stopped, and learns."""

import dataclasses
import json
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
from export.errors import CheckpointError, DivergedError
from export.models.configs import PRESETS
from export.models.group_norm import group_norm, modulated_group_norm
from export.models.keyframes import KeyframeUNet
from export.models.text import TextEncoder
from export.training import latents, recipe, stages
from export.training.forms import start
from export.training.keyframes import IMAGE, KeyframeStage, Lesson, clip_lesson
from export.training.levels import LevelDraw, log_sigmas
from export.training.linear_start import start_keyframes
from export.training.loop import Settings, learning_rate, train
from export.training.text import TextStage

ROOT = Path(__file__).parents[3]


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


def settings(folder: Path) -> Settings:
    for part in ("run", "weights"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return Settings(
        steps=8,
        batch=4,
        lr=1e-2,
        full_precision=True,
        log_every=2,
        run=folder / "run",
        weights=folder / "weights",
    )


def test_a_stopped_run_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    train(Toy(), settings(tmp_path / "whole"))
    with pytest.raises(SystemExit) as stopped:
        train(Toy(stop_at=5), settings(tmp_path / "broken"))
    assert stopped.value.code == 130
    assert not list((tmp_path / "broken" / "weights").iterdir())
    train(Toy(), settings(tmp_path / "broken"))
    results = [
        load_half(nn.Conv2d(1, 1, 3, padding=1), tmp_path / run / "weights" / "toy.safetensors").state_dict()
        for run in ("whole", "broken")
    ]
    assert torch.equal(results[0]["weight"], results[1]["weight"])
    assert (tmp_path / "whole" / "weights" / "toy.png").stat().st_size > 0


def test_figures_are_taken_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    train(Toy(), dataclasses.replace(settings(tmp_path), steps=7, measure_every=3, log_every=2))
    history = json.loads((tmp_path / "weights" / "toy.json").read_text())["history"]
    assert [row["step"] for row in history] == [2, 3, 4, 6, 7]
    assert [row["step"] for row in history if "held_out" in row] == [3, 6, 7]


def test_a_constant_rate_stays_and_a_cosine_falls(tmp_path: Path) -> None:
    falling = settings(tmp_path)
    staying = dataclasses.replace(falling, rate="constant", steps=1000)
    falling = dataclasses.replace(falling, steps=1000)
    assert learning_rate(0, staying) == learning_rate(0, falling) == pytest.approx(1e-4)
    assert {learning_rate(step, staying) for step in (100, 500, 999)} == {1e-2}
    rates = [learning_rate(step, falling) for step in (100, 400, 700, 1000)]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(2e-4)


def test_the_recipe_passes_over_what_is_done(tmp_path: Path) -> None:
    words, pictures, clips, grain = recipe.RECIPE
    done = dataclasses.replace(settings(tmp_path), steps=4)
    train(Toy(), done)
    (done.run / "toy.pt").rename(done.run / f"{words.name}.pt")
    chapters = [dataclasses.replace(words, settings=done), pictures, clips, grain]
    assert list(recipe.left(chapters, done.run)) == [pictures, clips, grain]
    assert list(recipe.left(chapters, done.run, "clips")) == [clips, grain]
    longer = [dataclasses.replace(words, settings=dataclasses.replace(done, steps=5)), pictures]
    assert list(recipe.left(longer, done.run)) == longer


def test_latents_that_are_missing_are_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got no keyframes_00.npy, keyframes_01.npy; .*--keyframes 2000"):
        latents.keyframe_latents(tmp_path, 1500)
    np.save(tmp_path / "pictures.npy", np.zeros((5, 1, 4, 16, 16), np.float16))
    with pytest.raises(CheckpointError, match=r"expected 6 pictures, got 5; .*--pictures 6"):
        latents.picture_latents(tmp_path, 6)


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    toy = Toy()
    with torch.no_grad():
        toy.model.weight.fill_(float("nan"))  # type: ignore[operator, union-attr]
    with pytest.raises(DivergedError, match="the loss is nan at step 0"):
        train(toy, settings(tmp_path))


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


@pytest.mark.parametrize(("channels", "side"), [(32, 8), (48, 4)])
def test_modulated_group_norm_has_the_values_and_gradients_of_torch(channels: int, side: int) -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(3, channels, side, side) + 0.5, torch.randn(3, channels, side, side)
    scale, shift = torch.randn(3, channels, 1, 1), torch.randn(3, channels, 1, 1)

    def found(training: bool) -> list[Tensor]:
        leaves = [x.contiguous(memory_format=torch.channels_last), scale.clone(), shift.clone()]
        for leaf in leaves:
            leaf.requires_grad_()
        out = modulated_group_norm(*leaves, 8, 1e-5, training)
        assert out.is_contiguous(memory_format=torch.channels_last)
        out.backward(grad)
        return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    for wanted, got in zip(found(False), found(True), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_levels_fall_and_v_gives_both_parts_back() -> None:
    levels = stages.signal_levels()
    assert bool((levels[1:] < levels[:-1]).all()) and float(levels[0]) > 0.999 and float(levels[-1]) < 1e-4
    clean, noise, level = torch.randn(4, 2), torch.randn(4, 2), torch.tensor([0, 300, 700, 999])
    x, v = stages.noised(clean, noise, level), stages.noised(noise, -clean, level)
    root, rest = levels[level][:, None].sqrt(), (1 - levels[level][:, None]).sqrt()
    torch.testing.assert_close(root * x - rest * v, clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rest * x + root * v, noise, rtol=1e-4, atol=1e-5)


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


def test_log_normal_levels_have_their_mean_and_deviation() -> None:
    torch.manual_seed(0)
    draw = LevelDraw("log-normal", damped=False, mean=-0.3, deviation=1.2)
    level, told = draw.draw(4000, torch.device("cpu"))
    sigma = log_sigmas()[level]
    assert float(sigma.mean()) == pytest.approx(-0.3, abs=0.02) and float(sigma.std()) == pytest.approx(1.2, abs=0.02)
    assert bool(((level - told) <= stages.TIME_SLACK).all()) and bool((told >= 0).all() and (told <= level).all())
    assert bool((draw.weight(level) == 1).all())
    assert float(LevelDraw().weight(torch.tensor([20]))) < 0.05 and float(LevelDraw().weight(torch.tensor([600]))) == 1


def test_the_one_step_table_is_the_same_every_time(folders: stages.Folders) -> None:
    stage = KeyframeStage(folders, dataclasses.replace(IMAGE, clips=40))
    first, again = (stage.measure(stage.model, torch.device("cpu")) for _ in range(2))
    assert first == again and list(first) == ["v30", "v100", "v200", "v300", "v500", "v650", "v800", "v950"]
    assert all(value > 0 for value in first.values())


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
    noise = np.random.default_rng(0)
    for file, clips, frames in (("keyframes_00", 40, 16), ("pictures", 40, 1), ("held_out", 12, 16)):
        np.save(folder / f"{file}.npy", noise.normal(0, 0.4, (clips, frames, 4, 8, 8)).astype(np.float16))
    torch.manual_seed(0)
    save_half(TextEncoder(PRESETS["demo"].text).state_dict(), folder / "text_encoder.safetensors")
    save_half(KeyframeUNet(PRESETS["demo"].keyframes).state_dict(), folder / "keyframe_unet.safetensors")
    return stages.Folders(folder, folder)


@pytest.mark.parametrize(
    ("lesson", "name", "trained"),
    [
        (IMAGE, "image", {"spatial", "projection"}),
        (clip_lesson(False, (1,)), "keyframes", {"temporal"}),
        (clip_lesson(True, (2,)), "video_stride2", {"spatial", "temporal", "projection"}),
        (clip_lesson(True, (16, 4, 1)), "video_stride16_stride4", {"spatial", "temporal", "projection"}),
        (recipe.CLIPS, "clips", {"spatial", "temporal", "projection"}),
        (recipe.GRAIN, "grain", {"spatial", "temporal", "projection"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_stage_trains_its_own_layers(
    folders: stages.Folders, lesson: Lesson, name: str, trained: set[str]
) -> None:
    stage = KeyframeStage(folders, dataclasses.replace(lesson, clips=40))
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
    stage = KeyframeStage(folders, dataclasses.replace(clip_lesson(False, (stride,)), clips=40))
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
    stage = KeyframeStage(folders, dataclasses.replace(clip_lesson(False, (16, 4, 1)), clips=40))
    shown = []
    monkeypatch.setattr(
        stage, "batch_loss", lambda _, chosen, stride, rng, __: shown.append((len(chosen), stride)) or torch.zeros(())
    )
    for seed in range(60):
        stage.loss(stage.model, np.random.default_rng(seed), 2, torch.device("cpu"))
    assert set(shown) == {(32, 16), (8, 4), (2, 1)}
    assert min(shown.count(kind) for kind in set(shown)) >= 8


def test_a_tenth_of_the_captions_is_left_out(folders: stages.Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = KeyframeStage(folders, dataclasses.replace(IMAGE, clips=40))
    dropped: list[Tensor] = []

    def record(_: nn.Module, captions: list[str], drop: Tensor, __: torch.device) -> tuple[Tensor, Tensor]:
        dropped.append(drop)
        return torch.zeros(len(captions), 1, 4), torch.ones(len(captions), 1)

    monkeypatch.setattr(stage, "context", record)
    monkeypatch.setattr(stage, "errors", lambda _, clean, *__: torch.zeros(len(clean)))
    torch.manual_seed(0)
    for seed in range(40):
        stage.loss(stage.model, np.random.default_rng(seed), 32, torch.device("cpu"))
    assert float(torch.cat(dropped).float().mean()) == pytest.approx(0.1, abs=0.025)


def test_processes_share_their_gradients(tmp_path: Path) -> None:
    program = (
        "import torch\nfrom torch import distributed, nn\nfrom export.training.loop import share_gradients\n"
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
        start(config, 20)
