"""A generation saved at the end of a stage, to be resumed later or elsewhere with the same frames to the bit.

The file is an .npz archive: a JSON header and plain arrays. It comes from outside, so sizes are checked before memory
is taken, and nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import OutputError, RequestError
from ffrt.families import Stage
from ffrt.files import AnyPath, limit_of, opened, path_of, shown
from ffrt.generation.arrays_file import array_names, read_arrays
from ffrt.generation.plan import Plan
from ffrt.generation.request import Request
from ffrt.output.faults import output_faults
from ffrt.output.whole_file import whole_file
from ffrt.sampling import Array

FORMAT = "ffrt-checkpoint-1"
MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """What a request had come to when the stage `after` (at `fps`, for a pass of interpolation) was finished.

    `latents` float32 [n, 4, h, w] are the stage's, `frame` uint8 [H, W, 3] a first frame; each is None before it
    exists. `bundle_digest` and `provider` say what made them: another bundle is refused, and another provider's
    frames may differ in their last digits.
    """

    request: Request
    bundle_digest: str
    provider: str
    after: Stage
    fps: int | None = None
    frame: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    latents: Array | None = field(default=None, repr=False, compare=False)

    def save(self, path: AnyPath) -> None:
        """Write the checkpoint in one rename, over nothing but another one, whose permissions it keeps.

        Raises RequestError if the file cannot be written.
        """
        target = path_of("checkpoint", path)
        options = {f.name: getattr(self.request, f.name) for f in dataclasses.fields(Request) if f.name != "image"}
        header = {
            "format": FORMAT,
            "request": options,
            "bundle_digest": self.bundle_digest,
            "provider": self.provider,
            "after": str(self.after),
            "fps": self.fps,
        }
        text = json.dumps(header, default=_number).encode()
        arrays: dict[str, NDArray[Any]] = {"header": np.frombuffer(text, np.uint8)}
        arrays |= {name: array for name, array in self._arrays().items() if array is not None}
        try:
            with output_faults(target, "checkpoint"):
                if target.is_file() and target.stat().st_size and not _is_checkpoint(target):
                    raise OutputError(f"checkpoint: {shown(target)!r} is there and no checkpoint; choose another name")
            with whole_file(target, "checkpoint") as part, open(part, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        except OutputError as error:
            raise RequestError(str(error)) from error
        except (OSError, ValueError) as error:
            raise RequestError(
                f"checkpoint: {shown(target)!r} cannot be written ({error}); give another path"
            ) from error

    @classmethod
    def load(cls, path: AnyPath) -> Checkpoint:
        """Read a checkpoint that `save` wrote. Raises RequestError for anything else."""
        source = path_of("resume", path)
        with opened("resume", source) as file:
            try:
                arrays = read_arrays(file, ("header", "image", "frame", "latents"))
                header = json.loads(bytes(arrays["header"][:MAX_HEADER_BYTES]))
                if header["format"] != FORMAT:
                    raise ValueError(f"format {header['format']!r:.100}, expected {FORMAT!r}")
                request = Request(**header["request"], image=_typed(arrays, "image", np.uint8, 3))
                stage, fps = Stage(header["after"]), header["fps"]
                digest, provider = header["bundle_digest"], header["provider"]
                if not (isinstance(fps, int | None) and isinstance(digest, str) and isinstance(provider, str)):
                    raise ValueError("a header with values of other types")
                frame, latents = _typed(arrays, "frame", np.uint8, 3), _typed(arrays, "latents", np.float32, 4)
            except RequestError:
                raise
            except Exception as error:  # a damaged file raises nearly anything
                limit = limit_of(error)
                what = f"is no checkpoint of ffrt ({type(error).__name__}: {str(error)[:200]}); start anew"
                raise RequestError(f"resume: {shown(source)!r} {what if limit is None else limit}") from error
        return cls(request, digest, provider, stage, fps, frame, latents)

    def check(self, plan: Plan) -> None:
        """Raise RequestError unless `plan` continues what was begun, with the same bundle and arrays of its shapes."""
        if plan.bundle_digest != self.bundle_digest:
            raise RequestError(
                f"resume: expected the bundle {self.bundle_digest[:12]} that the checkpoint was made with, got "
                f"{plan.bundle_digest[:12]}; open that bundle, or start anew"
            )
        if plan.request != self.request:
            names = [f.name for f in dataclasses.fields(Request) if f.compare]
            other = [name for name in names if getattr(plan.request, name) != getattr(self.request, name)]
            raise RequestError(f"resume: expected the request of the checkpoint, got other values of {other}")
        ends = plan.latents_after()
        if (self.after, self.fps) not in ends:
            told = [(str(stage), fps) for stage, fps in ends]
            raise RequestError(f"resume: expected the end of one of {told}, got {(str(self.after), self.fps)}")
        wanted, got = ends[self.after, self.fps], None if self.latents is None else self.latents.shape
        if wanted != got or (self.after is Stage.FIRST_FRAME and self.frame is None):
            raise RequestError(f"resume: expected latents {wanted} and their first frame, got {got}; start anew")

    def _arrays(self) -> dict[str, NDArray[Any] | None]:
        from ffrt.media.image import open_image

        image = None if self.request.image is None else open_image(self.request.image)
        return {"image": image, "frame": self.frame, "latents": self.latents}


def _number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise RequestError(f"checkpoint: expected a request of text and numbers, got {type(value).__name__} in it")


def _is_checkpoint(path: Path) -> bool:
    """Whether a file is one that `save` wrote. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        try:
            return "header" in array_names(file)
        except OSError:
            raise
        except Exception:  # a file of anybody
            return False


def _typed(arrays: dict[str, NDArray[Any]], name: str, dtype: type[np.generic], rank: int) -> NDArray[Any] | None:
    array = arrays.get(name)
    if array is not None and (array.dtype != dtype or array.ndim != rank or array.size == 0):
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} of {rank} axes")
    if array is not None and not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array
