"""Our modules against numbers that the released implementation computed (tests/golden/SOURCE.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export import golden, golden_models
from export.checkpoints import load_released, unet_key
from export.parity import errors

FOLDER = Path(__file__).parent / "golden"


def close(reference: np.ndarray, value: torch.Tensor) -> bool:
    _, relative = errors(reference, value.detach().numpy())
    return relative < golden.LIMIT


def test_keyframe_unet() -> None:
    file = golden.read_golden(FOLDER / "v1_0_keyframe_unet.npz")
    given, frames = file.inputs, file.config["num_frames"]
    positions = given["temporal_positions"][:frames]
    with torch.no_grad():
        unet = golden_models.keyframe_unet(file.config, file.parameters)
        y = unet(given["x"], given["time"], given["context"], given["context_mask"], positions)
    assert close(file.outputs["y"], y)


def test_a_row_a_video_equals_a_row_a_frame() -> None:
    file = golden.read_golden(FOLDER / "v1_0_keyframe_unet.npz")
    given, frames = file.inputs, file.config["num_frames"]
    rows = slice(None, None, frames)
    few = given["time"][rows], given["context"][rows], given["context_mask"][rows]
    many = [value.repeat_interleave(frames, 0) for value in few]
    unet = golden_models.keyframe_unet(file.config, file.parameters).double()
    positions = given["temporal_positions"][:frames]
    with torch.no_grad():
        a, b = (
            unet(given["x"].double(), time.double(), context.double(), mask, positions)
            for time, context, mask in (few, many)
        )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_interpolation_unet() -> None:
    file = golden.read_golden(FOLDER / "v1_0_interpolation_unet.npz")
    given = file.inputs
    groups = int(given["num_temporal_groups"])
    with torch.no_grad():
        y = golden_models.interpolation_unet(file.config, file.parameters)(
            given["x"], given["time"], given["context"], given["context_mask"],
            given["skip_frames"][:groups], torch.zeros(groups),
        )  # fmt: skip
    assert close(file.outputs["y"], y)


def test_movq() -> None:
    file = golden.read_golden(FOLDER / "movq_image.npz")
    model = golden_models.movq(file.config, file.parameters)
    with torch.no_grad():
        assert close(file.outputs["latent"], model.encoder(file.inputs["image"]))
        assert close(file.outputs["image"], model.decoder(file.inputs["latent"]))


@pytest.mark.parametrize("projection", ["projection_base", "projection_interpolation"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_t5_and_projection(number: int, projection: str) -> None:
    file = golden.read_golden(FOLDER / "v1_1_text.npz")
    with torch.no_grad():
        encoder = golden_models.text_encoder(file, projection)
        context, _ = encoder(file.inputs[f"{number}/input_ids"], file.inputs[f"{number}/attention_mask"])
    reference = file.outputs[f"{number}/{projection}/context"]
    assert close(reference, context[:, : reference.shape[1]])


def test_a_checkpoint_that_does_not_fit_is_named() -> None:
    file = golden.read_golden(FOLDER / "v1_0_interpolation_unet.npz")
    unet = golden_models.interpolation_unet(file.config, file.parameters)
    without = {key: value for key, value in file.parameters.items() if key != "in_layer.weight"}
    with pytest.raises(ValueError, match="missing.*body.in_conv.weight"):
        load_released(unet, without, unet_key)
    with pytest.raises(ValueError, match="left over.*stranger"):
        load_released(unet, {**file.parameters, "stranger": torch.zeros(1)}, unet_key)
    with pytest.raises(ValueError, match=r"body.in_conv.bias: wanted shape \[16\], got \[1\]"):
        load_released(unet, {**file.parameters, "in_layer.bias": torch.zeros(1)}, unet_key)
