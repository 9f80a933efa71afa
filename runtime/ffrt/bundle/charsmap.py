"""The `precompiled_charsmap` of a tokenizer: SentencePiece's table of Unicode normalisation, checked before it is used.

It is a size in four bytes, a double-array trie of that size (darts-clone: 32-bit units in blocks of 256), and the
replacements that the trie's leaves point at, UTF-8 with a NUL behind each. The library follows its indices unchecked.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import BundleError
from ffrt.families.contract import require

MAX_CHARSMAP_BYTES = 2 << 20
"""SentencePiece's own tables have about 240,000 bytes."""
_BLOCK = 256
_LEAF, _VALUE = 1 << 8, 1 << 31


def longest_replacement(name: str, charsmap: object) -> int:
    """Check the base64 text `charsmap`, which errors call `name`; the bytes of its longest replacement.

    Raises BundleError for a table that the library would leave, or that asks for more memory than it fills.
    """
    raw = _decoded(name, charsmap)
    size = int.from_bytes(raw[:4], "little")
    fits = len(raw) > 4 and 0 < size <= len(raw) - 4 and size % (4 * _BLOCK) == 0
    require(fits, name, f"a trie of whole blocks of {4 * _BLOCK} bytes, in {len(raw)} bytes", f"one of {size} bytes")
    units = np.frombuffer(raw, "<u4", size // 4, offset=4).astype(np.int64)
    replacements = raw[4 + size :]
    require(_is_utf8(replacements), name, "replacements in UTF-8", "other bytes")
    starts = _starts(name, units)
    text = np.frombuffer(replacements, np.uint8)
    require(starts.size > 0 and int(starts.max()) < len(text), name, "replacements within the table", "one outside")
    require(not np.any(text[starts] & 0xC0 == 0x80), name, "replacements that begin a character", "one within it")
    ends = np.append(np.flatnonzero(text == 0), len(text))
    return int((ends[np.searchsorted(ends, starts)] - starts).max())


def _decoded(name: str, charsmap: object) -> bytes:
    if isinstance(charsmap, str) and len(charsmap) <= MAX_CHARSMAP_BYTES * 4 // 3:
        try:
            return base64.b64decode(charsmap, validate=True)
        except ValueError:
            pass
    raise BundleError(f"{name}: expected at most {MAX_CHARSMAP_BYTES} bytes as base64 text, got {charsmap!r:.80}")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _starts(name: str, units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the replacements of the trie start. Blocks are whole, so that a byte of a key leads nowhere else."""
    inner = units & _VALUE == 0
    children = np.arange(len(units)) ^ ((units >> 10) << ((units & (1 << 9)) >> 6))
    require(bool(np.all(children[inner] < len(units))), name, "a trie that stays within its units", "one that leaves")
    starts: NDArray[np.int64] = units[children[inner & (units & _LEAF != 0)]] & (_VALUE - 1)
    return starts
