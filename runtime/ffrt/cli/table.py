"""Sizes and columns as the commands print them."""

from __future__ import annotations

from collections.abc import Sequence

from ffrt.bundle import Bundle


def size_of(bundle: Bundle) -> int:
    """Bytes of all files of a bundle."""
    return sum(file.bytes for file in bundle.files.values())


def readable(size: int) -> str:
    """A size in bytes as megabytes or kilobytes."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as left-aligned columns, two spaces apart.

    Cells hold text of files from outside, and a terminal would obey its control characters: they become escapes.
    """
    table = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in table if i < len(row)) for i in range(max(map(len, table)))]
    lines = ("  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
