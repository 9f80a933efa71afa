"""The U-Nets of Kandinsky Video 1.1: what they load, what they see, what they count, and their graphs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.checkpoints.configs import image_keyframe_config, texted_interpolation_config
from export.checkpoints.names import load_released, unet_key
from export.golden.file import read_golden
from export.models.configs import INTERPOLATION_SHAPES, KEYFRAME_SHAPES, UNetConfig
from export.models.image_keyframes import FirstFrameUNet, ImageKeyframeUNet
from export.models.interpolation import InterpolationUNet, TextedInterpolationUNet
from export.onnx.parity import errors

RELEASED = replace(KEYFRAME_SHAPES["Conv1dAttn1dBlocks"], num_channels=20, out_channels=12)
SHAPES_1_1 = {
    "keyframes": replace(
        KEYFRAME_SHAPES["Conv1dAttn1dBlocks"], num_channels=9, noise_augmentation=True, motion_score=True
    ),
    "interpolation": replace(RELEASED, add_temporal_attention=True),  # what the released file's size fits
    "interpolation_without_attention": RELEASED,
    "interpolation_new_params": replace(RELEASED, add_temporal_attention=True, add_new_temporal_params=True),
}
"""Kandinsky Video 1.1 at the released size; the lesser interpolation shapes are what its constructor offers too."""


PIPELINE = read_golden(Path(__file__).parents[1] / "golden" / "pipeline_v1_1_text.npz")
D = PIPELINE.config["t2v"]["context_dim"]


def parameters(name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name): value for key, value in PIPELINE.parameters.items() if key.startswith(name)}


@cache
def keyframes() -> ImageKeyframeUNet:
    unet = ImageKeyframeUNet(image_keyframe_config(PIPELINE.config["t2v"]))
    load_released(unet, parameters("unet/"), unet_key)
    return unet.requires_grad_(False)


@cache
def interpolation() -> TextedInterpolationUNet:
    unet = TextedInterpolationUNet(texted_interpolation_config(PIPELINE.config["interpolation"]))
    load_released(unet, parameters("interpolation/"), unet_key)
    return unet.requires_grad_(False)


def prompt(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    mask = torch.rand(rows, tokens) < 0.6
    mask[:, 0] = True
    return torch.randn(rows, tokens, D), mask


def for_keyframes(rows: int, frames: int, height: int, width: int, tokens: int) -> tuple[Tensor, ...]:
    return (
        torch.randn(rows * frames, 9, height, width),
        torch.rand(rows) * 900,
        *prompt(rows, tokens),
        torch.arange(frames) * 5,
        torch.randint(0, 100, (rows,)),
        torch.randint(0, 100, (rows,)),
    )


def for_interpolation(rows: int, groups: int, height: int, width: int, tokens: int) -> tuple[Tensor, ...]:
    return (
        torch.randn(rows * groups, 20, height, width),
        torch.rand(rows) * 900,
        *prompt(rows, tokens),
        torch.randint(0, 20, (groups,)),
        torch.rand(groups) * 50,
        torch.arange(rows).flip(0) % 2 * 1.0,
    )


def for_image(rows: int, height: int, width: int, tokens: int) -> tuple[Tensor, ...]:
    return torch.randn(rows, 9, height, width), torch.rand(rows) * 900, *prompt(rows, tokens)


def a_row_a_frame(inputs: tuple[Tensor, ...], places: set[int], length: int) -> tuple[Tensor, ...]:
    return tuple(value.repeat_interleave(length, 0) if at in places else value for at, value in enumerate(inputs))


def same(a: Tensor, b: Tensor) -> bool:
    return errors(a.numpy(), b.numpy())[1] < 1e-5


def test_rows_may_stand_for_videos_or_for_frames() -> None:
    torch.manual_seed(0)
    few = for_keyframes(2, 3, 6, 8, 5)
    assert same(keyframes()(*few), keyframes()(*a_row_a_frame(few, {1, 2, 3, 5, 6}, 3)))
    assert same(keyframes()(*few), keyframes()(*a_row_a_frame(few, {5}, 3)))
    few = for_interpolation(2, 3, 6, 8, 5)
    assert same(interpolation()(*few), interpolation()(*a_row_a_frame(few, {1, 2, 3}, 3)))


@pytest.mark.parametrize("at", [4, 5, 6], ids=["position", "noise", "motion"])
def test_position_noise_level_and_motion_reach_the_keyframes(at: int) -> None:
    torch.manual_seed(0)
    inputs = list(for_keyframes(2, 3, 6, 8, 5))
    before = keyframes()(*inputs)
    inputs[at] = inputs[at] + 40
    assert not same(before, keyframes()(*inputs))


def test_videos_of_one_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    x, time, context, mask, positions, noise, motion = for_keyframes(2, 3, 6, 8, 5)
    second = slice(1, None)
    alone = keyframes()(x[3:], time[second], context[second], mask[second], positions, noise[second], motion[second])
    assert same(keyframes()(x, time, context, mask, positions, noise, motion)[3:], alone)


def test_the_first_frame_comes_from_the_same_tensors_under_the_same_names() -> None:
    torch.manual_seed(0)
    unet = keyframes()
    image = FirstFrameUNet(unet)
    whole = unet.state_dict()
    assert all(value.data_ptr() == whole[name].data_ptr() for name, value in image.state_dict().items())
    inputs = for_image(3, 6, 8, 5)
    one = image(*(value[1:2] for value in inputs))
    assert same(image(*inputs)[1:2], one), "images of a batch do not see each other"
    with torch.no_grad():  # on a copy: neither the convolution of the video nor anything temporal is used
        other = ImageKeyframeUNet(image_keyframe_config(PIPELINE.config["t2v"]))
        other.load_state_dict(whole)
        for name, value in other.named_parameters():
            if "temporal_" in name or name.startswith(("body.in_conv", "frame_embed", "noise_embed", "motion_embed")):
                value.fill_(torch.nan)
        assert same(FirstFrameUNet(other)(*inputs), image(*inputs))


def test_the_mask_switches_all_that_groups_take_from_each_other() -> None:
    torch.manual_seed(0)
    x, time, context, mask, skip, perturbation, _ = for_interpolation(2, 3, 6, 8, 5)
    changed = x.clone()
    changed[[2, 5]] += 1  # the last group of both videos
    temporal_mask = torch.tensor([1.0, 0.0])
    a, b = (interpolation()(v, time, context, mask, skip, perturbation, temporal_mask) for v in (x, changed))
    assert not same(a[0], b[0]), "attention reaches the first group from the last"
    assert torch.equal(a[3:5], b[3:5]), "with the mask at 0 a group sees itself alone"
    assert not same(a[5], b[5])


def test_text_joins_the_interpolation_embeddings_last() -> None:
    """With the perturbation factor at 1 the time step is forgotten, in 1.0 the text with it; here the text stays."""
    torch.manual_seed(0)
    inputs = list(for_interpolation(2, 3, 6, 8, 5))
    new = TextedInterpolationUNet(texted_interpolation_config({**PIPELINE.config["interpolation"]}))
    new.load_state_dict(interpolation().state_dict())
    old = InterpolationUNet(
        UNetConfig(
            model_channels=16,
            init_channels=16,
            time_embed_dim=32,
            context_dim=D,
            num_channels=20,
            out_channels=12,
            groups=8,
            head_dim=8,
            dim_mult=(1, 2),
            num_blocks=(2, 2),
            add_cross_attention=(False, False),
            add_self_attention=(False, True),
        )
    )
    for unet in (new, old):
        for name, value in unet.requires_grad_(False).named_parameters():
            if name.endswith("norm.linear.weight"):
                nn.init.normal_(value, std=0.1)
            if "cross_attention.attention.output" in name:
                value.zero_()  # so that text enters through the embedding alone
        unet.perturbation_merge.fill_(1.0)
    a, b = new(*inputs), old(*inputs[:-1])
    inputs[1] = inputs[1] + 300
    assert same(a, new(*inputs)) and same(b, old(*inputs[:-1])), "the time step is forgotten"
    inputs[2] = inputs[2] + 1
    assert not same(a, new(*inputs)) and same(b, old(*inputs[:-1]))


def test_new_temporal_parameters_follow_the_release_to_its_quirk() -> None:
    arguments = {**PIPELINE.config["interpolation"], "add_new_temporal_params": True}
    unet = TextedInterpolationUNet(texted_interpolation_config(arguments)).requires_grad_(False)
    down, down_out = "down_samples.0.resnet_attn_blocks.1.2", "body.down.0.pairs.1.resnet_out"
    up, up_in = "up_samples.1.resnet_attn_blocks.0.0", "body.up.1.pairs.0.resnet_in"
    names = {
        "temporal_conv_in.temporal_merge": "body.group_conv_in.merge",
        "temporal_conv_out.temporal_projection.bias": "body.group_conv_out.conv.bias",
        f"{down}.resnet_blocks.2.temporal_post_downsample.temporal_merge": f"{down_out}.blocks.2.group_conv_down.merge",
        f"{up}.resnet_blocks.1.temporal_post_upsample.temporal_projection.weight": (
            f"{up_in}.blocks.1.group_conv_up.conv.weight"
        ),
        f"{up}.temporal_post_upsample.temporal_merge": f"{up_in}.shortcut_group_conv_up.merge",
        f"{down}.temporal_post_downsample.temporal_projection.bias": f"{down_out}.shortcut_group_conv_down.conv.bias",
    }
    for released, ours in names.items():
        assert unet_key(released, torch.zeros(1))[0] == ours and ours in unet.state_dict()

    torch.manual_seed(0)
    up, down = unet.body.up[1].pairs[0].resnet_in, unet.body.down[0].pairs[1].resnet_out
    embed, x, groups = torch.randn(6, 32), torch.randn(6, up.shortcut_up.in_channels, 4, 4), 3
    nn.init.zeros_(up.blocks[-1].conv.weight), nn.init.zeros_(up.blocks[-1].conv.bias)  # the shortcut alone is left
    plain = up(x, embed, groups)
    conv = up.shortcut_group_conv_up
    conv.merge.fill_(1)
    conv.conv.weight[:, :, 1, 0] = 3 * torch.eye(conv.conv.out_channels)
    assert same(up(x, embed, groups), 9 * plain), "twice"
    x = torch.randn(6, down.shortcut_down.in_channels, 4, 4)
    before = down(x, embed, groups)
    down.shortcut_group_conv_down.merge.fill_(1)
    assert torch.equal(down(x, embed, groups), before), "never"


def test_released_arguments_are_filled_in_or_refused_by_name() -> None:
    least = {"model_channels": 384, "init_channels": 192, "time_embed_dim": 1536, "context_dim": 4096}
    texted = texted_interpolation_config({**least, "num_channels": 20, "out_channels": 12, "temporal_type": "conv1D"})
    assert texted == SHAPES_1_1["interpolation"]
    assert texted_interpolation_config(least).out_channels == 3
    images = image_keyframe_config({"model_channels": 64, "time_embed_dim": 32, "context_dim": 8, "num_channels": 9})
    assert (images.init_channels, images.out_channels, images.motion_score) == (64, 9, False)
    for refused in (
        {"time_downsample": [False, True, False, False]},
        {"temporal": False},
        {"pass_skip_frames": False},
        {"use_perturbation_time_embed": False},
        {"merge_perturbation_time_with_context": True},
        {"merge_perturbation_time_with_diffusion_time": False},
        {"stranger": 1},
    ):
        with pytest.raises(ValueError, match=next(iter(refused))):
            texted_interpolation_config({**least, **refused})
    with pytest.raises(ValueError, match="missing.*context_dim"):
        image_keyframe_config({"model_channels": 64, "time_embed_dim": 32})


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ("keyframes", 4_149_077_956),
        ("interpolation", 3_979_941_530),
        ("interpolation_without_attention", 3_872_572_046),
        ("interpolation_new_params", 4_038_236_008),
    ],
)
def test_parameters_at_the_released_size(shape: str, count: int) -> None:
    kind = ImageKeyframeUNet if shape == "keyframes" else TextedInterpolationUNet
    with torch.device("meta"):
        assert sum(p.numel() for p in kind(SHAPES_1_1[shape]).parameters()) == count


def test_parameters_of_the_1_0_interpolation() -> None:
    with torch.device("meta"):
        unet = InterpolationUNet(INTERPOLATION_SHAPES["full"])
    assert sum(p.numel() for p in unet.parameters()) == 3_872_572_046
