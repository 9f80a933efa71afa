"""`bench.first_frame` times the first frame of both presets, and says whether it is early enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import first_frame
from ffrt import Bundle, Generation


def test_a_record_has_both_presets_and_a_table(tiny: Bundle, tmp_path: Path) -> None:
    place = tmp_path / "record.json"
    asked = ["--bundle", str(tiny.folder), "--threads", "1", "--rounds", "2", "--json", str(place)]
    assert first_frame.main(asked) == 0
    record = json.loads(place.read_text())
    assert record["frames"] == 33 and record["fps"] == 30 and list(record["presets"]) == ["fast", "quality"]
    for found in record["presets"].values():
        assert 0 < found["first_s"] <= found["whole_s"] and len(found["shares"]) == 2
    record["targets"][0].update(measured=0.3, met=False)
    assert "| at most 25% | **no** |" in first_frame.table(record)


def test_other_frames_than_those_of_the_video_are_not_timed(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = Generation.frames
    monkeypatch.setattr(Generation, "frames", lambda self: [frame ^ 1 for frame in frames(self)])
    asked = ["--bundle", str(tiny.folder), "--threads", "1", "--json", str(tmp_path / "record.json")]
    assert first_frame.main(asked) == 2
    assert "expected those of the video to the bit" in capsys.readouterr().err
