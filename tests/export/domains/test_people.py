"""People move without a jump, captions say what is drawn, and nothing that is kept for tests is ever trained on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.datasets.domain_judge import judge_people
from export.datasets.domain import PARTS
from export.datasets.domains import DATA
from export.datasets.people import words
from export.datasets.people.chain import JOIN_S, Turn, least_seconds, poses, seconds_of, shared_out
from export.datasets.people.domain import Outfit, PeopleClip, PeopleDomain
from export.datasets.people.draw import Camera, draw
from export.datasets.people.motions import MOTIONS, Poses, action_of, open_motions
from export.datasets.people.rotations import degrees_between, halfway, matrices
from export.datasets.people.skeleton import points
from export.datasets.people.words import ACTIONS, COLOURS, DOES, GROUNDS, ONCE, STEPS, Step
from export.errors import OptionError, SceneError
from export.training import latents, stages, text
from tests.export.domains.stand_ins import motion_wheel

CPU = torch.device("cpu")
REAL = all((DATA / "pybullet" / member.name).is_file() for member in MOTIONS.members)
needs_real = pytest.mark.skipif(not REAL, reason="the captured motions are not here")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> PeopleDomain:
    folder = tmp_path_factory.mktemp("people")
    wheel, path = motion_wheel(folder)
    return PeopleDomain(open_motions(folder, path, wheel))


def pixels(frames: Tensor) -> np.ndarray:
    return np.rint((frames.numpy().transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255).astype(np.uint8)


def turning(shown: Poses) -> float:
    """The largest turn of any joint between neighbours, in degrees."""
    return float(degrees_between(shown.turns[1:], shown.turns[:-1]).max())


def test_what_is_kept_has_parts_that_are_trained(domain: PeopleDomain) -> None:
    trained = [*domain.cells[False, False], *domain.cells[False, True]]
    kept = [*domain.cells[True, False], *domain.cells[True, True]]
    assert not {*trained} & {*kept} and len(domain.cells[True, False]) * 2 == len(domain.cells[False, False])
    seen = {(outfit.colour, outfit.ground, step.action) for outfit in trained for step in outfit.steps}
    assert len(seen) * 3 == len(COLOURS) * len(GROUNDS) * len(ACTIONS) * 2
    assert {step for outfit in trained for step in outfit.steps} == {*STEPS}
    followed = {tuple(step.action for step in outfit.steps) for outfit in domain.cells[False, True]}
    never = {pair for outfit in kept if len(pair := tuple(step.action for step in outfit.steps)) == 2} - followed
    assert len(never) > 30 and not {pair[::-1] for pair in never if pair[0] not in ONCE} & followed


def test_no_draw_of_the_training_is_kept(domain: PeopleDomain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PeopleClip] = []
    whole = PeopleDomain.of_outfit

    def record(self: PeopleDomain, outfit: Outfit, rng: np.random.Generator) -> PeopleClip:
        made.append(whole(self, outfit, rng))
        return made[-1]

    monkeypatch.setattr(PeopleDomain, "of_outfit", record)
    folders = stages.Folders(tmp_path, tmp_path)
    reading, coding = text.TextStage(folders, domain), stages.MoVQStage(folders, domain)
    reading.answers(reading.model, np.random.default_rng(0), 64, CPU)
    assert coding.frames(np.random.default_rng(0), 4).shape == (4, 3, 64, 64)
    domain.between(20, 80)
    for name, clips, times in latents.plans(300, 500, domain):
        assert {domain.is_kept(clip) for clip in clips} == {name == "held_out.npy"}
        assert len(times[0]) == (1 if name == "pictures.npy" else 24)
    assert sum(map(domain.is_kept, made)) == latents.HELD_OUT and len(made) > 20_000


@pytest.mark.parametrize("keyframes", [24, 64])
def test_longer_clips_have_longer_chains_and_keep_what_is_kept(domain: PeopleDomain, keyframes: int) -> None:
    longer = PeopleDomain(domain.motions, keyframes)
    clips = longer.dealt("keyframes", 60)
    assert not any(map(longer.is_kept, clips)) and all(map(longer.is_kept, longer.dealt("held_out", 60)))
    assert max(len(clip.outfit.steps) for clip in clips) == (2 if keyframes == 24 else 3)
    for clip in clips:
        assert least_seconds(clip.outfit.steps, domain.motions) <= longer.seconds
    with pytest.raises(OptionError, match="--length: expected 20 keyframes or more"):
        PeopleDomain(domain.motions, 16)


def test_draws_follow_their_seed(domain: PeopleDomain) -> None:
    for part in PARTS:
        assert domain.dealt(part, 30)[:20] == domain.dealt(part, 20)
    clip = domain.sample(np.random.default_rng(3))
    assert clip == domain.sample(np.random.default_rng(3))
    times = np.arange(24) / 2
    assert torch.equal(domain.render(clip, times), domain.render(clip, times))
    torch.testing.assert_close(
        domain.render(clip, np.arange(93) / 8)[::4], domain.render(clip, times), atol=1e-5, rtol=0
    )


def test_captions_say_what_is_drawn(domain: PeopleDomain) -> None:
    steps = (Step("walk"), Step("cartwheel"))
    assert words.canonical("red", "brown", steps) == "a red person walks, then does a cartwheel, on brown ground"
    assert words.canonical("blue", "teal", (Step("run", "slowly"),)) == "a blue person slowly runs on teal ground"
    forms = {form: action for action, some in DOES.items() for form in some}
    assert len(forms) == sum(map(len, DOES.values())), "no phrase means two things"
    pattern = re.compile("|".join(sorted(map(re.escape, forms), key=len, reverse=True)))
    rng = np.random.default_rng(0)
    for _ in range(1500):
        clip = domain.sample(rng)
        typed = domain.caption(clip, rng).lower()
        told = [forms[form] for form in pattern.findall(typed)]
        assert told == [step.action for step in clip.outfit.steps], typed
        slow = any(step.manner for step in clip.outfit.steps)
        assert slow or "slow" not in typed
        assert not {colour for colour in COLOURS if f"{colour} " in typed} - {clip.outfit.colour}


def test_the_judge_agrees_with_what_is_drawn(domain: PeopleDomain) -> None:
    for clip in domain.dealt("held_out", 20):
        verdict = judge_people(pixels(domain.render(clip, np.arange(24) / 2)), domain.words(clip))
        assert verdict.good and set(verdict.right) == {"colour", "ground"}, (domain.canonical(clip), verdict)
    frames, told = pixels(domain.render(clip, np.arange(4) / 2)), domain.words(clip)
    other = next(colour for colour in COLOURS if colour != told["colour"])
    assert not judge_people(frames, {**told, "colour": other}).good
    empty = np.broadcast_to(np.array([205, 218, 230], np.uint8), frames.shape)
    assert "no person" in judge_people(empty, told).faults
    actions = (str(told["action"]), *([told["next_action"]] if told["next_action"] else []))
    assert judge_people(frames, told, lambda _: actions).good  # type: ignore[arg-type, return-value]
    assert not judge_people(frames, told, lambda _: ("none",)).good


def test_chains_have_no_jump(domain: PeopleDomain) -> None:
    """At 200 fps no joint turns by more than 6 degrees a frame, and the first pose of an action follows a join."""
    for clip in domain.dealt("keyframes", 12):
        shown = poses(clip.turns, domain.motions, np.arange(4000) / 200)
        assert turning(shown) < 6 and np.abs(np.diff(shown.height)).max() < 0.02
    turns = (Turn(Step("walk"), 2), Turn(Step("cartwheel")))
    start = 2 * (seconds_of(turns[0].step, domain.motions) + JOIN_S)
    there = poses(turns, domain.motions, np.array([0.0, start, start + 1e-9]))
    first = domain.motions["cartwheel"].poses
    assert degrees_between(there.turns[1], first.turns[0]).max() < 0.1
    assert degrees_between(there.turns[0], domain.motions["walk"].poses.turns[0]).max() < 1e-3


def test_who_has_got_up_stays_and_others_go_on(domain: PeopleDomain) -> None:
    for action in ACTIONS:
        step = Step(action, "slowly")
        late = poses(shared_out([step], domain.motions, 11.5), domain.motions, 100 + np.arange(40) / 10)
        assert (turning(late) == pytest.approx(0, abs=1e-4)) == (action in ONCE)


def test_slerp_goes_the_shortest_way_at_one_speed() -> None:
    rng = np.random.default_rng(0)
    first, last = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in rng.normal(size=(2, 50, 4)))
    whole = degrees_between(first, last)
    for share in (0.0, 0.25, 0.7, 1.0):
        there = halfway(first, last, np.full(50, share))
        np.testing.assert_allclose(degrees_between(first, there), share * whole, atol=1e-3)
        np.testing.assert_allclose(halfway(first, -last, np.full(50, share)) @ np.eye(4), there, atol=1e-9)
    turns = matrices(first)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-9)


def test_a_body_stands_upright_and_knees_bend_backwards() -> None:
    turns = np.tile(np.array([1.0, 0, 0, 0]), (2, 9, 1))
    hinges = np.array([[0.0, 0, 0, 0], [-1.5, 1.5, 0, 0]])
    found = points(Poses(np.array([0.9, 0.9]), turns, hinges))
    assert found["crown"][0, 1] == pytest.approx(0.9 + 0.236 + 0.224 + 0.21) and found["right toe"][0, 0] > 0.1
    assert found["right hip"][0, 2] > 0 > found["left hip"][0, 2]
    assert found["right ankle"][1, 0] < -0.3 and found["right wrist"][1, 0] > 0.2
    height = 0.9 - 0.42 - 0.41 - 0.05
    assert found["left heel"][0, 1] == pytest.approx(height)


def test_a_camera_on_the_other_side_sees_the_other_side() -> None:
    pose = Poses(np.array([0.9]), np.tile(np.array([1.0, 0, 0, 0]), (1, 9, 1)), np.zeros((1, 4)))
    right, left = (draw(pose, "red", "grey", Camera(side, 0, 10, 2.7), 64) for side in (1, -1))
    assert float((right - left.flip(3)).abs().mean()) < 0.01 < float((right - left).abs().max())
    assert right.shape == (1, 3, 64, 64) and float(right.min()) >= -1 and float(right.max()) <= 1


def test_words_outside_the_grammar_are_refused() -> None:
    with pytest.raises(SceneError, match="run is done slowly only"):
        Step("run")
    with pytest.raises(SceneError, match="action must be one of"):
        Step("swim", "slowly")
    with pytest.raises(SceneError, match="manner must be one of"):
        Step("walk", "fast")
    assert {action_of(member.name) for member in MOTIONS.members} == {*ACTIONS}


@needs_real
def test_nothing_real_turns_by_more_than_a_quarter_between_keyframes() -> None:
    """Nor does a cycle of what comes round, at 2 fps; and joints never jump."""
    domain = PeopleDomain(open_motions(DATA))
    for step in STEPS:
        motion = domain.motions[step.action]
        shown = poses((Turn(step),), domain.motions, np.arange(0, seconds_of(step, domain.motions) - 0.5, 0.01))
        root = shown.turns[:, 0]
        assert degrees_between(root[50:], root[:-50]).max() <= 90, step
        if step.action in ("walk", "run", "crawl"):
            assert 0.5 / seconds_of(step, domain.motions) <= 0.25 and motion.seconds < 3
    for clip in domain.dealt("keyframes", 20):
        assert turning(poses(clip.turns, domain.motions, np.arange(4000) / 200)) < 9, domain.canonical(clip)
        assert judge_people(pixels(domain.render(clip, np.arange(24) / 2)), domain.words(clip)).good
