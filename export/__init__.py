"""PyTorch models, their training and their export to a bundle: the only floor that imports torch."""

import ffrt  # noqa: F401  (before onnxruntime, which otherwise calls its maker)
