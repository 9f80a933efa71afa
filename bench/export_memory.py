"""`python -m bench.export_memory`: the full-size Kandinsky Video 1.0 export, its time and its peak memory.

Random weights of the released shapes are written to disk in the released layout (float32; 4.14 and 3.87 billion
parameters of the two U-Nets, 0.27 of MoVQ), then `python -m export kandinsky-video-1.0` runs in a process of its own,
compares every graph with PyTorch on the same weights, and is watched.
"""

import argparse
import json
import math
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.run import ROOT, child, environment, keep

TARGETS = {"peak_bytes": 10e9, "seconds": 15 * 60.0}
BLOCK = 1 << 24
"""Random numbers that are drawn once and repeated."""

EXPORT = """
from export.__main__ import main
result["status"] = main(argument["arguments"])
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.export_memory", description=__doc__.splitlines()[0])
    line.add_argument("--folder", type=Path, default=ROOT / "runs" / "export_memory", help="50 GB of room (runs/...)")
    line.add_argument("--dtype", choices=("fp16", "fp32"), default="fp16", help="as the bundle keeps weights (fp16)")
    line.add_argument("--rounds", type=int, default=1, help="inputs that every graph is compared on (1)")
    line.add_argument("--small", action="store_true", help="a small shape: a trial of the program, not a measurement")
    line.add_argument("--keep", action="store_true", help="leave the files and the bundle where they are")
    line.add_argument("--json", type=Path, help="record (bench/results/export_memory.json of a whole run)")
    return line


def write_release(folder: Path, small: bool, report: Callable[[str], None]) -> dict[str, int]:
    """Random files of the 1.0 layout in ``folder``; returns the number of parameters by network."""
    import torch

    from export.checkpoints.names import released_movq_key, released_unet_key
    from export.models.configs import DECODERS, INTERPOLATION_SHAPES, KEYFRAME_SHAPES, MoVQConfig, UNetConfig
    from export.models.interpolation import InterpolationUNet
    from export.models.keyframes import KeyframeUNet
    from export.models.movq import MoVQ

    keyframes, between, movq = KEYFRAME_SHAPES["Conv1dAttn1dBlocks"], INTERPOLATION_SHAPES["full"], DECODERS["image"]
    if small:
        keyframes = UNetConfig(
            64,
            64,
            64,
            64,
            dim_mult=(1, 2),
            num_blocks=(2, 2),
            add_cross_attention=(False, True),
            add_self_attention=(False, True),
        )
        between = UNetConfig(
            64,
            64,
            64,
            64,
            20,
            12,
            dim_mult=(1, 2),
            num_blocks=(2, 2),
            add_cross_attention=(False, True),
            add_self_attention=(False, True),
        )
        movq = MoVQConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(32,), resolution=256)
    weights = folder / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        networks = {
            "kandinsky_video": (KeyframeUNet(keyframes), released_unet_key),
            "kandinsky_video_interpolation": (InterpolationUNet(between), released_unet_key),
            "movq": (MoVQ(movq), released_movq_key(len(movq.ch_mult))),
        }
        null = torch.empty(keyframes.context_dim)
        projection = {
            "0.weight": torch.empty(keyframes.context_dim, 32),
            "1.weight": null.clone(),
            "1.bias": null.clone(),
        }
        for number, (name, (module, rename)) in enumerate(networks.items()):
            state = dict(rename(key, value) for key, value in module.state_dict().items())
            extra: dict[str, Any] = {"null_embedding": null}
            if name == "kandinsky_video":
                extra["projections"] = {f"t5.{key}": value for key, value in projection.items()}
            report(f"writing {name}.pt")
            save_random(state if name == "movq" else {"unet": state, **extra}, weights / f"{name}.pt", number)
    if small:
        released = {"num_frames": 5, **arguments(keyframes)}
        configs = {"t2v": released, "interpolation": {**arguments(between), "interpolation": True}}
        (folder / "configs.json").write_text(json.dumps({**configs, "image_movq": vars(movq)}))
    write_text_encoder(folder / "text_encoder")
    return {
        name: sum(value.numel() for value in module.state_dict().values()) for name, (module, _) in networks.items()
    }


def arguments(config: Any) -> dict[str, Any]:
    """What the released constructors of 1.0 take."""
    ours = ("noise_augmentation", "motion_score", "temporal", "add_temporal_attention", "add_new_temporal_params")
    return {name: value for name, value in vars(config).items() if name not in ours}


def save_random(state: dict[str, Any], path: Path, seed: int) -> None:
    """Write a state dict of meta tensors with random values as a PyTorch file, without holding it in memory.

    Matrices and filters are normal with deviation 1/sqrt(inputs), all else is near 0.1, merge factors are 0.3.
    """
    import torch

    empty = {name: torch.empty(value.shape, device="cpu") for name, value in flattened(state)}  # takes no memory yet
    with torch.serialization.skip_data():
        torch.save(nested(state, empty), path)
    rng = np.random.default_rng(seed)
    block = rng.standard_normal(BLOCK, np.float32)
    with zipfile.ZipFile(path) as archive, path.open("r+b") as file:
        places = {info.filename.split("/data/")[1]: info for info in archive.infolist() if "/data/" in info.filename}
        for number, (name, value) in enumerate(empty.items()):  # the order in which they are numbered in the file
            info = places[str(number)]
            file.seek(info.header_offset + 26)
            lengths = np.frombuffer(file.read(4), "<u2")
            file.seek(info.header_offset + 30 + int(lengths.sum()))
            for values in random_values(block, name, tuple(value.shape), rng):
                file.write(values.tobytes())


def random_values(
    block: np.ndarray, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The values of one tensor, a block at a time."""
    count, fan_in = math.prod(shape), math.prod(shape[1:])
    for at in range(0, count, BLOCK):
        part = block[: min(BLOCK, count - at)]
        if name.endswith("merge"):
            yield np.full(part.shape, 0.3, np.float32)
        elif len(shape) > 1:
            yield np.roll(part, int(rng.integers(len(part)))) * np.float32(1 / math.sqrt(fan_in))
        else:
            yield np.float32(0.1) + np.float32(0.02) * part


def flattened(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def nested(state: dict[str, Any], values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        name: nested(value, values, f"{prefix}{name}/") if isinstance(value, dict) else values[f"{prefix}{name}"]
        for name, value in state.items()
    }


def write_text_encoder(folder: Path) -> None:
    """A small T5 encoder: the text encoder's own size is not what is measured here."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from export.checkpoints.names import hugging_face_key
    from export.models.configs import T5Config
    from export.models.t5 import T5Encoder

    folder.mkdir(exist_ok=True)
    names = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    sizes = (64, 32, 8, 64, 2, 4)
    torch.manual_seed(0)
    encoder = T5Encoder(T5Config(*sizes, context_dim=32, projection=False))
    state = {hugging_face_key(f"t5.{key}"): value for key, value in encoder.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    config = {"model_type": "t5", "feed_forward_proj": "gated-gelu", **dict(zip(names, sizes, strict=True))}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "car": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Write the files, export in a child process, and say what it took. Raises RuntimeError where the export fails."""

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    folder = asked.folder.resolve()
    out = folder / "bundle"
    counted = write_release(folder, asked.small, report)
    report("exporting")
    command = ["kandinsky-video-1.0", "--weights", str(folder), "--out", str(out), "--dtype", asked.dtype]
    made = child(EXPORT, {"arguments": [*command, "--rounds", str(asked.rounds)]}, show=True)
    if made["status"] != 0:
        raise RuntimeError(f"the export ended with status {made['status']}")
    manifest = json.loads((out / "manifest.json").read_text())
    found = {"peak_bytes": made["peak_bytes"], "seconds": made["seconds"]}
    return {
        "bench": "export_memory",
        "whole": not asked.small and asked.dtype == "fp16",
        "environment": environment(out, "cpu", None),
        "dtype": asked.dtype,
        "parameters": counted,
        "source_bytes": sum(path.stat().st_size for path in (folder / "weights").iterdir()),
        "bundle_bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "parity": {name: graph["parity"]["relative_rms"] for name, graph in manifest["graphs"].items()},
        **found,
        "targets": [
            {"name": name, "measured": found[name], "target": most, "met": found[name] <= most}
            for name, most in TARGETS.items()
        ],
    }


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    counted = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in record["parameters"].items())
    lines = [
        "| full-size 1.0 export | measured | target | met |",
        "|---|---|---|---|",
        *(
            f"| {words} | {item['measured'] / unit:.1f} {name} | at most {item['target'] / unit:.0f} {name} | "
            f"{'yes' if item['met'] else '**no**'} |"
            for item, (words, unit, name) in zip(
                record["targets"], (("peak resident memory", 1e9, "GB"), ("wall time", 60, "min")), strict=True
            )
        ),
        *(
            f"| parity of `{name}`, relative RMS | {value:.1e} | at most 1e-3 | yes |"
            for name, value in record["parity"].items()
        ),
        "",
        f"{counted} parameters; {record['source_bytes'] / 1e9:.1f} GB of float32 files -> "
        f"{record['bundle_bytes'] / 1e9:.1f} GB bundle ({record['dtype']}); {record['environment']['cpu']}, "
        f"{record['environment']['cores']} cores.",
    ]
    return "\n".join(lines)


def remove_made(folder: Path) -> None:
    """Remove what this program and the export left in a folder, and the folder unless it holds something else."""
    for name in ("weights", "text_encoder", "bundle", ".bundle.writing"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("configs.json", ".bundle.writing.json"):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and record. 0: exported; 1: not."""
    asked = parser().parse_args(arguments)
    try:
        record = run(asked)
    except (RuntimeError, OSError, ValueError) as error:
        print(f"export_memory: {error}", file=sys.stderr)
        return 1
    finally:
        if not asked.keep:
            remove_made(asked.folder)
    keep(record, asked.json)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
