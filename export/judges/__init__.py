"""Networks that judge videos, in PyTorch, and how their published weights become ONNX graphs for `bench.metrics`."""
