"""The table of `bench.cuda_run`, made from its summary alone."""

from collections.abc import Mapping
from typing import Any

from bench.contenders.words import CONTENDERS, STAGES, ratio, seconds
from bench.harness.words import markdown


def flops(count: float) -> str:
    """A number of operations with the prefix that fits a whole step or a tiny one."""
    return f"{count / 1e12:.2f} T" if count >= 1e11 else f"{count / 1e9:.2f} G"


def table(record: Mapping[str, Any]) -> str:
    """Everything that a summary holds, as Markdown."""
    heads = ["stage", "contender", "s", "FLOPs", "of the machine's matrix rate", "device memory", "eager over it"]
    columns = []
    for found in record["scales"].values():
        for stage, rows in found["stages"].items():
            for name, own in rows["contenders"].items():
                memory = own["device_bytes"]
                columns.append(
                    [
                        STAGES[stage],
                        CONTENDERS[name],
                        seconds(own["seconds"]),
                        flops(own["flops"]),
                        f"{100 * own['flops_share']:.0f} %",
                        "" if memory is None else f"{memory / 1e9:.1f} GB",
                        ratio(rows, name),
                    ]
                )
    lines = markdown(heads, columns)
    around = record["environment"]
    device = around["cpu"] if around["gpu"] is None else around["gpu"]
    runtime = [f"{name} {around[name]}" for name in ("onnxruntime", "onnxruntime-gpu", "torch") if around.get(name)]
    parts = [f"scale {', '.join(record['scales'])}", device, *runtime]
    parts.append(f"matrix products {flops(record['product_flops_per_s'])} FLOP/s")
    note = "FLOPs are those of eager; torch.compile took turns with eager in a process of its own"
    lines += ["", f"{'; '.join(parts)}. {note}. ± is the interquartile range."]
    if record["host_overhead"] is not None:
        lines.append(f"Outside the graphs: at most {100 * record['host_overhead']:.1f} % of a denoising loop.")
    if record["missing"]:
        lines.append(f"Missing, or not of every contender: {', '.join(record['missing'])}.")
    for item in record["targets"]:
        verdict = "met" if item["met"] else "MISSED"
        lines.append(f"{STAGES[item['name']]}: {item['measured']:.2f}, target {item['target']:.1f}: {verdict}")
    return "\n".join(lines)
