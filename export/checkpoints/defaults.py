"""How the releases sample: the defaults that a bundle of theirs states.

Sources: 1.0 `video_kandinsky3/t2v_pipeline.py` and `model/diffusion.py`; 1.1 the same files of
`kandinsky_video`. 1.1 asks for a quantile as threshold but bounds it by 1, so that it only clips.
"""

from __future__ import annotations

from ffrt.bundle import ImageConfig, InterpolationConfig, InterpolationPass, KeyframeConfig

PASSES = (InterpolationPass(8, 3), InterpolationPass(30, 1))

KEYFRAMES_1_0 = KeyframeConfig(
    num_frames=15,
    fps=2,
    position_range=180,
    prediction="epsilon",
    sampler="ddpm",
    num_inference_steps=50,
    guidance_scale=5.0,
    threshold=0.98,
)
INTERPOLATION_1_0 = InterpolationConfig(
    prediction="v", sampler="ddpm", num_inference_steps=50, guidance_scale=0.25, threshold=0.98, passes=PASSES
)
KEYFRAMES_1_1 = KeyframeConfig(
    num_frames=12,
    fps=2,
    position_range=12,
    prediction="epsilon",
    sampler="ddpm",
    num_inference_steps=50,
    guidance_scale=5.0,
    threshold=0.995,
    schedule="zero-snr-leading",
    threshold_max=1.0,
    image=ImageConfig(
        first_frame_guidance_scale=5.0,
        guidance_scale=2.0,
        noise_augmentation=20,
        motion="medium",
        motion_scores={"low": 1, "medium": 10, "high": 50, "extreme": 100},
    ),
)
INTERPOLATION_1_1 = InterpolationConfig(
    prediction="v",
    sampler="ddpm",
    num_inference_steps=10,
    guidance_scale=0.5,
    threshold=0.995,
    passes=PASSES,
    schedule="zero-snr-trailing",
    threshold_max=1.0,
)
