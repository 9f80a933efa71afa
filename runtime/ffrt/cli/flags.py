"""Flags that are made from the fields of a request, and those that say how a pipeline runs."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ffrt.generation.request import Option, options

TYPES: Mapping[str, Callable[[str], Any]] = MappingProxyType({"int": int, "float": float})


def add_options(parser: argparse.ArgumentParser, kind: type[Any], own: Mapping[str, Callable[[str], Any]]) -> None:
    """Add a flag for every field of the dataclass `kind` that has one.

    `own` reads some of them; a flag of a list may be repeated.
    """
    fields = {one.name: one for one in dataclasses.fields(kind)}
    for name, option in options(kind).items():
        flag = flag_of(name, option)
        if flag is None:
            continue
        words, default = str(fields[name].type), typing.cast(Any, fields[name].default)
        if words == "bool":
            parser.add_argument(
                flag, dest=name, action=argparse.BooleanOptionalAction, default=default, help=option.help
            )
        elif words.startswith("Collection"):
            parser.add_argument(
                flag, dest=name, action="append", default=list(default), metavar=option.metavar, help=option.help
            )
        else:
            read = own.get(name, TYPES.get(words.split(" ", maxsplit=1)[0], str))
            parser.add_argument(flag, dest=name, type=read, default=default, metavar=option.metavar, help=option.help)


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a pipeline runs, and what is printed."""
    add = parser.add_argument
    add("--provider", default="auto", metavar="NAME", help="auto, cpu, cuda or another of ffrt doctor (default: auto)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: one for each core that may be used)")
    add("--memory", default="fast", metavar="NAME", help="fast, or low for networks larger than memory (default: fast)")
    add("--cuda-graph", action="store_true", help="record the launches of a step on a GPU, for small networks")
    add("-q", "--quiet", action="store_true", help="print only warnings and errors")


def flag_of(name: str, option: Option) -> str | None:
    """The flag of a field, None if it has none."""
    if option.flag is None:
        return None
    return f"--{option.flag if option.flag else name.replace('_', '-')}"
