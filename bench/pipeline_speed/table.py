"""The tables of `bench.pipeline_speed`, made from its record alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.contenders.words import CONTENDERS, STAGES, ratio, seconds
from bench.harness import record as records
from bench.harness.words import markdown, number, verdict

TARGETS = {
    "interpolation_step": "interpolation step, PyTorch over the optimised graph",
    "keyframe_step": "keyframe step, PyTorch over the optimised graph",
    "end_to_end_fast": 'whole video, PyTorch with the released steps over ours with `preset="fast"`',
    "host_overhead": "share of a denoising loop outside its graphs",
}
RUN_BY = {"optimised": "ONNX Runtime, both in float32", "openvino": "OpenVINO, both in bfloat16"}
ENGINE = {"optimised": "ONNX Runtime", "openvino": "OpenVINO"}
RATIO_HEADS = ("PyTorch of its precision over it", "PyTorch in float32 over it")


def ratios(rows: Mapping[str, Any], name: str) -> list[str]:
    """Both ratios of a contender."""
    return [ratio(rows, name), ratio(rows, name, "ratios_to_float32")]


def target_rows(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """Measured against asked for; a row per target and contender."""
    for item in record["targets"]:
        if "unit" in item:
            limit = f"at most {number(item['target'], item['unit'])}"
            yield [item["name"], number(item["measured"], item["unit"]), limit, verdict(item)]
            continue
        words = TARGETS[item["name"]]
        if item["name"] == "host_overhead":
            measured, limit = f"{100 * item['measured']:.1f} %", f"at most {100 * item['target']:.0f} %"
            words += f", {item['scale']}, {ENGINE[item['contender']]}"
        else:
            measured, limit = f"{item['measured']:.2f}", f"at least {item['target']:.1f}"
            words += f", {RUN_BY[item['contender']]}"
        yield [words, measured, limit, verdict(item)]


def target_table(record: Mapping[str, Any]) -> list[str]:
    """Measured against asked for."""
    return markdown(["", "measured", "target", "met"], target_rows(record)) if record["targets"] else []


def stage_rows(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """One row per scale, stage and contender."""
    kept = record.get("memory", {}).get("stages", {})
    for scale, found in record["scales"].items():
        for stage, rows in found["stages"].items():
            for name, own in rows["contenders"].items():
                peak = kept.get(scale, {}).get(stage, {}).get(name)
                yield [
                    f"{scale}, {STAGES[stage]}",
                    CONTENDERS[name],
                    seconds(own["seconds"]),
                    f"{own['flops'] / 1e9:.2f}" if "flops" in own else "",
                    f"{100 * own['flops_share']:.0f} %" if "flops_share" in own and stage != "text" else "",
                    "" if peak is None else f"{peak / 1e6:.0f} MB",
                    *ratios(rows, name),
                ]


def stage_table(record: Mapping[str, Any]) -> list[str]:
    """Seconds, FLOPs, memory and ratios, stage by stage."""
    heads = ["scale, stage", "contender", "s", "GFLOP", "of the machine's matrix rate", "peak memory", *RATIO_HEADS]
    return markdown(heads, stage_rows(record)) if record["scales"] else []


def video_table(record: Mapping[str, Any]) -> list[str]:
    """Whole videos: seconds and ratios; as projected from the stages after a quick run."""
    if "projected" in record:
        phrases = [f"{own_s:.1f} s {CONTENDERS[name]}" for name, own_s in record["projected"]["seconds"].items()]
        return [f'Whole video, projected from its stages, ours with `preset="fast"`: {"; ".join(phrases)}.']
    if "video" not in record:
        return []
    video = record["video"]
    rows = ([CONTENDERS[name], seconds(timing), *ratios(video, name)] for name, timing in video["contenders"].items())
    return markdown([f"{video['frames']} frames, text to pixels", "s", *RATIO_HEADS], rows)


REACHED = {
    "python": "Python runs",
    "import": "`import ffrt`",
    "bundle": "the bundle is open",
    "text": "the text is encoded",
    "step": "the first denoising step is done",
}


def waiting_tables(record: Mapping[str, Any]) -> list[str]:
    """The marks of a start, the first frame, and a video beside busy threads."""
    lines = []
    if "start" in record:
        rows = ([REACHED[mark], seconds(timing)] for mark, timing in record["start"].items())
        lines += markdown(["from the start of a process to", "s"], rows)
    if "first_frame" in record:
        found = record["first_frame"]
        early = (
            [
                f'`preset="{preset}"`',
                seconds(own["first"]),
                seconds(own["last"]),
                f"{100 * own['share']['median']:.0f} %",
            ]
            for preset, own in found["presets"].items()
        )
        heads = [f"{found['frames']} frames at {found['fps']} fps", "first frame, s", "last frame, s", "share"]
        lines += [*([""] if lines else []), *markdown(heads, early)]
    if "neighbour" in record:
        found = record["neighbour"]
        beside = (
            [busy, seconds(timing), f"{found['slower'][busy]['median']:.2f}" if busy in found["slower"] else ""]
            for busy, timing in found["seconds"].items()
        )
        heads = ["busy threads beside", f'`preset="fast"` on {found["threads"]} threads, s', "times alone"]
        lines += [*([""] if lines else []), *markdown(heads, beside)]
    return lines


def memory_table(record: Mapping[str, Any]) -> list[str]:
    """Peak memory of whole videos, a row per contender, a column per frame rate."""
    if "memory" not in record:
        return []
    found = record["memory"]["videos"]
    rates = list(dict.fromkeys(rate for row in found.values() for rate in row))
    rows = (
        [name, *(f"{row[rate] / 1e6:.0f} MB" if rate in row else "" for rate in rates)] for name, row in found.items()
    )
    return markdown(["peak memory of a whole video", *rates], rows)


def profile_lines(record: Mapping[str, Any]) -> list[str]:
    """Kernel time of each stage by operator, a line per scale, stage and graph."""
    lines = []
    for scale, found in record["scales"].items():
        for stage, rows in found["stages"].items():
            for name, operators in rows.get("operators", {}).items():
                if stage == "text" or not operators:
                    continue
                shares = ", ".join(f"{one['operator']} {100 * one['share']:.0f} %" for one in operators)
                lines.append(f"- {scale}, {STAGES[stage]}, {name}: {shares}")
    return ["Kernel time by operator:", "", *lines] if lines else []


def conditions(record: Mapping[str, Any]) -> list[str]:
    """The machine and the versions."""
    phrases = [
        *records.conditions(record, "openvino", "torch"),
        f"matrix products {record['product_flops_per_s'] / 1e9:.0f} GFLOP/s",
        f"steps timed {record['steps_in_a_row']} in a row",
    ]
    note = "the FLOPs of PyTorch are those of the exported graph, and the matrix rate is that of float32"
    return [f"{'; '.join(phrases)}. ± is the interquartile range; {note}."]


PARTS = {
    "targets": target_table,
    "stages": stage_table,
    "video": video_table,
    "waiting": waiting_tables,
    "memory": memory_table,
    "profile": profile_lines,
    "conditions": conditions,
}
"""The parts of the whole table, in order."""


def table(record: Mapping[str, Any]) -> str:
    """Everything that a record holds, as Markdown."""
    parts = (part(record) for part in PARTS.values())
    return "\n\n".join("\n".join(lines) for lines in parts if lines)
