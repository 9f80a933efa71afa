"""bench.pipeline_speed divides round by round, times only who agrees, and says what it cannot measure."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bench.contenders import profile as contender_profile
from bench.contenders.compare import agree, difference, ratios_of, result
from bench.contenders.eager import Eager, networks_of
from bench.contenders.ours import Ours
from bench.contenders.process import ONE_RUN
from bench.contenders.work import DECODED, SMALL, STAGES, STEPS, Contender, Inputs, Scale, inputs_of, runner, scale_of
from bench.harness import profile as speed_profile
from bench.harness.record import BenchError
from bench.harness.run import child
from bench.pipeline_speed import __main__ as pipeline_speed
from bench.pipeline_speed import clips as speed_clips
from bench.pipeline_speed import headline, waiting
from bench.pipeline_speed import memory as speed_memory
from bench.pipeline_speed import stages as speed_stages
from bench.pipeline_speed.memory import memory_of
from bench.pipeline_speed.plot import plot
from bench.pipeline_speed.table import table
from bench.serving.processes import children, usage
from ffrt import Bundle, Context, Generation, open_bundle
from ffrt.backend.openvino import OpenVinoSession
from ffrt.sampling import Array, Denoised

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "graphs" / "demo"


class Fake:
    """A contender whose every stage is the number `value`, and which counts its steps."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.steps = 0

    def _denoise(self) -> Iterator[Denoised]:
        for index in range(STEPS):
            self.steps += 1
            latents = np.full((1, 4, 2, 2), self.value, np.float32)
            yield Denoised(index, STEPS, 0.0, latents, latents)

    def keyframes(self, scale: Scale, inputs: Inputs) -> Any:
        return self._denoise()

    interpolation = keyframes

    def decode(self, latents: Array) -> Iterator[Array]:
        yield np.full((len(latents), 2, 2, 3), self.value, np.float32)

    def encode(self, prompt: str) -> Context:
        context = np.full((1, 2, 3), self.value, np.float32)
        return Context(context, np.ones((1, 2), np.bool_), context[0, 0])

    def video(self, fps: int, prompt: str) -> int:
        return 1


@pytest.fixture
def inputs() -> Inputs:
    context = Fake(1.0).encode("")
    return Inputs(context, np.zeros((3, 4, 2, 2), np.float32), np.zeros((DECODED, 4, 2, 2), np.float32))


def test_ratios_are_of_eager_over_each_in_the_same_round() -> None:
    same, gained = ratios_of({"eager": [2.0, 4.0, 9.0], "plain": [1.0, 4.0, 3.0], "optimised": [1.0, 1.0, 3.0]})
    assert same == {"plain": {"median": 2.0, "iqr": 1.0}, "optimised": {"median": 3.0, "iqr": 1.0}} and gained == {}
    assert ratios_of({"plain": [1.0]}) == ({}, {})


def test_ratios_never_mix_precisions() -> None:
    seconds = {"eager": [8.0], "optimised": [4.0], "eager_bfloat16": [6.0], "openvino": [2.0], "openvino_fast": [1.0]}
    same, gained = ratios_of(seconds)
    assert {name: ratio["median"] for name, ratio in same.items()} == {
        "optimised": 2.0,
        "openvino": 3.0,
        "openvino_fast": 6.0,
    }
    assert {name: round(ratio["median"], 2) for name, ratio in gained.items()} == {
        "eager_bfloat16": 1.33,
        "openvino": 4.0,
        "openvino_fast": 8.0,
    }
    del seconds["eager_bfloat16"]
    assert "openvino" not in ratios_of(seconds)[0], "no PyTorch of its precision to compare with"


def test_a_call_runs_its_row_of_steps_and_never_the_first(inputs: Inputs) -> None:
    fake = Fake(1.0)
    call = runner(fake, "keyframe_step", SMALL, inputs, 4)
    assert fake.steps == 1
    call()
    assert fake.steps == 5
    short = runner(fake, "interpolation_step", SMALL, inputs, STEPS)
    with pytest.raises(BenchError, match="50 steps"):
        short()


@pytest.mark.parametrize("stage", STAGES)
def test_who_computes_something_else_is_not_timed(stage: Any, inputs: Inputs) -> None:
    same: dict[str, Contender] = {"eager": Fake(1.0), "plain": Fake(1.001)}
    largest = dict.fromkeys([*same, "optimised"], 1e-2)
    found = agree(same, stage, SMALL, inputs, largest)
    assert found["eager"] == 0 and found["plain"] == pytest.approx(1e-3, rel=1e-2)
    for wrong in (1.1, float("nan")):
        with pytest.raises(BenchError, match=f"optimised computes something else than eager in {stage}"):
            agree({**same, "optimised": Fake(wrong)}, stage, SMALL, inputs, largest)
    rounded = {"eager": Fake(1.0), "openvino": Fake(1.03)}
    assert agree(rounded, stage, SMALL, inputs, {"eager": 0.0, "openvino": 5e-2})["openvino"] > 1e-2


def test_difference_needs_one_shape() -> None:
    assert difference(np.ones(4), np.full(4, 1.5)) == pytest.approx(0.5)
    with pytest.raises(BenchError, match=r"expected the shape \[4\], got \[1\]"):
        difference(np.ones(4), np.ones(1))


def test_eager_and_the_demo_agree_in_every_stage() -> None:
    bundle = open_bundle(DEMO)
    ours, eager = Ours(bundle, "cpu", 1), Eager(bundle, networks_of("demo", DEMO), 1)
    scale = replace(scale_of(bundle), side=8, known=3, interpolation_guidance=0.25)
    inputs = inputs_of(scale, bundle, ours.encode)
    for stage in STAGES:
        found = agree({"eager": eager, "plain": ours}, stage, scale, inputs, {"eager": 0.0, "plain": 1e-3})
        assert found["plain"] < 1e-3 and np.std(result(eager, stage, scale, inputs)) > 0


def test_runs_of_sessions_are_counted_and_left_as_they_were(tiny: Bundle) -> None:
    run, other, ours = ort.InferenceSession.run, OpenVinoSession.run, Ours(tiny, "cpu", 1)
    scale = scale_of(tiny)
    inputs = inputs_of(scale, tiny, ours.encode)
    call = runner(ours, "keyframe_step", scale, inputs, 3)
    with speed_profile.timed_runs() as spent:
        call()
    assert len(spent) >= 3 and len(spent) % 3 == 0 and all(seconds > 0 for seconds in spent)
    assert ort.InferenceSession.run is run and OpenVinoSession.run is other
    assert speed_profile.host_share(int, 3) == 1.0
    assert 0 < contender_profile.host_overhead(ours, "keyframe_step", scale, inputs, 2, 3) < 1


def event(operator: str, inputs: list[list[int]], output: list[int], us: int, index: int = 0) -> dict[str, Any]:
    shapes = {"input_type_shape": [{"float": shape} for shape in inputs], "output_type_shape": [{"float": output}]}
    return {"name": f"n{index}_kernel_time", "dur": us, "args": {"op_name": operator, "node_index": index, **shapes}}


def test_shares_name_the_largest_operators() -> None:
    events = [event(f"Op{index}", [], [], 10 + index) for index in range(10)]
    found = speed_profile.shares([events[:4], events[4:]])
    assert [row["operator"] for row in found] == [*(f"Op{index}" for index in range(9, 1, -1)), "others"]
    assert sum(row["share"] for row in found) == pytest.approx(1) and found[-1]["share"] == pytest.approx(21 / 145)
    assert speed_profile.shares([]) == []


def test_flops_of_a_step_leave_out_what_a_request_does_once() -> None:
    conv = event("FusedConv", [[1, 3, 8, 8], [5, 3, 3, 3]], [1, 5, 8, 8], 1, index=1)
    once = event("MatMul", [[4, 6], [6, 7]], [4, 7], 1, index=2)
    assert speed_profile.step_flops([[conv, once, conv]], 2) == 2 * 5 * 64 * 27


@pytest.mark.parametrize(
    ("inputs", "flops"),
    [
        ([[2, 6, 32], [2, 5, 32], [2, 5, 32]], 4 * 2 * 6 * 5 * 32),
        ([[2, 4, 6, 8], [2, 4, 5, 8], [2, 4, 5, 8]], 4 * 2 * 4 * 6 * 5 * 8),
        ([[2, 6, 4, 3, 8]], 4 * 2 * 6 * 6 * 32),
    ],
)
def test_flops_of_a_fused_attention(inputs: list[list[int]], flops: int) -> None:
    assert speed_profile.attention_flops(inputs) == flops
    assert speed_profile.event_flops(event("MultiHeadAttention", inputs, inputs[0], 1)["args"]) == flops
    assert speed_profile.event_flops(event("Softmax", inputs, inputs[0], 1)["args"]) == 0


def test_a_watched_stage_tells_its_operators(tiny: Bundle) -> None:
    ours = Ours(tiny, "cpu", 1)
    scale = scale_of(tiny)
    inputs = inputs_of(scale, tiny, ours.encode)
    usual = ort.SessionOptions
    found = contender_profile.operators(tiny, 1, "cpu", "decode_frame", scale, inputs)
    flops = contender_profile.flops(tiny, 1, "decode_frame", scale, inputs)
    assert ort.SessionOptions is usual
    assert [row["operator"] for row in found] == ["ConvTranspose"]
    side = scale.side
    assert flops == 2 * 4 * side * side * 3 * 8 * 8


def test_a_process_that_runs_ffrt_has_no_pytorch_in_it(tiny: Bundle) -> None:
    job = {"contender": "optimised", "bundle": str(tiny.folder), "networks": "demo", "provider": "cpu", "threads": 1}
    job |= {"memory": "low", "fps": 8, "scale": {**vars(scale_of(tiny))}}
    found = child(ONE_RUN + 'result["torch"] = "torch" in sys.modules', job)
    assert found["peak_bytes"] > 1e7 and not found["torch"]


def test_memory_is_asked_of_every_contender(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Mapping[str, Any]] = []
    monkeypatch.setattr(speed_memory, "child", lambda body, job: jobs.append(job) or {"peak_bytes": len(jobs)})
    found = memory_of({"demo plain": tiny, "demo optimised": tiny}, {"demo": scale_of(tiny)}, 1)
    assert set(found["stages"]["demo"]["keyframe_step"]) == {"eager", "plain", "optimised"}
    assert {name: set(row) for name, row in found["videos"].items()} == {
        "eager": {"8 fps"},
        "optimised, fast": {"8 fps", "30 fps"},
        "optimised, low": {"8 fps", "30 fps"},
    }
    assert len({json.dumps(job, sort_keys=True) for job in jobs}) == len(jobs) == 9 + 5
    more = {f"demo {name}": tiny for name in ("plain", "optimised", "openvino")}
    found = memory_of(more, {"demo": scale_of(tiny)}, 1)
    assert "openvino" in found["stages"]["demo"]["decode_frame"] and "openvino, low" in found["videos"]
    assert {job["provider"] for job in jobs if job["contender"] == "openvino"} == {"openvino"}


@pytest.fixture
def tiny_ways(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Every contender is the tiny bundle, none is PyTorch or optimised, and memory is not measured."""

    def contenders(own: Mapping[str, Bundle], kind: str, threads: int, compiled: bool) -> dict[str, Contender]:
        names = ["eager", *(["compiled"] if compiled else []), "eager_bfloat16", *own]
        return {name: Ours(tiny, "cpu", threads) for name in names}

    def optimised(bundle: Bundle, out: Path, provider: str) -> tuple[Bundle, float]:
        return bundle, 1.0

    def clip(body: str, argument: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "seconds": 0.2,
            "generate_s": 9.0,
            "peak_bytes": 5e8,
            "frames": {8: 61, 30: 241}[argument.get("fps", 8)],
        }

    monkeypatch.setattr(pipeline_speed, "contenders_of", contenders)
    monkeypatch.setattr(speed_clips, "child", clip)
    monkeypatch.setattr(speed_stages, "operators", lambda *_: [{"operator": "ConvTranspose", "share": 1.0}])
    monkeypatch.setattr(speed_stages, "flops", lambda *_: 10**6)
    monkeypatch.setattr(pipeline_speed, "optimised_bundle", optimised)
    monkeypatch.setattr(pipeline_speed, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(pipeline_speed, "product_rate", lambda provider, threads: 1e10)
    monkeypatch.setattr(pipeline_speed, "small_bundle", lambda folder, demo: tiny)
    monkeypatch.setattr(speed_memory, "child", lambda body, job: {"peak_bytes": 10_000_000})
    return tiny


def test_a_quick_run_has_every_ratio_and_is_not_whole(
    tiny_ways: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--compile", "--bundle", str(tiny_ways.folder), "--threads", "1", "--folder", str(tmp_path)]
    assert pipeline_speed.main(arguments) == 0
    record = json.loads((tmp_path / "pipeline_speed.json").read_text())
    assert set(record["ratios"]) == {"optimised", "openvino"}
    assert set(record["ratios"]["optimised"]) == {"keyframe_step", "interpolation_step", "end_to_end_fast"}
    assert set(record["ratios_to_float32"]) == {"openvino"}
    assert not record["whole"] and "video" not in record and "memory" not in record
    assert set(record["scales"]) == {"demo"} == set(record["host_overhead"])
    assert all(0 < share < 1 for share in record["host_overhead"]["demo"].values())
    stages = record["scales"]["demo"]["stages"]
    assert set(stages) == set(STAGES) and set(stages["text"]["ratios"]) == {
        "compiled",
        "plain",
        "optimised",
        "openvino",
    }
    for name in ("optimised", "openvino"):
        assert record["ratios"][name]["keyframe_step"] == stages["keyframe_step"]["ratios"][name]["median"]
    assert (tmp_path / "pipeline_speed.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "torch.compile" in said and "projected" in said and str(tiny_ways.folder) not in json.dumps(record)


def test_a_whole_run_measures_everything(tiny_ways: Bundle, ship: Callable[[Bundle], Path]) -> None:
    results = ship(tiny_ways)
    assert pipeline_speed.main(["--threads", "1"]) == 0
    record = json.loads((results / "pipeline_speed.json").read_text())
    assert record["whole"] and set(record["scales"]) == {"small", "demo"} and record["video"]["frames"] == 9
    clips = {"61 frames, wall time", "61 frames, peak memory", "241 frames, peak memory", "import ffrt"}
    beside = "video beside as many busy threads as its own, over alone"
    first = 'first frame of a video at 30 fps with `preset="fast"`, share of the whole time'
    waits = {"process start to first step", first, beside}
    assert {item["name"] for item in record["targets"]} == {*headline.TARGETS, "host_overhead", *clips, *waits}
    reached = [timing["median_s"] for timing in record["start"].values()]
    assert list(record["start"]) == ["python", "import", "bundle", "text", "step"] and reached[0] > 0
    assert reached == sorted(reached)
    for own in record["first_frame"]["presets"].values():
        assert 0 < own["first"]["median_s"] <= own["last"]["median_s"] and 0 < own["share"]["median"] <= 1
    assert list(record["neighbour"]["slower"]) == ["1", "3"] and list(record["neighbour"]["seconds"]) == ["0", "1", "3"]
    assert {(item["scale"], item["contender"]) for item in record["targets"] if "scale" in item} == {
        (scale, contender) for scale in ("small", "demo") for contender in ("optimised", "openvino")
    }
    ratios, own = record["video"]["ratios"], record["ratios"]
    assert own["optimised"]["end_to_end_same_steps"] == ratios["optimised"]["median"]
    assert own["openvino"]["end_to_end_fast"] == ratios["openvino_fast"]["median"]
    rows = record["scales"]["demo"]["stages"]["decode_frame"]["contenders"]
    assert rows["optimised"]["flops"] > 0 and rows["optimised"]["flops_share"] > 0
    said = table(record)
    assert "**optimised graph**" in said and "OpenVINO, bfloat16" in said and "peak memory of a whole video" in said
    assert "- demo, decoding a frame, optimised: ConvTranspose 100 %" in said
    assert "| import ffrt | 0.20 s | at most 0.30 s | yes |" in said
    assert (
        "first frame, s" in said
        and "| the first denoising step is done |" in said
        and "| busy threads beside |" in said
    )
    assert plot(record).shape[1:] == (1300, 3)


def test_other_frames_than_those_of_the_video_are_not_timed(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = Generation.frames
    monkeypatch.setattr(Generation, "frames", lambda self: [frame ^ 1 for frame in frames(self)])
    with pytest.raises(BenchError, match="expected those of the video to the bit"):
        waiting.first_frames_of(str(tiny.folder), 1, 1)


def test_neighbours_are_busy_and_go() -> None:
    with waiting.neighbours(2):
        mine = children(os.getpid())
        time.sleep(0.5)
        took = [found.cpu_s for found in map(usage, mine) if found is not None]
        assert len([seconds for seconds in took if seconds > 0.05]) >= 2
    assert not set(mine) & set(children(os.getpid()))


def test_a_missed_target_is_said(tiny_ways: Bundle, tmp_path: Path) -> None:
    place = tmp_path / "record.json"
    arguments = ["--parts", "stages", "--runs", "1", "--row", "1", "--bundle", str(tiny_ways.folder), "--threads", "1"]
    assert pipeline_speed.main([*arguments, "--json", str(place)]) == 0
    record = json.loads(place.read_text())
    record["ratios"] = {
        "optimised": {"interpolation_step": 1.5, "keyframe_step": 1.9},
        "openvino": {"keyframe_step": 2.5},
    }
    record["host_overhead"] = {"small": {"optimised": 0.01}, "demo": {"openvino": 0.05}}
    record["targets"] = headline.targets(record)
    assert [item["met"] for item in record["targets"]] == [False, True, True, True, False]
    said = table(record)
    assert "ONNX Runtime, both in float32 | 1.50 | at least 2.0 | **no** |" in said
    assert "OpenVINO, both in bfloat16 | 2.50 | at least 1.8 | yes |" in said
    assert "outside its graphs, demo, OpenVINO | 5.0 % | at most 2 % | **no** |" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runs", "0"], "--runs: expected 1 or more, got 0"),
        (["--row", "-1"], "--row: expected 1 or more, got -1"),
        (["--video-runs", "0"], "--video-runs: expected 1 or more"),
        (["--threads", "0"], "--threads: expected 1 or more, got 0"),
        (["--runs", "20"], "at most 49 steps, got 84"),
        (["--bundle", "nowhere"], "nowhere cannot be opened"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipeline_speed.main(["--folder", str(tmp_path / "none"), *arguments]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "none").exists()
