"""Nothing that is tested was trained on: no draw of the training code is of a combination that is kept for tests."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.datasets.prompts import Case, cases, outline_cases
from bench.datasets.shapes import held_out
from export.checkpoints.weights import save_half
from export.datasets import captions, demo, grammar, shapes
from export.datasets.demo import DEMO
from export.datasets.domain import PARTS
from export.datasets.grammar import Combination, combinations, is_held_out, split
from export.models.configs import PRESETS
from export.models.keyframes import KeyframeUNet
from export.models.text import TextEncoder
from export.training import keyframes, latents, recipe, stages, text

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def kept(clip: shapes.Clip | Combination | Case) -> bool:
    return is_held_out(clip.colour, clip.shape, clip.action, clip.background)


def four(cell: Combination) -> tuple[str, str, str, str]:
    return cell.colour, cell.shape, cell.action, cell.background


def test_a_third_is_kept_at_every_size() -> None:
    trained, held = split()
    assert len(trained) == 2 * len(held) == 1104
    assert {*map(four, trained)}.isdisjoint(map(four, held)) and {*trained, *held} == set(combinations())


@pytest.mark.parametrize("three", list(itertools.combinations(range(4), 3)), ids=str)
def test_any_three_words_come_together_in_training(three: tuple[int, ...]) -> None:
    trained, held = split()
    words = [{tuple(four(cell)[place] for place in three) for cell in cells} for cells in (trained, held)]
    assert words[1] <= words[0]


def test_the_split_needs_no_pytorch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from export.datasets.grammar import split; print(len(split()[1]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "552\n"), done.stderr


def test_a_word_outside_the_grammar_is_refused() -> None:
    with pytest.raises(ValueError, match=r"background must be one of .* got 'pink'"):
        is_held_out("red", "circle", "growing", "pink")


def test_the_words_are_the_renderers() -> None:
    assert tuple(shapes.COLOURS) == grammar.COLOURS and tuple(shapes.BACKGROUNDS) == grammar.BACKGROUNDS


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[shapes.Clip]:
    """Every clip that is made from here on, by whatever code."""
    made: list[shapes.Clip] = []
    check = shapes.Clip.__post_init__
    monkeypatch.setattr(shapes.Clip, "__post_init__", lambda clip: (check(clip), made.append(clip))[0])
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> stages.Folders:
    """What the stages of the recipe load, with noise in place of latents."""
    folder = tmp_path_factory.mktemp("split")
    noise = np.random.default_rng(0)
    np.save(folder / "pictures.npy", noise.normal(0, 0.4, (40, 1, 4, 8, 8)).astype(np.float16))
    np.save(folder / "keyframes_00.npy", noise.normal(0, 0.4, (40, 16, 4, 8, 8)).astype(np.float16))
    np.save(folder / "held_out.npy", noise.normal(0, 0.4, (12, 16, 4, 8, 8)).astype(np.float16))
    torch.manual_seed(0)
    save_half(TextEncoder(PRESETS["demo"].text).state_dict(), folder / "text_encoder.safetensors")
    save_half(KeyframeUNet(PRESETS["demo"].keyframes).state_dict(), folder / "keyframe_unet.safetensors")
    captions.train_tokenizer(folder / "tokenizer.json")
    return stages.Folders(folder, folder)


def test_text_and_autoencoder_draw_no_kept_combination(drawn: list[shapes.Clip], folders: stages.Folders) -> None:
    reading, coding = text.TextStage(folders), stages.MoVQStage(folders)
    for step in range(8):
        reading.answers(reading.model, np.random.default_rng(step), 128, CPU)
        coding.frames(np.random.default_rng(step), 8)
    reading.measure(reading.model, CPU)
    assert len(drawn) > 1000 and not any(map(kept, drawn))


def test_the_tokenizer_reads_no_kept_combination(drawn: list[shapes.Clip], tmp_path: Path) -> None:
    captions.train_tokenizer(tmp_path / "tokenizer.json")
    assert len(drawn) == 20_000 and not any(map(kept, drawn))


@pytest.mark.parametrize(
    "lesson", [chapter.lesson for chapter in recipe.RECIPE if chapter.lesson], ids=lambda x: x.name
)
def test_every_lesson_of_the_recipe_shows_no_kept_combination(
    lesson: keyframes.Lesson, folders: stages.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step shows is what it takes a caption of, in any wording; what is measured is kept throughout."""
    shown: list[shapes.Clip] = []
    word: Callable[..., str] = captions.caption
    monkeypatch.setattr(demo, "caption", lambda clip, rng: (shown.append(clip), word(clip, rng))[1])
    stage = keyframes.KeyframeStage(folders, dataclasses.replace(lesson, clips=40))
    for step in range(3):
        stage.loss(stage.model, np.random.default_rng(step), 2, CPU)
    assert len(shown) == 6 and not any(map(kept, shown)) and all(map(kept, stage.held_out_clips))


def test_no_file_of_latents_but_the_held_out_one_shows_a_kept_combination() -> None:
    for name, clips, times in latents.plans(8000, 8000):
        assert len(clips) == len(times)
        assert {kept(clip) for clip in clips} == {name == "held_out.npy"}, name


@pytest.mark.parametrize(
    ("clips", "share"),
    [(DEMO.dealt("keyframes", 8000), 4), (DEMO.dealt("pictures", 8000), 3), (DEMO.dealt("held_out", 200), 4)],
)
def test_what_spins_has_its_share_and_every_clip_starts_upright(clips: list[shapes.Clip], share: int) -> None:
    assert sum(clip.action == "spinning" for clip in clips) == -(-len(clips) // share)
    assert {clip.angle_degrees for clip in clips} == {0.0}


def test_a_longer_list_starts_with_a_shorter_one() -> None:
    for part in PARTS:
        assert DEMO.dealt(part, 60)[:40] == DEMO.dealt(part, 40)


def test_cells_come_in_turn() -> None:
    trained = split()[0]
    seen = [
        tuple(getattr(clip, name) for name in ("colour", "shape", "action", "background", "size"))
        for clip in DEMO.dealt("keyframes", 8000)
    ]
    for spins in (True, False):
        counts = [seen.count((*four(cell), cell.size)) for cell in trained if (cell.action == "spinning") == spins]
        assert max(counts) - min(counts) <= 1


def test_all_prompts_and_clips_of_the_benches_are_kept() -> None:
    for tested in (cases(250), cases(250, "tune"), outline_cases(144), held_out(24), held_out(8, "tune")):
        assert all(map(kept, tested))
    assert len(DEMO.dealt("held_out", 200)) == 200
