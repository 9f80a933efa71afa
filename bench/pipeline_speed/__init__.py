"""A denoising step and a whole video: ffrt against PyTorch."""
