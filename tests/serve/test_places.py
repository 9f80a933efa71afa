"""A real process as a place, a child or an actor of Ray: resumed stages, cancels at every point, and what ends it."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from ffrt import Bundle, Pipeline, Request, RequestError
from ffrt.serve.engine import executor as told
from ffrt.serve.engine import making
from ffrt.serve.engine.local import LocalExecutor, gpus
from ffrt.serve.engine.pictures import Pictures, webp
from ffrt.serve.engine.settings import EngineSettings
from ffrt.serve.engines import opened_engine
from ffrt.serve.errors import PlaceLost
from ffrt.serve.jobs.data import Data
from ffrt.serve.options import ServeOptions
from tests.serve.processes import children, command, needs_ray, until

PLACE = "place-0"
FIELDS = {"prompt": "a red circle", "seed": 7, "fps": 30, "height": 32, "width": 32}
WITH_RAY = pytest.param("ray", marks=[pytest.mark.slow, needs_ray])


def settings(bundle: Bundle, scratch: Path) -> EngineSettings:
    return EngineSettings(PLACE, bundle.folder, bundle.digest, scratch, provider="cpu", threads=1)


@dataclass(frozen=True)
class Engine:
    """An executor of one place, the process of that place, and the folder that it works in."""

    executor: told.Executor
    workers: Callable[[], list[int]]
    scratch: Callable[[], Path]

    @property
    def worker(self) -> int:
        (pid,) = self.workers()
        return pid


@pytest.fixture(scope="module", params=["local", WITH_RAY])
def engine(request: pytest.FixtureRequest, tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "ray":
        loopback = request.getfixturevalue("loopback")
        with loopback.executor(tiny, count=1) as executor:
            yield Engine(executor, loopback.places, loopback.scratch)
        return
    scratch = tmp_path_factory.mktemp("places") / "scratch"
    local = LocalExecutor([settings(tiny, scratch)])
    own = os.getpid()
    yield Engine(local, lambda: [pid for pid in children(own) if b"spawn_main" in command(pid)], lambda: scratch)
    local.close()


@pytest.fixture
def executor(engine: Engine) -> told.Executor:
    until(lambda: engine.executor.places()[0].ready)
    return engine.executor


# a gif of the same frames is the same file; x264 now and then chooses otherwise for frames this small
def work(number: int = 0, **fields: object) -> told.Work:
    return told.Work(f"video_{number:032x}", {**FIELDS, **fields}, "gif")


def own(pipe: Pipeline, path: Path, **fields: object) -> bytes:
    pipe.generate(Request(**{**FIELDS, **fields})).save(path)  # type: ignore[arg-type]
    return path.read_bytes()


def test_a_job_goes_on_from_the_end_of_every_stage_to_the_same_file(
    executor: told.Executor, pipe: Pipeline, tmp_path: Path
) -> None:
    whole = list(executor.run(PLACE, work(), None))
    assert isinstance(whole[0], told.Started) and isinstance(whole[-1], told.Finished)
    expected = own(pipe, tmp_path / "own.gif")
    assert whole[-1].video == expected
    ends = [event for event in whole if isinstance(event, told.Checkpoint)]
    assert [end.stage for end in ends] == ["text", "keyframes", "interpolation", "interpolation"]
    steps = [event for event in whole if isinstance(event, told.Progress)]
    assert [step.overall_index for step in steps] == list(range(1, steps[-1].overall_total + 1))
    for left, end in zip((41 + 4, 41, 37, 33), ends, strict=True):
        resumed = list(executor.run(PLACE, work(), end.saved))
        assert isinstance(resumed[-1], told.Finished) and resumed[-1].video == expected
        assert sum(isinstance(event, told.Progress) for event in resumed) == left


@pytest.mark.parametrize("saved", [b"", b"no checkpoint"])
def test_a_damaged_checkpoint_is_left_aside(
    executor: told.Executor, pipe: Pipeline, tmp_path: Path, saved: bytes
) -> None:
    *_, last = executor.run(PLACE, work(), saved)
    assert isinstance(last, told.Finished) and last.video == own(pipe, tmp_path / "own.gif")


def test_the_checkpoint_of_another_request_is_left_aside(
    executor: told.Executor, pipe: Pipeline, tmp_path: Path
) -> None:
    ends = [event for event in executor.run(PLACE, work(), None) if isinstance(event, told.Checkpoint)]
    *_, last = executor.run(PLACE, work(seed=8), ends[-1].saved)
    assert isinstance(last, told.Finished) and last.video == own(pipe, tmp_path / "own.gif", seed=8)


def test_a_cancel_at_every_point_ends_its_job_and_not_the_next(executor: told.Executor, engine: Engine) -> None:
    slow = {"num_inference_steps": 100}  # words of a place may be some steps old
    count = len(list(executor.run(PLACE, work(**slow), None)))
    for at in range(0, count - 1, count // 12):
        last: told.Event | None = None
        for number, event in enumerate(executor.run(PLACE, work(at, **slow), None)):
            if number == at:
                executor.cancel(PLACE, f"video_{at:032x}")
            last = event
        assert isinstance(last, told.Stopped | told.Finished), at
        assert isinstance(last, told.Stopped) or at > count // 2, "the file was finished when the word came"
        executor.cancel(PLACE, f"video_{at:032x}")  # too late
        assert list(engine.scratch().iterdir()) == []
    *_, last = executor.run(PLACE, work(count), None)
    assert isinstance(last, told.Finished)


def test_a_cancel_that_names_another_job_does_nothing(executor: told.Executor) -> None:
    events = executor.run(PLACE, work(1), None)
    next(events)
    executor.cancel(PLACE, f"video_{2:032x}")
    *_, last = events
    assert isinstance(last, told.Finished)


def test_a_request_that_cannot_be_is_told_and_the_process_stays(executor: told.Executor, engine: Engine) -> None:
    pid = engine.worker
    *_, last = executor.run(PLACE, work(fps=7), None)
    assert isinstance(last, told.Failed) and (last.code, last.retryable) == ("invalid_value", False)
    assert engine.worker == pid


def test_a_process_that_is_killed_is_replaced(executor: told.Executor, engine: Engine) -> None:
    before = engine.worker
    with pytest.raises(PlaceLost):
        for number, _ in enumerate(executor.run(PLACE, work(), None)):
            if number == 3:
                os.kill(before, signal.SIGKILL)
    until(lambda: executor.places()[0].ready)
    assert engine.worker != before and told.Replaced.ENDED in executor.places()[0].restarts
    *_, last = executor.run(PLACE, work(), None)
    assert isinstance(last, told.Finished)


def test_a_process_that_was_killed_between_two_jobs_has_not_begun_the_next(
    executor: told.Executor, engine: Engine
) -> None:
    os.kill(engine.worker, signal.SIGKILL)
    until(lambda: not executor.places()[0].ready)
    with pytest.raises(PlaceLost) as lost:
        list(executor.run(PLACE, work(), None))
    assert not lost.value.began


def test_a_job_that_nobody_listens_to_any_more_is_not_mixed_with_the_next(executor: told.Executor) -> None:
    events = executor.run(PLACE, work(1), None)
    next(events)
    events.close()  # type: ignore[attr-defined]
    until(lambda: executor.places()[0].ready)
    whole = list(executor.run(PLACE, work(2), None))
    assert sum(isinstance(event, told.Started) for event in whole) == 1 and isinstance(whole[-1], told.Finished)


def test_a_process_that_stands_still_is_ended(
    executor: told.Executor, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffrt.serve.engine.patience.FIRST_PATIENCE_S", 1.0)
    monkeypatch.setattr("ffrt.serve.engine.patience.PATIENCE_S", 1.0)
    with pytest.raises(PlaceLost, match="said nothing"):
        for number, _ in enumerate(executor.run(PLACE, work(), None)):
            if number == 3:
                os.kill(engine.worker, signal.SIGSTOP)
    until(lambda: told.Replaced.SILENT in executor.places()[0].restarts)


def test_an_error_that_nobody_foresaw_replaces_the_process(executor: told.Executor, engine: Engine) -> None:
    before = engine.worker
    shutil.rmtree(engine.scratch())
    *_, last = executor.run(PLACE, work(), None)
    assert isinstance(last, told.Failed) and last.retryable
    assert not executor.places()[0].ready
    until(lambda: executor.places()[0].ready)
    assert engine.worker != before and told.Replaced.ERROR in executor.places()[0].restarts


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_signals_for_the_server_do_not_end_the_process(executor: told.Executor, engine: Engine) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(engine.worker, number)
    *_, last = executor.run(PLACE, work(), None)
    assert isinstance(last, told.Finished)


def test_a_place_that_cannot_start_says_why(own_bundle: Bundle, tmp_path: Path) -> None:
    changed = dataclasses.replace(settings(own_bundle, tmp_path / "scratch"), digest="0" * 64)
    executor = LocalExecutor([changed])
    try:
        until(lambda: executor.places()[0].restarts.get(told.Replaced.BROKEN, 0) > 0)
        place = executor.places()[0]
        assert not place.ready and "expected the bundle 000000000000" in str(place.why)
        with pytest.raises(PlaceLost, match="not ready"):
            list(executor.run(PLACE, work(), None))
    finally:
        executor.close()


@pytest.mark.parametrize("threads", [0, -5, 257])
def test_a_number_of_threads_that_no_place_can_have_is_refused(tiny: Bundle, tmp_path: Path, threads: int) -> None:
    data = Data(tmp_path / "data")
    try:
        with (
            pytest.raises(RequestError, match="threads: expected a whole number from 1 to 256"),
            opened_engine(ServeOptions(threads=threads), tiny, data),
        ):
            pass
    finally:
        data.close()


def test_gpus_are_those_of_the_driver_or_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus(tmp_path) is None
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / name).mkdir(parents=True)
    assert gpus(tmp_path) == ["0", "1"]
    ids = ["GPU-8932f937-d72c-4106", "MIG-0cf9b8b9-2f2e-5c1c", "MIG-GPU-8932f937/1/0"]
    for visible, left in (
        ("1,3", ["1", "3"]),
        (" 1 , 3 ", ["1", "3"]),
        *((id, [id]) for id in ids),
        (",".join(ids), ids),
        ("1,-1,3", ["1"]),
        *((word, []) for word in ("", " ", "-1", "none", "NoDevFiles")),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus(tmp_path) == left, visible


@pytest.mark.parametrize(
    ("visible", "devices", "given"),
    [
        ("GPU-8932f937,MIG-0cf9b8b9", None, ["GPU-8932f937", "MIG-0cf9b8b9"]),
        ("2", None, ["2"]),
        ("", None, [None]),
        ("-1", None, [None]),
        (None, None, ["0"]),
        (None, (1, 3), ["1", "3"]),
    ],
)
def test_a_place_gets_a_gpu_that_was_given_and_no_other(
    tiny: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    devices: tuple[int, ...] | None,
    given: list[str | None],
) -> None:
    from ffrt.serve import engines

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(engines, "choose_provider", lambda *_: SimpleNamespace(on_gpu=True))
    monkeypatch.setattr(engines, "gpus", lambda: gpus(tmp_path))
    data = cast(Data, SimpleNamespace(scratch=tmp_path))
    assert [one.gpu for one in engines.places(ServeOptions(devices=devices), tiny, data)] == given


class Clock:
    """Every look at it takes `look_s` seconds, so that a preview takes as long as a step."""

    def __init__(self, look_s: float) -> None:
        self.now_s, self.look_s = 0.0, look_s

    def monotonic(self) -> float:
        self.now_s += self.look_s
        return self.now_s


def previews(pipe: Pipeline, clock: Clock, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, float]:
    """How many previews a job of 100 steps a stage tells, and how long it took by that clock."""
    monkeypatch.setattr(making, "time", SimpleNamespace(monotonic=clock.monotonic))
    fields = {"prompt": "a red circle", "seed": 7, "fps": 30, "num_inference_steps": 100}
    events: list[told.Event] = []
    making.Making(pipe, told.Work("video_1", fields, "gif"), None, folder).run(events.append)
    return sum(isinstance(event, told.Preview) for event in events), clock.now_s


def test_previews_take_no_more_than_their_share(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, job_s = previews(pipe, Clock(0.4), tmp_path, monkeypatch)
    assert 2 <= count <= 1 + making.PREVIEW_SHARE * job_s / 0.4


def test_a_job_that_is_over_in_a_second_has_none(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, job_s = previews(pipe, Clock(1e-4), tmp_path, monkeypatch)
    assert count == 0 and job_s < 1


def test_a_sheet_is_a_picture_of_every_kept_frame() -> None:
    frames = np.stack([np.full((16, 32, 3), 20 * i, np.uint8) for i in range(10)])
    pictures = Pictures(len(frames))
    assert sum(len(chunk) for chunk in pictures.watched(iter([frames[:4], frames[4:]]))) == 10
    sheet = np.asarray(Image.open(io.BytesIO(pictures.spritesheet())))
    assert pictures.grid == (4, 3) and sheet.shape == (48, 128, 3)
    shown = [int(sheet[16 * (i // 4) + 8, 32 * (i % 4) + 16].mean()) for i in range(10)]
    assert np.allclose(shown, [20 * i for i in range(10)], atol=6)
    assert Image.open(io.BytesIO(webp(frames[5]))).size == (32, 16)
