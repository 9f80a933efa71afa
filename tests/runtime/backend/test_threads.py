"""One graph in several threads, in a forked child, pickled and copied: what works, and what is an error at once."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ffrt
from ffrt import Bundle, Cancelled
from ffrt.backend.cancel import Cancellation, Turn
from ffrt.backend.graph import Graph
from ffrt.bundle import find_bundle, open_bundle
from graphs.optimise import optimise

WITH_OPENVINO = ["cpu", *(["openvino"] if importlib.util.find_spec("openvino") else [])]


def feed(number: int, tokens: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {
        "x": rng.standard_normal((6, 4, 4, 4), dtype=np.float32),
        "time": np.full(2, 900 - number % 3, np.float32),
        "context": rng.standard_normal((2, tokens, 4), dtype=np.float32),
        "context_mask": rng.random((2, tokens)) < 0.5,
        "temporal_positions": np.arange(3),
    }


@pytest.fixture(scope="module")
def apart(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with its U-Nets in three parts each."""
    return optimise(tiny, tmp_path_factory.mktemp("threads") / "tiny", verify=False)


@pytest.mark.parametrize("provider", WITH_OPENVINO)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "parts"])
def test_threads_get_what_one_after_the_other_gets(tiny: Bundle, apart: Bundle, provider: str, split: bool) -> None:
    graph = Graph(apart if split else tiny, "keyframe_unet", provider=provider, threads=2)
    feeds = [feed(number, 3 + number % 2) for number in range(6)]
    wanted = [graph(one)["prediction"] for one in feeds]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: graph.bind(Cancellation())(one)["prediction"], feeds * 8))
        there = list(pool.map(lambda one: graph.on_device(one)["prediction"].numpy(), feeds * 8))
    for got, on_device, want in zip(found, there, wanted * 8, strict=True):
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(on_device, want)


def test_a_call_that_waits_for_its_turn_can_be_cancelled() -> None:
    turn, cancellation, others = Turn(), Cancellation(), Cancellation()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with turn.taken(others, "the first call"):
            held.set()
            done.wait(60)

    first = threading.Thread(target=hold)
    first.start()
    held.wait(60)
    threading.Timer(0.1, cancellation.cancel).start()
    with pytest.raises(Cancelled, match="the second call was not started"), turn.taken(cancellation, "the second call"):
        raise AssertionError("it was not its turn")
    assert first.is_alive()
    done.set()
    first.join()
    with turn.taken(others, "the third call"):
        pass


FORK = """
import os, sys
import numpy as np
from ffrt.backend.graph import Graph
from ffrt.bundle import find_bundle, open_bundle
from ffrt.errors import ProviderError

provider = sys.argv[1]
bundle = open_bundle(find_bundle(), verify=False)
feed = {"latent": np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)}

def opened():
    return Graph(bundle, "movq_decoder", provider=provider, threads=3)

graph = opened()
want = graph(feed)["image"]
if os.fork() == 0:
    try:
        print((graph(feed)["image"] == want).all())
    except ProviderError as error:
        print(error)
    print((opened()(feed)["image"] == want).all())
    del graph
    sys.exit()  # as a program ends that forks by hand: everything is torn down
_, status = os.wait()
print(status)
"""


@pytest.mark.parametrize("provider", WITH_OPENVINO)
def test_a_forked_child_runs_the_graph_or_says_at_once_that_it_cannot(provider: str) -> None:
    """And it ends: destructors of what it inherited would wait for threads that it does not have."""
    environment = {"PYTHONPATH": str(Path(ffrt.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", FORK, provider], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    inherited, own, status = done.stdout.splitlines()
    if provider == "cpu":
        assert inherited == "True"
    else:
        assert "graph movq_decoder was opened before this process was forked" in inherited
        assert "open the pipeline in the new process" in inherited
    assert (own, status) == ("True", "0")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))])
def test_a_copy_and_an_unpickled_graph_are_opened_anew(tiny: Bundle, again) -> None:
    graph = Graph(tiny, "keyframe_unet", provider="cpu", threads=1)
    cancellation = Cancellation()
    view = graph.bind(cancellation)
    cancellation.cancel()
    other = again(view)
    assert other.session is not graph.session and other.name == graph.name
    np.testing.assert_array_equal(other(feed(1))["prediction"], graph(feed(1))["prediction"])


def test_the_demo_keeps_its_numbers_when_two_graphs_run_at_once() -> None:
    bundle = open_bundle(find_bundle(), verify=False)
    graphs = [Graph(bundle, "movq_decoder", provider="cpu", threads=2) for _ in range(2)]
    latent = {"latent": np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)}
    want = graphs[0](latent)["image"]
    with ThreadPoolExecutor(2) as pool:
        for image in pool.map(lambda graph: graph(latent)["image"], graphs * 4):
            np.testing.assert_array_equal(image, want)
