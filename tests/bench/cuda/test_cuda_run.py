"""`bench.cuda_run` refuses machines without a GPU, keeps every part, resumes, and isolates failing contenders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import cuda_run
from bench.contenders.compare import result
from bench.contenders.eager import Eager
from bench.contenders.full_size import GRAPHS, SHAPES, STAGES, load_network, network, numbers
from bench.contenders.words import stage_plot
from bench.contenders.work import Contender, inputs_of
from bench.cuda import jobs as cuda_jobs
from bench.cuda.jobs import Job, jobs_of, kept, time_left
from bench.cuda.stage import flops_of, no_text, opened_in_turn
from bench.cuda.table import table
from bench.harness import program
from bench.harness.record import write_json
from export.onnx.random import write_random
from ffrt import ProviderError, open_bundle

DEMO = Path(__file__).parents[3] / "graphs" / "demo"
TINY = ["--scale", "tiny", "--provider", "cpu"]


def record_of(stage: str, names: tuple[str, ...]) -> dict[str, Any]:
    seconds = {"median_s": 0.2, "iqr_s": 0.01, "runs": 3}
    row = {"seconds": seconds, "flops": 10**9, "flops_share": 0.1, "device_bytes": None, "difference": 0.0}
    ratios = {name: {"median": 2.5, "iqr": 0.1} for name in names if name != "eager"}
    return {
        "stage": stage,
        "product_flops_per_s": 1e10,
        "contenders": {name: dict(row) for name in names},
        "failed": {},
        "ratios": ratios,
        "host_overhead": 0.01,
    }


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of child processes, none of which runs; a name in it that is "stop" ends the run there."""
    asked: list[str] = []

    def child(body: str, argument: dict[str, Any], show: bool = False) -> dict[str, Any]:
        if body == cuda_jobs.BUILD:
            return {"seconds": 1.0}
        if asked and asked[-1] == "stop":
            raise KeyboardInterrupt
        name = Job(argument["part"], argument["compiled"]).name
        asked.append(name)
        ways = ("eager", "compiled") if argument["compiled"] else ("eager", "plain", "optimised")
        return {"seconds": 2.0, "record": record_of(STAGES[argument["part"]], ways)}

    monkeypatch.setattr(cuda_jobs, "child", child)
    return asked


def test_a_machine_without_a_gpu_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    assert cuda_run.main(["--folder", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "provider 'cuda'" in said and "--scale tiny --provider cpu --folder FOLDER is a dry run" in said
    assert not folder.exists()
    with pytest.raises(ProviderError):
        cuda_run.check(program.parser(cuda_run.PROGRAM).parse_args(["--folder", "x"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "cpu"], "type --scale tiny --provider cpu for a dry run"),
        ([*TINY, "--runs", "0"], "--runs: expected 1 or more, got 0"),
        ([*TINY, "--minutes", "0"], "--minutes: expected more than 0, got 0"),
        ([*TINY, "--minutes", "nan"], "--minutes: expected more than 0, got nan"),
        ([*TINY, "--bundle", "nowhere"], "nowhere cannot be opened"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cuda_run.main(["--folder", str(tmp_path / "none"), *arguments]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_all_contenders_of_all_parts_end_in_one_summary(
    machine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cuda_run.main([*TINY, "--folder", str(tmp_path)]) == 0
    assert machine == [*cuda_run.PARTS, "decode_compiled"]
    record = json.loads((tmp_path / "summary.json").read_text())
    assert not record["missing"] and not record["whole"]  # tiny is no record of the product
    assert record["ratios"] == {STAGES[part]: 2.5 for part in cuda_run.PARTS} and record["host_overhead"] == 0.01
    stages = record["scales"]["tiny"]["stages"]
    assert set(stages["decode_frame"]["contenders"]) == {"eager", "plain", "optimised", "compiled"}
    assert set(stages["keyframe_step"]["contenders"]) == {"eager", "plain", "optimised"}
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG") and stage_plot(record).shape[1:] == (900, 3)
    said = capsys.readouterr()
    assert "torch.compile" in said.out and "s left" in said.err and said.out.count("target 2.0: met") == 3
    assert table(record) in said.out


def test_a_stopped_run_goes_on_where_it_was(
    machine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*TINY, "--no-compile", "--folder", str(tmp_path)]
    written = write_json

    def write_and_stop(path: Path, record: Any) -> None:
        written(path, record)
        if path.stem == "keyframes":
            machine.append("stop")

    monkeypatch.setattr(cuda_jobs, "write_json", write_and_stop)
    assert cuda_run.main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert json.loads((tmp_path / "summary.json").read_text())["missing"] == ["interpolation", "decode"]
    machine.clear()
    assert cuda_run.main(arguments) == 0 and machine == ["interpolation", "decode"]
    assert cuda_run.main(arguments) == 0 and machine == ["interpolation", "decode"]


def test_compiling_is_left_out_when_time_is_over(
    machine: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cuda_run.main([*TINY, "--minutes", "0.01", "--folder", str(tmp_path)]) == 1
    assert machine == list(cuda_run.PARTS)
    assert "decode_compiled left out" in capsys.readouterr().err


def test_what_counts_as_kept(tmp_path: Path) -> None:
    job, place = Job("decode", False), tmp_path / "decode.json"
    assert not kept(tmp_path, job, "tiny", "cpu")
    place.write_text("{")
    assert not kept(tmp_path, job, "tiny", "cpu")
    good = {"scale": "tiny", "provider": "cpu", "failed": {}}
    for change, want in (({}, True), ({"scale": "full"}, False), ({"failed": {"plain": "no memory"}}, False)):
        write_json(place, {**good, **change})
        assert kept(tmp_path, job, "tiny", "cpu") is want


def test_time_left_follows_what_jobs_took() -> None:
    usual = cuda_jobs.EXPECTED_S
    assert time_left(["build"], []) == usual["build"]
    assert time_left(["compiled", "measure"], [("measure", usual["measure"] / 2)]) == pytest.approx(
        (usual["compiled"] + usual["measure"]) / 2
    )
    names = [job.name for job in jobs_of(["decode", "keyframes"], cuda_run.COMPILED["full"])]
    assert names == ["decode", "keyframes", "decode_compiled", "keyframes_compiled"]


def test_a_contender_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    bundle, shapes = open_bundle(DEMO), SHAPES["tiny"]
    scale = shapes.work("tiny")
    inputs = inputs_of(scale, bundle, no_text)
    write_random(network("decode", shapes), tmp_path / "w.safetensors", numbers(0, "cpu"))
    module = load_network("decode", shapes, tmp_path / "w.safetensors", "cpu", half=False)

    def opened(name: str) -> Contender:
        if name == "plain":
            raise RuntimeError("CUDA out of memory")
        return Eager(bundle, {GRAPHS["decode"]: module}, 1)

    found = opened_in_turn(("eager", "plain", "optimised"), opened, "decode_frame", scale, inputs)
    assert set(found["ran"]) == {"eager", "optimised"} and found["ran"]["optimised"]["difference"] == 0
    assert found["failed"] == {"plain": "RuntimeError: CUDA out of memory"}


@pytest.mark.parametrize("part", cuda_run.PARTS)
def test_flops_are_counted_without_weights(part: Any, tmp_path: Path) -> None:
    bundle, shapes = open_bundle(DEMO), SHAPES["tiny"]
    scale = shapes.work("tiny")
    inputs = inputs_of(scale, bundle, no_text)
    weights = tmp_path / "random.safetensors"
    write_random(network(part, shapes), weights, numbers(0, "cpu"))
    eager = Eager(bundle, {GRAPHS[part]: load_network(part, shapes, weights, "cpu", half=False)}, 1)
    with FlopCounterMode(display=False) as counter:
        computed = result(eager, STAGES[part], scale, inputs)
    frames = 4 if part == "decode" else 1
    assert np.isfinite(computed).all() and np.std(computed) > 0
    assert flops_of(part, bundle, scale, inputs) == counter.get_total_flops() // frames > 0


def test_random_weights_keep_the_deviation_of_their_fan_in(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = torch.nn.Linear(400, 300)
    write_random(module, tmp_path / "w.safetensors", numbers(3, "cpu"))
    from safetensors.torch import load_file

    found = load_file(tmp_path / "w.safetensors")
    assert found["weight"].dtype == torch.float16
    assert float(found["weight"].float().std()) == pytest.approx(400**-0.5, rel=0.02)
    assert 0.05 <= float(found["bias"].min()) <= float(found["bias"].max()) <= 0.1501


def test_full_is_the_released_size() -> None:
    counted = {part: sum(p.numel() for p in network(part, SHAPES["full"]).parameters()) for part in GRAPHS}
    assert counted["keyframes"] == pytest.approx(4.14e9, rel=2e-3)
    assert counted["interpolation"] == pytest.approx(3.87e9, rel=2e-3)
    assert counted["decode"] == pytest.approx(161e6, rel=1e-2)
    assert counted["text"] == pytest.approx(8.7e9, rel=1e-2), "the encoder of Flan-UL2, with its embedding"
