"""ONNX to ONNX: what a bundle is (README.md) and the code that rewrites one; needs onnx, never torch."""
