"""`bench.device_memory` measures every stage over the stand-ins and says what is over the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import device_memory
from bench.cuda.wheel import over_stand_ins
from bench.device_memory import MEASURE, PARTS, table
from bench.harness.run import child
from ffrt.bundle import Bundle


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["low", "fast"])
def test_every_stage_is_measured(wheel: Path, variant: Bundle, tmp_path: Path, memory: str) -> None:
    around = over_stand_ins(wheel, tmp_path)
    bundles = dict.fromkeys(PARTS, str(variant.folder))
    argument = {"bundles": bundles, "side": 16, "width": 96, "memory": memory}
    found = child(MEASURE, argument, variables=around)["found"]
    assert list(found) == list(PARTS)
    weights = {name: variant.files[f"{name}.safetensors"].bytes for name in ("keyframe_unet", "movq_decoder")}
    assert found["keyframes"]["most"] > weights["keyframe_unet"] + found["text"]["held"] * (memory == "fast")
    if memory == "fast":
        assert found["decode"]["held"] > found["keyframes"]["held"], "every stage is kept"
    else:
        assert found["interpolation"]["held"] < found["keyframes"]["held"], "one stage at a time"


def record_of(most: float) -> dict[str, Any]:
    return {
        "environment": {"provider_from": "wheel==1"},
        "side_px": 512,
        "low": {part: {"most": most} for part in PARTS},
        "fast": {"decode": {"most": 2 * most}},
        "targets": [{"name": "most", "measured": most, "target": 12e9, "met": most <= 12e9}],
    }


def test_the_table_says_what_missed() -> None:
    assert "| 11.5 GB | under 12 GB | yes |" in table(record_of(11.5e9))
    assert "| 12.5 GB | under 12 GB | **no** |" in table(record_of(12.5e9))
    assert "25.0 GB" in table(record_of(12.5e9))


def test_a_folder_that_is_no_wheel_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in PARTS:
        (tmp_path / "cuda-tiny" / f"{part}-cuda").mkdir(parents=True)
    asked = ["--scale", "tiny", "--models", str(tmp_path), "--ort", str(tmp_path)]
    assert device_memory.main([*asked, "--json", str(tmp_path / "record.json")]) == 2
    assert "expected an unpacked onnxruntime-gpu" in capsys.readouterr().err
