"""``python -m graphs optimise BUNDLE --provider cpu --out FOLDER``: rewrite a bundle for one provider."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ffrt.bundle import find_bundle, open_bundle
from ffrt.errors import FfrtError
from graphs.optimise import DTYPE_OF, DTYPES, Dtype, optimise
from graphs.passes.table import ON_REQUEST, PROVIDERS, names_of


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m graphs", description=__doc__)
    commands = line.add_subparsers(dest="command", required=True)
    one = commands.add_parser("optimise", help="rewrite every graph for one provider and compare it")
    one.add_argument("bundle", metavar="BUNDLE", help="folder of a bundle, or 'demo'")
    one.add_argument("--provider", choices=PROVIDERS, default="cpu", help="what it will run on (cpu)")
    one.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the new bundle")
    one.add_argument("--dtype", choices=DTYPES, help=f"numbers to compute in {DTYPE_OF}")
    every = list(dict.fromkeys(name for provider in PROVIDERS for name in names_of(provider)))
    one.add_argument("--without", nargs="+", choices=every, default=[], metavar="PASS", help=f"leave out: {every}")
    one.add_argument(
        "--also", nargs="+", choices=ON_REQUEST, default=[], metavar="PASS", help=f"add: {list(ON_REQUEST)}"
    )
    one.add_argument("--no-verify", action="store_true", help="do not compare the results")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. 0: the bundle is there; 1: it is not, and why; 130: stopped, with nothing left behind."""
    asked = parser().parse_args(arguments)
    began = time.perf_counter()

    def report(told: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {told}", file=sys.stderr, flush=True)

    dtype: Dtype = DTYPE_OF[asked.provider] if asked.dtype is None else asked.dtype
    try:
        made = optimise(
            open_bundle(find_bundle(asked.bundle)),
            asked.out,
            provider=asked.provider,
            dtype=dtype,
            without=asked.without,
            also=asked.also,
            report=report,
            verify=not asked.no_verify,
        )
    except KeyboardInterrupt:
        print("python -m graphs: stopped; no bundle was written", file=sys.stderr)
        return 130
    except (FfrtError, OSError, ValueError) as error:
        print(f"python -m graphs: {error}", file=sys.stderr)
        return 1
    total = sum(file.bytes for file in made.files.values())
    report(f"{made.folder}: {len(made.files)} files, {total / 1e6:.1f} MB, digest {made.digest[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
