"""The stages of a video: text, first frame, keyframes, interpolation, decoding."""
