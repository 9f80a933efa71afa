"""Text encoders from a local Hugging Face folder, against transformers: its tokenizer, its encoder, the released order.

The folders are made here: small random models, tokenizers trained on a few sentences.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

from export.checkpoints.hugging_face import encoder_state, make_encoder, open_weights, read_config
from export.checkpoints.names import clip_key, hugging_face_key, t5_key
from export.checkpoints.tokenizer import write_tokenizer
from export.errors import CheckpointError
from export.golden import file as golden
from export.golden import models as golden_models
from export.models.clip import ClipTextEncoder
from export.models.configs import PRESETS, CLIPTextConfig, T5Config
from export.models.t5 import RelativePosition, TextEncoder
from export.onnx.parity import errors
from export.onnx.trace import Traced, trace
from ffrt.bundle import TextConfig
from ffrt.families import KANDINSKY_1_0, KANDINSKY_1_1
from ffrt.stages import text

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
Session = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


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


MAKERS: dict[str, Callable[[Path], Any]] = {
    "t5 gated gelu": make_t5,
    "t5 relu, other buckets": lambda folder: make_t5(
        folder, feed_forward_proj="relu", relative_attention_num_buckets=12, relative_attention_max_distance=40
    ),
    "umt5 gated silu": lambda folder: make_t5(folder, "UMT5", feed_forward_proj="gated-silu"),
    "clip quick gelu": make_clip,
    "clip gelu": lambda folder: make_clip(folder, hidden_act="gelu", max_position_embeddings=20),
}
EXPORTED = ("t5 gated gelu", "t5 relu, other buckets", "clip quick gelu")


def projection() -> dict[str, Tensor]:
    """As 1.0 keeps it."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"t5.0.weight": (DIM, 32), "t5.1.weight": (DIM,), "t5.1.bias": (DIM,)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def load(folder: Path) -> tuple[T5Config | CLIPTextConfig, TextEncoder | ClipTextEncoder]:
    config = read_config(folder, context_dim=DIM)
    encoder = make_encoder(config)
    state = encoder_state(config, open_weights(folder), projection(), torch.arange(float(DIM)))
    encoder.load_state_dict(state)
    return config, encoder.eval()


def released(folder: Path, model: Any, prompt: str, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Context [1, L, D] and mask [1, L] in the released order: pad to the end, encode, project, zero, cut."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = tokenizer(prompt, max_length=max_tokens, truncation=True)
    spare = max_tokens - len(found["input_ids"])
    ids = torch.tensor([found["input_ids"] + [tokenizer.pad_token_id] * spare])
    mask = torch.tensor([found["attention_mask"] + [0] * spare])
    weight, scale, shift = projection().values()
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        context = torch.nn.functional.layer_norm(hidden @ weight.T, (DIM,), scale, shift)
    context[mask == 0] = 0
    kept = int(mask.sum()) + 1
    return context[:, :kept].numpy(), mask[:, :kept].numpy()


def graph_of(module: torch.nn.Module, vocabulary: int, contract: Mapping[str, Any]) -> onnx.ModelProto:
    """The exported graph, its weights inside."""
    example = torch.randint(0, vocabulary, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    model = trace(Traced("text_encoder", module, example, {}, contract))
    assert [output.name for output in model.graph.output] == [spec.name for spec in contract["text_encoder"][1]]
    return model


def session_of(model: onnx.ModelProto) -> Session:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))


def encode(graph: Session, tokenizer: Tokenizer, prompt: str, max_tokens: int) -> text.Context:
    """The runtime's own text stage over this graph."""
    return text.encode(graph.run, tokenizer, TextConfig("out.json", max_tokens), prompt, None)


@pytest.mark.parametrize("name", MAKERS)
def test_every_prompt_as_released(name: str, tmp_path: Path) -> None:
    model = MAKERS[name](tmp_path)
    config, encoder = load(tmp_path)
    write_tokenizer(tmp_path, tmp_path / "out.json")
    tokenizer = text.open_tokenizer(tmp_path / "out.json")

    def torch_graph(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = encoder(*(torch.from_numpy(value) for value in feed.values()))
        return {"context": found[0].numpy(), "null_embedding": found[1].numpy()}

    graph = (
        session_of(graph_of(encoder, config.vocab_size, KANDINSKY_1_0.contract)) if name in EXPORTED else torch_graph
    )
    for prompt in ["", *PROMPTS.values()]:  # users cannot give the empty one; here it is the end token alone
        wanted, mask = released(tmp_path, model, prompt, config.max_tokens)
        found = encode(graph, tokenizer, prompt, config.max_tokens)
        assert len(found.notes) == (mask.shape[1] == mask.sum()), prompt
        assert found.context.shape == wanted.shape, prompt
        assert np.array_equal(found.mask, mask == 1)
        assert errors(wanted, found.context)[1] < LIMIT, prompt
        assert not found.context[~found.mask].any()
        assert np.array_equal(found.null_embedding, np.arange(DIM, dtype=np.float32))


def test_the_prompts_differ_and_use_the_whole_length(tmp_path: Path) -> None:
    """Else the comparison above would say little."""
    make_t5(tmp_path)
    write_tokenizer(tmp_path, tmp_path / "out.json")
    tokenizer = text.open_tokenizer(tmp_path / "out.json")
    ids = {prompt: tuple(tokenizer.encode(prompt).ids) for prompt in PROMPTS.values()}
    assert len(set(ids.values())) == len(ids)
    kept = text.tokenize(tokenizer, "prompt", PROMPTS["over-long"], 128).ids
    assert len(kept) == 128 and kept[-1] == 1 and 1 not in kept[:-1]


def test_golden_numbers_through_the_graph() -> None:
    """The graph of bundles with a first frame; the second projection takes the place of the first in a copy of it."""
    file = golden.read_golden(Path(__file__).parents[1] / "golden" / "v1_1_text.npz")
    config = T5Config(context_dim=file.config["context_dim"], **golden_models.known_fields(T5Config, file.config["t5"]))

    def part(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{name}/"): v for k, v in file.parameters.items() if k.startswith(f"{name}/")}

    weights = {key: value for key, value in part("t5").items() if key != "encoder.embed_tokens.weight"}
    nulls = torch.ones(1, config.context_dim), torch.full((config.context_dim,), 2.0)
    encoder = make_encoder(config, interpolation_null=True).eval()
    sources = ("projection_base", "projection_interpolation")
    states = [encoder_state(config, weights, part(source), *nulls) for source in sources]
    encoder.load_state_dict(states[0])
    model = graph_of(encoder, config.vocab_size, KANDINSKY_1_1.contract)
    for source, state in zip(sources, states, strict=True):
        for initializer in model.graph.initializer:
            if initializer.name in state:
                initializer.CopyFrom(numpy_helper.from_array(state[initializer.name].numpy(), initializer.name))
        graph = session_of(model)
        for number in range(3):
            wanted = file.outputs[f"{number}/{source}/context"]
            feed = {name: file.inputs[f"{number}/{name}"].numpy() for name in ("input_ids", "attention_mask")}
            found = graph(feed)
            assert errors(wanted, found["context"][:, : wanted.shape[1]])[1] < LIMIT
            assert not found["context"][:, wanted.shape[1] :].any()
            assert (found["null_embedding"] == 1).all() and (found["interpolation_null_embedding"] == 2).all()


def test_distances_fall_into_the_buckets_of_transformers() -> None:
    distance = torch.arange(-600, 601)[None]
    for buckets, furthest in [(32, 128), (8, 16), (12, 40), (4, 20), (64, 512), (20, 100)]:
        config = replace(
            PRESETS["demo"].text,
            relative_attention_num_buckets=buckets,
            relative_attention_max_distance=furthest,
        )
        wanted = T5Attention._relative_position_bucket(distance, True, buckets, furthest)
        assert torch.equal(RelativePosition(config).bucket(distance), wanted)


def test_every_name_has_a_way_back() -> None:
    settings = {"context_dim": 8, "vocab_size": 16}
    t5 = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=12, num_heads=2, positions_in_every_layer=True, **settings)
    clip = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=12, num_attention_heads=2, **settings)
    for config, rename, beginning in ((t5, t5_key, "t5."), (clip, clip_key, "clip.")):
        ours = [key for key in make_encoder(config).state_dict() if key.startswith(beginning)]
        theirs = [hugging_face_key(key) for key in ours]
        assert len(set(theirs)) == len(ours) and not set(theirs) & set(ours)
        assert [beginning + rename(key, torch.empty(0))[0] for key in theirs] == ours


def save_bin(folder: Path, state: Mapping[str, Any]) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(dict(state), folder / "pytorch_model.bin")


def whole_t5(folder: Path, model: Any) -> None:
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config.from_pretrained(folder))
    whole.load_state_dict(model.state_dict(), strict=False)
    whole.save_pretrained(folder, safe_serialization=False)
    (folder / "model.safetensors").unlink()


def whole_clip(folder: Path, model: Any) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=model.config.to_dict(), vision_config={**vision, "image_size": 8, "patch_size": 4}
    )
    whole = transformers.CLIPModel(config)
    whole.load_state_dict(model.state_dict(), strict=False)
    whole.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "clip"


def without_beginning(*beginnings: str) -> Callable[[Path, Any], None]:
    def write(folder: Path, model: Any) -> None:
        state = {}
        for key, value in model.state_dict().items():
            beginning = next((word for word in beginnings if key.startswith(word)), "")
            if key != "shared.weight":
                state[key.removeprefix(beginning)] = value
        save_bin(folder, state)

    return write


def sharded(safe: bool) -> Callable[[Path, Any], None]:
    def write(folder: Path, model: Any) -> None:
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, safe_serialization=safe, max_shard_size="20KB")
        assert len(list(folder.glob("*-of-*"))) > 2

    return write


LAYOUTS: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Any], None]]] = {
    "t5 in safetensors shards": (make_t5, sharded(True)),
    "t5 .bin": (make_t5, lambda folder, model: save_bin(folder, model.state_dict())),
    "t5 in .bin shards": (make_t5, sharded(False)),
    "whole t5 with decoder": (make_t5, whole_t5),
    "t5 without shared": (make_t5, without_beginning()),
    "the bare stack of t5": (make_t5, without_beginning("encoder.")),
    "clip in safetensors shards": (make_clip, sharded(True)),
    "whole clip with nested configuration": (make_clip, whole_clip),
    "clip without text_model": (make_clip, without_beginning("text_model.")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_weights(name: str, tmp_path: Path) -> None:
    make, rewrite = LAYOUTS[name]
    model = make(tmp_path)
    config = read_config(tmp_path)
    rewrite(tmp_path, model)
    assert read_config(tmp_path) == config
    wanted = {key: value for key, value in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
    found = open_weights(tmp_path)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("feed", ["relu", "gelu", "silu", "gated-gelu", "gated-silu", "gated-relu"])
def test_older_configurations_leave_the_derived_values_out(feed: str, tmp_path: Path) -> None:
    transformers.T5Config(feed_forward_proj=feed).save_pretrained(tmp_path)
    whole = read_config(tmp_path)
    edit_config(**UNDERIVED)(tmp_path)
    assert read_config(tmp_path) == whole


def test_an_older_nested_configuration_of_clip(tmp_path: Path) -> None:
    """text_config_dict, where it is not null, takes the place of text_config; the rest are CLIP's own sizes."""
    path = tmp_path / "config.json"
    values = {"model_type": "clip", "text_config": {"hidden_size": 768}, "text_config_dict": None}
    path.write_text(json.dumps(values))
    assert read_config(tmp_path) == CLIPTextConfig(49408, 768, 2048, 12, 8, 768, projection=False)
    path.write_text(json.dumps({**values, "text_config_dict": {"num_hidden_layers": 3}}))
    assert read_config(tmp_path) == CLIPTextConfig(49408, 512, 2048, 3, 8, 512, projection=False)
    path.write_text(json.dumps({**values, "text_config": 7}))
    with pytest.raises(CheckpointError, match="config.json: text_config: expected an object, got 7"):
        read_config(tmp_path)


def test_without_a_projection_the_context_is_the_hidden_state(tmp_path: Path) -> None:
    model = make_clip(tmp_path)
    config = read_config(tmp_path)
    assert (config.context_dim, config.projection, config.max_tokens) == (32, False, 77)
    encoder = make_encoder(config)
    encoder.load_state_dict(encoder_state(config, open_weights(tmp_path), None, torch.zeros(32)))
    ids, mask = torch.tensor([[522, 7, 9, 523]]), torch.ones(1, 4, dtype=torch.long)
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state
        assert errors(wanted.numpy(), encoder(ids, mask)[0].numpy())[1] < LIMIT
    with pytest.raises(ValueError, match="context_dim is the encoder's width: expected 32, got 8"):
        replace(config, context_dim=8)


def test_vocabulary_and_merges_become_the_same_tokenizer(tmp_path: Path) -> None:
    make_clip(tmp_path)
    write_tokenizer(tmp_path, tmp_path / "copied.json")
    (tmp_path / "tokenizer.json").unlink()
    write_tokenizer(tmp_path, tmp_path / "converted.json")
    copied, converted = (text.open_tokenizer(tmp_path / f"{name}.json") for name in ("copied", "converted"))
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
    ours = text.open_tokenizer(tmp_path / "out.json")
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


UNDERIVED = {"dense_act_fn": None, "is_gated_act": None}
BAD: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json", "expected a Hugging Face model folder"]),
    "no JSON": (text_file("config.json", "{"), ["config.json: expected JSON"]),
    "deep JSON": (text_file("config.json", "[" * 100_000), ["config.json: expected JSON"]),
    "a list": (text_file("config.json", "[]"), ["config.json: expected a JSON object, got list"]),
    "endless JSON": (text_file("config.json", " " * (1 << 20) + "{}"), ["config.json", "at most 1048576", "1048578"]),
    "family": (edit_config(model_type="bert"), ["model_type: expected one of t5, mt5, umt5, clip", "'bert'"]),
    "no family": (edit_config(model_type=None), ["model_type", "got None"]),
    "activation": (
        edit_config(feed_forward_proj="gated-mish", **UNDERIVED),
        ["feed_forward_proj: expected one of relu", "gated-gelu", "got 'gated-mish'"],
    ),
    "derived": (edit_config(dense_act_fn="tanh"), ["dense_act_fn: expected one of relu, gelu", "got 'tanh'"]),
    "no width": (edit_config(d_model=None), ["d_model: expected a whole number from 1 to 1048576, got None"]),
    "width of text": (edit_config(d_model="32"), ["d_model", "got '32'"]),
    "layers": (edit_config(num_layers=10**9), ["num_layers", "1 to 1024", "1000000000"]),
    "distance": (edit_config(relative_attention_max_distance=8), ["max_distance", "from 9", "got 8"]),
    "true": (edit_config(d_ff=True), ["d_ff", "got True"]),
    "epsilon": (edit_config(layer_norm_epsilon=0), ["layer_norm_epsilon", "between 0 and 1, got 0"]),
    "wrong config": (edit_config(d_ff=40), ["model.safetensors: encoder.block.0.layer.1", "[40, 32]", "got [48, 32]"]),
    "fewer layers": (edit_config(num_layers=1), ["missing nothing, left over encoder.block.1.layer.0"]),
    "renamed": (edit_weights(rename_one), ["missing encoder.block.1.layer.0.SelfAttention.q.w", ".query."]),
    "missing": (
        edit_weights(lambda state: void(state.pop("encoder.final_layer_norm.weight"))),
        ["missing encoder.final_layer_norm.weight", "left over nothing"],
    ),
    "shape": (
        edit_weights(lambda state: state.update({"shared.weight": torch.zeros(64, 32)})),
        ["model.safetensors: shared.weight: expected shape [128, 32]", "got [64, 32]"],
    ),
    "twice": (
        edit_weights(lambda state: state.update({"final_layer_norm.weight": torch.zeros(32)})),
        ["final_layer_norm.weight: expected each weight once"],
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["expected one of model.safetensors", "got none"]),
    "cut short": (cut("model.safetensors"), ["model.safetensors", "cut short or damaged"]),
    "wants to run code": (hostile, ["pytorch_model.bin", "wants to run", "mkdir"]),
    "shard outside": (shard("../inside.safetensors"), ["index.json", "plain name", "got '../inside.safetensors'"]),
    "shard absolute": (shard("/etc/passwd"), ["index.json", "plain name", "got '/etc/passwd'"]),
    "shard list": (shard(["inside.safetensors"]), ["index.json", "plain name", "['inside.safetensors']"]),
    "no shard": (shard("model-00001-of-00002.safetensors"), ["index.json", "expected the shard model-00001"]),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_t5(folder)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(name: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, words = BAD[name]
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    damage(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        open_weights(folder)
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert not (tmp_path / "it-ran").exists()


def test_projections_and_null_embeddings_must_fit(sound: Path) -> None:
    config, weights = read_config(sound, DIM), open_weights(sound)
    null = torch.zeros(DIM)
    bare = {key.removeprefix("t5."): value for key, value in projection().items()}
    assert (
        encoder_state(config, weights, bare, null).keys() == encoder_state(config, weights, projection(), null).keys()
    )
    for parts, nulls, words in [
        ({}, null, "missing projection.weight, projection_norm.bias, projection_norm.weight, left over nothing"),
        ({**bare, "2.weight": null}, null, "left over 2.weight"),
        ({**bare, "0.weight": torch.zeros(DIM, 31)}, null, r"0.weight: expected shape \[24, 32\], got \[24, 31\]"),
        (bare, torch.zeros(7), r"null_embedding: expected shape \[24\], got \[7\]"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            encoder_state(config, weights, parts, nulls)


def no_end(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    tokenizer.save(str(folder / "tokenizer.json"))


BAD_TOKENIZERS: dict[str, tuple[Callable[[Path], None], type[Exception], list[str]]] = {
    "none": (lambda f: (f / "tokenizer.json").unlink(), CheckpointError, ["tokenizer.json or spiece.model", "neither"]),
    "not one": (
        text_file("tokenizer.json", "{}"),
        CheckpointError,
        ["tokenizer.json: expected a tokenizer", "missing"],
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
