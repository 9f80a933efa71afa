"""A program for `test_fork.py`: pipelines that were used are forked, and the children make the same video."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from ffrt import FfrtError, Pipeline, Video

PROMPT = "a red circle moving right on a black background"


def made(pipe: Pipeline) -> Video:
    return pipe(PROMPT, fps=2, num_inference_steps=1, height=64, width=64)


def digest(pipe: Pipeline) -> str:
    return hashlib.sha256(made(pipe).frames).hexdigest()


def in_child(work: Callable[[], str]) -> str:
    """What `work` gives in a forked child, or its error's name; a child that hangs is killed by its own alarm."""
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            told = work()
        except FfrtError as error:
            told = f"{type(error).__name__}: {error}"
        os.write(here, told.encode())
        os._exit(0)
    os.close(here)
    with open(there, "rb") as end:
        told = end.read().decode()
    _, status = os.waitpid(child, 0)
    return told if status == 0 else f"ended with {status}"


def after_use(pipe: Pipeline) -> list[str]:
    """A pipeline used, then forked: the child's digest, that of a child of the child, and the parent's afterwards."""
    return [in_child(lambda: digest(pipe)), in_child(lambda: in_child(lambda: digest(pipe))), digest(pipe)]


def while_running(pipe: Pipeline, times: int) -> list[str]:
    """Forked while another thread makes videos with the same pipeline."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            made(pipe)

    thread = threading.Thread(target=work)
    thread.start()
    found = [in_child(lambda: digest(pipe)) for _ in range(times)]
    done.set()
    thread.join()
    return found


def send(pipe: Pipeline, end: Connection) -> None:
    try:
        end.send(digest(pipe))
    except FfrtError as error:
        end.send(str(error))


def by_multiprocessing(pipe: Pipeline, method: str) -> str:
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=send, args=(pipe, there))
    process.start()
    told = here.recv() if here.poll(120) else "nothing"
    process.join(60)
    return str(told)


def main() -> None:
    provider, memory = sys.argv[1:3]
    pipe = Pipeline.from_pretrained(provider=provider, threads=2, memory=memory)
    want = digest(pipe)
    for told in after_use(pipe):
        print("after use:", told == want or told)
    for told in while_running(pipe, 6):
        print("while running:", told == want or told)
    for method in ("fork", "forkserver", "spawn"):
        told = by_multiprocessing(pipe, method)
        print(f"{method}:", told == want or told)
    generation = pipe.generate(PROMPT, fps=2, num_inference_steps=2)
    next(generation)
    print("generation:", in_child(lambda: str(next(generation).index)))
    print("closing:", in_child(lambda: str(pipe.close())))


if __name__ == "__main__":
    main()
