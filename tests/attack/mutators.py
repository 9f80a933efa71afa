"""Files with something wrong with them, made from whole ones and a random generator."""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

JUNK: Sequence[Any] = (
    *(None, True, 0, -1, 1, 2, 1 << 31, 1 << 63, 10**30, 0.5, 1e308, -0.0, float("nan"), float("inf")),
    *("", "x", "\0", "../x", "/etc/passwd", "a" * 70_000, "\ud800", "float32", "cpu", "1", [], {}, [[]], [0] * 3000),
)
SIZES = (0, 1, 7, 8, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def damaged_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Bytes changed, left out, repeated or cut off."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if len(data) < 2:
            break
        at = min(rng.randrange(len(data)), rng.choice((len(data), 64, 512)) - 1) % len(data)
        match rng.randrange(6):
            case 0 | 1:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1 << rng.randrange(8)))
            case 2:
                del data[at : at + rng.choice((1, 4, 100))]
            case 3:
                data[at:at] = data[rng.randrange(len(data)) :][: rng.choice((1, 8, 500))]
            case 4:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(SIZES) % (1 << 8 * width)
                data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case _ if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def places(value: Any, most: int = 12) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value; of long lists the first and last few."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if len(keys) <= 2 * most else [*keys[:most], *keys[-most:]]:
        yield value, key
        yield from places(value[key], most)


def damaged_json(text: str, rng: random.Random) -> bytes:
    """A JSON file with up to three places that are gone, repeated, exchanged or filled with junk."""
    if rng.random() < 0.15:
        return damaged_bytes(text.encode(), rng)
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = list(places(value))
        if not found:
            break
        holder, key = rng.choice(found)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 | 2:
                holder[key] = copy.deepcopy(rng.choice(JUNK))
            case 3:
                other, place = rng.choice(found)
                holder[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else key)
            case 4 if isinstance(holder, dict):
                holder[rng.choice(("x", "__class__", "", "\u212a", str(key) + " "))] = copy.deepcopy(holder[key])
            case 4:
                holder.extend([copy.deepcopy(holder[key])] * rng.choice((1, 40, 2000)))
            case _:
                nested: Any = holder[key]
                for _ in range(rng.choice((1, 3, 50))):
                    nested = [nested] if rng.random() < 0.5 else {"x": nested}
                holder[key] = nested
    return json.dumps(value).encode()


def damaged_safetensors(raw: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header tells something else than its data."""
    if rng.random() < 0.3:
        return damaged_bytes(raw, rng)
    (length,) = struct.unpack("<Q", raw[:8])
    header = damaged_json(raw[8 : 8 + length].decode(), rng)
    told = rng.choice((len(header), len(header), len(header), length, 1 << 62, 0))
    return struct.pack("<Q", told) + header + raw[8 + length :]


def damaged_png(raw: bytes, rng: random.Random) -> bytes:
    """A PNG with chunks that are changed, repeated or gone; most have the sum of what they hold now."""
    chunks, at = [], 8
    while at + 12 <= len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        chunks.append((raw[at + 4 : at + 8], raw[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(chunks))
        kind, data = chunks[place]
        match rng.randrange(4):
            case 0:
                del chunks[place]
            case 1:
                chunks.insert(rng.randrange(len(chunks) + 1), (kind, data))
            case 2:
                bomb = zlib.compress(bytes(50_000_000), 9)
                chunks.insert(
                    1, rng.choice(((b"zTXt", b"Comment\0\0" + bomb), (b"tEXt", b"Comment\0" + b"[" * 50_000)))
                )
            case _:
                chunks[place] = (kind, damaged_bytes(data, rng) if data else data)
        if not chunks:
            break
    whole = rng.random() < 0.9
    return raw[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if whole else 1)
        for kind, data in chunks
    )


WORDS = (
    *(
        "generate",
        "inspect",
        "doctor",
        "a red circle",
        "",
        "\ud800",
        "-o",
        "x.mp4",
        "x.avi",
        "/nowhere/x.mp4",
        ".",
        "-",
    ),
    *("--fps", "2", "8", "0", "-1", "1e9", "nan", "--steps", "1", "--seed", "18446744073709551616", "--size", "32"),
    *("32x48", "1x1", "9999999x9999999", "x", "--bundle", "--image", "/dev/zero", "/dev/null", "--negative-prompt"),
    *("--provider", "cpu", "cuda", "no such", "--threads", "--memory", "low", "--preset", "fast", "--sampler", "ddim"),
    *("--guidance-scale", "inf", "--quiet", "--help", "--version", "--no-such", "=", "--fps=2", "--resume", "--method"),
)


def words(rng: random.Random) -> list[str]:
    """A command line, most of which makes no sense."""
    line = [rng.choice(WORDS) for _ in range(rng.randrange(1, 7))]
    return [rng.choice(("generate", "generate", "inspect", "doctor")), *line] if rng.random() < 0.8 else line
