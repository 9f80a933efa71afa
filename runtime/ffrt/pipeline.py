"""The public face of a bundle: a request becomes a generation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Unpack

from ffrt import checks
from ffrt.backend.cancel import Cancellation
from ffrt.backend.graph import Graph
from ffrt.backend.providers import CPU, choose_provider
from ffrt.backend.runner import MEMORY
from ffrt.bundle import MAX_TOKENIZER_BYTES, Bundle, find_bundle, open_bundle
from ffrt.errors import BundleError, RequestError
from ffrt.files import AnyPath
from ffrt.generation.checkpoint import Checkpoint
from ffrt.generation.generation import Generation
from ffrt.generation.own_video import OwnVideo, OwnVideoOptions, OwnVideoRequest, VideoStep, interpolate_video
from ffrt.generation.plan import Plan
from ffrt.generation.request import Options, Request
from ffrt.media.video import Video
from ffrt.memory.room import Room
from ffrt.stage_calls import StageCalls
from ffrt.stages.graphs import OpenGraphs, SessionSettings
from ffrt.stages.run import Stages
from ffrt.stages.tokens import open_tokenizer


class Pipeline(StageCalls):
    """Text-to-video over the graphs of one bundle. A graph is opened by its first use, once.

    Any number of threads may use one pipeline: results equal those of one thread to the bit, and requests cancel only
    themselves. With memory "fast" requests run side by side, with "low" their graphs take turns. A pipeline is a
    context manager. A copy, or one from a pickle, opens its bundle again. Letters as in the package docstring. Every
    method checks its arguments before a graph runs and raises RequestError, which names the argument.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: str = "fast",
        cuda_graph: bool = False,
        provider_options: Mapping[str, str | int | float] | None = None,
    ) -> None:
        """Arguments as `from_pretrained`, with a bundle that was opened already."""
        if not isinstance(bundle, Bundle):
            raise RequestError(
                f"bundle: expected an open one, got {checks.describe(bundle)}; Pipeline.from_pretrained opens a folder"
            )
        threads = checks.threads(threads)
        settings = SessionSettings(
            provider,
            threads,
            checks.choice("memory", memory, MEMORY),
            checks.flag("cuda_graph", cuda_graph),
            provider_options,
        )
        graphs = OpenGraphs(bundle, settings)
        self.bundle = bundle
        text = bundle.text
        raw = bundle.read(text.tokenizer, MAX_TOKENIZER_BYTES)
        self.stages = Stages(graphs, open_tokenizer(bundle.path(text.tokenizer), raw, max_tokens=text.max_tokens))
        self._room = Room.here(settings.memory, graphs.on_gpu, graphs.on_gpu or graphs.provider == CPU.name)

    @classmethod
    def from_pretrained(
        cls,
        bundle: AnyPath | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: str = "fast",
        cuda_graph: bool = False,
        provider_options: Mapping[str, str | int | float] | None = None,
    ) -> Pipeline:
        """Open a bundle: a folder, or the demo for None and "demo".

        `provider` is "auto" (CUDA if it can be had, else the CPU; OpenVINO for a bundle that was optimised for it), a
        name that `ffrt doctor` lists, or any execution provider of the installed ONNX Runtime by its own name, such as
        "MIGraphXExecutionProvider"; `provider_options` go to it as they are. `threads` is the number of CPU threads
        inside an operator, None for one for each core that this process may use (affinity, the quota of its container,
        OMP_NUM_THREADS). Engines that TensorRT builds are kept in the user's cache folder, which `ffrt doctor` shows.

        With `memory` "low", weights stay in the bundle's files and are converted where they are used, and one stage's
        graphs are open at a time: a network may then be larger than memory, at a cost in speed. "fast" holds float32
        copies and keeps all graphs. With `cuda_graph` a GPU records the launches of a denoising step and plays them
        back, for networks so small that launching takes as long as computing; on CUDA and TensorRT alone.

        Raises BundleError if a file is missing or was changed, and ProviderError if the provider cannot be had: here,
        or when its first graph is opened.
        """
        choose_provider(provider)
        opened = open_bundle(find_bundle(bundle))
        return cls(
            opened,
            provider=provider,
            threads=threads,
            memory=memory,
            cuda_graph=cuda_graph,
            provider_options=provider_options,
        )

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Pipeline], tuple[object, ...]]:
        return _reopen, (os.path.abspath(self.bundle.folder), self.bundle.digest, self.stages.graphs.settings)

    @property
    def provider(self) -> str:
        """The provider that graphs are opened with."""
        return self.stages.graphs.provider

    @property
    def open_graphs(self) -> tuple[str, ...]:
        """The names of the graphs that are open now."""
        return self.stages.graphs.names

    def load(self) -> None:
        """Open every graph now, so that the first request need not; with memory "low" this does nothing."""
        if self.stages.graphs.settings.memory == "low":
            return
        for name in self.bundle.graphs:
            self.graph(name)
        self.stages.graphs.update()

    def close(self) -> None:
        """Close all graphs and give their memory back. A later call raises RequestError."""
        self.stages.graphs.close()

    def cancel(self) -> None:
        """End every request that is under way, in the middle of a step: each raises Cancelled.

        For another thread or a signal handler; `Generation.cancel` ends one request alone. The pipeline can be used
        again at once. With nothing under way this does nothing.
        """
        self.stages.under_way.cancel()

    def graph(self, name: str) -> Graph:
        """The graph `name` of the bundle, opened if it is not. Raises RequestError if the bundle has none of it."""
        checks.choice("name", name, self.bundle.graphs)
        return self.stages.graphs.graph(name, Cancellation())

    def __call__(self, prompt: str | Request, **options: Unpack[Options]) -> Video:
        """Make a video of a prompt, with the options of `Request`, or of a whole request.

        Frames are decoded when they are used. Raises RequestError, OutOfMemoryError, and Cancelled after `cancel`.
        """
        return self.generate(prompt, **options).video

    def generate(
        self, prompt: str | Request, *, resume: Checkpoint | None = None, **options: Unpack[Options]
    ) -> Generation:
        """As a call of the pipeline, one step at a time: `for step in pipe.generate(prompt): ...`.

        The request is checked by this call, before anything runs. `resume` goes on from the end of a stage, which
        another generation of the same request had saved as its `checkpoint`; the frames are the same to the bit.
        """
        request = _request_of(prompt, options)
        plan = Plan.of(request, self.bundle, self._room_now())
        if resume is not None:
            if not isinstance(resume, Checkpoint):
                raise RequestError(f"resume: expected a Checkpoint, got {checks.describe(resume)}")
            resume.check(plan)
        return Generation(plan, self.stages, self._facts(), resume=resume)

    def interpolate_video(
        self,
        video: AnyPath,
        path: AnyPath,
        *,
        on_step: Callable[[VideoStep], None] = lambda step: None,
        **options: Unpack[OwnVideoOptions],
    ) -> OwnVideo:
        """Give a video of your own 4 or 16 times its frames: read the file `video`, write the file `path`.

        `video` is an MP4, QuickTime or Matroska file (WebM too), and `path` ends in .mp4, .mov, .mkv or .webm. Options
        are those of `OwnVideoRequest`. n frames at a rate r become `times` n frames at `times` r: the last frame of a
        shot is held, so that the output lasts as long as the input, and nothing is drawn across a cut. Sound,
        subtitles, chapters, metadata and colour tags come along as they are; frames are turned upright. Memory does not
        grow with length. `on_step` is called after every denoising step and every frame that was written.

        Raises, before a graph runs, RequestError, VideoReadError for a video that is damaged or of a kind that cannot
        be worked on, VideoWriteError, and OutOfMemoryError; and Cancelled after `cancel`. No partial file is left.
        """
        checks.function("on_step", on_step)
        request = OwnVideoRequest(**options)
        return interpolate_video(
            self._stages_of_a_call(), self._room_now(), self._facts(), video, path, request, on_step
        )


def _request_of(prompt: str | Request, options: Options) -> Request:
    if not isinstance(prompt, Request):
        return Request(prompt, **options)
    if options:
        raise RequestError(
            f"prompt: expected a sentence beside the options {list(options)}, got a Request, which has its own; change "
            "it with dataclasses.replace"
        )
    return prompt


def _reopen(folder: str, digest: str, settings: SessionSettings) -> Pipeline:
    """A pipeline from a pickle or a copy: its bundle must still be there, unchanged."""
    bundle = open_bundle(folder)
    if bundle.digest != digest:
        raise BundleError(f"{folder}: expected the bundle {digest[:12]}, got {bundle.digest[:12]}; open it by name")
    return Pipeline(
        bundle,
        provider=settings.provider,
        threads=settings.threads,
        memory=settings.memory,
        cuda_graph=settings.cuda_graph,
        provider_options=settings.provider_options,
    )
