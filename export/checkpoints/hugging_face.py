"""A local Hugging Face folder of a text encoder: its configuration and its weights (text_tokenizer.py has the rest).

T5, Flan-UL2, mT5 and UMT5 (whole models too: their decoders are left out), and the text half of CLIP. The folder counts
as untrusted: JSON of limited size, sizes within bounds, plain shard names, and no code of the folder is ever run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoints.file import listed, open_checkpoint
from export.checkpoints.names import clip_key, hugging_face_key, projection_key, t5_key
from export.errors import CheckpointError
from export.models.clip import ClipTextEncoder
from export.models.configs import CLIPTextConfig, T5Config
from export.models.t5 import ACTIVATIONS, TextEncoder

MAX_CONFIG_BYTES = 1 << 20
MAX_INDEX_BYTES = 16 << 20
WIDEST = 1 << 20
DEEPEST = 1024
T5_TYPES = ("t5", "mt5", "umt5")
CLIP_TYPES = ("clip_text_model", "clip")

# What a folder holds beside the text encoder's weights: the other half of the model, heads, and fixed positions.
_NOT_OURS = re.compile(
    r"decoder\.|lm_head\.|vision_model\.|visual_projection\.|text_projection\.|logit_scale$|"
    r"(?:text_model\.)?embeddings\.position_ids$"
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError if it is missing, larger than ``limit`` or no object."""
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a Hugging Face model folder, got none of this file; check the folder")
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"{path}: expected at most {limit} bytes, got {size}; is this the model's own file?")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}; fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}; fetch the file again")
    return value


def read_config(folder: Path, context_dim: int | None = None) -> T5Config | CLIPTextConfig:
    """Sizes of the encoder in ``folder``, from config.json; ``context_dim`` is the width of a projection behind it.

    Without it there is no projection. Raises CheckpointError naming file, key, wanted and got: no config.json, a family
    or an activation that is not supported, sizes out of bounds.
    """
    path = folder / "config.json"
    values = read_json(path, MAX_CONFIG_BYTES)
    kind = values.get("model_type")
    if kind not in T5_TYPES + CLIP_TYPES:
        raise CheckpointError(
            f"{path}: model_type: expected one of {', '.join(T5_TYPES + CLIP_TYPES)}, got {kind!r:.80}"
        )
    if kind in T5_TYPES:
        return _t5_config(path, values, kind, context_dim)
    if kind == "clip":
        # As Hugging Face reads it: the second, where there is one, takes the place of the first.
        key = "text_config" if values.get("text_config_dict") is None else "text_config_dict"
        values = values.get(key, {})
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: {key}: expected an object, got {values!r:.80}")
    return _clip_config(path, values, context_dim)


def _t5_config(path: Path, values: dict[str, Any], kind: str, context_dim: int | None) -> T5Config:
    feed = _choice(path, values, "feed_forward_proj", "relu" if kind == "t5" else "gated-gelu", _FEEDS)
    gated, name = feed.startswith("gated-"), feed.removeprefix("gated-")
    # A file may name the derived values too, and Hugging Face then believes those.
    act = _choice(path, values, "dense_act_fn", "gelu_new" if feed == "gated-gelu" else name, tuple(ACTIVATIONS))
    is_gated = values.get("is_gated_act", gated)
    if not isinstance(is_gated, bool):
        raise CheckpointError(f"{path}: is_gated_act: expected true or false, got {is_gated!r:.80}")
    width = _size(path, values, "d_model")
    buckets = _size(path, values, "relative_attention_num_buckets", 32, low=4, high=DEEPEST)
    return T5Config(
        vocab_size=_size(path, values, "vocab_size"),
        d_model=width,
        d_kv=_size(path, values, "d_kv"),
        d_ff=_size(path, values, "d_ff"),
        num_layers=_size(path, values, "num_layers", high=DEEPEST),
        num_heads=_size(path, values, "num_heads", high=DEEPEST),
        context_dim=width if context_dim is None else context_dim,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=_size(
            path, values, "relative_attention_max_distance", 128, low=buckets // 4 + 1, high=1 << 16
        ),
        layer_norm_epsilon=_epsilon(path, values, "layer_norm_epsilon", 1e-6),
        dense_act_fn=act,
        is_gated_act=is_gated,
        positions_in_every_layer=kind == "umt5",
        projection=context_dim is not None,
    )


def _clip_config(path: Path, values: dict[str, Any], context_dim: int | None) -> CLIPTextConfig:
    width = _size(path, values, "hidden_size", 512)
    heads = _size(path, values, "num_attention_heads", 8, high=DEEPEST)
    if width % heads:
        raise CheckpointError(f"{path}: hidden_size: expected a multiple of num_attention_heads {heads}, got {width}")
    return CLIPTextConfig(
        vocab_size=_size(path, values, "vocab_size", 49408),
        hidden_size=width,
        intermediate_size=_size(path, values, "intermediate_size", 2048),
        num_hidden_layers=_size(path, values, "num_hidden_layers", 12, high=DEEPEST),
        num_attention_heads=heads,
        context_dim=width if context_dim is None else context_dim,
        max_position_embeddings=_size(path, values, "max_position_embeddings", 77, low=3),
        hidden_act=_choice(path, values, "hidden_act", "quick_gelu", tuple(ACTIVATIONS)),
        layer_norm_eps=_epsilon(path, values, "layer_norm_eps", 1e-5),
        projection=context_dim is not None,
    )


_FEEDS = tuple(gate + name for gate in ("", "gated-") for name in ACTIVATIONS)


def _choice(path: Path, values: dict[str, Any], key: str, default: str, allowed: tuple[str, ...]) -> str:
    value = values.get(key, default)
    if value not in allowed:
        raise CheckpointError(f"{path}: {key}: expected one of {', '.join(allowed)}, got {value!r:.80}")
    return str(value)


def _size(
    path: Path, values: dict[str, Any], key: str, default: int | None = None, low: int = 1, high: int = WIDEST
) -> int:
    value = values.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise CheckpointError(f"{path}: {key}: expected a whole number from {low} to {high}, got {value!r:.80}")
    return value


def _epsilon(path: Path, values: dict[str, Any], key: str, default: float) -> float:
    value = values.get(key, default)
    if type(value) not in (int, float) or not 0 < value < 1:
        raise CheckpointError(f"{path}: {key}: expected a number between 0 and 1, got {value!r:.80}")
    return float(value)


def make_encoder(config: T5Config | CLIPTextConfig, interpolation_null: bool = False) -> TextEncoder | ClipTextEncoder:
    """The module of a configuration; with ``interpolation_null`` its graph is the one of ``IMAGE_CONTRACT``."""
    if isinstance(config, T5Config):
        return TextEncoder(config, interpolation_null)
    return ClipTextEncoder(config, interpolation_null)


class Places(Mapping[str, Tensor]):
    """Tensors that stay in the files they lie in until they are asked for: name -> (opened file, name in it)."""

    def __init__(self, places: dict[str, tuple[Mapping[str, Tensor], str]]) -> None:
        self._places = places

    def __getitem__(self, key: str) -> Tensor:
        file, name = self._places[key]
        return file[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def open_weights(folder: Path) -> Mapping[str, Tensor]:
    """The encoder's weights in ``folder``, lazily, by Hugging Face's names with their full beginnings.

    Reads model.safetensors or pytorch_model.bin, whole or in shards with an index; shards without anything of the
    encoder need not be there. Raises CheckpointError naming file, key, wanted and got where the files are not there,
    are damaged, or do not fit config.json.
    """
    shapes = _shapes(read_config(folder))
    of_t5 = "shared.weight" in shapes
    places: dict[str, tuple[Mapping[str, Tensor], str]] = {}
    files: dict[str, Path] = {}
    for path in _files(folder, of_t5):
        opened = open_checkpoint(path)
        for name in opened:
            key = _full_name(name, of_t5)
            if key is None:
                continue
            if key in places and key != "shared.weight":
                raise CheckpointError(
                    f"{path}: {name}: expected each weight once, {files[key].name} has {places[key][1]} too"
                )
            if key not in places or name == key:  # T5 may keep its tied embedding under both names
                places[key], files[key] = (opened, name), path
    missing, left = sorted(shapes.keys() - places.keys()), sorted(places.keys() - shapes.keys())
    if missing or left:
        raise CheckpointError(
            f"{folder}: expected the {len(shapes)} weights that config.json describes; missing {listed(missing)}, "
            f"left over {listed(left)}; is config.json of the same model?"
        )
    for key, (opened, name) in places.items():
        if opened[name].shape != shapes[key]:
            raise CheckpointError(
                f"{files[key]}: {name}: expected shape {list(shapes[key])} by config.json, got "
                f"{list(opened[name].shape)}"
            )
    return Places(places)


def encoder_state(
    config: T5Config | CLIPTextConfig,
    weights: Mapping[str, Tensor],
    projection: Mapping[str, Tensor] | None,
    null_embedding: Tensor,
    interpolation_null_embedding: Tensor | None = None,
) -> Mapping[str, Tensor]:
    """The whole state dict of :func:`make_encoder`'s module, lazily, from the parts that a release keeps apart.

    ``weights`` come from :func:`open_weights`; ``projection`` holds ``0.weight``, ``1.weight``, ``1.bias`` (1.0:
    ``projections`` of kandinsky_video.pt, with ``t5.`` in front; 1.1: ``projection_base`` of t5_projections.pt), None
    without a projection; null embeddings of D numbers lie in the files of the U-Nets. Raises CheckpointError for keys
    that are missing or left over and for other shapes.
    """
    rename, beginning = (t5_key, "t5.") if isinstance(config, T5Config) else (clip_key, "clip.")
    nulls = {"null_embedding": null_embedding.reshape(-1)}
    if interpolation_null_embedding is not None:
        nulls["interpolation_null_embedding"] = interpolation_null_embedding.reshape(-1)
    nothing = torch.empty(0)
    places = {beginning + rename(key, nothing)[0]: (weights, key) for key in weights}
    for key in projection if projection is not None else ():
        places[projection_key(key, nothing)[0]] = (projection, key)
    places.update({key: (nulls, key) for key in nulls})
    with torch.device("meta"):
        wanted = make_encoder(config, interpolation_null_embedding is not None).state_dict()
    missing, left = sorted(wanted.keys() - places.keys()), sorted(places.keys() - wanted.keys())
    if missing or left:
        raise CheckpointError(f"text encoder: missing {listed(missing)}, left over {listed(left)}; expected {config}")
    state = Places(places)
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"text encoder: {places[key][1]}: expected shape {list(value.shape)}, got {list(state[key].shape)}"
            )
    return state


def _shapes(config: T5Config | CLIPTextConfig) -> dict[str, torch.Size]:
    """Shape of every weight of the encoder itself, by Hugging Face's name."""
    with torch.device("meta"):
        state = make_encoder(config).state_dict()
    return {hugging_face_key(key): value.shape for key, value in state.items() if key.startswith(("t5.", "clip."))}


def _files(folder: Path, of_t5: bool) -> list[Path]:
    """The weight files that hold anything of the encoder."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index, of_t5)
    wanted = ", ".join(name + ending for name in _WEIGHTS for ending in ("", ".index.json"))
    raise CheckpointError(f"{folder}: expected one of {wanted}, got none of them; fetch the weights of the model")


def _shards(index: Path, of_t5: bool) -> list[Path]:
    places = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"{index}: weight_map: expected an object, got {places!r:.80}; fetch the file again")
    names = [name for key, name in places.items() if _full_name(key, of_t5) is not None]
    for name in names:
        # A plain name; the file itself may be a link, as in the cache of huggingface_hub.
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise CheckpointError(f"{index}: expected the plain name of a file in the same folder, got {name!r:.80}")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: expected the shard {name} beside it, got no such file; fetch it")
    return [index.parent / name for name in sorted(set(names))]


def _full_name(name: str, of_t5: bool) -> str | None:
    """A stored name with its full beginning, None for what is not the encoder's; other names are returned as they are.

    Files of the bare stack leave ``encoder.`` or ``text_model.`` out.
    """
    if _NOT_OURS.match(name):
        return None
    if not of_t5:
        return re.sub(r"^(?=embeddings\.|encoder\.|final_layer_norm\.)", "text_model.", name)
    full = re.sub(r"^(?=block\.|final_layer_norm\.|embed_tokens\.)", "encoder.", name)
    return "shared.weight" if full == "encoder.embed_tokens.weight" else full
