"""Rewrite a bundle for one provider: passes over every graph, each result compared with the graph it was made from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import onnx_ir as ir
import onnxruntime as ort  # type: ignore[import-untyped]

from ffrt.backend.openvino import multiplies_bfloat16
from ffrt.backend.providers import PROVIDERS as ROWS
from ffrt.bundle import Bundle, GraphSpec, Optimised, Parity, PartSpec, open_bundle
from ffrt.errors import BundleError, RequestError
from ffrt.output.work import work_folder
from graphs.compare import REFERENCE, check_psnr, compare_graph, compare_videos
from graphs.passes.half import emulate_half, to_half
from graphs.passes.islands import ISLANDS, dtypes
from graphs.passes.split import split
from graphs.passes.table import INT8_TEXT, ON_REQUEST, PAD_TEXT, PASSES, PROVIDERS, SPLIT, apply, names_of
from graphs.passes.text_length import pad_text
from graphs.store import check_place, graph_of, new_folder, write_graph, write_like

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
LIMITS: Mapping[str, float] = {"exact": 1e-3, "rounded": 5e-2}
"""Largest relative RMS error of a graph, of the same numbers and of float16 or int8 ones. A bundle computes in bfloat16
only when OpenVINO runs it, so its graphs are compared in float32."""
_FLOAT32_GRAPHS = ("text_encoder",)
"""Graphs that stay in float32: T5's activations exceed the range of float16."""
_EQUAL_FOR_ALL_GROUPS = ("skip_frames", "perturbation")
"""Inputs that sampling sets to one number for all groups: parts that run once take a single element."""
_PART_NAMES = ("request", "schedule")


def optimise(
    bundle: Bundle,
    out: Path,
    *,
    provider: str = "cpu",
    dtype: Dtype | None = None,
    without: Collection[str] = (),
    also: Collection[str] = (),
    report: Callable[[str], None] = lambda line: None,
    verify: bool = True,
) -> Bundle:
    """Write the bundle `out`, which appears once every graph of it agrees with the one it was made from.

    `dtype` None is the provider's own. With float16, graphs compute in float16 except for named islands; bfloat16 is
    what OpenVINO multiplies in if the processor can. With either, the videos of both bundles are compared as well
    (`graphs.compare`). `without` names passes to leave out, `also` passes of `graphs.passes.table.ON_REQUEST` to add.
    `verify=False` skips all comparisons.

    Raises RequestError for an unknown provider, pass or dtype, or if bfloat16 cannot be compared on this machine;
    BundleError if `out` exists or lies in `bundle`, or `bundle` was optimised before; PassError or FidelityError if the
    results differ.
    """
    target = plan(provider, dtype, without, also, verify=verify)
    if bundle.optimised is not None:
        raise BundleError(
            f"bundle: expected a plain one, but {bundle.folder} is optimised for {bundle.optimised.provider!r}; "
            "give the one it was made from"
        )
    if bundle.folder.resolve() in out.resolve().parents:
        raise BundleError(f"out: {out} lies in the bundle that it is made from; choose a folder outside it")
    check_place(out)
    with new_folder(out) as folder:
        rewritten = _write(bundle, folder, target, report)
        if verify:
            _verify(bundle, rewritten, target, out, report)
    return open_bundle(out, verify=False)


def plan(
    provider: str = "cpu",
    dtype: str | None = None,
    without: Collection[str] = (),
    also: Collection[str] = (),
    *,
    verify: bool = True,
) -> Optimised:
    """Check the arguments of `optimise` without running it: the provider, passes and dtype that the manifest will name.

    Raises RequestError as `optimise` does.
    """
    if provider not in PROVIDERS:
        raise RequestError(f"provider: expected one of {list(PROVIDERS)}, got {provider!r}; {_SEE_HELP}")
    row = ROWS[provider]
    able = [each for each in DTYPES if each in row.dtypes]
    chosen = next((each for each in able if each == (row.dtypes[0] if dtype is None else dtype)), None)
    if chosen is None:
        raise RequestError(
            f"dtype: expected one of {able} for {provider!r}, got {dtype!r}; without it, {row.dtypes[0]} is used"
        )
    if verify and chosen == "bfloat16" and not multiplies_bfloat16():
        raise RequestError(
            "dtype: bfloat16 cannot be compared with float32 on this machine: OpenVINO is not installed (pip install "
            '"ffrt[openvino]"), or the processor does not multiply in bfloat16; type python -m graphs optimise '
            "with --dtype float32 or --no-verify"
        )
    known = names_of(provider)
    for name in without:
        if name not in known:
            raise RequestError(
                f"without: expected some of {known}, the passes for {provider!r}, got {name!r}; {_SEE_HELP}"
            )
    for name in also:
        if name not in ON_REQUEST:
            raise RequestError(
                f"also: expected some of {list(ON_REQUEST)}, which run on request, got {name!r}; {_SEE_HELP}"
            )
    passes = (*(name for name in known if name not in without), *dict.fromkeys(also))
    return Optimised(provider, passes, chosen)


_SEE_HELP = "type python -m graphs optimise --help"


def _write(
    bundle: Bundle, folder: Path, target: Optimised, report: Callable[[str], None], emulate: bool = False
) -> Bundle:
    """Write all graphs, rewritten, and copies of all other files to `folder`.

    With `emulate` the CPU can run the result: it computes in float32 and rounds to float16 where a GPU would.
    """
    stems = {Path(spec.file).stem for spec in bundle.graphs.values()}
    for file in bundle.files:
        if Path(file).stem not in stems:
            bundle.copy(file, folder)
    graphs = {}
    for name, spec in bundle.graphs.items():
        start = time.perf_counter()
        with graph_of(bundle, name) as model:
            before = len(model.graph)
            parts = _rewritten(model, name, target, bundle.text.max_tokens, emulate)
            float32_scales = INT8_TEXT in target.passes and name in _FLOAT32_GRAPHS
            graphs[name] = _write_parts(folder, name, spec, parts, target.dtype == "float16" and not float32_scales)
        after = " + ".join(str(len(part.graph)) for part in parts)
        report(f"{name}: {before} -> {after} nodes, {time.perf_counter() - start:.1f} s")
    return write_like(bundle, folder, graphs, None, replace(target, provider=REFERENCE) if emulate else target)


def _rewritten(model: ir.Model, name: str, target: Optimised, max_tokens: int, emulate: bool) -> list[ir.Model]:
    """The parts of graph `name` after all passes."""
    model = apply(model, name, target.provider, target.passes)
    parts = split(model) if SPLIT in target.passes else [model]
    if PAD_TEXT in target.passes:
        parts = pad_text(parts, max_tokens)
    if target.dtype == "float16" and name not in _FLOAT32_GRAPHS:
        parts = _to_half(parts)
        if emulate:
            parts = [emulate_half(part) for part in parts]
    return parts


def _verify(plain: Bundle, rewritten: Bundle, target: Optimised, out: Path, report: Callable[[str], None]) -> None:
    """Compare both bundles and add what was measured to the manifest of `rewritten`.

    Where the CPU cannot run `rewritten`, or does not round as its provider does, a bundle that it can run is compared
    in its place.
    """
    with work_folder(out.parent) as work:
        trial, comparable = work / "trial", rewritten
        trial.mkdir()
        if target.dtype == "float16" or target.provider not in ROWS[REFERENCE].runs:
            special = {row.name for row in PASSES if not row.portable}
            portable = replace(target, passes=tuple(name for name in target.passes if name not in special))
            comparable = _write(plain, trial, portable, lambda line: None, emulate=True)
        graphs = {}
        for name, spec in rewritten.graphs.items():
            rounded = target.dtype == "float16" or (INT8_TEXT in target.passes and name in _FLOAT32_GRAPHS)
            limit = LIMITS["rounded" if rounded else "exact"]
            difference = compare_graph(plain, comparable, name, limit)
            report(f"{name}: relative RMS {difference.relative_rms:.1e} against the plain graph")
            before = spec.parity
            graphs[name] = replace(
                spec,
                parity=Parity(
                    before.max_abs + difference.max_abs,
                    before.relative_rms + difference.relative_rms,
                    max(before.floor, limit),
                ),
            )
        if target.dtype != "float32":
            decibels = compare_videos(
                plain, comparable, other_provider=target.provider if target.dtype == "bfloat16" else REFERENCE
            )
            report(f"videos: PSNR {decibels:.1f} dB of {target.dtype} against float32")
            check_psnr(decibels, target.dtype)
            target = replace(target, psnr=decibels if math.isfinite(decibels) else 200.0)
    write_like(plain, rewritten.folder, graphs, rewritten.files, target)


def _to_half(parts: list[ir.Model]) -> list[ir.Model]:
    """Convert parts to float16. Values that they hand on stay float16; outputs of the whole graph are float32."""
    converted: list[ir.Model] = []
    handed_on: dict[str | None, ir.DataType] = {}
    for index, part in enumerate(parts):
        for value in part.graph.inputs:
            if value.name in handed_on:
                value.type = ir.TensorType(handed_on[value.name])
        last = index == len(parts) - 1
        half = to_half(part, [name for name in ISLANDS if last or name != "output"], single_outputs=last)
        types = dtypes(half.graph)
        for value in half.graph.outputs:
            value.type = ir.TensorType(types[value])
            handed_on[value.name] = types[value]
        converted.append(half)
    return converted


def _write_parts(folder: Path, name: str, spec: GraphSpec, parts: list[ir.Model], half: bool) -> GraphSpec:
    """Write the files of one graph and return its row of the manifest."""
    specs: list[PartSpec] = []
    shapes: dict[str, list[int | str]] = {}
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        for value in part.graph.inputs:
            if value.name in shapes:
                value.shape = ir.Shape(shapes[value.name])
        file = f"{name}.onnx" if last else f"{name}_{_PART_NAMES[index]}.onnx"
        if not last:
            for value in part.graph.inputs:
                if value.name in _EQUAL_FOR_ALL_GROUPS:
                    value.shape = ir.Shape([1])
        write_graph(part, folder / file, half)
        if not last:
            shapes |= _output_shapes(folder / file)
        names = [[str(value.name) for value in values] for values in (part.graph.inputs, part.graph.outputs)]
        specs.append(PartSpec(file, *map(tuple, names)))
    return replace(spec, file=specs[-1].file, parts=tuple(specs) if len(specs) > 1 else ())


def _output_shapes(path: Path) -> dict[str, list[int | str]]:
    """The shapes of a part's outputs, with a name for every axis that is not fixed, so that a session can fix it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    outputs = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).get_outputs()
    return {
        output.name: [size if isinstance(size, int) else f"{output.name}_{at}" for at, size in enumerate(output.shape)]
        for output in outputs
    }
