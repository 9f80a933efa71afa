"""Kandinsky Video 1.0 (FusionFrames, arXiv 2311.13073): keyframes of text alone, interpolation that reads no text."""

from __future__ import annotations

from ffrt.families.contract import signature
from ffrt.families.family import Family, Stage

KANDINSKY_1_0 = Family(
    name="kandinsky-1.0",
    title="Kandinsky Video 1.0",
    order=(Stage.TEXT, Stage.KEYFRAMES, Stage.INTERPOLATION, Stage.DECODING),
    contract={
        "text_encoder": signature(
            "input_ids int64 B L, attention_mask int64 B L",
            "context float32 B L D, null_embedding float32 D",
        ),
        "keyframe_unet": signature(
            "x float32 B*T 4 h w, time float32 B, context float32 B L D, context_mask bool B L, "
            "temporal_positions int64 T",
            "prediction float32 B*T 4 h w",
        ),
        "interpolation_unet": signature(
            "x float32 B*G 20 h w, time float32 B, skip_frames int64 G, perturbation float32 G",
            "prediction float32 B*G 12 h w",
        ),
        "masked_interpolation_unet": signature(
            "x float32 B*F 9 h w, time float32 B, skip_frames int64 F, perturbation float32 F",
            "prediction float32 B*F 4 h w",
        ),
        "movq_encoder": signature("image float32 N 3 H W", "latent float32 N 4 h w"),
        "movq_decoder": signature("latent float32 N 4 h w", "image float32 N 3 H W"),
    },
)
