"""ONNX to ONNX: rewrites of bundles (docs/passes.md); needs onnx, never torch."""

import ffrt  # noqa: F401  (before onnxruntime, which otherwise calls its maker)
