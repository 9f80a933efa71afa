"""Files of a release, as they come: flat or nested, and with configurations that nobody checked."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from export.checkpoints.configs import (
    ARGUMENTS,
    image_keyframe_config,
    interpolation_config,
    keyframe_config,
    movq_config,
    texted_interpolation_config,
)
from export.checkpoints.release import Release, open_1_0, open_1_1
from export.errors import CheckpointError, ConfigError
from export.models.configs import DECODERS, KEYFRAME_SHAPES, MoVQConfig, UNetConfig

OPEN: dict[str, Callable[[Path, Path], Release]] = {"1.0": open_1_0, "1.1": open_1_1}


@pytest.fixture(scope="module")
def folders(releases: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small releases of both versions, which no test changes."""
    folder = tmp_path_factory.mktemp("releases")
    return {"1.0": releases.write_1_0(folder / "1.0"), "1.1": releases.write_1_1(folder / "1.1")}


def flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for key, value in entries.items():
        found |= {f"{prefix}{key}": value} if isinstance(value, torch.Tensor) else flat(value, f"{prefix}{key}.")
    return found


@pytest.mark.parametrize("version", OPEN)
def test_a_release_in_flat_safetensors_files_is_the_same(
    folders: dict[str, Path], tmp_path: Path, version: str
) -> None:
    source = folders[version]
    for path in [*source.glob("*.pt"), *source.glob("weights/*.pt")]:
        save_file(flat(torch.load(path, weights_only=True)), tmp_path / f"{path.stem}.safetensors")
    (tmp_path / "configs.json").write_bytes((source / "configs.json").read_bytes())
    text = source / "text_encoder"
    nested, found = OPEN[version](source, text), OPEN[version](tmp_path, text)
    assert nested.parts.keys() == found.parts.keys()
    for name, part in nested.parts.items():
        same = found.parts[name].source
        assert part.source.keys() == same.keys()
        assert all(torch.equal(part.source[key], same[key]) for key in part.source)


def changed(folder: Path, out: Path, network: str, name: str, value: object) -> Path:
    """The same release with one argument of one network changed; weights are linked."""
    for path in [*folder.glob("*.pt"), *folder.glob("weights/*.pt")]:
        (out / path.name).symlink_to(path)
    configs = json.loads((folder / "configs.json").read_text())
    configs[network].get("configs", configs[network])[name] = value
    (out / "configs.json").write_text(json.dumps(configs))
    return out


CHANGES: dict[str, tuple[str, str, str, object, str]] = {
    "no end of blocks": ("1.0", "image_movq", "num_res_blocks", 8192, "expected a whole number from 1 to 16, got 8192"),
    "no end of levels": ("1.0", "t2v", "dim_mult", [1] * 10**5, "expected a list of 1 to 8 values"),
    "no blocks": ("1.0", "t2v", "num_blocks", [], "expected a list of 1 to 8 values"),
    "a number for a list": ("1.1", "interpolation", "time_downsample", 7, "expected a list of 0 to 8 values"),
    "a list for a number": ("1.1", "t2v", "model_channels", [16], "expected a whole number from 1 to 16384, got [16]"),
    "a text": ("1.0", "interpolation", "groups", "8", "expected a whole number from 1 to 1024, got '8'"),
    "null": ("1.0", "t2v", "groups", None, "expected a whole number from 1 to 1024, got None"),
    "not a number": ("1.0", "t2v", "head_dim", float("nan"), "got nan"),
    "wide beyond memory": ("1.1", "video_movq", "ch", 10**12, "expected a whole number from 1 to 16384"),
    "true for one": ("1.1", "image_movq", "ch", True, "expected a whole number"),
    "groups that do not fit": ("1.0", "t2v", "groups", 7, "configs.json: t2v: "),
    "heads that do not fit": ("1.0", "interpolation", "head_dim", 7, "configs.json: interpolation: expected channels"),
    "norms that do not fit": ("1.1", "image_movq", "ch", 33, "configs.json: image_movq: "),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_configuration_out_of_bounds_is_refused(folders: dict[str, Path], tmp_path: Path, case: str) -> None:
    version, network, name, value, words = CHANGES[case]
    folder = changed(folders[version], tmp_path, network, name, value)
    with pytest.raises(CheckpointError, match=re.escape(words)) as caught:
        OPEN[version](folder, folders[version] / "text_encoder")
    assert f"configs.json: {network}" in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=9,
)
BUILDERS = (keyframe_config, interpolation_config, image_keyframe_config, texted_interpolation_config, movq_config)


@given(st.sampled_from(BUILDERS), st.dictionaries(st.sampled_from(sorted(ARGUMENTS)), VALUES, max_size=6))
def test_arguments_of_any_type_are_taken_or_refused(
    build: Callable[[Mapping[str, Any]], object], arguments: dict[str, Any]
) -> None:
    with contextlib.suppress(ConfigError):
        build({"model_channels": 16, "time_embed_dim": 32, "context_dim": 24, **arguments})


def test_every_argument_of_our_networks_has_bounds() -> None:
    kinds = {field.name for config in (UNetConfig, MoVQConfig) for field in fields(config)}
    assert kinds <= ARGUMENTS.keys()
    for build, config in ((keyframe_config, KEYFRAME_SHAPES["Conv1dAttn1dBlocks"]), (movq_config, DECODERS["image"])):
        arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
        for name in (
            "temporal",
            "noise_augmentation",
            "motion_score",
            "add_temporal_attention",
            "add_new_temporal_params",
        ):
            if build is keyframe_config:
                del arguments[name]
        assert build({**arguments, **({"num_frames": 15} if build is keyframe_config else {})}) == config


def test_a_text_folder_may_hold_links_that_lead_nowhere(folders: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text"
    shutil.copytree(folders["1.0"] / "text_encoder", text)
    (text / "model.onnx").symlink_to("nowhere")
    assert open_1_0(folders["1.0"], text).max_tokens
    (text / "pytorch_model.bin").rename(text / "pytorch_model.fp16.bin")
    with pytest.raises(CheckpointError, match=r"got pytorch_model\.fp16\.bin; rename the one that is meant"):
        open_1_0(folders["1.0"], text)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("relative_attention_num_buckets", 1 << 20, "from 1 to 256"),
        ("num_layers", 10**6, "from 1 to 256"),
        ("d_model", 10**9, "from 1 to 65536"),
        ("d_model", [1], "got [1]"),
    ],
)
def test_sizes_of_a_text_encoder_have_bounds(
    folders: dict[str, Path], tmp_path: Path, name: str, value: object, words: str
) -> None:
    text = tmp_path / "text"
    shutil.copytree(folders["1.0"] / "text_encoder", text)
    sizes = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(json.dumps({**sizes, name: value}))
    with pytest.raises(CheckpointError, match=re.escape(words)):
        open_1_0(folders["1.0"], text)
