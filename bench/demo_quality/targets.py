"""What is asked of the demo, next to what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.harness.program import target

SHARES = {"colour": 0.95, "background": 0.95, "action": 0.90, "shape": 0.80}
LOST_POINTS = 2.0
"""What `preset="fast"` may lose of a share, in percentage points."""
MOVQ_DB, GAIN_DB = 36.0, 3.0


def targets(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every target with its measurement; a part that was not run has none."""
    rows: list[dict[str, Any]] = []
    if "prompts" in record:
        for name, limit in SHARES.items():
            rows.append(
                target(f"{name} right", 100 * record["prompts"]["scores"][name]["share"], 100 * limit, unit="%")
            )
    if "prompts" in record and "fast" in record:
        for name in (*SHARES, "all"):
            few, usual = (record[part]["scores"][name]["share"] for part in ("fast", "prompts"))
            words = f'{name}, `preset="fast"` against the default'
            rows.append(target(words, 100 * (few - usual), -LOST_POINTS, unit="points"))
    if "movq" in record:
        rows.append(target("MoVQ reconstruction", record["movq"]["mean_db"], MOVQ_DB, unit="dB"))
    for passes, found in record.get("interpolation", {}).items():
        for rival, gain in (("linear", GAIN_DB), ("minterpolate", 0.0)):
            measured = found["all"]["ffrt"] - found["all"][rival]
            rows.append(target(f"interpolation {passes}, over {rival}", measured, gain, unit="dB"))
    return rows
