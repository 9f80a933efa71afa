"""Hugging Face folders of small random text encoders, made here, and ways to damage them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

LIMIT = 1e-4
DIM = 24  # D
PROMPTS = {
    "plain": "a red circle moving right",
    "accents": "Une crème brûlée à Łódź, über naïve Ångström",
    "scripts": "лиса в снегу, 夜の灯台, مرحبا",
    "emoji": "a 🦊 and a 👩‍🚀 in the ☔️!!",
    "spaces": "  two\n\nspaces\tand   a tab  ",
    "special": "the end </s> and <|endoftext|> of it",
    "over-long": "a lighthouse in a storm at night " * 60,
}
SENTENCES = [*PROMPTS.values(), "the quick brown fox jumps over the lazy dog", "waves at night, seen from a boat"]


def t5_tokenizer() -> transformers.T5TokenizerFast:
    """A Unigram model with the parts of the released tokenizer: special tokens, Metaspace, </s> at the end."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES[:2], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0)


def clip_files(folder: Path) -> None:
    """vocab.json and merges.txt as CLIP has them: every byte alone and at a word's end, merges, two special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["i n", "t h", "th e</w>", "r e", "re d</w>", "a n", "an d</w>", "o v", "ov in", "in g</w>"]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbered = {token: number for number, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")


def random_weights(model: Any) -> Any:
    """Initial weights are so small, and norms so plain, that a wrong place would hardly show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + (1.0 if parameter.dim() == 1 else 0.0))
    return model.eval()


def make_t5(folder: Path, family: str = "T5", **changes: Any) -> Any:
    torch.manual_seed(len(changes))
    settings = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = getattr(transformers, f"{family}Config")(**{**settings, "feed_forward_proj": "gated-gelu", **changes})
    model = random_weights(getattr(transformers, f"{family}EncoderModel")(config))
    model.save_pretrained(folder)
    t5_tokenizer().save_pretrained(folder)
    return model


def make_clip(folder: Path, **changes: Any) -> Any:
    torch.manual_seed(len(changes))
    settings = {"vocab_size": 528, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = transformers.CLIPTextConfig(
        **{**settings, "num_attention_heads": 4, "bos_token_id": 522, "eos_token_id": 523, **changes}
    )
    model = random_weights(transformers.CLIPTextModel(config))
    model.save_pretrained(folder)
    clip_files(folder)
    transformers.CLIPTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), from_slow=True
    ).save_pretrained(folder)
    return model


def make_bert(folder: Path, **changes: Any) -> Any:
    """An encoder that only optimum describes, as a model with a head, and a tokenizer that puts nothing around."""
    torch.manual_seed(0)
    settings = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = transformers.BertConfig(**{**settings, "num_attention_heads": 4, "max_position_embeddings": 64, **changes})
    model = random_weights(transformers.BertForMaskedLM(config))
    model.save_pretrained(folder)
    t5_tokenizer().save_pretrained(folder)
    return model.bert


MAKERS: dict[str, Callable[[Path], Any]] = {
    "t5 gated gelu": make_t5,
    "t5 relu, other buckets": lambda folder: make_t5(
        folder, feed_forward_proj="relu", relative_attention_num_buckets=12, relative_attention_max_distance=40
    ),
    "umt5 gated silu": lambda folder: make_t5(folder, "UMT5", feed_forward_proj="gated-silu"),
    "clip quick gelu": make_clip,
    "clip gelu": lambda folder: make_clip(folder, hidden_act="gelu", max_position_embeddings=20),
    "bert": make_bert,
}
EXPORTED = ("t5 gated gelu", "clip quick gelu", "bert")


def projection() -> dict[str, Tensor]:
    """As 1.0 keeps it."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"t5.0.weight": (DIM, 32), "t5.1.weight": (DIM,), "t5.1.bias": (DIM,)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def save_bin(folder: Path, state: Mapping[str, Any]) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(dict(state), folder / "pytorch_model.bin")


def edit_config(**changes: Any) -> Callable[[Path], None]:
    """Change keys of config.json; None takes a key away."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values = {key: value for key, value in {**values, **changes}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(values))

    return damage


def edit_weights(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return damage


def rename_one(state: dict[str, Tensor]) -> None:
    state["encoder.block.1.layer.0.SelfAttention.query.weight"] = state.pop(
        "encoder.block.1.layer.0.SelfAttention.q.weight"
    )


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        os.truncate(path, path.stat().st_size * 2 // 3)

    return damage


class Code:
    """What a hostile pickle holds: loading it the plain way would make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def hostile(folder: Path) -> None:
    save_bin(folder, {"shared.weight": Code()})


def shard(name: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "inside.safetensors")
        places = {"weight_map": {"shared.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(places))

    return damage


def text_file(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_text(content))


def void(_: object) -> None:
    return None
