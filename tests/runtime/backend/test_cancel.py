"""A cancelled request ends in the middle of an operator, and nothing else does."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ffrt import Bundle, Cancelled
from ffrt.backend.cancel import Cancellation
from ffrt.backend.graph import Graph
from ffrt.bundle import find_bundle, open_bundle

Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def unet() -> Graph:
    return Graph(open_bundle(find_bundle(), verify=False), "keyframe_unet", provider="cpu", threads=1)


def feed(side: int, seed: int = 0) -> Feed:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((6, 4, side, side), dtype=np.float32),
        "time": np.full(2, 500, np.float32),
        "context": rng.standard_normal((2, 5, 96), dtype=np.float32),
        "context_mask": np.ones((2, 5), bool),
        "temporal_positions": np.arange(3),
    }


def test_other_errors_stay_what_they_are() -> None:
    cancellation = Cancellation()
    with pytest.raises(KeyError), cancellation.aborts(lambda: None, "it"):
        raise KeyError
    with pytest.raises(Cancelled, match="it was stopped before its end"), cancellation.aborts(lambda: None, "it"):
        cancellation.cancel()
        raise KeyError


def test_a_cancelled_request_stays_cancelled(tiny: Bundle) -> None:
    cancellation = Cancellation()
    cancellation.check("anything")
    assert not cancellation.cancelled
    cancellation.cancel()
    cancellation.cancel()
    assert cancellation.cancelled
    with pytest.raises(Cancelled, match="the next step was not started: the request was cancelled"):
        cancellation.check("the next step")
    with pytest.raises(Cancelled, match="opening graph movq_decoder was not started"):
        Graph(tiny, "movq_decoder", provider="cpu", cancellation=cancellation)
    graph = Graph(tiny, "movq_decoder", provider="cpu", threads=1, cancellation=Cancellation())
    latent = {"latent": np.zeros((1, 4, 2, 2), np.float32)}
    for call in (graph, graph.on_device, lambda feed, cancellation: graph.bind(cancellation)(feed)):
        with pytest.raises(Cancelled, match="graph movq_decoder was not started"):
            call(latent, cancellation)
    assert graph(latent)["image"].shape == (1, 3, 16, 16)


def test_a_call_of_its_own_token_does_not_carry_the_views(tiny: Bundle) -> None:
    graph = Graph(tiny, "movq_decoder", provider="cpu", threads=1)
    first, second = Cancellation(), Cancellation()
    view = graph.bind(first)
    first.cancel()
    latent = {"latent": np.zeros((1, 4, 2, 2), np.float32)}
    with pytest.raises(Cancelled):
        view(latent)
    np.testing.assert_array_equal(view(latent, second)["image"], view.bind(second)(latent)["image"])


def test_a_run_ends_in_the_middle(unet: Graph) -> None:
    cancellation = Cancellation()
    began = time.monotonic()
    unet(feed(32))
    whole = time.monotonic() - began
    threading.Timer(min(0.1, whole / 4), cancellation.cancel).start()
    with pytest.raises(Cancelled, match="graph keyframe_unet was stopped before its end"):
        unet(feed(32), cancellation)


def test_one_request_cancelled_at_random_moments_does_not_touch_another(unet: Graph) -> None:
    wanted = [unet(feed(8, seed))["prediction"] for seed in range(4)]
    moments = random.Random(0)

    def steady(_: int) -> bool:
        own = unet.bind(Cancellation())
        return all((own(feed(8, seed))["prediction"] == wanted[seed]).all() for seed in range(4))

    with ThreadPoolExecutor(1) as pool:
        for trial in range(20):
            other, cancellation = pool.submit(steady, trial), Cancellation()
            timer = threading.Timer(moments.uniform(0, 0.15), cancellation.cancel)
            timer.start()
            with pytest.raises(Cancelled):
                while True:
                    unet(feed(8), cancellation)
            assert other.result(60)
