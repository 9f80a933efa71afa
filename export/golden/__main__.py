"""`python -m export.golden FOLDER`: reference numbers of the released implementation against ours, PyTorch and ONNX."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from ffrt.cli.loading import loading

with loading("python -m export.golden" if __name__ == "__main__" else None):
    from export.golden.check import check_file
    from export.golden.file import Row
    from ffrt.files import typed_path


def table_row(row: Row) -> str:
    """A row of the printed table."""
    largest = f"{row.largest:.2e}"
    value = f"{row.value:6.1f} dB" if row.unit == "dB" else f"{row.value:9.2e}"
    return f"{row.file:34}  {row.output:26}  {row.runtime:11}  {largest:>9}  {value}  {'ok' if row.good else 'TOO FAR'}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m export.golden", description=__doc__.splitlines()[0])
    line.add_argument("folder", type=typed_path, help="folder of .npz files")
    line.add_argument("--no-onnx", action="store_true", help="PyTorch only; tracing takes most of the time")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a folder. 0: every file agrees; 1: one is too far off, or could not be run; 2: no file to check."""
    asked = parser().parse_args(arguments)
    files = sorted(asked.folder.glob("*.npz")) if asked.folder.is_dir() else []
    if not files:
        print(f"{asked.folder}: expected a folder of .npz files, found none", file=sys.stderr)
        return 2
    status, began = 0, time.monotonic()
    print(f"{'file':34}  {'output':26}  {'':11}  {'largest':>9}  relative RMS")
    for number, path in enumerate(files):
        print(f"{number + 1} of {len(files)}: {path.name}, after {time.monotonic() - began:.0f} s", file=sys.stderr)
        try:
            for row in check_file(path, onnx=not asked.no_onnx):
                print(table_row(row), flush=True)
                status = status if row.good else 1
        except Exception as error:  # one file that cannot be run must not hide the others
            print(f"{path.name:34}  could not be run: {type(error).__name__}: {error}", flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
