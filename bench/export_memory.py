"""`python -m bench.export_memory`: the full-size Kandinsky Video 1.0 export, its time and its peak memory.

Random weights of the released shapes are written to disk in the released layout (float32; 4.14 and 3.87 billion
parameters of the two U-Nets, 0.27 of MoVQ), then `python -m export kandinsky-video-1.0` runs in a process of its own,
compares every graph with PyTorch on the same weights, and is watched.
"""

from __future__ import annotations

import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.datasets.release import write_release
from bench.harness import program
from bench.harness.program import Program, Result, target
from bench.harness.record import ROOT
from bench.harness.run import ChildError, child, say
from bench.harness.words import markdown, number, verdict

TARGETS = {"peak_bytes": 10e9, "seconds": 15 * 60.0}
SHOWN = {"peak_bytes": ("peak resident memory", 1e9, "GB"), "seconds": ("wall time", 60, "min")}

EXPORT = """
from export.__main__ import main
result["status"] = main(argument["arguments"])
"""


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--scratch", type=Path, default=ROOT / "runs" / "export_memory", help="50 GB of room (runs/...)")
    line.add_argument("--dtype", choices=("fp16", "fp32"), default="fp16", help="as the bundle keeps weights (fp16)")
    line.add_argument("--rounds", type=int, default=1, help="inputs that every graph is compared on (1)")
    line.add_argument("--small", action="store_true", help="a small shape: a trial of the program, not a measurement")
    line.add_argument("--keep", action="store_true", help="leave the files and the bundle in --scratch")


def measure(asked: Namespace) -> Iterator[Result]:
    """Write the files and export them in a child process. Raises ChildError where the export fails."""
    try:
        yield exported(asked)
    finally:
        if not asked.keep:
            remove_files(asked.scratch)


def exported(asked: Namespace) -> Result:
    """Time and peak memory of the export, and the parity that its manifest states."""
    folder = asked.scratch.resolve()
    out = folder / "bundle"
    parameters = write_release(folder, asked.small, say)
    say("exporting")
    command = ["kandinsky-video-1.0", "--weights", str(folder), "--out", str(out), "--dtype", asked.dtype]
    run = child(EXPORT, {"arguments": [*command, "--rounds", str(asked.rounds)]}, show=True)
    if run["status"] != 0:
        raise ChildError(f"the export ended with status {run['status']}")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    measured = {"peak_bytes": run["peak_bytes"], "seconds": run["seconds"]}
    return Result(
        {
            "dtype": asked.dtype,
            "parameters": parameters,
            "source_bytes": sum(path.stat().st_size for path in (folder / "weights").iterdir()),
            "bundle_bytes": sum(file["bytes"] for file in manifest["files"].values()),
            "parity": {name: graph["parity"]["relative_rms"] for name, graph in manifest["graphs"].items()},
            **measured,
            "targets": [target(name, measured[name], most, least=False) for name, most in TARGETS.items()],
        }
    )


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    rows = []
    for item in record["targets"]:
        words, scale, unit = SHOWN[item["name"]]
        limit = f"at most {item['target'] / scale:.0f} {unit}"
        rows.append([words, number(item["measured"] / scale, unit), limit, verdict(item)])
    for name, value in record["parity"].items():
        rows.append([f"parity of `{name}`, relative RMS", f"{value:.1e}", "at most 1e-3", "yes"])
    parameters = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in record["parameters"].items())
    machine = f"{record['environment']['cpu']}, {record['environment']['cores']} cores"
    return "\n".join(
        [
            *markdown(["full-size 1.0 export", "measured", "target", "met"], rows),
            "",
            f"{parameters} parameters; {record['source_bytes'] / 1e9:.1f} GB of float32 files -> "
            f"{record['bundle_bytes'] / 1e9:.1f} GB bundle ({record['dtype']}); {machine}.",
        ]
    )


def remove_files(folder: Path) -> None:
    """Remove what this program and the export left in a folder, and the folder unless it holds something else."""
    for name in ("weights", "text_encoder", "bundle", ".bundle.writing"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "configs.json").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


PROGRAM = Program(
    "export_memory",
    __doc__,
    measure,
    table,
    arguments,
    bundle=False,
    providers=("cpu",),
    threads=False,
    free=lambda asked: frozenset({"scratch", "keep"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and keep the record. 0: exported; 2: not."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
