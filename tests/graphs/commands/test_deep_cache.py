"""Step caching: shallow graphs compute what the whole ones do, and the runtime runs them in turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from export.models.limits import Limits
from export.onnx.inputs import draw_inputs
from ffrt import Bundle, BundleError, Pipeline, RequestError, bundle
from ffrt.backend.graph import Graph
from ffrt.bundle import open_bundle
from ffrt.bundle.manifest import from_json, to_json
from ffrt.families import DEEP, KANDINSKY_1_0, SHALLOW
from ffrt.stages.step_cache import StepCache
from graphs import deep_cache
from graphs.__main__ import main
from tests.graphs.handmade import DEMO

Feed = Mapping[str, NDArray[Any]]
LIMITS = Limits(cell=4, downscale=8, context_dim=96, vocab_size=1, position_range=180)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo bundle with shallow graphs."""
    folder = tmp_path_factory.mktemp("bundles")
    assert main(["cache", "demo", "--out", str(folder / "cached")]) == 0
    assert [path.name for path in folder.iterdir()] == ["cached"]
    return open_bundle(folder / "cached")


@pytest.fixture(scope="module")
def pipe(cached: Bundle) -> Pipeline:
    return Pipeline(cached, provider="cpu", threads=1)


def feed_of(signature: bundle.Signature, limits: Limits, number: int) -> dict[str, NDArray[Any]]:
    drawn = draw_inputs(signature, limits, number)
    return {spec.name: value.numpy() for spec, value in zip(signature[0], drawn, strict=True)}


@pytest.mark.parametrize("name", SHALLOW)
def test_the_shallow_graph_ends_exactly_as_the_whole_one(cached: Bundle, name: str) -> None:
    whole, shallow = (Graph(cached, graph, provider="cpu", threads=1) for graph in (name, SHALLOW[name]))
    for number in range(2):  # two shapes
        feed = feed_of(KANDINSKY_1_0.contract[name], LIMITS, number)
        outputs = whole(feed)
        assert np.array_equal(shallow({**feed, DEEP: outputs[DEEP]})["prediction"], outputs["prediction"])
        other = shallow({**feed, DEEP: outputs[DEEP] + 1})["prediction"]
        assert np.abs(other - outputs["prediction"]).max() > 1e-4, "the deep features matter"


@pytest.mark.parametrize(("name", "convolutions"), [("keyframe_unet", (236, 71)), ("interpolation_unet", (147, 71))])
def test_the_shallow_graph_is_the_outermost_level_alone(
    cached: Bundle, name: str, convolutions: tuple[int, int]
) -> None:
    whole, shallow = (ir.load(cached.path(cached.graphs[graph].file)) for graph in (name, SHALLOW[name]))
    counts = [Counter(node.op_type for node in model.graph) for model in (whole, shallow)]
    assert (counts[0]["Conv"], counts[1]["Conv"]) == convolutions
    assert counts[1].total() < counts[0].total() / 2
    assert counts[0]["Softmax"] > counts[1]["Softmax"] == 1, "attention lies deeper; one pools the text"
    weights = {
        value.const_value.location
        for value in shallow.graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    assert weights == {f"{name}.safetensors"}, "the weights are those of the whole network"


def test_rewrites_work_on_copies() -> None:
    model = ir.load(DEMO / "interpolation_unet.onnx")
    before = ir.to_proto(model).SerializeToString()
    deep_cache.with_deep(model), deep_cache.shallow(model)
    assert ir.to_proto(model).SerializeToString() == before
    with pytest.raises(BundleError, match="'deep' already"):
        deep_cache.with_deep(deep_cache.with_deep(model))
    assert len(deep_cache.shallow(deep_cache.with_deep(model)).graph.outputs) == 1


def test_no_caching_changes_nothing_and_caching_changes_little(pipe: Pipeline) -> None:
    context = pipe.encode("a red circle moving left on a black background")
    latents = {
        interval: pipe.keyframes(
            context, num_inference_steps=6, sampler="dpm++", height=32, width=32, cache_interval=interval
        )
        for interval in (None, 1, 2, 6)
    }
    wanted = latents[None]
    assert np.array_equal(latents[1], wanted)
    errors = [np.sqrt(np.mean((latents[interval] - wanted) ** 2)) for interval in (2, 6)]
    assert 0 < errors[0] < errors[1] and errors[0] < 0.5 * wanted.std()
    interpolated = [
        pipe.interpolate(wanted[:3], fps=8, num_inference_steps=4, cache_interval=interval) for interval in (None, 2)
    ]
    assert not np.array_equal(*interpolated) and np.abs(interpolated[0] - interpolated[1]).mean() < 0.1 * wanted.std()


def test_caching_is_noted_in_the_metadata(pipe: Pipeline) -> None:
    arguments = {"fps": 2, "height": 32, "width": 32, "num_inference_steps": 2}
    video = pipe("a red circle", cache_interval=2, **arguments)
    assert video.metadata["cache_interval"] == "2"
    assert "cache_interval" not in pipe("a red circle", cache_interval=1, **arguments).metadata


class Counting:
    """A network that records its inputs; its deep features are the value of `x`."""

    def __init__(self) -> None:
        self.fed: list[tuple[float, float, float | None]] = []

    def __call__(self, feed: Feed) -> dict[str, NDArray[Any]]:
        deep = float(feed[DEEP][0]) if DEEP in feed else None
        self.fed.append((float(feed["time"][0]), float(feed["x"][0]), deep))
        return {"prediction": feed["x"], DEEP: feed["x"]}


def test_every_nth_step_runs_whole_and_each_window_keeps_its_features() -> None:
    whole, shallow = Counting(), Counting()
    network = StepCache(whole, shallow, 3)
    for step in range(5):
        for window in range(2):
            x = np.full(1, 10 * step + window, np.float32)
            network({"x": x, "time": np.full(2, 900 - step, np.float32)})
    assert whole.fed == [(900, 0, None), (900, 1, None), (897, 30, None), (897, 31, None)]
    assert [(x, deep) for _, x, deep in shallow.fed] == [(10, 0), (11, 1), (20, 0), (21, 1), (40, 30), (41, 31)]


@pytest.mark.parametrize("value", [0, -1, 1001, True, 2.0, "2"])
def test_an_invalid_interval_is_refused(pipe: Pipeline, value: object) -> None:
    with pytest.raises(RequestError, match="cache_interval: expected"):
        pipe.generate("a red circle", cache_interval=value)  # type: ignore[arg-type]


def test_a_bundle_without_shallow_graphs_names_the_command(tiny: Bundle, masked: Bundle) -> None:
    plain = Pipeline(tiny, provider="cpu", threads=1)
    for fps, missing in ((2, "'keyframe_unet_shallow'"), (8, "'interpolation_unet_shallow'")):
        with pytest.raises(RequestError, match=f"{missing}.*python -m graphs cache"):
            plain.generate("a red circle", fps=fps, cache_interval=2)
    latents = np.zeros((3, 4, 4, 4), np.float32)
    assert plain.interpolate(latents, fps=8, cache_interval=1).shape == (9, 4, 4, 4)
    with pytest.raises(RequestError, match="masked_interpolation_unet.*no shallow"):
        Pipeline(masked, provider="cpu").interpolate(latents, fps=8, method="masked", cache_interval=2)


def test_the_manifest_is_of_a_version_that_older_readers_refuse(cached: Bundle) -> None:
    raw = (cached.folder / "manifest.json").read_bytes()
    value = json.loads(raw)
    assert to_json(from_json(raw)) == raw
    del value["graphs"]["keyframe_unet_shallow"]
    with pytest.raises(BundleError, match="keyframe_unet.outputs"):
        from_json(json.dumps(value).encode())


def test_a_bundle_appears_whole_or_not_at_all(tiny: Bundle, cached: Bundle, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "made"
    assert main(["cache", str(tiny.folder), "--out", str(out)]) == 1
    assert "keyframe_unet: expected a U-Net of two levels" in capsys.readouterr().err
    assert main(["cache", str(cached.folder), "--out", str(out)]) == 1
    assert "already" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    with pytest.raises(BundleError, match="optimise the result"):
        deep_cache.write_cached(replace(tiny, optimised=bundle.Optimised("cpu", (), "float32")), out)
    out.mkdir()
    assert main(["cache", "demo", "--out", str(out)]) == 1
    assert "exists" in capsys.readouterr().err and list(out.iterdir()) == []
