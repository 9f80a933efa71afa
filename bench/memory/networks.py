"""A bundle of Kandinsky Video 1.1 at the size of the demo, with random weights: memory does not depend on values."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import helper

from ffrt.bundle import Bundle, GraphSpec, list_files, open_bundle, why_no_bundle, write_manifest
from ffrt.families import KANDINSKY_1_1
from ffrt.output.whole_folder import whole_folder

SHARED = ("movq_encoder", "movq_decoder")
NULL = "null_embedding"


def write_1_1(base: Bundle, out: Path, report: Callable[[str], None]) -> Bundle:
    """Write a 1.1 bundle whose U-Nets have the widths of the demo's; text encoder and MoVQ are those of `base`."""
    import torch

    from export.checkpoints.defaults import INTERPOLATION_1_1, KEYFRAMES_1_1
    from export.models.configs import PRESETS
    from export.models.image_keyframes import FirstFrameUNet, ImageKeyframeUNet
    from export.models.interpolation import TextedInterpolationUNet
    from export.models.limits import Limits
    from export.onnx.random import numbers, write_random_graph

    sizes = PRESETS["demo"]
    keyframes = replace(sizes.keyframes, num_channels=9, noise_augmentation=True, motion_score=True)
    between = replace(sizes.interpolation, add_temporal_attention=True)
    with torch.device("meta"):
        unet = ImageKeyframeUNet(keyframes)
        modules = {
            "keyframe_unet": (unet, keyframes),
            "image_unet": (FirstFrameUNet(unet), keyframes),
            "interpolation_unet": (TextedInterpolationUNet(between), between),
        }
    contract = KANDINSKY_1_1.contract
    with whole_folder(out, why_no_bundle) as beside:
        specs: dict[str, GraphSpec] = {}
        for name in SHARED:
            for file in (f"{name}.onnx", f"{name}.safetensors"):
                shutil.copyfile(base.path(file), beside / file)
            specs[name] = base.graphs[name]
        specs["image_decoder"] = base.graphs["movq_decoder"]
        for file in (base.text.tokenizer, "LICENSE", "text_encoder.safetensors"):
            shutil.copyfile(base.path(file), beside / file)
        add_null(base.path("text_encoder.onnx"), beside / "text_encoder.onnx")
        specs["text_encoder"] = replace(base.graphs["text_encoder"], outputs=contract["text_encoder"][1])
        for number, (name, (module, config)) in enumerate(modules.items()):
            report(f"{name}: tracing")
            limits = Limits(
                config.size_multiple, base.video.downscale, config.context_dim, 1, KEYFRAMES_1_1.position_range
            )
            specs[name] = write_random_graph(name, module, limits, beside, numbers(number), KANDINSKY_1_1)
        manifest = replace(
            base.manifest,
            name=out.name,
            family=KANDINSKY_1_1,
            files=list_files(beside),
            graphs=specs,
            keyframes=KEYFRAMES_1_1,
            interpolation=INTERPOLATION_1_1,
        )
        write_manifest(beside, manifest)
    return open_bundle(out)


def add_null(source: Path, out: Path) -> None:
    """The text encoder with one output more, the null embedding of 1.1's interpolation, the same as the keyframes'."""
    model = onnx.load(source, load_external_data=False)
    more = f"interpolation_{NULL}"
    model.graph.node.append(helper.make_node("Identity", [NULL], [more]))
    (old,) = (one for one in model.graph.output if one.name == NULL)
    new = model.graph.output.add()
    new.CopyFrom(old)
    new.name = more
    onnx.save(model, out)
