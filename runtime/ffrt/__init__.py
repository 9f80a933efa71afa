"""Text-to-video on ONNX Runtime: FusionFrames / Kandinsky Video (arXiv 2311.13073), without PyTorch.

```python
from ffrt import Pipeline

pipe = Pipeline.from_pretrained("demo")
video = pipe("a red circle moving right on a black background", seed=7)
video.save("circle.mp4")
```

The same in stages, each an array in and an array out:

```python
context = pipe.encode("a red circle moving right on a black background")  # context [1, L, D], mask [1, L]
latents = pipe.keyframes(context, seed=7)  # [T, 4, h, w]
latents = pipe.interpolate(latents, fps=8, seed=7)  # [4T-3, 4, h, w]
video = pipe.decode(latents, fps=8)  # .frames: uint8 [N, H, W, 3]
```

With a bundle of Kandinsky Video 1.1, a picture may be the first frame: `pipe("it starts to rain", image="street.png")`.

Letters, one grammar for every array: `T` keyframes, `N` frames after interpolation (a pass makes 4T-3 out of T), `G`
the T-1 groups between keyframes, `B` guidance rows (conditional first), `h` and `w` the latent height and width (pixels
`H` and `W` / 8), `L` text tokens kept, `D` their width. Latents are float32, frames uint8 in RGB order.

Every error is an `FfrtError` (tree in `ffrt.errors`).
"""

import os

from ffrt._version import __version__
from ffrt.errors import (
    BundleError,
    Cancelled,
    FfrtError,
    GraphInputError,
    OutOfMemoryError,
    OutputError,
    PackageError,
    ProviderError,
    RequestError,
    VideoReadError,
    VideoWriteError,
)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime loads; its thread makes forks hang at exit

TYPE_CHECKING = False  # typing itself takes as long to load as all of this
if TYPE_CHECKING:
    from ffrt.bundle import Bundle, open_bundle
    from ffrt.checks import Note
    from ffrt.families import Stage
    from ffrt.generation import Checkpoint, Generation, Plan, Step
    from ffrt.generation.own_video import OwnVideo, OwnVideoRequest, VideoStep
    from ffrt.generation.request import Request
    from ffrt.media.video import Video
    from ffrt.pipeline import Pipeline
    from ffrt.stages.text import Context

__all__ = [
    "Bundle",
    "BundleError",
    "Cancelled",
    "Checkpoint",
    "Context",
    "FfrtError",
    "Generation",
    "GraphInputError",
    "Note",
    "OutOfMemoryError",
    "OutputError",
    "OwnVideo",
    "OwnVideoRequest",
    "PackageError",
    "Pipeline",
    "Plan",
    "ProviderError",
    "Request",
    "RequestError",
    "Stage",
    "Step",
    "Video",
    "VideoReadError",
    "VideoStep",
    "VideoWriteError",
    "__version__",
    "open_bundle",
]

_HOMES = {
    "Bundle": "ffrt.bundle",
    "Checkpoint": "ffrt.generation",
    "Context": "ffrt.stages.text",
    "Generation": "ffrt.generation",
    "Note": "ffrt.checks",
    "OwnVideo": "ffrt.generation.own_video",
    "OwnVideoRequest": "ffrt.generation.own_video",
    "Pipeline": "ffrt.pipeline",
    "Plan": "ffrt.generation",
    "Request": "ffrt.generation.request",
    "Stage": "ffrt.families",
    "Step": "ffrt.generation",
    "Video": "ffrt.media.video",
    "VideoStep": "ffrt.generation.own_video",
    "open_bundle": "ffrt.bundle",
}
"""Where the names above are, but for errors: each is loaded at its first use, so that the command starts at once."""


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
