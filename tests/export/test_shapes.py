"""The demo domain: pictures obey their words, captions never contradict them, the tokenizer takes any text."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor

from export.datasets.captions import (
    ACTION_WORDS,
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    canonical,
    caption,
    train_tokenizer,
    variant,
    vocabulary_corpus,
)
from export.datasets.grammar import ACTIONS, SHAPES, Combination, combinations
from export.datasets.shapes import (
    BACKGROUNDS,
    COLOURS,
    Clip,
    render,
    render_many,
    sample_clip,
    sample_parameters,
)

KEYFRAMES = np.arange(16) / 2
seeds = st.integers(0, 2**32 - 1)
clips = seeds.map(lambda seed: sample_clip(np.random.default_rng(seed)))


def clip_of(action: str, shape: str = "square", seed: int = 0, size: str | None = None) -> Clip:
    return sample_parameters(Combination("white", shape, action, "black", size), np.random.default_rng(seed))


def coverage(clip: Clip, frames: Tensor) -> Tensor:
    """Undo the colours: the share of each pixel that the shape covers, `[N, H, W]`."""
    background, colour = (torch.tensor(rgb) / 127.5 - 1 for rgb in (BACKGROUNDS[clip.background], COLOURS[clip.colour]))
    span = colour - background
    along = (frames - background[:, None, None]) * span[:, None, None]
    return along.sum(1) / span.square().sum()


def centroids(clip: Clip, frames: Tensor) -> Tensor:
    """Centre of mass `[N, 2]` as x, y in pixels."""
    alpha = coverage(clip, frames)
    pixel = torch.arange(frames.shape[-1]) + 0.5
    area = alpha.sum((1, 2))
    return torch.stack([(alpha.sum(1) * pixel).sum(1) / area, (alpha.sum(2) * pixel).sum(1) / area], 1)


def test_grammar_has_every_cell_but_the_spinning_circle() -> None:
    cells = combinations()
    assert len(cells) == len(set(cells)) == 6 * (3 * 8 - 1) * 4 * 3
    assert ("circle", "spinning") not in {(cell.shape, cell.action) for cell in cells}
    with pytest.raises(ValueError, match="spinning circle"):
        Clip("red", "circle", "spinning", "black", None, 20.0, (64.0, 64.0))


@pytest.mark.parametrize("field", ["colour", "shape", "action", "background", "size"])
def test_words_outside_the_grammar_are_refused(field: str) -> None:
    words = {"colour": "red", "shape": "circle", "action": "growing", "background": "black", "size": "small"}
    words[field] = "orange"
    with pytest.raises(ValueError, match=f"{field} must be one of .* got 'orange'"):
        Clip(**words, radius_px=20.0, centre_px=(64.0, 64.0))


def test_sampling_reaches_every_word_and_respects_sizes() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_clip(rng) for _ in range(600)]
    assert {(clip.shape, clip.action) for clip in drawn} == {(cell.shape, cell.action) for cell in combinations()}
    assert {(clip.colour, clip.background) for clip in drawn} == set(itertools.product(COLOURS, BACKGROUNDS))
    assert all(12 <= clip.radius_px <= 16 for clip in drawn if clip.size == "small")
    assert all(22 <= clip.radius_px <= 27 for clip in drawn if clip.size == "large")


@settings(max_examples=60, deadline=None)
@given(clips)
def test_shape_stays_inside_the_frame(clip: Clip) -> None:
    frames = render(clip, np.linspace(0, 8, 17))
    alpha = coverage(clip, frames)
    border = torch.cat([alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1]], 1)
    assert border.abs().max() < 1e-5
    assert alpha.flatten(1).max(1).values.min() > 1 - 1e-5


def test_every_large_shape_fits_for_every_action() -> None:
    for cell in combinations():
        if (cell.colour, cell.background, cell.size) == ("red", "black", "large"):
            for seed in range(10):
                clip = sample_parameters(cell, np.random.default_rng(seed))
                alpha = coverage(clip, render(clip, [0.0, 3.75, 7.5]))
                assert alpha[:, [0, -1]].abs().max() < 1e-5 and alpha[:, :, [0, -1]].abs().max() < 1e-5, clip


@pytest.mark.parametrize(("colour", "background"), list(itertools.product(COLOURS, BACKGROUNDS)))
def test_colours_are_exact_inside_and_outside(colour: str, background: str) -> None:
    clip = Clip(colour, "triangle", "standing still", background, None, 20.0, (64.0, 64.0))
    image = ((render(clip, [0.0])[0] + 1) * 127.5).round()
    assert tuple(image[:, 64, 64].int().tolist()) == COLOURS[colour]
    assert tuple(image[:, 0, 0].int().tolist()) == BACKGROUNDS[background]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("action", "direction"),
    [("moving right", (1, 0)), ("moving left", (-1, 0)), ("moving up", (0, -1)), ("moving down", (0, 1))],
)
def test_travel_is_straight_steady_and_72_px(shape: str, action: str, direction: tuple[int, int]) -> None:
    clip = clip_of(action, shape)
    steps = centroids(clip, render(clip, KEYFRAMES)).diff(dim=0)
    expected = torch.tensor(direction) * 72 / 15
    assert torch.allclose(steps, expected.expand(15, 2), atol=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_standing_still_is_still(shape: str) -> None:
    frames = render(clip_of("standing still", shape), KEYFRAMES)
    assert torch.equal(frames, frames[:1].expand_as(frames))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("action", "sign"), [("growing", 1), ("shrinking", -1)])
def test_area_changes_one_way_and_sixteenfold(shape: str, action: str, sign: int) -> None:
    clip = clip_of(action, shape, size="large")
    areas = coverage(clip, render(clip, KEYFRAMES)).sum((1, 2))
    assert (areas.diff() * sign > 0).all()
    ratio = areas.max() / areas.min()
    assert 15 < ratio < 17


@pytest.mark.parametrize("shape", ["square", "triangle"])
def test_spinning_turns_clockwise_in_place(shape: str) -> None:
    clip = clip_of("spinning", shape)
    frames = render(clip, KEYFRAMES)
    alpha = coverage(clip, frames)
    areas = alpha.sum((1, 2))
    assert (areas - areas[0]).abs().max() < 0.02 * areas[0]
    assert (alpha.diff(dim=0).abs().sum((1, 2)) > 0.05 * areas[0]).all()
    assert centroids(clip, frames).std(0).max() < 0.05
    # 24 degrees clockwise per keyframe: a still shape drawn upright plus that angle is the same picture.
    turned = Clip(
        "white", shape, "standing still", "black", None, clip.radius_px, clip.centre_px, clip.angle_degrees + 24
    )
    assert torch.allclose(render(turned, [0.0])[0], frames[1], atol=1e-3)


def test_positive_angle_is_clockwise_on_screen() -> None:
    clip = Clip("white", "triangle", "standing still", "black", None, 30.0, (64.0, 64.0), angle_degrees=90.0)
    alpha = coverage(clip, render(clip, [0.0]))[0]
    assert alpha[64, 64 + 38] == 1 and alpha[64, 64 - 38] == 0  # the tip, once up, points right


@pytest.mark.parametrize("shape", SHAPES)
def test_area_matches_geometry_at_any_size(shape: str) -> None:
    clip = Clip("white", shape, "standing still", "black", None, 20.0, (64.0, 64.0))
    exact = {"circle": np.pi * 400, "square": (2 * 0.886 * 20) ** 2, "triangle": 3 * np.sqrt(3) / 4 * (1.35 * 20) ** 2}
    for size in (64, 128, 200):
        area = coverage(clip, render(clip, [0.0], size)).sum().item() * (128 / size) ** 2
        assert area == pytest.approx(exact[shape], rel=0.01)


@settings(max_examples=25, deadline=None)
@given(clips)
def test_frame_rates_agree_at_common_times(clip: Clip) -> None:
    at_8_fps = render(clip, np.arange(61) / 8, 64)
    at_2_fps = render(clip, KEYFRAMES, 64)
    assert torch.allclose(at_8_fps[::4], at_2_fps, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(clips, clips)
def test_a_batch_is_its_clips(first: Clip, second: Clip) -> None:
    times = np.stack([KEYFRAMES, KEYFRAMES[::-1] / 2])
    batch = render_many([first, second], times, 64)
    assert batch.shape == (2, 16, 3, 64, 64) and batch.dtype == torch.float32
    assert torch.equal(batch[0], render(first, times[0], 64)) and torch.equal(batch[1], render(second, times[1], 64))
    with pytest.raises(ValueError, match=r"times_s must be \[2, N\]"):
        render_many([first, second], times[:1])


def test_canonical_captions_are_the_grammar() -> None:
    sentence = re.compile(
        rf"a ((small|large) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(ACTIONS)})"
        rf" on a ({'|'.join(BACKGROUNDS)}) background"
    )
    rng = np.random.default_rng(0)
    written = {canonical(sample_parameters(cell, rng)) for cell in combinations()}
    assert len(written) == len(combinations())
    assert all(sentence.fullmatch(text) for text in written)
    clip = Clip("red", "circle", "moving right", "black", None, 20.0, (64.0, 64.0))
    assert canonical(clip) == "a red circle moving right on a black background"


def test_no_phrase_means_two_things() -> None:
    actions = {name: tuple(itertools.chain(*forms)) for name, forms in ACTION_WORDS.items()}
    tables = (COLOUR_WORDS, SHAPE_WORDS, BACKGROUND_WORDS, SIZE_WORDS, actions)
    for table, classes in zip(tables, (COLOURS, SHAPES, BACKGROUNDS, ("small", "large"), ACTIONS), strict=True):
        assert set(table) == set(classes)
    owners: dict[str, set[str]] = {}
    for table in tables:
        for name, phrases in table.items():
            for phrase in phrases:
                owners.setdefault(phrase, set()).add(name)
    assert {phrase: names for phrase, names in owners.items() if len(names) > 1} == {}


ACTION_STEMS = {
    "moving up": r"ris(es|ing)|climb|ascend",
    "moving down": r"fall|dropp?|sink|descend",
    "standing still": r"still|static|motionless|staying|stays|not mov|rest",
    "growing": r"grow|bigger|larger|expand",
    "shrinking": r"shrink|smaller|contract",
    "spinning": r"spin|rotat|turn(s|ing)|twirl",
}
DIRECTIONS = {"right": "right", "left": "left", "up": "up", "top": "up", "down": "down", "bottom": "down"}


def read_action(text: str) -> set[str]:
    """Every action that a caption speaks of, by word stems; of `from left to right` the last counts."""
    found = {name for name, stems in ACTION_STEMS.items() if re.search(rf"\b({stems})", text)}
    ways = re.findall(r"\b(right|left|up|down|top|bottom)(?:wards?)?\b", text)
    return found | ({f"moving {DIRECTIONS[ways[-1]]}"} if ways else set())


def test_captions_name_their_own_class_and_no_other() -> None:
    rng = np.random.default_rng(1)
    missing_background = 0
    for _ in range(3000):
        clip = sample_clip(rng)
        text = variant(clip, rng).lower()
        words = set(re.findall(r"[a-z-]+", text))
        assert read_action(text) == {clip.action}, text
        for table, own in ((COLOUR_WORDS, clip.colour), (SHAPE_WORDS, clip.shape)):
            named = {name for name, synonyms in table.items() if re.search(rf"\b({'|'.join(synonyms)})\b", text)}
            assert named == {own}, text
        sizes = {name for name, synonyms in SIZE_WORDS.items() if words & set(synonyms)}
        assert sizes <= {clip.size}, text
        backgrounds = {name for name, synonyms in BACKGROUND_WORDS.items() if words & set(synonyms)}
        assert backgrounds <= {clip.background}, text
        missing_background += not backgrounds
    assert 0.05 < missing_background / 3000 < 0.11


def test_two_captions_in_five_are_canonical() -> None:
    rng = np.random.default_rng(2)
    drawn = [(clip, caption(clip, rng)) for clip in (sample_clip(rng) for _ in range(2000))]
    assert 0.36 < sum(text == canonical(clip) for clip, text in drawn) / 2000 < 0.46
    assert all(text == text.strip() and "  " not in text for _, text in drawn)
    assert not any(re.search(r"\b(a [aeiou]|an [^aeiou])", text.lower()) for clip, text in drawn)


def test_corpus_follows_its_seed() -> None:
    assert list(vocabulary_corpus(50, 3)) == list(vocabulary_corpus(50, 3))
    assert list(vocabulary_corpus(50, 3)) != list(vocabulary_corpus(50, 4))


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_file))


def test_tokenizer_is_the_same_file_every_time(tokenizer_file: Path, tmp_path: Path) -> None:
    train_tokenizer(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == tokenizer_file.read_bytes()


def test_tokenizer_layout(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 512
    assert (tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("</s>")) == (0, 1)
    assert tokenizer.padding is None and tokenizer.truncation is None
    assert tokenizer.encode("").ids == [1]
    ids = tokenizer.encode("A RED  circle\n").ids
    assert ids == tokenizer.encode("a red circle").ids and ids[-1] == 1 and len(ids) == 4
    assert max(len(tokenizer.encode(text).ids) for text in vocabulary_corpus(500, 9)) <= 32


@pytest.mark.parametrize("text", ["🎈🎈 été à señor", "東京 красный круг", "zürich\u0301", "a\u200bb"])
def test_tokenizer_round_trips_foreign_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids).strip() == tokenizer.normalizer.normalize_str(text)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_tokenizer_is_total(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert ids[-1] == 1 and all(0 <= i < 512 for i in ids)
    if not set(ids[:-1]) & {0, 1}:  # as in T5, the special tokens' own spelling is read as the tokens
        assert tokenizer.decode(ids).strip() == tokenizer.normalizer.normalize_str(text).strip()
