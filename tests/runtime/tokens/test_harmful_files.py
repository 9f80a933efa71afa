"""A tokenizer.json that would make the library panic, hang or take all memory is refused before the library sees it."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffrt import BundleError
from ffrt.bundle import MAX_TOKENIZER_BYTES
from ffrt.stages.tokens import open_tokenizer
from tests.runtime.tokens.files import DEMO, MAX_TOKENS, attack, outcome, sound_files


@pytest.fixture(scope="module")
def sound() -> dict[str, str]:
    return sound_files()


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "Evil"}}', "\x00" * 10, "[" * 100_000, '"\ud800"'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(BundleError, match=r"tokenizer.json is not a tokenizers file .*export the bundle again"):
        open_tokenizer(tmp_path / "tokenizer.json")


def test_a_huge_tokenizer_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(BundleError, match="at most 67108864 bytes"):
        open_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(BundleError, match="cannot be read"):
        open_tokenizer(tmp_path)


def put(*place: Any) -> Callable[[dict[str, Any]], None]:
    """Put the last of `place` where the others lead."""
    *path, key, value = place

    def edit(file: dict[str, Any]) -> None:
        for step in path:
            file = file[step]
        file[key] = copy.deepcopy(value)

    return edit


def charsmap(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any]], None]:
    def edit(file: dict[str, Any]) -> None:
        step = file["normalizer"]["normalizers"][0]
        raw = base64.b64decode(step["precompiled_charsmap"])
        step["precompiled_charsmap"] = base64.b64encode(change(raw)).decode()

    return edit


GROW = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"}
FORM, ROUND = {"type": "NFKC"}, {"type": "Replace", "pattern": {"String": "صلى"}, "content": "ﷺﷺ"}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}
NEST: dict[str, Any] = {"type": "NFKC"}
for _ in range(6):
    NEST = {"type": "Sequence", "normalizers": [NEST]}
A, END = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
LONG = {"</s>": {"id": "</s>", "ids": [1] * 50, "tokens": ["</s>"] * 50}}
T5_STEPS, WORDPIECE = ("normalizer", "normalizers"), ("model", "max_input_chars_per_word")
TEMPLATE = {"type": "TemplateProcessing", "single": [A], "pair": [A, {"Sequence": {"id": "B", "type_id": 1}}]}
TEMPLATE |= {"special_tokens": {}}
HARMFUL: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "no table": (
        "demo",
        put("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "charsmap: expected a trie",
    ),
    "8 GB": (
        "demo",
        put("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        "charsmap: expected a trie",
    ),
    "cut table": ("t5", charsmap(lambda raw: raw[:5000]), "expected a trie of whole blocks"),
    "table without replacements": (
        "t5",
        charsmap(lambda raw: raw[: 4 + int.from_bytes(raw[:4], "little")]),
        "within the table",
    ),
    "leaving trie": ("t5", charsmap(lambda raw: raw[:4] + b"\xff\xff\xff\x7f" + raw[8:]), "trie that stays within"),
    "growing table": ("t5", charsmap(lambda raw: raw[:-1] + b"x" * 200), "at most 100 times as long"),
    "growing chain": (
        "demo",
        put("normalizer", {"type": "Sequence", "normalizers": [GROW] * 8}),
        r"normalizers\[2\]: .*1000 times",
    ),
    "forms between replacements": (
        "demo",
        put("normalizer", {"type": "Sequence", "normalizers": [FORM, ROUND] * 3}),
        r"normalizers\[2\]: .*121 times",
    ),
    "bytes of bytes": (
        "demo",
        put("pre_tokenizer", {"type": "Sequence", "pretokenizers": [BYTES] * 14}),
        r"pretokenizers\[3\]: .*16 times",
    ),
    "long pieces": ("t5", put("model", "vocab", 5, ["x" * 200, -1.0]), r"vocab\[5\]: expected .text, score."),
    "nested steps": ("demo", put("normalizer", NEST), "at most 4 sequences in one another"),
    "many steps": (
        "demo",
        put("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 40}),
        "1 to 32 entries",
    ),
    "regex": ("demo", put(*T5_STEPS, 2, "pattern", {"Regex": "(a*)*b"}), r"pattern.Regex: expected one of"),
    "empty pattern": (
        "demo",
        put(*T5_STEPS, 2, "pattern", {"String": ""}),
        "pattern.String: expected a text of 1 to 64",
    ),
    "unknown normaliser": ("demo", put("normalizer", {"type": "Evil"}), "normalizer.type: expected one of"),
    "unknown pre-tokenizer": (
        "demo",
        put("pre_tokenizer", {"type": "UnicodeScripts"}),
        "pre_tokenizer.type: expected one of",
    ),
    "unknown decoder": ("demo", put("decoder", {"type": "Evil"}), "decoder.type: expected one of"),
    "A again and again": (
        "demo",
        put("post_processor", "single", [A] * 2000),
        "single: expected a list of 1 to 64 entries, got 2000",
    ),
    "A twice": ("demo", put("post_processor", "single", [A, A, END]), "single: expected each of .'A'. once"),
    "no A": ("demo", put("post_processor", "single", [END]), "single: expected each of .'A'. once"),
    "undefined token": (
        "demo",
        put("post_processor", "special_tokens", {}),
        "SpecialToken.id: expected one of .., got '</s>'",
    ),
    "unequal ids": (
        "demo",
        put("post_processor", "special_tokens", "</s>", "ids", [1, 1]),
        "tokens: expected one for each of 2 ids",
    ),
    "many ids": (
        "demo",
        put("post_processor", "special_tokens", LONG),
        "expected fewer than 8 tokens around a prompt.* got 50",
    ),
    "word without unknown": (
        "words",
        put("model", "unk_token", "none"),
        "model.unk_token: expected a token of the vocabulary",
    ),
    "bytes with a strange unknown": (
        "demo",
        put("model", "unk_token", "none"),
        "model.unk_token: expected a token of the vocabulary",
    ),
    "unknown piece behind the end": ("t5", put("model", "unk_id", 10**6), "model.unk_id: expected 0 to"),
    "pieces without unknown": ("t5", put("model", "unk_id", None), "model.unk_id: expected 0 to"),
    "word piece without unknown": ("bert", put("model", "unk_token", None), "model.unk_token: expected a token"),
    "long words": ("bert", put(*WORDPIECE, 10**9), "max_input_chars_per_word: expected 1 to 1000"),
    "dropout": ("demo", put("model", "dropout", 0.5), "model.dropout: expected null"),
    "merge outside": (
        "demo",
        put("model", "merges", 0, ["a", "nothing"]),
        r"merges\[0\]: expected two tokens of the vocabulary",
    ),
    "prefix": ("demo", put("model", "continuing_subword_prefix", "###"), r"merges\[0\]: expected two tokens that make"),
    "score": ("t5", put("model", "vocab", 5, ["x", 1e308]), r"vocab\[5\]: expected .text, score."),
    "no number": ("t5", put("model", "vocab", 5, ["x", float("nan")]), "NaN, which is not a number"),
    "id": ("words", put("model", "vocab", "red", -1), r"vocab\['red'\]: expected an id"),
    "large id": ("words", put("model", "vocab", "red", 2**31), r"vocab\['red'\]: expected an id from 0 to 2147483647"),
    "many added": (
        "demo",
        lambda file: file["added_tokens"].extend(file["added_tokens"] * 3000),
        "added_tokens: expected a list of 1 to 4096",
    ),
    "two processors": (
        "demo",
        lambda file: file.update(post_processor={"type": "Sequence", "processors": [file["post_processor"]] * 2}),
        "one that puts tokens around",
    ),
    "two kinds of processors": (
        "bert",
        lambda file: file.update(post_processor={"type": "Sequence", "processors": [file["post_processor"], TEMPLATE]}),
        "one that puts tokens around a prompt, got .'post_processor.processors.0.', 'post_processor.processors.1.'",
    ),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_harmful_tokenizer_is_refused_before_the_library_sees_it(
    name: str, sound: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, edit, words = HARMFUL[name]
    file = json.loads(sound[kind])
    edit(file)
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(BundleError) as raised:
        open_tokenizer(tmp_path / "tokenizer.json", max_tokens=MAX_TOKENS)
    message = str(raised.value)
    assert re.search(words, message) and "export the bundle again" in message and len(message) < 1000, message
    assert capfd.readouterr().err == ""  # where the library tells of a panic


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(
        DEMO.read_text(encoding="utf-8").replace('"fuse_unk":', '"dropout":0.5,"fuse_unk":'), encoding="utf-8"
    )
    with pytest.raises(BundleError, match="the key 'dropout' twice"):
        open_tokenizer(path)


@pytest.mark.parametrize("kind", ["demo", "words", "t5", "bert"])
def test_a_model_of_an_old_file_needs_no_type(kind: str, sound: dict[str, str], tmp_path: Path) -> None:
    file = json.loads(sound[kind])
    del file["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    assert outcome(tmp_path / "tokenizer.json") == "read"


def test_hundreds_of_damaged_tokenizers_are_refused_or_read(tmp_path: Path) -> None:
    found = attack(tmp_path, cases=500, seed=1)
    assert found["refused"] > 200 and found["read"] > 50, found
