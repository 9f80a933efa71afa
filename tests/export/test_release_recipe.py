"""From files in the released layout to a video: Kandinsky Video 1.0 and 1.1, small, through the command lines."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from export.__main__ import main
from export.golden.file import read_golden
from export.golden.pipeline import sequences
from export.onnx import release as release_bundle
from ffrt import Bundle, Pipeline, RequestError, Stage
from ffrt.backend.free_memory import FreeMemory
from ffrt.cli import main as cli
from ffrt.families import KANDINSKY_1_1
from ffrt.stages.interpolate import WINDOW_GROUPS
from ffrt.stages.text import Context
from graphs.optimise import optimise
from graphs.passes.table import PROVIDERS

HERE = Path(__file__).parents[1]
PROMPT = "a red car drives over the snowy mountain"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    columns = np.linspace(0, 255, 90, dtype=np.uint8)
    Image.fromarray(np.stack([np.tile(columns, (70, 1))] * 3, axis=2)).save(tmp_path / "start.png")
    return tmp_path / "start.png"


@pytest.mark.slow
def test_1_0_makes_an_mp4(kv10: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (kv10.keyframes.num_frames, kv10.keyframes.image) == (5, None)
    assert all(0 < graph.parity.relative_rms < graph.parity.floor for graph in kv10.graphs.values())
    out = tmp_path / "car.mp4"
    command = ["generate", PROMPT, "--bundle", str(kv10.folder), "--size", "48x64", "--steps", "2", "-o", str(out)]
    assert cli.main(command) == 0
    assert "17 frames, 48x64, 8 fps" in capsys.readouterr().out
    assert cli.main([*command, "--image", "start.png"]) == 2
    assert "image: expected None, since this bundle makes keyframes of text alone" in capsys.readouterr().err


@pytest.mark.slow
def test_an_export_prints_its_own_lines_alone(kv10: Bundle, exports: dict[str, Path]) -> None:
    lines = (exports["kv10"] / "log").read_text(encoding="utf-8").splitlines()
    own = re.compile(r" *\d+\.\d s  \S|\w+ \d+\.\d of \d+\.\d MB")
    assert len(lines) > len(kv10.graphs)
    assert not [line for line in lines if own.match(line) is None]


@pytest.mark.slow
def test_1_1_follows_the_release_number_for_number(kv11: Bundle) -> None:
    golden = read_golden(HERE / "golden" / "pipeline_v1_1_text.npz")
    config = golden.config
    named = sorted(name for name in golden.others if name.startswith("noise/"))
    noise = [(name.split("_")[-1], golden.others[name].astype(np.float32)) for name in named]
    first, keys, between = (np.stack(draws) for draws in sequences(noise))
    context = Context(
        golden.inputs["context"].numpy(),
        golden.inputs["context_mask"].bool().numpy(),
        golden.parameters["null_embedding"].reshape(-1).numpy(),
        interpolation_null_embedding=golden.parameters["interpolation_null_embedding"].reshape(-1).numpy(),
    )
    pipe = Pipeline(kv11, provider="cpu", threads=1)
    sizes = {"height": config["height"], "width": config["width"]}
    frame = pipe.first_frame(context, noise=first, guidance_scale=config["key_frame_guidance_scale"], **sizes)
    assert frame.shape == (96, 128, 3)
    latents = pipe.keyframes(
        context,
        image=frame,
        motion=config["motion"],
        guidance_scale=config["guidance_weight_prompt"],
        image_guidance_scale=config["guidance_weight_image"],
        noise_augmentation=config["noise_augmentation"],
        noise=keys,
        frame_noise=next(value for kind, value in noise if kind == "rand"),
        **sizes,
    )
    want = golden.outputs["keyframes"]
    assert np.sqrt(np.mean((latents - want) ** 2) / np.mean(want**2)) < 2e-2
    guidance = config["interpolation_guidance_scale"]
    latents = pipe.interpolate(latents, context, fps=8, noise=between, guidance_scale=guidance)
    frames = pipe.decode(latents, 8).frames
    mean = np.mean((frames.astype(np.float64) - golden.outputs["frames"]) ** 2)
    assert 10 * np.log10(255**2 / mean) > 40


@pytest.mark.slow
def test_1_1_makes_an_mp4_of_text_or_of_a_picture(
    kv11: Bundle, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kv11.graphs.keys() == KANDINSKY_1_1.contract.keys() - {"masked_interpolation_unet"}
    assert not (kv11.folder / "image_unet.safetensors").exists()  # it is the keyframe U-Net's
    out = tmp_path / "car.mp4"
    command = ["generate", PROMPT, "--bundle", str(kv11.folder), "--size", "48x64", "--steps", "2", "-o", str(out)]
    assert cli.main(command) == 0
    told = capsys.readouterr()
    assert "45 frames, 48x64, 8 fps" in told.out and "first frame" in told.err
    assert cli.main([*command, "--image", str(picture), "--motion", "extreme", "--fps", "2"]) == 0
    told = capsys.readouterr()
    assert "12 frames" in told.out and "first frame" not in told.err
    assert cli.main(["inspect", str(out)]) == 0
    told = capsys.readouterr()
    assert "given" in told.out and "100" in told.out
    assert cli.main([*command, "--motion", "wild"]) == 2
    assert "motion: expected one of ['low', 'medium', 'high', 'extreme']" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_both_releases_can_be_optimised(kv10: Bundle, kv11: Bundle, tmp_path: Path, provider: str) -> None:
    """Every U-Net in three parts: once a request, once a noise level, every step."""
    for bundle in (kv10, kv11):
        made = optimise(bundle, tmp_path / bundle.name, provider=provider, dtype="float32")
        for name, spec in made.graphs.items():
            assert spec.parity.relative_rms < 1e-4
            assert len(spec.parts) == (3 if "unet" in name else 0), name
        if provider != "cuda":
            assert_interpolates_alike(bundle, made)


def assert_interpolates_alike(plain: Bundle, other: Bundle) -> None:
    """One pass of both bundles, in one window and in two, with guidance and without. Latents of 2x2 would leave norms
    of one pixel in the networks of 1.1, which make anything of a rounding."""
    pipes = [Pipeline(bundle, provider="cpu", threads=1) for bundle in (plain, other)]
    context = pipes[0].encode(PROMPT)
    for groups, guidance_scale in ((3, 0.5), (WINDOW_GROUPS + 2, 0.5), (WINDOW_GROUPS + 2, 0.0)):
        latents = np.random.default_rng(groups).standard_normal((groups + 1, 4, 4, 4), dtype=np.float32)
        want, got = (
            pipe.interpolate(latents, context, fps=8, num_inference_steps=2, guidance_scale=guidance_scale)
            for pipe in pipes
        )
        assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 1e-5


@pytest.mark.slow
def test_a_picture_may_be_a_file_an_array_or_an_image(kv11: Bundle, picture: Path) -> None:
    pipe = Pipeline(kv11, provider="cpu", threads=1)
    context = pipe.encode(PROMPT)

    def keyframes(image: object, seed: int = 1) -> np.ndarray:
        return pipe.keyframes(context, image=image, seed=seed, num_inference_steps=1, height=48, width=64)

    opened = Image.open(picture)
    want = keyframes(picture)
    for image in (str(picture), opened, np.asarray(opened)):
        np.testing.assert_array_equal(keyframes(image), want)
    assert np.abs(keyframes(255 - np.asarray(opened)) - want).max() > 1e-3
    assert np.abs(keyframes(picture, seed=2) - want).max() > 1e-3
    small = pipe.generate(PROMPT, image=np.zeros((20, 20, 3), np.uint8), height=48, width=64)
    assert ["20x20 is smaller than the video's 48x64" in str(note) for note in small.notes] == [True]
    with pytest.raises(RequestError, match="context: expected what pipe.encode"):
        pipe.interpolate(want, fps=8)


@pytest.mark.slow
def test_steps_of_a_video_that_makes_its_first_frame(kv11: Bundle) -> None:
    pipe = Pipeline(kv11, provider="cpu", threads=1)
    steps = list(pipe.generate(PROMPT, fps=8, num_inference_steps=2, height=48, width=64))
    stages = [Stage.FIRST_FRAME, Stage.KEYFRAMES, Stage.INTERPOLATION]
    assert [step.stage for step in steps] == [Stage.TEXT, *(stage for stage in stages for _ in range(2))]
    assert [step.done for step in steps] == list(range(1, 8)) and steps[0].of == 7 + 45  # frames are decoded one by one
    assert steps[1].preview().shape == (1, 96, 128, 3) and steps[-1].preview(slice(1)).shape == (1, 48, 64, 3)


def damaged(path: Path, change: Callable[[dict], None]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    path.unlink()
    torch.save(state, path)


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/ffrt-was-here",)


BIAS = "in_layer.bias"
BAD: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "no file": ("1.1", lambda f: (f / "t2v.pt").unlink(), ["t2v.pt", "no such file", "interpolation.pt"]),
    "no section": ("1.1", lambda f: damaged(f / "t2v.pt", lambda s: s.pop("unet")), ["t2v.pt", "'unet'"]),
    "renamed key": (
        "1.0",
        lambda f: damaged(
            f / "weights/kandinsky_video.pt", lambda s: s["unet"].update(x=s["unet"].pop("in_layer.bias"))
        ),
        ["kandinsky_video.pt", "body.in_conv.bias", "x"],
    ),
    "wrong shape": (
        "1.0",
        lambda f: damaged(f / "weights/movq.pt", lambda s: s.update({"quant_conv.bias": torch.zeros(5)})),
        ["movq.pt", "quant_conv.bias", "[4]", "[5]"],
    ),
    "hostile": (
        "1.1",
        lambda f: torch.save({"unet": Hostile()}, f / "t2v.pt"),
        ["t2v.pt", "posix.system", "it was not run"],
    ),
    "cut short": ("1.1", lambda f: os.truncate(f / "movq.pt", 4000), ["movq.pt"]),
    "other configuration": (
        "1.1",
        lambda f: (f / "configs.json").write_text(
            json.dumps({**json.loads((f / "configs.json").read_text()), "t2v": {"model_channels": 16}})
        ),
        ["configs.json: t2v", "missing"],
    ),
    "no configuration": ("1.1", lambda f: (f / "configs.json").unlink(), ["configs.json"]),
    "no text encoder": (
        "1.0",
        lambda f: os.rename(f / "text_encoder", f / "elsewhere"),
        ["text_encoder", "--text-encoder", "flan-ul2"],
    ),
    "other text encoder": (
        "1.0",
        lambda f: (f / "text_encoder/config.json").write_text('{"model_type": "bert"}'),
        ["text_encoder", "is config.json of the same model?"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_and_nothing_is_written(
    releases: ModuleType, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, change, words = BAD[case]
    folder = {"1.0": releases.write_1_0, "1.1": releases.write_1_1}[version](tmp_path / "files")
    change(folder)
    out = tmp_path / "bundle"
    assert main([f"kandinsky-video-{version}", "--weights", str(folder), "--out", str(out)]) == 1
    told = capsys.readouterr().err
    for word in words:
        assert word in told
    assert {path.name for path in tmp_path.iterdir()} == {"files"}
    assert not Path("/tmp/ffrt-was-here").exists()


@pytest.mark.parametrize("short", ["disk", "memory"])
def test_too_small_a_machine_is_told_before_anything_is_written(
    releases: ModuleType,
    short: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = releases.write_1_0(tmp_path / "files")
    if short == "disk":
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    else:
        monkeypatch.setattr(release_bundle, "free_memory", lambda: FreeMemory(10_000_000, "this machine"))
    arguments = ["kandinsky-video-1.0", "--weights", str(folder), "--out", str(tmp_path / "new" / "bundle")]
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert "of free disk, got 1000" in told if short == "disk" else "memory: expected 1.0 GB free, got 0.0" in told
    assert {path.name for path in tmp_path.iterdir()} == {"files"}


def test_a_stopped_export_goes_on(
    releases: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = releases.write_1_0(tmp_path / "files")
    arguments = ["kandinsky-video-1.0", "--weights", str(folder), "--out", str(tmp_path / "bundle")]
    streamed: list[str] = []
    stream = release_bundle.stream_weights

    def watched(module, source, rename, out, *rest):
        streamed.append(out.name)
        stream(module, source, rename, out, *rest)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(release_bundle, "stream_weights", watched)
    monkeypatch.setattr(release_bundle, "_traced", stop)
    assert main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
    assert main(arguments) == 130
    assert streamed == ["text_encoder.safetensors"]  # once: the second try found it whole
    os.utime(folder / "text_encoder" / "pytorch_model.bin", (1, 1))
    assert main(arguments) == 130
    assert streamed == ["text_encoder.safetensors"] * 2  # another version of the file is another file
    os.truncate(tmp_path / ".bundle.writing" / ".ffrt-done.json", 0)  # as a power cut may leave it
    assert main(arguments) == 130
    assert streamed == ["text_encoder.safetensors"] * 3


def test_a_folder_that_is_no_earlier_try_is_left_alone(
    releases: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = releases.write_1_0(tmp_path / "files")
    (tmp_path / ".bundle.writing").mkdir()
    (tmp_path / ".bundle.writing" / "notes.txt").write_text("mine")
    assert main(["kandinsky-video-1.0", "--weights", str(folder), "--out", str(tmp_path / "bundle")]) == 1
    assert "expected a folder of an earlier try, got another one; move it away" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / ".bundle.writing").iterdir()] == ["notes.txt"]
