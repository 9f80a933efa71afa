"""Measurements of ffrt: each module is one claim, run as `python -m bench.NAME` from the repository root."""

import ffrt  # noqa: F401  (before onnxruntime, which otherwise calls its maker)
