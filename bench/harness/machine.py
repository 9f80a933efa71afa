"""What the machine itself can do: its rate of matrix products, and the memory of its GPU."""

import shutil
import subprocess
import time

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from ffrt.backend.providers import PROVIDER_NAMES

SIDE = 1024
PRODUCTS = 8
"""Products in a row in one run, so that starting it does not count."""


def product_graph(side: int, products: int) -> bytes:
    """`a` float32 `[side, side]` times itself, again and again; only the largest number of the result comes back."""
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
    """The best FLOP/s of float32 matrix products that ONNX Runtime reaches here with the same provider and threads."""
    options = ort.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(product_graph(SIDE, PRODUCTS), options, providers=[PROVIDER_NAMES[provider]])
    a = np.full((SIDE, SIDE), 1 / SIDE, np.float32)  # its powers stay what they are
    best = float("inf")
    for _ in range(runs + 1):
        start = time.perf_counter()
        session.run(None, {"a": a})
        best = min(best, time.perf_counter() - start)
    return 2.0 * SIDE**3 * PRODUCTS / best


def device_bytes() -> int | None:
    """Memory of the first NVIDIA GPU in use, as its driver says; None where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    said = subprocess.run(query, capture_output=True, text=True, check=False)
    return int(said.stdout.split()[0]) << 20 if said.returncode == 0 and said.stdout.split() else None
