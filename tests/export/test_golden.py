"""Our modules against numbers that the released implementation computed (tests/golden/SOURCE.md)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoints.configs import keyframe_config
from export.checkpoints.names import load_released, released_unet_key, unet_key
from export.golden import file as golden
from export.golden import models as golden_models
from export.golden.__main__ import main
from export.models.keyframes import KeyframeUNet
from export.onnx.parity import errors

FOLDER = Path(__file__).parents[1] / "golden"


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
            given["x"],
            given["time"],
            given["context"],
            given["context_mask"],
            given["skip_frames"][:groups],
            torch.zeros(groups),
        )
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
    with pytest.raises(ValueError, match=r"body.in_conv.bias: expected shape \[16\], got \[1\]"):
        load_released(unet, {**file.parameters, "in_layer.bias": torch.zeros(1)}, unet_key)


NETWORKS = sorted(path.name for path in FOLDER.glob("*.npz") if not path.name.startswith("pipeline"))


def checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main([str(folder), "--no-onnx"])
    return status, capsys.readouterr().out


@pytest.mark.parametrize("name", NETWORKS)
def test_the_checker_accepts_every_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(FOLDER / name, tmp_path / "any_name.npz")  # what a file is, is read from what is in it
    status, told = checked(tmp_path, capsys)
    assert status == 0 and told.count(" ok") >= 1 and "TOO FAR" not in told


@pytest.mark.slow
def test_the_checker_runs_whole_pipelines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(FOLDER / "pipeline_v1_1_text.npz", tmp_path / "p.npz")
    status, told = checked(tmp_path, capsys)
    assert status == 0 and [word for word in ("keyframes", "latents", "frames") if word not in told] == []


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name) as file:
        return {key: file[key] for key in file.files}


def test_the_checker_finds_what_is_too_far_or_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = arrays("v1_1_text.npz")
    name = "out/0/projection_base/context"
    np.savez(tmp_path / "a_far.npz", **{**text, name: text[name] * np.float32(1.01)})
    np.savez(tmp_path / "b_lacks.npz", **{k: v for k, v in text.items() if k != "param/t5/shared.weight"})
    np.savez(tmp_path / "c_strange.npz", **{**text, "config": np.frombuffer(b'{"depth": 3}', np.uint8)})
    (tmp_path / "d_none.npz").write_bytes(b"PK")
    np.savez(tmp_path / "e_pickle.npz", config=np.array([{"a": 1}], dtype=object))
    status, told = checked(tmp_path, capsys)
    assert status == 1
    rows = {line[:8]: line for line in told.splitlines() if "TOO FAR" in line or "could not be run" in line}
    assert rows["a_far.np"].endswith("TOO FAR") and told.count("TOO FAR") == 1
    assert "missing" in rows["b_lacks."] and "embed_tokens.weight" in rows["b_lacks."]
    assert "expected a U-Net" in rows["c_strang"] and "depth" in rows["c_strang"]
    assert "expected an .npz" in rows["d_none.n"] and "expected an .npz" in rows["e_pickle"]


def test_the_checker_wants_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2 and main([str(tmp_path / "none")]) == 2
    assert "found none" in capsys.readouterr().err


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_checker_builds_other_configurations(
    levels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "model_channels": 8,
        "init_channels": 16,
        "time_embed_dim": 16,
        "context_dim": 20,
        "groups": 4,
        "head_dim": 4,
        "expansion_ratio": 2,
        "compression_ratio": 1,
        "num_channels": 4,
        "out_channels": 4,
        "num_frames": 3,
        "dim_mult": [1, 2, 2, 3][:levels],
        "num_blocks": [3, 2, 2, 2][:levels],
        "add_cross_attention": [True, False, True, True][:levels],
        "add_self_attention": [False, True, True, False][:levels],
    }
    torch.manual_seed(levels)
    unet = KeyframeUNet(keyframe_config(config))
    state = {key: (value + 0.1 * torch.randn_like(value)).half() for key, value in unet.state_dict().items()}
    unet.load_state_dict({key: value.float() for key, value in state.items()})
    side, mask = 2**levels, torch.ones(6, 5, dtype=torch.bool)
    given = {
        "x": torch.randn(6, 4, side, side),
        "time": torch.full((6,), 300.0),
        "context": torch.randn(6, 5, 20),
        "context_mask": mask,
        "temporal_positions": torch.tensor([0, 60, 120] * 2),
    }
    with torch.no_grad():
        y = unet(*list(given.values())[:4], given["temporal_positions"][:3]).numpy()
    released = dict(released_unet_key(key, value) for key, value in state.items())
    over_time = [key for key in released if ".temporal_resnet_blocks." in key and key.endswith(".2.weight")]
    assert over_time and all(released[key].shape[3:] == (1, 1) for key in over_time), "as released: [out, in, k, 1, 1]"
    np.savez(
        tmp_path / "other.npz",
        config=np.frombuffer(json.dumps(config).encode(), np.uint8),
        **{"out/y": y},
        **{f"param/{key}": value.numpy() for key, value in released.items()},
        **{f"in/{key}": value.numpy() for key, value in given.items()},
    )
    assert checked(tmp_path, capsys)[0] == 0
