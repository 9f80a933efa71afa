"""The JSON schema of the manifest takes what `open_bundle` takes, and knows every key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ffrt import Bundle
from ffrt.bundle.schema import json_schema

ROOT = Path(__file__).parents[3]


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_manifests_are_valid(tiny: Bundle, masked: Bundle) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    for folder in (tiny.folder, masked.folder, ROOT / "graphs" / "demo"):
        jsonschema.validate(manifest(folder), json_schema())


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("family"),
        lambda value: value.update(family="sora"),
        lambda value: value.update(more=1),
        lambda value: value.update(format_version=2),
        lambda value: value["video"].update(width="128"),
        lambda value: value["keyframes"].pop("fps"),
        lambda value: value["interpolation"]["passes"][0].update(fps=8.5),
        lambda value: value["graphs"]["movq_decoder"]["inputs"][0].update(dtype="complex64"),
    ],
)
def test_what_the_runtime_refuses_is_not(tiny: Bundle, damage: Callable[[Any], object]) -> None:
    value = manifest(tiny.folder)
    damage(value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, json_schema())


def test_the_published_schema_is_the_current_one() -> None:
    assert json.loads((ROOT / "docs" / "manifest.schema.json").read_text(encoding="utf-8")) == json_schema()
