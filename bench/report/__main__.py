"""`python -m bench.report [--check]`: renew the tables and figures of README.md, docs/ and graphs/README.md.

A table stands between `<!-- bench:NAME -->` and `<!-- /bench -->`, comes from `bench/results/NAME.json` and is never
edited by hand; figures in prose are described in `bench.report.figures`. `--check` writes nothing and exits 1 when a
page is stale or a figure stands in no record, 2 when a record is missing or untrue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness.record import DEMO, RESULTS, ROOT, BenchError, digest_of
from bench.report.figures import unfounded, with_values
from bench.report.records import untrue
from bench.report.tables import TABLES, with_tables
from ffrt.output.whole_file import whole_file


def pages() -> list[Path]:
    """All pages that show figures."""
    return [ROOT / "README.md", ROOT / "graphs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def renewed(text: str, page: Path, results: Path) -> str:
    """The text of a page with every table and value written from records. Raises BenchError where one cannot be."""
    return with_values(with_tables(text, page, results), results)


def checked(page: Path, results: Path) -> list[str]:
    """What is stale or unfounded on a page. Raises BenchError where a record is missing."""
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
    stale = [] if renewed(text, page, results) == text else [f"{name} is stale: run `python -m bench.report`"]
    return stale + [f"{name}, {fault}" for fault in unfounded(text, ROOT)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Renew the pages, or with --check only compare. 1: something is stale; 2: a record is missing or untrue."""
    line = argparse.ArgumentParser(prog="python -m bench.report", description=(__doc__ or "").splitlines()[0])
    line.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is stale or unfounded")
    line.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    line.add_argument("--bundle", type=Path, default=DEMO, help="the bundle that the records must be of")
    line.add_argument("--pages", type=Path, nargs="+", default=pages(), help="(README.md, graphs/README.md, docs/)")
    asked = line.parse_args(arguments)
    found: list[str] = []
    try:
        if asked.check:
            if wrong := untrue(asked.results, digest_of(asked.bundle), TABLES):
                raise BenchError("\n".join(wrong))
            for page in asked.pages:
                found += checked(page, asked.results)
        else:
            texts = {page: renewed(page.read_text(encoding="utf-8"), page, asked.results) for page in asked.pages}
            for page, text in texts.items():
                with whole_file(page) as part:
                    part.write_text(text, encoding="utf-8")
    except (OSError, BenchError) as error:
        print(f"no report: {error}", file=sys.stderr)
        return 2
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
