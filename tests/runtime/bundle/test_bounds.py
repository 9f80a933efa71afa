"""Every number of a manifest has bounds: the last one inside opens, the first one outside is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from ffrt import Bundle, BundleError
from ffrt.bundle import FileSpec, GraphSpec, Optimised, Parity, PartSpec
from ffrt.bundle.manifest import (
    ImageConfig,
    InterpolationConfig,
    InterpolationPass,
    KeyframeConfig,
    Manifest,
    TextConfig,
    VideoConfig,
)
from ffrt.families import KANDINSKY_1_0, TensorSpec

VIDEO = VideoConfig(128, 128, 4, 8, 16)
KEYFRAMES = KeyframeConfig(16, 2, 176, "v", "ddpm", 50, 5.0, 0.95)
PASSES = tuple(InterpolationPass(fps, 3) for fps in (4, 8, 16, 32, 64))
BETWEEN = InterpolationConfig("v", "ddpm", 50, 0.25, 0.95, PASSES[:2])
IMAGE = ImageConfig(7.5, 1.0, 20, "high", {"high": 100})
FILE = FileSpec(1, "0" * 64)

BOUNDS: dict[tuple[Any, str], tuple[list[Any], list[Any]]] = {
    (TextConfig("tokenizer.json", 77), "max_tokens"): ([2, 4096], [1, 4097, -3]),
    (VIDEO, "latent_channels"): ([1, 64], [0, 65]),
    (VIDEO, "downscale"): ([1, 8, 16], [0, -8, 3]),
    (VIDEO, "size_multiple"): ([8, 64], [0, -16, 12, 2048]),
    (VIDEO, "height"): ([16, 8192], [0, -16, 24, 8208]),
    (VIDEO, "width"): ([16, 8192], [0, -16, 24, 8208]),
    (KEYFRAMES, "num_frames"): ([2, 176], [1, 1025]),
    (KEYFRAMES, "fps"): ([1, 240], [0, 241]),
    (KEYFRAMES, "position_range"): ([16, 1 << 20], [15, (1 << 20) + 1]),
    (KEYFRAMES, "num_inference_steps"): ([1, 1000], [0, 1001]),
    (KEYFRAMES, "guidance_scale"): ([0.0, 100.0], [-0.1]),
    (KEYFRAMES, "threshold"): ([0.01, 1.0], [0.0, 1.01]),
    (KEYFRAMES, "threshold_max"): ([None, 1.0, 5.0], [0.9]),
    (BETWEEN, "passes"): ([PASSES[:1], PASSES[:4]], [PASSES, PASSES[1::-1], (PASSES[0], PASSES[0])]),
    (BETWEEN, "num_inference_steps"): ([1, 1000], [0, 1001]),
    (PASSES[0], "fps"): ([1, 240], [0, 241]),
    (PASSES[0], "skip_frames"): ([0, 1000], [-1, 1001]),
    (FILE, "bytes"): ([0, (1 << 63) - 1], [-1, 1 << 63]),
    (FILE, "sha256"): (["f" * 64], ["F" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"]),
}


@pytest.mark.parametrize("place", BOUNDS, ids=lambda place: f"{type(place[0]).__name__}.{place[1]}")
def test_the_last_value_inside_is_taken_and_the_first_outside_refused(place: tuple[Any, str]) -> None:
    config, name = place
    inside, outside = BOUNDS[place]
    for value in inside:
        assert getattr(replace(config, **{name: value}), name) == value
    for value in outside:
        with pytest.raises(BundleError, match=name):
            replace(config, **{name: value})


IMAGE_BOUNDS: Mapping[str, tuple[list[Any], list[Any]]] = {
    "first_frame_guidance_scale": ([0.0], [-1.0]),
    "guidance_scale": ([0.0], [-1.0]),
    "noise_augmentation": ([0, 999], [-1, 1000]),
    "motion_scores": ([{"high": 0}, {"high": 1000}], [{"high": -1}, {"high": 1001}, {"high": 5, "low": -1}]),
    "motion": (["high"], ["low"]),
}


@pytest.mark.parametrize("name", IMAGE_BOUNDS)
def test_bounds_of_a_first_frame(name: str) -> None:
    inside, outside = IMAGE_BOUNDS[name]
    for value in inside:
        assert getattr(replace(IMAGE, **{name: value}), name) == value
    for value in outside:
        with pytest.raises(BundleError, match=name):
            replace(IMAGE, **{name: value})


def test_a_schedule_from_pure_noise_needs_v() -> None:
    assert replace(KEYFRAMES, schedule="zero-snr-trailing").prediction == "v"
    with pytest.raises(BundleError, match="prediction: expected v"):
        replace(KEYFRAMES, schedule="zero-snr-trailing", prediction="noise")


TENSORS = {name: TensorSpec(name, "float32", ("B",)) for name in ("x", "time", "y", "z")}
PARITY = Parity(0.0, 0.0, 1e-3)


def graph(*parts: PartSpec, file: str = "a.onnx") -> GraphSpec:
    """A graph of x and time that gives y and z."""
    return GraphSpec(file, (TENSORS["x"], TENSORS["time"]), (TENSORS["y"], TENSORS["z"]), PARITY, parts)


def test_parts_take_what_is_known_and_the_last_gives_what_the_graph_does() -> None:
    first = PartSpec("a_request.onnx", ("time",), ("table",))
    last = PartSpec("a.onnx", ("x", "table"), ("y", "z"))
    assert graph(first, last).files == ("a_request.onnx", "a.onnx")
    assert graph(PartSpec("a.onnx", ("x",), ("y", "z"))).files == ("a.onnx",)
    wrong = {
        "inputs: expected some of": [last, first],
        r"parts\.a\.onnx\.inputs": [first, replace(last, inputs=("x", "other"))],
        "'a.onnx' last": [first, replace(last, file="b.onnx")],
        r"parts\.a\.onnx\.outputs": [first, replace(last, outputs=("y",))],
    }
    for words, parts in wrong.items():
        with pytest.raises(BundleError, match=words):
            graph(*parts)
    for made in (partial(graph, file="a.xml"), partial(replace, first, file="a.xml")):
        with pytest.raises(BundleError, match=r"file: expected a name that ends in \.onnx"):
            made()


@pytest.mark.parametrize("name", ["manifest" + ".json", ".hidden", "a/b", "..", "", "a" * 129, "a b", "ä"])
def test_a_listed_file_has_a_plain_name_and_is_not_the_manifest(tiny: Bundle, name: str) -> None:
    manifest = tiny.manifest
    with pytest.raises(BundleError, match="files: expected plain file names"):
        replace(manifest, files={**manifest.files, name: FILE})
    assert replace(manifest, files={**manifest.files, "a" * 128: FILE}).files["a" * 128] == FILE


def test_the_name_of_a_bundle_has_1_to_200_characters(tiny: Bundle) -> None:
    for name in ("a", "a" * 200):
        assert replace(tiny.manifest, name=name).name == name
    for name in ("", "a" * 201):
        with pytest.raises(BundleError, match="name: expected 1 to 200 characters"):
            replace(tiny.manifest, name=name)


def test_frames_grow_with_every_pass_up_to_the_rate(tiny: Bundle) -> None:
    manifest: Manifest = replace(
        tiny.manifest, family=KANDINSKY_1_0, keyframes=KEYFRAMES, interpolation=replace(BETWEEN, passes=PASSES[:2])
    )
    assert [manifest.num_frames(fps) for fps in (2, 4, 8)] == [16, 61, 241]
    assert replace(manifest, optimised=Optimised("cpu", (), "float32")).rates == (2, 4, 8)
