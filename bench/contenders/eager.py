"""The networks of `export/` in PyTorch, eager or compiled, sampled as `ffrt` samples.

The same weights, the same noise and the same sampler arithmetic; only the networks run elsewhere.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.contenders.work import SAMPLER, STEPS, Inputs, Scale, Steps, scale_of
from bench.harness.record import BenchError
from export.checkpoints.weights import load_half
from export.models.configs import INTERPOLATION_SHAPES, KEYFRAME_SHAPES_SMALL, PRESETS
from export.models.keyframes import KeyframeUNet
from export.onnx.demo import load_modules, untexted
from ffrt import Bundle, Context
from ffrt.sampling import Array, denoise, drain, guidance_weights, guide_rows, normal_noise
from ffrt.stages.decode import CHUNK_FRAMES, to_frames
from ffrt.stages.interpolate import merge, noise_shape
from ffrt.stages.keyframes import temporal_positions
from ffrt.stages.tokens import open_tokenizer, tokenize

COMPILED = ("keyframe_unet", "interpolation_unet", "movq_decoder")


def networks_of(kind: str, weights: Path) -> dict[str, nn.Module]:
    """The float32 networks of a bundle by graph name, from its own weights; `kind` is "demo" or "small".

    Raises BenchError if the weights are missing or do not fit.
    """
    try:
        if kind == "demo":
            return load_modules(PRESETS["demo"], weights)
        own: dict[str, nn.Module] = {
            "keyframe_unet": KeyframeUNet(KEYFRAME_SHAPES_SMALL),
            "interpolation_unet": untexted(INTERPOLATION_SHAPES[kind]),
        }
        return loaded(own, weights) | shared(weights)
    except (OSError, RuntimeError) as error:
        raise BenchError(f"{weights}: expected the weights of {kind} networks: {error}") from error


def loaded(modules: Mapping[str, nn.Module], weights: Path) -> dict[str, nn.Module]:
    """Modules by graph name, each with its weights of a bundle folder."""
    return {name: load_half(module, weights / f"{name}.safetensors") for name, module in modules.items()}


def shared(weights: Path) -> dict[str, nn.Module]:
    """The demo's text encoder and decoder, which a random bundle keeps."""
    from export.models.movq import MoVQDecoder
    from export.models.text import TextEncoder

    demo = PRESETS["demo"]
    return loaded({"text_encoder": TextEncoder(demo.text), "movq_decoder": MoVQDecoder(demo.movq)}, weights)


class Eager:
    """The stages over PyTorch modules, letters as in `docs/how-it-works.md`.

    `threads` None leaves the choice to PyTorch. With `half` the modules must be float16 ones on `device`; `compiled`
    passes them to torch.compile, which compiles at the first call, for minutes; `bfloat16` runs them under autocast.
    """

    def __init__(
        self,
        bundle: Bundle,
        networks: Mapping[str, Callable[..., Any]],
        threads: int | None,
        *,
        device: str = "cpu",
        half: bool = False,
        compiled: bool = False,
        bfloat16: bool = False,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.bundle = bundle
        self._device = torch.device(device)
        self._dtype = torch.float16 if half else torch.float32
        if compiled:  # in a shared cache, a killed run leaves half a library, on which all later ones fail
            self._cache = tempfile.TemporaryDirectory(prefix="ffrt-inductor-", ignore_cleanup_errors=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = self._cache.name
        self._bfloat16 = bfloat16
        self._networks: dict[str, Any] = {
            name: torch.compile(module, dynamic=False) if compiled and name in COMPILED else module
            for name, module in networks.items()
        }
        self._tokenizer = open_tokenizer(bundle.path(bundle.text.tokenizer), max_tokens=bundle.text.max_tokens)

    def _run(self, name: str, *inputs: Tensor) -> Any:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            return self._networks[name](*inputs)

    def _tensor(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)

    def keyframes(self, scale: Scale, inputs: Inputs) -> Steps:
        """Keyframes of the shape of `scale`, one yield per denoising step."""
        config = self.bundle.keyframes
        weights = guidance_weights(scale.keyframe_guidance)
        rows = len(weights)
        all_rows, all_masks = inputs.context.rows()
        context, mask = self._tensor(all_rows[:rows]), self._tensor(all_masks[:rows])
        positions = self._tensor(temporal_positions(config.num_frames, config.position_range))

        @torch.inference_mode()
        def predict(x: Array, time: float) -> Array:
            times = torch.full((rows,), time, device=self._device)
            x_rows = torch.cat([self._tensor(x)] * rows)
            prediction = self._run("keyframe_unet", x_rows, times, context, mask, positions)
            return guide_rows(prediction.float().cpu().numpy(), weights)

        noise = normal_noise(0, 0, (config.num_frames, *inputs.latents.shape[1:]))
        return denoise(predict, noise, config, steps=STEPS, sampler=SAMPLER)

    def interpolation(self, scale: Scale, inputs: Inputs) -> Steps:
        """The first pass between the known latents, one yield per denoising step."""
        config = self.bundle.interpolation
        weights = guidance_weights(scale.interpolation_guidance)
        rows = len(weights)
        known = self._tensor(inputs.latents)
        both = torch.stack([known, torch.zeros_like(known)][:rows])  # [B, G+1, 4, h, w]
        before, after = both[:, :-1].flatten(0, 1), both[:, 1:].flatten(0, 1)
        groups = len(inputs.latents) - 1
        skip = torch.full((groups,), config.passes[0].skip_frames, device=self._device)
        perturbation = torch.zeros(groups, device=self._device)

        @torch.inference_mode()
        def predict(x: Array, time: float) -> Array:
            joined = torch.cat([before, torch.cat([self._tensor(x)] * rows), after], dim=1)
            times = torch.full((rows,), time, device=self._device)
            prediction = self._run("interpolation_unet", joined, times, skip, perturbation)
            return guide_rows(prediction.float().cpu().numpy(), weights)

        noise = normal_noise(0, 1, noise_shape("group", inputs.latents.shape))
        return denoise(predict, noise, config, steps=STEPS, sampler=SAMPLER)

    @torch.inference_mode()
    def decode(self, latents: Array) -> Iterator[Any]:
        """Frames uint8 [n, H, W, 3] of latents [N, 4, h, w], as many at once as `ffrt` decodes."""
        for start in range(0, len(latents), CHUNK_FRAMES):
            image = self._run("movq_decoder", self._tensor(latents[start : start + CHUNK_FRAMES]))
            yield to_frames(image.float().cpu().numpy())

    @torch.inference_mode()
    def encode(self, prompt: str) -> Context:
        """Text context of a prompt, with one padded row behind the tokens, as `ffrt` has it."""
        ids = tokenize(self._tokenizer, "prompt", prompt, self.bundle.text.max_tokens).ids
        length = min(len(ids) + 1, self.bundle.text.max_tokens)
        row = np.zeros((1, length), np.int64)
        row[0, : len(ids)] = ids
        mask = np.arange(length)[None] < len(ids)
        context, null = self._run("text_encoder", self._tensor(row), self._tensor(mask.astype(np.int64)))
        return Context(context.float().cpu().numpy(), mask, null.float().cpu().numpy())

    def video(self, fps: int, prompt: str) -> int:
        """A whole video with the released sampling and the bundle's guidance; returns its number of frames."""
        scale = scale_of(self.bundle)
        nothing = np.empty((0, self.bundle.video.latent_channels, scale.side, scale.side), np.float32)
        inputs = Inputs(self.encode(prompt), nothing, nothing)
        latents = drain(self.keyframes(scale, inputs))
        for one_pass in self.bundle.interpolation.passes:
            if one_pass.fps <= fps:
                inputs = Inputs(inputs.context, latents, nothing)
                latents = merge("group", latents, drain(self.interpolation(scale, inputs)))
        return sum(len(frames) for frames in self.decode(latents))
