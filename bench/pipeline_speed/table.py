"""The table and the plot of `bench.pipeline_speed`, made from its record alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.contenders.baselines import Frames
from bench.harness.pictures import figure_pixels

PLAIN = str.maketrans("", "", "*`")
"""What Markdown alone needs in a name."""
CONTENDERS = {
    "eager": "PyTorch eager",
    "compiled": "torch.compile",
    "plain": "exported graph",
    "optimised": "**optimised graph**",
    "recorded": "optimised graph, `cuda_graph`",
    "eager_bfloat16": "PyTorch eager, bfloat16",
    "openvino": "**optimised graph, OpenVINO, bfloat16**",
    "optimised_fast": '**optimised graph, `preset="fast"`**',
    "openvino_fast": '**optimised graph, OpenVINO, bfloat16, `preset="fast"`**',
}
STAGES = {
    "keyframe_step": "keyframe step",
    "interpolation_step": "interpolation step",
    "decode_frame": "decoding a frame",
    "text": "encoding a prompt",
}
TARGETS = {
    "interpolation_step": "interpolation step, eager over the optimised graph",
    "keyframe_step": "keyframe step, eager over the optimised graph",
    "end_to_end_fast": 'whole video, eager with the released steps over ours with `preset="fast"`',
    "host_overhead": "share of a denoising loop beside its graphs",
}
RUN_BY = {"optimised": ", ONNX Runtime in float32", "openvino": ", OpenVINO in bfloat16"}


def seconds(timing: Mapping[str, Any]) -> str:
    """Median and quartile distance with the digits that a time of its size bears."""
    digits = 1 if timing["median_s"] >= 10 else 3 if timing["median_s"] >= 0.01 else 4
    return f"{timing['median_s']:.{digits}f} ± {timing['iqr_s']:.{digits}f}"


def ratio(rows: Mapping[str, Any], name: str) -> str:
    """Eager over a contender, with its quartile distance."""
    found = rows["ratios"].get(name)
    return "1" if found is None else f"{found['median']:.2f} ± {found['iqr']:.2f}"


def stage_rows(record: Mapping[str, Any]) -> Iterator[str]:
    """One row a scale, stage and contender."""
    kept = record.get("memory", {}).get("stages", {})
    for scale, found in record["scales"].items():
        for stage, rows in found["stages"].items():
            for name, own in rows["contenders"].items():
                peak = kept.get(scale, {}).get(stage, {}).get(name)
                columns = [
                    f"{scale}, {STAGES[stage]}",
                    CONTENDERS[name],
                    seconds(own["seconds"]),
                    f"{own['flops'] / 1e9:.2f}" if "flops" in own else "",
                    f"{100 * own['flops_share']:.0f} %" if "flops_share" in own and stage != "text" else "",
                    "" if peak is None else f"{peak / 1e6:.0f} MB",
                    ratio(rows, name),
                ]
                yield "| " + " | ".join(columns) + " |"


def video_table(record: Mapping[str, Any]) -> list[str]:
    """Whole videos: seconds, ratio, and peak memory where it was measured."""
    video = record["video"]
    lines = [f"| {video['frames']} frames, text to pixels | s | eager over it |", "|---|---|---|"]
    for name, timing in video["contenders"].items():
        lines.append(f"| {CONTENDERS[name]} | {seconds(timing)} | {ratio(video, name)} |")
    return [*lines, ""]


def memory_table(record: Mapping[str, Any]) -> list[str]:
    """Peak memory of whole videos, a row a contender, a column a rate."""
    found = record["memory"]["videos"]
    rates = list(dict.fromkeys(rate for row in found.values() for rate in row))
    lines = [f"| peak memory of a whole video | {' | '.join(rates)} |", "|---" * (len(rates) + 1) + "|"]
    for name, row in found.items():
        cells = [f"{row[rate] / 1e6:.0f} MB" if rate in row else "" for rate in rates]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def target_table(record: Mapping[str, Any]) -> list[str]:
    """Measured against what was asked for."""
    lines = ["| | measured | target | met |", "|---|---|---|---|"]
    for item in record["targets"]:
        if item["name"] == "host_overhead":
            measured, target = f"{100 * item['measured']:.1f} %", f"under {100 * item['target']:.0f} %"
        else:
            measured, target = f"{item['measured']:.2f}", f"at least {item['target']:.1f}"
        by = RUN_BY[item["contender"]] if "contender" in item else ""
        lines.append(f"| {TARGETS[item['name']]}{by} | {measured} | {target} | {'yes' if item['met'] else '**no**'} |")
    return [*lines, ""]


def profile_lines(record: Mapping[str, Any]) -> list[str]:
    """Where the kernels of each denoising step spend their time, a line a scale, stage and graph."""
    lines = []
    for scale, found in record["scales"].items():
        for stage, rows in found["stages"].items():
            for name, operators in rows.get("operators", {}).items():
                if stage == "text" or not operators:
                    continue
                told = ", ".join(f"{one['operator']} {100 * one['share']:.0f} %" for one in operators)
                lines.append(f"- {scale}, {STAGES[stage]}, {name}: {told}")
    return ["Kernel time by operator:", "", *lines, ""] if lines else []


def conditions(record: Mapping[str, Any]) -> str:
    """On which machine, with what."""
    around = record["environment"]
    runtime = [
        f"{name} {around[name]}" for name in ("onnxruntime", "onnxruntime-gpu", "openvino", "torch") if around.get(name)
    ]
    rate = f"matrix products {record['product_flops_per_s'] / 1e9:.0f} GFLOP/s"
    parts = [around["cpu"], f"{around['cores']} cores", f"{around['threads']} threads", *runtime, rate]
    parts.append(f"steps timed {record['steps_in_a_row']} in a row")
    apart = "the FLOPs of eager are those of the exported graph, and the matrix rate is that of float32"
    return f"{'; '.join(parts)}. ± is the quartile distance; {apart}; demo digest {around['bundle_digest'][:12]}."


def table(record: Mapping[str, Any]) -> str:
    """All that a record holds, as Markdown."""
    lines = target_table(record) if record["targets"] else []
    if record["scales"]:
        lines += [
            "| scale, stage | contender | s | GFLOP | of the machine's matrix rate | peak memory | eager over it |",
            "|---|---|---|---|---|---|---|",
            *stage_rows(record),
            "",
        ]
    if "video" in record:
        lines += video_table(record)
    if "projected" in record:
        told = [f"{own_s:.1f} s fast{RUN_BY[name]}" for name, own_s in record["projected"]["fast_s"].items()]
        eager = f"{record['projected']['eager_s']:.1f} s by eager"
        lines += [f"Whole video, projected from its stages: {'; '.join([eager, *told])}.", ""]
    if "memory" in record:
        lines += memory_table(record)
    return "\n".join([*lines, *profile_lines(record), conditions(record)])


def draw_stages(panel: Any, record: Mapping[str, Any]) -> None:
    """Bars on a panel: seconds of every stage, contender by contender."""
    shown = [
        ("\n".join([scale, *STAGES[stage].split(" ", 1)]), rows["contenders"])
        for scale, found in record["scales"].items()
        for stage, rows in found["stages"].items()
    ]
    names = [name for name in CONTENDERS if any(name in contenders for _, contenders in shown)]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        at = [place for place, (_, contenders) in enumerate(shown) if name in contenders]
        own = [shown[place][1][name]["seconds"] for place in at]
        panel.bar(
            [place + width * (index - (len(names) - 1) / 2) for place in at],
            [one["median_s"] for one in own],
            width,
            yerr=[one["iqr_s"] for one in own],
            label=CONTENDERS[name].translate(PLAIN),
            capsize=2,
        )
    panel.set_xticks(range(len(shown)), [words for words, _ in shown], fontsize=8)
    panel.set_yscale("log")
    panel.set_title("seconds a step, a frame, a prompt")
    panel.legend(fontsize=8)
    panel.grid(alpha=0.3)


def stage_plot(record: Mapping[str, Any]) -> Frames:
    """Seconds of every stage alone, `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), dpi=100, layout="constrained")
    draw_stages(figure.subplots(), record)
    return figure_pixels(figure)


def plot(record: Mapping[str, Any]) -> Frames:
    """Seconds of every stage, and of whole videos where they were measured, contender by contender: `[H, W, 3]`."""
    if "video" not in record:
        return stage_plot(record)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    draw_stages(left, record)
    found = record["video"]["contenders"]
    right.barh(range(len(found)), [one["median_s"] for one in found.values()])
    names = [CONTENDERS[name].translate(PLAIN).replace(", ", "\n") for name in found]
    right.set_yticks(range(len(found)), names, fontsize=8)
    right.invert_yaxis()
    right.set_title(f"seconds of {record['video']['frames']} frames")
    right.grid(alpha=0.3)
    return figure_pixels(figure)
