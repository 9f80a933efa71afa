"""A network of a golden file, run by PyTorch or as the exported graph by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from torch import nn

from export.models.limits import Limits
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.trace import Traced, trace
from ffrt.families import Signature

Run = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]
"""Named inputs -> named outputs."""


@dataclass(frozen=True)
class Network:
    """A module, the graph that it becomes, and what bounds its inputs."""

    graph: str
    module: nn.Module
    signature: Signature
    limits: Limits

    def in_torch(self) -> Run:
        """The PyTorch module as a function of named arrays."""
        names = [spec.name for spec in self.signature[0]]

        def run(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            with torch.no_grad():
                result = self.module(*(torch.from_numpy(np.ascontiguousarray(feed[name])) for name in names))
            outputs = result if isinstance(result, tuple) else (result,)
            return {spec.name: one.numpy() for spec, one in zip(self.signature[1], outputs, strict=True)}

        return run

    def in_onnx(self) -> Run:
        """The exported graph in ONNX Runtime, traced with other sizes than it is then run with."""
        example = draw_inputs(self.signature, self.limits, 0)
        contract = {self.graph: self.signature}
        axes = multiples_of(self.signature, self.limits)
        model = trace(Traced(self.graph, self.module, example, axes, contract))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [spec.name for spec in self.signature[1]]

        def run(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return dict(zip(names, session.run(names, dict(feed)), strict=True))

        return run


def unet_limits(config: Mapping[str, Any]) -> Limits:
    """What the inputs of a released U-Net may be."""
    levels = len(config.get("dim_mult", (1, 2, 4, 8)))
    return Limits(2 ** (levels - 1), 8, config["context_dim"], 1, 180)
