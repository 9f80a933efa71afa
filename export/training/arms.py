"""Trained interpolation networks against each other, clip by clip: ``python -m export.training.arms NAME=FOLDER ...``.

Every folder holds weights of the group network, of the masked one, or of both, as a training leaves them: other seeds,
other numbers of steps. All are asked, in one step, about the same runs of clips that no
training drew and no curve shows. Gains are in dB of the latents over linear blending, and differences are paired.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffrt.cli.loading import loading

with loading("python -m export.training.arms" if __name__ == "__main__" else None):
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from export.checkpoints.weights import WEIGHTS, load_half
    from export.datasets.demo import kind_of
    from export.datasets.scenes import Scene, held_out_scenes
    from export.datasets.shapes import Clip, sample_held_out
    from export.errors import CheckpointError
    from export.models.configs import PRESETS
    from export.models.movq import MoVQEncoder
    from export.training.between import FINE_FPS, Clips, latents_of
    from export.training.forms import GroupForm, MaskedForm
    from ffrt import FfrtError
    from ffrt.files import typed_path
    from ffrt.output.whole_file import whole_file

FORMS: Mapping[str, GroupForm] = {"group": GroupForm(), "masked": MaskedForm()}
SKIPS = range(1, 13)
TEST_SEED, RUN_SEED = 16, 6_022
CLIPS = 32
"""Of the demo, and as many scenes: the last ones, of which no curve is drawn."""
SHOWN = (3, 6, 12)


def test_clips(count: int = CLIPS) -> list[Clip | Scene]:
    """Clips of kept combinations that move, then scenes."""
    rng = np.random.default_rng(TEST_SEED)
    clips: list[Clip | Scene] = []
    while len(clips) < count:
        clip = sample_held_out(rng)
        if kind_of(clip) != "standing":
            clips.append(clip)
    return [*clips, *held_out_scenes()[-count:]]


def kinds_of(clips: Sequence[Clip | Scene]) -> list[str]:
    """What every clip is counted under."""
    return [f"scenes, {clip.kind}" if isinstance(clip, Scene) else kind_of(clip) for clip in clips]


def arms(folders: Mapping[str, Path]) -> dict[str, tuple[GroupForm, nn.Module]]:
    """The networks that the folders hold, by "NAME group" and "NAME masked". Raises CheckpointError for none."""
    found: dict[str, tuple[GroupForm, nn.Module]] = {}
    for name, folder in folders.items():
        for method, form in FORMS.items():
            path = folder / f"{form.name}_unet.safetensors"
            if path.is_file():
                network = form.network()
                load_half(network, path)
                found[f"{name} {method}"] = (form, network.eval())
    if not found:
        names = " or ".join(f"{form.name}_unet.safetensors" for form in FORMS.values())
        raise CheckpointError(f"expected {names} in a folder, got none in {', '.join(map(str, folders.values()))}")
    return found


@torch.no_grad()
def gains(networks: Mapping[str, tuple[GroupForm, nn.Module]], latents: NDArray[np.float16]) -> dict[str, Any]:
    """Gain of every network over linear blending in dB, by s, one of every clip; latents ``[clips, 181, 4, h, w]``."""
    found: dict[str, Any] = {name: {skip: [] for skip in SKIPS} for name in networks}
    for place, clip in enumerate(latents):
        for skip in SKIPS:
            run = Clips(clip[None, ::3], clip[None]).draw(
                skip, 1, np.random.default_rng([RUN_SEED, place, skip]), torch.device("cpu")
            )
            for name, (form, network) in networks.items():
                torch.manual_seed(place * 100 + skip)
                error, reference = form.one_step(network, run)
                found[name][skip].append(decibel(error, reference))
        print(f"arms: {place + 1}/{len(latents)}", file=sys.stderr, flush=True)
    return found


def decibel(error: Tensor, reference: Tensor) -> float:
    """How far an error lies below another, in dB."""
    return float(10 * (reference.mean() / error.mean()).log10())


def paired(better: Sequence[float], worse: Sequence[float]) -> dict[str, float]:
    """Mean of the differences of pairs, and its standard error (NaN of a single one)."""
    apart = np.subtract(better, worse)
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    return {"mean_db": float(apart.mean()), "standard_error_db": error}


def table(found: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    """Gains by arm, kind and s, with the standard error over clips, as the lines of a Markdown table."""
    lines = [f"| arm | clips | {' | '.join(f's = {skip}' for skip in SHOWN)} |", "|---" * (len(SHOWN) + 2) + "|"]
    groups = {
        "demo, moving": [not kind.startswith("scenes") for kind in kinds],
        "scenes": [kind.startswith("scenes") for kind in kinds],
        **{kind: [one == kind for one in kinds] for kind in dict.fromkeys(kinds)},
    }
    for name, by_skip in found.items():
        for title, chosen in groups.items():
            if any(chosen):
                cells = [shown(np.asarray(by_skip[skip])[chosen]) for skip in SHOWN]
                lines.append(f"| {name} | {title} ({sum(chosen)}) | {' | '.join(cells)} |")
    return lines


def shown(values: NDArray[np.floating]) -> str:
    """A mean in dB and its standard error."""
    found = paired(values.tolist(), [0.0] * len(values))
    return f"{found['mean_db']:+.2f} ± {found['standard_error_db']:.2f}"


def differences(found: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """Every arm less every one after it, on the demo's clips and on scenes, over all s and by s."""
    sets = {
        "demo": [place for place, kind in enumerate(kinds) if not kind.startswith("scenes")],
        "scenes": [place for place, kind in enumerate(kinds) if kind.startswith("scenes")],
    }
    names = list(found)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return {
        f"{a} less {b}": {
            title: {
                "all": paired(*(np.mean([[found[x][s][p] for p in places] for s in SKIPS], axis=0) for x in (a, b))),
                **{str(s): paired(*([found[x][s][p] for p in places] for x in (a, b))) for s in SKIPS},
            }
            for title, places in sets.items()
        }
        for a, b in pairs
    }


def folder_of(word: str) -> tuple[str, Path]:
    """The name and the folder of "NAME=FOLDER"."""
    name, equals, folder = word.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {word!r}")
    return name, typed_path(folder)


def main() -> None:
    """Measure, print a table, and write all of it if asked."""
    parser = argparse.ArgumentParser(prog="python -m export.training.arms", description=__doc__.splitlines()[0])
    parser.add_argument("arms", nargs="+", type=folder_of, metavar="NAME=FOLDER")
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"of the demo, and as many scenes ({CLIPS})")
    parser.add_argument("--weights", type=typed_path, default=WEIGHTS, help="folder of the autoencoder (runs/weights)")
    parser.add_argument("--json", type=typed_path, help="where every figure is written")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if not 1 <= args.clips <= 150:
        parser.error(f"--clips: expected 1 to 150, got {args.clips}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        networks = arms(dict(args.arms))
        encoder = MoVQEncoder(PRESETS["demo"].movq)
        load_half(encoder, args.weights / "movq_encoder.safetensors")
        clips = test_clips(args.clips)
        kinds = kinds_of(clips)
        found = gains(networks, latents_of(clips, FINE_FPS, encoder, "test clips"))
    except FfrtError as error:
        raise SystemExit(f"python -m export.training.arms: {error}") from None
    apart = differences(found, kinds)
    print("\n".join(table(found, kinds)))
    for pair, sets in apart.items():
        for title, by_skip in sets.items():
            print(f"{pair}, {title}: {by_skip['all']['mean_db']:+.2f} ± {by_skip['all']['standard_error_db']:.2f} dB")
    if args.json is not None:
        with whole_file(args.json) as part:
            part.write_text(json.dumps({"kinds": kinds, "gains_db": found, "differences": apart}, indent=1))


if __name__ == "__main__":
    main()
