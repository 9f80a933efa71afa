"""Prompt -> text context: the tokenizer of the bundle and the text encoder graph (paper section 3.1)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.graph import Graph
from ffrt.bundle import Bundle
from ffrt.errors import BundleError, PromptTruncated, RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Scalar = TypeVar("Scalar", bound=np.generic)

MAX_PROMPT_CHARACTERS = 10_000
MAX_TOKENIZER_BYTES = 64 << 20


@dataclass(frozen=True)
class Context:
    """What the keyframe U-Net is told, conditional and unconditional.

    `context` float32 [1, L, D] with zero padding rows, `mask` bool [1, L] (true = a real token), `null_embedding`
    float32 [D]. `negative_context` and `negative_mask`, of the same shapes, take the place of the unconditional row.
    `interpolation_null_embedding` is there where the interpolation network sees text.
    """

    context: NDArray[np.float32]
    mask: NDArray[np.bool_]
    null_embedding: NDArray[np.float32]
    negative_context: NDArray[np.float32] | None = None
    negative_mask: NDArray[np.bool_] | None = None
    interpolation_null_embedding: NDArray[np.float32] | None = None

    def interpolation_rows(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """What an interpolation network that sees text is told, as `rows`; None where it sees none."""
        if self.interpolation_null_embedding is None:
            return None
        return replace(self, null_embedding=self.interpolation_null_embedding).rows()

    def rows(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Both guidance rows, conditional first: context [2, L, D] and mask [2, L]."""
        if self.negative_context is not None and self.negative_mask is not None:
            other, other_mask = self.negative_context, self.negative_mask
        else:
            other, other_mask = np.zeros_like(self.context), np.zeros_like(self.mask)
            other[0, 0] = self.null_embedding
            other_mask[0, 0] = True
        return np.concatenate([self.context, other]), np.concatenate([self.mask, other_mask])


def check_prompt(name: str, prompt: object) -> str:
    """`prompt` if it is text with something in it; raises RequestError naming the argument `name` otherwise."""
    if not isinstance(prompt, str):
        raise RequestError(f"{name}: expected a sentence (str), got {type(prompt).__name__}")
    if not prompt.strip():
        raise RequestError(f"{name}: expected a sentence, got {prompt[:20]!r}, which is empty")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise RequestError(f"{name}: expected at most {MAX_PROMPT_CHARACTERS} characters, got {len(prompt)}")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{name}: expected text that UTF-8 can hold, got {prompt[:80]!a} ({error})") from None
    return prompt


def open_tokenizer(path: Path) -> Tokenizer:
    """The `tokenizers` file at `path`, without its own padding and truncation. Raises BundleError if it is not one."""
    from tokenizers import Tokenizer

    size = path.stat().st_size
    if size > MAX_TOKENIZER_BYTES:
        raise BundleError(f"{path}: a tokenizer has at most {MAX_TOKENIZER_BYTES} bytes, this one {size}")
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise BundleError(f"{path} is not a tokenizers file ({error}); export the bundle again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenize(tokenizer: Tokenizer, prompt: str, max_tokens: int) -> list[int]:
    """Token ids of `prompt`, at most `max_tokens` with the end token kept; warns with PromptTruncated if cut."""
    ids = list(tokenizer.encode(prompt).ids)
    if not ids:
        raise RequestError(f"prompt: {prompt[:80]!r} has no token in this bundle's vocabulary; use other words")
    if len(ids) <= max_tokens:
        return ids
    whole = len(ids)
    tokenizer.enable_truncation(max_tokens)
    try:
        ids = list(tokenizer.encode(prompt).ids)
    finally:
        tokenizer.no_truncation()
    warnings.warn(
        f"the prompt has {whole} tokens; {len(ids)} were kept, the rest left out",
        PromptTruncated,
        stacklevel=2,
    )
    return ids


def encode(
    graph: Graph, tokenizer: Tokenizer, bundle: Bundle, prompt: str, negative_prompt: str | None, fill: bool = False
) -> Context:
    """Encode a prompt and, if there is one, a negative prompt, both padded to the longer.

    As released, one padded row is kept after the last token where `max_tokens` has room: the U-Net pools over all rows.
    With `fill` the encoder sees `max_tokens` rows whatever the prompt, and those behind are dropped: a GPU meets one
    shape.
    """
    found, mask = _encode_one(graph, tokenize(tokenizer, prompt, bundle.text.max_tokens), bundle, fill)
    context = Context(
        found["context"],
        mask,
        found["null_embedding"],
        interpolation_null_embedding=found.get("interpolation_null_embedding"),
    )
    if negative_prompt is None:
        return context
    other, other_mask = _encode_one(graph, tokenize(tokenizer, negative_prompt, bundle.text.max_tokens), bundle, fill)
    length = max(mask.shape[1], other_mask.shape[1])
    return replace(
        context,
        context=_pad(context.context, length),
        mask=_pad(mask, length),
        negative_context=_pad(other["context"], length),
        negative_mask=_pad(other_mask, length),
    )


def _encode_one(
    graph: Graph, ids: list[int], bundle: Bundle, fill: bool
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    most = bundle.text.max_tokens
    length = min(len(ids) + 1, most)
    rows = most if fill else length
    input_ids = np.zeros((1, rows), np.int64)
    input_ids[0, : len(ids)] = ids
    mask = np.arange(rows)[None] < len(ids)
    found = graph({"input_ids": input_ids, "attention_mask": mask.astype(np.int64)})
    return {**found, "context": found["context"][:, :length]}, mask[:, :length]


def _pad(rows: NDArray[Scalar], length: int) -> NDArray[Scalar]:
    return np.pad(rows, [(0, 0), (0, length - rows.shape[1])] + [(0, 0)] * (rows.ndim - 2))
