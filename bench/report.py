"""`python -m bench.report [--check]`: the README's tables, made from the committed records of the benches.

A table stands between `<!-- bench:NAME -->` and `<!-- /bench -->`, comes from `bench/results/NAME.json` and is never
edited by hand; `--check` exits 1 when one is stale.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import device_memory, export_memory, real_footage, skip_values
from bench.harness.run import ROOT
from bench.interp_speed import table as interp_report
from bench.pipeline_speed import table as speed_report
from bench.step_quality import table as step_report

BLOCK = re.compile(r"<!-- bench:(\w+) -->\n(.*?)<!-- /bench -->", re.DOTALL)
METHODS = {
    "ffrt": "**ffrt**",
    "latent linear": "linear blending of latents",
    "linear": "linear blending",
    "minterpolate": "ffmpeg minterpolate (mci)",
    "hold": "hold",
    "autoencoder": "true frames through the autoencoder (the bound)",
    "true linear": "linear blending of rendered keyframes",
    "true minterpolate": "ffmpeg minterpolate of rendered keyframes",
    "true hold": "hold of rendered keyframes",
}


def number(value: float, unit: str) -> str:
    """A value with as many digits as its unit bears."""
    digits = {"%": 1, "points": 1, "dB": 1, "MB": 0, "s": 2 if abs(value) < 10 else 1}[unit]
    return f"{value:.{digits}f} {unit}"


def interval(score: Mapping[str, Any]) -> str:
    """The bounds of a share in percent, in brackets."""
    return f" ({100 * score['low']:.0f} to {100 * score['high']:.0f})"


def target_table(record: Mapping[str, Any]) -> list[str]:
    """Measured against target, with the 95 % interval of a share."""
    lines = ["| | measured | target | met |", "|---|---|---|---|"]
    for item in record["targets"]:
        measured = number(item["measured"], item["unit"])
        if item["unit"] == "%":
            measured += interval(record["prompts"]["scores"][item["name"].removesuffix(" right")])
        bound = ("at least " if item["least"] else "at most ") + number(item["target"], item["unit"])
        if item["target"] == 0:
            bound = "above 0"
        lines.append(f"| {item['name']} | {measured} | {bound} | {'yes' if item['met'] else '**no**'} |")
    scores = record.get("prompts", {}).get("scores", {})
    for name, words in (("size", "size right, where the prompt names one"), ("all", "all of these right at once")):
        if name in scores and scores[name]["of"]:
            lines.append(f"| {words} | {number(100 * scores[name]['share'], '%')}{interval(scores[name])} | | |")
    return lines


def interpolation_table(record: Mapping[str, Any]) -> list[str]:
    """PSNR of the frames between, per method, over all clips and over those that move; empty when not measured."""
    if "interpolation" not in record:
        return []
    measured = record["interpolation"]
    heads = [words for passes in measured for words in (f"{passes}, all", "moving")]
    lines = [f"| frames between, PSNR in dB | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, words in METHODS.items():
        cells = [found[kind][name] for found in measured.values() for kind in ("all", "moving")]
        lines.append(f"| {words} | " + " | ".join("" if cell is None else f"{cell:.1f}" for cell in cells) + " |")
    return [*lines, ""]


def conditions(record: Mapping[str, Any]) -> str:
    """On what, on which machine and with what versions."""
    around = record["environment"]
    counted = []
    if "prompts" in record:
        counted.append(f"{record['prompts']['scores']['all']['of']} prompts of the {record['split']} set")
    if "movq" in record:
        counted.append(f"{record['movq']['clips']} held-out clips")
    chosen = [f"{name} {value}" for name, value in record["sampling"].items() if value is not None]
    counted.append(", ".join(chosen) if chosen else "the bundle's sampling defaults")
    runtime = [f"{name} {around[name]}" for name in ("onnxruntime", "onnxruntime-gpu") if name in around]
    threads = "default threads" if around["threads"] is None else f"threads {around['threads']}"
    digest = "none" if around["bundle_digest"] is None else around["bundle_digest"][:12]
    machine = [around["cpu"], f"{around['cores']} cores", threads, f"provider {around['provider']}", *runtime]
    return (
        f"{', '.join(counted)}; {', '.join(machine)}, ffrt {around['ffrt']}, bundle digest {digest}. "
        "In brackets: 95 % Wilson intervals."
    )


def markdown(record: Mapping[str, Any]) -> str:
    """The whole report of one record."""
    return "\n".join([*target_table(record), "", *interpolation_table(record), conditions(record)])


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "demo_quality": markdown,
    "interp_speed": interp_report.table,
    "export_memory": export_memory.table,
    "device_memory": device_memory.table,
    "real_footage": real_footage.table,
    "skip_values": skip_values.table,
    "pipeline_speed": speed_report.table,
    "step_quality": step_report.table,
}
"""What makes the table of a record, by the record's `bench`."""


def renewed(readme: str, results: Path) -> str:
    """The README with every table made anew from its record in the folder `results`.

    Raises `ValueError` for a README without a table, a record of a partial run and one of another bench, and OSError
    where a record is missing.
    """

    def block(found: re.Match[str]) -> str:
        name = found[1]
        record = json.loads((results / f"{name}.json").read_text())
        if not record["whole"]:
            raise ValueError(f"{name}.json is of a partial run, which is not for the README")
        if record["bench"] not in TABLES or not name.startswith(record["bench"]):
            raise ValueError(f"{name}.json is a record of {record['bench']!r}, expected one of {sorted(TABLES)}")
        return f"<!-- bench:{name} -->\n{TABLES[record['bench']](record)}\n<!-- /bench -->"

    text, count = BLOCK.subn(block, readme)
    if count == 0:
        raise ValueError("the README has no <!-- bench:NAME --> with, after it, <!-- /bench -->")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Renew the README, or with --check only compare. 1: stale; 2: nothing to compare."""
    line = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    line.add_argument("--check", action="store_true", help="write nothing; exit 1 when a table of the README is stale")
    line.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="folder of the records")
    line.add_argument("--readme", type=Path, default=ROOT / "README.md")
    asked = line.parse_args(arguments)
    try:
        old = asked.readme.read_text()
        new = renewed(old, asked.results)
    except (OSError, ValueError) as error:
        print(f"no report: {error}; `python -m bench.NAME` writes the record of a bench", file=sys.stderr)
        return 2
    if new == old:
        return 0
    if asked.check:
        print(f"{asked.readme.name} is stale: run `python -m bench.report`", file=sys.stderr)
        return 1
    asked.readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
