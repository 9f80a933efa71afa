"""What tables and plots call stages and contenders, and how they show seconds and ratios."""

from collections.abc import Mapping
from typing import Any

from bench.harness.pictures import Pixels, figure_pixels

PLAIN = str.maketrans("", "", "*`")
"""Removes what only Markdown needs from a name."""
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


def seconds(timing: Mapping[str, Any]) -> str:
    """Median and interquartile range with the digits that a time of its size bears."""
    digits = 1 if timing["median_s"] >= 10 else 3 if timing["median_s"] >= 0.01 else 4
    return f"{timing['median_s']:.{digits}f} ± {timing['iqr_s']:.{digits}f}"


def ratio(rows: Mapping[str, Any], name: str, kind: str = "ratios") -> str:
    """PyTorch over a contender, with its interquartile range; 1 for PyTorch itself, nothing where there is none."""
    found = rows[kind].get(name)
    if found is not None:
        return f"{found['median']:.2f} ± {found['iqr']:.2f}"
    return "1" if kind == "ratios" and name.startswith("eager") else ""


def draw_stages(panel: Any, record: Mapping[str, Any]) -> None:
    """Bars on a matplotlib panel: seconds of every stage, contender by contender."""
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
    panel.set_title("seconds per step, frame and prompt")
    panel.legend(fontsize=8)
    panel.grid(alpha=0.3)


def stage_plot(record: Mapping[str, Any]) -> Pixels:
    """Seconds of every stage, `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), dpi=100, layout="constrained")
    draw_stages(figure.subplots(), record)
    return figure_pixels(figure)
