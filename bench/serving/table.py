"""The tables of `bench.serving`, made from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench.harness import record as records
from bench.harness.words import markdown, number, verdict
from bench.serving.growth import grown
from bench.serving.overhead import WORDS

HOUR_S = 3600.0
KILLED = {"server": "the server", "worker": "its worker", "both": "both"}
PARTS_OF_A_START = {
    "python": "Python",
    "ffrt": "`import ffrt`",
    "fastapi": "`import fastapi, uvicorn`",
    "imports": "all imports of the server",
    "listens": "it listens: the table is in order, its worker is spawned",
    "answers": "first answer",
    "processor": "processor time of the server until then",
    "ready": "a place has warmed up",
}


ABOUT: Mapping[str, str] = {
    "cancel": "from a cancel to a ",
    "load": "while videos are made, ",
    "overhead": "time over the pipeline alone: ",
    "recovery": "from ",
}
"""What stands before the name of a target, by part."""


def targets(record: Mapping[str, Any]) -> list[str]:
    """What was asked for."""
    rows = []
    for item in record["targets"]:
        unit = item.get("unit", "times")
        bound = "at least" if item["least"] else "at most"
        measured, limit = number(item["measured"], unit), number(item["target"], unit)
        rows.append([ABOUT.get(record["part"], "") + item["name"], measured, f"{bound} {limit}", verdict(item)])
    return markdown(["", "measured", "target", "met"], rows)


def overhead(record: Mapping[str, Any]) -> list[str]:
    """Seconds of a video, videos an hour, and per cent over the pipeline."""
    rows = []
    for name, way in record["ways"].items():
        own, clients, processor = way["percent"], way["clients_percent"], way["processor_percent"]
        first = name == "bare"
        rows.append(
            [
                WORDS[name],
                f"{way['video_s']['median']:.2f} ± {way['video_s']['iqr']:.2f}",
                f"{way['videos_per_hour']:.0f}",
                "" if first else f"{own['median']:.1f} % ({own['low']:.1f} to {own['high']:.1f})",
                "" if first else f"{processor['median']:.1f} %",
                "" if first else f"{clients['median']:.1f} %",
            ]
        )
    heads = [
        "",
        "s per video",
        "videos per hour",
        "over the pipeline alone",
        "processor time of the worker",
        "as clients see it",
    ]
    told = (
        f"{record['previews_of_a_video']:.1f} previews a video were read. In brackets: 95 % interval of the mean over "
        f"rounds. As clients see it: with their requests, and polls every 0.1 s."
    )
    return [*markdown(heads, rows), "", told]


def load(record: Mapping[str, Any]) -> list[str]:
    """Answers and videos, load by load."""
    rows = []
    for row in record["rows"]:
        answers, events = row.get("answers_ms"), row.get("events_ms")
        rows.append(
            [
                row["clients"],
                f"{row['per_s']:.0f}" if "per_s" in row else "",
                *("" if answers is None else f"{answers[name]:.1f}" for name in ("p50", "p99", "p100")),
                "" if events is None else f"{events['p50']:.0f}, {events['p99']:.0f}",
                f"{row['slower']:.2f}",
                f"{100 * row['processors']['server']:.0f} %",
                f"{100 * row['cpu']:.0f} %" if "cpu" in row else "",
            ]
        )
    heads = ["clients", "answers a second", "p50 ms", "p99 ms", "most ms", "events late by ms, p50, p99"]
    heads += ["time of a video", "processor of the server", "of the clients"]
    told = (
        f"While {record['videos']} videos are made and {record['waiting']} wait, for {record['keys']} keys. "
        "An event may be late by up to 250 ms, since there are at most four a second."
    )
    return [*markdown(heads, rows), "", told]


def cancel(record: Mapping[str, Any]) -> list[str]:
    """Seconds until a place is free, point by point."""
    rows = []
    for words, row in record["points"].items():
        answer, free = row["answer_s"], row["free_s"]
        rows.append(
            [
                words,
                *seconds(answer),
                *seconds(free),
                "" if answer is None else str(answer["runs"]),
                str(row["late"]),
            ]
        )
    heads = ["cancelled", "answer, s", "at most", "next job begins after, s", "at most", "runs", "had ended"]
    return markdown(heads, rows)


def seconds(found: Mapping[str, Any] | None) -> tuple[str, str]:
    """The cells of a median and a largest; empty ones where nothing was measured."""
    return ("", "") if found is None else (f"{found['median']:.3f}", f"{found['max']:.3f}")


def recovery(record: Mapping[str, Any]) -> list[str]:
    """Seconds from a kill to each mark, and the parts of a start."""
    rows = []
    for whom, marks in record["killed"].items():
        cells = (f"{one['median']:.2f} (at most {one['max']:.2f})" for one in marks.values())
        rows.append([KILLED[whom], *cells])
    heads = ["killed", "first answer, s", "place ready, s", "job goes on, s", "video done, s"]
    parts = ([PARTS_OF_A_START[name], f"{one['median']:.2f}"] for name, one in record["start"].items())
    return [*markdown(heads, rows), "", *markdown(["a start, from the first moment to", "s"], parts)]


def client(record: Mapping[str, Any]) -> list[str]:
    """Case by case, what the official client met."""
    rows = []
    for case in record["cases"]:
        came = "a video" if case["error"] is None else f"`{case['error']}`, `{case['code']}`"
        rows.append([case["case"], came, str(case["requests"]), "yes" if case["right"] else "**no**"])
    told = (
        f"openai {record['openai']}: create, poll and download take {record['extra_s']['median']:.2f} ± "
        f"{record['extra_s']['iqr']:.2f} s more than the video; most of it is the pause between polls."
    )
    return [*markdown(["asked", "came", "requests sent", "as expected"], rows), "", told]


def soak(record: Mapping[str, Any]) -> list[str]:
    """What both processes took, at first and at last."""
    rows = []
    for name, values in record["growth"].items():
        own, rss, samples = values["own"], values["rss"], record["samples"]
        late = grown(samples, name, "own", max(0.0, samples[-1]["at_s"] - HOUR_S))
        rows.append(
            [
                name,
                f"{own['first_quarter'] / 1e6:.1f} to {own['last_quarter'] / 1e6:.1f}",
                f"{own['per_hour'] / 1e6:.2f} ± {own['noise_per_hour'] / 1e6:.2f}",
                f"{late['per_hour'] / 1e6:.2f} ± {late['noise_per_hour'] / 1e6:.2f}",
                f"{rss['first_quarter'] / 1e6:.1f} to {rss['last_quarter'] / 1e6:.1f}",
                f"{rss['largest'] / 1e6:.1f}",
                *(
                    f"{values[value]['first_quarter']:.1f} to {values[value]['last_quarter']:.1f}"
                    for value in ("files", "threads")
                ),
            ]
        )
    heads = ["process", "own MB", "per hour", "in the last hour", "resident MB", "at most", "open files", "threads"]
    did = ", ".join(f"{count} {what}" for what, count in sorted(record["did"].items()))
    told = (
        f"{record['minutes']:.1f} minutes; {did}. {record['restarts']:.0f} restarts of the worker. Data folder at most "
        f"{record['disk']['largest'] / 1e6:.0f} MB. From the first quarter after warm-up to the last. "
        "Resident memory counts pages of files too, which the system takes and gives back."
    )
    return [*markdown(heads, rows), "", told]


def conditions(record: Mapping[str, Any]) -> list[str]:
    """The machine and the versions."""
    phrases = records.conditions(record, "fastapi", "uvicorn")
    return ["; ".join(phrases) + ". ± is the interquartile range, of a slope its 95 % interval."]


MADE: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "overhead": overhead,
    "load": load,
    "cancel": cancel,
    "recovery": recovery,
    "client": client,
    "soak": soak,
}
"""The table of each part of the bench, by its name."""


def figures(record: Mapping[str, Any]) -> list[str]:
    """The table of the record's own part."""
    return MADE[record["part"]](record)


PARTS = {"targets": targets, "figures": figures, "conditions": conditions}
"""The parts of the whole table, in order."""


def parts(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """All of them."""
    for part in PARTS.values():
        yield part(record)


def table(record: Mapping[str, Any]) -> str:
    """Everything that a record holds, as Markdown."""
    return "\n\n".join("\n".join(lines) for lines in parts(record))
