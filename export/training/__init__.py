"""Training of the demo: stages, starts and latents."""
