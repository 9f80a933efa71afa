"""The text encoder learns to read, before any picture is drawn (paper section 5: text is pretrained and frozen)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from export.datasets.demo import DEMO
from export.datasets.domain import Domain, corpus
from export.datasets.tokens import CORPUS, write_tokenizer
from export.models.configs import PRESETS, TextConfig
from export.models.text import TextEncoder
from export.training.stages import Folders


def tokenizer_in(folders: Folders, domain: Domain[Any] = DEMO) -> Tokenizer:
    """The tokenizer beside the weights, trained first where there is none, on captions of the domain."""
    path = folders.weights / "tokenizer.json"
    if not path.exists():
        write_tokenizer(path, corpus(domain, CORPUS))
    return Tokenizer.from_file(str(path))


def tokens(tokenizer: Tokenizer, captions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64 ``[B, L]``; as when sampling, one row of padding follows the longest caption."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(captions)]
    length = max(map(len, encoded)) + 1
    ids = [row + [0] * (length - len(row)) for row in encoded]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in encoded]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class ReadingText(nn.Module):
    """The text encoder and, in training only, one linear classifier for each attribute of a clip."""

    def __init__(self, config: TextConfig, attributes: Mapping[str, tuple[str | None, ...]]) -> None:
        super().__init__()
        self.text = TextEncoder(config)
        nn.init.normal_(self.text.null_embedding)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.context_dim, len(words)) for name, words in attributes.items()}
        )

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Logits of every attribute, ``[B, words]`` each, of ids and mask ``[B, L]``."""
        context, _ = self.text(ids, mask)
        mean = context.sum(1) / mask.sum(1, keepdim=True)
        return {name: head(mean) for name, head in self.heads.items()}


class TextStage:
    """The text encoder learns to read before it is frozen, as the released one was pretrained.

    It learns what a caption names, of the demo which colour, shape, action, background and size, told from the mean of
    its context by linear classifiers.
    """

    name, steps, batch, lr = "text", 1500, 128, 3e-3

    def __init__(self, folders: Folders, domain: Domain[Any] = DEMO) -> None:
        self.domain = domain
        self.tokenizer = tokenizer_in(folders, domain)
        self.model = ReadingText(PRESETS[domain.preset].text, domain.attributes)

    def answers(self, model: ReadingText, rng: np.random.Generator, batch: int, device: torch.device) -> list[Tensor]:
        """Cross-entropy and accuracy of every attribute on captions of random clips."""
        clips = [self.domain.sample(rng) for _ in range(batch)]
        logits = model(*tokens(self.tokenizer, [self.domain.caption(clip, rng) for clip in clips], device))
        shown = [self.domain.words(clip) for clip in clips]
        found = []
        for name, words in self.domain.attributes.items():
            truth = torch.tensor([words.index(one[name]) for one in shown], device=device)
            right = (logits[name].argmax(1) == truth).float().mean()
            found.append(torch.stack((F.cross_entropy(logits[name], truth), right)))
        return found

    def loss(self, model: ReadingText, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        """Cross-entropy of one step's captions."""
        return torch.stack([loss for loss, _ in self.answers(model, rng, batch, device)]).sum()

    @torch.no_grad()
    def measure(self, model: ReadingText, device: torch.device) -> dict[str, float]:
        """The share of right answers, by attribute."""
        found = self.answers(model, np.random.default_rng(99), 512, device)
        return {f"{name}_right": float(right) for name, (_, right) in zip(self.domain.attributes, found, strict=True)}

    def exported(self, model: ReadingText) -> Mapping[str, nn.Module]:
        """What a bundle takes of the model."""
        return {"text_encoder": model.text}
