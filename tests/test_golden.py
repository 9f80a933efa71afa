"""Our modules against numbers that the released implementation computed (tests/golden/SOURCE.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export import golden
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
        y = golden.keyframe_unet(file)(given["x"], given["time"], given["context"], given["context_mask"], positions)
    assert close(file.outputs["y"], y)


def test_a_row_a_video_equals_a_row_a_frame() -> None:
    file = golden.read_golden(FOLDER / "v1_0_keyframe_unet.npz")
    given, frames = file.inputs, file.config["num_frames"]
    rows = slice(None, None, frames)
    few = given["time"][rows], given["context"][rows], given["context_mask"][rows]
    many = [value.repeat_interleave(frames, 0) for value in few]
    unet = golden.keyframe_unet(file).double()
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
        y = golden.interpolation_unet(file)(
            given["x"], given["time"], given["context"], given["context_mask"],
            given["skip_frames"][:groups], torch.zeros(groups),
        )  # fmt: skip
    assert close(file.outputs["y"], y)


def test_movq() -> None:
    file = golden.read_golden(FOLDER / "movq_image.npz")
    model = golden.movq(file)
    with torch.no_grad():
        assert close(file.outputs["latent"], model.encoder(file.inputs["image"]))
        assert close(file.outputs["image"], model.decoder(file.inputs["latent"]))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_t5_and_projection(number: int) -> None:
    file = golden.read_golden(FOLDER / "v1_1_text.npz")
    mask = file.inputs[f"{number}/attention_mask"]
    weight, scale, shift = (file.parameters[f"projection_base/{key}"] for key in ("0.weight", "1.weight", "1.bias"))
    with torch.no_grad():
        hidden = golden.t5_encoder(file)(file.inputs[f"{number}/input_ids"], mask)
        projected = torch.nn.functional.layer_norm(hidden @ weight.T, (len(scale),), scale, shift) * mask[:, :, None]
    reference = file.outputs[f"{number}/projection_base/context"]
    assert close(reference, projected[:, : reference.shape[1]])


def test_a_checkpoint_that_does_not_fit_is_named() -> None:
    file = golden.read_golden(FOLDER / "v1_0_interpolation_unet.npz")
    unet = golden.interpolation_unet(file)
    without = {key: value for key, value in file.parameters.items() if key != "in_layer.weight"}
    with pytest.raises(ValueError, match="missing.*body.in_conv.weight"):
        load_released(unet, without, unet_key)
    with pytest.raises(ValueError, match="left over.*stranger"):
        load_released(unet, {**file.parameters, "stranger": torch.zeros(1)}, unet_key)
    with pytest.raises(ValueError, match=r"body.in_conv.bias: wanted shape \[16\], got \[1\]"):
        load_released(unet, {**file.parameters, "in_layer.bias": torch.zeros(1)}, unet_key)
