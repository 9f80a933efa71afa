"""Prompt -> text context: the tokenizer of the bundle and the text encoder graph (paper section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ffrt.bundle import TextConfig
from ffrt.checks import Note, describe
from ffrt.errors import RequestError
from ffrt.stages.denoising import Network, Prompt
from ffrt.stages.tokens import tokenize

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Context:
    """Text as the U-Nets read it, conditional and unconditional.

    `context` float32 [1, L, D] with zero padding rows, `mask` bool [1, L] (true is a real token), `null_embedding`
    float32 [D]. `negative_context` and `negative_mask`, of the same shapes, take the place of the unconditional row.
    `interpolation_null_embedding` float32 [D] exists where the interpolation network reads text. `notes` says what was
    left out of the prompts.
    """

    context: NDArray[np.float32]
    mask: NDArray[np.bool_]
    null_embedding: NDArray[np.float32]
    negative_context: NDArray[np.float32] | None = None
    negative_mask: NDArray[np.bool_] | None = None
    interpolation_null_embedding: NDArray[np.float32] | None = None
    notes: tuple[Note, ...] = ()

    def interpolation_rows(self) -> Prompt | None:
        """The guidance rows of an interpolation network that reads text, as `rows`; None if it reads none."""
        if self.interpolation_null_embedding is None:
            return None
        return replace(self, null_embedding=self.interpolation_null_embedding).rows()

    def rows(self) -> Prompt:
        """Both guidance rows, conditional first: context [2, L, D] and mask [2, L]."""
        if self.negative_context is not None and self.negative_mask is not None:
            other, other_mask = self.negative_context, self.negative_mask
        else:
            other, other_mask = np.zeros_like(self.context), np.zeros_like(self.mask)
            other[0, 0] = self.null_embedding
            other_mask[0, 0] = True
        return np.concatenate([self.context, other]), np.concatenate([self.mask, other_mask])


def check_context(context: object) -> Context:
    """What `Pipeline.encode` gives; RequestError for anything else, and for a `Context` of other arrays."""
    if not isinstance(context, Context):
        raise RequestError(f"context: expected what pipe.encode(prompt) gives, got {type(context).__name__}")
    rows = context.context
    if not isinstance(rows, np.ndarray) or rows.ndim != 3 or len(rows) != 1 or rows.shape[1] == 0:
        raise RequestError(f"context: expected rows float32 [1, L, D], got {describe(rows)}")
    both, wide = rows.shape[:2], rows.shape[2:]
    for name, dtype, shape in (
        ("context", np.float32, rows.shape),
        ("mask", np.bool_, both),
        ("null_embedding", np.float32, wide),
        ("negative_context", np.float32, rows.shape),
        ("negative_mask", np.bool_, both),
        ("interpolation_null_embedding", np.float32, wide),
    ):
        value = getattr(context, name)
        if value is None and name not in ("context", "mask", "null_embedding"):
            continue
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
            raise RequestError(
                f"context: expected {name} {np.dtype(dtype)} {list(shape)}, got {describe(value)}; "
                "give what pipe.encode(prompt) gives"
            )
    return context


def encode(
    graph: Network,
    tokenizer: Tokenizer,
    config: TextConfig,
    prompt: str,
    negative_prompt: str | None,
    *,
    fill: bool = False,
) -> Context:
    """Encode a prompt and, if there is one, a negative prompt, both padded to the longer.

    As released, one padding row is kept after the last token where `max_tokens` has room: the U-Net pools over all
    rows. With `fill` the encoder sees `max_tokens` rows whatever the prompt, so that a GPU meets one shape; the rest
    are dropped.
    """
    found, mask, notes = _encode_one(graph, tokenizer, config, "prompt", prompt, fill)
    context = Context(
        found["context"],
        mask,
        found["null_embedding"],
        interpolation_null_embedding=found.get("interpolation_null_embedding"),
        notes=notes,
    )
    if negative_prompt is None:
        return context
    other, other_mask, more = _encode_one(graph, tokenizer, config, "negative_prompt", negative_prompt, fill)
    length = max(mask.shape[1], other_mask.shape[1])
    return replace(
        context,
        context=_pad(context.context, length),
        mask=_pad(mask, length),
        negative_context=_pad(other["context"], length),
        negative_mask=_pad(other_mask, length),
        notes=(*notes, *more),
    )


def _encode_one(
    graph: Network, tokenizer: Tokenizer, config: TextConfig, name: str, prompt: str, fill: bool
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_], tuple[Note, ...]]:
    most = config.max_tokens
    tokens = tokenize(tokenizer, name, prompt, most)
    count = len(tokens.ids)
    length = min(count + 1, most)
    rows = most if fill else length
    input_ids = np.zeros((1, rows), np.int64)
    input_ids[0, :count] = tokens.ids
    mask = np.arange(rows)[None] < count
    found = graph({"input_ids": input_ids, "attention_mask": mask.astype(np.int64)})
    spoken = name.replace("_", " ")
    told = f"the {spoken} has {tokens.whole} tokens; {count} were kept, the rest left out"
    notes = (Note(name, told),) if tokens.whole > count else ()
    return {**found, "context": found["context"][:, :length]}, mask[:, :length], notes


def _pad(rows: NDArray[Scalar], length: int) -> NDArray[Scalar]:
    return np.pad(rows, [(0, 0), (0, length - rows.shape[1])] + [(0, 0)] * (rows.ndim - 2))
