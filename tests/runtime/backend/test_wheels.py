"""Wheels that hide each other or lack libraries are named with the commands that mend it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ffrt import ProviderError
from ffrt.backend import providers, wheels
from ffrt.backend.providers import CUDA, OPENVINO, WEBGPU, choose_provider
from ffrt.backend.wheels import advice, problems, wheels_of

CUDA_PARTS = ('nvidia-cuda-runtime~=13.0; extra == "cuda"', "nvidia-cudnn-cu13~=9.0 ; extra == 'cudnn'", "numpy>=2")
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a wheel without its files on the path, which has no others of ONNX Runtime and OpenVINO."""
    found = wheels.metadata.distributions
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(wheels.metadata, "distributions", lambda **named: found(path=[str(tmp_path)], **named))

    def write(name: str, version: str, package: str | None, needs: Sequence[str] = (), record: str = "") -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{needed}")
        if package is not None:
            (folder / "top_level.txt").write_text(f"{package}\n")
        (folder / "RECORD").write_text(record)

    return write


def test_one_wheel_of_each_is_no_problem(install: Install) -> None:
    install("onnxruntime", "1.32.0", "onnxruntime")
    install("openvino", "2026.4.1", "openvino")
    install("onnxruntime-ep-webgpu", "0.4.0", "onnxruntime_ep_webgpu")
    assert problems() == []
    assert advice(WEBGPU) == WEBGPU.install, "a plug-in goes with any build"
    assert advice(CUDA) == f"type pip uninstall -y onnxruntime, then {CUDA.install}"


def test_two_builds_of_onnx_runtime_hide_each_other(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("onnxruntime", "1.32.0", "onnxruntime")
    install("onnxruntime-gpu", "1.31.1", None, record="onnxruntime/__init__.py,,\n")
    wanted = (
        "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed and write the same folder, so that one hides "
        'the other: type pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "ffrt[cuda]"'
    )
    assert problems() == [wanted]
    monkeypatch.setattr(providers, "is_available", lambda row: row is not CUDA)
    with pytest.raises(ProviderError, match="provider 'cuda' is not in this build") as caught:
        choose_provider("cuda")
    assert str(caught.value).endswith(wanted)


def test_two_versions_of_one_wheel_are_found(install: Install) -> None:
    install("openvino", "2025.1.0", "openvino")
    install("openvino", "2026.4.1", "openvino")
    assert [str(wheel) for wheel in wheels_of("openvino")] == ["openvino 2025.1.0", "openvino 2026.4.1"]
    (told,) = problems()
    assert told.endswith('type pip uninstall -y openvino, then pip install "ffrt[openvino]"')
    assert advice(OPENVINO) == told


def test_a_build_with_an_openvino_of_its_own_is_named(install: Install) -> None:
    install("onnxruntime-openvino", "1.24.1", "onnxruntime")
    assert problems() == []
    install("openvino", "2026.4.1", "openvino")
    (told,) = problems()
    assert 'type pip uninstall -y onnxruntime-openvino openvino, then pip install "ffrt[openvino]"' in told


def test_a_wheel_for_gpus_without_cuda_is_named(install: Install) -> None:
    install("onnxruntime-gpu", "1.31.1", "onnxruntime", CUDA_PARTS)
    install("nvidia-cuda-runtime", "13.0", "nvidia")
    (told,) = problems()
    assert "lacks the wheels nvidia-cudnn-cu13: type pip install" in told and told in advice(CUDA)
    install("nvidia-cudnn-cu13", "9.15", "nvidia")
    assert problems() == []
    assert advice(CUDA) == CUDA.install
