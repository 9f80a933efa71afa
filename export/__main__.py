"""``python -m export demo``: build a bundle from trained weights, and refuse to where a graph differs from PyTorch."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from export.configs import PRESETS
from export.demo import write_bundle
from export.parity import ParityError
from ffrt import FfrtError


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--weights", type=Path, default=Path("graphs/demo"), help="folder of float16 safetensors")
    parser.add_argument("--out", type=Path, default=Path("graphs/demo"), help="folder of the bundle")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    started = time.perf_counter()

    def report(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        bundle = write_bundle(PRESETS[args.preset], args.weights, args.out, report)
    except (ParityError, FfrtError, FileNotFoundError, RuntimeError) as error:
        print(f"export {args.preset}: {error}", file=sys.stderr)
        return 1
    total = sum(file.bytes for file in bundle.files.values())
    report(f"{args.out}: {len(bundle.files)} files, {total / 1e6:.1f} MB, digest {bundle.digest[:12]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
