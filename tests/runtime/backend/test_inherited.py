"""A fork waits while other threads open graphs: a child would keep the locks that ONNX Runtime holds meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import onnxruntime as ort
import pytest

from ffrt import Bundle
from ffrt.backend.inherited import OPENING
from ffrt.backend.session import Session

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


def fork(child_does: Callable[[], None]) -> int:
    """The exit status of a forked child: 0 where `child_does()` raised nothing within a minute."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            child_does()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def forking() -> tuple[threading.Thread, list[int]]:
    """A thread that forks a child, and where it puts the child's status."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(fork(enter)))
    thread.start()
    return thread, found


def enter() -> None:
    with OPENING.closed():
        pass


def test_a_fork_waits_until_a_graph_is_open(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = ort.InferenceSession, []

    def opening(*arguments: Any, **options: Any) -> Any:
        thread, found = forking()
        thread.join(0.5)
        assert (thread.is_alive(), found) == (True, [])
        started.append((thread, found))
        return real(*arguments, **options)

    monkeypatch.setattr(ort, "InferenceSession", opening)
    Session(tiny.path("movq_decoder.onnx"), "movq_decoder", provider="cpu", threads=1)
    [(thread, found)] = started
    thread.join(60)
    assert found == [0]


def test_threads_open_at_the_same_time_and_the_last_lets_the_fork_go() -> None:
    with OPENING.closed():
        other = threading.Thread(target=enter)
        other.start()
        other.join(60)
        assert not other.is_alive()
        thread, found = forking()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(60)
    assert found == [0]


def test_a_thread_may_fork_inside_as_a_signal_handler_does() -> None:
    with OPENING.closed():
        assert fork(enter) == 0
    assert fork(enter) == 0


def test_an_opening_that_fails_lets_forks_go() -> None:
    with pytest.raises(ValueError, match="broken"), OPENING.closed():
        raise ValueError("broken")
    thread, found = forking()
    thread.join(60)
    assert found == [0]
