"""The writers behind `video_file`: PyAV for mp4, webm and gif, the standard library for png.

A writer takes uint8 frames [H, W, 3] one at a time and files to make; it does not know their final names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ffrt.media.colours import BT709, from_rgb, tag
from ffrt.media.muxer import LiveMuxer, Muxer

if TYPE_CHECKING:
    import av
    import av.filter
    from av.video.stream import VideoStream

CODECS: Mapping[str, tuple[str, dict[str, str], dict[str, str]]] = {  # codec, its options, options of the container
    ".mp4": ("libx264", {"crf": "16", "preset": "medium"}, {"movflags": "+faststart"}),
    ".webm": ("libvpx-vp9", {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "3", "row-mt": "1"}, {}),
    ".gif": ("gif", {}, {"loop": "0"}),
}
SHORT_S = 0.2
LIVE: Mapping[str, tuple[str, dict[str, str], dict[str, str]]] = {  # as CODECS, for a stream
    ".mp4": (
        "libx264",
        {"crf": "16", "preset": "veryfast", "tune": "zerolatency"},
        {
            "movflags": "+empty_moov+default_base_moof+frag_keyframe",
            "frag_duration": str(int(SHORT_S * 1e6)),
            "flush_packets": "1",
        },
    ),
    ".webm": (
        "libvpx-vp9",
        {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "5", "row-mt": "1", "lag-in-frames": "0"},
        {"live": "1", "cluster_time_limit": str(int(SHORT_S * 1e3)), "flush_packets": "1"},
    ),
}


class Writer(Protocol):
    """`add` every frame, then `finish`; or `abort`, after which the files are worthless."""

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Encode a frame [H, W, 3]."""

    def finish(self) -> None:
        """End the video. Raises OSError if not every frame reached the disk."""

    def abort(self) -> None:
        """Give up."""


class AvWriter:
    """mp4, webm and gif through PyAV; gif frames pass a filter graph that chooses 256 colours for each."""

    def __init__(
        self,
        muxer: Muxer | LiveMuxer,
        codec: str,
        codec_options: Mapping[str, str],
        height: int,
        width: int,
        fps: int,
        metadata: Mapping[str, str],
    ) -> None:
        self.muxer = muxer
        self.container = muxer.container
        self.count = 0
        self.time_base = Fraction(1, fps)
        self.comment = json.dumps(dict(metadata))
        self.graph: av.filter.Graph | None = None
        try:
            options = dict(codec_options)
            self.stream = cast("VideoStream", self.container.add_stream(codec, rate=fps, options=options))
            self.stream.height, self.stream.width = height, width
            if codec == "gif":
                self.stream.pix_fmt = "pal8"
                self.stream.codec_context.time_base = Fraction(1, 100)
                self.graph = _palette_graph(height, width, self.time_base)
            else:
                self.stream.pix_fmt = "yuv420p"
                self.stream.codec_context.time_base = self.time_base
                self._tag(metadata)
            if isinstance(muxer, LiveMuxer):
                self.container.start_encoding()  # a reader that is gone is noticed now
        except BaseException:
            self.abort()
            raise

    @classmethod
    def at(cls, part: Path, suffix: str, height: int, width: int, fps: int, metadata: Mapping[str, str]) -> AvWriter:
        """The writer of a file `part`."""
        codec, codec_options, container_options = CODECS[suffix]
        muxer = Muxer(part, suffix[1:], container_options)
        return cls(muxer, codec, codec_options, height, width, fps, metadata)

    def _tag(self, metadata: Mapping[str, str]) -> None:
        tag(self.stream.codec_context, BT709)
        self.container.metadata["comment"] = self.comment
        if "prompt" in metadata:
            self.container.metadata["title"] = metadata["prompt"]

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Encode a frame [H, W, 3]."""
        from av import VideoFrame

        if self.graph is None:
            picture = from_rgb(frame, BT709, "yuv420p")
        else:
            picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base, picture.duration = self.count, self.time_base, 1
        self.count += 1
        self._push(picture)

    def _push(self, picture: av.VideoFrame | None) -> None:
        """Encode a frame, or with None the end, through the palette graph if there is one."""
        import av

        if self.graph is None:
            self.container.mux(self.stream.encode(picture))
            return
        self.graph.push(picture)
        while True:
            try:
                chosen = self.graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                break
            if isinstance(chosen, av.VideoFrame):
                self.container.mux(self.stream.encode(chosen))
        if picture is None:
            self.container.mux(self.stream.encode(None))

    def finish(self) -> None:
        """Close the file and count its packets."""
        self._push(None)
        self.muxer.finish(self.count)
        if isinstance(self.muxer, Muxer) and self.graph is not None:
            _add_gif_comment(self.muxer.part, self.comment)

    def abort(self) -> None:
        """Close the files; they will be deleted, and the first error is the one to show."""
        self.muxer.abort()


class PngWriter:
    """One PNG per frame, written by Pillow, with the metadata in a text chunk."""

    def __init__(self, files: Sequence[Path], metadata: Mapping[str, str]) -> None:
        self.files = iter(files)
        self.comment = json.dumps(dict(metadata))

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Write one frame."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add(b"sRGB", b"\0")
        info.add_text("Comment", self.comment)
        Image.fromarray(np.ascontiguousarray(frame)).save(next(self.files), format="PNG", pnginfo=info)

    def finish(self) -> None:
        """Every frame is whole already."""

    def abort(self) -> None:
        """Nothing is open between frames."""


def _palette_graph(height: int, width: int, time_base: Fraction) -> av.filter.Graph:
    """rgb24 -> pal8: a palette of its own for each frame, so no frame waits for the end of the video."""
    from av import VideoFormat
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=VideoFormat("rgb24"), time_base=time_base)
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=sierra2_4a")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _add_gif_comment(part: Path, comment: str) -> None:
    """GIF89a section 24: a comment extension, put before the trailer 0x3B."""
    text = comment.encode("ascii")
    blocks = [text[i : i + 255] for i in range(0, len(text), 255)]
    with open(part, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x21\xfe" + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0\x3b")
