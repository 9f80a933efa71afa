"""config.json of a local Hugging Face folder: which text encoder it holds, and its sizes.

The folder counts as untrusted: JSON of limited size, values of the type and within the bounds that they have in
transformers, and no code of the folder is ever run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import CheckpointError, ConfigError
from export.models.configs import TextConfig
from export.models.quiet import quiet
from ffrt.files import opened

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MAX_CONFIG_BYTES = 1 << 20
MAX_TOKENS = 128
"""Tokens of the longest prompt, end token included, where the encoder has no fewer positions; as released."""
WIDEST = 1 << 20
"""Of a vocabulary."""
LIMITS = {"layers": 256, "heads": 256, "buckets": 256, "distance": 1 << 16, "position": 1 << 16}
WIDTH = 1 << 16
"""Of everything else that is a whole number."""
_NOT_SIZES = ("model_type", "use_cache")


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError if it is missing, larger than `limit` bytes or no object."""
    if not path.exists():
        raise CheckpointError(f"{path}: expected a Hugging Face model folder, got none of this file; check the folder")
    with opened("file", path, CheckpointError) as file:
        size = os.fstat(file.fileno()).st_size
        text = file.read(limit + 1)
    if len(text) > limit:
        raise CheckpointError(f"{path}: expected at most {limit} bytes, got {size}; is this the model's own file?")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}; fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}; fetch the file again")
    return value


def read_config(folder: Path, context_dim: int | None = None) -> TextConfig:
    """The text encoder in `folder`, from config.json; `context_dim` is the width of a projection behind it.

    Without it there is no projection. Raises CheckpointError naming file, key, what was expected and what it got: no
    config.json, an encoder that optimum does not know, sizes out of bounds.
    """
    path = folder / "config.json"
    values = read_json(path, MAX_CONFIG_BYTES)
    kind = values.get("model_type")
    if kind == "clip":
        # As Hugging Face reads it: the second, where there is one, takes the place of the first.
        key = "text_config" if values.get("text_config_dict") is None else "text_config_dict"
        values = values.get(key, {})
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: {key}: expected an object, got {values!r:.80}")
    try:
        return text_config(str(kind), values, context_dim)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; is this the configuration of a text encoder?") from error


def text_config(kind: str, values: Mapping[str, Any], context_dim: int | None) -> TextConfig:
    """The text encoder that the values of a config.json describe.

    Raises ConfigError naming the key, what was expected and what it got.
    """
    with quiet():
        from export.models.encoders import describe, sizes_of

        usual = sizes_of(kind, {})
        describe(usual)
        known = {key: value for key, value in _own(usual).items() if isinstance(value, (bool, int, float, str))}
        given = {key: _checked(key, value, known[key]) for key, value in values.items() if key in known}
        config = sizes_of(kind, given)
    sizes = {key: value for key, value in _own(config).items() if key in known}
    positions = sizes.get("max_position_embeddings", MAX_TOKENS)
    return TextConfig(
        config.model_type,
        sizes,
        config.hidden_size if context_dim is None else context_dim,
        projection=context_dim is not None,
        max_tokens=min(MAX_TOKENS, positions),
    )


def _own(config: PretrainedConfig) -> dict[str, Any]:
    """The values of a configuration that belong to its network: not those that every configuration has."""
    from transformers import PretrainedConfig

    shared = PretrainedConfig().to_dict().keys() - {"pad_token_id"}  # from which RoBERTa counts its positions
    return {key: value for key, value in config.to_dict().items() if key not in shared and key not in _NOT_SIZES}


def _checked(key: str, value: Any, usual: Any) -> Any:
    """A value, if it has the type of the usual one and is within bounds."""
    if isinstance(usual, bool):
        expected, good = "true or false", isinstance(value, bool)
    elif isinstance(usual, int):
        usual_high = WIDEST if "vocab" in key or key.endswith("_id") else WIDTH
        high = next((most for word, most in LIMITS.items() if word in key), usual_high)
        low = 0 if key.endswith("_id") or usual == 0 else 1
        expected, good = f"a whole number from {low} to {high}", type(value) is int and low <= value <= high
    elif isinstance(usual, float):
        bounds = "between 0 and 1" if "eps" in key else "from 0 to 100"
        inside = type(value) in (int, float) and 0 <= value <= 100
        expected, good = f"a number {bounds}", inside and ("eps" not in key or 0 < value < 1)
    else:
        expected, good = "a word", isinstance(value, str)
    if not good:
        raise ConfigError(f"{key}: expected {expected}, got {value!r:.80}")
    return value
