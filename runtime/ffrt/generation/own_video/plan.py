"""A video of the caller with every default resolved and everything checked, before any graph is opened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from ffrt.bundle import Bundle, InterpolationPass
from ffrt.checks import Note
from ffrt.errors import RequestError
from ffrt.generation.needs import TEXT, decoding_runs, encoding_runs, interpolation_runs
from ffrt.generation.own_video.options import OwnVideoRequest
from ffrt.generation.plan import sampling_of
from ffrt.media.copies import KINDS
from ffrt.media.probe import Track
from ffrt.media.source import Source, told_rate
from ffrt.memory.estimate import Run
from ffrt.memory.room import Need, Room, check_memory
from ffrt.sampling import Sampling
from ffrt.sampling.presets import PRESETS
from ffrt.stages.decode import CHUNK_FRAMES, MAX_SIDE_PX
from ffrt.stages.interpolate import WINDOW_GROUPS

ALIVE = 100
"""Frames that are alive at once at the most: those of a window and around it, decoded ones, and the encoder's."""


@dataclass(frozen=True)
class OwnVideoPlan:
    """What a request comes to with one video and one bundle. `num_frames` frames at `rate` come out.

    `passes` say what the network is told in each; `tracks` come along with the pictures.
    """

    request: OwnVideoRequest
    source: Source
    rate: Fraction
    num_frames: int
    sampling: Sampling
    passes: tuple[InterpolationPass, ...]
    prompt: str | None
    tracks: tuple[Track, ...]
    notes: tuple[Note, ...]

    @classmethod
    def of(cls, request: OwnVideoRequest, source: Source, bundle: Bundle, room: Room) -> OwnVideoPlan:
        """Resolve and check. Raises RequestError, and OutOfMemoryError, which says what would fit."""
        config = bundle.interpolation
        preset = PRESETS["quality" if request.preset is None else request.preset]
        sampling = sampling_of(
            config, request.num_inference_steps, request.guidance_scale, request.sampler, few=preset.interpolation
        )
        reads = bundle.family.interpolation_reads_text
        if reads != (request.prompt is not None):
            wanted = "what the video shows, since the network of this bundle reads text" if reads else "None"
            told = "none" if request.prompt is None else "one; this bundle interpolates without text"
            raise RequestError(f"prompt: expected {wanted}, got {told}")
        rates = [source.rate * 4**number for number in range(1, request.passes + 1)]
        passes = tuple(InterpolationPass(min(240, max(1, round(rate))), request.skip_of(rate)) for rate in rates)
        _check_size(source, bundle)
        _check_cuts(request, source)
        check_memory(bundle, _need(source, bundle, sampling, reads), room)
        tracks = tuple(track for track in source.probe.tracks if track.kind not in request.drop)
        num_frames = source.num_frames * int(request.times)
        notes = tuple(Note("video", text) for text in _notes(source))
        return cls(request, source, rates[-1], num_frames, sampling, passes, request.prompt, tracks, notes)

    def metadata(self) -> dict[str, str]:
        """How the frames were made, as the file will say."""
        facts: dict[str, object] = {
            "interpolated_times": self.request.times,
            "source_rate": self.source.rate,
            "keep_originals": self.request.keep_originals,
            "skip_frames": " ".join(str(one.skip_frames) for one in self.passes),
            "seed": self.request.seed,
            "interpolation_num_inference_steps": self.sampling.num_inference_steps,
            "interpolation_guidance_scale": self.sampling.guidance_scale,
            "interpolation_sampler": self.sampling.sampler,
        }
        return {key: str(value) for key, value in facts.items()}


def _padded(source: Source, bundle: Bundle) -> tuple[int, int]:
    """Height and width of the frames that the networks see."""
    multiple = bundle.video.size_multiple
    return -(-source.height // multiple) * multiple, -(-source.width // multiple) * multiple


def _check_size(source: Source, bundle: Bundle) -> None:
    if max(_padded(source, bundle)) > MAX_SIDE_PX:
        raise RequestError(
            f"video: expected sides of at most {MAX_SIDE_PX} pixels, got {source.width}x{source.height}; scale it down"
        )


def _check_cuts(request: OwnVideoRequest, source: Source) -> None:
    given = request.given_cuts
    if given and max(given) >= source.num_frames:
        last = source.num_frames - 1
        raise RequestError(f"cuts: expected numbers of frames up to {last}, the last of the video, got {max(given)}")


def _need(source: Source, bundle: Bundle, sampling: Sampling, reads: bool) -> Need:
    """Of one window, however long the video is."""
    height, width = _padded(source, bundle)
    pixel_numbers = 3 * bundle.video.downscale**2 // 4  # of a frame of bytes, in float32 for each latent pixel
    between: tuple[Run, ...] = tuple(
        replace(run, arrays=run.arrays + ALIVE * pixel_numbers)
        for run in interpolation_runs(WINDOW_GROUPS + 1, bundle.video.latent_channels, sampling)
    )
    runs = (
        *((TEXT,) if reads else ()),
        *encoding_runs(CHUNK_FRAMES),
        *between,
        *decoding_runs(bundle, CHUNK_FRAMES),
    )
    what = f"a video of {source.width}x{source.height}"
    return Need(what, height, width, runs, size="the video scaled down to {width}x{height}")


def _notes(source: Source) -> list[str]:
    """What does not come along."""
    told = []
    if source.counts is not None:
        lost, doubled = int((source.counts == 0).sum()), int(source.counts.clip(1).sum() - len(source.counts))
        told.append(
            f"video: its frame rate varies; made {told_rate(source.rate)}, with {doubled} frames repeated and {lost} "
            "left out"
        )
    if source.probe.bits > 8:
        told.append(f"video: {source.probe.bits} bits a colour become 8")
    if source.probe.left_out:
        told.append(f"video: only {', '.join(KINDS.values())} are copied; left out: {', '.join(source.probe.left_out)}")
    return told
