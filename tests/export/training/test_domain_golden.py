"""What trainings of the demo draw: the same clips, captions, pixels and tokens as when its weights were begun.

A training that is half done goes on from its checkpoint only if every draw is still the same. The digests are of the
draws at commit d4045e0, before other domains than "shapes" were added.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from export.datasets import shapes
from export.datasets.captions import train_tokenizer
from export.datasets.demo import DEMO
from export.datasets.scenes import held_out_scenes, training_scenes
from export.training import latents, stages, text


def digest(value: object) -> str:
    content = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def test_the_clips_of_every_part_are_those_of_the_first_trainings() -> None:
    assert digest(DEMO.dealt("keyframes", 300)) == "9554e30762a9797a"
    assert digest(DEMO.dealt("pictures", 300)) == "67285b323c7d4d60"
    assert digest(DEMO.dealt("held_out", 200)) == "7ed6f259f5bbb039"
    assert digest(np.concatenate(latents.picture_moments(300)).tobytes()) == "ea287b8853bb8051"
    fine, coarse = DEMO.between(200, 800)
    clips, scenes = [*fine[:100], *coarse[:400]], [*fine[100:], *coarse[400:]]
    assert digest(clips[:300]) == "c4a2ee409557c98d"
    assert scenes == training_scenes(500) and digest(scenes[:20]) == "4588a54fe905c6fd"
    assert digest(held_out_scenes(20)) == "a7972ee1391374b9"


def test_clips_drawn_in_a_step_and_their_captions_are_the_same() -> None:
    rng = np.random.default_rng(5)
    clips = [DEMO.sample(rng) for _ in range(200)]
    assert digest(clips) == "80cff3c124bd7dd2"
    rng = np.random.default_rng(6)
    assert digest([DEMO.caption(clip, rng) for clip in clips]) == "fc4b8837ce005687"


def test_pictures_are_the_same() -> None:
    """In whole values, which is what float32 of any processor agrees on."""
    rng = np.random.default_rng(5)
    clips = [DEMO.sample(rng) for _ in range(24)]
    pictures = torch.cat([DEMO.render(clip, np.array([0.3, 5.5]), 64) for clip in clips]).numpy()
    assert digest(np.rint((pictures + 1) * 127.5).astype(np.uint8).tobytes()) == "958f20bd3ba36a18"


def test_a_step_of_the_autoencoder_sees_the_same_frames(tmp_path: Path) -> None:
    stage = stages.MoVQStage(stages.Folders(tmp_path, tmp_path))
    rng = np.random.default_rng(9)
    wanted = [shapes.render(shapes.sample_clip(rng), rng.uniform(0.0, 7.5, 1)) for _ in range(3)]
    assert torch.equal(stage.frames(np.random.default_rng(9), 3), torch.cat(wanted))


def test_the_tokenizer_is_the_same(tmp_path: Path) -> None:
    train_tokenizer(tmp_path / "by_name.json")
    text.tokenizer_in(stages.Folders(tmp_path, tmp_path))
    for name in ("by_name.json", "tokenizer.json"):
        assert digest((tmp_path / name).read_bytes()) == "0b3a73415d833137"
