"""A generation: its steps, its cancellation, its checkpoints, and that two of them leave each other alone."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ffrt import (
    Bundle,
    Cancelled,
    Checkpoint,
    FfrtError,
    Generation,
    OutOfMemoryError,
    Pipeline,
    Plan,
    Request,
    RequestError,
    Stage,
    Step,
)
from ffrt.backend.cancel import Cancellation
from ffrt.backend.free_memory import FreeMemory
from ffrt.backend.graph import Graph
from ffrt.memory.room import Room

PROMPT = "a red circle moving right"


@pytest.fixture
def own(tiny: Bundle) -> Iterator[Pipeline]:
    with Pipeline(tiny, provider="cpu", threads=1) as pipe:
        yield pipe


def test_every_step_from_the_text_to_the_last_written_frame(pipe: Pipeline, tmp_path: Path) -> None:
    steps: list[Step] = []
    generation = pipe.generate(PROMPT, fps=30, seed=3)
    video = generation.save(tmp_path / "a.webm", on_step=steps.append)
    denoising = [(Stage.KEYFRAMES, 2), (Stage.INTERPOLATION, 8), (Stage.INTERPOLATION, 30)]
    assert [(s.stage, s.fps) for s in steps] == [
        (Stage.TEXT, None),
        *(name for name in denoising for _ in range(4)),
        *((Stage.DECODING, 30) for _ in range(33)),
    ]
    assert [s.done for s in steps] == list(range(1, 47)) and {s.of for s in steps} == {46} == {
        generation.plan.total_steps
    }
    assert [s.index for s in steps] == [0, *[0, 1, 2, 3] * 3, *range(33)]
    assert [s.total for s in steps] == [1, *[4] * 12, *[33] * 33]
    assert all(a.elapsed_s <= b.elapsed_s for a, b in itertools.pairwise(steps))
    assert steps[0].remaining_s is None and steps[2].remaining_s is not None and steps[-1].remaining_s == 0
    assert [len(s.latents) for s in steps if s.latents is not None] == [3] * 4 + [9] * 4 + [33] * 37
    np.testing.assert_array_equal(steps[12].preview(), video.frames)
    np.testing.assert_array_equal(steps[6].preview(slice(0, 2)), steps[6].preview()[:2])
    with pytest.raises(RequestError, match="preview: expected a step that has latents, got one of stage 'text'"):
        steps[0].preview()
    with pytest.raises(RequestError, match="chooses none of the 3 frames"):
        steps[1].preview(slice(5, 9))


def test_the_video_is_that_of_the_call(pipe: Pipeline) -> None:
    want = pipe(PROMPT, seed=3).frames
    generation = pipe.generate(PROMPT, seed=3)
    next(generation)
    np.testing.assert_array_equal(generation.video.frames, want)
    np.testing.assert_array_equal(generation.video.frames, want)
    assert list(generation) == []

    def steps() -> Iterator[Step]:
        video = yield from pipe.generate(PROMPT, seed=3)
        np.testing.assert_array_equal(video.frames, want)

    assert len(list(steps())) == 9


def test_time_between_steps_is_not_counted(tiny: Bundle, pipe: Pipeline) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    plan = Plan.of(Request(PROMPT, fps=2), tiny)
    elapsed = []
    for step in Generation(plan, pipe.stages, {}, clock=clock):
        elapsed.append(step.elapsed_s)
        now[0] += 1000
    assert elapsed[-1] < 50
    assert step.remaining_s is not None and step.remaining_s > 0


def test_a_plan_needs_no_graph_and_says_everything(own: Pipeline, tiny: Bundle) -> None:
    plan = Plan.of(Request(PROMPT, fps=30, num_inference_steps=2), tiny)
    assert plan.shape == (3, 4, 4, 4) and plan.num_frames == 33 and plan.total_steps == 1 + 3 * 2 + 33
    assert [run.stage for run in plan.stages] == [
        Stage.TEXT,
        Stage.KEYFRAMES,
        Stage.INTERPOLATION,
        Stage.INTERPOLATION,
        Stage.DECODING,
    ]
    assert plan.metadata()["interpolation_num_inference_steps"] == "2"
    with pytest.raises(OutOfMemoryError, match="32x32 at 8 fps"):
        Plan.of(Request(PROMPT), tiny, Room("fast", False, FreeMemory(1000, "this machine")))
    assert own.generate(PROMPT).plan == Plan.of(Request(PROMPT), tiny) and own.open_graphs == ()


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_generation_that_is_cancelled_before_its_first_step_opens_nothing(tiny: Bundle, memory: str) -> None:
    own = Pipeline(tiny, provider="cpu", threads=1, memory=memory)
    generation = own.generate(PROMPT)
    generation.cancel()
    assert generation.cancelled
    with pytest.raises(Cancelled):
        next(generation)
    with pytest.raises(Cancelled):
        generation.video  # noqa: B018
    assert own.open_graphs == ()
    assert own(PROMPT, fps=2).num_frames == 3


def test_a_paused_generation_is_cancelled_and_not_the_next_request(own: Pipeline) -> None:
    paused = own.generate(PROMPT)
    next(paused)
    own.cancel()
    assert own("a blue square", fps=2, num_inference_steps=1).num_frames == 3
    with pytest.raises(Cancelled):
        next(paused)


def test_a_pipeline_ends_all_that_is_under_way_and_nothing_else(own: Pipeline) -> None:
    begun, other, waiting = (own.generate(PROMPT) for _ in range(3))
    next(begun)
    next(other)
    finished = own(PROMPT, fps=2)
    own.cancel()
    for generation in (begun, other):
        with pytest.raises(Cancelled):
            next(generation)
    assert waiting.video.num_frames == 9 and finished.frames.shape[0] == 3


def cancel_at(monkeypatch: pytest.MonkeyPatch, generation: Generation, name: str) -> None:
    """Cancel when the graph `name` is about to run for the second time."""
    run, runs = Graph.__call__, []

    def call(self: Graph, feed: dict, cancellation: object = None) -> dict:
        runs.append(self.name)
        if runs.count(name) == 2:
            generation.cancel()
        return run(self, feed, cancellation)  # type: ignore[arg-type]

    monkeypatch.setattr(Graph, "__call__", call)


def test_decoding_and_writing_are_cancelled_and_leave_no_file(
    own: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = own.generate(PROMPT, fps=30)
    with monkeypatch.context() as patched:
        cancel_at(patched, generation, "movq_decoder")
        with pytest.raises(Cancelled):
            generation.save(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []

    generation = own.generate(PROMPT, fps=2)

    def last(step: Step) -> None:
        if step.stage is Stage.DECODING and step.index == 1:
            generation.cancel()

    with pytest.raises(Cancelled):
        generation.save(tmp_path / "a.mp4", on_step=last)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Cancelled):
        generation.video.frames  # noqa: B018


def test_opening_a_graph_is_cancelled(own: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = own.generate(PROMPT)
    init = Graph.__init__

    def slow(self: Graph, *arguments: object, **named: object) -> None:
        generation.cancel()
        init(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Graph, "__init__", slow)
    with pytest.raises(Cancelled, match="opening graph text_encoder"):
        next(generation)
    assert own.open_graphs == ()


@pytest.mark.parametrize("moment", range(20))
@pytest.mark.parametrize("memory", ["fast", "low"])
def test_one_of_two_generations_is_cancelled_and_the_other_is_unharmed(
    tiny: Bundle, tmp_path: Path, memory: str, moment: int
) -> None:
    own = Pipeline(tiny, provider="cpu", threads=1, memory=memory)
    want = own(PROMPT, seed=1, fps=30).frames
    keeps, ends = own.generate(PROMPT, seed=1, fps=30), own.generate("a blue square", seed=2, fps=30)
    delay = random.Random(moment).random() * 0.2
    errors: list[BaseException | None] = [None, None]

    def run(place: int, generation: Generation) -> None:
        try:
            generation.save(tmp_path / f"{place}.webm")
        except BaseException as error:
            errors[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate((keeps, ends))]
    timer = threading.Timer(delay, ends.cancel)
    for thread in (*threads, timer):
        thread.start()
    for thread in (*threads, timer):
        thread.join()
    assert errors[0] is None and isinstance(errors[1], Cancelled | None)
    np.testing.assert_array_equal(keeps.video.frames, want)
    assert (tmp_path / "1.webm").exists() == (errors[1] is None)
    assert {path.name for path in tmp_path.iterdir()} <= {"0.webm", "1.webm"}


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_many_threads_get_the_serial_results(tiny: Bundle, memory: str) -> None:
    own = Pipeline(tiny, provider="cpu", threads=1, memory=memory)
    want = [own(PROMPT, seed=seed).frames for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: own(PROMPT, seed=seed).frames, range(4)))
    for frames, other in zip(want, found, strict=True):
        np.testing.assert_array_equal(other, frames)


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_forked_child_makes_the_same_video(tiny: Bundle, memory: str) -> None:
    own = Pipeline(tiny, provider="cpu", threads=1, memory=memory)
    want = own(PROMPT, fps=2).frames
    with own.stages.graphs.use("movq_decoder", Cancellation()):  # a lock that is held must not be inherited
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if (own(PROMPT, fps=2).frames == want).all() else 1)
            except BaseException:
                os._exit(2)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(own(PROMPT, fps=2).frames, want)


@pytest.mark.parametrize("place", range(4))
def test_a_checkpoint_resumes_to_the_same_frames(own: Pipeline, tiny: Bundle, tmp_path: Path, place: int) -> None:
    request = Request(PROMPT, fps=30, seed=np.int64(5), negative_prompt="blue")  # type: ignore[arg-type]
    want = own(request).frames
    generation = own.generate(request)
    ends = [run.stage for run in generation.plan.stages][: place + 1]
    for step in generation:
        checkpoint = generation.checkpoint
        if step.index == 0 and checkpoint is not None and step.done > sum((1, 4, 4, 4)[: place + 1]):
            break
    else:
        checkpoint = generation.checkpoint
    assert checkpoint is not None and checkpoint.after is ends[-1]
    checkpoint.save(tmp_path / "c.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]
    again = Pipeline(tiny, provider="cpu", threads=1)
    loaded = Checkpoint.load(tmp_path / "c.npz")
    assert loaded == checkpoint
    resumed = again.generate(loaded.request, resume=loaded)
    steps = list(resumed)
    assert len(steps) == 4 * (3 - place) and all(step.of == 46 for step in steps)
    np.testing.assert_array_equal(resumed.video.frames, want)


def test_a_checkpoint_of_another_request_or_bundle_is_refused(own: Pipeline, masked: Bundle, tmp_path: Path) -> None:
    generation = own.generate(PROMPT, fps=2)
    list(generation)
    checkpoint = generation.checkpoint
    assert checkpoint is not None
    with pytest.raises(RequestError, match=r"resume: expected the request of the checkpoint, got .* \['seed'\]"):
        own.generate(PROMPT, fps=2, seed=1, resume=checkpoint)
    with pytest.raises(RequestError, match="resume: expected the bundle"):
        Pipeline(masked, provider="cpu", threads=1).generate(PROMPT, fps=2, resume=checkpoint)
    with pytest.raises(RequestError, match="checkpoint: .* cannot be made: there is no folder"):
        checkpoint.save(tmp_path / "none" / "c.npz")


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)


def evil_header(members: dict[str, bytes]) -> None:
    text = json.dumps({"format": "ffrt-checkpoint-1", "request": {"prompt": ""}}).encode()
    members["header.npy"] = members["header.npy"][:0] + npy(np.frombuffer(text, np.uint8))


def npy(array: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


DAMAGE: dict[str, Callable[[dict[str, bytes]], None]] = {
    "no header": lambda members: members.pop("header.npy") and None,
    "a pickle": lambda members: members.update({"latents.npy": npy(np.array([{"a": 1}], object))}),
    "float64": lambda members: members.update({"latents.npy": npy(np.zeros((3, 4, 4, 4)))}),
    "cut": lambda members: members.update({"latents.npy": members["latents.npy"][:100]}),
    "claims a terabyte": lambda members: members.update(
        {"latents.npy": members["latents.npy"].replace(b"(3, 4, 4, 4)", b"(9999999, 9)")}
    ),
    "an empty prompt": evil_header,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(own: Pipeline, tmp_path: Path, damage: str) -> None:
    generation = own.generate(PROMPT, fps=2)
    list(generation)
    assert generation.checkpoint is not None
    generation.checkpoint.save(tmp_path / "c.npz")
    rewrite(tmp_path / "c.npz", DAMAGE[damage])
    with pytest.raises(RequestError):
        Checkpoint.load(tmp_path / "c.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(RequestError, match="is no checkpoint of ffrt"):
        Checkpoint.load(tmp_path / "text.npz")


def test_a_closed_pipeline_says_so_and_a_loaded_one_is_open(tiny: Bundle) -> None:
    with Pipeline(tiny, provider="cpu", threads=1) as own:
        own.load()
        assert set(own.open_graphs) == set(tiny.graphs)
    assert own.open_graphs == ()
    with pytest.raises(RequestError, match="expected an open one"):
        own(PROMPT, fps=2)


def test_copies_and_pickles_open_the_bundle_again(own: Pipeline, own_bundle: Bundle) -> None:
    want = own(PROMPT, fps=2)
    for other in (pickle.loads(pickle.dumps(own)), copy.deepcopy(own)):
        np.testing.assert_array_equal(other(PROMPT, fps=2).frames, want.frames)
    for video in (pickle.loads(pickle.dumps(want)), copy.deepcopy(want)):
        np.testing.assert_array_equal(video.frames, want.frames)
        assert (video.fps, dict(video.metadata)) == (want.fps, dict(want.metadata))
    stored = pickle.dumps(Pipeline(own_bundle, provider="cpu", threads=1))
    (own_bundle.folder / "tokenizer.json").unlink()
    with pytest.raises(FfrtError, match=r"tokenizer.json is missing"):
        pickle.loads(stored)
    with pytest.raises(RequestError, match="a Generation cannot be pickled or copied"):
        pickle.dumps(own.generate(PROMPT))
