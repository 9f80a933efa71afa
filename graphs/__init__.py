"""ONNX to ONNX: rewrites of bundles (docs/passes.md); needs onnx, never torch."""
