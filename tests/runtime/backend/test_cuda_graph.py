"""What a GPU would record: arrays that stay where they are, and the same numbers as without. Here the CPU plays it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ffrt import Bundle, Cancelled, Pipeline, ProviderError
from ffrt.backend import onnxruntime
from ffrt.backend.arrays import DeviceArray, Feed
from ffrt.backend.cancel import Cancellation
from ffrt.backend.cuda_graph import CudaGraphSession
from ffrt.backend.providers import PROVIDERS
from ffrt.backend.runner import Provider
from ffrt.backend.session import Session

NAME = "keyframe_unet"


class Watched(Session):
    """A session that tells from where to where its runs went, None for arrays of its own; `fails` ends the next one."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.path(f"{NAME}.onnx"), NAME, provider="cpu", threads=1, cuda_graph=True)
        self.went: list[tuple[dict[str, int], list[int] | None]] = []
        self.fails = False

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> dict[str, DeviceArray]:
        if self.fails:
            self.fails = False
            raise Cancelled("ended")
        given = {name: address(value) for name, value in feed.items() if isinstance(value, DeviceArray)}
        into = [address(value) for value in outputs.values()] if isinstance(outputs, Mapping) else None
        self.went.append((given, into))
        return super().run_on_device(feed, outputs, cancellation)


def address(value: DeviceArray) -> int:
    return value.ort_value.data_ptr()


@pytest.fixture
def watched(tiny: Bundle) -> Watched:
    return Watched(tiny)


@pytest.fixture
def plain(tiny: Bundle) -> Session:
    return Session(tiny.path(f"{NAME}.onnx"), NAME, provider="cpu", threads=1)


def feeds(tokens: int = 5, count: int = 4) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(tokens)
    for step in range(count):
        yield {
            "x": rng.standard_normal((6, 4, 4, 4), dtype=np.float32),
            "time": np.full(2, 900 - step, np.float32),
            "context": rng.standard_normal((2, tokens, 4), dtype=np.float32),
            "context_mask": rng.random((2, tokens)) < 0.5,
            "temporal_positions": np.arange(3) + step,
        }


def test_all_runs_but_the_first_of_a_shape_use_the_same_arrays(watched: Watched, plain: Session) -> None:
    recorded = CudaGraphSession(NAME, watched)
    for tokens in (5, 3):
        watched.went.clear()
        for feed in feeds(tokens):
            np.testing.assert_array_equal(recorded.run(feed)["prediction"], plain.run(feed)["prediction"])
        first, *later = watched.went
        assert first == ({}, None), "the arrays of the caller, nothing to record"
        assert set(later[0][0]) == {tensor.name for tensor in recorded.inputs} and later[0][1] is not None
        assert all(one == later[0] for one in later)


def test_what_is_fed_and_what_is_given_are_copies(watched: Watched) -> None:
    recorded = CudaGraphSession(NAME, watched)
    one, other, *_ = feeds()
    kept = {name: array.copy() for name, array in one.items()}
    first = recorded.run(one)["prediction"]
    again = first.copy()
    recorded.run(other)
    recorded.run(one)
    np.testing.assert_array_equal(first, again)
    assert all((one[name] == kept[name]).all() for name in one)


def test_a_device_array_is_written_once(watched: Watched, plain: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    update = DeviceArray.update
    monkeypatch.setattr(DeviceArray, "update", lambda self, array: (written.append(array.shape), update(self, array)))
    recorded = CudaGraphSession(NAME, watched)
    one, other, *_ = feeds()
    text = recorded.device_array(one["context"])
    for feed in (one, other, one):
        given: Feed = {**feed, "context": text}
        want = plain.run({**feed, "context": one["context"]})["prediction"]
        got = recorded.run_on_device(given, ["prediction"])["prediction"].numpy()
        np.testing.assert_array_equal(got, want)
    assert len(written) == 2 * 4 and text.shape not in written


def test_a_run_that_was_ended_leaves_nothing_behind(watched: Watched, plain: Session) -> None:
    """It may have written what it was fed: what came before it is written again."""
    recorded = CudaGraphSession(NAME, watched)
    one, other, *_ = feeds()
    texts = [recorded.device_array(feed["context"]) for feed in (one, other)]
    for _ in range(2):
        recorded.run({**one, "context": texts[0]})
    watched.fails = True
    with pytest.raises(Cancelled):
        recorded.run({**one, "context": texts[1]})
    want = plain.run(one)["prediction"]
    np.testing.assert_array_equal(recorded.run({**one, "context": texts[0]})["prediction"], want)


class OnGpu(Provider):
    """A provider that is taken for a GPU."""

    on_gpu = True


@pytest.mark.parametrize("fps", [2, 30])
def test_videos_are_the_same(tiny: Bundle, fps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Denoising feeds a prediction to the next graph before the next run overwrites it."""
    row = OnGpu("pretended", "CPUExecutionProvider", install="", open=onnxruntime.open_session)
    monkeypatch.setitem(PROVIDERS, "pretended", row)
    videos = []
    for cuda_graph in (False, True):
        pipe = Pipeline(tiny, provider="pretended", threads=1, cuda_graph=cuda_graph)
        videos.append(pipe("a red circle", fps=fps, num_inference_steps=3).frames)
        assert isinstance(pipe.graph("keyframe_unet").session, CudaGraphSession) == cuda_graph
        assert not isinstance(pipe.graph("movq_decoder").session, CudaGraphSession)
    np.testing.assert_array_equal(*videos)


def test_a_recording_belongs_to_the_thread_that_began_it(watched: Watched, plain: Session) -> None:
    """Another's run would overwrite what the first has not read yet; when that thread is gone, the next one has it."""
    one, other, *_ = feeds()
    wanted = [plain.run(feed)["prediction"] for feed in (one, other)]

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        mine = first.submit(lambda: CudaGraphSession(NAME, watched)).result()
        for _ in range(2):
            kept = first.submit(mine.run_on_device, one, ["prediction"]).result()["prediction"]
            watched.went.clear()
            theirs = second.submit(mine.run_on_device, other, ["prediction"]).result()["prediction"]
            assert watched.went == [({}, None)], "an ordinary run"
            np.testing.assert_array_equal(kept.numpy(), wanted[0])
            np.testing.assert_array_equal(theirs.numpy(), wanted[1])
    watched.went.clear()
    np.testing.assert_array_equal(mine.run(other)["prediction"], wanted[1])
    assert watched.went[0][1] is not None, "recorded"


def test_a_processor_records_nothing(tiny: Bundle) -> None:
    with pytest.raises(ProviderError, match=r"cuda_graph: expected a provider of \['cuda', .*got 'cpu'; leave"):
        Pipeline(tiny, provider="cpu", cuda_graph=True)
