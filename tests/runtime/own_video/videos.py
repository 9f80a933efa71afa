"""Videos as people have them, small: with sound and subtitles, of odd rates and sizes, turned, cut short."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

NTSC = Fraction(24000, 1001)
AUDIO_RATE = 48_000


def moving(n: int, height: int = 64, width: int = 64, hue: int = 0) -> NDArray[np.uint8]:
    """A bright square that moves right over a smooth ground: uint8 [n, height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    frames = np.empty((n, height, width, 3), np.uint8)
    for i in range(n):
        ground = np.stack([60 + 40 * y / height, 60 + 40 * x / width, np.full_like(x, 80, float)], axis=-1)
        square = (abs(y - height // 2) < 9) & (abs(x - 10 - 2 * i % (width - 10)) < 9)
        frames[i] = np.roll(np.where(square[..., None], (230, 180, 40), ground), hue, axis=-1)
    return frames


def write(
    path: Path,
    frames: NDArray[np.uint8],
    rate: Fraction | int = 24,
    *,
    times: list[int] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    seconds_of_sound: float = 0,
    subtitles: bool = False,
    start: int = 0,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    colours: tuple[int, int, int, int] | None = None,
    sound: str = "aac",
    aspect: Fraction | None = None,
) -> Path:
    """Write frames at `rate`, or shown at `times` in units of `time_base`, the first `start` frames late."""
    base = 1 / Fraction(rate) if time_base is None else time_base
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate), options={"crf": "12", "g": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.time_base = base
        if codec == "libx264":
            stream.time_base = base / 1000 if time_base is None else base
        context = stream.codec_context
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if colours is not None:
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = colours
        heard: Any = container.add_stream(sound, rate=AUDIO_RATE) if seconds_of_sound else None
        if heard is not None:
            heard.metadata["language"] = "deu"
        words: Any = None
        if subtitles and not hasattr(container, "add_mux_stream"):
            pytest.skip("this PyAV writes no subtitles of its own")
        if subtitles:
            words = container.add_mux_stream("mov_text" if path.suffix in (".mp4", ".mov") else "subrip")
            words.metadata["language"] = "fra"
        container.metadata.update({"title": "Größe 圆", "artist": "nobody"} if metadata is None else metadata)
        packets = []
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[2] == 4 else "rgb24")
            if pixels != picture.format.name:
                picture = picture.reformat(format=pixels)
            picture.pts = start + (index if times is None else times[index])
            picture.time_base = base
            packets += stream.encode(picture)
        packets += stream.encode(None)
        if heard is not None:
            packets += _sound(heard, seconds_of_sound)
        if words is not None:
            packets += [
                _words(words, text, at, path.suffix in (".mp4", ".mov")) for at, text in ((0, "eins"), (1, "zwei"))
            ]
        for packet in sorted(packets, key=lambda one: float(one.dts * one.time_base)):
            container.mux(packet)
    return path


def _sound(stream: Any, seconds: float) -> list[Any]:
    """A sine of 440 Hz."""
    packets = []
    for first in range(0, round(seconds * AUDIO_RATE), 1024):
        wave = np.sin(2 * np.pi * 440 * np.arange(first, first + 1024) / AUDIO_RATE).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame = frame if stream.codec_context.name == "aac" else _packed(frame)
        frame.pts, frame.sample_rate, frame.time_base = first, AUDIO_RATE, Fraction(1, AUDIO_RATE)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _packed(frame: Any) -> Any:
    """Sound as libopus takes it: both channels in turn."""
    return av.AudioFrame.from_ndarray(frame.to_ndarray().T.reshape(1, -1), format="flt", layout="stereo")


def _words(stream: Any, text: str, at_s: int, mp4: bool) -> Any:
    data = text.encode()
    packet = av.Packet(len(data).to_bytes(2, "big") + data if mp4 else data)
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = at_s * 1000
    packet.duration = 500
    return packet


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix (a, b, c, d) into the track header of an mp4 of one video track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags; times, id, duration; layer, volume
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[at + place : at + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))


def packets_of(path: Path, kind: str) -> list[tuple[Fraction, Fraction, bytes]]:
    """Every packet of the first stream of a kind: its time and length in seconds, and its bytes."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        found = [packet for packet in container.demux(stream) if packet.size]
        return [
            (one.pts * Fraction(one.time_base), one.duration * Fraction(one.time_base), bytes(one)) for one in found
        ]


def frames_of(path: Path) -> tuple[list[Fraction], NDArray[np.uint8]]:
    """When each frame is shown, in seconds, and the frames."""
    with av.open(str(path)) as container:
        found = [
            (frame.pts * Fraction(frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
    return [at for at, _ in found], np.stack([frame for _, frame in found])


def facts_of(path: Path) -> dict[str, Any]:
    """Rate, length and tags of the video stream, and the container's metadata."""
    with contextlib.closing(av.open(str(path))) as container:
        stream = container.streams.video[0]
        context: Any = stream.codec_context
        return {
            "rate": stream.average_rate,
            "duration_s": None if stream.duration is None else stream.duration * Fraction(stream.time_base),
            "colours": (context.color_primaries, context.color_trc, context.colorspace, context.color_range),
            "metadata": container.metadata,
            "size": (context.height, context.width),
        }
