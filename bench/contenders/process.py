"""One contender in a process of its own, so that its peak memory can be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.contenders.ours import Ours
from bench.contenders.work import PROMPT, Contender, Scale, inputs_of, runner
from ffrt import open_bundle

ONE_RUN = "from bench.contenders.process import run_once\nrun_once(argument)\n"
"""A body for `bench.harness.run.child`."""


def run_once(argument: dict[str, Any]) -> None:
    """Open one contender in this process and run one stage of it, or a whole video.

    `argument`: `contender` ("eager" or other), `bundle`, `scale` (fields of Scale), `networks` ("demo" or "small"),
    `stage` or else `fps`, `threads`, `provider`, `memory`.
    """
    bundle = open_bundle(Path(argument["bundle"]))
    fields = argument["scale"]
    scale = Scale(**{**fields, "tokens": None if fields["tokens"] is None else tuple(fields["tokens"])})
    contender: Contender
    if argument["contender"] == "eager":
        from bench.contenders.eager import Eager, networks_of

        contender = Eager(bundle, networks_of(argument["networks"], bundle.folder), argument["threads"])
    else:
        contender = Ours(bundle, argument["provider"], argument["threads"], argument["memory"])
    if "fps" in argument:
        if isinstance(contender, Ours):
            contender.fast_video(argument["fps"], PROMPT)
        else:
            contender.video(argument["fps"], PROMPT)
        return
    inputs = inputs_of(scale, bundle, contender.encode)
    runner(contender, argument["stage"], scale, inputs, 1)()
