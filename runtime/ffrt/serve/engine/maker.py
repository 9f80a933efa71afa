"""What every place does, in whichever process: open a pipeline, make one job at a time, and stop one by name."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ffrt.errors import BundleError, Cancelled, FfrtError, OutOfMemoryError, RequestError, VideoWriteError
from ffrt.serve.engine import executor as told
from ffrt.serve.engine.settings import EngineSettings

if TYPE_CHECKING:
    from ffrt.backend.free_memory import FreeMemory
    from ffrt.pipeline import Pipeline


@dataclass(frozen=True)
class Opened:
    """The first word of a place: the provider it got, and the memory that was free before."""

    provider: str
    on_gpu: bool
    free: FreeMemory | None


class Maker:
    """One thread opens, makes and probes; any other may cancel."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._choosing = threading.Lock()
        self._pipeline: Pipeline | None = None
        self._current: str | None = None
        self._cancelled = False
        self._stop: Callable[[], None] | None = None

    @property
    def current(self) -> str | None:
        """The job that runs."""
        return self._current

    def open(self, tell: Callable[[Opened], None]) -> None:
        """Open the pipeline, tell which it is, and warm it up. Raises FfrtError, and what an engine raises."""
        from ffrt.backend.free_memory import free_memory
        from ffrt.pipeline import Pipeline
        from ffrt.serve.engine.making import warm_up

        settings = self._settings
        settings.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        pipeline = Pipeline.from_pretrained(
            settings.bundle, provider=settings.provider, threads=settings.threads, memory=settings.memory
        )
        if pipeline.bundle.digest != settings.digest:
            raise BundleError(
                f"{settings.bundle}: expected the bundle {settings.digest[:12]}, got {pipeline.bundle.digest[:12]}; "
                f"{settings.mend}"
            )
        on_gpu = pipeline.stages.graphs.on_gpu
        tell(Opened(pipeline.provider, on_gpu, free_memory(on_gpu)))
        warm_up(pipeline)
        self._pipeline = pipeline

    def make(self, work: told.Work, saved: bytes | None, tell: Callable[[told.Event], None]) -> told.Event:
        """Make a job, tell all its events but the end, and return the end, when it can no longer be cancelled.

        After a `Failed` that is retryable the process is to be replaced: nobody foresaw the error.
        """
        from ffrt.serve.engine.making import Making

        settings = self._settings
        with self._choosing:
            self._current, self._cancelled, self._stop = work.id, False, None
        tell(told.Started(settings.place))
        end: told.Event
        try:
            previews = settings.previews and settings.memory == "fast"
            making = Making(self._opened(), work, saved, settings.scratch, previews=previews)
            with self._choosing:
                self._stop = making.generation.cancel
                if self._cancelled:
                    making.generation.cancel()
            last: list[told.Event] = []
            making.run(lambda event: last.append(event) if isinstance(event, told.Finished) else tell(event))
            (end,) = last
        except Cancelled:
            end = told.Stopped()
        except OutOfMemoryError as error:
            end = told.Failed("does_not_fit", str(error))
        except RequestError as error:
            picture = str(error).startswith("image:")
            end = told.Failed("invalid_reference" if picture else "invalid_value", str(error))
        except VideoWriteError as error:
            full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
            end = told.Failed("disk_full" if full else "write_failed", str(error), retryable=True)
        except BaseException as error:
            end = told.Failed("internal_error", words(error), retryable=True)
        with self._choosing:
            self._current = self._stop = None
        return end

    def cancel(self, job_id: str) -> None:
        """Stop a job in mid-step, if it is the one that runs."""
        with self._choosing:
            if self._current == job_id:
                self._cancelled = True
                if self._stop is not None:
                    self._stop()

    def probe(self) -> None:
        """One step, to see whether the device still computes. Raises what a generation raises."""
        from ffrt.serve.engine.making import probe

        probe(self._opened())

    def _opened(self) -> Pipeline:
        assert self._pipeline is not None, "open comes first"
        return self._pipeline


def words(error: BaseException) -> str:
    """An error as an operator should read it."""
    return str(error) if isinstance(error, FfrtError) else f"{type(error).__name__}: {error}"
