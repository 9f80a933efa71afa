"""The detector tells every word of the grammar from rendered truth, also when it is blurred or noisy, and can fail."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.metrics import detector
from bench.metrics.detector import Detection, components, detect
from export.datasets import shapes

Frames = NDArray[np.uint8]
KEYFRAME_TIMES = np.arange(16) / 2


def rendered(clip: shapes.Clip) -> Frames:
    return to_uint8((shapes.render(clip, KEYFRAME_TIMES).numpy().transpose(0, 2, 3, 1) + 1) * 127.5)


def to_uint8(values: NDArray[np.floating]) -> Frames:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def gaussian(frames: NDArray[np.generic], sigma_px: float) -> NDArray[np.float64]:
    reach = int(4 * sigma_px + 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    kernel /= kernel.sum()
    values = frames.astype(np.float64)
    for axis in (1, 2):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(4)], mode="edge")
        length = values.shape[axis]
        values = sum(weight * padded.take(range(i, i + length), axis=axis) for i, weight in enumerate(kernel))
    return values


def blurred(frames: Frames, rng: np.random.Generator) -> Frames:
    return to_uint8(gaussian(frames, 1.5))


def blurred_and_noisy(frames: Frames, rng: np.random.Generator) -> Frames:
    return to_uint8(gaussian(frames, 1.5) + rng.normal(0, 8, frames.shape))


def autoencoded(frames: Frames, rng: np.random.Generator) -> Frames:
    """What a weak autoencoder does: soft edges and smooth stains, about 25 dB."""
    stains = gaussian(rng.normal(0, 1, frames.shape), 3.0)
    return to_uint8(gaussian(frames, 1.0) + 6 * stains / stains.std())


def clip(**changes: object) -> shapes.Clip:
    words = {"colour": "red", "shape": "square", "action": "standing still", "background": "black", "size": None}
    return shapes.Clip(**{**words, "radius_px": 18.0, "centre_px": (64.0, 64.0), **changes})


def wrong(clips: list[shapes.Clip], damage: Callable[[Frames, np.random.Generator], Frames] | None) -> list[str]:
    rng = np.random.default_rng(17)
    found = []
    for truth in clips:
        frames = rendered(truth) if damage is None else damage(rendered(truth), rng)
        seen = detect(frames)
        for name in ("colour", "background", "shape", "action", "size"):
            want = getattr(truth, name)
            if getattr(seen, name) != want and (name, want) != ("size", None):
                found.append(f"{name} of {truth}: {getattr(seen, name)}")
        found += [f"{fault} in {truth}" for fault in seen.faults]
    return found


@pytest.mark.parametrize("damage", [None, blurred, blurred_and_noisy, autoencoded])
def test_every_attribute_of_random_clips_is_found(
    damage: Callable[[Frames, np.random.Generator], Frames] | None,
) -> None:
    rng = np.random.default_rng(2024)
    assert wrong([shapes.sample_clip(rng) for _ in range(30)], damage) == []


@pytest.mark.parametrize("action", [action for action in shapes.ACTIONS if action != "spinning"])
@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_every_shape_and_action(shape: str, action: str) -> None:
    assert wrong([clip(shape=shape, action=action, radius_px=13.0, size="small")], blurred) == []


@pytest.mark.parametrize("shape", ["square", "triangle"])
def test_spinning_from_any_angle(shape: str) -> None:
    clips = [clip(shape=shape, action="spinning", angle_degrees=angle) for angle in (0.0, 17.0, 45.0, 200.0)]
    assert wrong(clips, blurred) == []


def test_nothing_there() -> None:
    assert detect(np.full((16, 128, 128, 3), (15, 15, 20), np.uint8)) == Detection(
        "black", None, None, None, "none", ("no object",)
    )


def test_an_object_in_half_the_frames_is_a_fault() -> None:
    frames = rendered(clip())
    frames[::2] = (15, 15, 20)
    assert "no object" in detect(frames).faults


def test_two_objects() -> None:
    left, right = (rendered(clip(centre_px=(x, 64.0))) for x in (30.0, 98.0))
    assert detect(np.maximum(left, right)).faults == ("two objects",)


@pytest.mark.parametrize("change", [{"colour": "green"}, {"shape": "circle"}, {"background": "teal"}])
def test_an_object_that_changes_flickers(change: dict[str, str]) -> None:
    frames = rendered(clip())
    frames[1::2] = rendered(clip(**change))[1::2]
    assert detect(frames).faults == ("flicker",)


def test_a_path_that_is_in_no_word_is_unclear() -> None:
    frames = np.stack([rendered(clip(centre_px=(40.0 + 3 * i, 40.0 + 3 * i)))[0] for i in range(16)])
    assert detect(frames).action == "none"


def test_a_drift_between_still_and_moving_is_unclear() -> None:
    frames = np.stack([rendered(clip(centre_px=(60.0 + i, 64.0)))[0] for i in range(16)])
    assert detect(frames).action == "none"


def test_one_broken_frame_changes_nothing() -> None:
    frames = rendered(clip(action="moving left"))
    frames[7] = rendered(clip(colour="white", shape="circle", centre_px=(90.0, 30.0)))[7]
    seen = detect(frames)
    assert (seen.colour, seen.shape, seen.action, seen.faults) == ("red", "square", "moving left", ())


def test_noise_is_no_clean_clip() -> None:
    assert detect(np.random.default_rng(3).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)).faults


def test_a_dim_object_beside_specks_is_measured() -> None:
    frames = rendered(clip(colour="red", background="brown"))
    frames[:, 5:11, 5:23] = 255
    assert (detect(frames).colour, detect(frames).shape, detect(frames).faults) == ("red", "square", ())


@pytest.mark.parametrize(
    "frames", [np.zeros((4, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_what_is_no_clip_is_refused(frames: Frames) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \[N, H, W, 3\]"):
        detect(frames)


def test_components_join_a_spiral_and_part_diagonals() -> None:
    mask = np.array([[1, 1, 1, 1, 0], [1, 0, 0, 1, 0], [1, 0, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 1]], dtype=bool)
    assert [int(part.sum()) for part in components(mask)] == [13, 1]


def test_detector_and_renderer_share_nothing_but_the_published_colours() -> None:
    tree = ast.parse(Path(detector.__file__).read_text())
    roots = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    modules = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules -= {"bench.harness.record"}  # its error
    roots |= {module.split(".")[0] for module in modules}
    assert roots == {"collections", "dataclasses", "numpy"}
    assert detector.OBJECT_RGB == shapes.COLOURS
    assert detector.BACKGROUND_RGB == shapes.BACKGROUNDS
