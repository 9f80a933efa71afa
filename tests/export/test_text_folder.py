"""Hugging Face folders of text encoders: every layout is read, every damage is named, and nothing in them is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from export.checkpoints.hugging_face import encoder_state, open_weights
from export.checkpoints.text_config import read_config
from export.errors import CheckpointError
from tests.export.text_folders import (
    DIM,
    cut,
    edit_config,
    edit_weights,
    hostile,
    make_bert,
    make_clip,
    make_t5,
    projection,
    rename_one,
    save_bin,
    shard,
    text_file,
    void,
)


def whole_t5(folder: Path, model: Any) -> None:
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config.from_pretrained(folder))
    whole.load_state_dict(model.state_dict(), strict=False)
    whole.save_pretrained(folder, safe_serialization=False)
    (folder / "model.safetensors").unlink()


def whole_clip(folder: Path, model: Any) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=model.config.to_dict(), vision_config={**vision, "image_size": 8, "patch_size": 4}
    )
    whole = transformers.CLIPModel(config)
    whole.load_state_dict(model.state_dict(), strict=False)
    whole.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "clip"


def without_beginning(*beginnings: str) -> Callable[[Path, Any], None]:
    def write(folder: Path, model: Any) -> None:
        state = {}
        for key, value in model.state_dict().items():
            beginning = next((word for word in beginnings if key.startswith(word)), "")
            if key != "shared.weight":
                state[key.removeprefix(beginning)] = value
        save_bin(folder, state)

    return write


def sharded(safe: bool) -> Callable[[Path, Any], None]:
    def write(folder: Path, model: Any) -> None:
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, safe_serialization=safe, max_shard_size="20KB")
        assert len(list(folder.glob("*-of-*"))) > 2

    return write


LAYOUTS: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Any], None]]] = {
    "t5 in safetensors shards": (make_t5, sharded(True)),
    "t5 .bin": (make_t5, lambda folder, model: save_bin(folder, model.state_dict())),
    "t5 in .bin shards": (make_t5, sharded(False)),
    "whole t5 with decoder": (make_t5, whole_t5),
    "t5 without shared": (make_t5, without_beginning()),
    "the bare stack of t5": (make_t5, without_beginning("encoder.")),
    "clip in safetensors shards": (make_clip, sharded(True)),
    "whole clip with nested configuration": (make_clip, whole_clip),
    "clip without text_model": (make_clip, without_beginning("text_model.")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_weights(name: str, tmp_path: Path) -> None:
    make, rewrite = LAYOUTS[name]
    model = make(tmp_path)
    config = read_config(tmp_path)
    rewrite(tmp_path, model)
    assert read_config(tmp_path) == config
    expected = {key.removeprefix("encoder."): value for key, value in model.state_dict().items()}
    expected.pop("shared.weight", None)  # of T5, which is `embed_tokens.weight` as well
    found = open_weights(tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("feed", ["relu", "gelu", "silu", "gated-gelu", "gated-silu", "gated-relu"])
def test_older_configurations_leave_the_derived_values_out(feed: str, tmp_path: Path) -> None:
    transformers.T5Config(feed_forward_proj=feed).save_pretrained(tmp_path)
    whole = read_config(tmp_path)
    edit_config(**UNDERIVED)(tmp_path)
    assert read_config(tmp_path) == whole


def test_an_older_nested_configuration_of_clip(tmp_path: Path) -> None:
    """text_config_dict, where it is not null, takes the place of text_config; the rest are CLIP's own sizes."""
    path = tmp_path / "config.json"
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

    def sizes() -> tuple[int, ...]:
        config = read_config(tmp_path)
        return (*(config.sizes[name] for name in names), config.max_tokens, config.context_dim)

    values = {"model_type": "clip", "text_config": {"hidden_size": 768}, "text_config_dict": None}
    path.write_text(json.dumps(values))
    assert sizes() == (49408, 768, 2048, 12, 8, 77, 768)
    path.write_text(json.dumps({**values, "text_config_dict": {"num_hidden_layers": 3}}))
    assert sizes() == (49408, 512, 2048, 3, 8, 77, 512)
    path.write_text(json.dumps({**values, "text_config": 7}))
    with pytest.raises(CheckpointError, match="config.json: text_config: expected an object, got 7"):
        read_config(tmp_path)


def test_a_model_that_only_optimum_knows_is_read_without_its_head(tmp_path: Path) -> None:
    model = make_bert(tmp_path)
    config = read_config(tmp_path, DIM)
    assert (config.model_type, config.max_tokens, config.vocab_size) == ("bert", 64, 128)
    found = open_weights(tmp_path)
    assert found.keys() == model.state_dict().keys()
    state = encoder_state(config, found, projection(), torch.zeros(DIM))
    assert torch.equal(state["encoder.embeddings.position_ids"], torch.arange(64)[None])


UNDERIVED = {"dense_act_fn": None, "is_gated_act": None}
BAD: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json", "expected a Hugging Face model folder"]),
    "no JSON": (text_file("config.json", "{"), ["config.json: expected JSON"]),
    "deep JSON": (text_file("config.json", "[" * 100_000), ["config.json: expected JSON"]),
    "a list": (text_file("config.json", "[]"), ["config.json: expected a JSON object, got list"]),
    "endless JSON": (text_file("config.json", " " * (1 << 20) + "{}"), ["config.json", "at most 1048576", "1048578"]),
    "family": (edit_config(model_type="gpt2"), ["model_type: expected one of albert, bert,", "umt5", "'gpt2'"]),
    "unknown family": (edit_config(model_type="my-own"), ["model_type: expected one of albert, bert,", "'my-own'"]),
    "no family": (edit_config(model_type=None), ["model_type", "got 'None'"]),
    "activation": (
        edit_config(feed_forward_proj="gated-mush", **UNDERIVED),
        ["config.json: expected the sizes of a t5 encoder", "mush", "is config.json of the same model?"],
    ),
    "derived": (edit_config(dense_act_fn="tonh"), ["config.json: expected the sizes of a t5 encoder", "tonh"]),
    "no width": (edit_config(d_model=None), ["expected shape [32, 512] by config.json, got [32, 32]"]),
    "null": (edit_config(d_kv=[]), ["d_kv: expected a whole number from 1 to 65536, got []"]),
    "width of text": (edit_config(d_model="32"), ["d_model", "got '32'"]),
    "layers": (edit_config(num_layers=10**9), ["num_layers", "1 to 256", "1000000000"]),
    "distance": (edit_config(relative_attention_max_distance=8), ["max_distance: expected more than 8", "got 8"]),
    "true": (edit_config(d_ff=True), ["d_ff", "got True"]),
    "epsilon": (edit_config(layer_norm_epsilon=0), ["layer_norm_epsilon", "between 0 and 1, got 0"]),
    "wrong config": (edit_config(d_ff=40), ["model.safetensors: encoder.block.0.layer.1", "[40, 32]", "got [48, 32]"]),
    "fewer layers": (edit_config(num_layers=1), ["missing nothing, left over encoder.block.1.layer.0"]),
    "renamed": (edit_weights(rename_one), ["missing block.1.layer.0.SelfAttention.q.w", ".query."]),
    "missing": (
        edit_weights(lambda state: void(state.pop("encoder.final_layer_norm.weight"))),
        ["missing final_layer_norm.weight", "left over nothing"],
    ),
    "shape": (
        edit_weights(lambda state: state.update({"shared.weight": torch.zeros(64, 32)})),
        ["model.safetensors: shared.weight: expected shape [128, 32]", "got [64, 32]"],
    ),
    "twice": (
        edit_weights(lambda state: state.update({"final_layer_norm.weight": torch.zeros(32)})),
        ["final_layer_norm.weight: expected each weight once"],
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["expected one of model.safetensors", "got none"]),
    "cut short": (cut("model.safetensors"), ["model.safetensors", "cut short or damaged"]),
    "wants to run code": (hostile, ["pytorch_model.bin", "wants to run", "mkdir"]),
    "shard outside": (shard("../inside.safetensors"), ["index.json", "plain name", "got '../inside.safetensors'"]),
    "shard absolute": (shard("/etc/passwd"), ["index.json", "plain name", "got '/etc/passwd'"]),
    "shard list": (shard(["inside.safetensors"]), ["index.json", "plain name", "['inside.safetensors']"]),
    "no shard": (shard("model-00001-of-00002.safetensors"), ["index.json", "expected the shard model-00001"]),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_t5(folder)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(name: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, words = BAD[name]
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    damage(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(folder)
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert not (tmp_path / "it-ran").exists()


def test_projections_and_null_embeddings_must_fit(sound: Path) -> None:
    config, weights = read_config(sound, DIM), open_weights(sound)
    null = torch.zeros(DIM)
    bare = {key.removeprefix("t5."): value for key, value in projection().items()}
    assert (
        encoder_state(config, weights, bare, null).keys() == encoder_state(config, weights, projection(), null).keys()
    )
    for parts, nulls, words in [
        ({}, null, "missing projection.weight, projection_norm.bias, projection_norm.weight, left over nothing"),
        ({**bare, "2.weight": null}, null, "left over 2.weight"),
        ({**bare, "0.weight": torch.zeros(DIM, 31)}, null, r"0.weight: expected shape \[24, 32\], got \[24, 31\]"),
        (bare, torch.zeros(7), r"null_embedding: expected shape \[24\], got \[7\]"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            encoder_state(config, weights, parts, nulls)
