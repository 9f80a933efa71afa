"""README and docs show what stands in a record and nothing else, and records are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.harness.record import BenchError, digest_of, write_json
from bench.report import __main__ as report
from bench.report.figures import lookup, shown, unfounded, with_values
from bench.report.records import faults, load
from bench.report.tables import PARTS, TABLES
from ffrt import Bundle

ROOT = Path(__file__).parents[2]
COMMIT = "a" * 40
TARGET = {"name": "MoVQ reconstruction", "measured": 41.0, "target": 36.0, "least": True, "met": True, "unit": "dB"}


def record_of(bundle: Bundle, **changes: Any) -> dict[str, Any]:
    around = {"cpu": "a cpu", "cores": 2, "threads": None, "provider": "cpu", "ffrt": "0", "bundle": bundle.name}
    return {
        "bench": "demo_quality",
        "whole": True,
        "command": "python -m bench.demo_quality",
        "environment": {**around, "bundle_digest": digest_of(bundle.folder), "commit": COMMIT, **changes},
        "split": "test",
        "sampling": {"sampler": None},
        "targets": [TARGET],
        "movq": {"mean_db": 41.04, "clips": 8},
    }


@pytest.fixture
def page(tiny: Bundle, tmp_path: Path) -> Path:
    """A page beside a folder of one record, with a table of it."""
    write_json(tmp_path / "results" / "demo_quality.json", record_of(tiny))
    (tmp_path / "page.md").write_text("# A\n\n<!-- bench:demo_quality -->\nold\n<!-- /bench -->\n\nrest\n")
    return tmp_path / "page.md"


def run(page: Path, tiny: Bundle, *more: str) -> int:
    places = ["--results", str(page.parent / "results"), "--bundle", str(tiny.folder), "--pages", str(page)]
    return report.main([*places, *more])


def test_a_table_is_renewed_from_its_record_and_then_no_longer_stale(
    page: Path, tiny: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(page, tiny, "--check") == 1 and "old" in page.read_text()
    assert "page.md is stale: run `python -m bench.report`" in capsys.readouterr().err
    assert run(page, tiny) == 0 and run(page, tiny, "--check") == 0
    text = page.read_text()
    assert text.startswith("# A\n\n<!-- bench:demo_quality -->\n") and text.endswith("<!-- /bench -->\n\nrest\n")
    assert "| MoVQ reconstruction | 41.0 dB | at least 36.0 dB | yes |" in text and "8 held-out clips" in text


def test_a_part_of_a_table_stands_alone(page: Path, tiny: Bundle) -> None:
    page.write_text("<!-- bench:demo_quality/targets -->\n<!-- /bench -->\n")
    assert run(page, tiny) == 0
    assert "MoVQ" in page.read_text() and "held-out clips" not in page.read_text()


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("bench:nothing", "expected the name of a record of one of"),
        ("bench:demo_quality/picture", "expected a part of"),
        (
            "bench:demo_quality/nothing",
            "expected a part of ['conditions', 'interpolation', 'one_step', 'outlines', 'targets']",
        ),
    ],
)
def test_a_table_of_nothing_is_refused(
    block: str, words: str, page: Path, tiny: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"<!-- {block} -->\n<!-- /bench -->\n"
    page.write_text(text)
    assert run(page, tiny) == 2 and words in capsys.readouterr().err and page.read_text() == text


@pytest.mark.parametrize("marker", ["skip_values", "interp_speed_small/cost", "step_quality/picture"])
def test_a_page_says_what_is_not_measured_yet(marker: str, page: Path, tiny: Bundle) -> None:
    page.write_text(f"<!-- bench:{marker} -->\n| 1.5 | old |\n<!-- /bench -->\n")
    assert run(page, tiny) == 0 and run(page, tiny, "--check") == 0
    bench = {"interp_speed_small/cost": "interp_speed"}.get(marker, marker)
    words = (
        "" if "picture" in marker else f"*Not measured for the shipped bundle yet: `python -m bench.{bench}` does.*\n"
    )
    assert page.read_text() == f"<!-- bench:{marker} -->\n{words}<!-- /bench -->\n"


def test_a_picture_is_linked_from_where_the_page_is(page: Path, tiny: Bundle) -> None:
    (page.parent / "results" / "demo_quality.png").write_bytes(b"")
    deep = page.parent / "docs" / "page.md"
    deep.parent.mkdir()
    deep.write_text("<!-- bench:demo_quality/picture -->\n<!-- /bench -->\n")
    assert report.main(["--results", str(page.parent / "results"), "--pages", str(deep)]) == 0
    assert "![demo_quality](../results/demo_quality.png)" in deep.read_text()


def test_a_partial_run_is_not_shown(page: Path, tiny: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(page.parent / "results" / "demo_quality.json", {**record_of(tiny), "whole": False})
    assert run(page, tiny) == 2 and "partial run" in capsys.readouterr().err


def test_the_headline_takes_targets_of_the_records_that_are_there(page: Path, tiny: Bundle) -> None:
    target = {**TARGET, "name": "action right", "unit": "%", "measured": 98.3, "target": 90.0}
    write_json(page.parent / "results" / "demo_quality.json", {**record_of(tiny), "targets": [target]})
    page.write_text("<!-- bench:headline -->\n<!-- /bench -->\n")
    assert run(page, tiny) == 0
    assert page.read_text().count("\n|") == 3 and "| 98.3 % | at least 90.0 % | yes |" in page.read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"commit": COMMIT + "+"}, "expected one without changes"),
        ({"commit": "unknown"}, "expected one without changes"),
        ({"bundle_digest": "b" * 64}, "is of bundle bbbbbbbbbbbb, expected the shipped one"),
    ],
)
def test_a_record_of_another_bundle_or_of_a_changed_tree_is_refused(
    change: dict[str, str], words: str, page: Path, tiny: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    run(page, tiny)
    assert run(page, tiny, "--check") == 0
    write_json(page.parent / "results" / "demo_quality.json", record_of(tiny, **change))
    assert run(page, tiny, "--check") == 2
    assert words in capsys.readouterr().err


def test_a_record_says_by_which_command_it_was_made(tiny: Bundle) -> None:
    shipped, good = digest_of(tiny.folder), record_of(tiny)
    assert faults("demo_quality", good, shipped, TABLES) == []
    assert "names no command" in faults("demo_quality", {**good, "command": ""}, shipped, TABLES)[0]
    assert "under its own name" in faults("skip_values", good, shipped, TABLES)[0]
    assert "partial run" in faults("demo_quality", {**good, "whole": False}, shipped, TABLES)[0]
    assert faults("demo_quality", record_of(tiny, bundle_digest=None), shipped, TABLES) == []


def test_a_picture_without_a_record_is_refused(page: Path, tiny: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    (page.parent / "results" / "lonely.png").write_bytes(b"")
    assert run(page, tiny, "--check") == 2 and "lonely.png belongs to no record" in capsys.readouterr().err


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(BenchError, match="odd.json: expected a record of a bench"):
        load(tmp_path, "odd")


def test_a_value_in_prose_is_written_from_its_record(page: Path, tiny: Bundle) -> None:
    page.write_text("It has <!-- value:demo_quality/movq/mean_db 1 dB -->?<!-- /value --> of 60.\n")
    assert run(page, tiny) == 0
    assert page.read_text() == "It has <!-- value:demo_quality/movq/mean_db 1 dB -->41.0 dB<!-- /value --> of 60.\n"
    assert run(page, tiny, "--check") == 0
    write_json(page.parent / "results" / "demo_quality.json", {**record_of(tiny), "movq": {"mean_db": 39.0}})
    assert run(page, tiny, "--check") == 1, "stale"


@pytest.mark.parametrize(
    ("digits", "unit", "text"),
    [(2, None, "0.13"), (1, "%", "12.8 %"), (0, "ms", "128 ms"), (1, "dB", "0.1 dB"), (2, "times", "0.13 times")],
)
def test_a_value_is_scaled_to_its_unit(digits: int, unit: str | None, text: str) -> None:
    assert shown(0.128, digits, unit) == text


def test_values_are_found_by_path() -> None:
    found = {"targets": [{"name": "a/b", "measured": 1}, {"name": "c", "measured": 2.5}], "met": True}
    assert lookup(found, "targets/0/measured") == 1 and lookup(found, "targets/name=c/measured") == 2.5
    for wrong in ("targets/5/measured", "targets/name=d/measured", "nothing", "met", "targets"):
        with pytest.raises(BenchError, match="value "):
            lookup(found, wrong)
    with pytest.raises(BenchError, match="expected a unit of"):
        shown(1.0, 1, "furlongs")


def test_a_value_of_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="expected a record gone.json"):
        with_values("<!-- value:gone/a 1 -->1<!-- /value -->", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "It is 45 dB off.",
        "In 0.37 s.",
        "gains 1.13 times",
        "a 2x gain",
        "40 % less",
        "under 4 GB",
        "about 5 hours",
        "takes 3 minutes",
        "| a | 27.6 |",
    ],
)
def test_a_figure_that_stands_in_no_record_is_refused(text: str, page: Path, tiny: Bundle) -> None:
    assert len(unfounded(text, ROOT)) == 1
    page.write_text(text + "\n")
    assert run(page, tiny, "--check") == 1


@pytest.mark.parametrize(
    "text",
    [
        "| 1.0 | text |",
        "61 frames at 8 fps, 128 x 128 px, 8.7 billion parameters, version 1.32.0",
        "`--minutes 8 min`",
        "```bash\nsleep 5 s\n```",
        "<!-- source:graphs/compare.py -->35 dB<!-- /source -->",
        "<!-- source:https://example.org/paper -->60 GB<!-- /source -->",
        "<!-- value:demo_quality/movq/mean_db 1 dB -->41.0 dB<!-- /value -->",
        "<!-- bench:demo_quality -->\n| 41.0 |\n<!-- /bench -->",
    ],
)
def test_counts_code_sources_and_records_are_no_such_figures(text: str) -> None:
    assert unfounded(text, ROOT) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- source:no/such/file -->3 dB<!-- /source -->", "is no file and no address"),
        ("<!-- value:demo_quality/movq/mean_db -->3<!-- /value -->", "is no whole marker"),
        ("a\n\nb 3 dB", "line 3: '3 dB' stands in no record"),
    ],
)
def test_a_broken_marker_is_named_with_its_line(text: str, words: str) -> None:
    assert words in unfounded(text, ROOT)[0]


def test_every_bench_of_a_record_has_a_table() -> None:
    assert set(PARTS) <= set(TABLES)
    for path in (ROOT / "bench" / "results").glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["bench"] in TABLES


def test_the_records_are_true_and_the_pages_show_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check"]) == 0, capsys.readouterr().err
