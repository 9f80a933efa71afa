"""The bundles and contenders of `bench.pipeline_speed`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from bench.contenders.ours import Ours
from bench.contenders.work import Contender
from bench.harness.run import say
from ffrt import Bundle, open_bundle


def small_bundle(folder: Path, demo: Bundle) -> Bundle:
    """The random bundle of the prototype's shapes; written once, in minutes. Raises BundleError for no bundle."""
    if folder.is_dir():
        return open_bundle(folder)
    from export.models.configs import INTERPOLATION_SHAPES, KEYFRAME_SHAPES_SMALL
    from export.onnx.random import write_random_bundle

    networks = {"interpolation_unet": INTERPOLATION_SHAPES["small"], "keyframe_unet": KEYFRAME_SHAPES_SMALL}
    say(f"writing {folder}; tracing takes minutes")
    return write_random_bundle(demo, networks, folder, say)


def optimised_bundle(bundle: Bundle, out: Path, provider: str) -> tuple[Bundle, float]:
    """The bundle with its graphs optimised, and the seconds that took.

    It is not verified here, since every stage is compared with eager before it is timed. Raises FfrtError if it fails.
    """
    from graphs.optimise import optimise

    start = time.perf_counter()
    optimised = optimise(bundle, out, provider=provider, verify=False)
    return optimised, time.perf_counter() - start


def contenders_of(own: Mapping[str, Bundle], kind: str, threads: int, compiled: bool) -> dict[str, Contender]:
    """Every contender over the weights of one bundle, "plain", "optimised" and perhaps "openvino".

    `kind` says which networks they are: "demo" or "small".
    """
    from bench.contenders.eager import Eager, networks_of

    plain = own["plain"]
    networks = networks_of(kind, plain.folder)
    found: dict[str, Contender] = {"eager": Eager(plain, networks, threads)}
    if compiled:
        found["compiled"] = Eager(plain, networks, threads, compiled=True)
    found["plain"] = Ours(plain, "cpu", threads)
    found["optimised"] = Ours(own["optimised"], "cpu", threads)
    if "openvino" in own:
        found["eager_bfloat16"] = Eager(plain, networks, threads, bfloat16=True)
        found["openvino"] = Ours(own["openvino"], "openvino", threads)
    return found
