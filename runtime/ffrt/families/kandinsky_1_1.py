"""Kandinsky Video 1.1: a first frame made of text or given, keyframes that follow it, interpolation that reads text."""

from __future__ import annotations

from ffrt.families.contract import signature
from ffrt.families.family import Family, Stage
from ffrt.families.kandinsky_1_0 import KANDINSKY_1_0

KANDINSKY_1_1 = Family(
    name="kandinsky-1.1",
    title="Kandinsky Video 1.1",
    order=(Stage.TEXT, Stage.FIRST_FRAME, Stage.KEYFRAMES, Stage.INTERPOLATION, Stage.DECODING),
    contract={
        **KANDINSKY_1_0.contract,
        "text_encoder": signature(
            "input_ids int64 B L, attention_mask int64 B L",
            "context float32 B L D, null_embedding float32 D, interpolation_null_embedding float32 D",
        ),
        "image_unet": signature(
            "x float32 B 9 h w, time float32 B, context float32 B L D, context_mask bool B L",
            "prediction float32 B 4 h w",
        ),
        "image_decoder": signature("latent float32 N 4 h w", "image float32 N 3 H W"),
        "keyframe_unet": signature(
            "x float32 B*T 9 h w, time float32 B, context float32 B L D, context_mask bool B L, "
            "temporal_positions int64 T, noise_augmentation int64 B, motion_score int64 B",
            "prediction float32 B*T 4 h w",
        ),
        "interpolation_unet": signature(
            "x float32 B*G 20 h w, time float32 B, context float32 B L D, context_mask bool B L, "
            "skip_frames int64 G, perturbation float32 G, temporal_mask float32 B",
            "prediction float32 B*G 12 h w",
        ),
    },
)
