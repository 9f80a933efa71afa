"""`provider="openvino"` through OpenVINO's own package: the numbers of the CPU provider, a shape at a time, and ended
when that is asked for."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphs.optimise as driver
from export.__main__ import main as export_main
from ffrt import Bundle, Cancelled, Context, Pipeline
from ffrt.backend.openvino import OpenVinoSession, multiplies_bfloat16
from ffrt.backend.parts import Parts
from ffrt.backend.providers import PROVIDERS, available_providers, has_package
from ffrt.backend.session import Session
from ffrt.bundle import find_bundle, open_bundle
from ffrt.errors import GraphInputError, OutOfMemoryError, ProviderError
from graphs.compare import MIN_PSNR_DB
from graphs.metrics import psnr
from graphs.optimise import optimise

pytest.importorskip("openvino")
PROMPT, LONGER = "a red circle moves right", "a small blue square moves slowly to the left on a black background"
REQUEST = {"fps": 8, "num_inference_steps": 3, "height": 64, "width": 64, "seed": 3}


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return open_bundle(find_bundle("demo"), verify=False)


@pytest.fixture(scope="module")
def made(demo: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo optimised for OpenVINO, in float32, so that it can be compared on every processor."""
    return optimise(demo, tmp_path_factory.mktemp("openvino") / "demo", provider="openvino", dtype="float32")


def session_of(bundle: Bundle, **options: Any) -> Session:
    return Session(bundle.path("movq_decoder.onnx"), "movq_decoder", provider="openvino", threads=1, **options)


def latents(count: int, side: int = 4) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 4, side, side)).astype(np.float32)


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    return psnr(one, other)


def test_every_shape_gives_what_the_cpu_gives(demo: Bundle) -> None:
    ours = session_of(demo)
    theirs = Session(demo.path("movq_decoder.onnx"), "movq_decoder", provider="cpu", threads=1)
    assert (ours.provider, ours.device) == ("openvino", "cpu")
    assert [one.name for one in ours.inputs + ours.outputs] == ["latent", "image"]
    assert [one.dtype for one in ours.inputs + ours.outputs] == ["float32", "float32"]
    for count, side in ((1, 4), (3, 4), (1, 8), (1, 4)):
        feed = {"latent": latents(count, side)}
        want = theirs.run(feed)["image"]
        np.testing.assert_allclose(ours.run(feed)["image"], want, atol=1e-4)
        on_device = ours.run_on_device({"latent": ours.device_array(feed["latent"])}, ["image"])["image"]
        np.testing.assert_allclose(on_device.numpy(), want, atol=1e-4)


def test_what_a_run_gave_stays(demo: Bundle) -> None:
    ours = session_of(demo)
    first = ours.run({"latent": latents(1)})["image"]
    kept = first.copy()
    ours.run({"latent": latents(1) * 2})
    np.testing.assert_array_equal(first, kept)


def test_both_64_bit_integers_of_c_are_taken(demo: Bundle) -> None:
    ours = Session(demo.path("text_encoder.onnx"), "text_encoder", provider="openvino", threads=1)
    got = [
        ours.run({"input_ids": np.ones((1, 4), kind), "attention_mask": np.ones((1, 4), kind)})["context"]
        for kind in (np.dtype("q"), np.dtype("l"))
    ]
    np.testing.assert_array_equal(*got)


def test_two_threads_get_their_own(demo: Bundle) -> None:
    ours = session_of(demo)
    feeds = [{"latent": latents(count) * count} for count in (1, 2, 3, 4)]
    want = [ours.run(feed)["image"] for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda feed: ours.run(feed)["image"], feeds * 3))
    for one, other in zip(got, want * 3, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(("memory", "most"), [("fast", 2), ("low", 1)])
def test_few_shapes_stay_compiled(demo: Bundle, memory: str, most: int) -> None:
    ours = session_of(demo, memory=memory)
    for count in (1, 2, 3):
        ours.run({"latent": latents(count)})
    assert isinstance(ours.runner, OpenVinoSession) and ours.runner.compiled == most


def test_plain_graphs_make_the_same_video(demo: Bundle) -> None:
    want, got = (Pipeline(demo, provider=word, threads=2)(PROMPT, **REQUEST).frames for word in ("cpu", "openvino"))
    assert decibels(want, got) > 60


def test_optimised_graphs_make_the_same_video_by_themselves(demo: Bundle, made: Bundle) -> None:
    """ "auto" takes OpenVINO where a bundle is made for it; the step is compiled once for all prompts."""
    plain = Pipeline(demo, provider="cpu", threads=2)
    pipe = Pipeline(made, threads=2)
    for prompt in (PROMPT, LONGER):
        want, got = plain(prompt, **REQUEST).frames, pipe(prompt, **REQUEST).frames
        assert decibels(want, got) > 60
    parts = pipe.graph("keyframe_unet").session
    assert isinstance(parts, Parts) and parts.provider == "openvino"
    assert isinstance(parts.step, Session) and isinstance(parts.step.runner, OpenVinoSession)
    assert parts.step.runner.compiled == 1
    cpu = Pipeline(made, provider="cpu", threads=2)(PROMPT, **REQUEST).frames
    assert decibels(plain(PROMPT, **REQUEST).frames, cpu) > 60


def test_bfloat16_is_compared_or_refused(demo: Bundle, tmp_path: Path) -> None:
    if not multiplies_bfloat16():
        with pytest.raises(ValueError, match="bfloat16 cannot be compared with float32 on this machine"):
            optimise(demo, tmp_path / "made", provider="openvino", dtype="bfloat16")
        return
    rounded = optimise(demo, tmp_path / "made", provider="openvino", dtype="bfloat16")
    assert rounded.optimised is not None and rounded.optimised.dtype == "bfloat16"
    assert rounded.optimised.psnr is not None and MIN_PSNR_DB <= rounded.optimised.psnr < 80, "nothing was rounded"
    one, other = (Pipeline(bundle, threads=2).graph("movq_decoder") for bundle in (rounded, demo))
    got, want = (graph({"latent": latents(1)})["image"] for graph in (one, other))
    assert 1e-4 < np.abs(got - want).max() < 0.5


def test_without_the_package_bfloat16_is_refused_before_any_work(
    demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "multiplies_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r'pip install "ffrt\[openvino\]".*--dtype float32.*--no-verify'):
        optimise(demo, tmp_path / "made", provider="openvino", dtype="bfloat16")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_could_not_be_compared_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "multiplies_bfloat16", lambda: False)
    assert export_main(["demo", "--out", str(tmp_path / "made"), "--optimise", "openvino"]) == 1
    assert "bfloat16 cannot be compared" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("last", [1, 2])
def test_a_run_is_ended_in_the_middle(made: Bundle, last: int) -> None:
    """From another thread, as Ctrl-C does it; the pipeline then gives what it gives."""
    pipe = Pipeline(made, threads=1)
    want = pipe(PROMPT, **REQUEST).frames
    seen = 0
    with pytest.raises(Cancelled):
        for seen, _ in enumerate(pipe.generate(PROMPT, **{**REQUEST, "num_inference_steps": 50}), 1):
            if seen == last:
                threading.Timer(0.02, pipe.cancel).start()
    assert last <= seen < 100
    np.testing.assert_array_equal(pipe(PROMPT, **REQUEST).frames, want)


SIGNALLED = """
import faulthandler, signal, sys
from pathlib import Path
import numpy as np
from ffrt.backend.openvino import OpenVinoSession

faulthandler.enable()
graphs = [OpenVinoSession(Path(sys.argv[1]), "g", {}, dtype="float32", kept=1) for _ in range(3)]
for number in range(3):
    graphs[number].run({"latent": np.zeros((1, 4, 2, 2), np.float32)})
while graphs:
    del graphs[0]
got = []
signal.signal(signal.SIGUSR1, lambda *arguments: got.append(arguments))
signal.raise_signal(signal.SIGUSR1)
print(len(got))
"""


def test_a_signal_after_graphs_are_gone_is_no_crash(demo: Bundle) -> None:
    """Each of OpenVINO's cores gives the thread a stack for signals, and may leave it one that is gone."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(demo.path("movq_decoder.onnx"))],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_bad_input_names_the_graph(demo: Bundle) -> None:
    with pytest.raises(GraphInputError, match=r"graph movq_decoder: OpenVINO failed on inputs .*\[1, 3, 4, 4\]"):
        session_of(demo).run({"latent": np.zeros((1, 3, 4, 4), np.float32)})


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ProviderError, match=r"(?s)provider 'openvino' could not open graph bad: .*ffrt\[openvino\]"):
        Session(tmp_path / "bad.onnx", "bad", provider="openvino")


def test_weights_may_not_leave_the_bundle(demo: Bundle, tmp_path: Path) -> None:
    model = onnx.load(demo.path("movq_decoder.onnx"))
    (tmp_path / "inside").mkdir()
    onnx.save(model, tmp_path / "inside" / "g.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    Session(tmp_path / "inside" / "g.onnx", "g", provider="openvino")
    (tmp_path / "inside" / "w.data").rename(tmp_path / "w.data")
    (tmp_path / "inside" / "w.data").symlink_to(tmp_path / "w.data")
    with pytest.raises(ProviderError, match=r"a link out of their folder.*cp -rL BUNDLE FOLDER"):
        Session(tmp_path / "inside" / "g.onnx", "g", provider="openvino")


def test_too_little_memory_is_told(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(OpenVinoSession, "run", none_left)
    with pytest.raises(OutOfMemoryError, match='memory="low"'):
        session_of(demo).run({"latent": latents(1)})


def test_a_setting_that_openvino_does_not_have_is_refused(demo: Bundle) -> None:
    with pytest.raises(ProviderError, match=r"provider_options: expected some of .*NUM_STREAMS.*, got \['STREAMS'\]"):
        session_of(demo, provider_options={"STREAMS": 1})
    ours = session_of(demo, provider_options={"NUM_STREAMS": 1})
    assert ours.run({"latent": latents(1)})["image"].shape == (1, 3, 32, 32)


def test_the_package_is_found() -> None:
    assert "openvino" in available_providers()
    assert [name for name, row in PROVIDERS.items() if has_package(row)] == ["openvino"]


def test_it_loads_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(multiplies_bfloat16(), bool)


@pytest.mark.slow
def test_releases_run(kv10: Bundle, kv11: Bundle, tmp_path: Path) -> None:
    """Plain and optimised, every stage of them, in float32 against the CPU provider."""
    for plain in (kv10, kv11):
        made = optimise(plain, tmp_path / plain.name, provider="openvino", dtype="float32")
        context = Pipeline(plain, provider="cpu", threads=1).encode(PROMPT)
        for stage in stages_of(plain, context):
            want = stage(Pipeline(plain, provider="cpu", threads=1))
            for bundle in (plain, made):
                got = stage(Pipeline(bundle, provider="openvino", threads=1))
                assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 1e-3


def stages_of(bundle: Bundle, context: Context) -> list[Callable[[Pipeline], np.ndarray]]:
    """What a pipeline makes of a context: frames between, keyframes, and where those follow one a first frame."""
    given = np.random.default_rng(0).standard_normal((4, 4, 4, 4), dtype=np.float32)
    follows = bundle.family.follows_image
    picture = {"image": np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)} if follows else {}
    small = {"seed": 1, "num_inference_steps": 2, "height": 64, "width": 64}
    return [
        lambda pipe: pipe.interpolate(given, context, fps=8, num_inference_steps=2),
        lambda pipe: pipe.keyframes(context, **picture, **small),
        *([lambda pipe: pipe.first_frame(context, **small).astype(np.float32)] if follows else []),
    ]
