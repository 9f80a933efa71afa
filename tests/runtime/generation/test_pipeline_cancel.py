"""Requests of a pipeline that are cancelled: in the middle of a step, between two, and by Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import weakref

import numpy as np
import pytest

from ffrt import Bundle, Cancelled, Pipeline, RequestError
from ffrt.backend.cancel import Cancellation
from ffrt.backend.graph import Graph
from ffrt.backend.session import Session
from ffrt.bundle import find_bundle, open_bundle
from ffrt.cli.stopping import cancelled_by_signals

PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def demo() -> Pipeline:
    return Pipeline(open_bundle(find_bundle()), provider="cpu", threads=1)


def test_a_run_stopped_in_the_middle_of_a_step_leaves_a_pipeline_that_works(
    demo: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"seed": 7, "fps": 2, "num_inference_steps": 1, "sampler": "ddim", "height": 64, "width": 64}
    want = demo(PROMPT, **request).frames
    demo.cancel()  # nothing is under way
    run, timer = Graph.on_device, threading.Timer(0.1, demo.cancel)

    def timed(self: Graph, feed: dict, cancellation: Cancellation | None = None) -> dict:
        if self.name == "keyframe_unet":
            timer.start()
        return run(self, feed, cancellation)

    with monkeypatch.context() as patched, pytest.raises(Cancelled, match="graph keyframe_unet was stopped before its"):
        patched.setattr(Graph, "on_device", timed)
        demo("a blue square", seed=1, fps=2, num_inference_steps=1, height=256, width=256)
    np.testing.assert_array_equal(demo(PROMPT, **request).frames, want)


def test_ctrl_c_does_not_wait_for_the_end_of_a_step(demo: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ended = Graph.on_device, []
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))

    def timed(self: Graph, feed: dict, cancellation: Cancellation | None = None) -> dict:
        if self.name == "keyframe_unet":
            timer.start()
        found = run(self, feed, cancellation)
        ended.append(self.name)
        return found

    monkeypatch.setattr(Graph, "on_device", timed)
    with pytest.raises(KeyboardInterrupt), cancelled_by_signals(demo.cancel):
        demo("a blue square", seed=1, fps=2, num_inference_steps=1, height=256, width=256)
    assert ended == []
    assert signal.set_wakeup_fd(-1) == -1


def test_cancel_between_two_steps_ends_the_request_before_the_next(pipe: Pipeline) -> None:
    steps = pipe.generate(PROMPT, seed=3)
    next(steps)
    pipe.cancel()
    with pytest.raises(Cancelled, match="keyframes was not started"):
        next(steps)
    assert pipe(PROMPT, seed=3).frames.shape == (9, 32, 32, 3)
    abandoned = pipe.generate(PROMPT)
    next(abandoned)
    pipe.cancel()
    abandoned.close()
    assert pipe(PROMPT, seed=3).num_frames == 9


def test_a_second_thread_is_told_that_a_step_runs(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on, run = threading.Event(), threading.Event(), Graph.on_device

    def waiting(self: Graph, feed: dict, cancellation: Cancellation | None = None) -> dict:
        inside.set()
        assert go_on.wait(60)
        return run(self, feed, cancellation)

    monkeypatch.setattr(Graph, "on_device", waiting)
    generation = pipe.generate(PROMPT, fps=2, num_inference_steps=2)
    first = threading.Thread(target=lambda: generation.video)
    first.start()
    assert inside.wait(60)
    for call in (lambda: next(generation), lambda: generation.video, generation.close):
        with pytest.raises(RequestError, match="one thread at a time, got a second one while a step runs"):
            call()
    go_on.set()
    first.join()
    assert generation.video.num_frames == 3, "the first one was not disturbed"


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_low_memory_has_one_session_at_a_time(tiny: Bundle, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Session] = weakref.WeakSet()
    most = []
    init = Session.__init__

    def counted(self: Session, *arguments: object, **named: object) -> None:
        init(self, *arguments, **named)
        if self.name != "update":  # a graph without weights, which stays
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(Session, "__init__", counted)
    own = Pipeline(tiny, provider="cpu", threads=1, memory=memory)
    frames = own(PROMPT, fps=30, seed=5).frames
    assert most == ([1, 1, 1, 1] if memory == "low" else [1, 2, 3, 4])
    usual = Pipeline(tiny, provider="cpu", threads=1)(PROMPT, fps=30, seed=5).frames
    assert np.abs(frames.astype(int) - usual).max() <= 1
    if memory == "low":
        steps = own.generate(PROMPT)
        next(steps)
        own.cancel()
        with pytest.raises(Cancelled):
            next(steps)
        assert own.open_graphs == ()
