"""The MoVQ decoders of the paper's Table 3: sizes, released weights and numbers, time inside, ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from export.checkpoints.names import movq_key
from export.golden import file as golden
from export.golden import models as golden_models
from export.models.configs import DECODERS, MoVQConfig
from export.models.movq import MoVQ, MoVQDecoder
from export.onnx.parity import FLOOR, errors
from export.onnx.trace import Traced, trace

FOLDER = Path(__file__).parents[1] / "golden"
SMALL = MoVQConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,), resolution=16)
TEMPORAL = [name for name in DECODERS if name != "image"]


def small(name: str) -> MoVQConfig:
    """A named configuration with the sizes of SMALL."""
    sizes = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution")
    return replace(DECODERS[name], **{field: getattr(SMALL, field) for field in sizes})


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_zeros(module: nn.Module) -> nn.Module:
    """Random numbers where a fresh module has zeros, which would hide a mistake; in evaluation mode."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        if float(parameter.detach().abs().max()) == 0:
            nn.init.normal_(parameter, std=0.1)
    return module.eval()


@pytest.mark.parametrize(
    ("name", "published_millions", "computed"),
    [
        ("image", 161, 161_118_231),
        ("conv3x1x1", 203, 203_210_291),
        ("conv3x3x3", 539, 539_803_187),
        ("conv3x1x1_attention", 220, 220_053_043),
        ("conv3x3x3_attention", 556, 556_645_939),
        ("resnet_attention", 220, 220_268_055),
        ("conv3d", 419, 419_461_143),
    ],
)
def test_parameters_are_those_of_table_3(name: str, published_millions: int, computed: int) -> None:
    with torch.device("meta"):
        model = MoVQ(DECODERS[name])
    assert parameters(model.decoder) == computed
    assert computed // 1_000_000 == published_millions
    assert parameters(model.encoder) == 109_485_336
    if name == "image":
        assert parameters(model) == 270_603_567


@pytest.mark.parametrize("name", ["movq_video_conv3x3x3_attn", "movq_video_resnet_attn"])
def test_decoders_give_the_released_numbers(name: str) -> None:
    file = golden.read_golden(FOLDER / f"{name}.npz")
    with torch.no_grad():
        image = golden_models.movq(file.config, file.parameters).decoder(file.inputs["latent"])
    assert errors(file.outputs["image"], image.numpy())[1] < golden.LIMIT


RELEASED = {
    "decoder.mid.block_1.temporal_merge1": ("decoder.middle.block1.temporal1.merge", [1]),
    "decoder.mid.block_1.temporal_flicker_proj.weight": ("decoder.middle.flicker.weight", [64, 1]),
    "decoder.mid.block_2.temporal_projection2.bias": ("decoder.middle.block2.temporal2.conv.bias", [64]),
    "decoder.mid.temporal_attn_1.norm.conv_b.bias": ("decoder.middle.temporal_attention.norm.shift.bias", [64]),
    "decoder.mid.temporal_block_2.conv1.bias": ("decoder.middle.temporal_block2.conv1.bias", [64]),
    "decoder.up.1.temporal_attn.0.proj_out.bias": ("decoder.levels.0.temporal_attentions.0.output.bias", [64]),
    "decoder.up.0.temporal_block.1.norm2.norm_layer.bias": (
        "decoder.levels.1.temporal_blocks.1.norm2.norm.bias",
        [32],
    ),
    "decoder.up.0.block.1.temporal_projection1.bias": ("decoder.levels.1.blocks.1.temporal1.conv.bias", [32]),
    "encoder.mid.block_1.conv1.bias": ("encoder.middle.block1.conv1.bias", [64]),
}


@pytest.mark.parametrize("key", RELEASED)
def test_released_keys_have_one_place(key: str) -> None:
    everything = replace(
        SMALL, temporal=True, temporal_attention_block=True, temporal_blocks=True, flicker_augmentation=True
    )
    with torch.device("meta"):
        state = MoVQ(everything).state_dict()
    ours, shape = RELEASED[key]
    assert movq_key(2)(key, torch.zeros(shape))[0] == ours
    assert list(state[ours].shape) == shape


@pytest.mark.parametrize("kernel", [(3, 1, 1), (5, 1, 1), (3, 3, 3), (1, 3, 3)])
def test_released_kernels_keep_their_meaning(kernel: tuple[int, int, int]) -> None:
    padding = tuple(size // 2 for size in kernel)
    config = replace(SMALL, temporal=True, temporal_kernel_size=kernel, temporal_conv_padding=padding)
    decoder = MoVQDecoder(config)
    weight, bias, clip = torch.randn(64, 64, *kernel), torch.randn(64), torch.randn(4, 64, 2, 3)
    key, ours = movq_key(2)("decoder.mid.block_1.temporal_projection1.weight", weight)
    conv = decoder.middle.block1.temporal1.conv
    decoder.get_parameter(key.removeprefix("decoder.")).data.copy_(ours)
    conv.bias.data.copy_(bias)
    wanted = torch.nn.functional.conv3d(clip.transpose(0, 1)[None], weight, bias, padding=padding)[0].transpose(0, 1)
    torch.testing.assert_close(conv(clip), wanted, rtol=1e-4, atol=1e-4)


def fresh(name: str, image: MoVQDecoder) -> MoVQDecoder:
    """A temporal decoder as it is born, around the image decoder's weights; 3x3 kernels lie in the middle of 3x3x3."""
    decoder = MoVQDecoder(small(name)).eval()
    mine, given_state = decoder.state_dict(), image.state_dict()
    for key, value in given_state.items():
        if mine[key].dim() == value.dim() + 1:
            mine[key].zero_()
            mine[key][:, :, 1].copy_(value)
        else:
            mine[key].copy_(value)
    return decoder


torch.manual_seed(0)
IMAGE = MoVQDecoder(SMALL).eval()
FRESH = {name: fresh(name, IMAGE) for name in TEMPORAL}
clips = st.builds(
    lambda seed, frames, height, width: torch.randn(
        frames, 4, height, width, generator=torch.Generator().manual_seed(seed)
    ),
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(2, 4),
    st.integers(2, 4),
)


@settings(max_examples=40)
@given(st.sampled_from(TEMPORAL), clips)
def test_a_fresh_temporal_decoder_is_the_image_decoder(name: str, clip: Tensor) -> None:
    """On the first frame of any clip and on all frames of a still one: elsewhere the spatial attention's norm takes
    another latent, the first frame's."""
    with torch.no_grad():
        wanted, still = IMAGE(clip[:1]), clip[:1].expand_as(clip)
        torch.testing.assert_close(FRESH[name](clip)[:1], wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(FRESH[name](still), wanted.expand(len(clip), -1, -1, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_frames_see_each_other_only_in_decoders_of_clips(name: str) -> None:
    decoder = without_zeros(MoVQDecoder(small(name)))
    clip = torch.randn(3, 4, 3, 4)
    other = torch.cat((clip[:2], torch.randn(1, 4, 3, 4)))
    with torch.no_grad():
        moved = (decoder(clip)[1] - decoder(other)[1]).abs().max()
    assert (float(moved) > 1e-3) == small(name).decodes_clips == (name != "image")


def test_a_temporal_graph_equals_pytorch_at_other_lengths_and_sizes(tmp_path: Path) -> None:
    config = replace(SMALL, num_res_blocks=0, temporal=True, temporal_blocks=True, temporal_attention_block=True)
    decoder = without_zeros(MoVQDecoder(config))
    onnx.save(trace(Traced("movq_decoder", decoder, (torch.randn(3, 4, 4, 6),), {})), tmp_path / "decoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"])
    for frames, height, width in ((1, 3, 5), (2, 4, 2), (3, 4, 6), (9, 2, 3)):
        latent = torch.randn(frames, 4, height, width)
        with torch.no_grad():
            wanted = decoder(latent).numpy()
        (got,) = session.run(None, {"latent": latent.numpy()})
        assert errors(wanted, np.asarray(got))[1] < FLOOR


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3, 3), (1, 0, 0)), ((2, 1, 1), (1, 0, 0)), ((3, 1), (1, 0))])
def test_a_kernel_that_changes_the_clip_is_refused(kernel: tuple[int, ...], padding: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"temporal_kernel_size.*\(3, 1, 1\) and \(1, 0, 0\).*got"):
        replace(SMALL, temporal=True, temporal_kernel_size=kernel, temporal_conv_padding=padding)
