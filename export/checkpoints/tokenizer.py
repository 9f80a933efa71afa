"""The tokenizer of a local Hugging Face folder -> the one tokenizer.json that a bundle carries."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.checkpoints.text_config import MAX_CONFIG_BYTES, read_config, read_json
from export.errors import CheckpointError, PackageError
from export.models.configs import TextConfig
from ffrt.bundle import MAX_TOKENIZER_BYTES
from ffrt.errors import BundleError
from ffrt.stages.tokens import open_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_EXTRA_IDS = 1000


@dataclass(frozen=True)
class Family:
    """The tokenizers of one family: their file beside tokenizer.json, and the tokens around every prompt."""

    other: str
    around: tuple[str, ...]


_T5, _CLIP = Family("spiece.model", ("</s>",)), Family("vocab.json", ("<|startoftext|>", "<|endoftext|>"))
FAMILIES = {"t5": _T5, "mt5": _T5, "umt5": _T5, "clip": _CLIP, "clip_text_model": _CLIP}
"""Model types whose tokenizers are converted and checked; for others tokenizer.json is taken as it is."""


def write_tokenizer(folder: Path, out: Path) -> None:
    """Write the tokenizer of `folder` to the file `out`, without padding and truncation of its own.

    tokenizer.json is taken as it is where there is one; spiece.model (T5) and vocab.json with merges.txt (CLIP) are
    converted as transformers does it. `out` appears only when all is well. Raises PackageError naming the command where
    a package is missing, CheckpointError where there is none of these files or one is damaged, does not end a prompt as
    the encoder's family does, or has more tokens than the encoder.
    """
    config = read_config(folder)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "tokenizer.json"
        source = _source(folder, config)
        _sized(source)
        if source.name == "tokenizer.json":
            shutil.copyfile(source, made)
        elif source.name == "spiece.model":
            _from_spiece(folder, source).save(str(made))
        else:
            _from_merges(source, folder / "merges.txt").save(str(made))
        try:
            tokenizer = open_tokenizer(made)
        except BundleError as error:
            raise CheckpointError(f"{source}: expected a tokenizer, got {error.__cause__}; fetch it again") from None
        _check(source, tokenizer, config)
        raw = read_json(made, MAX_TOKENIZER_BYTES)
        if raw.get("padding") is not None or raw.get("truncation") is not None:
            made.write_text(
                json.dumps({**raw, "padding": None, "truncation": None}, ensure_ascii=False), encoding="utf-8"
            )
        shutil.copyfile(made, out)


def _source(folder: Path, config: TextConfig) -> Path:
    family = FAMILIES.get(config.model_type)
    names = ("tokenizer.json",) if family is None else ("tokenizer.json", family.other)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: expected {' or '.join(names)}, got no such file; fetch the model's tokenizer")


def _sized(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected beside vocab.json, got no such file; fetch the model's tokenizer")
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_TOKENIZER_BYTES} bytes, got {path.stat().st_size}")


def _from_spiece(folder: Path, spiece: Path) -> Tokenizer:
    missing = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
    if missing:
        raise PackageError(
            f"{spiece}: expected the packages that convert it, got no {' and no '.join(missing)}; install them: "
            "pip install sentencepiece protobuf, or put the model's tokenizer.json beside it"
        )
    from transformers import T5TokenizerFast

    settings = folder / "tokenizer_config.json"
    extra: Any = read_json(settings, MAX_CONFIG_BYTES).get("extra_ids", 100) if settings.is_file() else 100
    if type(extra) is not int or not 0 <= extra <= MAX_EXTRA_IDS:
        raise CheckpointError(
            f"{settings}: extra_ids: expected a whole number from 0 to {MAX_EXTRA_IDS}, got {extra!r:.80}"
        )
    try:
        # Left out, add_prefix_space counts as false, and the first word of every prompt loses its beginning.
        fast = T5TokenizerFast(str(spiece), extra_ids=extra, legacy=True, add_prefix_space=True, from_slow=True)
        return fast.backend_tokenizer
    except Exception as error:
        raise CheckpointError(
            f"{spiece}: expected a SentencePiece model, got {error!r:.300}; fetch the file again"
        ) from error


def _from_merges(vocabulary: Path, merges: Path) -> Tokenizer:
    _sized(merges)
    from transformers import CLIPTokenizerFast

    try:
        fast = CLIPTokenizerFast(vocab_file=str(vocabulary), merges_file=str(merges), from_slow=True)
        return fast.backend_tokenizer
    except Exception as error:
        raise CheckpointError(
            f"{vocabulary}, {merges.name}: expected CLIP's vocabulary and merges, got {error!r:.300}; fetch both again"
        ) from error


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _check(source: Path, tokenizer: Tokenizer, config: TextConfig) -> None:
    family, empty = FAMILIES.get(config.model_type), tokenizer.encode("").tokens
    if family is not None and tuple(empty) != family.around:
        raise CheckpointError(
            f"{source}: expected {' '.join(family.around)} around a prompt, as {config.model_type} was trained, got "
            f"{' '.join(empty) if empty else 'nothing'}; use the tokenizer that belongs to the model"
        )
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= config.vocab_size:
        raise CheckpointError(
            f"{source}: expected token ids below the encoder's vocab_size {config.vocab_size}, got {largest}; "
            "use the tokenizer that belongs to the model"
        )
