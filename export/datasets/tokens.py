"""The tokenizer of a domain, trained on its captions."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ffrt.output.whole_file import whole_file

CORPUS = 20_000
"""Captions that a tokenizer is trained on."""


def write_tokenizer(path: str | PathLike[str], corpus: Iterator[str]) -> None:
    """Write `tokenizer.json`: byte-level BPE of 512 tokens, the same file for the same captions.

    `<pad>` is 0, `</s>` is 1 and ends every text. Text is NFKC-normalised and lower-cased, runs of white space become
    one space; then any Unicode text can be encoded and decoded again. The file sets no truncation and no padding.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    with whole_file(Path(path)) as part:
        tokenizer.save(str(part), pretty=False)
