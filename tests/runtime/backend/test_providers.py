"""Providers: one row each, which bundles each runs, and that a session never runs on another in silence."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime as ort
import pytest

from ffrt import Bundle, Pipeline, ProviderError
from ffrt.backend import onnxruntime
from ffrt.backend.graph import Graph
from ffrt.backend.providers import (
    CPU,
    PROVIDERS,
    available_providers,
    check_options,
    choose_provider,
    compatible_with,
    target_of,
)
from ffrt.backend.runner import Provider, SessionOptions

LATENT = {"latent": np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 2, 2)}


def names_there(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [f"{name}ExecutionProvider" for name in names])


def test_a_new_provider_is_one_row(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sole changes for it: how it is found, configured and opened, which bundles it runs, and what gets it."""
    asked: list[SessionOptions] = []

    def options(options: SessionOptions) -> dict[str, str]:
        asked.append(options)
        return {}

    row = Provider(
        "mine",
        "CPUExecutionProvider",
        install="pip install mine",
        open=onnxruntime.open_session,
        options=options,
        runs=("cpu",),
    )
    monkeypatch.setitem(PROVIDERS, "mine", row)
    assert "mine" in available_providers() and row in compatible_with("cpu")
    pipe = Pipeline(tiny, provider="mine", threads=1)
    frames = pipe("a red circle", fps=2, num_inference_steps=2).frames
    want = Pipeline(tiny, provider="cpu", threads=1)("a red circle", fps=2, num_inference_steps=2).frames
    np.testing.assert_array_equal(frames, want)
    assert pipe.graph("movq_decoder").provider == "mine" and {options.threads for options in asked} == {1}
    monkeypatch.setitem(PROVIDERS, "mine", dataclasses.replace(row, ort_name="MineExecutionProvider"))
    with pytest.raises(ProviderError, match="'mine' is not in this build .*; pip install mine"):
        Graph(tiny, "movq_decoder", provider="mine")


def test_a_bundle_runs_on_the_provider_it_was_optimised_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names_there(monkeypatch, "CUDA", "CPU")
    chosen = [choose_provider("auto", target).name for target in (None, "cuda", "cpu")]
    assert chosen == ["cuda", "cuda", "cpu"]
    assert choose_provider("cuda", "cuda").name == "cuda"
    with pytest.raises(ProviderError, match=r"'cpu'.*optimised for 'cuda'.*python -m graphs optimise .*--provider cpu"):
        choose_provider("cpu", "cuda")
    with pytest.raises(ProviderError, match="optimised for 'cpu'.*--provider cuda --out FOLDER"):
        choose_provider("cuda", "cpu")
    names_there(monkeypatch, "CPU")
    with pytest.raises(ProviderError, match=r"'auto'.*optimised for 'cuda'.*--provider cpu"):
        choose_provider("auto", "cuda")
    with pytest.raises(ProviderError, match="'cuda' is not in this build"):
        choose_provider("cuda", "cuda")
    with pytest.raises(ProviderError, match="'auto'.*optimised for 'a later one' and runs on \\[\\] alone"):
        choose_provider("auto", "a later one")


def test_a_provider_that_bundles_are_not_optimised_for_runs_plain_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names_there(monkeypatch, "NvTensorRTRTX", "CPU")
    assert choose_provider("tensorrt-rtx").name == "tensorrt-rtx"
    with pytest.raises(ProviderError, match="optimised for 'cpu' .*; use the bundle that it was made of"):
        choose_provider("tensorrt-rtx", "cpu")
    targets = {row.name for row in PROVIDERS.values() if row.dtypes}
    assert {target_of(row) for row in PROVIDERS.values()} - {None} == targets


def test_an_unknown_provider_and_one_that_is_not_built_in_are_refused(tiny: Bundle) -> None:
    with pytest.raises(ProviderError, match="expected one of .*'cuda'.*got 'gpu'"):
        Graph(tiny, "movq_decoder", provider="gpu")
    missing = next(name for name in ("tensorrt", "cuda") if name not in available_providers())
    with pytest.raises(ProviderError, match=rf"'{missing}' is not in this build.*has \['?.*cpu.*\]; .*install"):
        Graph(tiny, "movq_decoder", provider=missing)


def test_a_provider_that_does_not_start_is_never_a_silent_cpu_run(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    names_there(monkeypatch, "Tensorrt", "CPU")
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(ProviderError, match=r"'tensorrt' did not start .*\['CPUExecutionProvider'\]"),
    ):
        Graph(tiny, "movq_decoder", provider="tensorrt")


def test_any_execution_provider_is_taken_by_its_own_name(tiny: Bundle) -> None:
    """Azure's is in every build from the package index; it leaves every node to the CPU."""
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has the CPU alone, which has a row")
    azure = Graph(tiny, "movq_decoder", provider="AzureExecutionProvider", threads=1)
    assert azure.provider == "AzureExecutionProvider"
    want = Graph(tiny, "movq_decoder", provider="cpu", threads=1)(LATENT)["image"]
    np.testing.assert_array_equal(azure(LATENT)["image"], want)
    with pytest.raises(ProviderError, match="runs on .* alone; use the bundle that it was made of"):
        choose_provider("AzureExecutionProvider", "cpu")
    assert choose_provider("CPUExecutionProvider") is CPU, "a row is found by both of its names"
    with pytest.raises(ProviderError, match="'MIGraphXExecutionProvider' is not in this build.*has MIGraphXExecution"):
        Graph(tiny, "movq_decoder", provider="MIGraphXExecutionProvider")


@pytest.mark.parametrize("provider", ["cpu", "AzureExecutionProvider"])
def test_options_that_a_provider_does_not_take_are_refused(tiny: Bundle, provider: str) -> None:
    """ONNX Runtime takes any for these two, and does nothing with them."""
    if provider != "cpu" and provider not in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has the CPU alone")
    with pytest.raises(ProviderError, match=r"provider_options: expected some of \[\], got \['device_id'\]"):
        Graph(tiny, "movq_decoder", provider=provider, provider_options={"device_id": 1})


def test_options_are_a_mapping_of_names_to_text_and_numbers() -> None:
    assert check_options("cuda", {"a": True, "b": 2, "c": 0.5, "d": "x"}) == {"a": "1", "b": "2", "c": "0.5", "d": "x"}
    assert check_options("auto", None) == check_options("auto", {}) == {}
    for name, options, words in (
        ("auto", {"device_id": 1}, "expected a provider by its name with them, got 'auto'"),
        ("cuda", {"device_id": [1]}, "expected names with text or numbers, got 'device_id'"),
        ("cuda", {1: "device_id"}, "expected names with text or numbers, got 1"),
        ("cuda", ["device_id"], "expected a mapping of names to values, got list"),
    ):
        with pytest.raises(ProviderError, match=f"provider_options: {words}"):
            check_options(name, options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("there", "target", "want"),
    [(True, "openvino", "openvino"), (True, None, "cpu"), (True, "cpu", "cpu"), (False, "openvino", "cpu")],
)
def test_auto_takes_openvino_for_a_bundle_that_was_optimised_for_it(
    monkeypatch: pytest.MonkeyPatch, there: bool, target: str | None, want: str
) -> None:
    names_there(monkeypatch, "CPU")
    found = "numpy" if there else "no_such_package"
    monkeypatch.setitem(
        PROVIDERS, "openvino", dataclasses.replace(PROVIDERS["openvino"], package=found, plugin="no_such_plugin")
    )
    assert choose_provider("auto", target).name == want
