"""The tokenizer of a local Hugging Face folder becomes the tokenizer.json of a bundle."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, processors

from export.checkpoints.tokenizer import write_tokenizer
from export.errors import CheckpointError
from ffrt.stages import tokens
from tests.export.text_folders import PROMPTS, SENTENCES, edit_config, make_clip, make_t5, text_file


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_t5(folder)
    return folder


def test_vocabulary_and_merges_become_the_same_tokenizer(tmp_path: Path) -> None:
    make_clip(tmp_path)
    write_tokenizer(tmp_path, tmp_path / "copied.json")
    (tmp_path / "tokenizer.json").unlink()
    write_tokenizer(tmp_path, tmp_path / "converted.json")
    copied, converted = (tokens.open_tokenizer(tmp_path / f"{name}.json") for name in ("copied", "converted"))
    for prompt in ["", *PROMPTS.values()]:
        assert copied.encode(prompt).ids == converted.encode(prompt).ids


def test_a_sentencepiece_model_becomes_the_tokenizer_of_the_release(tmp_path: Path) -> None:
    """The release itself uses the slow tokenizer, SentencePiece."""
    sentencepiece = pytest.importorskip("sentencepiece")
    make_t5(tmp_path, vocab_size=256)
    (tmp_path / "tokenizer.json").unlink()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES[:2] * 50),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=90,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=9,
    )
    write_tokenizer(tmp_path, tmp_path / "out.json")
    ours = tokens.open_tokenizer(tmp_path / "out.json")
    slow = transformers.T5Tokenizer(str(tmp_path / "spiece.model"), extra_ids=0, legacy=True)
    for name, prompt in PROMPTS.items():
        if name != "special":
            assert ours.encode(prompt).ids == slow(prompt)["input_ids"], prompt


def test_the_written_tokenizer_neither_pads_nor_cuts(tmp_path: Path) -> None:
    make_t5(tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(9)
    tokenizer.save(str(path))
    write_tokenizer(tmp_path, tmp_path / "out.json")
    written = Tokenizer.from_file(str(tmp_path / "out.json"))
    assert (written.padding, written.truncation) == (None, None)
    assert len(written.encode("a red circle").ids) < 64 and len(written.encode(PROMPTS["over-long"]).ids) > 128


def no_end(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.save(str(folder / "tokenizer.json"))


BAD_TOKENIZERS: dict[str, tuple[Callable[[Path], None], type[Exception], list[str]]] = {
    "none": (
        lambda f: (f / "tokenizer.json").unlink(),
        CheckpointError,
        ["tokenizer.json or spiece.model", "no such file"],
    ),
    "not one": (
        text_file("tokenizer.json", "{}"),
        CheckpointError,
        ["tokenizer.json: expected a tokenizer", "got {}"],
    ),
    "no end token": (no_end, CheckpointError, ["tokenizer.json: expected </s> around a prompt", "got nothing"]),
    "too many": (edit_config(vocab_size=20), CheckpointError, ["tokenizer.json", "vocab_size 20", "use the tokenizer"]),
}


@pytest.mark.parametrize("name", BAD_TOKENIZERS)
def test_bad_tokenizers(name: str, sound: Path, tmp_path: Path) -> None:
    damage, error, words = BAD_TOKENIZERS[name]
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    damage(folder)
    with pytest.raises(error) as raised:
        write_tokenizer(folder, tmp_path / "out.json")
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert not (tmp_path / "out.json").exists()


def test_conversion_without_its_packages_names_them(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match="spiece.model.*no sentencepiece; .*pip install sentencepiece protobuf"):
        write_tokenizer(folder, tmp_path / "out.json")
