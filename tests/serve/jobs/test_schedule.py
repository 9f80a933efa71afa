"""Which job is next, how long it takes, and how often a client may ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ffrt.serve.errors import Refused
from ffrt.serve.jobs.estimates import Estimates, stages_of
from ffrt.serve.jobs.job import Job, NewJob, new_id
from ffrt.serve.jobs.live import Live
from ffrt.serve.jobs.schedule import choose, shape
from ffrt.serve.jobs.store import Store
from ffrt.serve.limits import Rate, Slots

SMALL = {"height": 32, "width": 32, "fps": 8, "guidance_scale": None}
STAGES = [["text", None, 1, 1.0], ["keyframes", 2, 4, 10.0], ["decoding", 8, 9, 2.0]]


@pytest.fixture
def plain(tmp_path: Path) -> Job:
    request = {"fields": SMALL, "stages": STAGES}
    return Store(tmp_path / "jobs.sqlite").create(NewJob(new_id(), "", request, "", ""), 9, 9)[0]


def job(plain: Job, seq: int, owner: str = "", priority: int = 0, fps: int = 8) -> Job:
    return replace(plain, seq=seq, owner=owner, priority=priority, request={"fields": {**SMALL, "fps": fps}})


def order(queued: list[Job], running: list[Job] = [], last: object = None) -> list[int]:  # noqa: B006
    passed: set[int] = set()
    left, numbers = list(queued), []
    while (chosen := choose(left, running, last, passed)) is not None:
        numbers.append(chosen.seq)
        left.remove(chosen)
    return numbers


def test_priority_then_the_key_with_fewest_running_then_arrival(plain: Job) -> None:
    queued = [job(plain, 1, "a"), job(plain, 2, "b"), job(plain, 3, "a", priority=1), job(plain, 4, "b", priority=-1)]
    assert order(queued) == [3, 1, 2, 4]
    assert order(queued, running=[job(plain, 9, "a")]) == [3, 2, 1, 4]
    assert order([]) == []


def test_a_job_of_the_same_shape_goes_first_and_nobody_is_passed_over_twice(plain: Job) -> None:
    queued = [job(plain, 1, fps=30), job(plain, 2), job(plain, 3), job(plain, 4)]
    assert order(queued, last=shape(queued[1])) == [2, 1, 3, 4]
    far = [*(job(plain, seq, fps=30) for seq in range(1, 5)), job(plain, 5)]
    assert order(far, last=shape(far[4])) == [1, 5, 2, 3, 4], "it looks at four"
    two = [job(plain, 1, fps=30), job(plain, 2), job(plain, 3)]
    assert order(two, last=shape(two[1])) == [2, 1, 3], "the first lets one go before it, and no second one"


def test_a_job_that_was_passed_over_and_waits_no_more_is_forgotten(plain: Job) -> None:
    passed: set[int] = set()
    queued = [job(plain, 1, fps=30), job(plain, 2), job(plain, 3)]
    assert choose(queued, [], shape(queued[1]), passed) == queued[1] and passed == {1}
    assert choose(queued[2:], [], None, passed) == queued[2]
    assert passed == set(), "the first was cancelled"


def test_shares_of_time_follow_what_steps_took(plain: Job) -> None:
    request, estimates = plain.request, Estimates()
    assert estimates.remaining_s(request, "cpu") is None
    assert estimates.share(request, "cpu", 2, 9) == 1.0
    _, keyframes, decoding = stages_of(request)
    estimates.learn(request, keyframes, "cpu", 2.0)
    estimates.learn(request, decoding, "cpu", 1.0)
    assert estimates.remaining_s(request, "cpu", 2, 0) == pytest.approx(9.0)
    assert estimates.remaining_s(request, "cpu", 1, 2) == pytest.approx(4.0 + 9.0)
    assert estimates.share(request, "cpu", 1, 4) < 0.5 < estimates.share(request, "cpu", 2, 1)
    for _ in range(50):
        estimates.learn(request, keyframes, "cpu", 4.0)
    assert estimates.remaining_s(request, "cpu", 1, 0) == pytest.approx(4 * 4 + 9, rel=0.01)


def test_progress_of_an_attempt_grows_and_begins_anew_with_the_next() -> None:
    live = Live()
    live.begin("a")
    for share in (10, 40, 30, 100):
        live.step("a", "keyframes", 1, 4, share, None)
    first = live.of("a")
    assert first is not None and first.progress == 99
    live.begin("a")
    again = live.of("a")
    assert again is not None and again.progress == 0 and again.version > first.version
    live.end("a")
    live.step("a", "keyframes", 1, 4, 50, None)  # a late word
    assert live.of("a") is None


def test_a_window_of_a_minute_moves() -> None:
    now = [0.0]
    rate = Rate(2, clock=lambda: now[0])
    rate.take("a")
    now[0] = 30
    rate.take("a")
    rate.take("b")
    with pytest.raises(Refused) as refused:
        rate.take("a")
    assert refused.value.headers["retry-after"] == "30"
    now[0] = 60
    rate.take("a")


def test_slots_are_given_back() -> None:
    slots = Slots("streams", 2, 1)
    slots.take("a")
    with pytest.raises(Refused):
        slots.take("a")
    slots.take("b")
    with pytest.raises(Refused):
        slots.take("c")
    slots.give("a")
    slots.take("c")
    assert slots.taken == 2
