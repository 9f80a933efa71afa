"""Prompt -> token ids, with the tokenizer of the bundle. The library is loaded here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ffrt import checks
from ffrt.bundle import MAX_PROMPT_TOKENS, MAX_TOKENIZER_BYTES, read_tokenizer
from ffrt.errors import BundleError, RequestError
from ffrt.files import told

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BLANK = r"[\t\n\x0c\r\x{061c}\x{1680}\x{200b}\x{200c}\x{200e}\x{200f}\x{2028}\x{2029}\x{2581}\x{feff}\x{fffd}]"
"""What SentencePiece's nmt_nfkc, the normalisation of T5, reads as a space beyond what NFKC does."""
_UNSEEN = (
    r"[\x00-\x08\x0b\x0e-\x1f\x{7f}\x{8f}\x{9f}"  # what nmt_nfkc drops, and NUL
    r"\x{ad}\x{034f}\x{115f}\x{1160}\x{17b4}\x{17b5}\x{180b}-\x{180f}\x{200d}\x{202a}-\x{202e}\x{2060}-\x{206f}"
    r"\x{3164}\x{fe00}-\x{fe0f}\x{ffa0}\x{fff0}-\x{fffb}\x{1bca0}-\x{1bca3}\x{1d173}-\x{1d17a}\x{e0000}-\x{e0fff}]"
)
"""What is dropped: control characters, and those that Unicode calls ignorable since nothing is seen of them."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of a prompt: those that were kept, and how many there were before it was cut."""

    ids: list[int]
    whole: int


def open_tokenizer(path: Path, data: bytes | None = None, *, max_tokens: int = MAX_PROMPT_TOKENS) -> Tokenizer:
    """The `tokenizers` file at `path`, without its own padding and truncation, for prompts of `max_tokens` tokens.

    `data` is what the file holds, for a caller that has read it.

    A tokenizer of bytes with NFKC, as the demo's, would see characters that nobody sees. It is given T5's own cleaning
    before its normalisation. Raises BundleError if the file is damaged or harmful.
    """
    from tokenizers import Regex, Tokenizer, normalizers

    raw = _read(path) if data is None else data
    try:
        found = read_tokenizer(raw)
        with _library("; a newer tokenizers may know it"):
            tokenizer = Tokenizer.from_str(found.text)
    except BundleError as error:
        raise BundleError(f"{path} is not a tokenizers file ({error}); export the bundle again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if "NFKC" in found.normalizers and "ByteLevel" in found.pre_tokenizers:
        cleaning = [normalizers.Replace(Regex(_BLANK), " "), normalizers.Replace(Regex(_UNSEEN), "")]
        tokenizer.normalizer = normalizers.Sequence([*cleaning, tokenizer.normalizer])
    around = tokenizer.num_special_tokens_to_add(False)
    if around >= max_tokens:
        raise BundleError(
            f"{path}: expected fewer than {max_tokens} tokens around a prompt, the most that the encoder takes, got "
            f"{around}; export the bundle again"
        )
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TOKENIZER_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read {told(error, 'give this user the right to read it')}") from error


def tokenize(tokenizer: Tokenizer, name: str, prompt: str, max_tokens: int) -> Tokens:
    """Token ids of `prompt`, at most `max_tokens` of them, with the tokens around it kept.

    The tokenizer is not changed, so threads may share it. The empty prompt is the tokens around it alone. Raises
    RequestError, which calls the prompt `name`, if no token is left of it or UTF-8 cannot hold it, and BundleError if
    the tokenizer fails.
    """
    checks.unicode(name, prompt)
    with _library("; export the bundle again"):
        encoding = tokenizer.encode(prompt)
        ids, around = list(encoding.ids), list(encoding.special_tokens_mask)
    if not ids or (prompt and 0 not in around):
        raise RequestError(f"{name}: {prompt[:80]!r} has no token in this bundle's vocabulary; use other words")
    if len(ids) <= max_tokens:
        return Tokens(ids, len(ids))
    end = len(around) - around[::-1].index(0)  # of the prompt's own tokens
    spare = len(ids) - max_tokens
    return Tokens(ids[: end - spare] + ids[end:], len(ids))


@contextmanager
def _library(advice: str = "") -> Iterator[None]:
    """Turn whatever the library raises into BundleError with `advice`. Its panics are no Exception, nor importable."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise BundleError(f"tokenizers failed: {error!s:.400}{advice}") from error
        raise
