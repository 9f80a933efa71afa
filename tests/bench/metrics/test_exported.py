"""Networks of the standard sizes with random weights, through the whole path, against PyTorch."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.harness.record import BenchError
from bench.metrics.networks import network as kept
from bench.metrics.networks.catalogue import C3D, CLIP, I3D
from bench.metrics.networks.network import NetworkError, opened
from bench.metrics.standard.clips import answers
from bench.metrics.standard.clipsim import clipsim
from bench.metrics.standard.frechet import fvd
from bench.metrics.standard.inception import video_inception_score
from bench.metrics.videos import videos_in
from export.judges.c3d import C3D as C3DModule
from export.judges.i3d import I3D as I3DModule
from tests.bench.metrics.folders import clip, written


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def traced(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = torch.zeros(1, 16, 32, 32, 3, dtype=torch.uint8)
        torch.jit.trace(module, pixels, check_trace=False).save(str(path))
    return path


@pytest.mark.slow
@pytest.mark.networks
def test_fvd_takes_the_logits_of_the_file_that_was_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = I3DModule().eval()
    file = traced(module, tmp_path / "i3d.pt")
    videos = videos_in(written(tmp_path / "videos", {"a": clip(0, 20), "b": clip(1, 16)}))
    network = opened(I3D, file)
    found = answers(network, videos)
    with torch.no_grad():
        want = module(torch.from_numpy(np.stack([clip(0, 20)[:16], clip(1, 16)]))).numpy()
    assert found.rows == pytest.approx(want, abs=float(1e-4 * np.abs(want).max()))
    assert network.title == "FD-I3D of another file" and network.record["difference_to_pytorch"] <= 1e-4
    with pytest.raises(BenchError, match="at least 401 real clips for 400 dimensions, got 2"):
        fvd(videos, videos, file)
    kept_graphs = list((tmp_path / "cache").rglob("*.onnx"))
    assert len(kept_graphs) == 1 and kept_graphs[0].name.startswith("i3d-")


@pytest.mark.slow
@pytest.mark.networks
def test_is_takes_the_probabilities_of_the_file_that_was_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = C3DModule().eval()
    torch.save(module.state_dict(), tmp_path / "c3d.pt")
    clips = {f"{seed:02}": clip(seed) for seed in range(10)}
    found = video_inception_score(videos_in(written(tmp_path / "videos", clips)), tmp_path / "c3d.pt")
    with torch.no_grad():
        rows = module(torch.from_numpy(np.stack(list(clips.values())))).double()
    assert found["value"] == pytest.approx(1, abs=1e-6)  # ten splits of one clip each
    got = answers(opened(C3D, tmp_path / "c3d.pt"), videos_in(tmp_path / "videos"))
    assert got.rows == pytest.approx(rows.numpy(), abs=1e-4 * float(rows.max()))


def tiny_clip(folder: Path) -> nn.Module:
    """A CLIP of one layer, 32 px and a vocabulary of words, as Hugging Face keeps it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel

    words = ["<start>", "<end>", "<unk>", "a", "red", "blue", "spot", "two", "spots"]
    text = {"vocab_size": 120, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 224, "patch_size": 56}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


@pytest.mark.slow
@pytest.mark.networks
def test_clipsim_is_the_mean_cosine_of_the_model_in_the_folder(tmp_path: Path) -> None:
    model = tiny_clip(tmp_path / "clip")
    videos = videos_in(written(tmp_path / "videos", {"a": clip(0, 3, 224), "b": clip(1, 2, 224)}))
    found = clipsim(videos, ["a red spot", "two spots"], tmp_path / "clip")
    shift = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(1, 3, 1, 1)
    scores = []
    for frames, ids in ((clip(0, 3, 224), [0, 3, 4, 6, 1]), (clip(1, 2, 224), [0, 7, 8, 1])):
        with torch.no_grad():
            pixels = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - shift) / scale
            both = model(input_ids=torch.tensor([ids]), pixel_values=pixels)
        scores.append(float((both.image_embeds @ both.text_embeds.T).mean()))
    assert found["value"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert found["name"] == "similarity of another CLIP" and found["captions_cut"] == 0
    long = clipsim(videos, ["a " * 100, "two spots"], tmp_path / "clip")
    assert long["captions_cut"] == 1


def test_a_damaged_graph_says_what_to_remove(tmp_path: Path) -> None:
    file = tmp_path / "i3d.pt"
    file.write_bytes(b"weights")
    (graph,) = kept.graph_files(I3D, kept.source_of(I3D, file)).values()
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"no graph")
    with pytest.raises(NetworkError, match="cannot be opened: .*; remove it"):
        opened(I3D, file)


def test_what_is_no_network_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "i3d.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(NetworkError, match=r"i3d: .*i3d\.pt"):
        opened(I3D, tmp_path / "i3d.pt")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(NetworkError, match="expected a folder of CLIP"):
        opened(CLIP, tmp_path / "clip")
    assert not list((tmp_path / "cache").rglob("*.onnx"))
