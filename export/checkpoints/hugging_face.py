"""The weights in a local Hugging Face folder of a text encoder (text_config.py and tokenizer.py have the rest).

Whole models too: decoders, heads and the half of CLIP that sees pictures are left out. The folder counts as untrusted:
plain shard names, and no code of the folder is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from export.checkpoints.file import listed, open_checkpoint
from export.checkpoints.names import projection_key
from export.checkpoints.text_config import read_config, read_json
from export.errors import CheckpointError, ConfigError
from export.models.configs import TextConfig
from export.models.text import empty_text_encoder

MAX_INDEX_BYTES = 16 << 20
INSIDE = "encoder."
"""What names of the encoder's weights begin with inside `export.models.text.TextEncoder`."""

# What a folder holds beside the text encoder's weights: the other half of the model, heads, and fixed positions.
_NOT_OURS = re.compile(
    r"decoder\.|lm_head\.|vision_model\.|visual_projection\.|text_projection\.|logit_scale$|cls\.|(?:\w+\.)?pooler\.|"
    r"\w*classifier\.|qa_outputs\.|generator_\w+\.|vocab_\w+\.|(?:[\w.]+\.)?embeddings\.(?:position_ids|token_type_ids)$"
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TIED = "embed_tokens.weight"


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
    """The encoder's weights in `folder`, lazily, by the names that they have inside the encoder.

    Reads model.safetensors or pytorch_model.bin, whole or in shards with an index; shards without anything of the
    encoder need not be there. Raises CheckpointError naming file, key, what was expected and what it got, where the
    files are missing, damaged, or do not fit config.json.
    """
    config = read_config(folder)
    try:
        module, buffers = empty_text_encoder(config)
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}; is config.json of the same model?") from error
    state = module.encoder.state_dict()
    shapes = {key: value.shape for key, value in state.items() if f"{INSIDE}{key}" not in buffers}
    prefix = getattr(module.encoder, "base_model_prefix", "")

    def inner_name(name: str) -> str | None:
        return _inner_name(name, shapes, prefix)

    places: dict[str, tuple[Mapping[str, Tensor], str]] = {}
    files: dict[str, Path] = {}
    for path in _files(folder, inner_name):
        file = open_checkpoint(path)
        for name in file:
            key = inner_name(name)
            if key is None:
                continue
            if key in places and key != _TIED:
                raise CheckpointError(
                    f"{path}: {name}: expected each weight once, {files[key].name} has {places[key][1]} too"
                )
            if key not in places or name == "shared.weight":  # T5 may keep its tied embedding under both names
                places[key], files[key] = (file, name), path
    missing, left = sorted(shapes.keys() - places.keys()), sorted(places.keys() - shapes.keys())
    if missing or left:
        raise CheckpointError(
            f"{folder}: expected the {len(shapes)} weights that config.json describes; missing {listed(missing)}, "
            f"left over {listed([places[key][1] for key in left])}; is config.json of the same model?"
        )
    for key, (opened, name) in places.items():
        if opened[name].shape != shapes[key]:
            raise CheckpointError(
                f"{files[key]}: {name}: expected shape {list(shapes[key])} by config.json, got "
                f"{list(opened[name].shape)}"
            )
    return Places(places)


def encoder_state(
    config: TextConfig,
    weights: Mapping[str, Tensor],
    projection: Mapping[str, Tensor] | None,
    null_embedding: Tensor,
    interpolation_null_embedding: Tensor | None = None,
) -> Mapping[str, Tensor]:
    """The whole state dict of a text encoder, lazily, from the parts that a release keeps apart.

    `weights` come from `open_weights`; `projection` holds `0.weight`, `1.weight`, `1.bias` (1.0: `projections` of
    kandinsky_video.pt, with `t5.` in front; 1.1: `projection_base` of t5_projections.pt), None without a projection;
    null embeddings of D numbers lie in the files of the U-Nets. Raises CheckpointError for keys that are missing or
    left over and for other shapes.
    """
    nulls = {"null_embedding": null_embedding.reshape(-1)}
    if interpolation_null_embedding is not None:
        nulls["interpolation_null_embedding"] = interpolation_null_embedding.reshape(-1)
    module, buffers = empty_text_encoder(config, interpolation_null_embedding is not None)
    places = {INSIDE + key: (weights, key) for key in weights}
    if projection is not None:
        places |= {projection_key(key): (projection, key) for key in projection}
    places.update({key: (nulls, key) for key in nulls} | {key: (buffers, key) for key in buffers})
    expected = module.state_dict()
    missing, left = sorted(expected.keys() - places.keys()), sorted(places.keys() - expected.keys())
    if missing or left:
        raise CheckpointError(f"text encoder: missing {listed(missing)}, left over {listed(left)}; expected {config}")
    state = Places(places)
    for key, value in expected.items():
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"text encoder: {places[key][1]}: expected shape {list(value.shape)}, got {list(state[key].shape)}"
            )
    return state


def _files(folder: Path, inner_name: Callable[[str], str | None]) -> list[Path]:
    """The weight files that hold anything of the encoder."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index, inner_name)
    names = ", ".join(name + ending for name in _WEIGHTS for ending in ("", ".index.json"))
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    got = f"{listed(others)}; rename the one that is meant" if others else "none of them; fetch the model's weights"
    raise CheckpointError(f"{folder}: expected one of {names}, got {got}")


def _shards(index: Path, inner_name: Callable[[str], str | None]) -> list[Path]:
    places = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"{index}: weight_map: expected an object, got {places!r:.80}; fetch the file again")
    names = [name for key, name in places.items() if inner_name(key) is not None]
    for name in names:
        # A plain name; the file itself may be a link, as in the cache of huggingface_hub.
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise CheckpointError(f"{index}: expected the plain name of a file in the same folder, got {name!r:.80}")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: expected the shard {name} beside it, got no such file; fetch it")
    return [index.parent / name for name in sorted(set(names))]


def _inner_name(name: str, known: Mapping[str, object], prefix: str) -> str | None:
    """A stored name as it is inside the encoder, None for what is not the encoder's; others are returned as they are.

    Files of whole models have `encoder.` or the name of the model in front, those of CLIP's bare transformer leave
    `text_model.` out, and T5 calls its embedding `shared`.
    """
    if name == "shared.weight":
        return _TIED
    for inner in (name, name.removeprefix("encoder."), name.removeprefix(f"{prefix}."), f"text_model.{name}"):
        if inner in known:
            return inner
    return None if _NOT_OURS.match(name) else name
