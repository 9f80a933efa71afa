"""Properties of the machine: its rate of matrix products, and the memory of its GPU."""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from ffrt.backend.session import Session

SIDE = 1024
PRODUCTS = 8
"""Consecutive products in one run, so that its start does not count."""


def product_graph(side: int, products: int) -> bytes:
    """`a` float32 `[side, side]` times itself, `products` times; only the largest number of the result is returned."""
    nodes = [
        helper.make_node("MatMul", ["a" if index == 0 else f"p{index}", "a"], [f"p{index + 1}"])
        for index in range(products)
    ]
    nodes.append(helper.make_node("ReduceMax", [f"p{products}"], ["largest"], keepdims=0))
    a = helper.make_tensor_value_info("a", TensorProto.FLOAT, [side, side])
    largest = helper.make_tensor_value_info("largest", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "products", [a], [largest])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def product_rate(provider: str, threads: int | None, runs: int = 20) -> float:
    """The best FLOP/s of float32 matrix products that a provider reaches here with these threads.

    Raises ProviderError for a provider that cannot be had.
    """
    a = np.full((SIDE, SIDE), 1 / SIDE, np.float32)  # its powers stay what they are
    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "products.onnx"
        path.write_bytes(product_graph(SIDE, PRODUCTS))
        session = Session(path, "products", provider=provider, threads=threads)
        for _ in range(runs + 1):
            start = time.perf_counter()
            session.run({"a": a})
            best = min(best, time.perf_counter() - start)
    return 2.0 * SIDE**3 * PRODUCTS / best


def device_bytes() -> int | None:
    """Memory in use on the first NVIDIA GPU, as its driver reports it; None without a driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return int(answer.stdout.split()[0]) << 20 if answer.returncode == 0 and answer.stdout.split() else None
