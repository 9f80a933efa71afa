"""HTTP: what a client may ask, and what it is told."""
