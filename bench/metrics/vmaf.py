"""VMAF (Netflix): what a viewer would say of a video beside the true one, 0 to 100, by the libvmaf of an ffmpeg.

Its model was trained on films at 1080p seen from a sofa; of small pictures it is an order, not an opinion.
"""

import contextlib
import functools
import importlib.util
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.harness.record import BenchError
from bench.metrics.base import Frames, check_shapes

FILTER = "[0:v]format=yuv420p[ours];[1:v]format=yuv420p[true];[ours][true]libvmaf=log_fmt=json:log_path=vmaf.json"


class FfmpegError(BenchError):
    """No ffmpeg with libvmaf is there, or it failed."""


@functools.cache
def ffmpeg() -> str:
    """An ffmpeg with libvmaf: that of imageio-ffmpeg, or of the path. Raises FfmpegError without one."""
    for program in candidates():
        done = subprocess.run([program, "-hide_banner", "-filters"], capture_output=True, text=True, check=False)
        if " libvmaf " in done.stdout:
            return program
    raise FfmpegError("VMAF needs an ffmpeg with libvmaf: pip install imageio-ffmpeg, whose ffmpeg has it")


def candidates() -> list[str]:
    """Every ffmpeg that is here."""
    found = [] if (own := shutil.which("ffmpeg")) is None else [own]
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg

        with contextlib.suppress(RuntimeError):  # a wheel without a program
            found.insert(0, imageio_ffmpeg.get_ffmpeg_exe())
    return found


def vmaf(frames: Frames, truth: Frames) -> float:
    """Mean VMAF over frames of uint8 `[N, H, W, 3]`; equal videos have nearly 100.

    Raises BenchError when the two differ in shape, and FfmpegError where no ffmpeg has libvmaf.
    """
    check_shapes(frames, truth)
    height, width = frames.shape[1:3]
    program = ffmpeg()
    kind = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "25"]
    with tempfile.TemporaryDirectory() as folder:
        for name, clip in (("ours", frames), ("true", truth)):
            (Path(folder) / name).write_bytes(clip.tobytes())
        inputs = [*kind, "-i", "ours", *kind, "-i", "true"]
        done = subprocess.run(
            [program, "-hide_banner", "-nostdin", *inputs, "-lavfi", FILTER, "-f", "null", "-"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        record = Path(folder) / "vmaf.json"
        if done.returncode != 0 or not record.is_file():
            lines = done.stderr.strip().splitlines()
            raise FfmpegError(f"vmaf: ffmpeg failed on {width} x {height} px: {lines[-1] if lines else 'no word'}")
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return float(found["pooled_metrics"]["vmaf"]["mean"])
