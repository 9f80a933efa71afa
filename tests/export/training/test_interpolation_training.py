"""What the interpolation networks are shown, what they are asked for, and that they start at linear blending."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from export.datasets import demo
from export.datasets.grammar import is_held_out
from export.datasets.scenes import KINDS, Scene, held_out_scenes, render_scene, training_scenes
from export.datasets.shapes import FRAME_PX, MOTION_SECONDS, Clip
from export.errors import CheckpointError
from export.models.configs import PRESETS, UNetConfig
from export.models.residual import ResidualInterpolation, ResidualMasked, alpha_bar, residual_size
from export.training import between, forms, interpolation
from export.training.forms import WINDOW, start
from export.training.interpolation import InterpolationStage, MaskedInterpolationStage
from export.training.stages import Folders, signal_levels

CPU = torch.device("cpu")
DEMO = PRESETS["demo"]
KINDS_OF = {
    "group": (ResidualInterpolation, DEMO.interpolation, 20),
    "masked": (ResidualMasked, cast(UNetConfig, DEMO.masked_interpolation), 9),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Clips of 8 x 8 latents; each holds its own number in every frame."""
    folder = tmp_path_factory.mktemp("between")
    rng = np.random.default_rng(0)
    for fps, count in ((8, 6), (24, 3)):
        clips = rng.normal(0, 0.4, (count, round(7.5 * fps) + 1, 4, 8, 8)).astype(np.float16)
        clips[:, :, 0, 0, 0] = np.arange(count)[:, None]
        clips[:, :, 1, 0, 0] = np.arange(clips.shape[1]) / 100
        np.save(folder / f"between_{fps:02}.npy", clips)
    np.savez(folder / "between_held_out.npz", moving=clips[:2, ::3], spinning=clips[1:, ::3])
    return Folders(folder, folder)


def given(size: float = 0.4) -> tuple[Tensor, Tensor]:
    """Keyframes ``[2, 3, 4, 8, 8]`` and their linear blending ``[2, 2, 12, 8, 8]``."""
    keys = size * torch.randn(2, 3, 4, 8, 8)
    return keys, torch.cat([keys[:, :-1] * (1 - k / 4) + keys[:, 1:] * (k / 4) for k in (1, 2, 3)], dim=2)


def seen(method: str, middle: Tensor, keys: Tensor) -> Tensor:
    """The input of a network: groups, or windows of five with what is given and a mask."""
    if method == "group":
        return torch.cat((keys[:, :-1], middle, keys[:, 1:]), dim=2).flatten(0, 1)
    x = torch.cat((keys[:, :-1], middle, keys[:, 1:]), dim=2).reshape(2, 2, WINDOW, 4, 8, 8)
    mask = torch.tensor([1.0, 0, 0, 0, 1]).reshape(WINDOW, 1, 1, 1).expand(2, 2, WINDOW, 1, 8, 8)
    clean = torch.zeros_like(x)
    clean[:, :, 0], clean[:, :, -1] = keys[:, :-1], keys[:, 1:]
    return torch.cat((x, clean, mask), dim=3).flatten(0, 2)


def frames_between(method: str, out: Tensor) -> Tensor:
    """The three frames of each group in what a network gives, ``[2, 2, 12, 8, 8]``."""
    if method == "group":
        return out.reshape(2, 2, 12, 8, 8)
    return out.reshape(2, 2, WINDOW, 4, 8, 8)[:, :, 1:-1].flatten(2, 3)


@pytest.mark.parametrize("method", KINDS_OF)
@pytest.mark.parametrize("time", [0.5, 300.0, 978.7])
def test_both_networks_start_at_linear_blending(method: str, time: float) -> None:
    torch.manual_seed(0)
    kind, config, signals = KINDS_OF[method]
    model = kind(start(config, signals), torch.randn(config.context_dim))
    keys, blended = given()
    level = alpha_bar(torch.tensor(time))
    middle = level.sqrt() * blended + (1 - level).sqrt() * torch.randn_like(blended)
    rows, items = (2, 2) if method == "group" else (4, WINDOW)
    with torch.no_grad():
        x = seen(method, middle, keys)
        v = frames_between(method, model(x, torch.full((rows,), time), torch.full((items,), 3), torch.zeros(items)))
    estimate = level.sqrt() * middle - (1 - level).sqrt() * v
    assert float((estimate - blended).abs().max()) < 1e-4


@pytest.mark.parametrize("method", KINDS_OF)
def test_the_residual_grows_with_the_way_and_the_skip_value(method: str) -> None:
    """The network's own answer counts as much as its keyframes differ, times s / 12."""
    torch.manual_seed(0)
    kind, config, signals = KINDS_OF[method]
    model = kind(start(config, signals), torch.randn(config.context_dim))
    with torch.no_grad():
        model.unet.body.out_conv.bias.fill_(1.0)  # type: ignore[union-attr]
    rows, items = (2, 2) if method == "group" else (4, WINDOW)
    found = {}
    for size, skip in ((0.4, 3), (0.4, 12), (0.0, 12)):
        torch.manual_seed(1)
        keys, blended = given(size)
        keys, blended = keys + 0.1, blended + 0.1  # not blank
        x = seen(method, torch.randn_like(blended), keys)
        with torch.no_grad():
            clean = model.clean(x, torch.full((rows,), 500.0), torch.full((items,), skip), torch.zeros(items))
        found[size, skip] = (frames_between(method, clean) - blended).mean((2, 3, 4))
        rms = (keys[:, 1:] - keys[:, :-1]).square().mean((2, 3, 4)).sqrt()
        assert torch.allclose(found[size, skip], (0.5 * rms + 0.01) * skip / 12, atol=1e-4)


def test_a_blank_keyframe_has_a_size_of_its_own() -> None:
    nothing = torch.zeros(1, 2, 4, 3, 3)
    assert residual_size(nothing, nothing, torch.tensor([6, 12])).flatten().tolist() == pytest.approx([0.25, 0.5])


def test_the_level_of_a_time_is_that_of_the_schedule() -> None:
    torch.testing.assert_close(alpha_bar(torch.arange(999.0)), signal_levels()[:999], atol=2e-6, rtol=1e-4)
    assert float(alpha_bar(torch.tensor(-1.0))) == pytest.approx(1)


@pytest.mark.parametrize("skip", interpolation.SKIPS)
def test_runs_are_neighbours_of_one_clip(folders: Folders, skip: int) -> None:
    runs, rng = between.training_runs(folders.run), np.random.default_rng(skip)
    step = (skip // 3 if skip % 3 == 0 else skip) / 100
    numbers, starts = set(), set()
    for _ in range(40):
        run = runs.draw(skip, 2, rng, CPU).latents
        assert (run.shape[1] - 1) % 4 == 0 and run.shape[1] <= 4 * between.GROUPS + 1
        assert (run[:, :, 0, 0, 0] == run[:, :1, 0, 0, 0]).all()
        assert torch.allclose(run[:, 1:, 1, 0, 0] - run[:, :-1, 1, 0, 0], torch.tensor(step), atol=2e-3)
        numbers |= set(run[:, 0, 0, 0, 0].tolist())
        starts |= set(run[:, 0, 1, 0, 0].tolist())
    assert len(numbers) == (6 if skip % 3 == 0 else 3) and len(starts) >= 5


def test_nothing_tested_was_trained_on() -> None:
    """Clips of kept combinations alone are measured; scenes come from a stream of their own, and none comes twice."""
    assert not any(kept(clip) for clip in demo.demo_clips((between.COARSE + between.FINE) // 2))
    assert all(kept(clip) for clip in demo.held_out_clips())
    trained = training_scenes((between.COARSE + between.FINE) // 2)
    bodies = {body for scene in trained for body in scene.bodies}
    assert len(bodies) == sum(len(scene.bodies) for scene in trained)
    assert not bodies & {body for scene in held_out_scenes(200) for body in scene.bodies}


def kept(clip: Clip) -> bool:
    return is_held_out(clip.colour, clip.shape, clip.action, clip.background)


def test_scenes_of_every_kind_stay_inside_the_frame_and_move() -> None:
    times = np.linspace(0, MOTION_SECONDS, 31)
    for scene in held_out_scenes(60):
        for body in scene.bodies:
            for place in body.centres(times):
                assert max(body.radius_px) < place.min() and place.max() < FRAME_PX - max(body.radius_px)
        frames = render_scene(scene, times[::10], 64)
        assert frames.shape == (4, 3, 64, 64) and float(frames.abs().max()) <= 1
        assert float((frames[1:] - frames[:-1]).abs().amax()) > 0.3
    assert {scene.kind for scene in held_out_scenes(6)} == set(KINDS)
    assert any(scene.waves for scene in held_out_scenes(30)) and not all(scene.waves for scene in held_out_scenes(30))


def test_a_crossing_is_one() -> None:
    times = np.linspace(0, MOTION_SECONDS, 301)
    for scene in [scene for scene in held_out_scenes(60) if scene.kind == "crossing"]:
        (x0, y0), (x1, y1) = (body.centres(times) for body in scene.bodies)
        assert np.hypot(x0 - x1, y0 - y1).min() < sum(body.radius_px[0] for body in scene.bodies)


def test_a_scene_is_the_same_at_every_rate() -> None:
    scene: Scene = held_out_scenes(1)[0]
    many = render_scene(scene, np.arange(0, 49) / 24)
    assert torch.equal(many[::3], render_scene(scene, np.arange(0, 17) / 8))


Shown = list[tuple[between.Run, Tensor, Tensor, Tensor]]


@pytest.fixture
def shown(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> tuple[InterpolationStage, Shown]:
    """A stage, and run, keyframes, times and strengths of every call for the error."""
    calls: Shown = []

    def record(_: object, run: between.Run, keys: Tensor, time: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        calls.append((run, keys, time, strength))
        return torch.ones(len(keys)), torch.full((len(keys),), 3.0)

    stage = InterpolationStage(folders)
    monkeypatch.setattr(stage.form, "relative", record)
    return stage, calls


def test_a_tenth_has_no_keyframes_and_a_third_of_the_others_disturbed_ones(
    shown: tuple[InterpolationStage, Shown],
) -> None:
    stage, calls = shown
    torch.manual_seed(0)
    for seed in range(400):
        assert float(stage.loss(stage.model, np.random.default_rng(seed), 4, CPU)) == pytest.approx(1 / 3.0001)
    without, disturbed, count, times = 0, 0, 0, []
    for run, keys, time, strength in calls:
        times += time.tolist()
        for clip, one, strong in zip(run.latents, keys, strength, strict=True):
            count += 1
            if not one.any():
                without += 1
            elif strong > 0:
                disturbed += 1
                assert strong <= interpolation.WORST_DISTURBANCE and not torch.equal(one, clip[::4])
            else:
                assert torch.equal(one, clip[::4])
    assert without / count == pytest.approx(0.1, abs=0.03)
    assert disturbed / (count - without) == pytest.approx(interpolation.DISTURBED, abs=0.05)
    assert np.quantile(times, [0.25, 0.5, 0.75]) == pytest.approx(999 * np.sqrt([0.25, 0.5, 0.75]), abs=20)
    skips = np.bincount([run.skip for run, *_ in calls], minlength=13)[1:] / len(calls)
    assert skips == pytest.approx(interpolation.CHANCE, abs=0.05)


def test_figures_are_taken_with_the_keyframes_as_they_are(shown: tuple[InterpolationStage, Shown]) -> None:
    stage, calls = shown
    found = stage.measure(stage.model, CPU)
    assert set(found) == {f"{kind}_s{skip}" for kind in ("moving", "spinning") for skip in (3, 6, 12)}
    assert list(found.values()) == pytest.approx([10 * np.log10(3)] * 6, abs=1e-4)
    for run, keys, time, strength in calls:
        assert torch.equal(run.latents[:, ::4], keys) and not strength.any()
        assert time.tolist() == pytest.approx([forms.MEASURED_TIME] * len(time))


@pytest.mark.parametrize("kind", [InterpolationStage, MaskedInterpolationStage])
def test_an_error_is_counted_in_that_of_linear_blending(folders: Folders, kind: type[InterpolationStage]) -> None:
    """Both networks begin at a relative error of 1, whatever s, level and disturbance."""
    torch.manual_seed(0)
    stage = kind(folders)
    with torch.no_grad():
        run = stage.runs.draw(6, 2, np.random.default_rng(0), CPU)
        keys = run.latents[:, ::4]
        error, reference = stage.form.relative(stage.model, run, keys, torch.tensor([10.0, 900.0]), torch.zeros(2))
    assert torch.allclose(error, reference, rtol=1e-3)
    by_hand = (forms.linear(keys) - forms.missing(run.latents)).square().mean((1, 2, 3, 4))
    assert torch.allclose(reference, by_hand)


def test_the_masked_network_sees_the_ends_of_a_window_and_the_mask_that_says_so(folders: Folders) -> None:
    clip = torch.randn(2, 9, 4, 8, 8)
    keys = clip[:, ::4]
    stage = MaskedInterpolationStage(folders)
    shown = stage.form.shown(forms.missing(clip), keys, torch.tensor([1.0, 1.0]))
    assert torch.allclose(shown, seen("masked", forms.missing(clip), keys), atol=1e-6)


def test_clips_that_are_missing_are_named_with_the_command(folders: Folders) -> None:
    nowhere = folders.run / "nowhere"
    with pytest.raises(CheckpointError, match=r"between_08.npy: no such file; .*export.training.between --run"):
        between.training_runs(nowhere)
