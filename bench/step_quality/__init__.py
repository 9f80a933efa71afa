"""Quality against the number of steps."""
