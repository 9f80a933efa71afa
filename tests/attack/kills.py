"""Commands that are killed at random moments, and what they leave; for `test_kills`.

`python kills.py COMMAND FOLDER KILLS SEED` prints one JSON object. A child is forked for every kill, so that nothing is
imported twice; half of the kills fall into the last fifth of a run, where old and new are exchanged.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ffrt import open_bundle
from ffrt.media.metadata import read_metadata
from ffrt.output.whole_file import whole_file

BUNDLE = "bundle"
"""In the folder: a bundle that commands read. `old` is one that they replace, named so; the rest is told below."""


@dataclass(frozen=True)
class Command:
    """What is run, what it leaves at `out`, how that is told, and how the one before is made."""

    run: Callable[[Path], int]
    out: str
    state: Callable[[Path], str]
    prepare: Callable[[Path], None]


def bundle_state(out: Path) -> str:
    """The name of the whole bundle there; every digest is taken."""
    return open_bundle(out).name


def video_state(out: Path) -> str:
    """The prompt of the whole video there, or of all nine frames of a series."""
    files = sorted(out.iterdir()) if out.is_dir() else [out]
    prompts = {read_metadata(file)["prompt"] for file in files}
    assert len(prompts) == 1 and len(files) in (1, 9), (prompts, files)
    return prompts.pop()


def export(folder: Path) -> int:
    """`python -m export`, with graphs that were traced before: that takes minutes and writes nothing."""
    import onnx

    from export.onnx import demo
    from tests.export.test_export import SMALL

    demo.trace = lambda traced: onnx.load(folder / "traced" / f"{traced.name}.onnx", load_external_data=False)
    demo.point_to = lambda model, weights: model
    demo.write_bundle(SMALL, folder / "traced", folder / "work" / "out", lambda line: None)
    return 0


def optimise(folder: Path) -> int:
    from graphs.__main__ import main

    return main(["optimise", str(folder / BUNDLE), "--out", str(folder / "work" / "out"), "--provider", "cpu"])


def generate(prompt: str, name: str) -> Callable[[Path], int]:
    def run(folder: Path) -> int:
        from ffrt.cli.main import main

        words = ["--bundle", str(folder / BUNDLE), "--threads=1", "--quiet", "-o", str(folder / "work" / name)]
        return main(["generate", prompt, *words])

    return run


def old_bundle(folder: Path) -> None:
    shutil.copytree(folder / "old", folder / "work" / "out")


COMMANDS: Mapping[str, Command] = {
    "export": Command(export, "out", bundle_state, old_bundle),
    "optimise": Command(optimise, "out", bundle_state, lambda folder: None),
    "mp4": Command(
        generate("new", "a.mp4"), "a.mp4", video_state, lambda folder: in_child(generate("old", "a.mp4"), folder)
    ),
    "png": Command(
        generate("new", "a.png"), "a", video_state, lambda folder: in_child(generate("old", "a.png"), folder)
    ),
}


def put(source: Path, place: Path) -> None:
    """`place` becomes a copy of `source`: a file, a folder, or nothing."""
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True)
    if source.exists():
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place)


def start(run: Callable[[Path], object], folder: Path) -> int:
    """A child that does something and says nothing."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        status = 1
        try:
            status = 0 if run(folder) == 0 else 1
        finally:
            os._exit(status)
    return child


def in_child(run: Callable[[Path], object], folder: Path) -> None:
    """Do something to its end in a child: ONNX Runtime must not be used in a process that forks."""
    status = os.waitstatus_to_exitcode(os.waitpid(start(run, folder), 0)[1])
    if status != 0:
        raise RuntimeError(f"the child ended with {status}")


def tidied(folder: Path) -> None:
    """The next run of any output in that folder."""
    with whole_file(folder / "next") as part:
        part.write_text("")
    (folder / "next").unlink()


def campaign(name: str, folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill a command so often; how often each state was left, and what the next run left behind."""
    command, rng = COMMANDS[name], random.Random(seed)
    work = folder / "work"
    work.mkdir()
    out, old = work / command.out, folder / "before"
    command.prepare(folder)
    put(out, old)
    before, states, broken = command.state(out) if out.exists() else "none", dict[str, int](), list[str]()
    began = time.monotonic()
    in_child(command.run, folder)
    whole_s = time.monotonic() - began
    after = command.state(out)
    killed = dirty = leftovers = 0
    while killed < kills:
        put(old, out)
        child = start(command.run, folder)
        time.sleep(whole_s * (rng.uniform(0, 1) if killed % 2 else rng.uniform(0.8, 1.02)))
        os.kill(child, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        killed += ended == -signal.SIGKILL
        dirty += any(path.name.startswith(".ffrt-") for path in work.iterdir())
        try:
            state = command.state(out) if out.exists() else "none"
        except Exception as error:  # anything but old or new
            state = f"{type(error).__name__}: {error}"
        states[state] = states.get(state, 0) + 1
        if state not in (before, after):
            broken.append(state)
        tidied(work)
        leftovers += len(list(work.iterdir())) - out.exists()
    return {
        "command": name,
        "killed": killed,
        "seconds of a whole run": round(whole_s, 2),
        "states": states,
        "broken": broken,
        "left something": dirty,
        "leftovers after the next run": leftovers,
    }


if __name__ == "__main__":
    print(json.dumps(campaign(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
