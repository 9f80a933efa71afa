"""What is attacked: for each kind of file, how a damaged one is made and how a user would open it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffrt import Checkpoint, FfrtError, Pipeline, Video, open_bundle
from ffrt.backend.graph import Graph
from ffrt.generation.generation import Generation
from ffrt.media.copies import check_holds
from ffrt.media.image import open_image
from ffrt.media.metadata import read_metadata
from ffrt.media.retimed import Retimed, RetimedWriter
from ffrt.media.source import open_source
from ffrt.media.target import write_errors
from tests.attack import mutators
from tests.damaged import damage_bytes, damage_graph, with_graph
from tests.linked import LATENT, WEIGHTS, write_linked
from tests.runtime.tokens import files as tokenizers


@dataclass(frozen=True)
class Subject:
    """`make` writes what cases need into a folder, once; `case` opens one that `rng` has damaged.

    A case ends, or raises an FfrtError. Anything else is a finding. `share` is how many cases of a hundred it gets.
    """

    make: Callable[[Path], None]
    case: Callable[[Path, random.Random], None]
    share: int


def _bundle(folder: Path) -> None:
    write_linked(folder / "whole")
    shutil.copytree(folder / "whole", folder / "bundle")


def _listed(folder: Path, name: str, raw: bytes) -> None:
    """Put a file into the bundle, with its true size and digest in the manifest."""
    (folder / "bundle" / name).write_bytes(raw)
    value = json.loads((folder / "whole" / "manifest.json").read_text())
    value["files"][name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (folder / "bundle" / "manifest.json").write_text(json.dumps(value))


def _manifest(folder: Path, rng: random.Random) -> None:
    raw = mutators.damaged_json((folder / "whole" / "manifest.json").read_text(), rng)
    (folder / "bundle" / "manifest.json").write_bytes(raw)
    with Pipeline.from_pretrained(folder / "bundle", provider="cpu", threads=1) as pipe:
        pipe("a red circle", fps=pipe.bundle.rates[0], num_inference_steps=1, height=32, width=32)


def _graph(folder: Path, rng: random.Random) -> None:
    name = rng.choice(("movq_decoder.onnx", "keyframe_unet.onnx"))
    for path in (folder / "whole").iterdir():
        shutil.copyfile(path, folder / "bundle" / path.name)
    raw = rng.choice((damage_bytes, damage_graph))((folder / "whole" / name).read_bytes(), rng)
    bundle = open_bundle(with_graph(open_bundle(folder / "bundle"), name, raw))
    Graph(bundle, name.removesuffix(".onnx"), provider="cpu", threads=1)


def _weights(folder: Path, rng: random.Random) -> None:
    _listed(folder, WEIGHTS, mutators.damaged_safetensors((folder / "whole" / WEIGHTS).read_bytes(), rng))
    bundle = open_bundle(folder / "bundle")
    Graph(bundle, "movq_decoder", provider="cpu", threads=1)({"latent": LATENT})


def _tokenizers(folder: Path) -> None:
    (folder / "sound.json").write_text(json.dumps(list(tokenizers.sound_files().values())))


def _tokenizer(folder: Path, rng: random.Random) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(tokenizers.damaged(json.loads((folder / "sound.json").read_text()), rng))
    came = tokenizers.outcome(path)
    if came == "refused":
        raise FfrtError(came)
    assert came == "read", came


def _pickles(folder: Path) -> None:
    import torch

    state = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3, dtype=torch.float16)}
    torch.save({"unet": state, "step": 3, "sizes": [1, (2, 3)]}, folder / "whole.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)


def _pickle(folder: Path, rng: random.Random) -> None:
    import zipfile

    from export.checkpoints.file import open_checkpoint

    whole = folder / rng.choice(("whole.pt", "whole.pt", "whole.pt", "old.pt"))
    path = folder / "damaged.pt"
    if whole.name == "old.pt" or rng.random() < 0.3:
        path.write_bytes(mutators.damaged_bytes(whole.read_bytes(), rng))
    else:  # a whole archive around a damaged program
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                raw = source.read(name)
                target.writestr(name, mutators.damaged_bytes(raw, rng) if name.endswith("data.pkl") else raw)
    open_checkpoint(path).section("unet")


def _configs(folder: Path) -> None:
    from tests import releases

    for version, write in (("1.0", releases.write_1_0), ("1.1", releases.write_1_1)):
        source = write(folder / version)
        (folder / f"{version}.json").write_bytes((source / "configs.json").read_bytes())


def _config(folder: Path, rng: random.Random) -> None:
    from export.checkpoints.release import open_1_0, open_1_1

    version = rng.choice(("1.0", "1.1"))
    path = folder / version / "configs.json"
    path.write_bytes(mutators.damaged_json((folder / f"{version}.json").read_text(), rng))
    {"1.0": open_1_0, "1.1": open_1_1}[version](folder / version, folder / version / "text_encoder")


PICTURES = ("png", "jpeg", "webp", "gif", "bmp", "tiff")
VIDEOS = ("mp4", "webm", "gif", "png")


def _pictures(folder: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for kind in PICTURES:
        Image.fromarray(pixels).save(folder / f"whole.{kind}")
    Image.fromarray(pixels[..., 0]).convert("P").save(folder / "palette.png")


def _picture(folder: Path, rng: random.Random) -> None:
    kind = rng.choice(("png", *PICTURES))
    raw = (folder / rng.choice(("whole.png", "palette.png") if kind == "png" else (f"whole.{kind}",))).read_bytes()
    damage = mutators.damaged_png if kind == "png" and rng.random() < 0.7 else mutators.damaged_bytes
    path = folder / f"damaged.{kind}"
    path.write_bytes(damage(raw, rng))
    open_image(path)


def _videos(folder: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for kind in VIDEOS:
        Video.from_frames(frames[:1] if kind == "png" else frames, 8, {"prompt": "a"}).save(folder / f"whole.{kind}")


def _video(folder: Path, rng: random.Random) -> None:
    kind = rng.choice(VIDEOS)
    damage = mutators.damaged_png if kind == "png" else mutators.damaged_bytes
    path = folder / f"damaged.{kind}"
    path.write_bytes(damage((folder / f"whole.{kind}").read_bytes(), rng))
    read_metadata(path)


def _own_videos(folder: Path) -> None:
    from tests.runtime.own_video.videos import NTSC, moving, write

    for suffix in (".mp4", ".mov", ".mkv"):
        write(folder / f"whole{suffix}", moving(30, 32, 32), NTSC, seconds_of_sound=1, subtitles=True)


def _own_video(folder: Path, rng: random.Random) -> None:
    suffix = rng.choice((".mp4", ".mov", ".mkv"))
    path = folder / f"damaged{suffix}"
    path.write_bytes(mutators.damaged_bytes((folder / f"whole{suffix}").read_bytes(), rng))
    source = open_source(path, constant_rate_wanted=rng.random() < 0.5)
    check_holds(path, source.probe.tracks, suffix)
    part = folder / "part"
    writer = RetimedWriter(part, suffix, Retimed(source, 4 * source.rate, source.probe.tracks, {}))
    try:
        for frame in source.frames():
            with write_errors(part):
                writer.add(frame)
        with write_errors(part):
            writer.finish()
    except BaseException:
        writer.abort()
        raise


def _checkpoints(folder: Path) -> None:
    _bundle(folder)
    with Pipeline.from_pretrained(folder / "whole", provider="cpu", threads=1) as pipe:
        generation = pipe.generate("a red circle", fps=8, num_inference_steps=1)
        for _ in generation:
            if generation.checkpoint is not None and generation.checkpoint.latents is not None:
                break
        assert generation.checkpoint is not None
        generation.checkpoint.save(folder / "whole.npz")


def _checkpoint(folder: Path, rng: random.Random) -> None:
    path = folder / "damaged.npz"
    path.write_bytes(mutators.damaged_bytes((folder / "whole.npz").read_bytes(), rng))
    Checkpoint.load(path)


def _commands(folder: Path) -> None:
    _bundle(folder)


def _command(folder: Path, rng: random.Random) -> None:
    """The command line as far as the run itself, whose length is the user's affair."""
    from ffrt.cli.main import main

    line = [word.replace("--bundle", f"--bundle={folder / 'bundle'}") for word in mutators.words(rng)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), contextlib.chdir(folder):
        try:
            status: Any = main(line)
        except SystemExit as end:
            status = end.code
    assert status in (0, 1, 2) and "Traceback" not in said.getvalue(), (line, status, said.getvalue()[-500:])
    if status:
        raise FfrtError(said.getvalue())


def no_runs() -> None:
    """In this process a Generation ends where it would begin."""
    Generation.save = lambda self, path, **_: Video.from_frames(np.zeros((1, 8, 8, 3), np.uint8), 2)  # type: ignore


SUBJECTS: Mapping[str, Subject] = {
    "manifest": Subject(_bundle, _manifest, 14),
    "graph": Subject(_bundle, _graph, 14),
    "weights": Subject(_bundle, _weights, 8),
    "tokenizer": Subject(_tokenizers, _tokenizer, 14),
    "pickle": Subject(_pickles, _pickle, 14),
    "configs": Subject(_configs, _config, 4),
    "picture": Subject(_pictures, _picture, 12),
    "video": Subject(_videos, _video, 6),
    "own video": Subject(_own_videos, _own_video, 6),
    "checkpoint": Subject(_checkpoints, _checkpoint, 4),
    "command line": Subject(_commands, _command, 4),
}


def numbered(name: str, folder: Path, seed: int, number: int) -> None:
    """Case `number` of a seed: the same whenever it is run."""
    if name == "command line":
        no_runs()
    SUBJECTS[name].case(folder, random.Random(f"{name} {seed} {number}"))
