"""Frame rate for a video of the caller: interpolation between its own frames, shot by shot, in flat memory."""

from ffrt.generation.own_video.options import OwnVideoOptions, OwnVideoRequest
from ffrt.generation.own_video.run import OwnVideo, interpolate_video
from ffrt.generation.own_video.step import VideoStep

__all__ = ["OwnVideo", "OwnVideoOptions", "OwnVideoRequest", "VideoStep", "interpolate_video"]
