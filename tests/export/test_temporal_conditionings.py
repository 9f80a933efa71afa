"""The four temporal conditionings of the paper's Table 1, as configurations of one keyframe U-Net."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from export.models.configs import KEYFRAME_SHAPES, TemporalConditioning, UNetConfig
from export.models.keyframes import KeyframeUNet
from export.models.temporal import TemporalAttentionBlock, windows, windows_back
from export.onnx.parity import errors

NAMES = get_args(TemporalConditioning)
SMALL = UNetConfig(
    model_channels=16,
    init_channels=16,
    time_embed_dim=16,
    context_dim=16,
    groups=4,
    head_dim=4,
    dim_mult=(1, 2),
    num_blocks=(2, 2),
    add_cross_attention=(False, True),
    add_self_attention=(False, True),
)
FRAMES = 3


def unet(temporal: TemporalConditioning, trained: bool) -> KeyframeUNet:
    """The text-to-image part is the same for all; the temporal part is untrained, or random."""
    torch.manual_seed(1)
    image_part = KeyframeUNet(SMALL)
    made = KeyframeUNet(replace(SMALL, temporal=temporal))
    temporal_part = {id(value) for value in made.temporal_parameters()}
    shared = image_part.state_dict()
    for name, value in shared.items():
        if name.endswith("norm.linear.weight"):
            nn.init.normal_(value, std=0.2)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if id(value) not in temporal_part:
                value.copy_(shared[name])
            elif trained and not value.any():
                nn.init.normal_(value, std=0.3)
    return made.requires_grad_(False)


def inputs(height: int = 4, width: int = 8) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    return torch.randn(2 * FRAMES, 4, height, width), torch.tensor([400.0, 30.0]), torch.randn(2, 3, 16), mask


def same(a: Tensor, b: Tensor) -> bool:
    return errors(a.numpy(), b.numpy())[1] < 1e-5


@pytest.mark.parametrize("temporal", NAMES)
def test_an_untrained_one_changes_nothing_and_a_trained_one_sees_other_frames(temporal: TemporalConditioning) -> None:
    given, positions = inputs(), torch.arange(FRAMES) * 12
    fresh, trained = unet(temporal, False), unet(temporal, True)
    images = fresh(*given, None)
    assert same(fresh(*given, positions), images)
    assert same(trained(*given, None), images), "without positions nothing temporal runs"
    clip = trained(*given, positions)
    assert not same(clip, images)
    changed = given[0].clone()
    changed[FRAMES - 1] += 1
    other = trained(changed, *given[1:], positions)
    assert not same(other[0], clip[0]), "the last frame reaches the first"
    assert same(other[FRAMES:], clip[FRAMES:]), "and not the other video"
    assert not same(trained(*given, positions + 7), clip)


def test_layers_attend_over_time_before_the_feed_forward() -> None:
    """The paper's order inside one transformer layer: attention in space, attention over time, feed-forward."""
    trained, order = unet("Conv1dAttn1dLayers", True), []
    level = next(level for level in trained.body.down if level.temporal_attention is not None)
    watched = {
        "space": level.self_attention.attention,
        "time": level.temporal_attention,
        "feed": level.self_attention.feed_forward,
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: order.append(name))
    trained(*inputs(), torch.arange(FRAMES) * 12)
    assert order == ["space", "time", "feed"]


@pytest.mark.parametrize(
    ("temporal", "count"),
    [
        ("Conv1dAttn1dLayers", 3_913_798_084),
        ("Conv1dAttn1dBlocks", 4_143_739_012),
        ("Conv1dAttn3dBlocks", 4_143_739_012),
        ("Conv3dAttn1dBlocks", 4_204_286_404),
    ],
)
def test_parameters_at_the_released_size(temporal: TemporalConditioning, count: int) -> None:
    with torch.device("meta"):
        whole = KeyframeUNet(KEYFRAME_SHAPES[temporal])
    of_video = sum(value.numel() for value in whole.temporal_parameters())
    assert (sum(value.numel() for value in whole.parameters()), count - of_video) == (count, 3_038_562_820)


def reach(block: nn.Module, frames: int) -> Tensor:
    """Which pixels of `[T, h, w]` change if the pixel (1, 2) of the first frame does."""
    torch.manual_seed(4)
    x, embed = torch.randn(frames, 8, 4, 4), torch.randn(frames, 16)
    changed = x.clone()
    changed[0, :, 1, 2] = x[0, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]), 1, 2]  # norms of 2 channels stay as they were
    with torch.no_grad():
        a, b = (block(value, embed[:1], embed, frames) for value in (x, changed))
    return ((a - b).abs() > 1e-5).any(dim=1)


def test_attention_reaches_one_pixel_or_one_window_over_all_frames() -> None:
    for window, rows, columns in ((1, [1], [2]), (2, [0, 1], [2, 3])):
        torch.manual_seed(3)
        block = TemporalAttentionBlock(8, 16, 4, 4, 2, window)
        nn.init.normal_(block.attention.output.weight)
        wanted = torch.zeros(3, 4, 4, dtype=torch.bool)
        wanted[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert torch.equal(reach(block, 3), wanted), window


def test_windows_hold_four_pixels_of_every_frame_and_go_back() -> None:
    x = torch.arange(2 * 3 * 5 * 4 * 6, dtype=torch.float32).reshape(6, 5, 4, 6)
    cells = windows(x, 3, 2)
    assert cells.shape == (2, 2, 3, 12, 5)
    assert torch.equal(cells[1, 1, 2, 4:8].T, x[4, :, 2:4, 4:6].flatten(1))
    assert torch.equal(windows_back(cells, 3, 2), x)
    with pytest.raises(ValueError, match="multiples of 2.*got 3 x 6.*size_multiple"):
        windows(x[:, :, :3], 3, 2)


def test_windows_ask_for_a_doubled_size() -> None:
    assert [KEYFRAME_SHAPES[name].size_multiple for name in NAMES] == [8, 8, 16, 8]
    assert replace(SMALL, temporal="Conv1dAttn3dBlocks", add_self_attention=(True, False)).size_multiple == 2
    model, positions = unet("Conv1dAttn3dBlocks", True), torch.arange(FRAMES)
    with pytest.raises(ValueError, match="got 3 x 2"):
        model(*inputs(6, 4), positions)
    assert model(*inputs(8, 4), positions).shape == (2 * FRAMES, 4, 8, 4)


def test_a_stranger_is_named() -> None:
    with pytest.raises(ValueError, match="temporal: expected one of .*Conv1dAttn1dLayers.*, got True"):
        replace(SMALL, temporal=True)
