"""Published weights -> one ONNX graph that ONNX Runtime runs alone, compared with PyTorch before it is kept.

PyTorch is needed here and nowhere else: `bench.metrics` imports this file when a graph has to be made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from export.checkpoints.arrays import read_arrays
from export.errors import CheckpointError, ParityError
from export.judges.c3d import C3D
from export.judges.clip import ClipImage, ClipText, read_clip
from export.judges.dists import Dists
from export.judges.efficientnet import EfficientNetLite0
from export.judges.i3d import I3D
from export.judges.transnet import TransNetV2
from export.judges.weights import fill, numbered, read_state, read_tensors
from export.models.quiet import quiet
from ffrt.files import opened
from ffrt.output.whole_file import whole_file

OPSET = 18
FLOOR = 1e-4
"""Largest difference to PyTorch, of the largest value of an output."""
LARGEST_BYTES = 2_000_000_000
"""Of one ONNX file."""

Example = Callable[[torch.Generator], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Judge:
    """How a network becomes a graph: from which files, and with which inputs.

    `axes` gives the letters of the axes of each input that stay free; `example` draws inputs whose free axes are none
    of them 1.
    """

    load: Callable[[Sequence[Path]], nn.Module]
    inputs: tuple[str, ...]
    output: str
    axes: tuple[Mapping[int, str], ...]
    example: Example
    at_most: Mapping[str, int] = field(default_factory=dict)


def pixels(generator: torch.Generator, *shape: int) -> Tensor:
    """Random bytes."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def state_of(build: Callable[[], nn.Module], sources: Sequence[Path]) -> nn.Module:
    """A module with the tensors of a state dict, by name, all of them."""
    module = build()
    try:
        module.load_state_dict(dict(read_state(sources[0])))
    except RuntimeError as error:
        raise CheckpointError(f"{sources[0]}: expected another network: {error}") from error
    return module.eval()


def filled_from(build: Callable[[], nn.Module], optional: frozenset[str], sources: Sequence[Path]) -> nn.Module:
    """A module with the tensors of a TorchScript file or a state dict, whose code is not run."""
    return fill(build(), read_tensors(sources[0]), sources[0], optional)


def dists_of(sources: Sequence[Path]) -> nn.Module:
    """DISTS from the arrays of VGG16 and the file of its own weights."""
    vgg, own = sources
    with opened("weights", vgg) as file:
        layers = read_arrays(file.read(), vgg.name)["VGG16_0"]
    module = Dists()
    convolutions = [one for one in module.modules() if isinstance(one, nn.Conv2d)]
    arrays = numbered([(layers[f"Conv_{at}"]["kernel"], layers[f"Conv_{at}"]["bias"]) for at in range(13)])
    for convolution, (kernel, bias) in zip(convolutions, arrays, strict=True):
        convolution.load_state_dict({"weight": kernel, "bias": bias})
    weights = read_state(own)
    module.alpha, module.beta = weights["alpha"].detach(), weights["beta"].detach()
    return module.eval()


def clip_of(part: Callable[[Any], nn.Module], sources: Sequence[Path]) -> nn.Module:
    """One half of the CLIP in a folder."""
    return part(read_clip(sources[0])).eval()


def sentences(generator: torch.Generator) -> tuple[Tensor, ...]:
    """Random tokens of three sentences, and where each ends."""
    ids = torch.randint(0, 100, (3, 16), generator=generator)
    return ids, torch.tensor([3, 15, 7])


VIDEO = ({0: "B", 2: "H", 3: "W"},)
JUDGES: Mapping[str, Judge] = {
    "efficientnet-lite0": Judge(
        partial(state_of, EfficientNetLite0),
        ("frames",),
        "features",
        ({0: "N"},),
        lambda draw: (pixels(draw, 3, 224, 224, 3),),
    ),
    "transnetv2": Judge(
        partial(state_of, TransNetV2), ("frames",), "cuts", ({0: "N"},), lambda draw: (pixels(draw, 2, 100, 27, 48, 3),)
    ),
    "dists": Judge(
        dists_of,
        ("frames", "truth"),
        "distance",
        ({0: "N", 1: "H", 2: "W"},) * 2,
        lambda draw: (pixels(draw, 2, 48, 64, 3), pixels(draw, 2, 48, 64, 3)),
    ),
    "i3d": Judge(
        partial(filled_from, I3D, frozenset()),
        ("frames",),
        "logits",
        VIDEO,
        lambda draw: (pixels(draw, 2, 16, 36, 48, 3),),
    ),
    "c3d": Judge(
        partial(filled_from, C3D, frozenset({"pre"})),
        ("frames",),
        "probabilities",
        VIDEO,
        lambda draw: (pixels(draw, 2, 16, 36, 48, 3),),
    ),
    "clip-image": Judge(
        partial(clip_of, ClipImage), ("frames",), "vectors", ({0: "N"},), lambda draw: (pixels(draw, 3, 224, 224, 3),)
    ),
    "clip-text": Judge(
        partial(clip_of, ClipText),
        ("ids", "ends"),
        "vectors",
        ({0: "M", 1: "L"}, {0: "M"}),
        sentences,
        {"L": 77},
    ),
}
"""Network of `bench.metrics.networks` -> how it is made."""


def convert(name: str, sources: Sequence[Path], out: Path, properties: Mapping[str, str]) -> float:
    """Write the graph of a network to `out`, whole or not at all; its largest relative difference to PyTorch.

    `properties` are kept in the graph's metadata beside that difference. Raises CheckpointError for files that are not
    of this network, and ParityError above `FLOOR`.
    """
    judge = JUDGES[name]
    module = judge.load(sources)
    example = judge.example(torch.Generator().manual_seed(0))
    model = traced(judge, module, example)
    difference = compared(name, judge, module, model)
    for key, value in {**properties, "difference": f"{difference:.3g}"}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as part:
        part.write_bytes(model.SerializeToString())
    return difference


def traced(judge: Judge, module: nn.Module, example: tuple[Tensor, ...]) -> onnx.ModelProto:
    """The graph with its free axes."""
    dims: dict[str, Any] = {}
    shapes = tuple(
        {at: dims.setdefault(letter, torch.export.Dim(letter, max=judge.at_most.get(letter))) for at, letter in axes}
        for axes in (one.items() for one in judge.axes)
    )
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            input_names=list(judge.inputs),
            output_names=[judge.output],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]
    return model


def compared(name: str, judge: Judge, module: nn.Module, model: onnx.ModelProto) -> float:
    """Largest difference of the graph to the module in two draws, over the largest value. Raises ParityError."""
    content = model.SerializeToString()
    if len(content) > LARGEST_BYTES:
        raise CheckpointError(f"{name}: expected a graph of less than {LARGEST_BYTES} bytes, got {len(content)}")
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst = 0.0
    for seed in (1, 2):
        inputs = judge.example(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            want = module(*inputs).numpy()
        feed = dict(zip(judge.inputs, (one.numpy() for one in inputs), strict=True))
        got = session.run(None, feed)[0]
        worst = max(worst, float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-12)))
    if not worst <= FLOOR:
        raise ParityError(f"{name}: expected a difference of at most {FLOOR} to PyTorch, got {worst:.3g}; not kept")
    return worst
