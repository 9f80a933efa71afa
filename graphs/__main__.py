"""Rewrite bundles: for one provider, for step caching, or write the runtime's update graph again."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from ffrt.cli.loading import loading

with loading("python -m graphs" if __name__ == "__main__" else None):
    from ffrt.backend.providers import PROVIDERS as ROWS
    from ffrt.bundle import find_bundle, open_bundle
    from ffrt.errors import FfrtError, RequestError
    from ffrt.families import SHALLOW
    from ffrt.files import typed_path
    from ffrt.output.whole_file import identity, whole_file
    from graphs.deep_cache import write_cached
    from graphs.optimise import DTYPES, optimise
    from graphs.passes.table import ON_REQUEST, PROVIDERS, names_of
    from graphs.store import open_graph
    from graphs.update import PLACE, update_graph


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m graphs", description=__doc__)
    commands = line.add_subparsers(dest="command", required=True)

    text = "rewrite every graph for one provider and compare it"
    command = commands.add_parser("optimise", help=text, description=text)
    command.set_defaults(run=_optimise)
    _add_bundle_and_out(command)
    command.add_argument("--provider", choices=PROVIDERS, default="cpu", help="what it will run on (cpu)")
    defaults = {name: ROWS[name].dtypes[0] for name in PROVIDERS}
    command.add_argument("--dtype", choices=DTYPES, help=f"numbers to compute in {defaults}")
    every = list(dict.fromkeys(name for provider in PROVIDERS for name in names_of(provider)))
    command.add_argument("--without", nargs="+", choices=every, default=[], metavar="PASS", help=f"leave out: {every}")
    command.add_argument(
        "--also", nargs="+", choices=ON_REQUEST, default=[], metavar="PASS", help=f"add: {list(ON_REQUEST)}"
    )
    command.add_argument("--no-verify", action="store_true", help="do not compare the results")

    text = "add the graphs that step caching needs"
    command = commands.add_parser("cache", help=text, description=text)
    command.set_defaults(run=_cache)
    _add_bundle_and_out(command)

    text = "write the graph of everything in a denoising step but its network"
    command = commands.add_parser("update", help=text, description=text)
    command.set_defaults(run=_update)
    command.add_argument(
        "--out", type=typed_path, default=PLACE, metavar="FILE", help="the file that the runtime reads"
    )
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. 0: written; 1: not written, with the reason on stderr; 130: stopped, with nothing left behind."""
    options = parser().parse_args(arguments)
    before = identity(options.out)
    try:
        options.run(options)
    except KeyboardInterrupt:
        written = "no bundle was written" if identity(options.out) == before else f"{options.out} had been written"
        print(f"python -m graphs: stopped; {written}", file=sys.stderr)
        return 130
    except (FfrtError, OSError) as error:
        print(f"python -m graphs: {_as_typed(str(error), options)}", file=sys.stderr)
        return 1
    return 0


def _add_bundle_and_out(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", metavar="BUNDLE", help="folder of a bundle, or 'demo'")
    command.add_argument(
        "--out", type=typed_path, required=True, metavar="FOLDER", help="where to write the new bundle"
    )


def _optimise(options: argparse.Namespace) -> None:
    start = time.perf_counter()

    def report(line: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {line}", file=sys.stderr, flush=True)

    bundle = optimise(
        open_bundle(find_bundle(options.bundle)),
        options.out,
        provider=options.provider,
        dtype=options.dtype,
        without=options.without,
        also=options.also,
        report=report,
        verify=not options.no_verify,
    )
    total = sum(file.bytes for file in bundle.files.values())
    report(f"{bundle.folder}: {len(bundle.files)} files, {total / 1e6:.1f} MB, digest {bundle.digest[:12]}")


def _cache(options: argparse.Namespace) -> None:
    bundle = write_cached(open_bundle(find_bundle(options.bundle)), options.out)
    for name, shallow in SHALLOW.items():
        whole, part = (len(open_graph(bundle.path(bundle.graphs[graph].file)).graph) for graph in (name, shallow))
        print(f"{shallow}: {part} of the {whole} nodes of {name}")
    print(f"{options.out}: type ffrt generate PROMPT -o clip.mp4 --bundle {options.out} --cache-interval 2")


def _update(options: argparse.Namespace) -> None:
    if options.out.suffix != ".onnx":
        raise RequestError(f"out: expected a file ending in .onnx, got {str(options.out)!r}")
    with whole_file(options.out, "out") as part:
        size = part.write_bytes(update_graph().SerializeToString())
    print(f"{options.out}: {size} bytes")


def _as_typed(message: str, options: argparse.Namespace) -> str:
    """An error with its argument as the command line spells it: `dtype: ...` becomes `--dtype: ...`."""
    name, colon, rest = message.partition(":")
    if not colon or name not in vars(options):
        return message
    return f"{'BUNDLE' if name == 'bundle' else f'--{name}'}:{rest}"


if __name__ == "__main__":
    sys.exit(main())
