"""The tables and the plot of `bench.interp_speed`, made from its record alone."""

from collections.abc import Mapping
from typing import Any

from bench.contenders.baselines import Frames
from bench.harness.pictures import figure_pixels

WORDS = {
    "group": "**group** (three frames in one pass)",
    "masked_windows": "masked, windows of 5",
    "masked_sequence": "masked, whole sequence",
}


def size(cell: Mapping[str, Any]) -> str:
    """A cell in words."""
    clips = "1 clip" if cell["clips"] == 1 else f"{cell['clips']} clips"
    return f"{clips}, {cell['side_px']} px, to {cell['fps']} fps"


def cost_table(record: Mapping[str, Any]) -> list[str]:
    """One row a design and cell; the ratio with its quartile distance."""
    lines = [
        "| | design | s a step | ms a made frame | GFLOP a step | of the machine's matrix rate | peak memory | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in record["cells"]:
        for name, found in cell["designs"].items():
            ratio = cell["ratios"].get(f"{name}/group")
            peak = found.get("device_bytes")
            peak = found.get("peak_bytes") if peak is None else peak
            columns = [
                size(cell),
                WORDS[name],
                f"{found['step']['median_s']:.3f} ± {found['step']['iqr_s']:.3f}",
                f"{1000 * found['frame_s']:.0f}",
                f"{found['flops'] / 1e9:.1f}",
                f"{100 * found['flops_share']:.0f} %",
                "" if peak is None else f"{peak / 1e6:.0f} MB",
                "1" if ratio is None else f"{ratio['median']:.2f} ± {ratio['iqr']:.2f}",
            ]
            lines.append("| " + " | ".join(columns) + " |")
    return lines


def full_table(record: Mapping[str, Any]) -> list[str]:
    """FLOPs at the released shape."""
    lines = ["| released shape, 15 groups, guided | TFLOP a step | released code | ratio |", "|---|---|---|---|"]
    for row in record["full_shape"]:
        told = "" if row["released_code_tflop"] is None else f"{row['released_code_tflop']:.1f}"
        lines.append(
            f"| {WORDS[row['design']]}, {row['side_px']} px | {row['tflop']:.1f} | {told} | {row['ratio']:.2f} |"
        )
    return lines


def quality_table(record: Mapping[str, Any]) -> list[str]:
    """Designs and baselines against rendered truth."""
    found = record["quality"]
    lines = [f"| 2 to {found['fps']} fps | PSNR | SSIM | PSNR of the changes |", "|---|---|---|---|"]
    for name, scores in found["methods"].items():
        words = WORDS.get(name, name)
        lines.append(f"| {words} | {scores['psnr_db']:.1f} dB | {scores['ssim']:.4f} | {scores['change_db']:.1f} dB |")
    return lines


def conditions(record: Mapping[str, Any]) -> str:
    """On which machine, with what."""
    around = record["environment"]
    runtime = [f"{name} {around[name]}" for name in ("onnxruntime", "onnxruntime-gpu") if name in around]
    threads = "default threads" if around["threads"] is None else f"threads {around['threads']}"
    rate = f"matrix products {record['product_flops_per_s'] / 1e9:.0f} GFLOP/s" if "cells" in record else ""
    row = record["steps_in_a_row"] if "cells" in record else 0
    timed = {0: "", 1: "steps timed one by one"}.get(row, f"steps timed {row} in a row")
    weights = ", ".join(f"{name} {count / 1e6:.1f} M parameters" for name, count in record["parameters"].items())
    parts = [f"scale {record['scale']}", weights, around["cpu"], f"{around['cores']} cores", threads]
    memory = "weights left on disk" if record.get("memory") == "low" else ""
    parts += [f"provider {around['provider']}", *runtime, memory, timed, rate]
    parts += [f"bundle digest {around['bundle_digest'][:12]}"]
    return "; ".join(part for part in parts if part) + ". ± is the quartile distance."


def table(record: Mapping[str, Any]) -> str:
    """All that a record holds, as Markdown."""
    lines = []
    for key, part in (("cells", cost_table), ("full_shape", full_table), ("quality", quality_table)):
        if key in record:
            lines += [*part(record), ""]
    lines.append(conditions(record))
    for item in record["targets"]:
        verdict = "met" if item["met"] else "MISSED"
        lines.append(f"{item['name']}: {item['measured']:.2f}, target {item['target']}: {verdict}")
    return "\n".join(lines)


def plot(record: Mapping[str, Any]) -> Frames:
    """Cost of a made frame, cell by cell, and where quality was measured PSNR against that cost: `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=(3, 2)) if "quality" in record else [figure.subplots()]
    left = panels[0]
    cells = record["cells"]
    for index, name in enumerate(WORDS):
        shown = [(at, cell["designs"][name]) for at, cell in enumerate(cells) if name in cell["designs"]]
        values = [1000 * found["frame_s"] for _, found in shown]
        spreads = [
            v * found["step"]["iqr_s"] / found["step"]["median_s"] for v, (_, found) in zip(values, shown, strict=True)
        ]
        left.bar([at + 0.27 * (index - 1) for at, _ in shown], values, 0.25, yerr=spreads, label=name, capsize=2)
    left.set_xticks(range(len(cells)), [size(cell).replace(", ", "\n") for cell in cells], fontsize=8)
    left.set_yscale("log")
    left.set_title("ms a made frame, all steps")
    left.legend(fontsize=8)
    if "quality" in record:
        right = panels[1]
        for name, scores in record["quality"]["methods"].items():
            cost = cells[0]["designs"].get(name)
            if cost is not None:
                right.scatter(1000 * cost["frame_s"], scores["psnr_db"], label=name)
            elif name in ("linear", "latent linear", "minterpolate", "autoencoder"):
                right.axhline(scores["psnr_db"], linewidth=0.8, color="grey")
                right.text(0.98, scores["psnr_db"], name, transform=right.get_yaxis_transform(), ha="right", fontsize=7)
        right.set_xlabel("ms a made frame")
        right.set_title("PSNR in dB against cost")
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure_pixels(figure)
