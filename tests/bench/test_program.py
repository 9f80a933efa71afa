"""What all benches share: which runs are whole, where records are kept, and what is refused before it is measured."""

from __future__ import annotations

import json
import math
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bench import cuda_run, device_memory, export_memory, real_footage
from bench.demo_quality import __main__ as demo_quality
from bench.harness import program, record
from bench.harness.program import Program, Result
from bench.harness.record import ROOT, BenchError
from bench.interp_speed import __main__ as interp_speed
from bench.pipeline_speed import __main__ as pipeline_speed
from bench.serving import __main__ as serving
from bench.skip_values import __main__ as skip_values
from bench.step_quality import __main__ as step_quality
from ffrt import Bundle

MODULES = (
    cuda_run,
    demo_quality,
    device_memory,
    export_memory,
    interp_speed,
    pipeline_speed,
    real_footage,
    serving,
    skip_values,
    step_quality,
)


def arguments(line: ArgumentParser) -> None:
    line.add_argument("--count", type=int, default=3)
    line.add_argument("--room", type=Path, default=Path("here"))


def measure(asked: Namespace) -> Iterator[Result]:
    if asked.count < 0:
        raise BenchError("count: expected 0 or more")
    yield Result(
        {"counted": asked.count}, lambda: np.zeros((4, 5, 3), np.uint8), notes=["noted"], status=asked.count % 2
    )


COUNTING = Program(
    "counting",
    "Counts.\n\nAnd more.",
    measure,
    lambda found: f"| {found['counted']} |",
    arguments,
    pictured=True,
    free=lambda asked: frozenset({"room"}),
)


def test_a_whole_run_keeps_its_record_and_picture(
    tiny: Bundle, ship: Callable[[Bundle], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results = ship(tiny)
    assert program.main(COUNTING, ["--threads", "1", "--room", "/elsewhere/there"]) == 1
    assert sorted(path.name for path in results.iterdir()) == ["counting.json", "counting.png"]
    kept = json.loads((results / "counting.json").read_text())
    assert (kept["bench"], kept["whole"], kept["counted"]) == ("counting", True, 3)
    assert kept["command"] == "python -m bench.counting --threads 1 --room there"
    assert kept["environment"]["bundle_digest"] == tiny.digest and kept["wall_s"] >= 0
    said = capsys.readouterr()
    assert said.out == "| 3 |\n" and said.err == "noted\n"


def test_a_partial_run_is_kept_only_where_that_is_asked_for(
    tiny: Bundle, ship: Callable[[Bundle], Path], tmp_path: Path
) -> None:
    results = ship(tiny)
    assert program.main(COUNTING, ["--count", "2"]) == 0 and not results.exists()
    assert program.main(COUNTING, ["--count", "2", "--folder", str(tmp_path / "mine")]) == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"counting.json", "counting.png"}
    kept = json.loads((tmp_path / "mine" / "counting.json").read_text())
    assert not kept["whole"] and kept["command"] == "python -m bench.counting --count 2"


def test_another_bundle_makes_no_record_of_the_shipped_one(
    tiny: Bundle, masked: Bundle, ship: Callable[[Bundle], Path]
) -> None:
    results = ship(tiny)
    assert program.main(COUNTING, ["--bundle", str(masked.folder)]) == 1 and not results.exists()


@pytest.mark.parametrize("made_by", ["0" * 40 + "+", record.UNKNOWN])
def test_a_tree_with_changes_makes_no_record(
    made_by: str,
    tiny: Bundle,
    ship: Callable[[Bundle], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = ship(tiny)
    monkeypatch.setattr(program, "commit", lambda: made_by)
    assert program.main(COUNTING, []) == 2
    assert "must come from a clean commit" in capsys.readouterr().err
    assert program.main(COUNTING, ["--json", str(tmp_path / "mine.json")]) == 1 and not results.exists()


def test_what_cannot_be_measured_is_said_and_leaves_nothing(
    tiny: Bundle, ship: Callable[[Bundle], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results = ship(tiny)
    for words, wrong in (("count: expected", ["--count", "-1"]), ("--threads: expected 1", ["--threads", "0"])):
        assert program.main(COUNTING, wrong) == 2
        assert words in capsys.readouterr().err and not results.exists()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.PROGRAM.name)
def test_only_a_run_at_the_defaults_is_whole(module: object) -> None:
    bench: Program = module.PROGRAM  # type: ignore[attr-defined]

    def whole(*line: str) -> bool:
        return program.is_whole(bench, program.parser(bench).parse_args(line))

    assert whole() and whole("--json", "x.json", "--folder", "there", "--plot", "x.png")
    free, partial = {
        "cuda_run": (["--minutes", "9"], ["--scale", "tiny"]),
        "demo_quality": (["--strict", "--threads", "1"], ["--quick"]),
        "device_memory": (["--ort", "wheel"], ["--scale", "tiny"]),
        "export_memory": (["--keep"], ["--small"]),
        "interp_speed": (["--scale", "small", "--remake"], ["--side", "256"]),
        "pipeline_speed": (["--compile", "--threads", "1"], ["--row", "2"]),
        "real_footage": (["--threads", "1"], ["--frames", "9"]),
        "serving": (["--only", "soak", "--threads", "2"], ["--soak", "10"]),
        "skip_values": (["--threads", "1"], ["--fixed", "3"]),
        "step_quality": (["--threads", "1"], ["--split", "test"]),
    }[bench.name]
    assert whole(*free) and not whole(*partial)


def test_the_full_scale_is_whole_without_what_a_small_machine_cannot_do() -> None:
    asked = ["--scale", "full", "--side", "128", "--quick"]
    assert program.is_whole(interp_speed.PROGRAM, program.parser(interp_speed.PROGRAM).parse_args(asked))


def test_targets_are_met_at_their_limit() -> None:
    assert program.target("a", 2.0, 2.0)["met"] and program.target("a", 2.0, 2.0, least=False)["met"]
    assert not program.target("a", 1.9, 2.0)["met"] and not program.target("a", 2.1, 2.0, least=False)["met"]
    with pytest.raises(BenchError, match="expected a finite number"):
        program.target("a", math.nan, 2.0)


def test_the_environment_names_no_machine() -> None:
    around = record.environment(None, "cpu", None)
    text = json.dumps(around)
    assert str(ROOT) not in text and str(Path.home()) not in text
    assert not platform.node() or platform.node() not in text
    assert {"cpu", "cores", "threads", "provider", "python", "numpy", "ffrt_from", "commit"} <= set(around)


def test_a_record_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    place = tmp_path / "results" / "record.json"
    record.write_json(place, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.write_json(place, {"a": math.nan})
    assert json.loads(place.read_text()) == {"a": 1}
    assert [path.name for path in place.parent.iterdir()] == ["record.json"]
