"""Installed wheels that hide each other or lack libraries, and the commands that mend it.

Wheels such as onnxruntime and onnxruntime-gpu write the same folder: the one that was installed last wins, and the
providers of the other are gone without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from ffrt.backend.runner import Provider

PACKAGES = ("onnxruntime", "openvino")
GPU_WHEEL = "onnxruntime-gpu"
GPU_EXTRAS = ("cuda", "cudnn")
"""Extras of the wheel for NVIDIA GPUs, which bring CUDA's libraries."""
OWN_OPENVINO = "onnxruntime-openvino"
"""A build of ONNX Runtime that brings an OpenVINO of its own."""
_OF_EXTRA = re.compile(r"""([\w.-]+).*;.*\bextra\s*==\s*['"](\w+)['"]""")


@dataclass(frozen=True, order=True)
class Wheel:
    """An installed distribution."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def wheels_of(package: str) -> list[Wheel]:
    """The distributions that have files in a package: one, if all is well."""
    found = (each for each in metadata.distributions() if package in _packages(each))
    return sorted({Wheel(str(each.metadata["Name"]), str(each.version)) for each in found})


def problems() -> list[str]:
    """What is wrong with the wheels of ONNX Runtime and OpenVINO, each with the commands that mend it."""
    return list(_problems())


def advice(provider: Provider) -> str:
    """What to type for a provider that cannot be had: what mends its wheels, or else what installs it."""
    found = [told for package in PACKAGES if (told := _clash(wheels_of(package))) is not None]
    if found or not provider.on_gpu or provider.plugin is not None:
        return "; ".join(found) if found else provider.install
    others = [wheel.name for wheel in wheels_of("onnxruntime") if wheel.name != GPU_WHEEL]
    if others:
        return f"type pip uninstall -y {' '.join(others)}, then {provider.install}"
    missing = _without_cuda()
    return missing[0] if missing else provider.install


def _problems() -> Iterator[str]:
    for package in PACKAGES:
        clash = _clash(wheels_of(package))
        if clash is not None:
            yield clash
    if _installed(OWN_OPENVINO) and _installed("openvino"):
        yield (
            f"{OWN_OPENVINO} brings an OpenVINO of its own, and openvino is installed too: "
            f'type pip uninstall -y {OWN_OPENVINO} openvino, then pip install "ffrt[openvino]"'
        )
    yield from _without_cuda()


def _clash(wheels: list[Wheel]) -> str | None:
    """What mends several wheels with the same files; None for one."""
    if len(wheels) < 2:
        return None
    names = list(dict.fromkeys(wheel.name for wheel in wheels))
    extra = "cuda" if GPU_WHEEL in names else "openvino" if any("openvino" in name for name in names) else "cpu"
    return (
        f"{' and '.join(map(str, wheels))} are both installed and write the same folder, so that one hides the other: "
        f'type pip uninstall -y {" ".join(names)}, then pip install "ffrt[{extra}]"'
    )


def _without_cuda() -> list[str]:
    """What brings CUDA's libraries to the wheel that needs them, if they were not installed with it."""
    if not _installed(GPU_WHEEL):
        return []
    requirements = metadata.requires(GPU_WHEEL)
    wanted = (_OF_EXTRA.match(line) for line in ([] if requirements is None else requirements))
    missing = [one[1] for one in wanted if one and one[2] in GPU_EXTRAS and not _installed(one[1])]
    if not missing:
        return []
    return [
        f"{GPU_WHEEL} finds CUDA in wheels or on the system, and lacks the wheels {', '.join(missing)}: "
        f'type pip install "{GPU_WHEEL}[{",".join(GPU_EXTRAS)}]"'
    ]


def _installed(name: str) -> bool:
    return next(iter(metadata.distributions(name=name)), None) is not None


def _packages(distribution: metadata.Distribution) -> set[str]:
    """The packages of a distribution: those that it names, or else the folders of its files."""
    named = distribution.read_text("top_level.txt")
    if named is not None:
        return set(named.split())
    files = distribution.files
    return set() if files is None else {file.parts[0] for file in files}
