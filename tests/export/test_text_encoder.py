"""Text encoders against transformers: its tokenizer, its encoder, the released order. The folders are made here."""

from __future__ import annotations

import math
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
from tokenizers import Tokenizer
from torch import Tensor

from export.checkpoints.hugging_face import encoder_state, open_weights
from export.checkpoints.stream import stream_weights
from export.checkpoints.text_config import read_config, text_config
from export.checkpoints.tokenizer import write_tokenizer
from export.checkpoints.weights import load_half
from export.errors import ConfigError
from export.golden import file as golden
from export.models.configs import PRESETS, TextConfig
from export.models.encoders import bucket, bucket_starts, describe, sizes_of
from export.models.text import TextEncoder, empty_text_encoder
from export.onnx.parity import errors
from export.onnx.trace import Traced, point_to, trace
from ffrt.backend.graph import Graph
from ffrt.bundle import TextConfig as BundleTextConfig
from ffrt.bundle import open_bundle
from ffrt.families import KANDINSKY_1_0, KANDINSKY_1_1
from ffrt.stages import text, tokens
from tests.export.text_folders import DIM, EXPORTED, LIMIT, MAKERS, PROMPTS, make_clip, make_t5, projection

DEMO = Path(__file__).parents[2] / "graphs" / "demo"
Session = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def load(folder: Path) -> tuple[TextConfig, TextEncoder]:
    config = read_config(folder, context_dim=DIM)
    encoder = TextEncoder(config)
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


def graph_of(module: torch.nn.Module, config: TextConfig, contract: Mapping[str, Any]) -> onnx.ModelProto:
    """The exported graph, its weights inside."""
    example = torch.randint(0, config.vocab_size, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    model = trace(Traced("text_encoder", module, example, {}, contract, {"L": config.max_tokens}))
    assert [output.name for output in model.graph.output] == [spec.name for spec in contract["text_encoder"][1]]
    return model


def exported(folder: Path, config: TextConfig) -> Session:
    """The graph as an export writes it: traced without weights, which are streamed into a file beside it."""
    weights = folder / "text_encoder.safetensors"
    state = encoder_state(config, open_weights(folder), projection(), torch.arange(float(DIM)))
    module, _ = empty_text_encoder(config)
    stream_weights(module, state, lambda key, value: (key, value), weights, "float32", lambda done, total: None)
    example = tuple(torch.zeros((2, 5), dtype=torch.long, device="meta") for _ in range(2))  # one would be one input
    traced = Traced("text_encoder", module, example, {}, KANDINSKY_1_0.contract, {"L": config.max_tokens})
    onnx.save(point_to(trace(traced), weights), folder / "text_encoder.onnx")
    assert (folder / "text_encoder.onnx").stat().st_size < 200_000
    return session_of(str(folder / "text_encoder.onnx"))


def session_of(model: str | bytes) -> Session:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))


def encode(graph: Session, tokenizer: Tokenizer, prompt: str, max_tokens: int) -> text.Context:
    """The runtime's own text stage over this graph."""
    return text.encode(graph, tokenizer, BundleTextConfig("out.json", max_tokens), prompt, None)


@pytest.mark.parametrize("name", MAKERS)
def test_every_prompt_as_released(name: str, tmp_path: Path) -> None:
    model = MAKERS[name](tmp_path)
    config, encoder = load(tmp_path)
    write_tokenizer(tmp_path, tmp_path / "out.json")
    tokenizer = tokens.open_tokenizer(tmp_path / "out.json")

    def torch_graph(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = encoder(*(torch.from_numpy(value) for value in feed.values()))
        return {"context": found[0].numpy(), "null_embedding": found[1].numpy()}

    graph = exported(tmp_path, config) if name in EXPORTED else torch_graph
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
    tokenizer = tokens.open_tokenizer(tmp_path / "out.json")
    ids = {prompt: tuple(tokenizer.encode(prompt).ids) for prompt in PROMPTS.values()}
    assert len(set(ids.values())) == len(ids)
    kept = tokens.tokenize(tokenizer, "prompt", PROMPTS["over-long"], 128).ids
    assert len(kept) == 128 and kept[-1] == 1 and 1 not in kept[:-1]


def test_golden_numbers_through_the_graph() -> None:
    """The graph of bundles with a first frame; the second projection takes the place of the first in a copy of it."""
    file = golden.read_golden(Path(__file__).parents[1] / "golden" / "v1_1_text.npz")
    config = text_config("t5", file.config["t5"], file.config["context_dim"])

    def part(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{name}/"): v for k, v in file.parameters.items() if k.startswith(f"{name}/")}

    weights = {key.removeprefix("encoder."): value for key, value in part("t5").items() if key != "shared.weight"}
    nulls = torch.ones(1, config.context_dim), torch.full((config.context_dim,), 2.0)
    encoder = TextEncoder(config, interpolation_null=True).eval()
    sources = ("projection_base", "projection_interpolation")
    states = [encoder_state(config, weights, part(source), *nulls) for source in sources]
    encoder.load_state_dict(states[0])
    model = graph_of(encoder, config, KANDINSKY_1_1.contract)
    for source, state in zip(sources, states, strict=True):
        for initializer in model.graph.initializer:
            if initializer.name in state:
                initializer.CopyFrom(numpy_helper.from_array(state[initializer.name].numpy(), initializer.name))
        graph = session_of(model.SerializeToString())
        for number in range(3):
            wanted = file.outputs[f"{number}/{source}/context"]
            feed = {name: file.inputs[f"{number}/{name}"].numpy() for name in ("input_ids", "attention_mask")}
            found = graph(feed)
            assert errors(wanted, found["context"][:, : wanted.shape[1]])[1] < LIMIT
            assert not found["context"][:, wanted.shape[1] :].any()
            assert (found["null_embedding"] == 1).all() and (found["interpolation_null_embedding"] == 2).all()


@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 16), (12, 40), (4, 20), (64, 512), (20, 100)])
def test_distances_fall_into_the_buckets_of_transformers(buckets: int, furthest: int) -> None:
    """T5's own formula, in float64."""
    distance, half = torch.arange(-600, 601)[None], buckets // 2
    exact = half // 2
    away = distance.abs()
    far = torch.log(away.clamp_min(1).double() / exact) / math.log(furthest / exact) * (half - exact)
    grown = (exact + (far + 1e-9).long()).clamp_max(half - 1)
    expected = torch.where(away < exact, away, grown) + half * (distance > 0)
    assert torch.equal(bucket(distance, half=half, starts=bucket_starts(half, furthest)), expected)


def test_a_logarithm_one_unit_too_small_would_move_tokens_into_other_buckets() -> None:
    """Why buckets are counted in whole numbers: in float32 T5's formula hangs on the last digit of a logarithm."""
    distance = torch.tensor([16, 32, 64])
    below = torch.nextafter(torch.log(distance.float() / 8), torch.zeros(3))
    assert (below / math.log(128 / 8) * 8).long().tolist() == [1, 3, 5]
    assert bucket(-distance, half=16, starts=bucket_starts(16, 128)).tolist() == [8 + 2, 8 + 4, 8 + 6]


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5", "clip", "bert", "roberta"])
def test_optimum_describes_the_inputs_of_every_encoder(kind: str) -> None:
    described = describe(sizes_of(kind, {"num_attention_heads": 4}))
    axes = {0: "batch_size", 1: "sequence_length"}
    assert {name: described.inputs[name] for name in ("input_ids", "attention_mask")} == dict.fromkeys(
        ("input_ids", "attention_mask"), axes
    )
    assert described.outputs["last_hidden_state"] == axes
    dummies = described.generate_dummy_inputs(framework="pt", batch_size=2, sequence_length=6)
    assert all(value.shape == (2, 6) and value.dtype is torch.int64 for value in dummies.values())


def test_the_demo_traced_anew_agrees_with_the_shipped_graph() -> None:
    """Its weights were saved when its T5 was written here; they are read by a key map."""
    config = PRESETS["demo"].text
    encoder = load_half(TextEncoder(config), DEMO / "text_encoder.safetensors")
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 121_568
    ours = session_of(graph_of(encoder, config, KANDINSKY_1_0.contract).SerializeToString())
    shipped = Graph(open_bundle(DEMO, verify=False), "text_encoder", provider="cpu", threads=1)
    generator = np.random.default_rng(0)
    for rows, length in ((1, 3), (2, 77), (3, 128)):
        ids = generator.integers(0, config.vocab_size, (rows, length))
        mask = (np.arange(length) < generator.integers(1, length + 1, (rows, 1))).astype(np.int64)
        new, old = ours({"input_ids": ids, "attention_mask": mask}), shipped({"input_ids": ids, "attention_mask": mask})
        assert errors(old["context"], new["context"])[1] < 1e-6
        assert np.array_equal(old["null_embedding"], new["null_embedding"])


def test_without_a_projection_the_context_is_the_hidden_state(tmp_path: Path) -> None:
    model = make_clip(tmp_path)
    config = read_config(tmp_path)
    assert (config.context_dim, config.projection, config.max_tokens) == (32, False, 77)
    encoder = TextEncoder(config)
    encoder.load_state_dict(encoder_state(config, open_weights(tmp_path), None, torch.zeros(32)))
    ids, mask = torch.tensor([[522, 7, 9, 523]]), torch.ones(1, 4, dtype=torch.long)
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).last_hidden_state
        assert errors(wanted.numpy(), encoder(ids, mask)[0].numpy())[1] < LIMIT
    with pytest.raises(ConfigError, match="context_dim: expected the encoder's width 32, got 8"):
        TextEncoder(replace(config, context_dim=8))
