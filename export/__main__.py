"""`python -m export NAME`: build a bundle from trained or released weights.

Every graph is compared with PyTorch; where one differs, no bundle is written.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ffrt.cli.loading import loading

with loading("python -m export" if __name__ == "__main__" else None):
    import torch

    from export.checkpoints.release import RELEASES
    from export.errors import OptionError
    from export.models.configs import PRESETS
    from export.onnx.demo import write_bundle
    from export.onnx.release import Dtype, write_release
    from ffrt import Bundle, FfrtError
    from ffrt.bundle import check_place as check_bundle_place
    from ffrt.files import typed_path
    from ffrt.output.whole_file import identity
    from graphs.optimise import optimise, plan
    from graphs.passes.table import PROVIDERS
    from graphs.store import check_place


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    line.add_argument("name", choices=[*sorted(PRESETS), *RELEASES])
    line.add_argument("--weights", type=typed_path, help="folder of the trained or released files (graphs/demo)")
    line.add_argument("--text-encoder", type=typed_path, help="Hugging Face folder (WEIGHTS/text_encoder)")
    line.add_argument("--length", type=int, help="keyframes of a video, as trained with --length (the preset's own)")
    line.add_argument("--out", type=typed_path, help="folder of the bundle (graphs/demo, graphs/bundles/NAME)")
    line.add_argument("--dtype", choices=("fp16", "fp32"), default="fp16", help="of a release's weights (fp16)")
    line.add_argument("--rounds", type=int, default=2, help="inputs that a release's graphs are compared on (2)")
    line.add_argument(
        "--optimise",
        nargs="+",
        choices=PROVIDERS,
        default=[],
        metavar="PROVIDER",
        help=f"also write OUT-PROVIDER, rewritten for it as python -m graphs optimise does: {list(PROVIDERS)}",
    )
    line.add_argument("--without", nargs="+", default=[], metavar="PASS", help="passes of --optimise to leave out")
    line.add_argument("--threads", type=int, help="CPU threads of PyTorch")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. 0: the bundle is there; 1: it is not, and why; 130: stopped, the same command goes on."""
    asked = parser().parse_args(arguments)
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    started = time.perf_counter()

    def report(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    places = [place_of(asked), *(beside(asked, provider) for provider in asked.optimise)]
    before = [identity(place) for place in places]
    try:
        check_bundle_place(places[0])
        for provider in asked.optimise:
            check_place(beside(asked, provider))
            plan(provider, without=asked.without)
        bundle = export_release(asked, report) if asked.name in RELEASES else export_preset(asked, report)
        for provider in asked.optimise:
            optimise(bundle, beside(asked, provider), provider=provider, without=asked.without, report=report)
    except KeyboardInterrupt:
        made = [str(place) for place, old in zip(places, before, strict=True) if identity(place) != old]
        written = f"written by now: {', '.join(made)}" if made else "no bundle was written"
        print(f"export {asked.name}: stopped; {written}, the same command goes on from here", file=sys.stderr)
        return 130
    except (FfrtError, OSError) as error:
        typed = "--" if str(error).startswith("out: ") else ""
        print(f"export {asked.name}: {typed}{error}", file=sys.stderr)
        return 1
    total = sum(file.bytes for file in bundle.files.values())
    report(f"{bundle.folder}: {len(bundle.files)} files, {total / 1e6:.1f} MB, digest {bundle.digest[:12]}")
    return 0


def beside(asked: argparse.Namespace, provider: str) -> Path:
    """Where the bundle for one provider goes."""
    out = place_of(asked)
    return out.with_name(f"{out.name}-{provider}")


def place_of(asked: argparse.Namespace) -> Path:
    """Where the bundle goes."""
    if asked.out is not None:
        return Path(asked.out)
    name = str(asked.name)
    return Path("graphs", "bundles", name) if name in RELEASES else Path("graphs", name)


def export_preset(asked: argparse.Namespace, report: Callable[[str], None]) -> Bundle:
    """A bundle of weights that were trained here."""
    weights = Path("graphs") / asked.name if asked.weights is None else asked.weights
    config = PRESETS[asked.name]
    if asked.length is not None:
        if not 2 <= asked.length <= config.position_range:
            raise OptionError(f"--length: expected 2 to {config.position_range} keyframes, got {asked.length}")
        config = replace(config, num_frames=asked.length)
    return write_bundle(config, weights, place_of(asked), report)


def export_release(asked: argparse.Namespace, report: Callable[[str], None]) -> Bundle:
    """A bundle of released weights."""
    if asked.length is not None:
        raise OptionError(f"--length: expected nothing for {asked.name}, whose release says its keyframes")
    if asked.weights is None:
        raise OptionError(f"--weights: expected the folder of the released files of {asked.name}, got none")
    if asked.rounds < 1:
        raise OptionError(f"--rounds: expected 1 or more, got {asked.rounds}")
    text = asked.weights / "text_encoder" if asked.text_encoder is None else asked.text_encoder
    if not text.is_dir():
        raise OptionError(
            f"--text-encoder: expected the folder of the text encoder (released: google/flan-ul2), got {text}, "
            "which does not exist"
        )
    release = RELEASES[asked.name](asked.weights, text)
    dtype: Dtype = "float16" if asked.dtype == "fp16" else "float32"
    return write_release(release, place_of(asked), dtype, asked.rounds, report)


if __name__ == "__main__":
    raise SystemExit(main())
