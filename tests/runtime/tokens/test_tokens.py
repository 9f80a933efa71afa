"""Prompts become tokens: as the library cuts them, and as T5 reads what nobody sees. Files that harm are refused."""

from __future__ import annotations

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ffrt import BundleError, RequestError
from ffrt.stages.tokens import open_tokenizer, tokenize
from tests.runtime.tokens.files import DEMO, PROMPTS, sound_files

KINDS = ("demo", "words", "t5", "clip", "bert")
RED = "a red circle moving right on a black background"
WORDS = [
    *RED.split(),
    "Red,",
    "\uff26\uff35\uff2c\uff2c",
    "naïve",
    "crème",
    "\u00a0",
    "\u3000",
    "\n",
    "\t",
    "  ",
    "!",
    "夜",
    "</s>",
    "<unk>",
]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join)


@pytest.fixture(scope="module")
def sound() -> dict[str, str]:
    return sound_files()


@pytest.fixture(scope="module")
def opened(sound: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind, content in sound.items():
        (folder / kind).write_text(content, encoding="utf-8")
    return {kind: open_tokenizer(folder / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@given(prompt=TEXTS, most=st.integers(4, 40))
def test_prompts_are_cut_as_the_library_cuts_them(
    kind: str, sound: dict[str, str], opened: dict[str, Tokenizer], prompt: str, most: int
) -> None:
    library = Tokenizer.from_str(sound[kind])
    whole = len(library.encode(prompt).ids)
    library.enable_truncation(most)
    try:
        found = tokenize(opened[kind], "prompt", prompt, most)
    except RequestError:
        assert whole == library.num_special_tokens_to_add(False)
    else:
        assert (found.ids, found.whole) == (library.encode(prompt).ids, whole)


def test_threads_share_a_tokenizer(opened: dict[str, Tokenizer]) -> None:
    prompts = [RED, f"{RED}, " * 20] * 200
    wanted = [tokenize(opened["demo"], "prompt", prompt, 16) for prompt in prompts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda prompt: tokenize(opened["demo"], "prompt", prompt, 16), prompts)) == wanted


@pytest.mark.parametrize("kind", ["t5", "clip", "bert", "words"])
def test_other_tokenizers_read_every_character_as_they_were_made_to(
    kind: str, sound: dict[str, str], opened: dict[str, Tokenizer]
) -> None:
    library = Tokenizer.from_str(sound[kind])
    for prompt in [*PROMPTS, *(f"re{chr(code)}d" for code in [*range(0x300), *range(0x2000, 0x2070), 0xFEFF, 0xFFFD])]:
        assert opened[kind].encode(prompt).ids == library.encode(prompt).ids, ascii(prompt)


def test_the_demo_cleans_text_as_t5_does(opened: dict[str, Tokenizer]) -> None:
    """All characters that nmt_nfkc maps in a way of its own, but for a tilde and marks that join the letter before."""
    t5 = sentencepiece.SentencePieceNormalizer(
        rule_name="nmt_nfkc", add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False
    )
    own = 0
    for code in [*range(1, 0xD800), *range(0xE000, 0x10000)]:
        text = f"x{chr(code)}x"
        wanted = t5.Normalize(text)
        if wanted in ("x x", "xx") and wanted != unicodedata.normalize("NFKC", text):
            own += 1
            assert opened["demo"].normalizer.normalize_str(text) == wanted, hex(code)
    assert own > 40


UNSEEN = [0, *(c for c in range(0x80, 0xF0000) if unicodedata.category(chr(c)) == "Cf"), 0xFE0F, 0x34F, 0x3164, 0xE0100]
SEEN = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Signs of Arabic, Syriac and Kaithi that enclose numbers; Egyptian joiners stand from 0x13430 on."""


def test_what_nobody_sees_does_not_change_the_demo(opened: dict[str, Tokenizer]) -> None:
    wanted = opened["demo"].encode(RED).ids
    for code in UNSEEN:
        if code not in SEEN and not 0x13430 <= code < 0x13460:
            for prompt in (f"{chr(code)}{RED}", f"{RED}{chr(code)}", RED.replace(" ", f" {chr(code)}", 1)):
                assert opened["demo"].encode(prompt).ids == wanted, hex(code)


@given(prompt=TEXTS)
def test_the_demo_reads_ordinary_text_as_its_file_says(opened: dict[str, Tokenizer], prompt: str) -> None:
    assert opened["demo"].encode(prompt).ids == Tokenizer.from_file(str(DEMO)).encode(prompt).ids


def test_half_a_surrogate_pair_is_the_prompts_fault(opened: dict[str, Tokenizer]) -> None:
    with pytest.raises(RequestError, match="^prompt: expected text that UTF-8 can hold"):
        tokenize(opened["demo"], "prompt", "a red \ud83d circle", 8)


@pytest.mark.parametrize("kind", ["demo", "clip"])
def test_a_prompt_of_nothing_seen_is_refused(kind: str, opened: dict[str, Tokenizer]) -> None:
    prompt = {"demo": "\ufeff\u00ad", "clip": "\u2003\n"}[kind]
    with pytest.raises(RequestError, match="^negative_prompt: .* has no token in this bundle's vocabulary"):
        tokenize(opened[kind], "negative_prompt", prompt, 8)
    assert tokenize(opened[kind], "prompt", "", 8).ids == opened[kind].encode("").ids != []


@pytest.mark.parametrize(("most", "refused"), [(1, True), (2, True), (3, False)])
def test_a_prompt_must_have_room_between_the_tokens_around_it(
    sound: dict[str, str], tmp_path: Path, most: int, refused: bool
) -> None:
    (tmp_path / "bert").write_text(sound["bert"], encoding="utf-8")  # puts two tokens around
    if refused:
        with pytest.raises(BundleError, match=f"expected fewer than {most} tokens around a prompt.* got 2"):
            open_tokenizer(tmp_path / "bert", max_tokens=most)
    else:
        assert tokenize(open_tokenizer(tmp_path / "bert", max_tokens=most), "prompt", "red circle", most).whole == 4
