"""A bundle rewritten for one provider: passes over every graph, each compared with what it was before.

``python -m graphs optimise BUNDLE --provider cpu --out FOLDER``
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ffrt.backend.graph import Graph
from ffrt.backend.openvino import multiplies_bfloat16
from ffrt.bundle import Bundle, GraphSpec, Optimised, Parity, PartSpec, open_bundle
from ffrt.errors import BundleError, FfrtError
from ffrt.families import DEEP, SHALLOW
from graphs.compare import check, measure, random_inputs, relative_rms
from graphs.passes.half import rounded, to_half
from graphs.passes.ir import check_place, open_graph, write_graph, write_like
from graphs.passes.islands import ISLANDS, dtypes
from graphs.passes.split import split
from graphs.passes.table import FIXED_TEXT, INT8_TEXT, ON_REQUEST, PASSES, PROVIDERS, SPLIT, apply, names_of
from graphs.passes.text_length import fixed_text

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
DTYPE_OF: Mapping[str, Dtype] = {"cpu": "float32", "cuda": "float16", "openvino": "bfloat16"}
"""What each provider computes in unless something else is asked for."""
COMPUTED: Mapping[str, tuple[Dtype, ...]] = {"openvino": ("float32", "bfloat16")}
"""What a provider can compute in, where that is not float32 and float16."""
FLOORS: Mapping[str, float] = {"float32": 1e-3, "float16": 5e-2}
"""Largest relative RMS error of a graph against the one it was made of; bfloat16 is chosen when it is run, and its
graphs are compared in float32."""
_WHOLE = ("text_encoder",)
"""Stays in float32: T5's activations leave the range of float16."""
_ONCE = ("skip_frames", "perturbation")
"""The same number for every group when sampling: parts that run once take one."""
_PARTS = ("request", "schedule")


class PassError(FfrtError):
    """A rewritten graph does not compute what it did; no bundle was written."""


def optimise(
    bundle: Bundle,
    out: Path,
    *,
    provider: str = "cpu",
    dtype: Dtype = "float32",
    without: Collection[str] = (),
    also: Collection[str] = (),
    report: Callable[[str], None] = lambda line: None,
    verify: bool = True,
) -> Bundle:
    """Write the bundle ``out``, which appears when every graph of it agrees with the one it was made of.

    ``without`` names passes to leave out, ``also`` some of :data:`graphs.passes.table.ON_REQUEST`. With ``dtype``
    float16 graphs compute in float16 but for named islands; bfloat16 is what OpenVINO multiplies in, where the
    processor can. With both the two bundles' videos are compared (:mod:`graphs.compare`). ``verify`` False skips all
    comparisons.

    Raises BundleError where ``out`` exists or lies in ``bundle``, or that was optimised before, ValueError for an
    unknown provider, pass or dtype, or where bfloat16 cannot be compared here, PassError or FidelityError where the
    results differ.
    """
    names = chosen(provider, dtype, without, also)
    if verify:
        check_comparable(dtype)
    if bundle.optimised is not None:
        raise BundleError(f"{bundle.folder} is optimised for {bundle.optimised.provider!r}; give the one it is made of")
    check_place(out)
    if bundle.folder.resolve() in out.resolve().parents:
        raise BundleError(f"{out} lies in the bundle that it is made of, which holds plain files only; choose another")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside, trial = (out.parent / f".{out.name}.{word}.{os.getpid()}" for word in ("writing", "trial"))
    try:
        told = Optimised(provider, tuple(names), dtype)
        made = _write(bundle, beside, provider, dtype, names, told, report)
        if verify:
            tried = made
            if dtype == "float16" or provider == "cuda":  # what the CPU can run of it
                portable = [name for name in names if name not in {one.name for one in PASSES if not one.portable}]
                emulated = replace(told, provider="cpu")
                tried = _write(bundle, trial, provider, dtype, portable, emulated, lambda line: None, emulate=True)
            rough = {name: dtype == "float16" or (INT8_TEXT in names and name in _WHOLE) for name in made.graphs}
            graphs = {
                name: _compared(bundle, tried, name, spec, FLOORS["float16" if rough[name] else "float32"], report)
                for name, spec in made.graphs.items()
            }
            told = replace(told, psnr=None if dtype == "float32" else _fidelity(bundle, tried, dtype, report))
            made = write_like(bundle, beside, graphs, made.files, told)
        os.replace(beside, out)
    finally:
        for folder in (beside, trial):
            shutil.rmtree(folder, ignore_errors=True)
    return open_bundle(out, verify=False)


def check_comparable(dtype: str) -> None:
    """Raise ValueError where numbers of this dtype cannot be compared with float32 on this machine."""
    if dtype == "bfloat16" and not multiplies_bfloat16():
        raise ValueError(
            "dtype: bfloat16 cannot be compared with float32 here: OpenVINO is not installed (pip install "
            '"ffrt[openvino]"), or this processor does not multiply in it; python -m graphs optimise can do without '
            "both, with --dtype float32 or --no-verify"
        )


def chosen(provider: str, dtype: str, without: Collection[str], also: Collection[str]) -> list[str]:
    """The passes that run. Raises ValueError for a provider, dtype or pass that there is not."""
    if provider not in PROVIDERS:
        raise ValueError(f"provider: expected one of {list(PROVIDERS)}, got {provider!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {list(DTYPES)}, got {dtype!r}")
    if dtype not in (able := COMPUTED.get(provider, ("float32", "float16"))):
        raise ValueError(f"dtype: expected one of {list(able)} for {provider!r}, got {dtype!r}")
    known = names_of(provider)
    for name in without:
        if name not in known:
            raise ValueError(f"pass: expected some of {known}, the passes for {provider!r}, got {name!r}")
    for name in also:
        if name not in ON_REQUEST:
            raise ValueError(f"pass: expected some of {list(ON_REQUEST)}, which run on request, got {name!r}")
    return [*(name for name in known if name not in without), *dict.fromkeys(also)]


def _write(
    bundle: Bundle,
    folder: Path,
    provider: str,
    dtype: Dtype,
    names: Collection[str],
    told: Optimised,
    report: Callable[[str], None],
    emulate: bool = False,
) -> Bundle:
    """All graphs rewritten into ``folder``, all else copied; ``emulate`` rounds to float16 what would compute in it."""
    folder.mkdir()
    written = {spec.file for spec in bundle.graphs.values()}
    stems = {Path(file).stem for file in written}
    for file in bundle.files:
        if Path(file).stem not in stems:
            shutil.copyfile(bundle.path(file), folder / file)
    graphs = {}
    for name, spec in bundle.graphs.items():
        began = time.perf_counter()
        model = open_graph(bundle.path(spec.file))
        before = len(model.graph)
        model = apply(model, name, provider, list(names))
        parts = split(model) if SPLIT in names else [model]
        if FIXED_TEXT in names:
            parts = fixed_text(parts, bundle.text.max_tokens)
        half = dtype == "float16" and name not in _WHOLE
        if half:
            parts = _halved(parts)
        if half and emulate:
            parts = [rounded(part) for part in parts]
        exact = INT8_TEXT in names and name in _WHOLE  # its scales are float32
        graphs[name] = _written(folder, name, spec, parts, dtype == "float16" and not exact)
        after = " + ".join(str(len(part.graph)) for part in parts)
        report(f"{name}: {before} -> {after} nodes, {time.perf_counter() - began:.1f} s")
    return write_like(bundle, folder, graphs, None, told)


def _halved(parts: list[ir.Model]) -> list[ir.Model]:
    """Parts in float16 that hand each other what they have: only the last one's outputs are those of the graph."""
    made: list[ir.Model] = []
    given: dict[str | None, ir.DataType] = {}
    for index, part in enumerate(parts):
        for value in part.graph.inputs:
            if value.name in given:
                value.type = ir.TensorType(given[value.name])
        last = index == len(parts) - 1
        half = to_half(part, [name for name in ISLANDS if last or name != "output"], single_outputs=last)
        types = dtypes(half.graph)
        for value in half.graph.outputs:
            value.type = ir.TensorType(types[value])
            given[value.name] = types[value]
        made.append(half)
    return made


def _written(folder: Path, name: str, spec: GraphSpec, parts: list[ir.Model], half: bool) -> GraphSpec:
    """The files of one graph, and what the manifest tells of them."""
    told: list[PartSpec] = []
    made: dict[str, list[int | str]] = {}
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        for value in part.graph.inputs:
            if value.name in made:
                value.shape = ir.Shape(made[value.name])
        file = f"{name}.onnx" if last else f"{name}_{_PARTS[index]}.onnx"
        if not last:
            for value in part.graph.inputs:
                if value.name in _ONCE:
                    value.shape = ir.Shape([1])
        write_graph(part, folder / file, half)
        if not last:
            made |= _shapes(folder / file)
        names = [[str(value.name) for value in values] for values in (part.graph.inputs, part.graph.outputs)]
        told.append(PartSpec(file, *map(tuple, names)))
    return replace(spec, file=told[-1].file, parts=tuple(told) if len(told) > 1 else ())


def _shapes(path: Path) -> dict[str, list[int | str]]:
    """The outputs of a part with a name for every axis that is not fixed, so that a session can fix it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    outputs = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).get_outputs()
    return {
        one.name: [axis if isinstance(axis, int) else f"{one.name}_{at}" for at, axis in enumerate(one.shape)]
        for one in outputs
    }


def _compared(
    plain: Bundle, other: Bundle, name: str, spec: GraphSpec, floor: float, report: Callable[[str], None]
) -> GraphSpec:
    """``spec`` with the parity that the manifest tells: the plain graph's, and what came on top of it."""
    feed = _inputs(plain, name)
    want = Graph(plain, name, provider="cpu")(feed)  # one at a time: two of the released size are more than memory
    got = Graph(other, name, provider="cpu")(feed)
    largest = max(float(np.abs(got[key] - want[key]).max()) for key in want)
    relative = max(relative_rms(got[key], want[key]) for key in want)
    if not relative <= floor:
        raise PassError(
            f"{name}: expected a relative RMS error of at most {floor} against the graph it was made of, got "
            f"{relative:.3g}; nothing was written. Leave passes out with --without to find the one"
        )
    report(f"{name}: relative RMS {relative:.1e} against the plain graph")
    before = spec.parity
    return replace(
        spec, parity=Parity(before.max_abs + largest, before.relative_rms + relative, max(before.floor, floor))
    )


def _inputs(bundle: Bundle, name: str) -> dict[str, NDArray[Any]]:
    """Random inputs of a few frames; the deep features that step caching hands on are those of the whole network."""
    specs = [spec for spec in bundle.graphs[name].inputs if spec.name != DEEP]
    cell = bundle.video.size_multiple // bundle.video.downscale
    side = 2 * max(cell, 4)
    sizes = {"B": 2, "N": 2, "T": 4, "G": 3, "F": 5, "L": 8, "D": 8, "h": side, "w": side}
    sizes |= {axis: side * bundle.video.downscale for axis in ("H", "W")}
    given = open_graph(bundle.path(bundle.graphs[name].file)).graph.inputs
    shapes = {value.name: value.shape for value in given if value.shape is not None}
    for spec in specs:
        fixed = zip(spec.shape, shapes.get(spec.name, ()), strict=False)
        sizes |= {axis: size for axis, size in fixed if isinstance(axis, str) and isinstance(size, int)}
    feed = random_inputs(specs, sizes)
    for whole, small in SHALLOW.items():
        if small == name:
            feed[DEEP] = Graph(bundle, whole, provider="cpu")(feed)[DEEP]
    return feed


def _fidelity(plain: Bundle, other: Bundle, dtype: Dtype, report: Callable[[str], None]) -> float:
    decibels = measure(plain, other, other_provider="openvino" if dtype == "bfloat16" else "cpu")
    report(f"videos: PSNR {decibels:.1f} dB of {dtype} against float32")
    check(decibels, dtype)
    return decibels if math.isfinite(decibels) else 200.0
