"""Where videos are made, as the command line says: child processes here, or the machines of a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ffrt import checks
from ffrt.backend.graph import optimised_for
from ffrt.backend.providers import choose_provider
from ffrt.bundle import Bundle
from ffrt.serve.engine.executor import Executor
from ffrt.serve.engine.local import LocalExecutor, gpus
from ffrt.serve.engine.settings import EngineSettings
from ffrt.serve.jobs.data import Data
from ffrt.serve.options import ServeOptions


@contextlib.contextmanager
def opened_engine(options: ServeOptions, bundle: Bundle, data: Data) -> Iterator[Executor]:
    """The places for a block. Raises FfrtError if there is none, or, of a Ray cluster, what keeps it from use."""
    checks.threads(options.threads)  # a place would end again and again, and the server never be ready
    with contextlib.ExitStack() as stack:
        if options.engine == "local":
            executor: Executor = LocalExecutor(places(options, bundle, data))
        else:
            executor = stack.enter_context(_ray(options, bundle, data))
        stack.callback(executor.close)
        yield executor


def places(options: ServeOptions, bundle: Bundle, data: Data) -> list[EngineSettings]:
    """One place for each GPU, or one without. Raises ProviderError.

    Where every GPU is hidden, the place has none: "auto" is then the processors, and another provider says why not.
    """
    on_gpu = choose_provider(options.provider, optimised_for(bundle)).on_gpu
    devices: list[str | None] = [None]
    if on_gpu:
        found = gpus() if options.devices is None else [str(number) for number in options.devices]
        devices = ["0"] if found is None else [*found] if found else [None]
    return [
        EngineSettings(
            place=f"place-{number}",
            bundle=bundle.folder,
            digest=bundle.digest,
            scratch=data.scratch / f"place-{number}",
            provider=options.provider,
            threads=options.threads,
            memory=options.memory,
            gpu=gpu,
        )
        for number, gpu in enumerate(devices)
    ]


@contextlib.contextmanager
def _ray(options: ServeOptions, bundle: Bundle, data: Data) -> Iterator[Executor]:
    from ffrt.serve.engine.ray_actors import Asked
    from ffrt.serve.engine.ray_connect import connected
    from ffrt.serve.engine.ray_executor import RayExecutor, wanted

    asked = Asked(
        place="",
        bundle=None if options.bundle is None else str(bundle.folder),
        digest=bundle.digest,
        provider=options.provider,
        threads=options.threads,
        memory=options.memory,
    )
    with connected(options.ray_address, insecure=options.insecure_ray) as cluster:
        yield RayExecutor(cluster, wanted(cluster, data.server, asked, count=options.ray_places, cpus=options.ray_cpus))
