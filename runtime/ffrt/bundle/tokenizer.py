"""tokenizer.json, read as hostile input before the library sees it.

The library trusts its files: some make it panic, some make it take minutes or all memory at the first prompt. Here
every kind that a file may name is known, and everything that can multiply a text or leave a table is checked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffrt.bundle.tokenizer_growth import REGEXES, Step, check_normalizers, check_pre_tokenizers
from ffrt.bundle.tokenizer_model import a_list, an_object, check_model
from ffrt.errors import BundleError
from ffrt.families.contract import require

MAX_TOKENIZER_BYTES = 64 << 20
MAX_BRACKETS = 4 << 20
"""Lists and objects; the largest vocabularies in use have a million with their merges."""
MAX_STEPS, MAX_DEPTH, MAX_ADDED, MAX_PIECES, MAX_TEXT = 32, 4, 4096, 64, 64


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json that was checked: its `text`, and the kinds of its normalisers and pre-tokenizers, in order."""

    text: str
    normalizers: tuple[str, ...]
    pre_tokenizers: tuple[str, ...]


def read_tokenizer(raw: bytes) -> TokenizerFile:
    """Check the bytes of a tokenizer.json. Raises BundleError with the place, what was expected and what came."""
    require(len(raw) <= MAX_TOKENIZER_BYTES, "file", f"at most {MAX_TOKENIZER_BYTES} bytes", "more")
    brackets = raw.count(b"[") + raw.count(b"{")
    require(brackets <= MAX_BRACKETS, "lists and objects", f"at most {MAX_BRACKETS}", brackets)
    try:
        text = raw.decode("utf-8")
        file = an_object("file", json.loads(text, object_pairs_hook=_members, parse_constant=_no_number))
        return _checked(text, file)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"file: expected JSON, got {error}") from error


def _checked(text: str, file: Mapping[str, Any]) -> TokenizerFile:
    for place in ("truncation", "padding"):  # switched off after loading
        require(isinstance(file.get(place), (dict, type(None))), place, "null or an object", file.get(place))
    kind = check_model(file.get("model"))
    if "type" not in file["model"]:
        text = json.dumps({**file, "model": {"type": kind, **file["model"]}})
    _added(file.get("added_tokens"))
    normalizers = tuple(_steps("normalizer", file.get("normalizer"), _NORMALIZERS, "normalizers"))
    check_normalizers(normalizers)
    pre_tokenizers = tuple(_steps("pre_tokenizer", file.get("pre_tokenizer"), _PRE_TOKENIZERS, "pretokenizers"))
    check_pre_tokenizers(pre_tokenizers)
    for _ in _steps("decoder", file.get("decoder"), _DECODERS, "decoders"):
        pass
    processors = _steps("post_processor", file.get("post_processor"), _POST_PROCESSORS, "processors")
    around = [name for name, step in processors if step["type"] != "ByteLevel"]
    require(len(around) <= 1, "post_processor", "one that puts tokens around a prompt", around)
    return TokenizerFile(text, _kinds(normalizers), _kinds(pre_tokenizers))


Check = Callable[[str, Mapping[str, Any]], None]


def _kinds(steps: Sequence[Step]) -> tuple[str, ...]:
    return tuple(step["type"] for _, step in steps)


def _steps(place: str, value: object, known: Mapping[str, Check], inside: str) -> Iterator[Step]:
    """Every step in `value`, with its place, checked and in order; `inside` is what a Sequence calls its list."""
    for i, (name, step) in enumerate(() if value is None else _flat(place, value, inside, 0)):
        kind = step.get("type")
        require(i < MAX_STEPS, place, f"at most {MAX_STEPS} steps", "more")
        require(isinstance(kind, str) and kind in known, f"{name}.type", f"one of {['Sequence', *known]}", kind)
        known[str(kind)](name, step)
        yield name, step


def _flat(place: str, value: object, inside: str, depth: int) -> Iterator[Step]:
    step = an_object(place, value)
    if step.get("type") != "Sequence":
        yield place, step
        return
    require(depth < MAX_DEPTH, place, f"at most {MAX_DEPTH} sequences in one another", "more")
    children = step.get(inside)
    for i, child in enumerate(() if children == [] else a_list(f"{place}.{inside}", children, MAX_STEPS)):
        yield from _flat(f"{place}.{inside}[{i}]", child, inside, depth + 1)


def _free(name: str, step: Mapping[str, Any]) -> None:
    """A kind whose settings cannot do harm: the library itself refuses wrong ones."""


def _text(name: str, value: object, most: int = MAX_TEXT, least: int = 0) -> str:
    if isinstance(value, str) and least <= len(value) <= most:
        return value
    raise BundleError(f"{name}: expected a text of {least} to {most} characters, got {value!r:.80}")


def _pattern(name: str, step: Mapping[str, Any]) -> None:
    pattern = an_object(f"{name}.pattern", step.get("pattern"))
    require(len(pattern) == 1, f"{name}.pattern", "one of String and Regex", list(pattern))
    if "Regex" in pattern:
        regex = pattern["Regex"]
        known = isinstance(regex, str) and regex in REGEXES
        require(known, f"{name}.pattern.Regex", f"one of {list(REGEXES)}", regex)
    else:
        _text(f"{name}.pattern.String", pattern.get("String"), least=1)


def _replace(name: str, step: Mapping[str, Any]) -> None:
    _pattern(name, step)
    _text(f"{name}.content", step.get("content"))


def _prepend(name: str, step: Mapping[str, Any]) -> None:
    _text(f"{name}.prepend", step.get("prepend"))


_NORMALIZERS: Mapping[str, Check] = {
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "Strip", "StripAccents"), _free),
    **dict.fromkeys(("BertNormalizer", "ByteLevel", "Precompiled"), _free),
    "Prepend": _prepend,
    "Replace": _replace,
}
_PRE_TOKENIZERS: Mapping[str, Check] = {
    **dict.fromkeys(("BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation"), _free),
    **dict.fromkeys(("Whitespace", "WhitespaceSplit"), _free),
    "Split": _pattern,
}
_DECODERS: Mapping[str, Check] = {
    **dict.fromkeys(("BPEDecoder", "ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Strip", "WordPiece"), _free),
    "Replace": _replace,
}


def _template(name: str, step: Mapping[str, Any]) -> None:
    tokens = step.get("special_tokens")
    defined = {} if tokens == {} else an_object(f"{name}.special_tokens", tokens)
    for key, one in defined.items():
        place = f"{name}.special_tokens[{key[:80]!r}]"
        token = an_object(place, one)
        ids = a_list(f"{place}.ids", token.get("ids"), MAX_PIECES)
        require(token.get("id") == key, f"{place}.id", repr(key), token.get("id"))
        names = a_list(f"{place}.tokens", token.get("tokens"), MAX_PIECES)
        require(len(names) == len(ids), f"{place}.tokens", f"one for each of {len(ids)} ids", len(names))
    for part, sequences in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces = [
            _piece(f"{name}.{part}[{i}]", one, defined)
            for i, one in enumerate(a_list(f"{name}.{part}", step.get(part), MAX_PIECES))
        ]
        found = sorted(piece for piece in pieces if piece is not None)
        require(found == sequences, f"{name}.{part}", f"each of {sequences} once", found)


def _piece(name: str, value: object, defined: Mapping[str, Any]) -> str | None:
    """The sequence that a piece of a template stands for, None if it is a special token."""
    piece = an_object(name, value)
    kinds = list(piece)
    require(kinds in (["Sequence"], ["SpecialToken"]), name, "a Sequence or a SpecialToken", kinds)
    which = an_object(f"{name}.{kinds[0]}", piece[kinds[0]]).get("id")
    if kinds[0] == "Sequence":
        return _text(f"{name}.Sequence.id", which, most=1)
    require(isinstance(which, str) and which in defined, f"{name}.SpecialToken.id", f"one of {list(defined)}", which)
    return None


_POST_PROCESSORS: Mapping[str, Check] = {
    **dict.fromkeys(("BertProcessing", "ByteLevel", "RobertaProcessing"), _free),
    "TemplateProcessing": _template,
}


def _added(value: object) -> None:
    if value is None or value == []:
        return
    for i, one in enumerate(a_list("added_tokens", value, MAX_ADDED)):
        token = an_object(f"added_tokens[{i}]", one)
        _text(f"added_tokens[{i}].content", token.get("content"), most=512, least=1)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:80]!r} twice")
    return members


def _no_number(value: str) -> float:
    raise ValueError(f"{value}, which is not a number")
