"""`python -m bench.metrics`: what folders of videos are worth, by the standard metrics and by ours.

`get` lists every network and fetches what packages carry. `paired` and `sets` take two folders. `fvd`, `is` and
`clipsim` are the standard metrics and need the standard files. Status: 0, or 2 where nothing could be measured, or with
--strict 3 where a network is missing.
"""

import argparse
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.harness.record import environment, write_json
from bench.harness.words import markdown
from bench.metrics.commands.compared import compared
from bench.metrics.commands.networks import got_all
from bench.metrics.commands.paired import paired
from bench.metrics.networks.network import NetworkError
from bench.metrics.standard.clipsim import clipsim
from bench.metrics.standard.frechet import fvd
from bench.metrics.standard.inception import video_inception_score
from bench.metrics.videos import captions_of, videos_in
from ffrt import FfrtError
from ffrt.files import typed_path
from ffrt.output.whole_file import check_file

UNMEASURED, NETWORK_MISSING = 2, 3
Rows = list[dict[str, Any]]


def parser() -> ArgumentParser:
    """The command line."""
    line = ArgumentParser(
        prog="python -m bench.metrics",
        description=(__doc__ or "").split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    some = line.add_subparsers(dest="command", required=True)
    for name, (_, folders, files, words) in COMMANDS.items():
        one = some.add_parser(name, help=words, description=words)
        for folder in folders:
            one.add_argument(folder, type=typed_path, metavar=folder.upper(), help="folder of videos")
        if name == "get":
            one.add_argument("names", nargs="*", metavar="NETWORK", help="which (all)")
        for file in files:
            one.add_argument(f"--{file}", type=typed_path, metavar="FOLDER" if file == "clip" else "FILE")
        if name == "clipsim":
            one.add_argument("--captions", type=typed_path, metavar="FILE", help="(captions.json of the folder)")
        one.add_argument("--json", type=typed_path, metavar="FILE", help="keep a record")
        one.add_argument("--strict", action="store_true", help="status 3 where a network is missing")
    return line


def networks(asked: Namespace) -> Rows:
    """What is there and what is not."""
    return got_all(asked.names, {"i3d": asked.i3d, "c3d": asked.c3d, "clip": asked.clip})


def pairs(asked: Namespace) -> Rows:
    """Every pair of videos of the same name."""
    return list(paired(videos_in(asked.fake), videos_in(asked.real)).values())


def sets(asked: Namespace) -> Rows:
    """Two sets of videos."""
    return list(compared(videos_in(asked.real), videos_in(asked.fake)).values())


def standard(name: str, needs: str, measure: Callable[[], dict[str, Any]]) -> Rows:
    """The one row of a standard metric, or that its network is missing."""
    try:
        return [measure()]
    except NetworkError as error:
        return [{"name": name, "missing": f"{error}", "needs": needs}]


def frechet(asked: Namespace) -> Rows:
    """FVD."""
    real, fake = videos_in(asked.real), videos_in(asked.fake)
    return standard("FVD", "--i3d FILE", lambda: fvd(real, fake, asked.i3d))


def inception(asked: Namespace) -> Rows:
    """IS."""
    fake = videos_in(asked.fake)
    return standard("IS", "--c3d FILE", lambda: video_inception_score(fake, asked.c3d))


def likeness(asked: Namespace) -> Rows:
    """CLIPSIM."""
    fake = videos_in(asked.fake)
    told = captions_of(fake, asked.captions)
    return standard("CLIPSIM", "--clip FOLDER", lambda: clipsim(fake, told, asked.clip))


COMMANDS: Mapping[str, tuple[Callable[[Namespace], Rows], tuple[str, ...], tuple[str, ...], str]] = {
    "get": (networks, (), ("i3d", "c3d", "clip"), "list every network; fetch and convert what can be had"),
    "paired": (pairs, ("fake", "real"), (), "PSNR, SSIM, MSE, LPIPS, DISTS, VMAF of videos beside true ones"),
    "sets": (sets, ("real", "fake"), (), "KD-frame, KD-motion, Cuts, Warp of two sets of videos"),
    "fvd": (frechet, ("real", "fake"), ("i3d",), "FVD, fvd2048_16f of StyleGAN-V"),
    "is": (inception, ("fake",), ("c3d",), "IS of videos, isv2048_ucf of StyleGAN-V"),
    "clipsim": (likeness, ("fake",), ("clip",), "CLIPSIM, ViT-B/32"),
}


def table(command: str, rows: Rows) -> str:
    """The rows of a command as a table, and under it what is missing."""
    if command == "get":
        heads = ["network", "metrics", "package", "licence", "sha256", "there"]
        lines = markdown(heads, (network_cells(one) for one in rows))
    else:
        lines = markdown(["metric", "value", "95 % interval", "real", "clips"], (cells(one) for one in rows))
    notes = [f"{one['name']}: {one['missing']}" for one in rows if "missing" in one]
    notes += [f"{one['name']}: {one['protocol']}" for one in rows if "protocol" in one]
    notes += [
        f"{side}: {one[side]['dropped_too_short']} videos of fewer than 16 frames were dropped"
        for one in rows
        for side in ("real", "fake")
        if isinstance(one.get(side), dict) and one[side]["dropped_too_short"]
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def network_cells(row: Mapping[str, Any]) -> list[str]:
    """One network."""
    digests = ", ".join(sha[:12] for sha in row["sha256"].values())
    there = "yes" if row["there"] else row["command"]
    return [row["name"], ", ".join(row["metrics"]), row["package"], row["licence"], digests, there]


def cells(row: Mapping[str, Any]) -> list[str]:
    """One metric."""
    if "missing" in row:
        return [row["name"], f"needs {row['needs']}" if "needs" in row else "not measured", "", "", ""]
    digits = row.get("digits", 3)

    def shown(value: float) -> str:
        return f"{value:.{digits}f}"

    interval = f"{shown(row['low'])} to {shown(row['high'])}" if "low" in row else ""
    real = shown(row["real"]) if isinstance(row.get("real"), float) else ""
    value = shown(row["value"])
    if "deviation_of_splits" in row:
        interval = f"deviation of splits {shown(row['deviation_of_splits'])}"
    value = f"{value} {row['unit']}" if row.get("unit") else value
    return [row["name"], value, interval, real, " and ".join(map(str, row["clips"]))]


def record(asked: Namespace, rows: Rows) -> dict[str, Any]:
    """What is kept: the rows, the digests of the folders, and the machine's environment."""
    folders = {one: vars(asked)[one] for one in COMMANDS[asked.command][1]}
    return {
        "bench": f"metrics {asked.command}",
        "rows": rows,
        "folders": {
            name: {"videos": len(found), "sha256": found.digest()}
            for name, place in folders.items()
            if (found := videos_in(place))
        },
        "environment": environment(None, "cpu", None),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, keep the record."""
    asked = parser().parse_args(arguments)
    try:
        if asked.json is not None and asked.json.parent.is_dir():
            check_file(asked.json)
        rows = COMMANDS[asked.command][0](asked)
        if asked.json is not None:
            write_json(asked.json, record(asked, rows))
    except (FfrtError, OSError) as error:
        print(f"metrics {asked.command}: not measured: {error}", file=sys.stderr)
        return UNMEASURED
    print(table(asked.command, rows))
    missing = [one for one in rows if "missing" in one]
    if missing and asked.strict:
        return NETWORK_MISSING
    return UNMEASURED if len(missing) == len(rows) and asked.command not in ("get",) else 0


if __name__ == "__main__":
    sys.exit(main())
